"""Between typed events and stored rows: a registry of stored names, JSON there and back.

Pure. A type that the registry doesn't know is an error that names it; nothing is ever unpickled. Not here: where
rows are kept, or what an event means.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from store.columns import column, envelopes
from store.errors import InvalidValue, NewerSchema, UndecodableEvent, UnknownEventType, told
from store.events import Event, attach
from store.records import EventRecord
from store.upcasting import Upcaster, chain_of
from store.values import PAYLOAD_SIZE_MAX_BYTES, check_value, holds_plain_values, shown

PROBLEMS_SHOWN_MAX = 3
"""Wrong fields that an error names."""


class EventRegistry:
    """The event types of an application, by stored name."""

    def __init__(self, types: Iterable[type[Event]], payload_size_max_bytes: int = PAYLOAD_SIZE_MAX_BYTES) -> None:
        """Raises InvalidValue if two types claim one stored name, or a type's upcasters are no chain to its version."""
        self._types: dict[str, type[Event]] = {}
        self._current_versions: dict[str, int] = {}
        self._chains: dict[str, tuple[Upcaster, ...]] = {}
        self._open_fields: dict[type[Event], tuple[str, ...]] = {}
        self._payload_size_max_bytes = payload_size_max_bytes
        self._validate_lists: dict[type[Event], Callable[[str], list[Event]]] = {}
        for event_class in types:
            name = event_class.event_type
            other = self._types.setdefault(name, event_class)
            if other is not event_class:
                raise InvalidValue(
                    "event_type", name, f"{other.__qualname__} and {event_class.__qualname__} both claim it: rename one"
                )
            if event_class.schema_version < 1:
                raise InvalidValue(f"{name}.schema_version", str(event_class.schema_version), "count versions from 1")
            self._current_versions[name] = event_class.schema_version
            self._chains[name] = chain_of(name, event_class.schema_version, event_class.upcasters)
            fields = event_class.model_fields.items()
            self._open_fields[event_class] = tuple(field for field, info in fields if not holds_plain_values(info))

    @property
    def types(self) -> dict[str, type[Event]]:
        """Event classes by stored name."""
        return dict(self._types)

    def encode(self, event: Event) -> str:
        """Return the event's own fields as JSON.

        Raises UnknownEventType if its class is not registered, InvalidValue for what can't be stored (`values.py`), and
        for more than `payload_size_max_bytes` in UTF-8.
        """
        open_fields = self._open_fields.get(type(event))
        if open_fields is None:
            raise UnknownEventType(event.event_type, event.schema_version)
        for field in open_fields:
            check_value(f"{event.event_type}.{field}", getattr(event, field))
        try:
            encoded = event.__pydantic_serializer__.to_json(event)
        except PydanticSerializationError as error:
            raise InvalidValue(event.event_type, shown(str(error)), "leave out what JSON can't hold") from error
        if len(encoded) > self._payload_size_max_bytes:
            remedy = f"an event of at most {self._payload_size_max_bytes} bytes was expected (payload_size_max_bytes)"
            raise InvalidValue(event.event_type, f"{len(encoded)} bytes", remedy)
        data = encoded.decode()
        if "\\u0000" in data:  # NUL, or a text that spells it out
            check_value(event.event_type, event)
        return data

    def decode(self, record: EventRecord) -> Event:
        """Return the typed event of a record, its envelope attached; a row of an older version goes through upcasters.

        Raises UnknownEventType, NewerSchema for a row that a newer version of the code has written, or
        UndecodableEvent where the data don't fit the type, or an upcaster broke.
        """
        event_class = self._types.get(record.type)
        if event_class is None:
            raise UnknownEventType(record.type, record.schema_version)
        data: str | bytes = record.data
        if event_class.schema_version != record.schema_version:
            data = self._upcast(record, event_class.schema_version)
        try:
            event: Event = event_class.__pydantic_validator__.validate_json(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise UndecodableEvent(record.stream, record.version, record.type, _reason(error)) from error
        attach(event, record)
        return event

    def decode_many(self, records: Sequence[EventRecord]) -> list[Event]:
        """Return the events of a page of records, in order, as `decode` does one by one, in less time.

        Those of one type are validated as one JSON array. Raises what `decode` does, about the first guilty record.
        """
        kinds = column(records, "type")
        try:
            groups = _grouped(kinds, self._current_data(kinds, records))
            decoded = {kind: self._decode_group(kind, data) for kind, data in groups.items()}
        except BaseException:  # whatever a validator of the user's raises; looked for one by one, which names it
            for record in records:
                self.decode(record)
            raise
        if len(decoded) == 1:
            (events,) = decoded.values()
        else:
            in_turn = {kind: iter(some) for kind, some in decoded.items()}
            events = list(map(next, map(in_turn.__getitem__, kinds)))
        deque(map(attach, events, envelopes(records)), maxlen=0)  # calls it for each
        return events

    def _current_data(self, kinds: Sequence[str], records: Sequence[EventRecord]) -> Sequence[str]:
        """Return the records' data, those of an older version upcast."""
        data, versions = column(records, "data"), column(records, "schema_version")
        current = list(map(self._current_versions.__getitem__, kinds))
        if current == versions:
            return data
        return [
            text if version == wanted else self._upcast(records[place], wanted).decode()
            for place, (text, version, wanted) in enumerate(zip(data, versions, current, strict=True))
        ]

    def _decode_group(self, kind: str, data: Sequence[str]) -> list[Event]:
        """Decode data of one type, of its own version."""
        event_class = self._types[kind]
        validate_json = self._validate_lists.get(event_class)
        if validate_json is None:
            validate_json = TypeAdapter(list[event_class]).validator.validate_json  # type: ignore[valid-type]
            self._validate_lists[event_class] = validate_json
        # JSON allows no line break within a string, so a string cut off in one record can't end in another.
        events: list[Event] = validate_json("[" + ",\n".join(data) + "]")
        if len(events) != len(data):
            raise ValueError(f"{len(data)} records hold {len(events)} JSON values")
        return events

    def _upcast(self, record: EventRecord, known_version: int) -> bytes:
        """Return the data of a record of an older version as JSON of the known one."""
        if record.schema_version > known_version:
            raise NewerSchema(record.stream, record.version, record.type, record.schema_version, known_version)
        if record.schema_version < 1:
            raise UnknownEventType(record.type, record.schema_version)
        step = "its JSON"
        try:
            data = from_json(record.data, allow_inf_nan=False)
            for upcaster in self._chains[record.type][record.schema_version - 1 :]:
                if not isinstance(data, dict):
                    raise TypeError("a JSON object was expected")
                step = f"upcaster {upcaster.from_version} -> {upcaster.to_version}"
                data = upcaster.function(data)
            step = "what the upcasters made of it"
            return to_json(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            reason = f"{step}: {told(error)}"
            raise UndecodableEvent(record.stream, record.version, record.type, reason) from error


def _grouped(kinds: Sequence[str], data: Sequence[str]) -> dict[str, Sequence[str]]:
    """Return data by their kind, in order."""
    if kinds and kinds.count(kinds[0]) == len(kinds):
        return {kinds[0]: data}
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for kind, text in zip(kinds, data, strict=True):
        groups[kind].append(text)
    return dict(groups)


def _reason(error: BaseException) -> str:
    if not isinstance(error, ValidationError):
        return told(error)
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(map(str, problem['loc'])) or 'data'}: {problem['msg']}" for problem in problems]
    more = len(lines) - PROBLEMS_SHOWN_MAX
    return "; ".join(lines[:PROBLEMS_SHOWN_MAX]) + (f"; and {more} more" if more > 0 else "")
