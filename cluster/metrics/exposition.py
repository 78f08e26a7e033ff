"""Samples of many processes as Prometheus reads them, by prometheus-client. Not here: getting them (`gathering.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from cluster.metrics.counting import Labels, Samples, Value
from cluster.metrics.definitions import METRICS, Metric

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily

PROCESS = "process"
"""The label that all samples carry: the place that they come from."""


class _Gathered(Collector):
    """Samples by process."""

    def __init__(self, samples: Mapping[str, Samples]) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Family]:
        for metric in METRICS.values():
            family = _family(metric)
            for process, samples in self._samples.items():
                for labels, value in samples.get(metric, {}).items():
                    _add(family, metric, (process, *labels), value)
            if family.samples:
                yield family


def exposition(samples: Mapping[str, Samples], accept: str) -> tuple[bytes, str]:
    """Return samples, by process, as text, and its content type: the one that an Accept header asks for."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gathered(samples))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _family(metric: Metric) -> Family:
    labels = (PROCESS, *metric.labels)
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.help, labels=labels, unit=metric.unit)
    if metric.kind == "gauge":
        return GaugeMetricFamily(metric.name, metric.help, labels=labels, unit=metric.unit)
    return HistogramMetricFamily(metric.name, metric.help, labels=labels, unit=metric.unit)


def _add(family: Family, metric: Metric, labels: Labels, value: Value) -> None:
    if isinstance(family, HistogramMetricFamily):
        assert isinstance(value, list)
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(value[1:]), strict=True)), value[0])
    else:
        assert not isinstance(value, list)
        family.add_metric(labels, value)
