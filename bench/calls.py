"""The part `call` of `engine`: one request in process, and a start, of one build or of two.

Each contender is a process of its own interpreter, which has loaded the model and calls
`engine.predict` when it is its turn. `bare` is a program in C++: ONNX Runtime's C API alone.
"""

import importlib.util
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy
from answers import MismatchError
from cases import CASES, FOLDER, Case
from contenders import free_port, says_ready, serve_command
from engine_table import AGAINST, BARE, GPUX, Figure
from onnx import ModelProto, TensorProto, helper
from processes import ProcessTree, started
from report import CannotMeasureError

_HERE = Path(__file__).resolve().parent
_CORE = _HERE.parent / "src" / "_fastpath"
_SENTIMENT = _HERE.parent / "examples" / "sentiment"
_START_SECONDS = 60.0
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
        """Makes calls.

        Returns:
            CPU time and duration of one call, in seconds.

        Raises:
            CannotMeasureError: it has exited.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{calls} {threads}\n")
        self._process.stdin.flush()
        cpu, duration = map(float, self._read().split())
        return cpu / calls, duration / calls

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


def _classifier(random: numpy.random.Generator) -> ModelProto:
    """A linear classifier with ZipMap, as skl2onnx writes it: a label, and a sequence of maps."""
    labels = ["setosa", "versicolor", "virginica"]
    entry = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    graph = helper.make_graph(
        [
            helper.make_node(
                "LinearClassifier",
                ["x"],
                ["output_label", "scores"],
                domain="ai.onnx.ml",
                coefficients=random.standard_normal(12).tolist(),
                intercepts=random.standard_normal(3).tolist(),
                classlabels_strings=labels,
                multi_class=1,
                post_transform="SOFTMAX",
            ),
            helper.make_node(
                "ZipMap",
                ["scores"],
                ["output_probability"],
                domain="ai.onnx.ml",
                classlabels_strings=labels,
            ),
        ],
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info("output_label", TensorProto.STRING, ["batch"]),
            helper.make_value_info("output_probability", helper.make_sequence_type_proto(entry)),
        ],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


_CLASSIFIER = Case(
    "classifier",
    "4 floats in, a label and a sequence of one map out: a linear classifier with ZipMap",
    _classifier,
    lambda random: {"x": random.standard_normal((1, 4))},
)


def prepare_calls(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Writes the models and bodies; returns their paths by case."""
    sentiment = folder / "sentiment.json"
    made = {case.name: case.write(folder) for case in (CASES["mlp"], _CLASSIFIER)}
    sentiment.write_text(json.dumps({"text": [["I love this product!"]]}))
    return {**made, "sentiment": (_SENTIMENT / "model.onnx", sentiment)}


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
    cases = prepare_calls(folder)
    for case, (model, body) in cases.items():
        commands = {
            name: [str(python), str(_HERE / "call_worker.py"), str(model), str(body)]
            for name, python in pythons.items()
        }
        if case == "mlp":
            (row,) = json.loads(body.read_bytes())["x"]
            commands[BARE] = [
                *map(str, (build("bare", ["ort"], folder), find_library(), model)),
                *map(repr, row),
            ]
        with ExitStack() as stack:
            workers = {}
            for name, command in commands.items():
                workers[name] = Worker(name, command)
                stack.callback(workers[name].close)
            _check_same({name: worker.first_line for name, worker in workers.items()})
            yield from _race_calls(case, workers, rounds, seconds)
            if case == "mlp":
                yield from _race_threads(case, workers, rounds, seconds)
    for name in ("conv", "tokens32"):
        yield _race_native_threads(CASES[name], rounds, seconds, folder)
    yield from _measure_starts(cases["mlp"][0], pythons, starts)


def _check_same(lines: Mapping[str, str]) -> None:
    """Checks that two builds respond alike, and that the numbers are those of the bare loop."""
    first = lines[GPUX]
    if lines.get(AGAINST, first) != first:
        raise MismatchError(f"{GPUX} answers {first}, and {AGAINST} {lines[AGAINST]}")
    if BARE in lines:
        (row,) = json.loads(first)["y"]
        bare = numpy.array(lines[BARE].split(), numpy.float32)
        if numpy.array(row, numpy.float32).tobytes() != bare.tobytes():
            raise MismatchError(f"{GPUX} answers {row}, and {BARE} {bare.tolist()}")


def _race_calls(
    case: str, workers: Mapping[str, Worker], rounds: int, seconds: float
) -> Iterator[Figure]:
    cpu: dict[str, list[float]] = {name: [] for name in workers}
    for name, (_, used, _) in _turns(workers, [1], rounds, seconds):
        cpu[name].append(used)
    for name, taken in cpu.items():
        yield {
            "group": "call",
            "case": case,
            "by": name,
            "cpu_us": statistics.median(taken) * 1e6,
            "best_cpu_us": min(taken) * 1e6,
            "gpux_over": statistics.median(cpu[GPUX]) / statistics.median(taken),
            "gpux_over_best": min(cpu[GPUX]) / min(taken),
        }


def _race_threads(
    case: str, workers: Mapping[str, Worker], rounds: int, seconds: float
) -> Iterator[Figure]:
    ours = {name: worker for name, worker in workers.items() if name != BARE}
    durations: dict[tuple[str, int], list[float]] = {}
    for name, (threads, _, lasted) in _turns(ours, [1, 2], rounds, seconds):
        durations.setdefault((name, threads), []).append(lasted)
    for name in ours:
        one, two = durations[name, 1], durations[name, 2]
        yield {
            "group": "call threads",
            "case": case,
            "by": name,
            "one_per_second": 1 / statistics.median(one),
            "two_per_second": 1 / statistics.median(two),
            "two_over_one": statistics.median(one) / statistics.median(two),
            "two_over_one_best": min(one) / min(two),
        }


def _turns(
    workers: Mapping[str, Worker], threads: Sequence[int], rounds: int, seconds: float
) -> Iterator[tuple[str, tuple[int, float, float]]]:
    """Turns in random order: (name, (threads, CPU time, duration of a call))."""
    calls = {name: _calls_for(worker, seconds) for name, worker in workers.items()}
    order = [(name, number) for name in workers for number in threads]
    chance = random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for name, number in order:
            workers[name].call(max(2, calls[name] // 20), number)  # the caches are others'
            yield name, (number, *workers[name].call(calls[name], number))


def _calls_for(worker: Worker, seconds: float) -> int:
    """An even number of calls that take about this long."""
    worker.call(20)
    return max(2, round(seconds / worker.call(100)[1] / 2) * 2)


def _race_native_threads(case: Case, rounds: int, seconds: float, folder: Path) -> Figure:
    """Two native threads over one, beside two processes over one."""
    model, body = case.write(folder)
    program = build("threads", [path.stem for path in sorted(_CORE.glob("*.cpp"))], folder)
    command = [*map(str, (program, find_library(), model, body))]
    with ExitStack() as stack:
        workers = [Worker(f"threads {number}", command) for number in range(2)]
        for worker in workers:
            stack.callback(worker.close)
        pair = stack.enter_context(ThreadPoolExecutor(2))
        calls = _calls_for(workers[0], seconds)
        one: list[float] = []
        threads: list[float] = []
        processes: list[float] = []
        for _ in range(rounds):
            one.append(1 / workers[0].call(calls)[1])
            threads.append(1 / workers[0].call(2 * calls, 2)[1])
            both = pair.map(lambda worker: worker.call(calls), workers)
            processes.append(sum(1 / duration for _, duration in both))
    return {
        "group": "native threads",
        "case": case.name,
        "one_per_second": statistics.median(one),
        "threads_over_one": statistics.median(threads) / statistics.median(one),
        "processes_over_one": statistics.median(processes) / statistics.median(one),
        "of_processes": statistics.median(threads) / statistics.median(processes),
        "of_processes_best": max(threads) / max(processes),
    }


# Programs in C++.


def build(name: str, parts: Sequence[str], folder: Path) -> Path:
    """Compiles native/NAME.cpp with parts of the core; returns the program.

    Raises:
        CannotMeasureError: it does not compile, or there is no g++.
    """
    program = folder / name
    sources = [_HERE / "native" / f"{name}.cpp", *(_CORE / f"{part}.cpp" for part in parts)]
    flags = ["-std=c++17", "-O3", "-DNDEBUG", "-pthread", f"-I{_CORE}"]
    command = ["g++", *flags, *map(str, sources), "-ldl"]
    try:
        done = subprocess.run(
            [*command, "-o", str(program)], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise CannotMeasureError(f"g++: {error.strerror}") from error
    if done.returncode != 0:
        raise CannotMeasureError(f"{name}.cpp does not compile:\n{done.stderr}")
    return program


def find_library() -> Path:
    """ONNX Runtime's library in this environment, without importing the module."""
    spec = importlib.util.find_spec("onnxruntime")
    for folder in (spec and spec.submodule_search_locations) or []:
        for file in sorted(Path(folder, "capi").glob("libonnxruntime.so*")):
            return file
    raise CannotMeasureError("libonnxruntime.so is not in this environment")


# Starts.


def _measure_starts(model: Path, pythons: Mapping[str, Path], starts: int) -> Iterator[Figure]:
    """From exec until /health/ready is 200, and the resident memory then; each in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in pythons}
    resident: dict[str, list[int]] = {name: [] for name in pythons}
    order = list(pythons)
    chance = random.Random(0)
    for turn in range(starts + 1):
        chance.shuffle(order)
        for name in order:
            with _starting(pythons[name], model) as (lasted, processes):
                if turn:  # the first one reads the files into the page cache
                    seconds[name].append(lasted)
                    resident[name].append(processes.resident_bytes())
    for name in pythons:
        yield {
            "group": "start",
            "case": "mlp",
            "by": name,
            "seconds": statistics.median(seconds[name]),
            "best_seconds": min(seconds[name]),
            "resident_bytes": statistics.median(resident[name]),
            "gpux_over": statistics.median(seconds[GPUX]) / statistics.median(seconds[name]),
            "gpux_over_best": min(seconds[GPUX]) / min(seconds[name]),
            "gpux_over_resident": statistics.median(resident[GPUX])
            / statistics.median(resident[name]),
        }


@contextmanager
def _starting(python: Path, model: Path) -> Iterator[tuple[float, ProcessTree]]:
    port = free_port()
    start = time.perf_counter()
    with started(
        serve_command(python, model, port),
        {},
        lambda: says_ready(port),
        _START_SECONDS,
        _READY_POLL_SECONDS,
    ) as processes:
        yield time.perf_counter() - start, processes
