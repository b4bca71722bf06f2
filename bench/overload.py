"""Requests that do not wait for answers, by h2load: what a server does with too many of them."""

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

# What the rate is made of: connections that send once a second each, and begin one after the other,
# so that requests come evenly.
_RATE_PERIODS = 100
# The first seconds: connections begin, and the queue fills.
_FILL_SECONDS = 2
# After the last request of those that never waited.
_LATE_SECONDS = 3


def h2load() -> str:
    """Where h2load is.

    Raises:
        CannotMeasureError: it is not installed; says how to get it.
    """
    found = shutil.which("h2load")
    if found is None:
        raise CannotMeasureError("h2load is missing: apt-get install nghttp2-client")
    return found


@dataclass(frozen=True, slots=True)
class Answered:
    """One request of an overload.

    Attributes:
        sent_seconds: since the first one.
        status: of the answer; -1 where there was none.
        seconds: until the end of the answer.
    """

    sent_seconds: float
    status: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Overload:
    """What came of requests that did not wait for answers.

    Attributes:
        answered: all of them.
        begin_seconds, end_seconds: since the first one: all connections send in between.
        generator_cores: that the generator kept busy.
    """

    answered: Sequence[Answered]
    begin_seconds: float
    end_seconds: float
    generator_cores: float

    @property
    def sent_per_second(self) -> float:
        """Requests sent in a second."""
        return self._count(lambda each: each.sent_seconds)

    def ended_per_second(self, status: int) -> float:
        """Answers of a status in a second."""
        return self._count(lambda each: each.sent_seconds + each.seconds, status)

    def seconds_of(self, status: int) -> list[float]:
        """How long the answers of a status took, of requests sent in between."""
        return [
            each.seconds
            for each in self.answered
            if each.status == status and self.begin_seconds <= each.sent_seconds < self.end_seconds
        ]

    def statuses(self) -> dict[int, int]:
        """How many there were of each status, in all."""
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
    """Sends requests at a rate, whatever becomes of them, by h2load.

    Args:
        url: of http.
        body: a file with the request body.
        per_second: requests.
        waiting: requests that the server holds: their connections send nothing meanwhile, so there
            are as many more of them.
        seconds: how long at the full rate.

    Each connection sends once a second, but for those whose request waits; at the end they leave.
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
            _, told = process.communicate(timeout=lasting + _LATE_SECONDS)
        except subprocess.TimeoutExpired:
            # Connections that waited have not sent all of theirs, which nobody waits for. A line
            # of the log is written with each answer.
            process.terminate()
            process.communicate()
        else:
            if process.returncode != 0:
                raise CannotMeasureError(f"h2load failed:\n{told.strip()}")
        span_seconds = time.perf_counter() - start
        cores = children_cpu_seconds(before) / span_seconds
        return Overload(read_log(log.read_text()), _FILL_SECONDS, lasting, cores)


def read_log(text: str) -> list[Answered]:
    """Reads h2load's log: microseconds since 1970, status, microseconds; in order of the ends."""
    rows = [tuple(map(int, line.split("\t")[:3])) for line in text.splitlines()]
    first_us = min((sent_us for sent_us, _, _ in rows), default=0)
    return [
        Answered((sent_us - first_us) / 1e6, status, lasted_us / 1e6)
        for sent_us, status, lasted_us in rows
    ]
