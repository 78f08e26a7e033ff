"""Methods found by the event type that their first parameter is annotated with, and which of them an event is for.

Pure. Not here: what the methods do (`projection.py`, `handler.py`).
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from store.codec import EventRegistry
from store.errors import InvalidValue
from store.events import Event


class EventMethod(NamedTuple):
    """A method that events are handed to."""

    function: Callable[..., Any]
    takes_many: bool
    """It gets a sequence of events that follow on each other, instead of one."""


def methods_of(
    cls: type, base: type, parameters: int, form: str, may_be_async: bool = False
) -> dict[type[Event], EventMethod]:
    """Return the event methods of a class derived from `base`, by annotated type; each takes so many parameters.

    Raises InvalidValue where a method is not one for its type (`form` says how it should be), and where there is none.
    """
    found: dict[type[Event], EventMethod] = {}
    for method, event_class in _annotated(cls, base):
        function = method.function
        if event_class in found:
            other = found[event_class].function.__qualname__
            remedy = f"{other} is annotated with {event_class.__name__} too: leave one"
            raise InvalidValue("method", function.__qualname__, remedy)
        wrong_kind = inspect.iscoroutinefunction(function) and not may_be_async
        if wrong_kind or len(inspect.signature(function).parameters) != parameters:
            raise InvalidValue("method", function.__qualname__, f"make it {form}")
        found[event_class] = method
    if not found:
        raise InvalidValue(
            base.__name__.lower(), cls.__name__, "annotate a method's first parameter with an event type"
        )
    return found


def by_stored_name(
    events: EventRegistry, methods: Mapping[type[Event], EventMethod]
) -> tuple[EventRegistry, dict[str, EventMethod]]:
    """Return which method each stored type is for, the nearest base class's, and a registry that knows all of them."""
    known = EventRegistry({*events.types.values(), *(kind for kind in methods if not kind.__subclasses__())})
    found: dict[str, EventMethod] = {}
    for name, event_class in known.types.items():
        method = next((methods[base] for base in event_class.__mro__ if base in methods), None)
        if method is not None:
            found[name] = method
    return known, found


def _annotated(cls: type, base: type) -> Iterator[tuple[EventMethod, type[Event]]]:
    """Yield each function whose first parameter is annotated with an event type, once for each of these."""
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        if not isinstance(function, types.FunctionType) or hasattr(base, name):
            continue
        parameters = list(inspect.signature(function).parameters.values())[1:]
        if parameters and parameters[0].annotation is not inspect.Parameter.empty:
            annotation = _resolved(function, parameters[0])
            takes_many = typing.get_origin(annotation) in (Sequence, list)
            if takes_many:
                (annotation,) = typing.get_args(annotation)
            union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
            for kind in typing.get_args(annotation) if union else (annotation,):
                if isinstance(kind, type) and issubclass(kind, Event):
                    yield EventMethod(function, takes_many), kind


def _resolved(function: types.FunctionType, parameter: inspect.Parameter) -> Any:
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return typing.get_type_hints(holder, globalns=function.__globals__)[parameter.name]
    except NameError as error:
        remedy = f"{error}: import it at the top of its module, not under TYPE_CHECKING or in a function"
        raise InvalidValue("method", f"{function.__qualname__}({parameter})", remedy) from error
