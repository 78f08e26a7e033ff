"""Traces: one from submit to handler, over group commits by links; and nothing at all while it is off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, format_trace_id

from actors.customers import CreateCustomer, CreateOrder, Customer, CustomerCreated, Order
from actors.errors import DomainError
from cluster import Application
from cluster.settings import Settings
from cluster.testing import InProcessRuntime
from cluster.tracing.contexts import context_of, parent, traceparent_of
from projections import Handler, Policy
from projections.customers import CustomerProjection

TRACED = Settings(tracing=True)
ADA = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Greeter(Handler, start="beginning", policy=Policy(attempts_max=1)):
    """Takes all but one customer; within it a span of the user's own is begun."""

    async def on_created(self, event: CustomerCreated) -> None:
        with trace.get_tracer("a user's").start_as_current_span("send a mail"):
            await asyncio.sleep(0)
        if event.customer_id == "c-bad":
            raise ValueError("no such mailbox")


class Caller(Handler, start="beginning"):
    """A plain method, which runs on a thread."""

    def on_created(self, event: CustomerCreated) -> None:
        trace.get_tracer("a user's").start_span("telephone").end()


SHOP = Application([Customer, Order], [CustomerProjection], handlers=[Greeter, Caller])


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Where the spans of this process go. OpenTelemetry lets a process have one provider."""
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    return spans


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


async def made(spans: InMemorySpanExporter, *names: str) -> dict[str, ReadableSpan]:
    """Wait until there are spans of these names; return the last of each name."""
    found: dict[str, ReadableSpan] = {}
    async with asyncio.timeout(20):
        while not found.keys() >= set(names):
            found = {span.name: span for span in spans.get_finished_spans()}
            await asyncio.sleep(0.01)
    return found


def trace_of(span: ReadableSpan) -> int:
    return context(span).trace_id


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return int(span.parent.span_id)


def id_of(span: ReadableSpan) -> int:
    return context(span).span_id


def context(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


async def test_one_trace_leads_from_submit_to_the_handlers(spans: InMemorySpanExporter) -> None:
    async with InProcessRuntime.open(app=SHOP, settings=TRACED) as runtime:
        with trace.get_tracer("a user's").start_as_current_span("sign up"):
            receipt = await runtime.submit(ADA, command_id="k-1")
        names = ("execute CreateCustomer", "append", "project CustomerProjection", "handle Greeter CustomerCreated")
        found = await made(spans, *names, "handle Caller CustomerCreated", "sign up", "submit CreateCustomer")
    begun, submitted = found["sign up"], found["submit CreateCustomer"]
    assert parent_of(submitted) == id_of(begun)
    assert (submitted.attributes or {})["eventray.command_id"] == "k-1"
    for name in (*names, "handle Caller CustomerCreated"):
        assert (trace_of(found[name]), parent_of(found[name])) == (trace_of(begun), id_of(submitted)), name
    assert parent_of(found["send a mail"]) == id_of(found["handle Greeter CustomerCreated"])
    assert parent_of(found["telephone"]) == id_of(found["handle Caller CustomerCreated"])
    execution = found["execute CreateCustomer"].attributes or {}
    assert (execution["eventray.stream"], execution["eventray.host"]) == (receipt.stream, "host-1-1-1")
    for span in spans.get_finished_spans():
        assert span.end_time is not None
        assert span.start_time is not None
        assert 0 <= span.end_time - span.start_time < 20e9, span.name


async def test_a_group_commit_names_its_commands_and_is_named_by_them(spans: InMemorySpanExporter) -> None:
    orders = [CreateOrder(order_id=f"o-{n}", customer_id="c-1", total_amount=Decimal(1)) for n in range(3)]
    async with InProcessRuntime.open(settings=TRACED) as runtime:
        await runtime.submit(ADA)
        spans.clear()
        await runtime.submit_many(orders)
    finished = spans.get_finished_spans()
    (commit,) = [span for span in finished if span.name == "append (all)"]
    parts = [span for span in finished if span.name == "append"]
    submitted = {id_of(span): span for span in finished if span.name == "submit CreateOrder"}
    assert {link.context.span_id for link in commit.links} == submitted.keys() == {parent_of(part) for part in parts}
    for part in parts:
        assert [link.context.span_id for link in part.links] == [id_of(commit)]
        assert trace_of(part) == trace_of(submitted[parent_of(part)])
        assert (part.attributes or {})["eventray.batch_commands"] == 3
        assert (part.start_time, part.end_time) == (commit.start_time, commit.end_time)
    assert len({trace_of(span) for span in (commit, *parts)}) == 4


async def test_a_trace_that_the_caller_sends_along_is_gone_on_with(spans: InMemorySpanExporter) -> None:
    sent = f"00-{TRACE}-b7ad6b7169203331-01"
    async with InProcessRuntime.open(app=SHOP, settings=TRACED) as runtime:
        await runtime.submit(ADA, metadata={"traceparent": sent, "screen": "sign-up"})
        found = await made(spans, "submit CreateCustomer", "handle Greeter CustomerCreated")
        stored = await anext(runtime.stream(CustomerCreated, start="beginning"))
    assert {format_trace_id(trace_of(span)) for name, span in found.items() if not name.endswith("(all)")} == {TRACE}
    assert stored.metadata.extra == {"screen": "sign-up"}
    assert parent_of(found["submit CreateCustomer"]) == int("b7ad6b7169203331", 16)
    assert stored.metadata.traceparent == traceparent_of(
        trace.NonRecordingSpan(context(found["submit CreateCustomer"]))
    )


async def test_what_is_not_sampled_is_not_traced_by_the_hosts(spans: InMemorySpanExporter) -> None:
    async with InProcessRuntime.open(app=SHOP, settings=TRACED) as runtime:
        receipt = await runtime.submit(ADA, metadata={"traceparent": f"00-{TRACE}-b7ad6b7169203331-00"})
        await runtime.query(CustomerProjection, "c-1", after=receipt)
    assert {span.name for span in spans.get_finished_spans()} <= {"send a mail", "telephone"}


async def test_refusals_and_failures_are_told_on_their_spans(spans: InMemorySpanExporter) -> None:
    async with InProcessRuntime.open(app=SHOP, settings=TRACED) as runtime:
        await runtime.submit(ADA)
        await made(spans, "handle Greeter CustomerCreated")
        spans.clear()
        with pytest.raises(DomainError):
            await runtime.submit(ADA)
        found = await made(spans, "submit CreateCustomer", "execute CreateCustomer")
        for span in found.values():
            assert ((span.attributes or {})["error.type"], span.status.status_code.name) == ("DomainError", "ERROR")
        await runtime.submit(CreateCustomer(customer_id="c-bad", name="Eve", email="eve@example.com"))
        found = await made(spans, "handle Greeter CustomerCreated")
        assert (found["handle Greeter CustomerCreated"].attributes or {})["error.type"] == "ValueError"


def test_a_context_is_read_as_it_was_written() -> None:
    sent = f"00-{TRACE}-b7ad6b7169203331-01"
    read = context_of(f'{{"traceparent":"{sent}","x":1}}')
    assert read is not None
    assert traceparent_of(trace.get_current_span(read)) == sent
    assert traceparent_of(trace.get_current_span(parent(sent))) == sent
    unsampled = f'{{"traceparent":"{sent[:-2]}00"}}'
    within = f'{{"x":{{"traceparent":"{sent[:-2]}00"}},"traceparent":"{sent}"}}'
    found = context_of(within)
    assert found is not None
    assert traceparent_of(trace.get_current_span(found)) == sent
    for nothing in (
        f'{{"traceparent": "{sent[:-2]}00"}}',
        f'{{"traceparent":"{sent[:-2]}02"}}',
        "",
        "{}",
        '{"x":"traceparent"}',
        '{"traceparent":null}',
        unsampled,
    ):
        assert context_of(nothing) is None


OFF = """
import asyncio, sys
from actors.customers import CreateCustomer
from cluster.client import CommandClient
from cluster.testing import InProcessRuntime
from projections.customers import CustomerProjection

async def main():
    async with InProcessRuntime.open() as runtime:
        receipt = await runtime.submit(CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com"))
        await runtime.query(CustomerProjection, "c-1", after=receipt)
        assert type(runtime._ports.client) is CommandClient

asyncio.run(main())
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""


def test_while_it_is_off_nothing_of_it_is_imported_and_no_command_passes_it() -> None:
    subprocess.run([sys.executable, "-c", OFF], check=True, timeout=50)


WRONG = """
import asyncio
from cluster.settings import Settings
from cluster.testing import InProcessRuntime

async def main():
    async with InProcessRuntime.open(settings=Settings(tracing=True)):
        pass

asyncio.run(main())
"""


def test_an_exporter_that_is_not_installed_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
    done = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "OTEL_TRACES_EXPORTER = 'carrier-pigeon': give one that is installed" in done.stderr.splitlines()[-1]
