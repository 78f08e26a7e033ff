"""A journal: what one process did and when, line by line, in a file that only it appends to.

Each line is one JSON object, written with one `write` of the system's, so that all lines but perhaps the last outlive
kill -9. Moments are seconds of the machine's monotonic clock, which all its processes share. Not here: what the lines
mean (`evidence.py` reads them, `driver.py` and `nemesis.py` write them).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Journal:
    """A journal that is being written."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, do: str, **fields: Any) -> float:
        """Append a line; return its moment, which was taken before it was written."""
        at_s = time.monotonic()
        line = json.dumps({"at": at_s, "do": do, **fields}, separators=(",", ":")) + "\n"
        os.write(self._file, line.encode())
        return at_s

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal; a last one that breaks off is left out. Raises ValueError for another one."""
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]
