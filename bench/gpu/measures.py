"""The steps of `gpu`: copies to the device, requests at the engine, memory.

Every result is checked, but outside the timing.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy

from common.answers import MODEL_TOLERANCE, Array, Question, check_bits, check_outputs
from common.reference import Reference, run_alone
from common.report import Figure
from common.timing import Contender, Durations, race, take_turns
from engine.call_worker import predict_callable
from gpu.backend import Backend
from gpu.models import GpuModel, copied, real_models
from gpux._fastpath import Block, Pool
from gpux.config.settings import Settings
from gpux.execution.gpu import GpuExecution
from gpux.execution.gpu_buffers import BoundBuffers
from gpux.execution.session import Session
from gpux.model import Model
from gpux.tensors.cuda import Stream
from gpux.tensors.memory import PINNED, Tensor, array_of
from gpux.tensors.outputs import encode, to_python
from gpux.tensors.signature import BY_NAME, Signature, TensorSpec

ALONE, ENGINE, JSON, GRAPH = "ONNX Runtime", "engine", "engine, JSON", ", graph"
COPY, BARE_COPY = "copy_in", "bare copy"

_FLOAT32 = BY_NAME["float32"]
_WARM_UP_REQUESTS = 12  # of every turn: in the first ones memory, plans and graphs are made
_THREADS = 4  # of the memory step
_MAX_ROWS = 512

# Runs one request and returns its seconds; raises if the result was wrong.
_Ask = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much to do.

    Attributes:
        small: whether the real models are built small.
        copy_bytes: sizes of the copies.
        copy_rounds, copy_round_seconds: turns of each way to copy, and their duration.
        batches: rows of a request.
        latency_rounds, latency_turn_seconds: turns of each way to run, and their duration.
        memory_first, memory_requests: requests before the first measurement, and in all.
    """

    small: bool = False
    copy_bytes: tuple[int, ...] = (2**16, 2**18, 2**20, 2**22, 2**24, 2**26)
    copy_rounds: int = 15
    copy_round_seconds: float = 0.02
    batches: tuple[int, ...] = (8, 1, 32)
    latency_rounds: int = 7
    latency_turn_seconds: float = 0.15
    memory_first: int = 1000
    memory_requests: int = 100_000

    @property
    def models(self) -> Mapping[str, GpuModel]:
        """The models of real sizes."""
        return real_models(small=self.small)


FULL = Pace()
QUICK = Pace(copy_rounds=7, copy_round_seconds=0.01, latency_rounds=3, memory_requests=10_000)


def measure_copies(backend: Backend, pace: Pace) -> Iterator[Figure]:
    """Host to device: a request's tensor from its pinned block, beside a bare copy."""
    session = backend.create_session(Settings(model=copied().file(), provider="cuda"))
    stream = session.stream
    assert stream is not None
    stream.adopt()
    for nbytes in pace.copy_bytes:
        yield _measure_copy(backend, pace, session, stream, nbytes)


def _measure_copy(
    backend: Backend, pace: Pace, session: Session, stream: Stream, nbytes: int
) -> Figure:
    """Times one size. Every copy is awaited, as a request awaits its own."""
    specs = [TensorSpec(name, _FLOAT32, ("n",)) for name in "xy"]
    signature = Signature((specs[0],), (specs[1],))
    pinned = Pool(stream.allocate_pinned)
    source = pinned.take(nbytes)
    numbers = numpy.random.default_rng(nbytes).random(nbytes // 4, numpy.float32)
    array_of(source, _FLOAT32, numbers.shape)[:] = numbers
    tensors = {"x": Tensor(_FLOAT32, numbers.shape, source.address, source, PINNED)}
    made: list[Block] = []

    def make(size: int) -> Block:
        made.append(stream.allocate(size))
        return made[-1]

    device = Pool(make)
    buffers = BoundBuffers(session, stream, device, signature, tensors, [None])
    bare = backend.bare_copy(stream)
    seen, stale = pinned.take(nbytes), pinned.take(nbytes)
    array_of(stale, _FLOAT32, numbers.shape)[:] = -1.0

    def copy_in() -> Block:
        buffers.copy_in(tensors, pinned)
        stream.record().wait()
        return made[0]

    def copy_bare() -> Block:
        bare(made[0].address, source.address, nbytes)
        return made[0]

    def check(target: Block) -> None:
        """Reads what was copied back, and overwrites it, so that a missing copy is noticed."""
        stream.copy_out(seen.address, target.address, nbytes)
        stream.copy_in(target.address, stale.address, nbytes)
        stream.record().wait()
        check_bits("what was copied", array_of(seen, _FLOAT32, numbers.shape), numbers)

    ways = {COPY: copy_in, BARE_COPY: copy_bare}
    contenders = [Contender(name, call, check) for name, call in ways.items()]
    taken = race(contenders, pace.copy_rounds, pace.copy_round_seconds)
    figure: Figure = {"group": "copy", "kib": nbytes // 2**10}
    for key, name in (("path", COPY), ("bare", BARE_COPY)):
        figure[f"{key}_us"] = taken[name].median * 1e6
        figure[f"{key}_gb_s"] = nbytes / taken[name].median / 1e9
    figure["of_bare"] = taken[BARE_COPY].median / taken[COPY].median
    return figure


def measure_latency(name: str, backend: Backend, pace: Pace) -> Iterator[Figure]:
    """A request at the engine, beside plain ONNX Runtime on device-resident data."""
    model = pace.models[name]
    with ExitStack() as stack:
        models, alone = {}, {}
        for graph, mode in (("", "off"), (GRAPH, "on")):
            loading = loaded(backend, model.file(), cuda_graph=mode)
            models[graph] = stack.enter_context(loading)
            reference = backend.alone(model.file(), graphs=bool(graph))
            alone[graph] = stack.enter_context(closing(reference))
        for batch in pace.batches:
            inputs = model.inputs(numpy.random.default_rng(batch), batch)
            expected = run_alone(model.file(), inputs)
            asks: dict[str, _Ask] = {}
            for graph, gpux in models.items():
                asks[ALONE + graph] = _ask_alone(alone[graph], inputs, expected)
                asks[ENGINE + graph] = _ask_engine(gpux, inputs, expected)
                asks[JSON + graph] = _ask_json(gpux, inputs, expected)
            turns = {by: partial(_turn, ask, pace) for by, ask in asks.items()}
            taken = {
                by: Durations([each for turn in of_turns for each in turn])
                for by, of_turns in take_turns([turns], pace.latency_rounds).items()
            }
            for by, durations in taken.items():
                yield _latency_figure(name, batch, by, taken, durations)
        graphs = models[GRAPH].describe()["cuda_graph"]
        assert graphs["captured"], f"no graph was captured: {graphs['reason']}"


def _turn(ask: _Ask, pace: Pace) -> list[float]:
    for _ in range(_WARM_UP_REQUESTS):
        ask()
    taken: list[float] = []
    end = time.perf_counter() + pace.latency_turn_seconds
    while not taken or time.perf_counter() < end:
        taken.append(ask())
    return taken


def _ask_alone(
    alone: Reference, inputs: Mapping[str, Array], expected: Mapping[str, Array]
) -> _Ask:
    """ONNX Runtime with everything bound once, on the device."""
    number = alone.bind(inputs, expected)

    def ask() -> float:
        seconds, outputs = alone.run_bound(number)
        check_outputs(ALONE, outputs, expected, MODEL_TOLERANCE)
        return seconds

    return ask


def _ask_engine(model: Model, inputs: Mapping[str, Array], expected: Mapping[str, Array]) -> _Ask:
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
        check_outputs(ENGINE, got, expected, MODEL_TOLERANCE)
        return seconds

    return ask


def _ask_json(model: Model, inputs: Mapping[str, Array], expected: Mapping[str, Array]) -> _Ask:
    """From the bytes of a body to those of a response."""
    body = encode(
        {
            name: Tensor(BY_NAME[array.dtype.name], array.shape, array.ctypes.data, array)
            for name, array in inputs.items()
        }
    )
    respond, question = predict_callable(model), Question(JSON, body, expected)

    def ask() -> float:
        start = time.perf_counter()
        text = respond(body)
        seconds = time.perf_counter() - start
        question.check(text, MODEL_TOLERANCE)
        return seconds

    return ask


def _latency_figure(
    name: str, batch: int, by: str, taken: Mapping[str, Durations], durations: Durations
) -> Figure:
    plain = by.removesuffix(GRAPH)
    alone = taken[by.replace(plain, ALONE)]
    figure: Figure = {"group": "latency", "model": name, "batch": batch, "by": by}
    figure |= {"requests": len(durations.seconds), "best_us": durations.best * 1e6}
    figure |= {"p50_us": durations.median * 1e6, "p99_us": durations.p99 * 1e6}
    if plain != ALONE:
        figure["over_alone"] = durations.median / alone.median
    if plain != by:
        figure["over_plain"] = durations.median / taken[plain].median
    return figure


def measure_memory(backend: Backend, pace: Pace) -> Iterator[Figure]:
    """Device memory after many requests of changing shapes, above that after the first ones."""
    mlp = pace.models["mlp"]
    inputs = mlp.inputs(numpy.random.default_rng(5), _MAX_ROWS)
    expected = run_alone(mlp.file(), inputs)
    with loaded(backend, mlp.file()) as model, ThreadPoolExecutor(_THREADS) as threads:

        def ask(number: int) -> None:
            rows = number * 31 % _MAX_ROWS + 1
            got = model.predict({"x": inputs["x"][:rows]})
            like = {name: array[:rows] for name, array in expected.items()}
            check_outputs(f"{rows} rows", got, like, MODEL_TOLERANCE)

        list(threads.map(ask, range(pace.memory_first)))
        first = backend.used_bytes()
        list(threads.map(ask, range(pace.memory_first, pace.memory_requests)))
        grown = backend.used_bytes() - first
    yield {"group": "memory", "requests": pace.memory_requests, "grown_mib": grown / 2**20}


@contextmanager
def loaded(backend: Backend, file: Path, **settings: Any) -> Iterator[Model]:
    """Loads a model on the device, as `gpux serve` would, while the context lasts."""
    chosen = Settings(model=file, provider="cuda", **settings)
    model = Model(backend.create_session(chosen), chosen)
    try:
        yield model
    finally:
        if isinstance(model.execution, GpuExecution):
            model.execution.close()


# Those with a goal come first.
STEPS: dict[str, Callable[[Backend, Pace], Iterator[Figure]]] = {
    "copies": measure_copies,
    "latency mlp": partial(measure_latency, "mlp"),
    "latency resnet50": partial(measure_latency, "resnet50"),
    "memory": measure_memory,
}
