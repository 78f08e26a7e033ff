"""An application: the classes that a runtime serves, and how it is found by name.

Not here: what the classes do, and how they get to other processes (Ray does it: by reference where they can be
imported, by value where they are defined in the script that is run).
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
import types
import typing
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from actors.aggregate import Aggregate
from actors.customers import Customer, Order
from actors.registry import AggregateRegistry
from projections.customers import CustomerProjection, PromotionNotice, WelcomeMail
from projections.handler import Handler
from projections.process_manager import ProcessManager
from projections.projection import Projection
from store.errors import EventrayError, InvalidValue, told
from store.values import shown


class NoSuchApplication(EventrayError):
    """The application {0} can't be loaded: {1}"""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)


class Application:
    """The aggregates, projections, handlers and process managers that a runtime serves.

    A value, equal to another of the same classes.
    """

    def __init__(
        self,
        aggregates: Iterable[type[Aggregate]],
        projections: Iterable[type[Projection]] = (),
        handlers: Iterable[type[Handler]] = (),
        process_managers: Iterable[type[ProcessManager]] = (),
    ) -> None:
        """Raises InvalidValue where the classes contradict each other or can't work, whichever it is first."""
        self.aggregates = tuple(dict.fromkeys(aggregates))
        self.projections = tuple(dict.fromkeys(projections))
        self.handlers = tuple(dict.fromkeys(handlers))
        self.process_managers = tuple(dict.fromkeys(process_managers))
        self._check()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Application) and self.classes == other.classes

    def __hash__(self) -> int:
        return hash(self.classes)

    def __repr__(self) -> str:
        return f"Application({', '.join(cls.__name__ for cls in self.classes)})"

    def __getstate__(self) -> dict[str, Any]:
        for cls in self.classes:
            _resolve_annotations(cls)
        kinds = ("aggregates", "projections", "handlers", "process_managers")
        return {kind: getattr(self, kind) for kind in kinds}

    @property
    def classes(self) -> tuple[type, ...]:
        """All of them: aggregates, projections, handlers, process managers."""
        return (*self.aggregates, *self.projections, *self.handlers, *self.process_managers)

    @property
    def read_models(self) -> tuple[type[Projection], ...]:
        """All that keep one: projections and process managers."""
        return (*self.projections, *self.process_managers)

    @cached_property
    def registry(self) -> AggregateRegistry:
        """Which command goes to which aggregate, and all event types; one for this process."""
        return AggregateRegistry(self.aggregates)

    def projection(self, name: str) -> type[Projection]:
        """Return the projection, or process manager, of this name. Raises InvalidValue if there is none."""
        for projection in self.read_models:
            if projection.name == name:
                return projection
        known = ", ".join(projection.name for projection in self.read_models)
        raise InvalidValue("projection", repr(name), f"one of {known or 'none at all'} was expected")

    def make_handlers(self) -> tuple[Handler, ...]:
        """Make the handlers, here, where their settings are. Raises what their `__init__` raises."""
        return tuple(handler() for handler in self.handlers)

    def handler(self, name: str) -> type[Handler]:
        """Return the handler of this name. Raises InvalidValue if there is none."""
        for handler in self.handlers:
            if handler.name == name:
                return handler
        known = ", ".join(handler.name for handler in self.handlers)
        raise InvalidValue("handler", repr(name), f"one of {known or 'none at all'} was expected")

    def _check(self) -> None:
        for kind, base, classes in (
            ("aggregates", Aggregate, self.aggregates),
            ("projections", Projection, self.projections),
            ("handlers", Handler, self.handlers),
            ("process_managers", ProcessManager, self.process_managers),
        ):
            for cls in classes:
                if base is Projection and isinstance(cls, type) and issubclass(cls, ProcessManager):
                    raise InvalidValue(kind, repr(cls), "name process managers as process_managers=")
                if not (isinstance(cls, type) and issubclass(cls, base)):
                    raise InvalidValue(kind, repr(cls), f"give classes derived from {base.__name__}")
        if not self.aggregates:
            raise InvalidValue("aggregates", "()", "name at least one")
        derived: dict[str, tuple[type[Projection] | type[Handler], ...]] = {
            "projections": self.projections,
            "handlers": self.handlers,
            "process_managers": self.process_managers,
        }
        names: set[str] = set()
        for kind, derived_classes in derived.items():
            for each in derived_classes:
                if each.name in names:
                    raise InvalidValue(kind, each.name, "two have this name: give one of them another")
                names.add(each.name)
        known_events = self.registry.events.types
        methods = [(kind, set(each.event_methods())) for kind, classes in derived.items() for each in classes]
        for kind, event_classes in methods:
            for event_class in event_classes:
                known = known_events.get(event_class.event_type)
                if known is None and not event_class.__subclasses__():
                    remedy = "no aggregate of the application has a method for this event"
                    raise InvalidValue(kind, event_class.__name__, remedy)


def default_application() -> Application:
    """Return the shop that Eventray ships: customers, their orders, their read model, and what is sent to them.

    The handlers that send are off until the environment says where to.
    """
    return Application((Customer, Order), (CustomerProjection,), (WelcomeMail, PromotionNotice))


def application_of(app: Application | str | None) -> Application:
    """Return the application itself, the one that `module:attribute` names, or the default.

    Raises InvalidValue, and as these do.
    """
    if isinstance(app, Application):
        return app
    if not isinstance(app, str | None):
        raise InvalidValue("app", shown(app), "give an Application, or its name, module:attribute")
    return default_application() if app is None else load_application(app)


def load_application(name: str) -> Application:
    """Return the application that `module:attribute` names; the working directory is searched too.

    The attribute may also be a function without parameters that returns one. Raises NoSuchApplication, also
    for whatever the module or the function raises.
    """
    module_name, separator, path = name.partition(":")
    if not (module_name and separator and path):
        raise NoSuchApplication(name, "write module:attribute, for example shop.app:application")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        reason = f"there is no module {error.name}; searched from {here} and in the installed packages"
        raise NoSuchApplication(name, reason) from error
    except (Exception, SystemExit) as error:  # whatever the module does
        raise NoSuchApplication(name, f"importing {module_name} failed: {_said_by(error)}") from error
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except (Exception, SystemExit) as error:  # whatever a property does, or a module's __getattr__
            if isinstance(error, AttributeError) and error.name == attribute and error.obj is found:
                raise NoSuchApplication(name, f"{module_name} has no attribute {path}") from error
            raise NoSuchApplication(name, f"reading {path} failed: {_said_by(error)}") from error
    if isinstance(found, types.FunctionType):
        try:
            found = found()
        except (Exception, SystemExit) as error:  # whatever the function does
            raise NoSuchApplication(name, f"calling {path}() failed: {_said_by(error)}") from error
    if not isinstance(found, Application):
        raise NoSuchApplication(name, f"{path} is a {type(found).__name__}, not an Application")
    return found


def _said_by(error: BaseException) -> str:
    """Return in one line what an error of a user's code says, and where in that code it was raised."""
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    file = frame.f_code.co_filename
    place = "" if file == __file__ or file.startswith("<") else f" ({file}, line {line})"
    return " ".join(told(error).split()) + place


def _resolve_annotations(cls: type) -> None:
    """Put types in the place of annotations written as text, in the methods of a class that travels by value.

    Only what a function's code names travels with it: in another process the text could no longer be understood.
    What can't be understood here either stays as it is; whoever needs it says so.
    """
    for base in cls.__mro__:
        for function in vars(base).values() if base.__module__ == "__main__" else ():
            if isinstance(function, types.FunctionType):
                for name, annotation in function.__annotations__.items():
                    holder = types.SimpleNamespace(__annotations__={name: annotation})
                    with contextlib.suppress(NameError):
                        hints = typing.get_type_hints(holder, globalns=function.__globals__)
                        function.__annotations__[name] = hints[name]
