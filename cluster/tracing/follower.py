"""What projections and handlers do with the events of commands that are traced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry.trace import SpanKind, Tracer, use_span

from cluster.tracing.contexts import context_of, failed, together
from projections.forwarding import ForwardingSink
from projections.handler_sink import HandlerSink
from projections.metering import FollowerMeter
from projections.sink import Sink, Taken
from store.ports import EventStore
from store.records import EventRecord


class FollowerTracer:
    """See `FollowerMeter`; hands on to another one all that it hears."""

    def __init__(self, inner: FollowerMeter, tracer: Tracer) -> None:
        self._inner = inner
        self._tracer = tracer

    def around(self, store: EventStore) -> EventStore:
        return self._inner.around(store)

    def around_sink(self, sink: Sink) -> Sink:
        measured = self._inner.around_sink(sink)
        return measured if isinstance(sink, HandlerSink) else TracedSink(measured, self._tracer)

    def pushed(self, events: int) -> None:
        self._inner.pushed(events)

    @contextmanager
    def around_call(self, handler: str, record: EventRecord) -> Iterator[None]:
        """The handler's own spans, and calls of other systems that are traced, are parts of this one."""
        with self._inner.around_call(handler, record):
            if (context := context_of(record.metadata)) is None:
                yield
                return
            span = self._tracer.start_span(
                f"handle {handler} {record.type}",
                context=context,
                kind=SpanKind.CONSUMER,
                attributes={"eventray.stream": record.stream, "eventray.version": record.version},
            )
            try:
                with use_span(span, record_exception=False, set_status_on_exception=False):
                    yield
            except BaseException as error:
                failed(span, error)
                raise
            finally:
                span.end()


class TracedSink(ForwardingSink):
    """Traces what a projection takes; hands all calls on."""

    def __init__(self, inner: Sink, tracer: Tracer) -> None:
        super().__init__(inner)
        self._tracer = tracer

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        contexts = [context for context in (context_of(record.metadata) for record in batch) if context is not None]
        attributes = {"eventray.events": len(batch)}
        with together(self._tracer, f"project {self.name}", SpanKind.CONSUMER, contexts, attributes) as span:
            taken = await self.inner.take(batch)
            if span is not None:
                span.set_attribute("eventray.applied", taken.applied)
                span.set_attribute("eventray.failed_shards", len(taken.failed))
        return taken
