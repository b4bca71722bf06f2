"""The metrics in Prometheus' text format.

The only importer of prometheus_client, which takes as long to import as a small model to load: so
it is imported for the first scrape.

Source: Prometheus' documentation, "Exposition formats".
"""

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from gpux.observability.metrics import Distribution, Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text_of(metrics: Metrics) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Families(metrics))
    master, workers = metrics.processes()
    if master is None:
        ProcessCollector(registry=registry)
    else:
        registry.register(_ProcessMetrics(master, workers))
    PlatformCollector(registry=registry)
    return generate_latest(registry)


class _Families(Collector):
    """The metrics of this project."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Yields the metric families, for prometheus_client."""
        for family in self._metrics.families():
            if family.kind == "histogram":
                histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
                for labels, value in family.samples:
                    assert isinstance(value, Distribution)
                    histogram.add_metric(labels, value.buckets, value.total)
                yield histogram
                continue
            make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            values = make(family.name, family.help, labels=family.labels)
            for labels, value in family.samples:
                assert not isinstance(value, Distribution)
                values.add_metric(labels, value)
            yield values


class _ProcessMetrics(Collector):
    """The process metrics of prometheus_client, summed over the master and its workers.

    Args:
        master, workers: their process ids. The CPU time includes that of exited workers.
    """

    # Families that do not add up: the minimum is reported.
    _MINIMUM = frozenset({"process_start_time_seconds", "process_max_fds"})

    def __init__(self, master: int, workers: set[int]) -> None:
        self._master = master
        self._workers = workers

    def collect(self) -> Iterable[Metric]:
        """Returns the metric families, for prometheus_client."""
        summed: dict[str, Metric] = {}
        for process in {self._master, *self._workers}:
            for family in _process_families(process):
                total = summed.setdefault(family.name, family)
                if total is family:
                    continue
                (first,), (other,) = total.samples, family.samples
                is_minimum = family.name in self._MINIMUM
                value = min(first.value, other.value) if is_minimum else first.value + other.value
                total.samples = [first._replace(value=value)]
        cpu = summed["process_cpu_seconds"]
        cpu.samples = [
            sample._replace(value=sample.value + self._exited_seconds()) for sample in cpu.samples
        ]
        return summed.values()

    def _exited_seconds(self) -> float:
        """CPU time of the master's exited children: proc(5), cutime and cstime."""
        text = Path(f"/proc/{self._master}/stat").read_text()
        children = text.rpartition(")")[2].split()[13:15]
        return sum(map(int, children)) / os.sysconf("SC_CLK_TCK")


def _process_families(process: int | None) -> Iterable[Metric]:
    return ProcessCollector(registry=None, pid=lambda: str(process)).collect()
