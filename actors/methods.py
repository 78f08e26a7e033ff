"""Finding an aggregate's methods by the annotated type of their first parameter. Runs once per class.

Not here: calling them.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from actors.commands import Command
from store.errors import InvalidValue
from store.events import Event


class CommandMethod(NamedTuple):
    """A method that decides on one type of command; `reads` are the types of its further parameters."""

    function: Callable[..., None]
    reads: tuple[type, ...]


def event_methods(aggregate_class: type, root: type) -> dict[type[Event], Callable[..., None]]:
    """Return the event methods of a class by annotated type. Raises InvalidValue where two claim one type."""
    found: dict[type[Event], Callable[..., None]] = {}
    for function, parameters in _methods(aggregate_class, root):
        for event_class in _members(_resolved(function, parameters[0]), Event):
            if len(parameters) > 1:
                raise InvalidValue("method", function.__qualname__, "an event method takes the event and nothing else")
            _claim(found, event_class, function, function)
    return found


def command_methods(aggregate_class: type, root: type) -> dict[type[Command], CommandMethod]:
    """Return the command methods of a class by annotated type. Raises InvalidValue where two claim one type."""
    found: dict[type[Command], CommandMethod] = {}
    for function, (first, *further) in _methods(aggregate_class, root):
        commands = [kind for kind in _members(_resolved(function, first), Command) if kind is not Command]
        if commands:
            reads = tuple(_resolved(function, parameter) for parameter in further)
            for command_class in commands:
                _claim(found, command_class, CommandMethod(function, reads), function)
    return found


def _claim(found: dict[Any, Any], key: type, value: Any, function: Callable[..., None]) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidValue("method", function.__qualname__, "aggregates are pure: make it a plain function")
    if key in found:
        other = getattr(found[key], "function", found[key]).__qualname__
        remedy = f"{other} is annotated with {key.__name__} too: leave one of them"
        raise InvalidValue("method", function.__qualname__, remedy)
    found[key] = value


def _methods(aggregate_class: type, root: type) -> Iterator[tuple[Callable[..., None], list[inspect.Parameter]]]:
    """Yield the functions of a class that take something annotated besides self, those of the root class left out."""
    for name in dir(aggregate_class):
        function = inspect.getattr_static(aggregate_class, name)
        if not isinstance(function, types.FunctionType) or name in vars(root) or name in vars(object):
            continue
        parameters = list(inspect.signature(function).parameters.values())[1:]
        if parameters and parameters[0].annotation is not inspect.Parameter.empty:
            yield function, parameters


def _resolved(function: Callable[..., None], parameter: inspect.Parameter) -> Any:
    """Return the type that a parameter is annotated with; the other annotations need not be known at run time."""
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return typing.get_type_hints(holder, globalns=function.__globals__)[parameter.name]
    except NameError as error:
        remedy = f"{error}: import it at the top of its module, not under TYPE_CHECKING or in a function"
        raise InvalidValue("method", f"{function.__qualname__}({parameter})", remedy) from error


def _members(annotation: Any, base: type) -> list[Any]:
    """Return the subclasses of `base` in an annotation, which may be a union."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = typing.get_args(annotation) if union else (annotation,)
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, base)]
