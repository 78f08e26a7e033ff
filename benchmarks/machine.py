"""What a run was measured on: machine, versions, durability. And what one durable commit costs there."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "sqlalchemy", "aiosqlite", "pydantic", "msgpack", "uvloop")
IN_MEMORY = ("tmpfs", "ramfs")


def describe(directory: Path | None) -> dict[str, Any]:
    """Return what the figures depend on; `directory` is where the SQLite store is, None for another store."""
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        **(_describe_sqlite(directory) if directory is not None else {}),
    }


def _describe_sqlite(directory: Path) -> dict[str, Any]:
    file_system = file_system_of(directory)
    return {
        "sqlite": sqlite3.sqlite_version,
        "file_system": file_system,
        "durability": "none: the directory is in memory"
        if file_system in IN_MEMORY
        else "SQLite WAL, synchronous=FULL: fsync at each commit",
    }


def file_system_of(directory: Path) -> str:
    """Return the type of the file system that a directory is on; "unknown" where Linux's /proc/mounts is missing."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    best, kind = "", "unknown"
    for line in mounts.read_text().splitlines():
        _, mount_point, this_kind, *_ = line.split()
        if directory.resolve().is_relative_to(mount_point) and len(mount_point) >= len(best):
            best, kind = mount_point, this_kind
    return kind


def one_row_commit_p50_ms(path: Path, commits: int) -> float:
    """Return the median of durable commits of one row each, by the bare driver, into a new database."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data TEXT)")
    took_s = []
    for number in range(commits):
        started = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO rows VALUES (?, ?)", (number, "x" * 300))
        connection.execute("COMMIT")
        took_s.append(time.perf_counter() - started)
    connection.close()
    return statistics.median(took_s) * 1000
