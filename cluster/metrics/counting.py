"""Counts of one process: plain numbers by metric and labels, added to once for a whole batch.

The classes of prometheus-client take a lock at each change, look labels up, and can't take many observations at once:
here a batch costs a few dictionary look-ups. They come in where it is shown (`exposition.py`). One thread adds, any may
read: what it reads may lack a part of the batch under way. Not here: what is counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import msgpack

from cluster.metrics.definitions import METRICS, Metric

Labels = tuple[str, ...]
Value = float | list[float]
"""A histogram's is a list: the sum, the observations in each bucket, and those beyond the last."""
Samples = dict[Metric, dict[Labels, Value]]


class Counts:
    """What has been counted since the process began."""

    def __init__(self) -> None:
        self._numbers: dict[Metric, dict[Labels, float]] = {}
        self._histograms: dict[Metric, dict[Labels, list[float]]] = {}

    def add(self, metric: Metric, amount: float = 1, *labels: str) -> None:
        """Add to a counter."""
        rows = self._numbers.get(metric)
        if rows is None:
            rows = self._numbers[metric] = {}
        rows[labels] = rows.get(labels, 0) + amount

    def observe(self, metric: Metric, value: float, times: int = 1, *labels: str) -> None:
        """Count so many observations of one value into a histogram."""
        rows = self._histograms.get(metric)
        if rows is None:
            rows = self._histograms[metric] = {}
        row = rows.get(labels)
        if row is None:
            row = rows[labels] = [0.0] * (len(metric.buckets) + 2)
        row[0] += value * times
        row[1 + bisect_left(metric.buckets, value)] += times

    def samples(self) -> Samples:
        """Return all counts as they are now; may be called from any thread."""
        found: Samples = {metric: dict(rows) for metric, rows in list(self._numbers.items())}
        for metric, rows in list(self._histograms.items()):
            found[metric] = {labels: list(row) for labels, row in list(rows.items())}
        return found


def merged(parts: Iterable[Samples]) -> Samples:
    """Return the samples of several sources, none of which has what another has."""
    together: Samples = {}
    for part in parts:
        for metric, rows in part.items():
            together.setdefault(metric, {}).update(rows)
    return together


def pack_samples(samples: Samples) -> bytes:
    """Return samples as bytes, to be sent to the exporter."""
    packed: bytes = msgpack.packb({metric.name: list(rows.items()) for metric, rows in samples.items()})
    return packed


def unpack_samples(packed: bytes) -> Samples:
    """Return the samples of these bytes; metrics that this version of the code does not know are left out.

    Raises ValueError where they are none.
    """
    content: Any = msgpack.unpackb(packed)
    try:
        known = {METRICS[name]: rows for name, rows in content.items() if name in METRICS}
        return {metric: {tuple(labels): value for labels, value in rows} for metric, rows in known.items()}
    except (AttributeError, TypeError) as error:
        raise ValueError(f"no samples: {error}") from error
