"""What tracing costs: the CPU time of a whole runtime in one process, with it off, on, and where it can't be on.

Client, host, store and projection take the same mixed commands in each variant, in a new process each time, the
variants in turns; the least CPU time of each counts, so that a busy machine changes little. Beside it stands what no
machine changes: how many of the functions called belong to tracing. Not here: throughput (`commands.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any

from benchmarks.load import workload
from cluster.settings import Settings
from cluster.testing import InProcessRuntime
from projections.customers import CustomerProjection

VARIANTS = {"absent": None, "off": None, "none sampled": "0", "1 in 100 sampled": "0.01", "all sampled": "1"}
"""The share that OpenTelemetry samples; None: tracing is off. `absent`: OpenTelemetry can't even be imported."""
OF_TRACING = (os.path.join("cluster", "tracing", ""), os.path.join("", "opentelemetry", ""))
WARM_UP = 1_000
COUNTED = 1_000
AT_ONCE = 500
CUSTOMERS_SHARE = 10


class Absent:
    """Lets no module of OpenTelemetry be found."""

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> None:
        """Raises ModuleNotFoundError for those."""
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)


def drop_all_spans(ratio: str) -> None:
    """Let so many of the traces be made, batched and given to an exporter that drops them."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    class Dropping(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(float(ratio))))
    provider.add_span_processor(BatchSpanProcessor(Dropping()))
    trace.set_tracer_provider(provider)


@contextmanager
def counted_calls() -> Iterator[Counter[bool]]:
    """Count the calls of Python functions, those of tracing as True."""
    calls: Counter[bool] = Counter()

    def called(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call":
            calls[any(part in frame.f_code.co_filename for part in OF_TRACING)] += 1

    threading.setprofile(called)
    sys.setprofile(called)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def run(variant: str, commands: int) -> dict[str, float]:
    """Return the CPU time of so many commands, in ms for 1,000, and what share of the calls is tracing's."""
    ratio = VARIANTS[variant]
    if ratio is not None:
        drop_all_spans(ratio)
    work = workload(max(1, commands // CUSTOMERS_SHARE), CUSTOMERS_SHARE)
    with tempfile.TemporaryDirectory(prefix="eventray-bench-") as directory:
        settings = Settings(tracing=ratio is not None, audit_interval_s=0)
        async with InProcessRuntime.open(f"sqlite:///{directory}/shop.db", settings=settings) as runtime:

            async def submit(number: int) -> None:
                for start in range(0, number, AT_ONCE):
                    await runtime.submit_many(itertools.islice(work, min(AT_ONCE, number - start)))
                await runtime.submit(next(work), consistency=[CustomerProjection])

            await submit(WARM_UP)
            gc.collect()
            gc.disable()
            began_s = time.process_time()
            await submit(commands)
            cpu_s = time.process_time() - began_s
            with counted_calls() as calls:
                await submit(COUNTED)
    return {
        "cpu_ms_per_1000": cpu_s / commands * 1e6,
        "calls_per_1000": calls.total() / COUNTED * 1e3,
        "calls_of_tracing_per_1000": calls[True] / COUNTED * 1e3,
    }


def in_a_process(variant: str, commands: int) -> dict[str, float]:
    """Run one variant in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.tracing", "--variant", variant, "--commands", str(commands), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "0"})
    (figures,) = json.loads(done.stdout)
    return dict(figures)


def measure(commands: int, rounds: int) -> list[dict[str, Any]]:
    """Run all variants in turns; return the least of each."""
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(rounds):
        for variant, found in runs.items():
            found.append(in_a_process(variant, commands))
    least = {variant: min(found, key=lambda run: run["cpu_ms_per_1000"]) for variant, found in runs.items()}
    base = least["absent"]["cpu_ms_per_1000"]
    return [
        {"variant": variant, **figures, "more_than_absent_percent": 100 * (figures["cpu_ms_per_1000"] / base - 1)}
        for variant, figures in least.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--commands", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", choices=VARIANTS, help="this one alone, in this process")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.commands < 1_000 or arguments.rounds < 1:
        parser.error(f"--commands {arguments.commands} --rounds {arguments.rounds}: give 1000 and 1 or more")
    if arguments.variant == "absent":
        sys.meta_path.insert(0, Absent())
    if arguments.variant is not None:
        results = [asyncio.run(run(arguments.variant, arguments.commands))]
    else:
        results = measure(arguments.commands, arguments.rounds)
    if arguments.json:
        print(json.dumps(results))
        return
    for result in results:
        print(
            "  ".join(f"{name} {value:,.2f}" if name != "variant" else f"{value:>18}" for name, value in result.items())
        )


if __name__ == "__main__":
    main()
