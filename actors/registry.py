"""Which command goes to which aggregate, and commands read from JSON.

All look-ups are made when the registry is built; a command then costs one parse and a few dict look-ups. Not here:
running commands in order, loading aggregates, storing what they raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from actors.aggregate import Aggregate
from actors.commands import Command, explain, shown, shown_field, suggestion
from actors.errors import DecideFailed, DomainError, InvalidCommand, MakeFailed, to_wire
from actors.methods import CommandMethod, command_methods
from store.codec import EventRegistry
from store.errors import InvalidValue, told
from store.events import Event
from store.identity import checked_id
from store.values import PAYLOAD_SIZE_MAX_BYTES, check_value

REASON_SIZE_MAX = 500
"""Characters of a user's error that a DecideFailed repeats."""
_HARMLESS = frozenset({bool, Decimal, type(None)})


class CommandBinding:
    """One type of command, the method that decides it, and the streams that it concerns."""

    __slots__ = (
        "_id_field",
        "_key_field",
        "_key_is_id",
        "_prefix",
        "_read_prefixes",
        "aggregate_class",
        "command_class",
        "method",
        "reads",
    )

    def __init__(self, command_class: type[Command], aggregate_class: type[Aggregate], method: CommandMethod) -> None:
        self.command_class = command_class
        self.aggregate_class = aggregate_class
        self.method = method.function
        self.reads: tuple[type[Aggregate], ...] = method.reads
        """The classes of the other aggregates that the method reads, in the order of its parameters."""
        self._id_field = aggregate_class.id_field
        self._key_field = aggregate_class.partition_key_field
        self._key_is_id = self._key_field == self._id_field
        self._prefix = f"{aggregate_class.category}-"
        self._read_prefixes = tuple(f"{read.category}-" for read in self.reads)

    def __repr__(self) -> str:
        return f"<{self.command_class.__name__} -> {self.method.__qualname__}>"

    def aggregate_id(self, command: Command) -> str:
        """Return the id of the aggregate that the command is for."""
        aggregate_id: str = getattr(command, self._id_field)
        return aggregate_id

    def stream(self, command: Command) -> str:
        """Return the stream of the aggregate that the command is for."""
        return self._prefix + getattr(command, self._id_field)  # type: ignore[no-any-return]

    def partition_key(self, command: Command) -> str:
        """Return the key that says which shard decides the command."""
        partition_key: str = getattr(command, self._key_field)
        return partition_key

    def read_streams(self, partition_key: str) -> tuple[str, ...]:
        """Return the streams of the other aggregates to read, in the order of `reads`."""
        if not self._read_prefixes:
            return ()
        return tuple([prefix + partition_key for prefix in self._read_prefixes])

    def decide(self, aggregate: Aggregate, command: Command, reads: Sequence[Aggregate] = ()) -> None:
        """Let the aggregate decide; what it raised is in its `uncommitted_events`, and no event at all is fine too.

        Raises DomainError (or InvalidCommand, if the method did) for a refusal, and where the stream belongs to
        another partition key. Raises DecideFailed if the method broke (by whatever but KeyboardInterrupt: no command
        ends a host), raised events on one of `reads`, or refused with an error that can't be told. After any error the
        caller throws away those that hold uncommitted events, of `reads` too: they may be half changed.
        """
        key = aggregate.partition_key
        if key is not None and key != getattr(command, self._key_field):
            raise DomainError(f"{aggregate.stream} belongs to {self._key_field} {shown(key)}, not to the one given.")
        versions = [read.version for read in reads] if reads else None
        try:
            self.method(aggregate, command, *reads)
        except (DomainError, InvalidCommand) as refusal:
            try:
                to_wire(refusal)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise self._failed(aggregate, f"its refusal can't be told: {told(refusal)}") from error
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise self._failed(aggregate, told(error)) from error
        if versions is not None and versions != [read.version for read in reads]:
            raise self._failed(aggregate, "it raised events on an aggregate that it may only read")

    def check(self, command: Command) -> None:
        """Check what pydantic doesn't: ids that may name a stream, values that every database can hold.

        Raises InvalidCommand.
        """
        for field, value in command.__dict__.items():
            kind = type(value)
            if kind is str:
                if value.isascii() and "\0" not in value:
                    continue
            elif kind in _HARMLESS:
                continue
            try:
                check_value(field, value)
            except InvalidValue as error:
                raise InvalidCommand(shown_field(error.field), error.value, error.remedy) from error
        try:
            checked_id(self._id_field, getattr(command, self._id_field))
            if not self._key_is_id:
                checked_id(self._key_field, getattr(command, self._key_field))
        except InvalidValue as error:
            raise InvalidCommand(error.field, error.value, error.remedy) from error

    def _failed(self, aggregate: Aggregate, reason: str) -> DecideFailed:
        reason = " ".join(reason[:REASON_SIZE_MAX].split())
        return DecideFailed(aggregate.stream, self.command_class.command_type, reason)


class AggregateRegistry:
    """The aggregates of an application, and the commands and events that they know."""

    def __init__(
        self, aggregates: Iterable[type[Aggregate]], payload_size_max_bytes: int = PAYLOAD_SIZE_MAX_BYTES
    ) -> None:
        """`payload_size_max_bytes` bounds the JSON of each command and each event.

        Raises InvalidValue where two classes claim one category, command or event name, a method can't work, or an
        event's upcasters are no chain.
        """
        self.payload_size_max_bytes = payload_size_max_bytes
        """Of the JSON of each command and each event."""
        self._by_category: dict[str, type[Aggregate]] = {}
        self.bindings: dict[str, CommandBinding] = {}
        """By command type name."""
        for aggregate_class in dict.fromkeys(aggregates):
            self._add(aggregate_class)
        for binding in self.bindings.values():
            self._check_reads(binding)
        self.events = EventRegistry(dict.fromkeys(self._event_classes()), payload_size_max_bytes)
        """Every event type that an aggregate has a method for, with its subclasses."""
        self._decoders: dict[str, tuple[CommandBinding, Callable[[str], Command]]] = {
            name: (binding, binding.command_class.__pydantic_validator__.validate_json)
            for name, binding in self.bindings.items()
        }

    @property
    def aggregates(self) -> tuple[type[Aggregate], ...]:
        """The registered classes."""
        return tuple(self._by_category.values())

    def aggregate_of(self, stream: str) -> type[Aggregate]:
        """Return the class that folds a stream, by its category. Raises InvalidValue if there is none."""
        category, _, aggregate_id = stream.partition("-")
        aggregate_class = self._by_category.get(category)
        if aggregate_class is None or not aggregate_id:
            known = ", ".join(f"{name}-ID" for name in self._by_category)
            raise InvalidValue("stream", shown(stream), f"one of {known or 'none at all'} was expected")
        return aggregate_class

    def new_aggregate(self, stream: str) -> Aggregate:
        """Return the aggregate of a stream that has no events. Raises MakeFailed where its class can't make one."""
        aggregate_class = self.aggregate_of(stream)
        try:
            return aggregate_class(stream.partition("-")[2])
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise MakeFailed(stream, told(error)[:REASON_SIZE_MAX]) from error

    def decode_command(self, command_type: str, data: str) -> tuple[CommandBinding, Command]:
        """Return a command from its type's name and its fields as a JSON object, and what decides it.

        Raises InvalidCommand about the first wrong field; nothing else, whatever the text.
        """
        found = self._decoders.get(command_type)
        if found is None:
            raise self._unknown(command_type)
        binding, validate_json = found
        if len(data) * 4 > self.payload_size_max_bytes:
            self._check_size(command_type, len(data.encode(errors="surrogatepass")))
        try:
            try:
                command = validate_json(data)
            except ValidationError as error:
                raise explain(binding.command_class, error) from error
            binding.check(command)
        except (InvalidCommand, KeyboardInterrupt):
            raise
        except BaseException as error:
            remedy = f"a validator of it broke: {shown(told(error))}"
            raise InvalidCommand("command", command_type, remedy) from error
        return binding, command

    def check_command(self, command: Command) -> CommandBinding:
        """Return what decides a command; the rules of `decode_command` hold.

        Raises InvalidCommand. What pydantic checks was checked when the command was built.
        """
        binding = self.bindings.get(getattr(command, "command_type", ""))
        if binding is None or binding.command_class is not type(command):
            raise self._no_command(command)
        binding.check(command)
        return binding

    def encode_command(self, command: Command) -> tuple[CommandBinding, str]:
        """Return what decides a command, and its fields as JSON; the rules of `decode_command` hold.

        Raises InvalidCommand, and nothing else whatever the fields hold.
        """
        binding = self.check_command(command)
        try:
            data = command.__pydantic_serializer__.to_json(command)
        except PydanticSerializationError as error:
            raise InvalidCommand(command.command_type, shown(str(error)), "leave out what JSON can't hold") from error
        if len(data) > self.payload_size_max_bytes:
            self._check_size(command.command_type, len(data))
        return binding, data.decode()

    def _check_size(self, command_type: str, size_bytes: int) -> None:
        if size_bytes > self.payload_size_max_bytes:
            remedy = f"a command of at most {self.payload_size_max_bytes} bytes was expected (payload_size_max_bytes)"
            raise InvalidCommand(command_type, f"{size_bytes} bytes", remedy)

    def _unknown(self, command_type: str) -> InvalidCommand:
        return InvalidCommand("command", shown(command_type), suggestion(command_type, self.bindings))

    def _no_command(self, given: object) -> InvalidCommand:
        if not isinstance(given, Command):
            remedy = "give an instance of one of the application's classes"
            if isinstance(given, type) and issubclass(given, Command):
                remedy = f"give an instance, as in {given.__name__}(...)"
            return InvalidCommand("command", shown(given), remedy)
        if given.command_type in self.bindings:
            remedy = f"{type(given)} is another class than the application's of this name: give that one's"
            return InvalidCommand("command", shown(given.command_type), remedy)
        return self._unknown(given.command_type)

    def _add(self, aggregate_class: type[Aggregate]) -> None:
        category = aggregate_class.category
        other = self._by_category.setdefault(category, aggregate_class)
        if other is not aggregate_class:
            names = f"{other.__qualname__} and {aggregate_class.__qualname__}"
            raise InvalidValue("category", repr(category), f"{names} both claim it: name another for one of them")
        for command_class, method in command_methods(aggregate_class, Aggregate).items():
            if not all(isinstance(read, type) and issubclass(read, Aggregate) for read in method.reads):
                remedy = "annotate the parameters after the command with the aggregate classes that it reads"
                raise InvalidValue("method", method.function.__qualname__, remedy)
            binding = CommandBinding(command_class, aggregate_class, method)
            taken = self.bindings.setdefault(command_class.command_type, binding)
            if taken is not binding:
                remedy = f"{taken.method.__qualname__} and {method.function.__qualname__} both decide it: leave one"
                raise InvalidValue("command", command_class.command_type, remedy)
            command_class.model_rebuild()
            for field in dict.fromkeys((aggregate_class.id_field, aggregate_class.partition_key_field)):
                known = command_class.model_fields.get(field)
                if known is None or known.annotation is not str:
                    remedy = f"{aggregate_class.__name__} needs it in this command, as a str"
                    raise InvalidValue("field", f"{command_class.__name__}.{field}", remedy)

    def _check_reads(self, binding: CommandBinding) -> None:
        for read in binding.reads:
            if self._by_category.get(read.category) is not read:
                remedy = f"it reads {read.__name__}, which is not registered: add it to the aggregates"
            elif read.partition_key_field != read.id_field:
                remedy = f"it reads {read.__name__}, whose id is not its partition key, so none can be told"
            else:
                continue
            raise InvalidValue("method", binding.method.__qualname__, remedy)

    def _event_classes(self) -> Iterator[type[Event]]:
        for aggregate_class in self._by_category.values():
            for event_class in aggregate_class.event_methods():
                if event_class is not Event:
                    yield from _with_subclasses(event_class)


def _with_subclasses(event_class: type[Event]) -> Iterator[type[Event]]:
    yield event_class
    for subclass in event_class.__subclasses__():
        yield from _with_subclasses(subclass)
