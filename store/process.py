"""OS processes: which one is this, is that one still the same, and its end.

A pid alone may have been given to another process since, so a process is named by machine, pid and start time. Linux
and macOS. Not here: who may end whom, and why.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from store.records import Writer

GONE_WITHIN_S = 5.0


@cache
def machine() -> str:
    """Return a name for where a pid means this one process: machine id (else host name), boot, and pid namespace."""
    parts = [_first_line("/etc/machine-id") or platform.node(), _first_line("/proc/sys/kernel/random/boot_id")]
    with suppress(OSError):  # not Linux: no containers that could share the file
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(part for part in parts if part)


def this_process() -> Writer:
    """Return the identity of the calling process."""
    return Writer(machine(), os.getpid(), started(os.getpid()) or "")


def started(pid: int) -> str | None:
    """Return the start time of a process as the system words it; None if there is none, or it is a zombie.

    Linux: field 22 of /proc/PID/stat, in clock ticks since the boot. Elsewhere: what `ps` says, to the second.
    """
    if Path("/proc/self/stat").exists():
        line = _first_line(f"/proc/{pid}/stat")
        fields = line.rpartition(")")[2].split()  # the name before the bracket may hold blanks
        return fields[19] if fields and fields[0] not in "ZX" else None
    answer = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(maxsplit=1)
    return answer[1].strip() if len(answer) == 2 and not answer[0].startswith("Z") else None


def end(process: Writer) -> bool:
    """Kill -9 that process, if it still runs, on this machine, and is not the caller; return once it is gone.

    Returns whether it was killed. Raises TimeoutError if it is still there after 5 s (a process the kernel won't let
    go), and PermissionError if it is another user's.
    """
    if process.machine != machine() or process.pid == os.getpid() or started(process.pid) != process.started:
        return False
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    deadline = time.monotonic() + GONE_WITHIN_S
    while started(process.pid) == process.started:
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {process.pid} is still there {GONE_WITHIN_S} s after kill -9")
        time.sleep(0.002)
    return True


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().partition("\n")[0].strip()
    except OSError:
        return ""
