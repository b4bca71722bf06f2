"""Counters and histograms of requests, and their text for Prometheus.

Values are kept as float64s in a row of shared_counters and become metric families at scrape time
only: a request of microseconds must not pay for its own statistics.

Source: Prometheus' documentation, "Metric and label naming", "Exposition formats".
"""

import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from gpux.observability.shared_counters import CounterRow, SharedCounters
from gpux.observability.timings import STAGES, Stages

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Upper bounds, in seconds: from what a small model takes to the default deadline.
_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class _Histogram:
    """Where a histogram stands in a row: its counts, one more than bounds, and the sum of values.

    Args:
        at: its first figure.
        bounds: the last count is of what is beyond them.
    """

    __slots__ = ("at", "bounds", "end", "total_at")

    def __init__(self, at: int, bounds: tuple[float, ...]) -> None:
        self.at = at
        self.bounds = bounds
        self.total_at = at + len(bounds) + 1
        self.end = self.total_at + 1

    def add(self, row: CounterRow, value: float) -> None:
        row[self.at + bisect_left(self.bounds, value)] += 1
        row[self.total_at] += value

    def buckets(self, values: Sequence[float]) -> list[tuple[str, float]]:
        """As Prometheus has them: each counts all that is below it."""
        summed, buckets = 0.0, []
        counts = values[self.at : self.total_at]
        for bound, count in zip((*map(str, self.bounds), "+Inf"), counts, strict=True):
            summed += count
            buckets.append((bound, summed))
        return buckets


# A row: the process that writes it, what it counts, and its gauges.
_PROCESS = 0
_REQUESTS = 1  # by status
_STATUSES = 600
REJECTION_REASONS = ("loading", "queue_full", "draining")
_REJECTED = _REQUESTS + _STATUSES
_DURATION = _Histogram(_REJECTED + len(REJECTION_REASONS), _SECONDS)
_TIME_TOTAL = _DURATION.total_at - _DURATION.at
_TIME_SIZE = _DURATION.end - _DURATION.at
_STAGES: dict[str, _Histogram] = {}
for _stage in STAGES:
    _before = [_DURATION, *_STAGES.values()][-1]
    _STAGES[_stage] = _Histogram(_before.end, _SECONDS)
_BATCH_ROWS = _Histogram(_STAGES[STAGES[-1]].end, _ROWS)
_LOADS = _BATCH_ROWS.end
LOAD_STAGES = ("load", "warmup")
_LOAD_SECONDS = _LOADS + 1
_GAUGES = _LOAD_SECONDS + len(LOAD_STAGES)
_MAX_GAUGES = 64
ROW_SIZE = _GAUGES + _MAX_GAUGES


class Metrics:
    """Any number of threads may use it at once.

    Args:
        gauges: what is asked for when somebody looks: by name, its help and what answers its
            samples, each with its labels.
        counters: where the values stand, of as many as ROW_SIZE.
    """

    def __init__(
        self, gauges: Mapping[str, "Gauge"], counters: SharedCounters | None = None
    ) -> None:
        self._gauges = dict(gauges)
        self._counters = counters or SharedCounters(ROW_SIZE)
        self._lock = threading.Lock()  # guards the row of this process
        self._row = self._counters.mine
        self._row[_PROCESS] = os.getpid()
        for at in range(_LOAD_SECONDS, ROW_SIZE):  # those of the process that had the row before
            self._row[at] = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        if self._counters.master is None:
            ProcessCollector(registry=self._registry)
        else:
            self._registry.register(_Processes(self._counters))
        PlatformCollector(registry=self._registry)

    def request(self, status: int, seconds: float, stages: Stages) -> None:
        """Counts a request to /predict that was answered."""
        row = self._row
        with self._lock:
            row[_REQUESTS + status] += 1
            at = _DURATION.at  # the others stand behind it, and have the same bounds
            for taken in (seconds, *stages.seconds()):
                if taken is not None:
                    row[at + bisect_left(_SECONDS, taken)] += 1
                    row[at + _TIME_TOTAL] += taken
                at += _TIME_SIZE
            if stages.rows is not None:
                _BATCH_ROWS.add(row, stages.rows)

    def rejected(self, reason: str) -> None:
        """Counts a request that was turned away, for one of the REJECTION_REASONS."""
        with self._lock:
            self._row[_REJECTED + REJECTION_REASONS.index(reason)] += 1

    def loaded(self, seconds: Mapping[str, float]) -> None:
        """Counts a model that was loaded, by which of the LOAD_STAGES took how long."""
        with self._lock:
            self._row[_LOADS] += 1
            for at, stage in enumerate(LOAD_STAGES, _LOAD_SECONDS):
                self._row[at] = seconds[stage]

    def all_others_loaded(self) -> bool:
        """Whether each of the other processes has loaded a model, be it one that is no more."""
        return all(row[_LOADS] > 0 for row in self._counters.rows if row is not self._row)

    def publish(self) -> None:
        """Writes the gauges into the row, for other processes to read."""
        values = [value for gauge in self._gauges.values() for _, value in gauge.samples()]
        for at, value in enumerate(values[:_MAX_GAUGES], _GAUGES):
            self._row[at] = value

    def add(self, name: str, gauge: "Gauge") -> None:
        """Adds what is asked for when somebody looks, before anybody does."""
        self._gauges[name] = gauge

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """The families, for prometheus_client."""
        requests = CounterMetricFamily(
            "gpux_requests", "POST requests to /predict that were answered.", labels=["status"]
        )
        refused = CounterMetricFamily(
            "gpux_refused",
            "POST requests to /predict that were turned away with 503.",
            labels=["reason"],
        )
        duration = HistogramMetricFamily(
            "gpux_request_duration_seconds", "From the body's last byte to the answer's first."
        )
        stages = HistogramMetricFamily(
            "gpux_stage_duration_seconds", "Stages of a request.", labels=["stage"]
        )
        rows = HistogramMetricFamily(
            "gpux_batch_rows", "Rows that ran together, counted once for each request in them."
        )
        loads = CounterMetricFamily("gpux_model_loads", "Models that were loaded.")
        load_seconds = GaugeMetricFamily(
            "gpux_model_load_seconds", "What loading the model took.", labels=["stage"]
        )
        self.publish()
        with self._lock:
            values = self._counters.sums()
        for status, count in enumerate(values[_REQUESTS:_REJECTED]):
            if count:
                requests.add_metric([str(status)], count)
        for at, reason in enumerate(REJECTION_REASONS, _REJECTED):
            if values[at]:
                refused.add_metric([reason], values[at])
        duration.add_metric([], _DURATION.buckets(values), values[_DURATION.total_at])
        for stage, histogram in _STAGES.items():
            stages.add_metric([stage], histogram.buckets(values), values[histogram.total_at])
        rows.add_metric([], _BATCH_ROWS.buckets(values), values[_BATCH_ROWS.total_at])
        loads.add_metric([], values[_LOADS])
        for at, stage in enumerate(LOAD_STAGES, _LOAD_SECONDS):
            if values[_LOADS]:
                load_seconds.add_metric([stage], max(row[at] for row in self._counters.rows))
        yield from (requests, refused, duration, stages, rows, loads, load_seconds)
        gauge_values = iter(values[_GAUGES:])
        for name, gauge in self._gauges.items():
            kind = CounterMetricFamily if gauge.is_counter else GaugeMetricFamily
            family = kind(name, gauge.help, labels=list(gauge.labels))
            for (labels, _), value in zip(gauge.samples(), gauge_values, strict=False):
                family.add_metric(list(labels), value)
            if family.samples:
                yield family


class _Processes(Collector):
    """prometheus_client's values of a process, of all that have written on a counters, as one.

    Args:
        counters: the master has its share too, and the CPU time of workers that are no more.
    """

    # What is no quantity that adds up.
    _LEAST = frozenset({"process_start_time_seconds", "process_max_fds"})

    def __init__(self, counters: SharedCounters) -> None:
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        """The families, for prometheus_client."""
        summed: dict[str, Metric] = {}
        workers = {int(row[_PROCESS]) for row in self._counters.rows} - {0}
        for process in {self._counters.master, *workers}:
            for family in _of_process(process):
                before = summed.setdefault(family.name, family)
                if before is family:
                    continue
                (mine,), (its,) = before.samples, family.samples
                is_least = family.name in self._LEAST
                value = min(mine.value, its.value) if is_least else mine.value + its.value
                before.samples = [mine._replace(value=value)]
        cpu = summed["process_cpu_seconds"]
        cpu.samples = [
            sample._replace(value=sample.value + self._ended_seconds()) for sample in cpu.samples
        ]
        return summed.values()

    def _ended_seconds(self) -> float:
        """What the master's children computed that have ended: proc(5), cutime and cstime."""
        text = Path(f"/proc/{self._counters.master}/stat").read_text()
        children = text.rpartition(")")[2].split()[13:15]
        return sum(map(int, children)) / os.sysconf("SC_CLK_TCK")


def _of_process(process: int | None) -> Iterable[Metric]:
    return ProcessCollector(registry=None, pid=lambda: str(process)).collect()


@dataclass(frozen=True, slots=True)
class Gauge:
    """A figure that is asked for when somebody looks.

    Attributes:
        help: what it is.
        samples: the values of its labels, and its value.
        labels: their names.
        is_counter: it only grows.
    """

    help: str
    samples: Callable[[], Iterable[tuple[tuple[str, ...], float]]]
    labels: tuple[str, ...] = ()
    is_counter: bool = False


def single(value: Callable[[], Any]) -> Callable[[], Iterable[tuple[tuple[str, ...], float]]]:
    """The samples of a gauge without labels."""
    return lambda: [((), float(value()))]
