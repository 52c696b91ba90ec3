"""Metrics in the format of Prometheus. The only module that imports prometheus-client, which takes long.

Everything is built at the time of a scrape, so metrics that nobody reads cost nothing.
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
    """Return all metrics and their media type: OpenMetrics if `accept` names it, else plain text."""
    try:
        encode, media_type = choose_encoder(accept)
    except (TypeError, ValueError):  # raised for a version that is not a number
        encode, media_type = choose_encoder("")
    return encode(_Families(seen)), media_type


class _Families(Collector):
    """The metrics of one scrape: ours, and `process_*` where the system provides them."""

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
