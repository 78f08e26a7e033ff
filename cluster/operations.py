"""What a runtime does for its users: submit, query, subscribe, load; whatever carries commands and holds read models.

The bodies of `Runtime` (over Ray) and of `cluster.testing.InProcessRuntime` (over nothing), written once over ports.
Not here: how a runtime begins and ends.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import Select

from actors.aggregate import Aggregate
from actors.commands import Command
from actors.errors import InvalidCommand, Overloaded
from actors.metadata import packed_metadata, packed_moment
from actors.registry import AggregateRegistry
from actors.repository import load_aggregate
from actors.wire import Receipt
from cluster.application import Application
from cluster.client import ClientClosed, CommandClient
from cluster.settings import Settings
from cluster.subscriptions import Subscription, Subscriptions
from cluster.transport import HostGone
from projections.callbacks import Callback
from projections.errors import ConsistencyTimeout
from projections.process_manager import ProcessManager
from projections.progress import Start
from projections.projection import Projection
from projections.read_models import ReadModels
from store.errors import EventrayError, InvalidValue
from store.events import Event
from store.identity import checked_id
from store.ports import EventReader
from store.records import EventRecord
from store.values import shown

FOLLOWER_PAUSE_S = 0.1

SomeAggregate = TypeVar("SomeAggregate", bound=Aggregate)


class Followers(Protocol):
    """Whoever applies events to the read models."""

    async def wait_for(self, projection: str, shard: int, position: int, timeout_s: float) -> None:
        """Return once the read model holds the shard's events up to `position`.

        Raises ConsistencyTimeout past `timeout_s`, HostGone where nobody can be asked now.
        """
        ...

    async def listen(self, listener: str, timeout_s: float) -> list[EventRecord]:
        """Return what was committed since this listener's last call, as far as it is known; the store is the truth.

        Waits for something to come, at most `timeout_s`. Raises HostGone where nobody can be asked now.
        """
        ...


@dataclass(frozen=True)
class Ports:
    """What the operations work on."""

    application: Application
    registry: AggregateRegistry
    settings: Settings
    store: EventReader
    client: CommandClient
    read_models: ReadModels
    followers: Followers
    subscriptions: Subscriptions


class Operations:
    """The methods that users call. They belong to the event loop that the runtime was opened on.

    Once the runtime is closed they raise ClientClosed, and touch neither Ray nor the store.
    """

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._registry = ports.registry

    @property
    def application(self) -> Application:
        """The application that this runtime serves."""
        return self._ports.application

    @property
    def registry(self) -> AggregateRegistry:
        """Which command goes to which aggregate, with the bounds of this runtime."""
        return self._registry

    async def submit(
        self,
        command: Command,
        *,
        command_id: str | None = None,
        expected_version: int | None = None,
        occurred_at: datetime | None = None,
        timeout_s: float | None = None,
        consistency: Collection[type[Projection]] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """Have a command decided; return its receipt once the events that it caused are stored.

        `command_id` is an idempotency key: the same command under the same id is decided once, for ever, and gets its
        first receipt again. `expected_version` is the stream's version that the command must meet, `occurred_at` when
        it happened in the world (default: when it is recorded), `metadata` a JSON object kept with each event. With
        `consistency`, projections, it returns once their read models show the events too; of process managers, once the
        commands that follow from the events are decided.

        Raises InvalidValue for a wrong `consistency`. Raises DomainError (the aggregate refused), InvalidCommand,
        ConcurrencyError, CommandIdReused, StoreRejected, DecideFailed: nothing was stored. Raises Overloaded where
        there was no room within `timeout_s`, here or on a host: nothing was decided. Raises CommandTimeout past
        `timeout_s`: the outcome is unknown, and a retry under the same id is safe. Raises ConsistencyTimeout: the
        command did succeed.
        """
        self._check_consistency(consistency)
        client, patience_s = self._ports.client, self._command_patience_s(timeout_s)
        if not client.has_room:
            patience_s -= await self._wait_for_room(patience_s)
        binding, data = self._registry.encode_command(command)  # not before: those who wait should hold little
        receipt = await client.submit(
            binding.partition_key(command),
            command.command_type,
            data,
            command_id,
            expected_version=expected_version,
            occurred_at=None if occurred_at is None else packed_moment(occurred_at),
            timeout_s=patience_s,
            metadata=packed_metadata(metadata),
        )
        for projection in consistency:
            await self._wait_for(projection, receipt.shard, receipt.position, self._patience_s(timeout_s))
        return receipt

    async def submit_many(
        self,
        commands: Iterable[Command],
        *,
        command_ids: Sequence[str] | None = None,
        timeout_s: float | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[Receipt | EventrayError]:
        """Submit commands, all under way together; return a receipt or an error each, in their order.

        Those of one partition key are decided in their order. See `submit` for the rest. Raises InvalidValue where
        `commands` or `command_ids` as a whole can't be meant.
        """
        _check_many(commands, command_ids)
        commands = list(commands)
        if command_ids is not None and len(command_ids) != len(commands):
            raise InvalidValue(
                "command_ids", f"{len(command_ids)} ids", f"give one for each of {len(commands)} commands"
            )
        try:
            packed = packed_metadata(metadata)
        except EventrayError as error:
            return [error for _ in commands]
        ids = itertools.repeat(None, len(commands)) if command_ids is None else command_ids
        client, encode = self._ports.client, self._registry.encode_command
        patience_s = self._command_patience_s(timeout_s)
        outcomes: list[asyncio.Future[Receipt] | EventrayError] = []
        try:
            for command, command_id in zip(commands, ids, strict=True):
                try:
                    waited_s = 0.0 if client.has_room else await self._wait_for_room(patience_s)
                    binding, data = encode(command)
                    key, name, left_s = binding.partition_key(command), command.command_type, patience_s - waited_s
                    outcomes.append(client.submit(key, name, data, command_id, timeout_s=left_s, metadata=packed))
                except EventrayError as error:
                    outcomes.append(error)
            return await _settled(outcomes)
        finally:
            for outcome in outcomes:
                if isinstance(outcome, asyncio.Future):
                    outcome.cancel()

    async def query(
        self, projection: type[Projection], key: Any, *, after: Receipt | None = None, timeout_s: float | None = None
    ) -> Mapping[str, Any] | None:
        """Return the row with this key in the projection's read model; None if there is none.

        `after` a receipt: waits until the read model shows what the command did; a process manager's, until the
        commands that follow from it are decided, too. Raises ConsistencyTimeout if that
        takes longer than `timeout_s`; InvalidValue for a receipt of another store.
        """
        self._check_open()
        self._check_projection(projection)
        if after is None:
            return (await self._ports.read_models.query(projection, key)).row
        return await self._query_after(projection, key, after, timeout_s)

    async def select(
        self,
        projection: type[Projection],
        statement: Select[Any],
        *,
        after: Receipt | None = None,
        timeout_s: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return the rows of a SQLAlchemy query over the projection's tables, all of them in memory, in one snapshot.

        `after`, `timeout_s` and what is raised: see `query`; ReadModelRejected for a query that the database refuses.
        """
        self._check_open()
        self._check_projection(projection)
        if after is not None:
            self._check_receipt(after)
            await self._wait_for(projection, after.shard, after.position, self._patience_s(timeout_s))
        return await self._ports.read_models.select(projection, statement)

    async def catch_up(self, projection: type[Projection], *, timeout_s: float | None = None) -> None:
        """Return once a read model shows all that the log holds now.

        Of a process manager: once the commands that follow from all that are decided, too. What they have caused is in
        the log then. Raises ConsistencyTimeout.
        """
        self._check_open()
        self._check_projection(projection)
        heads, patience_s = await self._ports.store.heads(), self._patience_s(timeout_s)
        waits = (self._wait_for(projection, shard, head, patience_s) for shard, head in heads.items() if head)
        await asyncio.gather(*waits)

    async def subscribe(
        self,
        event_type: type[Event] | None,
        handler: Callback,
        *,
        name: str | None = None,
        start: Start = "now",
    ) -> Subscription:
        """Have a function called with each stored event of a type, of all types derived from it, or (None) of all.

        One event at a time, each shard's in order; between shards there is no order. A coroutine function is awaited;
        a plain one is called in a thread of its own. While it fails at an event, that event's shard waits and is tried
        again, ever more slowly, and the others go on. A slow or failing function holds up neither commands nor other
        subscriptions.

        With a `name` its progress is kept in the store: under the same name it goes on where it was, at least once for
        each event (at most what it took within half a second may come again after a crash); a name belongs to one
        runtime at a time. Without one it ends with this runtime. `start` is where it begins that has no progress yet:
        with what is stored from now on, or with the log's first event.

        Raises InvalidValue; RestoredBehind where the log was restored to before its progress; StoreUnavailable.
        """
        self._check_open()
        self._check_free(name)
        return await self._ports.subscriptions.subscribe(event_type, handler, name, start)

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; see `Subscription.unsubscribe`. All have ended once the runtime is closed."""
        await subscription.unsubscribe()

    def stream(
        self, event_type: type[Event] | None = None, *, name: str | None = None, start: Start = "now"
    ) -> AsyncGenerator[Event, None]:
        """Yield stored events as `subscribe` hands them to a function; each is taken when the next one is asked for.

        Ends with the runtime. Raises what `subscribe` does.
        """
        self._check_open()
        self._check_free(name)
        return self._ports.subscriptions.stream(event_type, name, start)

    async def load(
        self,
        aggregate_class: type[SomeAggregate],
        aggregate_id: str,
        version: int | None = None,
        as_of: datetime | None = None,
    ) -> SomeAggregate:
        """Return an aggregate as it is, was at a version, or was at a time; see `actors.repository.load_aggregate`.

        It is a copy: what is raised on it is stored nowhere.
        """
        self._check_open()
        events = self._registry.events
        return await load_aggregate(self._ports.store, events, aggregate_class, aggregate_id, version, as_of)

    def actor(self, aggregate_class: type[SomeAggregate], aggregate_id: str) -> ActorAddress[SomeAggregate]:
        """Return the address of one aggregate. Nothing is sent; it need not exist yet."""
        return ActorAddress(self, aggregate_class, aggregate_id)

    def _check_open(self) -> None:
        if self._ports.client.closed:
            raise ClientClosed

    # --- the way of a command ---

    def _command_patience_s(self, timeout_s: float | None) -> float:
        return self._ports.settings.command_timeout_s if timeout_s is None else timeout_s

    async def _wait_for_room(self, patience_s: float) -> float:
        """Wait until the client may take another command; return how long that took."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            async with asyncio.timeout(patience_s):
                await self._ports.client.room()
        except TimeoutError as error:
            raise Overloaded(1000) from error
        return min(loop.time() - began_s, patience_s - 0.001)

    # --- reading what was written ---

    def _check_free(self, name: str | None) -> None:
        """Progress is kept by name: two under one would each leave out what the other took."""
        if name is not None and checked_id("name", name) in {handler.name for handler in self.application.handlers}:
            raise InvalidValue("name", repr(name), "a handler of the application has it: give another")

    def _check_consistency(self, consistency: object) -> None:
        """It is gone through twice, so that an iterator is none."""
        if isinstance(consistency, str) or not isinstance(consistency, Collection):
            remedy = "give a list of projections, also of one, as in [CustomerProjection]"
            raise InvalidValue("consistency", shown(consistency), remedy)
        for projection in consistency:
            self._check_projection(projection)

    def _check_projection(self, projection: type[Projection]) -> None:
        if projection not in self._ports.application.read_models:
            self._ports.application.projection(getattr(projection, "name", repr(projection)))
            raise InvalidValue("projection", repr(projection), "it is not the class that the application names")

    def _check_receipt(self, receipt: Receipt) -> None:
        if receipt.store_id != self._ports.store.store_id:
            raise InvalidValue("after", f"a receipt of store {receipt.store_id}", "give one of this store")

    def _patience_s(self, timeout_s: float | None) -> float:
        return self._ports.settings.query_timeout_s if timeout_s is None else timeout_s

    async def _query_after(
        self, projection: type[Projection], key: Any, after: Receipt, timeout_s: float | None
    ) -> Mapping[str, Any] | None:
        self._check_receipt(after)
        read_models = self._ports.read_models
        reading = await read_models.query(projection, key, after.shard)
        if reading.position < after.position or issubclass(projection, ProcessManager):
            await self._wait_for(projection, after.shard, after.position, self._patience_s(timeout_s))
            reading = await read_models.query(projection, key, after.shard)
        return reading.row

    async def _wait_for(self, projection: type[Projection], shard: int, position: int, timeout_s: float) -> None:
        """Wait until a read model shows the shard's events up to there, whoever follows the log for it meanwhile."""
        loop = asyncio.get_running_loop()
        waited_for = (projection.name, shard, position, timeout_s)
        deadline_s = loop.time() + timeout_s
        while (left_s := deadline_s - loop.time()) > 0:
            try:
                async with asyncio.timeout(left_s + 1):
                    return await self._ports.followers.wait_for(projection.name, shard, position, left_s)
            except (HostGone, TimeoutError):
                if self._ports.client.closed:
                    raise ConsistencyTimeout(*waited_for, 0, " The runtime was closed meanwhile.") from None
                await asyncio.sleep(FOLLOWER_PAUSE_S)
        raise ConsistencyTimeout(*waited_for, 0, " Nobody follows the log for it now.")


class ActorAddress(Generic[SomeAggregate]):
    """One aggregate, wherever it lives."""

    def __init__(self, operations: Operations, aggregate_class: type[SomeAggregate], aggregate_id: str) -> None:
        self._operations = operations
        self.aggregate_class = aggregate_class
        self.aggregate_id = aggregate_id
        self.stream = aggregate_class(aggregate_id).stream

    def __repr__(self) -> str:
        return f"<the address of {self.stream}>"

    async def submit(self, command: Command, **keywords: Any) -> Receipt:
        """Submit a command to this aggregate; see `Operations.submit`. Raises InvalidCommand if it is for another."""
        binding = self._operations.registry.check_command(command)
        if (stream := binding.stream(command)) != self.stream:
            raise InvalidCommand(command.command_type, stream, f"give a command for {self.stream}")
        return await self._operations.submit(command, **keywords)

    async def load(self, version: int | None = None, as_of: datetime | None = None) -> SomeAggregate:
        """Return a copy of it as it is or was; see `Operations.load`."""
        return await self._operations.load(self.aggregate_class, self.aggregate_id, version, as_of)


def _check_many(commands: object, command_ids: object) -> None:
    """A command, and a text, could be gone through too: by fields, by letters."""
    if isinstance(commands, Command | str) or not isinstance(commands, Iterable):
        raise InvalidValue("commands", shown(commands), "give commands in brackets, as in [command]")
    if isinstance(command_ids, str) or not isinstance(command_ids, Sequence | None):
        raise InvalidValue("command_ids", shown(command_ids), "give a list with an id for each command")


async def _settled(outcomes: Iterable[asyncio.Future[Receipt] | EventrayError]) -> list[Receipt | EventrayError]:
    settled: list[Receipt | EventrayError] = []
    for outcome in outcomes:
        try:
            settled.append(outcome if isinstance(outcome, EventrayError) else await outcome)
        except EventrayError as error:
            settled.append(error)
    return settled
