"""Snapshots of aggregates: when one is taken, how state becomes JSON and comes back, and loading with one.

A snapshot saves folding a long history; it is never the truth. One that other code has folded is left alone, without
a look at its data; a damaged one is too, with a warning. So is a class whose state JSON can't carry: it gets none. Not
here: when they are written (`snapshot_keeper.py`), what the fingerprint sees (`fingerprints.py`).
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar, NamedTuple

import structlog
from pydantic import BaseModel, ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from actors.aggregate import Aggregate
from actors.fingerprints import fingerprint_of
from store.errors import told
from store.records import Snapshot

OWN_ATTRIBUTES = frozenset({"aggregate_id", "version", "partition_key", "_uncommitted"})
"""What an `Aggregate` itself has; the rest is the state."""

REASON_SIZE_MAX = 300

log = structlog.get_logger(__name__)


class NotEncodable(Exception):
    """Why the state of an aggregate can't be a snapshot; within this module."""


class Damaged(Exception):
    """Why a snapshot can't be used; within this module."""


class SnapshotCounts(NamedTuple):
    """What became of snapshots since the host began."""

    taken: int = 0
    """Encoded; written only if their version is committed."""
    used: int = 0
    """Loaded in the place of the events up to them."""
    ignored_fingerprint: int = 0
    """Left alone since other code has folded them."""
    ignored_damaged: int = 0
    """Left alone since they can't be decoded, or the events after them don't fit."""
    written: int = 0
    unwritten: int = 0
    """Lost because writing them failed, or too many waited."""


class StateCodec:
    """The state of one class of aggregates as JSON, and back. Its cost is paid when it is first used."""

    def __init__(self, aggregate_class: type[Aggregate]) -> None:
        """Raises NotEncodable."""
        self._class = aggregate_class
        try:
            self._state = _annotated(aggregate_class)
            self._adapter = _adapter(aggregate_class, self._state)
            self.fingerprint = fingerprint_of(aggregate_class, self._state)
        except NotEncodable:
            raise
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise NotEncodable(_shown(error)) from error

    def encode(self, aggregate: Aggregate) -> str:
        """Return the state as JSON, from which the same state comes back. Raises NotEncodable."""
        state = {name: value for name, value in vars(aggregate).items() if name not in OWN_ATTRIBUTES}
        if unknown := state.keys() - self._state.keys():
            raise NotEncodable(f"annotate {', '.join(sorted(unknown))} in the body of the class")
        content = {"version": aggregate.version, "partition_key": aggregate.partition_key, "state": state}
        try:
            data = self._adapter.dump_json(content, warnings="error")
            again = self._adapter.validate_json(data)
            different = _difference(state, again["state"])
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise NotEncodable(_shown(error)) from error
        if different is not None:
            raise NotEncodable(f"{different} comes back from JSON as something else: annotate it more exactly")
        return data.decode()

    def restore(self, snapshot: Snapshot) -> Aggregate:
        """Return a new aggregate with the state of a snapshot. Raises Damaged."""
        try:
            content = self._adapter.validate_json(snapshot.data)
            aggregate = self._class(snapshot.stream.partition("-")[2])
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise Damaged(_shown(error)) from error
        if content["version"] != snapshot.version:
            raise Damaged(f"its data are of version {content['version']}")
        attributes = vars(aggregate)
        for name in self._state.keys() & attributes.keys() - content["state"].keys():
            del attributes[name]
        attributes.update(content["state"])
        aggregate.version, aggregate.partition_key = content["version"], content["partition_key"]
        return aggregate


class Snapshots:
    """Snapshots as one host, or one reader, uses them: codecs by class, and what became of them."""

    def __init__(self) -> None:
        self.counts = SnapshotCounts()

    def count(self, **more: int) -> None:
        """Add to counters by name."""
        counts = self.counts._asdict()
        self.counts = self.counts._replace(**{name: counts[name] + number for name, number in more.items()})

    def fingerprints(self, streams: Mapping[str, type[Aggregate]]) -> dict[str, str | None]:
        """Return, by stream, the fingerprint of the snapshots that can be used; None for a class that has none."""
        codecs = {stream: _codec_of(aggregate_class) for stream, aggregate_class in streams.items()}
        return {stream: None if codec is None else codec.fingerprint for stream, codec in codecs.items()}

    def take(self, aggregate: Aggregate, recorded_at: int) -> Snapshot | None:
        """Return a snapshot of the aggregate as it is; None where its class has none. `recorded_at` in microseconds."""
        codec = _codec_of(type(aggregate))
        if codec is None:
            return None
        try:
            data = codec.encode(aggregate)
        except NotEncodable as error:
            _give_up(type(aggregate), error)
            return None
        self.count(taken=1)
        return Snapshot(aggregate.stream, aggregate.version, codec.fingerprint, data, recorded_at)

    def restore(self, snapshots: Iterable[Snapshot], classes: Mapping[str, type[Aggregate]]) -> dict[str, Aggregate]:
        """Return the aggregates of those snapshots that today's code has made and that are sound, by stream."""
        restored = {}
        for snapshot in snapshots:
            codec = _codec_of(classes[snapshot.stream])
            if codec is None or codec.fingerprint != snapshot.fingerprint:
                self.count(ignored_fingerprint=1)
                continue
            try:
                restored[snapshot.stream] = codec.restore(snapshot)
                self.count(used=1)
            except Damaged as error:
                self.count(ignored_damaged=1)
                log.warning(
                    "a snapshot is damaged: its stream is folded whole",
                    stream=snapshot.stream,
                    version=snapshot.version,
                    reason=str(error),
                )
        return restored

    def mistrust(self, streams: Collection[str]) -> None:
        """Take back that the snapshots of these streams were used: what follows them doesn't fit."""
        self.count(used=-len(streams), ignored_damaged=len(streams))
        for stream in streams:
            log.warning("events don't fit their snapshot, the stream is folded whole", stream=stream)


def is_current(snapshot: Snapshot, aggregate_class: type[Aggregate]) -> bool:
    """Tell whether today's code has made a snapshot; any other is left alone."""
    codec = _codec_of(aggregate_class)
    return codec is not None and codec.fingerprint == snapshot.fingerprint


def flaw_of(snapshot: Snapshot, folded: Aggregate) -> str | None:
    """Return what is wrong with a current snapshot, beside the aggregate folded up to its version; None: nothing."""
    codec = _codec_of(type(folded))
    assert codec is not None
    try:
        restored = codec.restore(snapshot)
    except Damaged as error:
        return f"it can't be decoded: {error}"
    different = _difference(vars(folded), vars(restored))
    return None if different is None else f"{different or 'its state'} is not what the events fold to"


def due(aggregate: Aggregate, former_version: int) -> bool:
    """Tell whether a snapshot is to be taken, now that the aggregate has gone on from a former version."""
    every = aggregate.snapshot_every
    return every > 0 and aggregate.version // every > former_version // every


_codecs: dict[type[Aggregate], StateCodec | None] = {}
"""By class; None for one that has no snapshots."""


def _codec_of(aggregate_class: type[Aggregate]) -> StateCodec | None:
    if aggregate_class not in _codecs:
        _codecs[aggregate_class] = None
        if aggregate_class.snapshot_every:
            try:
                _codecs[aggregate_class] = StateCodec(aggregate_class)
            except NotEncodable as error:
                _give_up(aggregate_class, error)
    return _codecs[aggregate_class]


def _give_up(aggregate_class: type[Aggregate], error: NotEncodable) -> None:
    """Take no more snapshots of a class in this process, and say so."""
    _codecs[aggregate_class] = None
    remedy = "change that, or say snapshot_every=None in its class line"
    log.warning("no snapshots of this class", aggregate=aggregate_class.__name__, reason=str(error), remedy=remedy)


def _shown(error: BaseException) -> str:
    return " ".join(told(error).split())[:REASON_SIZE_MAX]


def _annotated(aggregate_class: type[Aggregate]) -> dict[str, Any]:
    """Return the annotated attributes of a class and its bases, by name. Raises NotEncodable."""
    try:
        hints = typing.get_type_hints(aggregate_class, include_extras=True)
    except NameError as error:
        raise NotEncodable(f"{error}: import it at the top of its module, not under TYPE_CHECKING") from error
    return {
        name: annotation
        for name, annotation in hints.items()
        if annotation is not ClassVar and typing.get_origin(annotation) is not ClassVar and name not in OWN_ATTRIBUTES
    }


def _adapter(aggregate_class: type[Aggregate], state: dict[str, Any]) -> TypeAdapter[dict[str, Any]]:
    """Return what validates and serializes a snapshot's content. Raises NotEncodable."""
    if any(vars(base).get("__slots__") for base in aggregate_class.__mro__):
        raise NotEncodable("it has __slots__: leave them out")
    typed_dict: Any = TypedDict  # made at run time, which type checkers don't follow
    closed = with_config(ConfigDict(extra="forbid"))
    inner = closed(typed_dict("State", state, total=False))
    return TypeAdapter(closed(typed_dict("Content", {"version": int, "partition_key": str, "state": inner})))


def _difference(before: Any, after: Any, place: str = "") -> str | None:
    """Return where two values differ in content or in any type; None if they don't."""
    if type(before) is not type(after):
        return place
    if isinstance(before, dict):
        if list(map(type, before)) != list(map(type, after)) or before.keys() != after.keys():
            return place
        pairs = [(before[key], after[key], f"{place}.{key}" if place else str(key)) for key in before]
    elif isinstance(before, list | tuple):
        if len(before) != len(after):
            return place
        pairs = [(one, other, f"{place}[{i}]") for i, (one, other) in enumerate(zip(before, after, strict=True))]
    elif is_dataclass(before) or isinstance(before, BaseModel):
        names = [field.name for field in fields(before)] if is_dataclass(before) else list(vars(before))
        pairs = [(getattr(before, name), getattr(after, name, None), f"{place}.{name}") for name in names]
    elif isinstance(before, set | frozenset):
        return None if before == after and {*map(type, before)} == {*map(type, after)} else place
    else:
        return None if before == after else place
    differences = (_difference(*pair) for pair in pairs)
    return next((difference for difference in differences if difference is not None), None)
