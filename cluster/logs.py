"""Where log lines go in a process that says nothing else about it: to stderr, from warnings on.

A program that has configured structlog keeps what it chose. Ray's workers keep structlog's defaults: all lines, into
the worker's own log file. Not here: what is logged.
"""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logs() -> None:
    """Send warnings and errors to stderr, unless structlog has been configured. Calling it twice is safe."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is then: it may be redirected
        )
