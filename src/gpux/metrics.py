"""What the server counts of its requests, and Prometheus' text of it.

Figures are kept as plain numbers under one lock and made into families only when somebody asks: a
request of microseconds must not pay for its own statistics.

Source: Prometheus' documentation, "Metric and label naming", "Exposition formats".
"""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Upper bounds, in seconds: from what a small model takes to the default deadline.
_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
STAGES = ("read", "decode", "queue", "run", "encode")


@dataclass(slots=True)
class Stages:
    """How long each stage of one request took, in seconds; None for one that it did not reach.

    Attributes:
        read: the body, from the server's buffer.
        decode: JSON to tensors.
        queue: waiting for a thread, and for the model.
        run: the model, with the copies to a GPU and back.
        encode: tensors to JSON.
        rows: of the batch that it ran in.
        thread: of `queue`, what it waited for a thread, before it was read.
    """

    read: float | None = None
    decode: float | None = None
    queue: float | None = None
    run: float | None = None
    encode: float | None = None
    rows: int | None = None
    thread: float = 0.0

    def taken(self) -> list[tuple[str, float]]:
        """The stages that the request reached."""
        seconds = (self.read, self.decode, self.queue, self.run, self.encode)
        return [
            (stage, taken)
            for stage, taken in zip(STAGES, seconds, strict=True)
            if taken is not None
        ]

    def in_order(self) -> Iterator[tuple[str, float]]:
        """The same as they followed each other, the wait for a thread by itself."""
        if self.thread:
            yield "thread", self.thread
        for stage, seconds in self.taken():
            yield stage, seconds - self.thread if stage == "queue" else seconds

    def server_timing(self, seconds: float) -> str:
        """The value of a `Server-Timing` header, in milliseconds.

        Args:
            seconds: that the request took as a whole.

        Source: the W3C's Server Timing, "The Server-Timing Header Field".
        """
        entries = [f"{name};dur={taken * 1e3:.3f}" for name, taken in self.taken()]
        return ", ".join([*entries, f"total;dur={seconds * 1e3:.3f}"])


@dataclass(slots=True)
class _Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)  # one more than bounds: the last is beyond
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus has them: each counts all that is below it."""
        summed, buckets = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            summed += count
            buckets.append((bound, float(summed)))
        return buckets


class Metrics:
    """Any number of threads may use it at once.

    Args:
        gauges: what is asked for when somebody looks: by name, its help and what answers its
            samples, each with its labels.
    """

    def __init__(self, gauges: Mapping[str, "Gauge"]) -> None:
        self._gauges = dict(gauges)
        self._lock = threading.Lock()  # guards the figures below
        self._requests: Counter[str] = Counter()  # by status
        self._refused: Counter[str] = Counter()  # by reason
        self._duration = _Histogram(_SECONDS)
        self._stages = {stage: _Histogram(_SECONDS) for stage in STAGES}
        self._rows = _Histogram(_ROWS)
        self._loads = 0
        self._load_seconds: dict[str, float] = {}  # by stage, of the last one
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def request(self, status: int, seconds: float, stages: Stages) -> None:
        """Counts a request to /predict that was answered."""
        with self._lock:
            self._requests[str(status)] += 1
            self._duration.add(seconds)
            for stage, taken in stages.taken():
                self._stages[stage].add(taken)
            if stages.rows is not None:
                self._rows.add(stages.rows)

    def refused(self, reason: str) -> None:
        """Counts a request that was turned away."""
        with self._lock:
            self._refused[reason] += 1

    def loaded(self, seconds: Mapping[str, float]) -> None:
        """Counts a model that was loaded, by what took how long."""
        with self._lock:
            self._loads += 1
            self._load_seconds = dict(seconds)

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
        with self._lock:
            for status, count in sorted(self._requests.items()):
                requests.add_metric([status], count)
            for reason, count in sorted(self._refused.items()):
                refused.add_metric([reason], count)
            duration.add_metric([], self._duration.buckets(), self._duration.total)
            for stage, histogram in self._stages.items():
                stages.add_metric([stage], histogram.buckets(), histogram.total)
            rows.add_metric([], self._rows.buckets(), self._rows.total)
            loads.add_metric([], self._loads)
            for stage, seconds in self._load_seconds.items():
                load_seconds.add_metric([stage], seconds)
        yield from (requests, refused, duration, stages, rows, loads, load_seconds)
        for name, gauge in self._gauges.items():
            kind = CounterMetricFamily if gauge.is_counter else GaugeMetricFamily
            family = kind(name, gauge.help, labels=list(gauge.labels))
            for labels, value in gauge.samples():
                family.add_metric(list(labels), value)
            if family.samples:
                yield family


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
