"""A TCP proxy before a PostgreSQL server, which loses what a test wants lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Passes bytes on, until a client sends the bytes `marker`: then the request or its reply is lost, once."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.marker = b""
        self.after = b""
        """The marker counts only behind these bytes, sent on the same connection."""
        self.loses_request = False
        """Lose the request itself, instead of the reply to it."""
        self.closes = True
        """Close the connection on the loss, instead of saying nothing more."""
        self.lost = 0
        """How many requests or replies have been lost."""
        self.passing = asyncio.Event()
        """Cleared: nothing is passed on, either way, and nothing is closed: a server that hangs."""
        self.passing.set()

    def url(self, direct_url: str) -> str:
        """Return the URL of a database of the server, by way of the proxy."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        parts = urlsplit(direct_url)
        options = "&".join(option for option in parts.query.split("&") if not option.startswith("host="))
        return f"postgresql://postgres@{host}:{port}{parts.path}?{options}"

    async def _serve(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(str(self._upstream))
        self._writers |= {client_writer, server_writer}
        muted = asyncio.Event()
        with suppress(OSError):
            await asyncio.gather(
                self._requests(client_reader, server_writer, client_writer, muted),
                self._replies(server_reader, client_writer, server_writer, muted),
            )
        for writer in (client_writer, server_writer):
            writer.transport.abort()
            self._writers.discard(writer)

    async def _requests(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        muted: asyncio.Event,
    ) -> None:
        seen = b""
        while data := await source.read(65_536):
            await self.passing.wait()
            seen = seen[-10_000:] + data if self.marker else b""
            behind = seen.partition(self.after)[2] if self.after else seen
            if self.marker and self.marker in behind and not muted.is_set():
                self.marker = self.after = b""
                muted.set()
                if self.loses_request:
                    self._lose(client)
                    break
            target.write(data)
            await target.drain()
        target.transport.abort()

    async def _replies(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
        muted: asyncio.Event,
    ) -> None:
        while data := await source.read(65_536):
            await self.passing.wait()
            if muted.is_set():
                self._lose(target)
                continue
            target.write(data)
            await target.drain()
        if not muted.is_set():
            target.transport.abort()

    def _lose(self, client: asyncio.StreamWriter) -> None:
        self.lost += 1
        if self.closes:
            client.transport.abort()


@asynccontextmanager
async def running_proxy(upstream: Path) -> AsyncIterator[Proxy]:
    proxy = Proxy(upstream)
    proxy._server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    try:
        yield proxy
    finally:
        proxy.passing.set()
        proxy._server.close()
        for writer in proxy._writers:
            writer.transport.abort()
        await asyncio.sleep(0)
