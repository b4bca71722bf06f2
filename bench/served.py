"""`gpux serve` in a process of its own: load on it, and its memory."""

import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from contenders import HOST, Client, free_port, says_ready
from load import Load, put_under_load
from processes import ProcessTree, started
from report import CannotMeasureError

_START_SECONDS = 60.0
_ENGINES = Path(__file__).with_name("engines.py")
_WARM_UP_SECONDS = 0.3
_SAMPLE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Filled:
    """The result of a load whose responses all had status 200.

    Attributes:
        per_second: responses per second.
        p50_seconds, p99_seconds: latency of a request.
        generator_cores: the cores that the generator kept busy.
    """

    per_second: float
    p50_seconds: float
    p99_seconds: float
    generator_cores: float


@dataclass(frozen=True, slots=True)
class Served:
    """A running server.

    Attributes:
        name: for errors.
        port: its port on 127.0.0.1.
        processes: its process and all descendants.
    """

    name: str
    port: int
    processes: ProcessTree

    @property
    def url(self) -> str:
        """The URL of the inference route."""
        return f"http://{HOST}:{self.port}/predict"

    def fill(
        self,
        body: Path,
        connections: int,
        seconds: float,
        check: Callable[[bytes], None] | None = None,
    ) -> Filled:
        """Keeps connections busy by wrk, which shares the cores.

        Args:
            body: a file with the request body.
            connections: their number, each with one request at a time.
            seconds: the duration.
            check: raises MismatchError for a wrong response; called for samples under load.

        Raises:
            CannotMeasureError: a request got no response, or another status than 200.
        """

        def warm_up() -> float:
            time.sleep(_WARM_UP_SECONDS)
            return seconds

        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        with self._sampled(body.read_bytes(), check):
            load: Load = put_under_load(self.url, body, connections, warm_up)
        span_seconds = time.perf_counter() - start
        if load.errors:
            raise CannotMeasureError(f"{self.name}: {load}")
        if load.p50_ms is None or load.p99_ms is None:
            raise CannotMeasureError(f"{self.name} was too slow for {connections} connections")
        return Filled(
            load.per_second,
            load.p50_ms / 1e3,
            load.p99_ms / 1e3,
            children_cpu_seconds(before) / span_seconds,
        )

    def forget_peak(self) -> None:
        """Resets the peak (proc(5), clear_refs)."""
        for pid in self.processes.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The peak resident memory of each process, added up."""
        return self.processes.peak_bytes()

    def resident_bytes(self) -> int:
        """The resident memory of its processes."""
        return self.processes.resident_bytes()

    @contextmanager
    def _sampled(self, body: bytes, check: Callable[[bytes], None] | None) -> Iterator[None]:
        """Checks some responses per second while the context lasts, at least one."""
        if check is None:
            yield
            return
        over = threading.Event()
        errors: list[BaseException] = []

        def sample() -> None:
            try:
                with closing(Client(self.name, self.port)) as client:
                    check(client.post(body)[1])
                    while not over.wait(_SAMPLE_SECONDS):
                        check(client.post(body)[1])
            except BaseException as error:  # raised in the caller's thread
                errors.append(error)

        thread = threading.Thread(target=sample, name="samples")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if errors:
            raise errors[0]


@contextmanager
def serving(name: str, model: Path, *options: str, engine: str | None = None) -> Iterator[Served]:
    """Serves a model on a free port while the context lasts.

    Args:
        name: for errors.
        model: the MODEL argument of `gpux serve`.
        options: further options of `gpux serve`.
        engine: an engine of engines.py instead of the server's own.

    Raises:
        CannotMeasureError: it did not start; with its output.
    """
    port = free_port()
    program = ["-m", "gpux"] if engine is None else [str(_ENGINES), engine]
    command = [
        *(sys.executable, *program, "serve", str(model)),
        *("--host", HOST, "--port", str(port), *options),
    ]
    with started(command, {}, lambda: says_ready(port), _START_SECONDS) as processes:
        yield Served(name, port, processes)


def children_cpu_seconds(before: resource.struct_rusage) -> float:
    """The CPU time of child processes that have exited since `before`."""
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
