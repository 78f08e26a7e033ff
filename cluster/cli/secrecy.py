"""Taking passwords out of sight of `ps`. Not here: what a URL without its password looks like (`store/urls.py`)."""

from __future__ import annotations

import shlex
import sys

from setproctitle import setproctitle

from store.urls import shown_url


def hide_passwords() -> None:
    """Write *** over the passwords in this process's arguments, as the command lines of databases do.

    For a moment they were there to be seen: EVENTRAY_STORE is better.
    """
    shown = [shown_url(argument) for argument in sys.orig_argv]
    if shown != sys.orig_argv:
        setproctitle(shlex.join(shown))
