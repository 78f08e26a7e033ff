"""Where it runs: settings, applications, the coordinator, clients, and the runtime that users open."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.application import Application, load_application
    from cluster.runtime import Runtime
    from cluster.settings import Settings
    from cluster.sync import SyncRuntime

__all__ = ["Application", "Runtime", "Settings", "SyncRuntime", "load_application"]

_MODULES = {
    "Application": "cluster.application",
    "Runtime": "cluster.runtime",
    "Settings": "cluster.settings",
    "SyncRuntime": "cluster.sync",
    "load_application": "cluster.application",
}


def __getattr__(name: str) -> Any:
    """Import what is first asked for: reading a store must not cost Ray's import, and Ctrl-C not wait for any."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
