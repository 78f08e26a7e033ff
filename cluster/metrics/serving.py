"""The HTTP server of the exporter: /metrics, /health/..., and where Prometheus finds what else there is to scrape.

Not here: what it serves (`monitor.py`).
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from cluster.metrics.monitor import Answer, Monitor
from store.errors import EventrayError

PAGES = "Eventray: /metrics /health/live /health/ready /health/processing /sd\n"

Targets = Callable[[], Awaitable[list[dict[str, Any]]]]
"""Returns what Prometheus' http_sd_configs wants: groups of targets and their labels."""


class MetricsPortTaken(EventrayError):
    """The metrics address {0}:{1} is taken by another process: set EVENTRAY_METRICS_PORT to a free one, or to 0."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(address, port)


class MetricsAddressUnusable(EventrayError):
    """The metrics address {0}:{1} can't be listened at: {2}. Set EVENTRAY_METRICS_ADDRESS to one of this machine."""

    def __init__(self, address: str, port: int, reason: str) -> None:
        super().__init__(address, port, reason)


class MetricsServer:
    """Serves one monitor until it is closed."""

    def __init__(self, monitor: Monitor, targets: Targets) -> None:
        self._monitor = monitor
        self._targets = targets
        self._runner: web.AppRunner | None = None

    async def start(self, address: str, port: int) -> str:
        """Listen; return the URL. Port 0: one that is free. Raises MetricsPortTaken, MetricsAddressUnusable."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/", self._index),
                web.get("/metrics", self._metrics),
                web.get("/health/live", self._live),
                web.get("/health/ready", self._ready),
                web.get("/health/processing", self._processing),
                web.get("/sd", self._discovery),
            ]
        )
        self._runner = runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, address, port).start()
        except OSError as error:
            await self.close()
            if error.errno == errno.EADDRINUSE:
                raise MetricsPortTaken(address, port) from error
            raise MetricsAddressUnusable(address, port, error.strerror or str(error)) from error
        host, chosen, *_ = runner.addresses[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{chosen}"

    async def close(self) -> None:
        """Serve no more. Calling it twice is safe."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _index(self, _request: web.Request) -> web.Response:
        return web.Response(text=PAGES)

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._monitor.metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _live(self, _request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, _request: web.Request) -> web.Response:
        return _shown(await self._monitor.ready())

    async def _processing(self, _request: web.Request) -> web.Response:
        return _shown(await self._monitor.processing())

    async def _discovery(self, _request: web.Request) -> web.Response:
        return web.json_response(await self._targets())


def _shown(answer: Answer) -> web.Response:
    return web.json_response(answer.content, status=answer.status)
