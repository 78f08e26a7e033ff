"""The tracer of this process, and where its spans go: what OpenTelemetry's own environment variables say.

A program that has set a tracer provider keeps it. Else one is made by OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
OTEL_TRACES_SAMPLER, OTEL_BSP_*, OTEL_EXPORTER_OTLP_* and OTEL_TRACES_EXPORTER. Not here: what is traced.
"""

from __future__ import annotations

import os
from importlib.metadata import entry_points

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import ProxyTracerProvider, Tracer

from store.errors import InvalidValue

EXPORTERS_VARIABLE = "OTEL_TRACES_EXPORTER"
OTLP = {"otlp": "otlp_proto_http"}
"""What the extra brings for the name that everybody uses."""
FLUSH_WITHIN_S = 2.0


def process_tracer(instance: str | None = None) -> Tracer:
    """Return the tracer of this process; `instance` names it among the others, if no provider has been set yet.

    Raises InvalidValue for an exporter that is not installed.
    """
    if isinstance(trace.get_tracer_provider(), ProxyTracerProvider):
        trace.set_tracer_provider(_provider(instance))
    return trace.get_tracer("eventray")


def flush_spans() -> None:
    """Send what waits to be sent, for up to 2 s. Blocks."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(int(FLUSH_WITHIN_S * 1000))


def _provider(instance: str | None) -> TracerProvider:
    attributes = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "eventray"}
    if instance is not None:
        attributes[SERVICE_INSTANCE_ID] = instance
    provider = TracerProvider(resource=Resource.create(attributes))
    for name in os.environ.get(EXPORTERS_VARIABLE, "otlp").split(","):
        if name.strip() not in ("", "none"):
            provider.add_span_processor(BatchSpanProcessor(_exporter(name.strip())))
    return provider


def _exporter(name: str) -> SpanExporter:
    found = list(entry_points(group="opentelemetry_traces_exporter", name=OTLP.get(name, name)))
    if not found:
        remedy = "give one that is installed: console; otlp comes with `pip install eventray[tracing]`"
        raise InvalidValue(EXPORTERS_VARIABLE, repr(name), remedy)
    exporter: SpanExporter = found[0].load()()
    return exporter
