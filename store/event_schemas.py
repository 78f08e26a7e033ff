"""Frozen event schemas: noticing that a class no longer reads the rows that were written with it.

`schemas.json` holds the JSON Schema of each event type by version, and is kept with the code. A class may change
without a new version as long as it takes all that its frozen schema takes. Not seen are rules that JSON Schema can't
express, a validator's code for example. Not here: the SQL schema (`schema.py`), bringing older rows up to date
(`upcasting.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from store.codec import EventRegistry
from store.errors import EventrayError, InvalidValue
from store.events import Event
from store.narrowing import Narrowing, narrowings

Frozen = dict[str, dict[str, dict[str, Any]]]
"""JSON Schema by event type and by version (as text: JSON has no other keys)."""

_NEW_VERSION = "raise schema_version and add an upcaster"
_BESIDE_THE_POINT = frozenset({"title", "description", "examples", "deprecated", "discriminator", "default"})
_NAMED_SCHEMAS = frozenset({"properties", "$defs", "patternProperties"})


class BreakingChange(EventrayError):
    """The event classes no longer read all rows that were written with them: {0}"""

    def __init__(self, changes: str) -> None:
        super().__init__(changes)


class SchemaChange(NamedTuple):
    """One difference between a class and what is frozen."""

    event_type: str
    version: int
    field: str
    """A path such as `items[].count`; empty where it is about the whole type."""
    what: str
    breaking: bool
    """Rows that may be stored can't be read with the class; otherwise it only waits to be frozen."""

    def __str__(self) -> str:
        place = f"{self.event_type} version {self.version}" + (f", field {self.field}" if self.field else "")
        return f"{place}: {self.what}"


def schema_of(event_class: type[Event]) -> dict[str, Any]:
    """Return the JSON Schema of a class's own fields, without what doesn't matter to stored rows (titles, defaults).

    Raises InvalidValue for a field that JSON Schema can't describe.
    """
    try:
        schema = event_class.model_json_schema(schema_generator=_Generator)
    except PydanticInvalidForJsonSchema as error:
        remedy = f"give its fields types that JSON Schema knows: {error.message}"
        raise InvalidValue("event_type", event_class.event_type, remedy) from error
    bare: dict[str, Any] = _bare(schema)
    return bare


def digest_of(model: type[BaseModel]) -> str:
    """Return 12 hex digits that are the same for the same fields, in every process and for every model.

    What JSON Schema can't describe counts as one kind of field. Titles, descriptions and defaults don't count.
    """
    schema = _sorted(_bare(model.model_json_schema(schema_generator=_LenientGenerator)))
    return hashlib.blake2b(json.dumps(schema, default=repr).encode(), digest_size=6).hexdigest()


def changes_since(frozen: Frozen, registry: EventRegistry) -> list[SchemaChange]:
    """Compare today's classes with what is frozen; breaking changes first, each in the order of the types' names."""
    changes = [
        SchemaChange(
            name, _last(versions), "", f"no class has this stored name any more: add one, or {_out(name)}", True
        )
        for name, versions in frozen.items()
        if versions and name not in registry.types
    ]
    for name, event_class in registry.types.items():
        changes += _changes_of(event_class, frozen.get(name, {}))
    return sorted(changes, key=lambda change: (not change.breaking, change.event_type))


def frozen_anew(frozen: Frozen, registry: EventRegistry) -> Frozen:
    """Return what is to be frozen now: today's schemas beside those of older versions.

    Raises BreakingChange if a class has changed so that it needs a new version first.
    """
    breaking = [str(change) for change in changes_since(frozen, registry) if change.breaking]
    if breaking:
        raise BreakingChange("; ".join(breaking))
    renewed = {name: dict(versions) for name, versions in frozen.items()}
    for name, event_class in registry.types.items():
        renewed.setdefault(name, {})[str(event_class.schema_version)] = schema_of(event_class)
    return renewed


def read_frozen(path: Path) -> Frozen:
    """Read `schemas.json`; nothing is frozen where there is no file. Raises InvalidValue for a file that is none."""
    try:
        decoded = json.loads(path.read_text("utf-8"))
        return {
            str(name): {str(int(version)): dict(schema) for version, schema in versions.items()}
            for name, versions in decoded.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InvalidValue("schemas", str(path), f"freeze it anew, it can't be read: {error}") from error


def write_frozen(path: Path, frozen: Frozen) -> None:
    """Write `schemas.json`: sorted, so that the same schemas are the same bytes. Raises InvalidValue."""
    text = json.dumps({name: _by_version(frozen[name]) for name in sorted(frozen)}, indent=2)
    try:
        path.write_text(text + "\n", "utf-8")
    except OSError as error:
        raise InvalidValue("schemas", str(path), f"it can't be written: {error}") from error


class _Generator(GenerateJsonSchema):
    """JSON Schema of what rows hold, the same with every release of pydantic: decimals with their bounds."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default", "skipped-discriminator"}  # noqa: RUF012

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        bounds = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
        found: JsonSchemaValue = {"type": "string", "format": "decimal"}
        found |= {name: str(schema[key]) for key, name in bounds.items() if key in schema}  # type: ignore[literal-required]
        found |= {
            name: schema[key]  # type: ignore[literal-required]
            for key, name in {"max_digits": "maxDigits", "decimal_places": "maxDecimalPlaces"}.items()
            if schema.get(key) is not None
        }
        return found


class _LenientGenerator(_Generator):
    """The same for any model."""

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> JsonSchemaValue:
        return {}


def _changes_of(event_class: type[Event], versions: Mapping[str, dict[str, Any]]) -> list[SchemaChange]:
    name, version = event_class.event_type, event_class.schema_version
    if not versions:
        return [SchemaChange(name, version, "", "this type is new", breaking=False)]
    last = _last(versions)
    if version < last:
        what = f"version {last} is frozen already: the class's version never goes back"
        return [SchemaChange(name, version, "", what, breaking=True)]
    if version > last:
        return [SchemaChange(name, version, "", "this version is new", breaking=False)]
    old, new = versions[str(last)], schema_of(event_class)
    found = [_change(name, version, narrowing) for narrowing in narrowings(old, new)]
    if not found and old != new:
        found.append(SchemaChange(name, version, "", "it takes all that is frozen, and differs", breaking=False))
    return found


def _change(name: str, version: int, narrowing: Narrowing) -> SchemaChange:
    return SchemaChange(name, version, narrowing.field, f"{narrowing.what}: {_NEW_VERSION}", breaking=True)


def _out(name: str) -> str:
    return f"take {name} out of the file if no row of it was ever stored"


def _last(versions: Mapping[str, object]) -> int:
    return max(map(int, versions))


def _by_version(versions: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return {version: _sorted(versions[version]) for version in sorted(versions, key=int)}


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _bare(schema: Any) -> Any:
    """Leave out what doesn't matter; a field may well be called `title`."""
    if isinstance(schema, list):
        return [_bare(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "required" in schema:
        schema = {**schema, "required": sorted(schema["required"])}
    return {
        key: {name: _bare(item) for name, item in value.items()} if key in _NAMED_SCHEMAS else _bare(value)
        for key, value in schema.items()
        if key not in _BESIDE_THE_POINT
    }
