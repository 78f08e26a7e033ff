"""Commands: the base class that users derive theirs from, and what is said of input that is not one.

Not here: which aggregate a command goes to, and the ids in it (`registry.py`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from actors.errors import InvalidCommand
from store.values import VALUE_SHOWN_SIZE_MAX, shown

__all__ = ["Command", "explain", "shown", "shown_field", "suggestion"]


class Command(BaseModel):
    """A wish, which an aggregate grants or refuses. Derive from it:

        class CreateOrder(Command):
            order_id: str

    It must have the aggregate's `id_field` and `partition_key_field`. Commands are immutable values and travel as
    JSON. Building one from wrong values raises pydantic's ValidationError, as with every pydantic model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    command_type: ClassVar[str] = "Command"
    """Its name on the wire and in files: the class's name."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.command_type = cls.__name__


def explain(command_class: type[Command], error: ValidationError) -> InvalidCommand:
    """Return what is wrong about the first wrong field, for a person, and how many others are wrong."""
    problems = error.errors(include_url=False)
    problem = problems[0]
    field = ".".join(str(part) for part in problem["loc"]) or command_class.command_type
    value, remedy = shown(problem["input"]), _remedy(command_class, problem)
    if problem["type"] == "missing":
        value = "(missing)"
    others = len({other["loc"] for other in problems}) - 1
    if others:
        remedy += f" ({others} more wrong {'fields' if others > 1 else 'field'})"
    return InvalidCommand(shown_field(field), value, remedy)


def shown_field(field: str) -> str:
    """Return a field's name as a message shows it: as it is, unless it is as odd as a value may be."""
    plain = field.isascii() and field.isprintable() and len(field) <= VALUE_SHOWN_SIZE_MAX
    return field if plain else shown(field)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "did you mean A or B?" where close names are known, else all that are known."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:100], names, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"one of {', '.join(names)} was expected"


def _remedy(command_class: type[Command], problem: Any) -> str:
    fields = command_class.model_fields
    match problem["type"]:
        case "missing" if len(problem["loc"]) == 1:
            return f"{command_class.command_type} needs it (its fields: {', '.join(fields)})"
        case "extra_forbidden" if len(problem["loc"]) == 1:
            return f"{command_class.command_type} has no such field: {suggestion(str(problem['loc'][0]), fields)}"
        case "json_invalid":
            return f"valid JSON was expected ({problem['ctx']['error']})"
        case "model_type" | "model_attributes_type":
            return f"a JSON object with the fields {', '.join(fields)} was expected"
        case "value_error":
            return str(problem["ctx"]["error"])
    text: str = problem["msg"]
    return text[0].lower() + text[1:]
