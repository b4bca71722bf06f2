"""Open-loop load by h2load: requests at a fixed rate, more than a server can serve."""

import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from report import CannotMeasureError
from served import children_cpu_seconds

# Connections each send once a second. They start in this many groups per second, so that requests
# arrive evenly.
_RATE_PERIODS = 100
# The first seconds, in which connections start and the queue fills.
_FILL_SECONDS = 2
# Grace period after the last request of connections that never waited.
_LATE_SECONDS = 3


def h2load() -> str:
    """The path of h2load.

    Raises:
        CannotMeasureError: it is not installed; with how to install it.
    """
    found = shutil.which("h2load")
    if found is None:
        raise CannotMeasureError("h2load is missing: apt-get install nghttp2-client")
    return found


@dataclass(frozen=True, slots=True)
class Answered:
    """One request of an overload.

    Attributes:
        sent_seconds: when it was sent, since the first one.
        status: of the response; -1 without one.
        seconds: from then to the end of the response.
    """

    sent_seconds: float
    status: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Overload:
    """The result of an overload.

    Attributes:
        answered: all requests.
        begin_seconds, end_seconds: since the first one; all connections send in between.
        generator_cores: the cores that the generator kept busy.
    """

    answered: Sequence[Answered]
    begin_seconds: float
    end_seconds: float
    generator_cores: float

    @property
    def sent_per_second(self) -> float:
        """Requests sent per second."""
        return self._count(lambda each: each.sent_seconds)

    def ended_per_second(self, status: int) -> float:
        """Responses with a status per second."""
        return self._count(lambda each: each.sent_seconds + each.seconds, status)

    def seconds_of(self, status: int) -> list[float]:
        """Durations of the responses with a status, of requests sent in the counted time."""
        return [
            each.seconds
            for each in self.answered
            if each.status == status and self.begin_seconds <= each.sent_seconds < self.end_seconds
        ]

    def statuses(self) -> dict[int, int]:
        """The number of responses by status, in all."""
        found: dict[int, int] = {}
        for each in self.answered:
            found[each.status] = found.get(each.status, 0) + 1
        return found

    def _count(self, moment: Callable[[Answered], float], status: int | None = None) -> float:
        counted = sum(
            self.begin_seconds <= moment(each) < self.end_seconds
            for each in self.answered
            if status in (None, each.status)
        )
        return counted / (self.end_seconds - self.begin_seconds)


def overload(url: str, body: Path, per_second: float, waiting: int, seconds: int) -> Overload:
    """Sends requests at a fixed rate by h2load, without waiting for responses.

    Args:
        url: an http URL.
        body: a file with the request body.
        per_second: the rate.
        waiting: requests that the server queues: their connections send nothing meanwhile, so as
            many connections are added.
        seconds: the duration at the full rate.

    Each connection sends once a second unless its request is pending; at the end they close.
    """
    connections = round(per_second) + waiting
    lasting = seconds + _FILL_SECONDS
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.tsv"
        at_a_time = -(-connections // _RATE_PERIODS)
        command = [
            *(h2load(), "--h1", "--clients", str(connections)),
            *("--requests", str(connections * lasting), "--rps", "1"),
            *("--rate", str(at_a_time), "--rate-period", f"{1000 // _RATE_PERIODS}ms"),
            *("--data", str(body), "--header", "Content-Type: application/json"),
            *(f"--log-file={log}", url),
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            _, errors = process.communicate(timeout=lasting + _LATE_SECONDS)
        except subprocess.TimeoutExpired:
            # Connections that waited have requests left, which are not awaited. The log has a
            # line for each response so far.
            process.terminate()
            process.communicate()
        else:
            if process.returncode != 0:
                raise CannotMeasureError(f"h2load failed:\n{errors.strip()}")
        span_seconds = time.perf_counter() - start
        cores = children_cpu_seconds(before) / span_seconds
        return Overload(read_log(log.read_text()), _FILL_SECONDS, lasting, cores)


def read_log(text: str) -> list[Answered]:
    """Parses h2load's log: sent (µs since 1970), status, duration (µs); ordered by end."""
    rows = [tuple(map(int, line.split("\t")[:3])) for line in text.splitlines()]
    first_us = min((sent_us for sent_us, _, _ in rows), default=0)
    return [
        Answered((sent_us - first_us) / 1e6, status, lasted_us / 1e6)
        for sent_us, status, lasted_us in rows
    ]
