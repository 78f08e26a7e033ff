"""Process managers: the base class that users derive theirs from.

A process manager is a projection whose methods may return commands. Its state, its checkpoint and the commands change
together, in one transaction. Not here: which rows the commands become (`issuing.py`), and sending them (`relay.py`).
"""

from __future__ import annotations

from typing import Any, ClassVar

from projections.event_methods import EventMethod
from projections.progress import Start
from projections.projection import Projection
from store.errors import InvalidValue
from store.events import Event

NAME_SIZE_MAX_BYTES = 100
"""A command's id holds the name, an event's id and a number, and may have 200 bytes."""


class ProcessManager(Projection):
    """A projection that acts: what its methods return is submitted. Derive from it:

        class Shipping(ProcessManager, start="beginning"):
            tables = [shipments]

            def on_paid(self, event: OrderPaid, changes: Changes) -> ShipOrder:
                changes.insert(shipments, id=event.order_id)
                return ShipOrder(order_id=event.order_id)

    A method of one event returns a command, several in their order, or None; a generator may yield them. One that gets
    a `Sequence` of events returns pairs of the event and the command that follows from it. Whatever it returns must
    depend on the events and the rows alone: then a command has the same id whenever the event comes again, and one
    effect. Methods do no I/O.

    The commands are written down with the read model, then submitted until they are decided, those of one partition
    key in their order. They carry the event's correlation id, the event's id as their cause, and its `occurred_at`. A
    DomainError is final: it is counted, and the process manager is not told.

    Class keywords: `name` and `version`, as of a projection. `start`: "now" (default) acts on what is stored after its
    first start; "beginning" acts on all that the log holds, too. The state is made of the whole log either way.
    """

    start: ClassVar[Start] = "now"

    def __init_subclass__(
        cls, name: str | None = None, version: int = 1, start: Start | None = None, **kw: Any
    ) -> None:
        super().__init_subclass__(name, version, **kw)
        cls.start = start or cls.start

    @classmethod
    def event_methods(cls) -> dict[type[Event], EventMethod]:
        """See `Projection.event_methods`; raises InvalidValue for its name and `start` too."""
        if cls.start not in ("now", "beginning"):
            raise InvalidValue("start", repr(cls.start), 'give "now" or "beginning"')
        if len(cls.name.encode()) > NAME_SIZE_MAX_BYTES:
            raise InvalidValue("name", repr(cls.name), f"give one of at most {NAME_SIZE_MAX_BYTES} bytes")
        return super().event_methods()
