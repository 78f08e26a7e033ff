"""How log lines look, and where they go, in a process that says nothing else about it.

In a program they go to stderr, from warnings on; in a worker of Ray's all of them go to the worker's own log file.
Tracebacks come without the values of variables, among which passwords may be. A program that has configured structlog
keeps what it chose. Not here: what is logged.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure_logs(in_worker: bool = False) -> None:
    """Set structlog up, unless that has been done. Calling it twice is safe."""
    if structlog.is_configured():
        return
    chosen: dict[str, Any] = {}
    if not in_worker:
        chosen["wrapper_class"] = structlog.make_filtering_bound_logger(logging.WARNING)
        chosen["logger_factory"] = lambda *_: structlog.PrintLogger(sys.stderr)  # as it is then: it may be redirected
    renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], renderer], **chosen)
