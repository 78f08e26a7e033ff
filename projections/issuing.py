"""From what a process manager's methods return to the commands of its outbox: their ids, their order, their cause.

A command's id is made of its event's id, the process manager's name and its number among the event's: the same
whenever the event comes again. Not here: keeping them (`outbox.py`), sending them (`relay.py`).
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from actors.commands import Command
from actors.errors import InvalidCommand
from actors.metadata import following, packed_metadata
from actors.registry import AggregateRegistry
from projections.process_manager import ProcessManager
from projections.projection import Projection
from store.events import Event
from store.ports import EventStore
from store.records import IMPORTED, Checkpoint, EventRecord, micros


class Issued(NamedTuple):
    """A command that follows from an event, as its outbox keeps it."""

    shard: int
    position: int
    """Of the event."""
    number: int
    """Among the commands of the event, from 0."""
    command_id: str
    partition_key: str
    """Of the aggregate that decides it."""
    command_type: str
    data: str
    """Its fields, JSON."""
    occurred_at: int
    """The event's: microseconds since 1970, UTC."""
    metadata: str
    """A JSON object."""
    error: str = ""
    """Why it can't be sent at all: then there is nothing to be sent."""


class Issuing:
    """What one process manager issues, of the shards that it was begun for."""

    def __init__(self, process_manager: type[ProcessManager], registry: AggregateRegistry, store: EventStore) -> None:
        self.start = process_manager.start
        self._name = process_manager.name
        self._registry = registry
        self._store = store
        self._begin: dict[int, int] = {}

    async def begin(self, begin: Mapping[int, Checkpoint]) -> None:
        """Issue what follows from the events after these; from a shard's first start on it is the store that says.

        It is kept with the log, so that a read model that is made anew acts on the same events; never before what an
        import has brought. Raises StoreUnavailable.
        """
        imported = await self._store.checkpoints(IMPORTED)
        begin = {shard: max(place, imported.get(shard, place), key=_position) for shard, place in begin.items()}
        found = await self._store.keep_checkpoints(f"{self._name}@begin", begin)
        self._begin |= {shard: checkpoint.position for shard, checkpoint in found.items()}

    def issue(self, events: Sequence[Event], returned: Any, pairs: bool) -> list[Issued]:
        """Return the commands that a method returned for stored events, but for those of before the beginning.

        `pairs`: each comes with its event; else all follow from the one event. One that can't be sent is there with
        its error. Raises TypeError and ValueError where something else was returned, and what a generator raises.
        """
        if returned is None:
            return []
        if not pairs:
            commands = [returned] if isinstance(returned, Command) else list(returned)
            returned = [(events[0], command) for command in commands]
        known = {event.id for event in events}
        numbers: Counter[uuid.UUID] = Counter()
        issued: list[Issued] = []
        for event, command in returned:
            if not isinstance(command, Command):
                raise TypeError(f"it returned {type(command).__name__} where a command was expected")
            if event.id not in known:
                raise ValueError(f"it returned {command.command_type} for an event that it was not given")
            record = event.envelope
            if record.position > self._begin[record.shard]:
                issued.append(self._issued(event, record, numbers[event.id], command))
            numbers[event.id] += 1
        return issued

    def _issued(self, event: Event, record: EventRecord, number: int, command: Command) -> Issued:
        command_id = f"{event.id}:{self._name}:{number}"
        place = (record.shard, record.position, number, command_id)
        try:
            binding, data = self._registry.encode_command(command)
        except InvalidCommand as error:
            return Issued(*place, "", command.command_type, "", 0, "", f"{command.command_type}: {error}")
        occurred_us, metadata = micros(event.occurred_at), packed_metadata(following(event))
        return Issued(*place, binding.partition_key(command), command.command_type, data, occurred_us, metadata)


def _position(checkpoint: Checkpoint) -> int:
    return checkpoint.position


def issuing_of(projection: type[Projection], registry: AggregateRegistry, store: EventStore) -> Issuing | None:
    """Return what a projection issues; None for one that is no process manager."""
    return Issuing(projection, registry, store) if issubclass(projection, ProcessManager) else None
