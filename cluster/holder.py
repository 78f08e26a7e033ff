"""How a process that opens a runtime is named in the store, so that others can tell whether it still lives.

Not here: taking the store (`store/taking.py`).
"""

from __future__ import annotations

import os
import platform
import re

from store.identity import uuid7
from store.process import started

_OPENER = re.compile(r"process (\d+) on (.+), [0-9a-f]{8}")


def this_holder(detached: bool = False) -> str:
    """Return a name for a runtime that ends with this process, or is `detached` and stays; another at each call."""
    if detached:
        return f"a runtime that was brought up on {platform.node()}, {uuid7().hex[-8:]}"
    return f"process {os.getpid()} on {platform.node()}, {uuid7().hex[-8:]}"


def has_ended(holder: str) -> bool:
    """Tell whether it names a process of this machine that is gone, so that its runtime is about to end too."""
    found = _OPENER.fullmatch(holder)
    return found is not None and found[2] == platform.node() and started(int(found[1])) is None
