"""Where it runs: settings, applications, the coordinator, clients, and the runtime that users open."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cluster.application import Application, load_application
from cluster.settings import Settings

if TYPE_CHECKING:
    from cluster.runtime import Runtime
    from cluster.sync import SyncRuntime

__all__ = ["Application", "Runtime", "Settings", "SyncRuntime", "load_application"]

_NEED_RAY = {"Runtime": "cluster.runtime", "SyncRuntime": "cluster.sync"}


def __getattr__(name: str) -> Any:
    """Import what needs Ray when it is first asked for: reading a store must not cost Ray's import."""
    if name not in _NEED_RAY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NEED_RAY[name]), name)
