"""What the system says of processes: the CPU time of each thread, memory, and who began whom. Linux only: /proc.

Not here: what a process is to a runtime (`accounting.py`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

MB = 1_000_000
PROC = Path("/proc")


class Thread(NamedTuple):
    """One thread of one process."""

    pid: int
    tid: int


def check_linux() -> None:
    """End the program where there is no /proc to read."""
    if not Path(PROC, "self", "schedstat").exists():
        sys.exit("this benchmark reads the CPU time and memory of processes from Linux's /proc, which is not here")


def cpu_s_of(pid: int) -> dict[Thread, float]:
    """Return the seconds of CPU that each thread of a process has had; nothing where the process is gone.

    To the nanosecond (schedstat), where the process's own sum counts in hundredths of a second.
    """
    found: dict[Thread, float] = {}
    for each in _listed(PROC / str(pid) / "task"):
        if text := _text(each / "schedstat"):
            found[Thread(pid, int(each.name))] = int(text.split()[0]) / 1e9
    return found


def cpu_s_between(before: Mapping[Thread, float], after: Mapping[Thread, float]) -> dict[Thread, float]:
    """Return what each thread has had between two readings. What one that has ended meanwhile had is lost."""
    return {thread: total_s - before.get(thread, 0.0) for thread, total_s in after.items()}


def memory_mb_of(pid: int) -> dict[str, float]:
    """Return PSS and RSS of a process, in millions of bytes.

    PSS: a page that several processes share counts for each of them in part, so that a sum counts it once.
    """
    lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return {name.lower(): values[name] * 1024 / MB for name in ("Pss", "Rss")}


def available_mb() -> float:
    """Return the memory that new processes may take without swapping, in millions of bytes."""
    values = dict(line.split(":") for line in (PROC / "meminfo").read_text().splitlines())
    return int(values["MemAvailable"].split()[0]) * 1024 / MB


def descendants_of(pid: int) -> list[int]:
    """Return the processes that a process has begun, and those that they have begun."""
    begun: dict[int, list[int]] = {}
    for process in _processes():
        begun.setdefault(parent_of(process), []).append(process)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = begun.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def parent_of(pid: int) -> int:
    """Return the process that began a process; 0 where it is gone."""
    fields = _text(PROC / str(pid) / "stat").rpartition(")")[2].split()  # the name before the bracket may hold blanks
    return int(fields[1]) if fields else 0


def program_of(pid: int) -> str:
    """Return the name of the program that a process runs; empty where it is gone."""
    return Path(_text(PROC / str(pid) / "cmdline").split("\0")[0]).name


def _processes() -> Iterator[int]:
    return (int(each.name) for each in _listed(PROC) if each.name.isdigit())


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
