"""The file by which a Prometheus on an exporter's machine finds it, beside the one in which Ray lists its own agents.

Each exporter writes one of its own, and takes it back; what one has left that was killed, its successor takes away, or
whoever comes next. Not here: serving (`serving.py`), and when (`exporter.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.ray_edge import NAMESPACE_PREFIX
from store.process import machine, started, this_process
from store.records import Writer

SUFFIX = "_service_discovery.json"
PROCESS = "__meta_process"
"""The label that names the process that serves; Prometheus drops those that begin like this."""


def target_of(url: str, namespace: str) -> dict[str, Any]:
    """Return an exporter as Prometheus' service discovery wants it."""
    return {"targets": [url.removeprefix("http://")], "labels": {"job": "eventray", "namespace": namespace}}


def announce(directory: Path, url: str, namespace: str) -> None:
    """Say in a file that this process serves that runtime, from now on alone. Doing it twice is safe."""
    path = _path(directory, namespace)
    for file in _announced(directory, f"{namespace}."):
        if file != path:
            file.unlink(missing_ok=True)
    sweep(directory)
    target = target_of(url, namespace)
    target["labels"][PROCESS] = json.dumps(this_process())
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps([target]))
    draft.replace(path)


def withdraw(directory: Path, namespace: str) -> None:
    """Take back what this process has said of that runtime, if it has. May be called from any thread."""
    _path(directory, namespace).unlink(missing_ok=True)


def sweep(directory: Path) -> None:
    """Take away what exporters of this machine have left that were killed."""
    for file in _announced(directory, NAMESPACE_PREFIX):
        process = _process_in(file)
        if process is not None and process.machine == machine() and started(process.pid) != process.started:
            file.unlink(missing_ok=True)


def _path(directory: Path, namespace: str) -> Path:
    return directory / f"{namespace}.{os.getpid()}{SUFFIX}"


def _announced(directory: Path, prefix: str) -> Iterator[Path]:
    yield from directory.glob(f"{prefix}*{SUFFIX}")


def _process_in(file: Path) -> Writer | None:
    """Return which process has written a file; None where it does not say so, or is gone already."""
    try:
        (target,) = json.loads(file.read_text())
        machine_name, pid, since = json.loads(target["labels"][PROCESS])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Writer(str(machine_name), int(pid), str(since))
