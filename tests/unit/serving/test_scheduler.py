"""scheduler: each caller gets its own rows, and one that leaves harms no other."""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from gpux._engine import Request
from gpux.config.settings import Settings
from gpux.errors import ClientGoneError, ConfigurationError, DeadlineError, InferenceError
from gpux.execution.deadline import deadline_after
from gpux.model import Model, load
from gpux.serving.batch_plan import BatchLimits
from gpux.serving.batching_check import find_obstacle
from gpux.serving.engine import Engine
from gpux.serving.scheduler import RunTimeEstimate, Scheduler, SchedulerTuning
from tests.support import bert_models, onnx_models
from tests.support.fake_gpu import FakeSession, load_on_fake_gpu
from tests.support.model_runs import check_64_threads, is_all_returned, observe_runs
from tests.support.ort import needs_placement
from tests.support.servers import wait_until

Find = Callable[[str], Path]
_Callers = tuple[ThreadPoolExecutor, Future[Any]]
_BATCHED = BatchLimits(max_rows=8)
# Models of microseconds are queued, too, so that there are batches.
NO_SHORT_RUNS = SchedulerTuning(short_run_seconds=0.0)


class Gate:
    """Blocks a model's runs, records their rows, and can make the next ones fail."""

    def __init__(self, model: Model) -> None:
        self.open = threading.Event()
        self.open.set()
        self.rows: list[int] = []
        self.failures: list[Exception] = []
        observe_runs(model, self._pass)

    def _pass(self, request: Request) -> None:
        self.rows.append(request.rows)
        assert self.open.wait(60)
        if self.failures:
            raise self.failures.pop(0)

    @contextmanager
    def occupied(self, call: Callable[..., Any], *arguments: Any) -> Iterator[_Callers]:
        """Closes the gate, and submits a call whose run blocks there.

        Yields:
            The thread pool, and the future of the call.
        """
        before = len(self.rows)
        self.open.clear()
        with ThreadPoolExecutor(8) as callers:
            first = callers.submit(call, *arguments)
            wait_until(lambda: len(self.rows) > before, "the first one runs")
            yield callers, first


def ask(scheduler: Scheduler, model: Model, rows: list[list[float]], **options: Any) -> Any:
    """Runs rows through a model of one input and one output; returns its output rows."""
    (spec,) = model.signature.inputs
    request = model.inputs.decode(json.dumps({spec.name: rows}).encode())
    response = scheduler.run(request, **options).outputs.encode(False)
    return next(iter(json.loads(response).values()))


def scheduler_of(model: Model, limits: BatchLimits | None) -> Scheduler:
    """One run at a time, none of them short."""
    return Scheduler(model, 1, limits, tuning=NO_SHORT_RUNS)


def engine_of(model: Model, settings: Settings | None = None) -> Engine:
    return Engine(model, settings, tuning=NO_SHORT_RUNS)


def short_run_times() -> RunTimeEstimate:
    """Requests of one element are known to run in a microsecond."""
    run_times = RunTimeEstimate()
    run_times.note(1, 1e-6)
    return run_times


def wait_for_queue(scheduler: Scheduler, length: int) -> None:
    wait_until(lambda: scheduler.queue_length == length, f"{length} are queued")


@pytest.fixture
def model(model_file: Find) -> Iterator[Model]:
    """`matrix`. Checks at teardown that every block was returned."""
    loaded = load(model_file("matrix"), "cpu")
    yield loaded
    assert is_all_returned(loaded)


@pytest.fixture
def without_logs() -> Iterator[None]:
    """pytest keeps log records, and thus the errors in them, whose tracebacks refer to requests."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def test_what_waits_runs_together_and_gets_its_own_rows(model: Model) -> None:
    scheduler, gate = scheduler_of(model, _BATCHED), Gate(model)
    with gate.occupied(ask, scheduler, model, [[0.0, 0.5]]) as (callers, first):
        others = []
        for number in range(1, 5):
            others.append(callers.submit(ask, scheduler, model, [[float(number), 0.5]] * number))
            wait_for_queue(scheduler, number)
        gate.open.set()
        assert first.result(60) == [[0.0, 0.5]]
        for number, other in enumerate(others, 1):
            assert other.result(60) == [[float(number), 0.5]] * number
    # Requests of one to three rows fit in one batch of 8; the last, of four rows, does not.
    assert gate.rows == [1, 6, 4]


def test_without_limits_each_runs_alone(model: Model) -> None:
    scheduler, gate = scheduler_of(model, None), Gate(model)
    with ThreadPoolExecutor(8) as callers:
        answers = callers.map(lambda n: ask(scheduler, model, [[float(n)]]), range(50), timeout=60)
        outputs = list(answers)
    assert outputs == [[[float(n)]] for n in range(50)]
    assert gate.rows == [1] * 50


def test_a_free_model_is_run_by_the_callers_own_thread(model: Model) -> None:
    scheduler = scheduler_of(model, _BATCHED)
    ran_in: list[str] = []
    observe_runs(model, lambda _: ran_in.append(threading.current_thread().name))
    ask(scheduler, model, [[1.0]])
    assert ran_in == [threading.current_thread().name]


def test_a_short_run_waits_for_no_other_one(model: Model) -> None:
    tuning = SchedulerTuning(max_busy_seconds=60.0)
    scheduler = Scheduler(model, 1, _BATCHED, None, tuning, short_run_times())
    gate = Gate(model)
    ran_in: list[str] = []
    others: list[Any] = []

    def record(_: Request) -> None:
        ran_in.append(threading.current_thread().name)
        if len(ran_in) == 1:  # another run starts during this one
            others.append(second.submit(ask, scheduler, model, [[2.0]]).result(60))

    observe_runs(model, record)
    with ThreadPoolExecutor(1, "second") as second:
        assert ask(scheduler, model, [[1.0]]) == [[1.0]]
    assert others == [[[2.0]]]
    assert ran_in == [threading.current_thread().name, "second_0"]
    assert gate.rows == [1, 1]


def test_a_run_that_was_thought_short_is_waited_for(model: Model) -> None:
    """The run time may depend on the values."""
    scheduler = Scheduler(model, 1, _BATCHED, None, SchedulerTuning(), short_run_times())
    gate = Gate(model)
    with gate.occupied(ask, scheduler, model, [[1.0]]) as (callers, first):
        time.sleep(0.01)
        others = [callers.submit(ask, scheduler, model, [[float(number)]]) for number in range(5)]
        wait_for_queue(scheduler, 5)
        gate.open.set()
        assert first.result(60) == [[1.0]]
        assert [other.result(60) for other in others] == [[[float(n)]] for n in range(5)]
    assert gate.rows == [1, 5]


def test_the_pace_is_that_of_the_fastest_run_of_a_size() -> None:
    estimate = RunTimeEstimate()
    assert estimate.seconds(1000) == float("inf")
    for seconds in (0.5, 0.001, 0.5, 0.5):
        estimate.note(1000, seconds)
    assert estimate.seconds(1000) == pytest.approx(0.001 * 1.1**2)
    assert estimate.seconds(1023) == estimate.seconds(1000)
    assert estimate.seconds(100) == estimate.seconds(2000) == float("inf")
    for _ in range(100):  # an old fast run is forgotten
        estimate.note(1000, 0.5)
    assert estimate.seconds(1000) == 0.5


@pytest.mark.usefixtures("without_logs")
def test_a_batch_that_fails_is_run_one_by_one(model_file: Find) -> None:
    """`table` fails for ids over 3: of four requests, only the invalid one fails."""
    model = load(model_file("table"), "cpu")
    scheduler, gate = scheduler_of(model, _BATCHED), Gate(model)
    with gate.occupied(ask, scheduler, model, [[0]]) as (callers, first):
        others = [callers.submit(ask, scheduler, model, [[value]]) for value in (1, 9, 2)]
        wait_for_queue(scheduler, 3)
        gate.open.set()
        assert first.result(60) == [[[0.0, 1.0]]]
        assert others[0].result(60) == [[[2.0, 3.0]]]
        with pytest.raises(InferenceError, match="out of data bounds"):
            others[1].result(60)
        assert others[2].result(60) == [[[4.0, 5.0]]]
    assert gate.rows == [1, 3, 1, 1, 1]
    del others
    assert is_all_returned(model)


def test_requests_with_unequal_inputs_run_alone(model_file: Find) -> None:
    """Only the model can pair their rows: in a batch they would meet rows of other requests."""
    settings = Settings(model=model_file("unequal"), provider="cpu", batching="on")
    engine = engine_of(load(model_file("unequal"), "cpu"), settings)
    gate = Gate(engine.model)

    def add(x: list[list[float]], y: list[list[float]]) -> Any:
        return json.loads(engine.predict(json.dumps({"x": x, "y": y}).encode()))["z"]

    with gate.occupied(add, [[0.0, 0.0]], [[1.0, 1.0]]) as (callers, first):
        others = [
            callers.submit(add, [[1.0, 1.0]], [[10.0, 10.0], [20.0, 20.0]]),
            callers.submit(add, [[700.0, 700.0], [701.0, 701.0]], [[3.0, 3.0]]),
        ]
        wait_for_queue(engine.scheduler, 2)
        gate.open.set()
        assert first.result(60) == [[1.0, 1.0]]
        assert others[0].result(60) == [[11.0, 11.0], [21.0, 21.0]]
        assert others[1].result(60) == [[703.0, 703.0], [704.0, 704.0]]
    assert len(gate.rows) == 3


def test_a_model_that_mixes_rows_after_all_is_batched_no_more(
    model_file: Find, caplog: pytest.LogCaptureFixture
) -> None:
    """Even if the trial missed it, no caller gets another's row or memory out of bounds."""
    model = load(model_file("distinct"), "cpu")
    scheduler, gate = scheduler_of(model, _BATCHED), Gate(model)
    for turn in range(2):
        with gate.occupied(ask, scheduler, model, [[1.0, 1.0]]) as (callers, first):
            others = [callers.submit(ask, scheduler, model, [[1.0, 1.0]]) for _ in range(3)]
            wait_for_queue(scheduler, 3)
            gate.open.set()
            for future in (first, *others):
                assert future.result(60) == [[1.0, 1.0]]
        assert gate.rows == [1, 3, 1, 1, 1] + [1] * 4 * turn
    assert "Batching is off from now on" in caplog.text
    assert scheduler.limits is None
    assert scheduler.obstacle == "rows together gave an output of shape [1, 2] for 3 rows"
    assert model.pool.used_bytes == 0


def test_a_batch_past_its_deadline_is_not_run_again(model: Model) -> None:
    scheduler, gate = scheduler_of(model, _BATCHED), Gate(model)
    with gate.occupied(ask, scheduler, model, [[1.0]]) as (callers, first):
        deadline = deadline_after(60)
        late = [callers.submit(ask, scheduler, model, [[2.0]], deadline=deadline) for _ in range(4)]
        wait_for_queue(scheduler, 4)
        gate.failures = [ValueError("of the first"), deadline.error()]
        gate.open.set()
        with pytest.raises(ValueError, match="of the first"):
            first.result(60)
        for future in late:
            with pytest.raises(DeadlineError):
                future.result(60)
    assert gate.rows == [1, 4]


@pytest.mark.usefixtures("without_logs")
def test_a_bug_in_a_run_leaves_nobody_waiting(model: Model) -> None:
    scheduler, gate = scheduler_of(model, None), Gate(model)
    with gate.occupied(ask, scheduler, model, [[1.0]]) as (callers, first):
        second = callers.submit(ask, scheduler, model, [[2.0]])
        wait_for_queue(scheduler, 1)
        gate.failures = [ValueError("a bug"), ValueError("another")]
        gate.open.set()
        with pytest.raises(ValueError, match="a bug"):
            first.result(60)
        with pytest.raises(InferenceError, match="internal error") as caught:
            second.result(60)
        assert str(caught.value.__cause__) == "another"
    assert ask(scheduler, model, [[3.0]]) == [[3.0]]


def test_a_request_that_waits_past_its_deadline_is_never_run(model: Model) -> None:
    scheduler, gate = scheduler_of(model, _BATCHED), Gate(model)
    with gate.occupied(ask, scheduler, model, [[1.0]]) as (_, first):
        start = time.monotonic()
        with pytest.raises(DeadlineError):
            ask(scheduler, model, [[2.0]], deadline=deadline_after(0.2))
        assert 0.2 <= time.monotonic() - start < 5
        assert scheduler.queue_length == 0
        gate.open.set()
        assert first.result(60) == [[1.0]]
    assert gate.rows == [1]


def test_a_caller_answered_during_a_shared_run(model: Model) -> None:
    scheduler, gate = scheduler_of(model, _BATCHED), Gate(model)
    second = threading.Event()

    def slow_down_batch(request: Request) -> None:
        if request.rows == 2:
            second.set()
            time.sleep(0.5)

    observe_runs(model, slow_down_batch)
    with gate.occupied(ask, scheduler, model, [[1.0]]) as (callers, first):
        patient = callers.submit(ask, scheduler, model, [[2.0]])
        wait_for_queue(scheduler, 1)
        hasty = callers.submit(ask, scheduler, model, [[3.0]], deadline=deadline_after(0.3))
        wait_for_queue(scheduler, 2)
        gate.open.set()
        assert second.wait(60)
        with pytest.raises(DeadlineError):
            hasty.result(60)
        assert patient.result(60) == [[2.0]]
        assert first.result(60) == [[1.0]]
    del hasty
    wait_until(lambda: is_all_returned(model), "the blocks are back")


def test_nobody_computes_for_a_client_that_has_left(model: Model) -> None:
    scheduler, gate = scheduler_of(model, _BATCHED), Gate(model)
    has_left = threading.Event()
    with gate.occupied(ask, scheduler, model, [[1.0]]) as (callers, first):
        abandoned = callers.submit(ask, scheduler, model, [[2.0]], is_gone=has_left.is_set)
        connected = callers.submit(ask, scheduler, model, [[3.0]], is_gone=lambda: False)
        wait_for_queue(scheduler, 2)
        has_left.set()
        gate.open.set()
        assert first.result(60) == [[1.0]]
        with pytest.raises(ClientGoneError):
            abandoned.result(60)
        assert connected.result(60) == [[3.0]]
    assert gate.rows == [1, 1]


def test_a_delay_waits_for_company(model: Model) -> None:
    scheduler, gate = scheduler_of(model, BatchLimits(2, delay_seconds=30)), Gate(model)
    with ThreadPoolExecutor(2) as callers:
        futures = [callers.submit(ask, scheduler, model, [[float(n)]]) for n in range(2)]
        assert [future.result(20) for future in futures] == [[[0.0]], [[1.0]]]
    assert gate.rows == [2]


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("name", ["matrix", "strings", "alias", "numbers"])
def test_64_threads_get_their_own_answers(name: str, model_file: Find) -> None:
    """In random order with random pauses, batched and unbatched values are equal."""
    settings = Settings(model=model_file(name), provider="cpu", batching="on", max_batch_size=16)
    alone = engine_of(load(model_file(name), "cpu"))
    engine = engine_of(load(model_file(name), "cpu"), settings)
    assert engine.batching.limits is not None
    bodies = [_body(alone.model, number) for number in range(40)]
    check_64_threads(engine.predict, [(body, alone.predict(body)) for body in bodies], 12)
    assert engine.model.pool.used_bytes == 0


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("name", ["sentiment", "masked", "bert"])
def test_64_threads_get_their_own_of_what_is_computed(name: str, tmp_path: Path) -> None:
    """The same for floats up to rounding, integers and texts, of different lengths."""
    rng = random.Random(1)
    if name == "bert":
        path = bert_models.write_folder(tmp_path)
        texts = [" ".join(["good"] * rng.randrange(1, 30) + ["bad"] * n) for n in range(40)]
        values: list[Any] = [{"text": texts[n : n + n % 4] or texts[n]} for n in range(36)]
    else:
        gpux_yml = "serving: {padding: {ids: 0, mask: 0}}" if name == "masked" else None
        path = onnx_models.write_folder(tmp_path, name, gpux_yml)
        values = [_ids(load(path, "cpu").signature.inputs, n, rng) for n in range(36)]
    settings = Settings(model=path, provider="cpu", batching="on", max_batch_size=16)
    alone, engine = engine_of(load(path, "cpu")), engine_of(load(path, "cpu"), settings)
    assert engine.batching.limits is not None
    assert (engine.batching.padding is not None) == (name != "sentiment")
    bodies = [json.dumps(value).encode() for value in values]
    cases = [(body, alone.predict(body)) for body in bodies]
    check_64_threads(engine.predict, cases, 12, _is_close)
    assert engine.model.pool.used_bytes == 0


def _ids(inputs: Sequence[Any], number: int, rng: random.Random) -> dict[str, Any]:
    """Ids and a mask of the same shape: one to three rows, or a single item."""
    rows, width = number % 4, 1 + number % 7
    values = {}
    for spec, limit in zip(inputs, (30_000, 2), strict=True):
        items = [[rng.randrange(limit) for _ in range(width)] for _ in range(rows or 1)]
        values[spec.name] = items if rows else items[0]
    return values


def _is_close(response: bytes, expected_response: bytes) -> bool:
    """Integers are equal; floats may differ by the order of summation."""
    actual, expected = json.loads(response), json.loads(expected_response)
    if actual.keys() != expected.keys():
        return False
    pairs = [(numpy.array(actual[name]), numpy.array(expected[name])) for name in expected]
    return all(
        x.shape == y.shape
        and x.dtype == y.dtype
        and (numpy.allclose(x, y, rtol=1e-5, atol=1e-6) if x.dtype.kind == "f" else (x == y).all())
        for x, y in pairs
    )


def _body(model: Model, number: int) -> bytes:
    """A request of one to three rows, or one item, with values that identify it."""
    body: dict[str, Any] = {}
    rows = number % 4
    for spec in model.signature.inputs:
        shape = [2 if not isinstance(dim, int) else dim for dim in spec.dims[1:]]
        values = {"string": f"text {number}", "boolean": number % 2 == 0, "number": number % 100}
        item: Any = values[spec.type.word]
        for size in reversed(shape):
            item = [item] * size
        body[spec.name] = item if rows == 0 else [item] * rows
    return json.dumps(body).encode()


def test_batches_on_a_gpu(model_file: Find) -> None:
    """On the fake GPU: two runs at once, none of them in the caller's thread."""
    model, stream, session = load_on_fake_gpu(model_file("matrix"), cuda_graph="off")
    assert isinstance(session, FakeSession)
    engine = engine_of(model, Settings(model=model.file, batching="on", max_batch_size=16))
    with ThreadPoolExecutor(32) as callers:

        def work(number: int) -> bool:
            body = f'{{"x":[[{number}.0,0.5]]}}'.encode()
            return engine.predict(body) == f'{{"y":[[{number}.0,0.5]]}}'.encode()

        assert all(callers.map(work, range(300)))
    assert stream.log.count("run") < 300, "some ran together"
    assert model.pool.used_bytes == 0


# Which models can be batched.


@pytest.mark.parametrize("name", ["matrix", "cube", "strings", "numbers", "items", "alias"])
def test_models_whose_rows_are_independent(name: str, model_file: Find) -> None:
    assert find_obstacle(load(model_file(name), "cpu")) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("image", "input 'image' does not lead with a batch axis"),
        ("fixed", "does not lead with a batch axis"),
        ("detector", "does not lead with the batch axis"),
        ("doubled", "rows together gave an output of shape [6, 8] for 3 rows"),
        ("distinct", "rows together gave an output of shape [2, 2] for 3 rows"),
        ("brightest", "differs between rows together and one by one"),
        pytest.param(
            *("quantized", "node 'DynamicQuantizeLinear range' scales all rows"),
            marks=needs_placement,
        ),
        ("constant", "output 'weights' does not lead with the batch axis"),
        ("zipmap", "is no tensor"),
        ("normalized", "differs between rows together and one by one"),
        ("sevens", "output 'y' does not lead with the batch axis"),
    ],
)
def test_models_whose_rows_are_not(name: str, reason: str, model_file: Find) -> None:
    file = model_file(name)
    obstacle = find_obstacle(load(file, "cpu"))
    assert obstacle is not None
    assert reason in obstacle
    settings = Settings(model=file, provider="cpu")
    engine = engine_of(load(file, "cpu"), settings)
    assert engine.info()["batching"] == {
        "enabled": False,
        "max_batch_size": None,
        "reason": obstacle,
        "padding": {"enabled": False, "reason": obstacle},
    }
    with pytest.raises(ConfigurationError, match=r"serving\.batching is on, but"):
        engine_of(load(file, "cpu"), replace(settings, batching="on"))
