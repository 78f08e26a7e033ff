"""What opening a runtime is made of, wherever its hosts run: the stores, the client, and their end.

Not here: how hosts are started or joined (`runtime.py` on Ray, `testing.py` in one process).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from actors.registry import AggregateRegistry
from cluster.application import Application, application_of
from cluster.client import CommandClient
from cluster.operations import Followers, Ports
from cluster.placement import check_hosts
from cluster.settings import Settings, read_settings
from cluster.subscriptions import Subscriptions
from cluster.transport import Transport
from projections.read_models import ReadModels
from store.errors import InvalidValue, NotAStore
from store.importing import check_imported
from store.logs import configure_logs
from store.opening import open_store
from store.ports import EventStore
from store.schema import SHARDS_DEFAULT
from store.urls import parsed_url


class Closable(Protocol):
    async def close(self) -> None: ...


Opened = TypeVar("Opened", bound=Closable)


class Opening(Generic[Opened]):
    """A runtime about to open: `async with` it, or await it and close the runtime yourself."""

    def __init__(self, begin: Callable[[], Awaitable[Opened]]) -> None:
        self._begin = begin
        self._runtime: Opened | None = None

    def __await__(self) -> Generator[Any, None, Opened]:
        return self._begin().__await__()

    async def __aenter__(self) -> Opened:
        self._runtime = await self._begin()
        return self._runtime

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runtime is not None:
            await self._runtime.close()


class Base(NamedTuple):
    """What every runtime stands on."""

    application: Application
    registry: AggregateRegistry
    """The application's, with the bounds of the settings."""
    settings: Settings
    store: EventStore
    read_models: ReadModels

    def ports(self, transport: Transport, followers: Followers, ending: AsyncExitStack) -> Ports:
        """Return what a runtime's operations need, with a client and subscriptions that close with `ending`."""
        client = self._client(transport)
        ending.push_async_callback(client.close, self.settings.close_timeout_s)
        subscriptions = Subscriptions(self.store, self.registry.events, followers.listen)
        ending.push_async_callback(subscriptions.close)
        return Ports(
            self.application,
            self.registry,
            self.settings,
            self.store,
            client,
            self.read_models,
            followers,
            subscriptions,
        )

    def _client(self, transport: Transport) -> CommandClient:
        arguments = (transport, self.store, self.store.shards, self.settings.client_limits())
        if not self.settings.tracing:
            return CommandClient(*arguments)
        from cluster.tracing.client import TracedClient  # here, so that nobody else waits for its import
        from cluster.tracing.providing import process_tracer

        return TracedClient(process_tracer(), *arguments)


async def open_for(url: str, shards: int | None, check: Callable[[int], object]) -> EventStore:
    """Open a store for a runtime; `check` raises InvalidValue where the runtime can't be had on so many shards.

    No store is made then: its number of shards stays for good. Raises what `open_store` does, too.
    """
    try:
        store = await open_store(url, shards, create=False)
    except NotAStore:
        check(shards or SHARDS_DEFAULT)
        return await open_store(url, shards)
    try:
        check(store.shards)
    except InvalidValue:
        await store.close()
        raise
    return store


async def open_base(
    url: str,
    hosts: int | None,
    app: Application | str | None,
    shards: int | None,
    settings: Settings | None,
    projection_hosts: int | None,
    ending: AsyncExitStack,
) -> Base:
    """Open the stores that a runtime stands on, to be closed by `ending`. Raises what `Runtime.open` says of them.

    What can't be meant is refused before a store is made.
    """
    settings = settings or read_settings()
    configure_logs(settings.log_format)
    application = application_of(app)
    registry = AggregateRegistry(application.aggregates, settings.payload_size_max_bytes)
    read_models = ReadModels(url)
    ending.push_async_callback(read_models.close)
    store = await open_for(url, shards, partial(_check_numbers, hosts, projection_hosts, settings, url))
    ending.push_async_callback(store.close)
    await check_imported(store)
    settings = _check_numbers(hosts, projection_hosts, settings, url, store.shards)
    return Base(application, registry, settings, store, read_models)


def _check_numbers(
    hosts: int | None, projection_hosts: int | None, settings: Settings, url: str, shards: int
) -> Settings:
    """Return the settings with the number of projection hosts. Raises InvalidValue for one that can't be had."""
    if hosts is not None:
        check_hosts(hosts, shards)
    return settings.with_projection_hosts(projection_hosts, parsed_url(url).scheme, shards)
