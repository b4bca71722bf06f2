"""The measurements of `gpu`: copies to the device, requests at the engine and over HTTP, memory."""

import gc
import random
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy
from answers import Array, check_bits
from gpu_answers import MODEL_TOLERANCE, Question, body_of, check_all_close
from gpu_backend import RawRun, RawSession
from gpu_clients import ask_at_once
from gpu_models import copied, written
from gpu_steps import (
    Bench,
    CheckError,
    Figure,
    Step,
    check_that,
    failure_of,
    loaded,
    on_cpu,
    predict,
)
from timing import Contender, Durations, race

from gpux._fastpath import Block, Pool
from gpux.config.settings import Settings
from gpux.execution.gpu_buffers import BoundBuffers
from gpux.execution.session import Session
from gpux.model import Model
from gpux.serving.engine import Engine
from gpux.tensors.cuda import Stream
from gpux.tensors.memory import PINNED, Tensor, array_of
from gpux.tensors.outputs import to_python
from gpux.tensors.signature import BY_NAME, Signature, TensorSpec

RAW, RAW_GRAPH = "ONNX Runtime", "ONNX Runtime, graph"
ENGINE, ENGINE_GRAPH = "engine", "engine, graph"
JSON, JSON_GRAPH = "engine, JSON", "engine, JSON, graph"
# The contender by whose time each time is divided.
BESIDE = {
    ENGINE: RAW,
    ENGINE_GRAPH: RAW_GRAPH,
    JSON: RAW,
    JSON_GRAPH: RAW_GRAPH,
}
COPY, COPY_TO_NEW_BUFFERS, BARE_COPY = "copy_in", "copy_in, new frame", "bare copy"

# Runs one request and returns its seconds; raises if the result was wrong.
_Ask = Callable[[], float]

_WARM_UP_REQUESTS = 3  # of every turn
_FIRST_REQUESTS = 12  # of the first turn, in which memory, plans and graphs are created
_MAX_TURN_REQUESTS = 300
_LEAST_ROUNDS = 3
_MEMORY_THREADS = 4
_MAX_ROWS = 512


# Copies.


def _copies(bench: Bench) -> str:
    """Host to device: a request's tensor from its pinned block, beside a bare copy."""
    file = written("copied", copied)
    session = bench.backend.create_session(Settings(model=file, provider="cuda"))
    if session.stream is None:
        raise CheckError("the session has no stream")
    session.stream.adopt()
    for nbytes in bench.pace.copy_bytes:
        bench.report(_copy_figure(bench, session, session.stream, nbytes))
    return f"{len(bench.pace.copy_bytes)} sizes"


def _copy_figure(bench: Bench, session: Session, stream: Stream, nbytes: int) -> Figure:
    """Times one size. Every copy is awaited, as a request awaits its own."""
    element = BY_NAME["float32"]
    signature = Signature((TensorSpec("x", element, ("n",)),), (TensorSpec("y", element, ("n",)),))
    pinned = Pool(stream.allocate_pinned)
    source = pinned.take(nbytes)
    numbers = numpy.random.default_rng(nbytes).random(nbytes // 4, numpy.float32)
    array_of(source, element, numbers.shape)[:] = numbers
    tensors = {"x": Tensor(element, numbers.shape, source.address, source, PINNED)}
    made: list[Block] = []

    def make(size: int) -> Block:
        made.append(stream.allocate(size))
        return made[-1]

    device = Pool(make)
    buffers = BoundBuffers(session, stream, device, signature, tensors, [None])
    bare = bench.backend.bare_copy(stream)

    def copy_in() -> Block:
        buffers.copy_in(tensors, pinned)
        stream.record().wait()
        return made[0]

    def copy_to_new_buffers() -> Block:
        new = BoundBuffers(session, stream, device, signature, tensors, [None])
        new.copy_in(tensors, pinned)
        stream.record().wait()
        del new
        return made[1]

    def copy_bare() -> Block:
        bare(made[0].address, source.address, nbytes)
        return made[0]

    check = _CopyCheck(stream, pinned, numbers).check
    ways = {COPY: copy_in, COPY_TO_NEW_BUFFERS: copy_to_new_buffers, BARE_COPY: copy_bare}
    taken = race(
        [Contender(name, call, check) for name, call in ways.items()],
        bench.pace.copy_rounds,
        bench.pace.copy_round_seconds,
    )
    figure: Figure = {"group": "copy", "bytes": nbytes}
    for key, name in (("path", COPY), ("frame", COPY_TO_NEW_BUFFERS), ("bare", BARE_COPY)):
        figure[f"{key}_us"] = taken[name].median * 1e6
        figure[f"{key}_best_us"] = taken[name].best * 1e6
        figure[f"{key}_gb_s"] = nbytes / taken[name].median / 1e9
    figure["ratio_median"] = taken[BARE_COPY].median / taken[COPY].median
    figure["ratio_best"] = taken[BARE_COPY].best / taken[COPY].best
    return figure


class _CopyCheck:
    """Checks the result of a copy on the device, then overwrites it.

    Args:
        stream: the stream of the copies.
        pinned: the pool for its own blocks.
        expected: the copied numbers.
    """

    def __init__(self, stream: Stream, pinned: Pool, expected: Array) -> None:
        self._stream = stream
        self._expected = expected
        self._seen = pinned.take(expected.nbytes)
        self._other = pinned.take(expected.nbytes)
        array_of(self._other, BY_NAME["float32"], expected.shape)[:] = -1.0

    def check(self, target: Block) -> None:
        """Raises MismatchError if a device block does not hold the copied numbers."""
        nbytes = self._expected.nbytes
        seen = array_of(self._seen, BY_NAME["float32"], self._expected.shape)
        self._stream.copy_out(self._seen.address, target.address, nbytes)
        self._stream.copy_in(target.address, self._other.address, nbytes)
        self._stream.record().wait()
        check_bits("what was copied", seen, self._expected)


# Requests at the engine.


def _latency(name: str, bench: Bench) -> str:
    """A request at the engine, beside plain ONNX Runtime on device-resident data."""
    model = bench.pace.models[name]
    file = model.file()
    rows = bench.pace.batches
    asked = {batch: model.inputs(numpy.random.default_rng(batch), batch) for batch in rows}
    cpu = on_cpu(file)
    expected = {batch: predict(cpu, inputs) for batch, inputs in asked.items()}
    del cpu
    broken: dict[str, str] = {}
    with _Engines(bench, file, broken) as engines:
        for batch in rows:
            asks = engines.asks(f"{name}, batch {batch}", asked[batch], expected[batch])
            taken = _take_turns(asks, bench, broken)
            for by, durations in taken.items():
                bench.report(_latency_figure(name, batch, by, taken, durations))
        graphs = engines.graphs()
    if broken:
        raise CheckError("; ".join(f"{by}: {why}" for by, why in broken.items()))
    return graphs


class _Engines:
    """All ways to run a model: two of ours, two of plain ONNX Runtime.

    A way that fails is recorded in `broken` with the reason, and left out.
    """

    def __init__(self, bench: Bench, file: Path, broken: dict[str, str]) -> None:
        self._bench = bench
        self._file = file
        self._broken = broken
        self._models: dict[str, Model] = {}
        self._raws: dict[str, RawSession] = {}
        self._open = ExitStack()

    def __enter__(self) -> "_Engines":
        for by, mode in ((ENGINE, "off"), (ENGINE_GRAPH, "on")):
            self._try(by, partial(self._load, by, mode))
        for by, graphs in ((RAW, False), (RAW_GRAPH, True)):
            self._try(by, partial(self._load_raw, by, graphs=graphs))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def _load(self, by: str, mode: str) -> None:
        self._models[by] = self._open.enter_context(
            loaded(self._bench.backend, self._file, cuda_graph=mode)
        )

    def _load_raw(self, by: str, *, graphs: bool) -> None:
        self._raws[by] = self._bench.backend.raw(self._file, graphs=graphs)

    def _try(self, by: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._broken[by] = failure_of(error)

    def asks(
        self, what: str, inputs: Mapping[str, Array], expected: Mapping[str, Array]
    ) -> dict[str, _Ask]:
        """The functions to time, by name."""
        asks: dict[str, _Ask] = {}

        def raw(by: str) -> None:
            asks[by] = _raw_ask(f"{what}, {by}", self._raws[by].bind(inputs, expected), expected)

        for by in self._raws:
            self._try(by, partial(raw, by))
        question = Question(what, body_of(inputs), expected, MODEL_TOLERANCE)
        for by, json_by in ((ENGINE, JSON), (ENGINE_GRAPH, JSON_GRAPH)):
            if by in self._models:
                asks[by] = _engine_ask(f"{what}, {by}", self._models[by], inputs, expected)
                asks[json_by] = _json_ask(self._models[by], question)
        return asks

    def graphs(self) -> str:
        """Counts of CUDA graphs. None captured where requested: recorded in `broken`."""
        model = self._models.get(ENGINE_GRAPH)
        if model is None:
            return ""
        graphs = model.describe()["cuda_graph"]
        if not graphs["captured"]:
            self._broken[ENGINE_GRAPH] = f"no graph was captured: {graphs['reason']}"
        return f"{graphs['captured']} graphs, {graphs['replays']} replays"


def _engine_ask(
    what: str, model: Model, inputs: Mapping[str, Array], expected: Mapping[str, Array]
) -> _Ask:
    """execution.run on decoded tensors, to outputs in pinned memory."""

    def ask() -> float:
        request = model.inputs.collect(inputs)
        start = time.perf_counter()
        outputs = model.execution.run(request)
        seconds = time.perf_counter() - start
        got = {
            spec.name: to_python(outputs, index, spec)
            for index, spec in enumerate(model.signature.outputs)
        }
        check_all_close(what, got, expected, MODEL_TOLERANCE)
        return seconds

    return ask


def _array_of(value: object) -> Array:
    assert isinstance(value, Tensor)
    return numpy.from_dlpack(value)


def _json_ask(model: Model, question: Question) -> _Ask:
    """engine.predict, from JSON to JSON."""
    engine = Engine(model)

    def ask() -> float:
        start = time.perf_counter()
        text = engine.predict(question.body)
        seconds = time.perf_counter() - start
        question.check(text)
        return seconds

    return ask


def _raw_ask(what: str, run: RawRun, expected: Mapping[str, Array]) -> _Ask:
    """ONNX Runtime with everything bound once, on the device."""

    def ask() -> float:
        start = time.perf_counter()
        run.run()
        seconds = time.perf_counter() - start
        check_all_close(what, run.outputs(), expected, MODEL_TOLERANCE)
        return seconds

    return ask


def _take_turns(
    asks: Mapping[str, _Ask], bench: Bench, broken: dict[str, str]
) -> dict[str, Durations]:
    """Times single requests, the ways taking turns in random order.

    A way that fails is recorded in `broken`, and gets no further turn.
    """
    left = dict(asks)
    seconds: dict[str, list[float]] = {name: [] for name in asks}
    chance = random.Random(0)
    rounds = 0
    end = time.perf_counter() + bench.pace.latency_seconds
    while left and (rounds < _LEAST_ROUNDS or time.perf_counter() < end):
        order = list(left)
        chance.shuffle(order)
        gc.collect()
        gc.disable()
        try:
            for name in order:
                warm_up = _WARM_UP_REQUESTS if rounds else _FIRST_REQUESTS
                try:
                    turn_seconds = bench.pace.latency_turn_seconds
                    seconds[name] += _take_turn(left[name], warm_up, turn_seconds)
                except Exception as error:
                    broken[name] = failure_of(error)
                    del left[name]
        finally:
            gc.enable()
        rounds += 1
    return {name: Durations(seconds[name]) for name in left}


def _take_turn(ask: _Ask, warm_up: int, turn_seconds: float) -> list[float]:
    for _ in range(warm_up):
        ask()
    taken: list[float] = []
    end = time.perf_counter() + turn_seconds
    while not taken or (time.perf_counter() < end and len(taken) < _MAX_TURN_REQUESTS):
        taken.append(ask())
    return taken


def _latency_figure(
    name: str, batch: int, by: str, taken: Mapping[str, Durations], durations: Durations
) -> Figure:
    beside = taken.get(BESIDE.get(by, ""))
    plain = taken.get(by.removesuffix(", graph")) if by.endswith(", graph") else None
    return {
        "group": "latency",
        "model": name,
        "batch": batch,
        "by": by,
        "requests": len(durations.seconds),
        "p50_us": durations.median * 1e6,
        "p99_us": durations.p99 * 1e6,
        "best_us": durations.best * 1e6,
        "over_raw_p50": durations.median / beside.median if beside else None,
        "over_raw_best": durations.best / beside.best if beside else None,
        "over_plain_p50": durations.median / plain.median if plain else None,
        "over_plain_best": durations.best / plain.best if plain else None,
    }


# Requests over HTTP.


def _http(name: str, bench: Bench) -> str:
    """Requests per second of a real server, from Python clients in this process."""
    model = bench.pace.models[name]
    cpu = on_cpu(model.file())
    chance = numpy.random.default_rng(3)
    questions = []
    for number in range(4):
        inputs = model.inputs(chance, 1)
        expected = predict(cpu, inputs)
        what = f"{name}, request {number}"
        questions.append(Question(what, body_of(inputs), expected, MODEL_TOLERANCE))
    del cpu
    with bench.backend.serve(model.file()) as port:
        for connections in bench.pace.http_connections:
            answers = ask_at_once(
                port,
                connections,
                bench.pace.http_seconds,
                lambda thread, number: questions[(thread + number) % len(questions)],
                warm_up_seconds=bench.pace.http_seconds / 4,
            )
            taken = Durations(answers.seconds)
            bench.report(
                {
                    "group": "http",
                    "model": name,
                    "connections": connections,
                    "body_bytes": len(questions[0].body),
                    "requests": len(answers.seconds),
                    "requests_per_second": answers.per_second,
                    "p50_ms": taken.median * 1e3,
                    "p99_ms": taken.p99 * 1e3,
                }
            )
    return "all answers were right"


# Memory.


def _memory(bench: Bench) -> str:
    """Device memory after many requests of changing shapes, above that after the first ones."""
    pace = bench.pace
    mlp = pace.models["mlp"]
    inputs = mlp.inputs(numpy.random.default_rng(5), _MAX_ROWS)
    expected = predict(on_cpu(mlp.file()), inputs)
    gc.collect()
    with loaded(bench.backend, mlp.file()) as model:

        def ask(number: int) -> None:
            rows = number * 31 % _MAX_ROWS + 1
            got = model.predict({"x": inputs["x"][:rows]})
            like = {name: array[:rows] for name, array in expected.items()}
            check_all_close(f"{rows} rows", got, like, MODEL_TOLERANCE)

        def ask_many(begin: int, end: int) -> None:
            list(threads.map(ask, range(begin, end)))

        with ThreadPoolExecutor(_MEMORY_THREADS) as threads:
            ask_many(0, pace.memory_first)
            first = highest = bench.backend.used_bytes()
            done = pace.memory_first
            stop = time.monotonic() + pace.memory_seconds
            while done < pace.memory_requests and time.monotonic() < stop:
                end = min(done + pace.memory_first, pace.memory_requests)
                ask_many(done, end)
                done = end
                highest = max(highest, bench.backend.used_bytes())
        last = bench.backend.used_bytes()
    bench.report(
        {
            "group": "memory",
            "requests": done,
            "first_requests": pace.memory_first,
            "used_after_first_bytes": first,
            "grown_bytes": last - first,
            "max_grown_bytes": highest - first,
        }
    )
    check_that(done > pace.memory_first, "there was no time for more than the first requests")
    return f"{done:,} requests of {_MAX_ROWS} shapes"


def _latency_step(name: str, load_seconds: float) -> Step:
    return Step(
        f"latency {name}",
        "measure",
        partial(_latency, name),
        lambda pace: load_seconds + 1.3 * len(pace.batches) * pace.latency_seconds,
    )


def _http_step(name: str) -> Step:
    return Step(
        f"HTTP {name}",
        "measure",
        partial(_http, name),
        lambda pace: 15 + 1.3 * len(pace.http_connections) * pace.http_seconds,
    )


# Steps with a goal come first.
MEASURES = [
    Step(
        "copies",
        "measure",
        _copies,
        lambda pace: 5 + 6 * len(pace.copy_bytes) * pace.copy_rounds * pace.copy_round_seconds,
    ),
    _latency_step("mlp", 5),
    _latency_step("resnet50", 15),
    Step("memory", "measure", _memory, lambda pace: 5 + pace.memory_requests / 4000),
    _latency_step("bert", 30),
    _http_step("mlp"),
    _http_step("resnet50"),
]
