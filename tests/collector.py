"""A collector of traces for the tests: takes what OpenTelemetry sends by OTLP over HTTP. Not a test itself."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

ACTOR = re.compile(r"(host|projections)(-\d+){3}")


class Collected(NamedTuple):
    """A span, as far as tests look at it."""

    trace: bytes
    name: str
    process: str
    """The name of the actor that made it; `driver` for any other process."""


class Collector:
    """What has been sent here so far."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Collected] = []

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            instance = names["service.instance.id"]
            process = instance if ACTOR.fullmatch(instance) else "driver"
            for scope in resource.scope_spans:
                self.spans += [Collected(span.trace_id, span.name, process) for span in scope.spans]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listen on this machine for as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
