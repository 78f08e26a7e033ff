"""A fingerprint of the code that folds an aggregate: what its state depends on besides its events.

It covers the shape of the state; the bytecode of the event methods and of the functions and classes that they use, in
whichever module of the application, with constants, module tables, objects and the attributes' defaults; the event
types with their stored names, schema versions, fields and upcasters. What a function imports when it is called is
imported here, if it wasn't yet. The application is the aggregate's own top-level package and all that is not installed
in site-packages. So comments, line numbers and command methods don't change it; a newer Python does, which costs no
more than the snapshots.

What it can't see: a library's behaviour, what is called by a name that is put together at run time, what folding reads
from files or the environment (it is to be pure). Not here: snapshots (`snapshots.py`).
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from actors.aggregate import Aggregate
from store.events import Event

SIMPLE = (str, bytes, int, float, complex, type(None), type(...), Decimal, UUID, date, time, timedelta)
FRAMEWORK = {"actors.aggregate", "store.events", "store.upcasting"}
"""Modules whose classes every aggregate builds on; what they do is not the application's."""
NOT_THE_APPLICATION = {"store", "actors", "projections", "cluster", "builtins", *sys.stdlib_module_names}
"""Top-level packages, unless the aggregate is of one itself."""
INSTALLED = {"site-packages", "dist-packages"}
CACHES = {"_event_methods", "_appliers"}


def fingerprint_of(aggregate_class: type[Aggregate], state: Mapping[str, Any]) -> str:
    """Return the fingerprint of an aggregate class whose attributes have the types of `state`, as 32 hex digits."""
    walk = _Walk(aggregate_class)
    for name, annotation in sorted(state.items()):
        walk.note("state", name, _without_address(repr(annotation)))
        walk.annotation(annotation)
        walk.enter(inspect.getattr_static(aggregate_class, name, None))
    for name, own in sorted(vars(Aggregate).items()):
        member = inspect.getattr_static(aggregate_class, name)
        if member is not own and isinstance(member, types.FunctionType):
            walk.enter(member)
    event_methods = aggregate_class.event_methods()
    for event_class, method in sorted(event_methods.items(), key=lambda each: each[0].event_type):
        walk.enter(method)
        for known in sorted(_with_subclasses(event_class), key=lambda each: each.event_type):
            walk.event(known)
    return walk.digest()


def _with_subclasses(event_class: type[Event]) -> set[type[Event]]:
    return {event_class}.union(*map(_with_subclasses, event_class.__subclasses__()))


class _Walk:
    """Goes from code to the code that it uses, and notes what it meets, in an order that the code alone decides."""

    def __init__(self, aggregate_class: type[Aggregate]) -> None:
        self._package = aggregate_class.__module__.partition(".")[0]
        self._class = aggregate_class
        self._hash = hashlib.blake2b(digest_size=16)
        self._seen: dict[int, object] = {}

    def digest(self) -> str:
        return self._hash.hexdigest()

    def note(self, *facts: object) -> None:
        """Make facts part of the fingerprint; their `repr` must be the same in every process."""
        self._hash.update(repr(facts).encode(errors="backslashreplace"))

    def annotation(self, annotation: Any) -> None:
        """Enter the classes that an annotation names."""
        self.enter(annotation)
        for argument in typing.get_args(annotation):
            self.annotation(argument)

    def event(self, event_class: type[Event]) -> None:
        """Note a type of event."""
        self.note("event", event_class.event_type, event_class.schema_version)
        self.enter(event_class)
        for upcaster in event_class.upcasters:
            self.note("upcaster", upcaster.from_version, upcaster.to_version)
            self.enter(upcaster.function)

    def enter(self, thing: Any) -> None:
        """Note something that the code uses."""
        if not isinstance(thing, type | types.FunctionType):
            self._enter_other(thing)
        elif not self._is_own(thing.__module__):
            self.note("outside", thing.__module__, thing.__qualname__)
        elif id(thing) in self._seen:
            self.note("again", thing.__module__, thing.__qualname__)
        else:
            self._seen[id(thing)] = thing
            if isinstance(thing, type):
                self._type(thing)
            else:
                self._function(thing)

    def _enter_other(self, thing: Any) -> None:
        """Note a value, or the function within what wraps one: methods, properties, partials, caches, validators."""
        if isinstance(thing, property):
            for function in (thing.fget, thing.fset):
                self.enter(function)
            return
        if isinstance(thing, functools.partial):
            self.enter((thing.args, thing.keywords))
        self.note("value", _words(thing))
        for name in ("__func__", "func", "__wrapped__"):
            function = getattr(thing, name, None)
            if isinstance(function, types.FunctionType):
                self.enter(function)
        if id(thing) not in self._seen:
            for part in self._parts(thing):
                self._seen[id(thing)] = thing
                self.enter(part)

    def _parts(self, thing: Any) -> Iterable[Any]:
        """Yield what `_words` doesn't tell of a value: the functions in a table, an object's class and state."""
        parts: Iterable[Any] = ()
        if isinstance(thing, dict | types.MappingProxyType):
            parts = thing.values()
        elif isinstance(thing, list | tuple):
            parts = thing
        elif not isinstance(thing, Enum) and self._is_own(type(thing).__module__):
            yield type(thing)
            yield from getattr(thing, "__dict__", {}).items()
        yield from (part for part in parts if not isinstance(part, SIMPLE))

    def _is_own(self, module_name: str) -> bool:
        """Tell whether a module is the application's, so that its code is gone into."""
        top = module_name.partition(".")[0]
        if module_name in FRAMEWORK:
            return False
        if top == self._package:
            return True
        module = sys.modules.get(module_name)
        path = getattr(module, "__file__", None)
        return top not in NOT_THE_APPLICATION and _lies_outside([path] if path else getattr(module, "__path__", None))

    def _type(self, kind: type) -> None:
        self.note("class", kind.__qualname__)
        for base in kind.__bases__:
            self.enter(base)
        if issubclass(kind, Enum):
            self.note([(name, _words(member.value)) for name, member in kind.__members__.items()])
        if issubclass(kind, BaseModel):
            for name, field in kind.model_fields.items():
                self.note(name, _without_address(repr(field)))
                self.annotation(field.annotation)
                self.enter(field.default_factory)
        for name, annotation in inspect.get_annotations(kind).items():
            self.note(name, annotation if isinstance(annotation, str) else _without_address(repr(annotation)))
        for name, value in vars(kind).items():
            if name in CACHES or (name.startswith("__") and not isinstance(value, types.FunctionType)):
                continue
            self.note(name)
            self.enter(value)

    def _function(self, function: types.FunctionType) -> None:
        self.enter(function.__defaults__)
        self.enter(function.__kwdefaults__)
        self._code(function.__code__, function.__doc__)
        self.enter(getattr(function, "__wrapped__", None))
        for cell in function.__closure__ or ():
            if cell != types.CellType() and not any(cell.cell_contents is kind for kind in self._class.__mro__):
                self.enter(cell.cell_contents)
        names = list(dict.fromkeys(_names(function.__code__)))
        for name in names:
            if name in function.__globals__:
                self._global(function.__globals__[name], names)
            if name not in vars(Aggregate):
                for kind in self._class.__mro__:  # those of the bases too: `super()` may call them
                    if name in vars(kind):
                        self.enter(vars(kind)[name])
        for level, module_name, wanted in _imports(function.__code__):
            self._import(_absolute(level, module_name, function), wanted, names)

    def _import(self, module_name: str, wanted: Sequence[str], names: Iterable[str]) -> None:
        """Enter what a function imports from a module; without `wanted`, what its names say of the outermost one."""
        module = self._module(module_name)
        if not wanted:
            self._global(self._module(module_name.partition(".")[0]), names)
        for name in wanted:
            is_there = module is not None and hasattr(module, name)
            self._global(getattr(module, name) if is_there else self._module(f"{module_name}.{name}"), names)

    def _module(self, name: str) -> types.ModuleType | None:
        """Return a module by its name, of the application also where nobody has imported it yet; None for any other."""
        if name not in sys.modules and self._may_be_own(name.partition(".")[0]):
            try:
                importlib.import_module(name)
            except ImportError:  # folding may do without it
                return None
        return sys.modules.get(name)

    def _may_be_own(self, top: str) -> bool:
        """Tell whether modules of a top-level package may be the application's, without importing anything."""
        if top == self._package or top in NOT_THE_APPLICATION or top in sys.modules:
            return top == self._package or self._is_own(top)
        spec = importlib.util.find_spec(top)
        return spec is not None and _lies_outside(
            [spec.origin] if spec.has_location else spec.submodule_search_locations
        )

    def _global(self, found: Any, names: Iterable[str], within: tuple[types.ModuleType, ...] = ()) -> None:
        """Enter a global; of a module what the names say, in the modules `within` which it was found too."""
        if not isinstance(found, types.ModuleType):
            self.enter(found)
        elif found not in within and self._is_own(found.__name__):
            for name in names:
                if name in vars(found):
                    self._global(vars(found)[name], names, (*within, found))

    def _code(self, code: types.CodeType, document: str | None) -> None:
        self.note(code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, None)
            elif constant is not document or document is None:
                self.note(_words(constant))


def _lies_outside(paths: Iterable[str | None] | None) -> bool:
    """Tell whether a module of these paths (several: a package without a file of its own) is not an installed one."""
    parts = [Path(path).parts for path in paths or () if path]
    return bool(parts) and not any(INSTALLED & {*each} for each in parts)


def _imports(code: types.CodeType) -> Iterable[tuple[int, str, Sequence[str]]]:
    """Yield what a function, with those within it, imports: how many dots, the module, and the names from it."""
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    for place, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            yield steps[place - 2].argval, step.argval, steps[place - 1].argval or ()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _imports(constant)


def _absolute(level: int, module_name: str, function: types.FunctionType) -> str:
    if not level:
        return module_name
    package = function.__globals__.get("__package__") or function.__module__.rpartition(".")[0]
    return importlib.util.resolve_name("." * level + module_name, package)


def _names(code: types.CodeType) -> Iterable[str]:
    """Yield the globals and attributes that a function's code names, with those of the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _words(value: Any) -> str:
    """Return words for a value that are the same in every process; for what is no plain value, its type alone."""
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(_words, value))})"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({', '.join(sorted(map(_words, value)))})"
    if isinstance(value, dict | types.MappingProxyType):
        return f"dict({', '.join(f'{_words(key)}: {_words(item)}' for key, item in value.items())})"
    return repr(value) if isinstance(value, SIMPLE) else type(value).__qualname__


def _without_address(words: str) -> str:
    return " ".join(word for word in words.split() if not word.startswith("0x"))
