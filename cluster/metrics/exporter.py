"""The Ray actor that serves a runtime's metrics and health at one address.

It opens nothing when it is made. Not here: what it serves (`monitor.py`), who makes it (the coordinator).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import ray
import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_fixed

from cluster.metrics import announcing
from cluster.metrics.gathering import Gatherer
from cluster.metrics.judging import Limits
from cluster.metrics.looking import Looker
from cluster.metrics.monitor import Monitor
from cluster.ray_edge import COORDINATOR, RayTransport, temp_dir
from projections.process_manager import ProcessManager
from projections.projection import Projection
from projections.read_models import ReadModels
from store.logs import configure_logs
from store.opening import open_store
from store.urls import short_name, shown_url

if TYPE_CHECKING:
    from cluster.metrics.serving import MetricsServer

log = structlog.get_logger(__name__)

PORT_PATIENCE_S = 2.0
"""How long a predecessor that is being ended may keep the port."""


@dataclass(frozen=True)
class ExporterPlan:
    """What an exporter is made of."""

    namespace: str
    store_url: str = field(repr=False)
    """It may hold a password."""
    read_models: tuple[type[Projection], ...]
    """The application's projections and process managers."""
    handlers: dict[str, str]
    """Why each handler does nothing, by name; empty: it is on."""
    address: str
    port: int
    limits: Limits


class Exporter:
    """Serves a runtime's metrics."""

    _title = "Exporter"

    def __init__(self, plan: ExporterPlan) -> None:
        configure_logs(in_worker=True)
        self._plan = plan
        self._title = f"{self._title} · {short_name(plan.store_url)}"
        self._ending = AsyncExitStack()
        self._url: str | None = None

    def __repr__(self) -> str:
        return self._title  # asked for even where the plan can't be read, in order to say so

    async def open(self) -> None:
        """Begin to serve. Raises MetricsPortTaken, MetricsAddressUnusable, and the store's errors."""
        if self._url is not None:
            return
        from cluster.metrics.serving import MetricsServer  # here, so that a coordinator loads no HTTP server

        plan = self._plan
        async with AsyncExitStack() as ending:
            store = await open_store(plan.store_url, create=False)
            ending.push_async_callback(store.close)
            read_models = ReadModels(plan.store_url)
            ending.push_async_callback(read_models.close)
            gatherer = Gatherer(RayTransport(plan.namespace).ask, COORDINATOR)
            ending.callback(gatherer.close)
            kinds = {each.name: _kind(each) for each in plan.read_models}
            kinds |= dict.fromkeys(plan.handlers, "handler")
            looker = Looker(store, read_models, plan.read_models, list(plan.handlers), time.monotonic)
            monitor = Monitor(looker, gatherer, kinds, plan.handlers, plan.limits)
            server = MetricsServer(monitor, self._targets)
            here: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            url = reached_at(await self._served(server), here)
            ending.push_async_callback(server.close)
            ending.callback(self.withdraw)
            looking = asyncio.create_task(monitor.run())
            looking.add_done_callback(_log_end)
            ending.callback(looking.cancel)
            self._url, self._ending = url, ending.pop_all()
        log.info("metrics are served", url=url, store=shown_url(plan.store_url))

    async def announce(self) -> str:
        """Let Prometheus find this one, and no other of the runtime; return where it serves.

        Raises RuntimeError before it does.
        """
        if self._url is None:
            raise RuntimeError("the exporter is not open")
        try:
            announcing.announce(temp_dir(), self._url, self._plan.namespace)
        except OSError as error:
            log.warning("Prometheus can't find the exporter by itself", reason=str(error))
        return self._url

    @ray.method(concurrency_group="health")
    async def health(self) -> None:
        """It has nothing to say but that it is there."""

    async def ended(self) -> None:
        """Never return: whoever waits for it learns at once that the process is gone."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Serve no more."""
        self._url = None
        await self._ending.aclose()

    def withdraw(self) -> None:
        """Let Prometheus find it no more. May be called from any thread, and twice."""
        announcing.withdraw(temp_dir(), self._plan.namespace)

    async def _served(self, server: MetricsServer) -> str:
        from cluster.metrics.serving import MetricsPortTaken

        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(MetricsPortTaken),
            stop=stop_after_delay(PORT_PATIENCE_S),
            wait=wait_fixed(0.2),
            reraise=True,
        ):
            with attempt:
                url = await server.start(self._plan.address, self._plan.port)
        return url

    async def _targets(self) -> list[dict[str, Any]]:
        """What Prometheus is to scrape: this exporter, and the agents of Ray's nodes."""
        nodes: list[dict[str, Any]] = await asyncio.to_thread(ray.nodes)
        agents = [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes if node["Alive"]]
        return [
            announcing.target_of(self._url or "", self._plan.namespace),
            {"targets": sorted(agents), "labels": {"job": "ray"}},
        ]


def _kind(projection: type[Projection]) -> str:
    return "process manager" if issubclass(projection, ProcessManager) else "projection"


def _log_end(looking: asyncio.Task[None]) -> None:
    if not looking.cancelled() and (error := looking.exception()) is not None:
        log.error("the exporter looks no more, and says that nothing can be read", exc_info=error)


def reached_at(url: str, node_address: str) -> str:
    """Return the URL by which others find a server that listens at `url`: its node's, where it listens everywhere."""
    parts = urlsplit(url)
    if parts.hostname not in ("0.0.0.0", "::"):  # noqa: S104 - it is compared, not listened at
        return url
    return f"http://{f'[{node_address}]' if ':' in node_address else node_address}:{parts.port}"
