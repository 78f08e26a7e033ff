"""A client whose commands begin traces, or follow from the span that is current where they are submitted."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Tracer

from actors.wire import Receipt
from cluster.client import CommandClient
from cluster.tracing.contexts import KEY, failed, parent, traceparent_of


class TracedClient(CommandClient):
    """See `CommandClient`. A `traceparent` that the caller sends along goes before the current span."""

    def __init__(self, tracer: Tracer, *arguments: Any) -> None:
        """`arguments` are those of a CommandClient."""
        super().__init__(*arguments)
        self._tracer = tracer

    def submit(
        self,
        partition_key: str,
        command_type: str,
        data: str,
        command_id: str | None = None,
        *,
        metadata: str = "",
        **keywords: Any,
    ) -> asyncio.Future[Receipt]:
        known: dict[str, Any] = json.loads(metadata) if metadata else {}
        context: Context | None = parent(known[KEY]) if KEY in known else None
        span = self._tracer.start_span(f"submit {command_type}", context=context, kind=SpanKind.PRODUCER)
        packed = json.dumps({**known, KEY: traceparent_of(span)}, separators=(",", ":"))
        try:
            future = super().submit(partition_key, command_type, data, command_id, metadata=packed, **keywords)
        except BaseException as error:
            failed(span, error)
            span.end()
            raise
        future.add_done_callback(partial(_answered, span))
        return future


def _answered(span: Span, future: asyncio.Future[Receipt]) -> None:
    if future.cancelled():
        span.set_attribute("error.type", "cancelled")
    elif (error := future.exception()) is not None:
        failed(span, error)
    else:
        span.set_attributes(attributes_of(future.result()))
    span.end()


def attributes_of(receipt: Receipt) -> dict[str, Any]:
    """Return what a span says of a command that succeeded."""
    return {
        "eventray.command_id": receipt.command_id,
        "eventray.stream": receipt.stream,
        "eventray.version": receipt.version,
        "eventray.shard": receipt.shard,
        "eventray.position": receipt.position,
        "eventray.duplicate": receipt.duplicate,
    }
