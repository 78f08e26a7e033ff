"""The trace context that travels in metadata, and spans of many commands at once.

A transaction serves many commands, and so does a batch of events: it is a span of its own, and each command that is
traced has a span for its part in it, in its own trace. They name each other by links.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)

KEY = "traceparent"
_MARK = f'"{KEY}"'
_UNSAMPLED = re.compile(rf'{_MARK}:"00-[0-9a-f]{{32}}-[0-9a-f]{{16}}-[0-9a-f][02468ace]"')
"""As we write it. Most commands of a production are not sampled, and a search costs a fifth of reading the JSON."""


def traceparent_of(span: Span) -> str:
    """Return a span's context as W3C writes it."""
    context = span.get_span_context()
    flags = f"{int(context.trace_flags):02x}"
    return f"00-{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}-{flags}"


def context_of(metadata: str) -> Context | None:
    """Return the trace context in metadata, a JSON object in text; None where there is none that is sampled."""
    if _MARK not in metadata or (metadata.count(_MARK) == 1 and _UNSAMPLED.search(metadata)):
        return None
    traceparent = json.loads(metadata).get(KEY)
    if not isinstance(traceparent, str) or not int(traceparent[-2:], 16) & TraceFlags.SAMPLED:
        return None
    return parent(traceparent)


def parent(traceparent: str) -> Context:
    """Return the context in which a span follows from that one."""
    _, trace_id, span_id, flags = traceparent.split("-")
    remote = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return trace.set_span_in_context(NonRecordingSpan(remote), Context())


def failed(span: Span, error: BaseException) -> None:
    """Say on a span that it came to nothing, and why."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR, str(error)))


@contextmanager
def together(
    tracer: Tracer, name: str, kind: SpanKind, contexts: Iterable[Context], attributes: Mapping[str, Any]
) -> Iterator[Span | None]:
    """Trace one piece of work that serves many commands, whose trace contexts are given; None where none is traced.

    Each gets a span of that name in its own trace, as long as the work, which links to the work's own span.
    """
    parents = list({trace.get_current_span(each).get_span_context().span_id: each for each in contexts}.values())
    if not parents:
        yield None
        return
    began_ns = time.time_ns()
    links = [Link(trace.get_current_span(each).get_span_context()) for each in parents]
    whole = tracer.start_span(
        f"{name} (all)", context=Context(), kind=kind, links=links, attributes={**attributes}, start_time=began_ns
    )
    error: BaseException | None = None
    try:
        yield whole
    except BaseException as raised:
        error = raised
        raise
    finally:
        back, ended_ns = [Link(whole.get_span_context())], time.time_ns()
        for each in parents:
            part = tracer.start_span(name, context=each, kind=kind, links=back, start_time=began_ns)
            part.set_attribute("eventray.batch_commands", len(parents))
            if error is not None:
                failed(part, error)
            part.end(ended_ns)
        if error is not None:
            failed(whole, error)
        whole.end(ended_ns)
