"""Request counters and histograms.

Values are float64s in a row of shared_counters and become metric families only at scrape time
(exposition.py): a request of microseconds must not pay for its own statistics.

Source: Prometheus' documentation, "Metric and label naming".
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gpux._engine import RequestCounts
from gpux.observability.shared_counters import SharedCounters
from gpux.observability.timings import STAGES, Stages

# Bucket bounds, in seconds: from the run time of a small model to the default deadline.
_DURATION_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_BATCH_ROWS_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class _Histogram:
    """Layout of a histogram in a row: len(bounds) + 1 counts, then the sum of the values.

    Args:
        at: index of the first count.
        bounds: upper bounds of the buckets; the last count is that of larger values.
    """

    __slots__ = ("at", "bounds", "end", "total_at")

    def __init__(self, at: int, bounds: tuple[float, ...]) -> None:
        self.at = at
        self.bounds = bounds
        self.total_at = at + len(bounds) + 1
        self.end = self.total_at + 1

    def distribution(self, values: Sequence[float]) -> "Distribution":
        """The histogram in a row of values."""
        cumulative, buckets = 0.0, []
        counts = values[self.at : self.total_at]
        for bound, count in zip((*map(str, self.bounds), "+Inf"), counts, strict=True):
            cumulative += count
            buckets.append((bound, cumulative))
        return Distribution(buckets, values[self.total_at])


# Layout of a row: the id of the process that writes it, its counters, its gauges.
_PID = 0
_REQUESTS = 1  # by status
_STATUSES = 600
REJECTION_REASONS = ("loading", "queue_full", "draining")
_REJECTED = _REQUESTS + _STATUSES
_DURATION = _Histogram(_REJECTED + len(REJECTION_REASONS), _DURATION_BOUNDS)
_STAGES: dict[str, _Histogram] = {}
for _stage in STAGES:
    _previous = [_DURATION, *_STAGES.values()][-1]
    _STAGES[_stage] = _Histogram(_previous.end, _DURATION_BOUNDS)
_BATCH_ROWS = _Histogram(_STAGES[STAGES[-1]].end, _BATCH_ROWS_BOUNDS)
_LOADS = _BATCH_ROWS.end
LOAD_STAGES = ("load", "warmup")
_LOAD_SECONDS = _LOADS + 1
_GAUGES = _LOAD_SECONDS + len(LOAD_STAGES)
_MAX_GAUGES = 64
ROW_SIZE = _GAUGES + _MAX_GAUGES


class Metrics:
    """The metrics of all processes, and this process' counters.

    One thread counts, that of the event loop; any may read. A value is a float64 that is loaded and
    stored as a whole.

    Args:
        gauges: by metric name; evaluated at scrape time.
        counters: storage of the values, ROW_SIZE in a row; by default this process' own.

    Attributes:
        requests: counts requests to /predict.
    """

    def __init__(
        self, gauges: Mapping[str, "Gauge"], counters: SharedCounters | None = None
    ) -> None:
        self._gauges = dict(gauges)
        self._counters = counters or SharedCounters(ROW_SIZE)
        self._row = self._counters.mine
        self.requests = RequestCounts(
            self._row,
            statuses_at=_REQUESTS,
            durations_at=_DURATION.at,
            bounds=_DURATION_BOUNDS,
            stages=len(STAGES),
            rows_at=_BATCH_ROWS.at,
            row_bounds=_BATCH_ROWS_BOUNDS,
        )
        self._row[_PID] = os.getpid()
        for at in range(_LOAD_SECONDS, ROW_SIZE):  # left by the row's previous process
            self._row[at] = 0.0

    def request(self, status: int, seconds: float, stages: Stages) -> None:
        """Counts a completed request to /predict."""
        self.requests.count(status, seconds, stages.seconds(), stages.rows)

    def rejected(self, reason: str) -> None:
        """Counts a rejected request, by one of the REJECTION_REASONS."""
        self._row[_REJECTED + REJECTION_REASONS.index(reason)] += 1

    def loaded(self, seconds: Mapping[str, float]) -> None:
        """Counts a model load, with the duration of each of the LOAD_STAGES."""
        self._row[_LOADS] += 1
        for at, stage in enumerate(LOAD_STAGES, _LOAD_SECONDS):
            self._row[at] = seconds[stage]

    def all_others_loaded(self) -> bool:
        """Whether the process of each other row has loaded a model, even if it has exited since."""
        return all(row[_LOADS] > 0 for row in self._counters.rows if row is not self._row)

    def publish(self) -> None:
        """Writes the gauges into this process' row, for other processes to read."""
        values = [value for gauge in self._gauges.values() for _, value in gauge.samples()]
        for at, value in enumerate(values[:_MAX_GAUGES], _GAUGES):
            self._row[at] = value

    def add(self, name: str, gauge: "Gauge") -> None:
        """Adds a gauge; to be called before the first scrape."""
        self._gauges[name] = gauge

    def processes(self) -> tuple[int | None, set[int]]:
        """The master's process id, None if there is none, and those of its workers."""
        return self._counters.master, {int(row[_PID]) for row in self._counters.rows} - {0}

    def families(self) -> Iterator["Family"]:
        """Yields all metrics, summed over all processes."""
        self.publish()
        values = self._counters.sums()
        statuses = enumerate(values[_REQUESTS:_REJECTED])
        yield Family(
            "counter",
            "gpux_requests",
            "POST requests to /predict that were answered.",
            ("status",),
            [((str(status),), count) for status, count in statuses if count],
        )
        rejected = zip(REJECTION_REASONS, values[_REJECTED:], strict=False)
        yield Family(
            "counter",
            "gpux_refused",
            "POST requests to /predict that were turned away with 503.",
            ("reason",),
            [((reason,), count) for reason, count in rejected if count],
        )
        yield Family(
            "histogram",
            "gpux_request_duration_seconds",
            "From the body's last byte to the answer's first.",
            (),
            [((), _DURATION.distribution(values))],
        )
        yield Family(
            "histogram",
            "gpux_stage_duration_seconds",
            "Stages of a request.",
            ("stage",),
            [((stage,), histogram.distribution(values)) for stage, histogram in _STAGES.items()],
        )
        yield Family(
            "histogram",
            "gpux_batch_rows",
            "Rows that ran together, counted once for each request in them.",
            (),
            [((), _BATCH_ROWS.distribution(values))],
        )
        yield Family(
            "counter", "gpux_model_loads", "Models that were loaded.", (), [((), values[_LOADS])]
        )
        loads = enumerate(LOAD_STAGES, _LOAD_SECONDS) if values[_LOADS] else ()
        yield Family(
            "gauge",
            "gpux_model_load_seconds",
            "What loading the model took.",
            ("stage",),
            [((stage,), max(row[at] for row in self._counters.rows)) for at, stage in loads],
        )
        columns = zip(*(row[_GAUGES:] for row in self._counters.rows), strict=True)
        for name, gauge in self._gauges.items():
            kind: Kind = "counter" if gauge.is_counter else "gauge"
            samples = [
                (labels, gauge.total(column))
                for (labels, _), column in zip(gauge.samples(), columns, strict=False)
            ]
            if samples:
                yield Family(kind, name, gauge.help, gauge.labels, list(samples))


Kind = Literal["counter", "gauge", "histogram"]


class Distribution(NamedTuple):
    """The values of a histogram.

    Attributes:
        buckets: Prometheus' cumulative buckets: upper bound, and count of all values up to it.
        total: the sum of the values.
    """

    buckets: list[tuple[str, float]]
    total: float


class Family(NamedTuple):
    """A metric with all its labels.

    Attributes:
        kind, name, help: as in Prometheus' text format.
        labels: the label names.
        samples: the label values and the value of each sample.
    """

    kind: Kind
    name: str
    help: str
    labels: tuple[str, ...]
    samples: Sequence[tuple[tuple[str, ...], float | Distribution]]


@dataclass(frozen=True, slots=True)
class Gauge:
    """A gauge or counter that is evaluated at scrape time.

    Attributes:
        help: its help text.
        samples: returns the label values and the value of each sample.
        labels: the label names.
        is_counter: whether it is a counter, which only grows.
        total: the value of several processes together, from those of each.
    """

    help: str
    samples: Callable[[], Iterable[tuple[tuple[str, ...], float]]]
    labels: tuple[str, ...] = ()
    is_counter: bool = False
    total: Callable[[Iterable[float]], float] = sum


def single(value: Callable[[], Any]) -> Callable[[], Iterable[tuple[tuple[str, ...], float]]]:
    """Returns the `samples` of a gauge without labels."""
    return lambda: [((), float(value()))]
