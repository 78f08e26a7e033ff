"""What a run was measured on: machine, versions, durability."""

from __future__ import annotations

import os
import platform
import sqlite3
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
        "processor": _processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        **(_describe_sqlite(directory) if directory is not None else {}),
    }


def _processor() -> str:
    """Return the processor's name; "unknown" where Linux's /proc/cpuinfo does not tell."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


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
