"""How log lines look, and where they go, in a process that says nothing else about it.

In a program they go to stderr, from warnings on; in a worker of Ray's all of them go to the worker's own log file,
which Ray's dashboard shows. Tracebacks come without the values of variables, among which passwords may be. A line that
is written while something is worked on names it (`subject`). A program that has configured structlog keeps what it
chose. Not here: what is logged.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Literal

import structlog

from store.records import EventRecord

LogFormat = Literal["console", "json"]

FORMAT_VARIABLE = "EVENTRAY_LOG_FORMAT"

subject: ContextVar[Callable[[], Mapping[str, Any]] | None] = ContextVar("subject", default=None)
"""What is being worked on: returns the fields that tell it, for whoever logs meanwhile, users' code too."""


def configure_logs(log_format: LogFormat | None = None, *, in_worker: bool = False, actor: str | None = None) -> None:
    """Set structlog up, unless that has been done. Calling it twice is safe.

    `log_format` None: the one that EVENTRAY_LOG_FORMAT names, else `console`. `actor` is put into each line.
    """
    if structlog.is_configured():
        return
    chosen: dict[str, Any] = {}
    if not in_worker:
        chosen["wrapper_class"] = structlog.make_filtering_bound_logger(logging.WARNING)
        chosen["logger_factory"] = lambda *_: structlog.PrintLogger(sys.stderr)  # as it is then: it may be redirected
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _adding({} if actor is None else {"actor": actor}),
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.dev.set_exc_info,
            *_renderers(log_format or os.environ.get(FORMAT_VARIABLE)),
        ],
        **chosen,
    )


def described(record: EventRecord) -> dict[str, Any]:
    """Return the fields by which log lines tell a stored event, and the command that caused it."""
    try:
        known = json.loads(record.metadata or "{}")
    except ValueError:
        known = {}
    about = {"stream": record.stream, "version": record.version, "event_type": record.type}
    return about | command_fields(known.get("command_id"), known) if isinstance(known, dict) else about


def command_fields(command_id: str | None, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields by which log lines tell a command, from its metadata too."""
    if command_id is None:
        return {}
    return {"command_id": command_id, "correlation_id": metadata.get("correlation_id") or command_id}


def _adding(fields: Mapping[str, Any]) -> structlog.typing.Processor:
    def add(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        tell = subject.get()
        for key, value in {**fields, **(tell() if tell is not None else {})}.items():
            line.setdefault(key, value)
        return line

    return add


def _renderers(log_format: str | None) -> list[structlog.typing.Processor]:
    if log_format == "json":
        return [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    return [
        structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
