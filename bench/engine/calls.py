"""The part `call` of `engine`: one request in process, and a start, of one build or of two.

Each contender is a process of its own interpreter, which has loaded the model and makes calls when
it is its turn. `bare` is a program in C++: ONNX Runtime's C API alone.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy

from common.answers import MismatchError
from common.cases import CASES, FOLDER
from common.processes import run_command
from common.report import CannotMeasureError, Figure, Goal, find, of_group, table
from common.servers import serve_gpux
from common.timing import take_turns
from engine.cases import CLASSIFIER
from gpux.execution.runtime import find_library

GPUX, AGAINST, BARE = "gpux", "the other build", "the C API alone"

_HERE = Path(__file__).resolve().parent
_CORE = _HERE.parents[1] / "src" / "_fastpath"
_SENTIMENT = _HERE.parents[1] / "examples" / "sentiment" / "model.onnx"
_READY_POLL_SECONDS = 0.002


class Worker:
    """A process that makes calls on command.

    Args:
        name: for errors.
        command: as call_worker.py describes it.

    Attributes:
        first_line: what it printed once the model was loaded.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first_line = self._read()

    def call(self, calls: int, threads: int = 1) -> tuple[float, float]:
        """Makes calls; returns CPU time and duration of one, in seconds.

        Raises:
            CannotMeasureError: it has exited.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{calls} {threads}\n")
        self._process.stdin.flush()
        cpu, duration = map(float, self._read().split())
        return cpu / calls, duration / calls

    def calls_for(self, seconds: float) -> int:
        """An even number of calls that take about this long."""
        self.call(20)
        return max(2, round(seconds / self.call(100)[1] / 2) * 2)

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise CannotMeasureError(f"{self._name} exited with code {self._process.returncode}")
        return line


def measure_calls(
    rounds: int, seconds: float, starts: int, against: Path | None, folder: Path = FOLDER
) -> Iterator[Figure]:
    """Measures single calls, two threads, and starts.

    Args:
        rounds: turns of each contender.
        seconds: approximate duration of a turn.
        starts: how often each server is started.
        against: the interpreter of another installation of gpux; None to measure only this one.
        folder: for models and programs.

    Raises:
        MismatchError: a contender's response is wrong.
        CannotMeasureError: a contender does not start.
    """
    pythons = {GPUX: Path(sys.executable), **({AGAINST: against} if against else {})}
    texts = folder / "sentiment.json"
    cases = {case.name: case.write(folder) for case in (CASES["mlp"], CLASSIFIER)}
    cases["sentiment"] = (_SENTIMENT, texts)
    texts.write_text(json.dumps({"text": [["I love this product!"]]}))
    for case, (model, body) in cases.items():
        commands = {name: _command(python, model, body) for name, python in pythons.items()}
        if case == "mlp":
            (row,) = json.loads(body.read_bytes())["x"]
            commands[BARE] = [str(build_bare(folder)), str(find_library()), str(model)]
            commands[BARE] += map(repr, row)
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(closing(Worker(name, command)))
                for name, command in commands.items()
            }
            check_same({name: worker.first_line for name, worker in workers.items()})
            yield from _race(case, workers, rounds, seconds)
    for name in ("conv", "tokens32"):
        command = _command(Path(sys.executable), *CASES[name].write(folder))
        yield _race_processes(name, command, rounds, seconds)
    yield from _measure_starts(cases["mlp"][0], pythons, starts)


def _command(python: Path, model: Path, body: Path) -> list[str]:
    return [str(python), str(_HERE / "call_worker.py"), str(model), str(body)]


def check_same(lines: Mapping[str, str]) -> None:
    """Checks that two builds respond alike, and that the numbers are those of the bare loop.

    Raises:
        MismatchError: they differ.
    """
    first = lines[GPUX]
    if lines.get(AGAINST, first) != first:
        raise MismatchError(f"{GPUX} responds {first}, and {AGAINST} {lines[AGAINST]}")
    if BARE in lines:
        (row,) = json.loads(first)["y"]
        bare = numpy.array(lines[BARE].split(), numpy.float32)
        if numpy.array(row, numpy.float32).tobytes() != bare.tobytes():
            raise MismatchError(f"{GPUX} responds {row}, and {BARE} {bare.tolist()}")


def _race(
    case: str, workers: Mapping[str, Worker], rounds: int, seconds: float
) -> Iterator[Figure]:
    """Single calls of all; for mlp, one and two Python threads as well."""

    def turn(worker: Worker, calls: int, threads: int) -> tuple[float, float]:
        worker.call(max(2, calls // 20), threads)  # the caches are others'
        return worker.call(calls, threads)

    turns: dict[tuple[str, int], Callable[[], tuple[float, float]]] = {}
    for name, worker in workers.items():
        calls = worker.calls_for(seconds)
        for threads in (1, 2) if case == "mlp" and name != BARE else (1,):
            turns[name, threads] = partial(turn, worker, calls, threads)
    taken = take_turns([turns], rounds)
    cpu = {name: [used for used, _ in taken[name, 1]] for name in workers}
    for name, used in cpu.items():
        figure: Figure = {"group": "call", "case": case, "by": name}
        figure |= _times("cpu_us", used, cpu[GPUX])
        if (name, 2) in taken:
            one, two = ([lasted for _, lasted in taken[name, number]] for number in (1, 2))
            figure["two_over_one"] = statistics.median(one) / statistics.median(two)
        yield figure


def _times(key: str, seconds: Sequence[float], ours: Sequence[float]) -> Figure:
    """Median and best, and those of ours over them."""
    median, best = statistics.median(seconds), min(seconds)
    over = {"gpux_over": statistics.median(ours) / median, "gpux_over_best": min(ours) / best}
    return {key: median * 1e6, f"best_{key}": best * 1e6, **over}


def _race_processes(case: str, command: Sequence[str], rounds: int, seconds: float) -> Figure:
    """Two threads over one, beside two processes over one."""
    with ExitStack() as stack:
        workers = [stack.enter_context(closing(Worker(case, command))) for _ in range(2)]
        pair = stack.enter_context(ThreadPoolExecutor(2))
        calls = workers[0].calls_for(seconds)

        def both() -> float:
            taken = pair.map(lambda each: each.call(calls), workers)
            return math.fsum(1 / lasted for _, lasted in taken)

        turns = {
            "one": lambda: 1 / workers[0].call(calls)[1],
            "threads": lambda: 1 / workers[0].call(2 * calls, 2)[1],
            "processes": both,
        }
        rates = take_turns([turns], rounds)
    one, threads, processes = (statistics.median(taken) for taken in rates.values())
    figure: Figure = {"group": "two threads", "case": case, "one_per_second": one}
    figure |= {"threads_over_one": threads / one, "processes_over_one": processes / one}
    return {**figure, "of_processes": threads / processes}


def build_bare(folder: Path) -> Path:
    """Compiles bare.cpp with the core's declarations of the C API; returns the program.

    Raises:
        CannotMeasureError: it does not compile, or there is no g++.
    """
    program = folder / "bare"
    flags = ["-std=c++17", "-O3", "-DNDEBUG", "-pthread", f"-I{_CORE}", "-o", str(program)]
    run_command(["g++", *flags, str(_HERE / "bare.cpp"), str(_CORE / "ort.cpp"), "-ldl"])
    return program


def _measure_starts(model: Path, pythons: Mapping[str, Path], starts: int) -> Iterator[Figure]:
    """From exec until /health/ready is 200, and the resident memory then; each in turn."""

    def start(name: str) -> tuple[float, int]:
        program = [str(pythons[name]), "-m", "gpux"]
        begin = time.perf_counter()
        with serve_gpux(name, model, program=program, poll_seconds=_READY_POLL_SECONDS) as server:
            return time.perf_counter() - begin, server.processes.resident_bytes()

    turns = {name: partial(start, name) for name in pythons}
    # The first ones read the files into the page cache.
    taken = {name: each[1:] for name, each in take_turns([turns], starts + 1).items()}
    seconds = {name: [lasted for lasted, _ in each] for name, each in taken.items()}
    resident = {name: statistics.median(size for _, size in each) for name, each in taken.items()}
    for name in pythons:
        figure: Figure = {"group": "start", "case": "mlp", "by": name}
        figure |= _times("ready_us", seconds[name], seconds[GPUX])
        over = resident[GPUX] / resident[name]
        yield {**figure, "resident_mib": resident[name] / 2**20, "gpux_over_resident": over}


def tables(figures: Sequence[Figure]) -> list[str]:
    """The tables of these figures."""
    over = "gpux over it={gpux_over:.3f}x | of best={gpux_over_best:.3f}x"
    return [
        table(
            of_group(figures, "call"),
            "one call={case} | by={by} | CPU us={cpu_us:.1f} | best={best_cpu_us:.1f} | "
            f"{over} | 2 Python threads over 1={{two_over_one:.2f}}x",
        ),
        table(
            of_group(figures, "two threads"),
            "two threads={case} | 1: requests/s={one_per_second:.0f} | 2={threads_over_one:.2f}x | "
            "2 processes={processes_over_one:.2f}x | of these={of_processes:.2f}x",
        ),
        table(
            of_group(figures, "start"),
            "gpux serve={case} | by={by} | ready us={ready_us:,.0f} | best={best_ready_us:,.0f} | "
            f"{over} | resident MiB={{resident_mib:.1f}} | over it={{gpux_over_resident:.2f}}x",
        ),
    ]


def goals(figures: Sequence[Figure]) -> Iterator[Goal]:
    """The goals for one request in process, and for the start."""
    for case, by, must, aim in (
        ("mlp", AGAINST, 0.25, 0.125),
        ("mlp", BARE, 3, 2),
        ("sentiment", AGAINST, 0.5, 0.333),
        ("classifier", AGAINST, 0.5, 0.25),
    ):
        got = find(figures, "gpux_over", group="call", case=case, by=by)
        yield Goal(f"one call, {case}: CPU time, of {by}", got, must, aim, is_least=False)
    for case in ("conv", "tokens32"):
        what = f"two threads over one, {case}: of what two processes reach"
        got = find(figures, "of_processes", group="two threads", case=case)
        yield Goal(what, got, 0.9, 0.97)
    two = find(figures, "two_over_one", group="call", by=GPUX)
    yield Goal("two Python threads over one, mlp: requests/s", two, 0.95)
    for what, key, must, aim in (
        ("exec to ready", "gpux_over", 0.7, 0.5),
        ("resident memory then", "gpux_over_resident", 0.85, 0.7),
    ):
        got = find(figures, key, group="start", by=AGAINST)
        yield Goal(f"gpux serve, mlp: {what}, of {AGAINST}", got, must, aim, is_least=False)
