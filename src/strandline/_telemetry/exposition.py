"""Metrics in the form that Prometheus reads. The only module that knows prometheus-client, which takes long to import.

Everything is put together when somebody asks, so that nobody pays for metrics that nobody reads.
"""

import math
from collections.abc import Iterable

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from strandline._telemetry.catalogue import METRICS, PREFIX, Metric, Seen
from strandline._telemetry.recorder import Distribution

_PROCESS = ProcessCollector(registry=None)


def exposed(seen: Seen, accept: str) -> tuple[bytes, str]:
    """Return all metrics and the media type that they are in: OpenMetrics if `accept` names it, else plain text."""
    try:
        encode, media_type = choose_encoder(accept)
    except (TypeError, ValueError):  # what it raises for a version that is no number
        encode, media_type = choose_encoder("")
    return encode(_Families(seen)), media_type


class _Families(Collector):
    """What a scrape is told: our metrics, and `process_*` where the system tells them."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def collect(self) -> Iterable[Family]:
        for metric in METRICS:
            yield _family(metric, self._seen)
        yield from _PROCESS.collect()


def _family(metric: Metric, seen: Seen) -> Family:
    name = PREFIX + metric.name
    family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    match metric.kind:
        case "counter":
            family = CounterMetricFamily(name, metric.meaning, labels=metric.labels)
        case "gauge":
            family = GaugeMetricFamily(name, metric.meaning, labels=metric.labels)
        case "histogram":
            family = HistogramMetricFamily(name, metric.meaning, labels=metric.labels)
    for labels, value in metric.read(seen):
        if isinstance(value, Distribution):
            assert isinstance(family, HistogramMetricFamily)
            buckets, total = value.seen()
            family.add_metric(labels, [(_bound(bound), count) for bound, count in buckets], total)
        elif value is not None:
            assert not isinstance(family, HistogramMetricFamily)
            family.add_metric(labels, value)
    return family


def _bound(bound: float) -> str:
    return "+Inf" if math.isinf(bound) else repr(bound)
