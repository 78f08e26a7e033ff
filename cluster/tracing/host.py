"""What a host does for the commands that are traced: their execution, and the transactions that store their events."""

from __future__ import annotations

import time
from collections.abc import Sequence

from opentelemetry.trace import SpanKind, Tracer

from actors.mail import OpenCall
from actors.metering import HostMeter
from actors.wire import Call, Receipt
from cluster.tracing.client import attributes_of
from cluster.tracing.contexts import context_of, failed, together
from store.forwarding import Forwarding
from store.ports import EventStore
from store.records import ShardAppend


class HostTracer:
    """See `HostMeter`; hands on to another one all that it hears."""

    def __init__(self, inner: HostMeter, tracer: Tracer, host: str) -> None:
        self._inner = inner
        self._tracer = tracer
        self._host = host

    def around(self, store: EventStore) -> EventStore:
        return TracedStore(self._inner.around(store), self._tracer)

    def answered(self, request: Call, call: OpenCall) -> None:
        self._inner.answered(request, call)
        now_ns, now_s, turn = time.time_ns(), time.monotonic(), call.turn
        for message, answer in zip(request.commands, call.answers, strict=True):
            if (context := context_of(message.metadata)) is None:
                continue
            span = self._tracer.start_span(
                f"execute {message.command_type}",
                context=context,
                kind=SpanKind.CONSUMER,
                start_time=now_ns - int((now_s - call.arrived_s) * 1e9),
                attributes={
                    "eventray.host": self._host,
                    "eventray.command_id": message.command_id,
                    "eventray.batch_commands": len(request.commands),
                },
            )
            if turn is not None:
                span.set_attribute("eventray.queue_s", max(0.0, turn.began_s - call.arrived_s))
                span.set_attribute("eventray.decide_s", turn.ended_s - turn.began_s)
            if isinstance(answer, Receipt):
                span.set_attributes(attributes_of(answer))
            elif answer is not None:
                failed(span, answer)
            span.end(now_ns)


class TracedStore(Forwarding):
    """Traces appends; hands all calls on."""

    def __init__(self, inner: EventStore, tracer: Tracer) -> None:
        self.inner = inner
        self._tracer = tracer

    async def append(self, appends: Sequence[ShardAppend]) -> set[int]:
        found = (context_of(record.metadata) for append in appends for record in append.records)
        contexts = [context for context in found if context is not None]
        attributes = {
            "eventray.events": sum(len(append.records) for append in appends),
            "eventray.shards": len(appends),
        }
        with together(self._tracer, "append", SpanKind.CLIENT, contexts, attributes) as span:
            fenced = await self.inner.append(appends)
            if span is not None:
                span.set_attribute("eventray.fenced", len(fenced))
        return fenced
