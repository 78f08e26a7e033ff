"""Comparing two JSON Schemas: where the new one refuses what the old one took.

Knows what pydantic writes; a keyword that it doesn't know counts as narrowed when it has changed. Not here: which
schemas are compared, and what follows (`event_schemas.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

Schema = Mapping[str, Any]

_LEAST = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_MOST = frozenset(
    {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", "maxDigits", "maxDecimalPlaces"}
)
_COMPARED_BY_NAME = frozenset(
    {"$defs", "type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems"}
)
_CHOICES = ("anyOf", "oneOf")


class Narrowing(NamedTuple):
    """One field that takes less than before."""

    field: str
    """Its path: `items[].count`."""
    what: str


def narrowings(old: Schema, new: Schema) -> list[Narrowing]:
    """Return where the new schema refuses, or no longer has, what the old one took; empty where it takes it all."""
    return list(_Comparison(old, new).compare(old, new, ""))


class _Comparison:
    """Two documents, whose `$ref`s are looked up in their `$defs`."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old_definitions, self._new_definitions = old.get("$defs", {}), new.get("$defs", {})
        self._under_way: set[tuple[str, str]] = set()

    def compare(self, old: Schema, new: Schema, field: str) -> Iterator[Narrowing]:
        names = (old.get("$ref", ""), new.get("$ref", ""))
        if any(names):
            if names in self._under_way:  # a model that contains itself
                return
            self._under_way.add(names)
            old, new = _resolved(old, self._old_definitions), _resolved(new, self._new_definitions)
            yield from self.compare(old, new, field)
            self._under_way.discard(names)
            return
        old_choices, new_choices = _choices(old), _choices(new)
        if len(old_choices) == len(new_choices) == 1:
            yield from self._compare_one(old_choices[0], new_choices[0], field)
            return
        for choice in old_choices:
            refusals = [list(self.compare(choice, other, field)) for other in new_choices]
            if all(refusals):
                alike = [refusal for refusal, other in zip(refusals, new_choices, strict=True) if _alike(choice, other)]
                yield from alike[0] if alike else [Narrowing(field, f"it no longer takes {self._said(choice)}")]

    def _compare_one(self, old: Schema, new: Schema, field: str) -> Iterator[Narrowing]:
        if not new:
            return
        if "$ref" in old or "$ref" in new:
            yield from self.compare(old, new, field)
            return
        old_type, new_type = old.get("type"), new.get("type")
        if new_type is not None and old_type != new_type and (old_type, new_type) != ("integer", "number"):
            yield Narrowing(field, f"its type changed from {old_type or 'any'} to {new_type}")
            return
        yield from _compare_values(old, new, field)
        yield from _compare_bounds(old, new, field)
        if new_type == "object":
            yield from self._compare_objects(old, new, field)
        elif new_type == "array":
            yield from self._compare_arrays(old, new, field)

    def _compare_objects(self, old: Schema, new: Schema, field: str) -> Iterator[Narrowing]:
        old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
        required, was_required = new.get("required", ()), old.get("required", ())
        added = [name for name in new_fields if name not in old_fields]
        for name, schema in old_fields.items():
            if name in new_fields:
                yield from self.compare(schema, new_fields[name], _path(field, name))
            else:
                renamed = next((other for other in added if new_fields[other] == schema), None)
                yield Narrowing(_path(field, name), f"it was renamed to {renamed}" if renamed else "it was removed")
        for name in required:
            if name not in old_fields:
                yield Narrowing(_path(field, name), "it was added without a default")
            elif name not in was_required:
                yield Narrowing(_path(field, name), "its default was taken away")
        yield from self._compare_rest(
            old.get("additionalProperties", True), new.get("additionalProperties", True), field
        )

    def _compare_rest(self, old: bool | Schema, new: bool | Schema, field: str) -> Iterator[Narrowing]:
        if old is False or new is True:
            return
        if new is False:
            yield Narrowing(field, "it no longer takes further fields")
        else:
            yield from self.compare({} if old is True else old, new if isinstance(new, Mapping) else {}, f"{field}{{}}")

    def _compare_arrays(self, old: Schema, new: Schema, field: str) -> Iterator[Narrowing]:
        old_places, new_places = old.get("prefixItems", []), new.get("prefixItems", [])
        for index, schema in enumerate(new_places):
            before = old_places[index] if index < len(old_places) else old.get("items", {})
            yield from self.compare(before, schema, f"{field}[{index}]")
        if isinstance(new.get("items"), Mapping):
            further = () if old.get("maxItems") == len(old_places) else (old.get("items", {}),)
            for schema in (*old_places[len(new_places) :], *further):
                if isinstance(schema, Mapping):
                    yield from self.compare(schema, new["items"], f"{field}[]")

    def _said(self, choice: Schema) -> str:
        schema = _resolved(choice, self._old_definitions)
        if "const" in schema or "enum" in schema:
            return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
        kind = schema.get("format") or schema.get("type") or "any value"
        return f"{kind} ({choice['$ref'].rpartition('/')[2]})" if "$ref" in choice else str(kind)


def _compare_values(old: Schema, new: Schema, field: str) -> Iterator[Narrowing]:
    new_values, old_values = _values(new), _values(old)
    if new_values is None:
        return
    if old_values is None:
        yield Narrowing(field, f"it takes only {', '.join(map(str, new_values))} now")
    elif gone := [value for value in old_values if value not in new_values]:
        yield Narrowing(field, f"it no longer takes {', '.join(map(str, gone))}")


def _compare_bounds(old: Schema, new: Schema, field: str) -> Iterator[Narrowing]:
    for keyword, bound in new.items():
        before = old.get(keyword)
        if keyword in _COMPARED_BY_NAME or before == bound:
            continue
        if before is not None and keyword in _LEAST and Decimal(str(bound)) <= Decimal(str(before)):
            continue
        if before is not None and keyword in _MOST and Decimal(str(bound)) >= Decimal(str(before)):
            continue
        was = "" if before is None else f" (it was {before})"
        yield Narrowing(field, f"it was narrowed to {keyword} {bound}{was}")


def _values(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _choices(schema: Schema) -> list[Schema]:
    for keyword in _CHOICES:
        if keyword in schema:
            return [choice for listed in schema[keyword] for choice in _choices(listed)]
    return [schema]


def _alike(old: Schema, new: Schema) -> bool:
    """Whether a choice is the former one, changed."""
    return all(old.get(keyword) == new.get(keyword) for keyword in ("type", "format", "$ref"))


def _resolved(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    reference = schema.get("$ref")
    return schema if reference is None else definitions.get(str(reference).rpartition("/")[2], {})


def _path(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name
