"""scheduler: each request gets its own rows, and one that leaves harms no other."""

import json
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from gpux.config.settings import Settings
from gpux.errors import (
    ConfigurationError,
    DeadlineError,
    InferenceError,
    InvalidBodyError,
    MissingInputError,
    UnavailableError,
)
from gpux.model import Model, load
from gpux.serving.batching_check import find_obstacle
from gpux.serving.engine import Engine
from gpux.serving.inline import InlineLimits
from tests.support import bert_models, onnx_models
from tests.support.fake_gpu import FakeSession, load_on_fake_gpu
from tests.support.model_runs import check_64_threads, is_all_returned
from tests.support.ort import needs_placement
from tests.support.served_engine import Scheduled, ServedEngine

Find = Callable[[str], Path]


def settings_of(file: Path, **changed: Any) -> Settings:
    return Settings(model=file, provider="cpu", **({"max_batch_size": 8} | changed))


def scheduled(model: Model, inline: InlineLimits | None = None, **changed: Any) -> Scheduled:
    """One run at a time, which the test has done."""
    return Scheduled(Engine(model, settings_of(model.file, **changed)), inline)


def body_of(*rows: list[float]) -> bytes:
    return json.dumps({"x": rows}).encode()


def answer_of(*rows: list[float]) -> bytes:
    return json.dumps({"y": rows}, separators=(",", ":")).encode()


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
    one = scheduled(model)
    bodies = [[[float(number), 0.5]] * max(number, 1) for number in range(5)]
    asked = [one.submit(body_of(*rows)) for rows in bodies]
    assert one.scheduler.queue_length == 4
    one.threads.run_all()
    for submitted, rows in zip(asked, bodies, strict=True):
        assert submitted.result == answer_of(*rows)
    # Requests of one to three rows fit in one batch of 8; the last, of four rows, does not.
    assert [submitted.stages.rows for submitted in asked] == [1, 6, 6, 6, 4]
    assert one.scheduler.queue_length == 0


def test_without_limits_each_runs_alone(model: Model) -> None:
    one = scheduled(model, batching="off")
    asked = [one.submit(body_of([float(number)])) for number in range(50)]
    one.threads.run_all()
    assert [submitted.result for submitted in asked] == [
        answer_of([float(number)]) for number in range(50)
    ]
    assert {submitted.stages.rows for submitted in asked} == {1}


def test_no_more_runs_than_the_model_is_free_for(model: Model) -> None:
    engine = Engine(model, settings_of(model.file, batching="off"))
    several = Scheduled(engine, None, runs=3)
    for number in range(10):
        several.submit(body_of([float(number)]))
    assert len(several.threads.works) == 3
    several.threads.step()
    assert len(several.threads.works) == 3
    assert several.scheduler.queue_length == 6
    several.threads.run_all()
    assert len(several.results) == 10


@pytest.mark.parametrize("batching", ["off", "on"])
def test_a_run_that_is_proven_short_is_inline(model: Model, batching: str) -> None:
    one = scheduled(model, InlineLimits(run_seconds=5.0, first_proof=3), batching=batching)
    for _ in range(3):
        one.submit(body_of([1.0]))
        one.threads.run_all()
    inline = one.submit(body_of([2.0]))
    assert inline.result == answer_of([2.0])
    assert (inline.job, inline.stages.rows, one.threads.works) == (None, 1, [])
    # Another size is not known yet.
    assert not one.submit(body_of([3.0] * 200)).results
    for body, error in ((b"{}        ", MissingInputError), (b"[]        ", InvalidBodyError)):
        one.submit(body)
        assert isinstance(one.results[-1], error), body
    one.threads.run_all()


@pytest.mark.usefixtures("without_logs")
def test_a_batch_that_fails_is_run_one_by_one(model_file: Find) -> None:
    """`table` fails for ids over 3: of four requests, only the invalid one fails."""
    model = load(model_file("table"), "cpu")
    one = scheduled(model)
    (spec,) = model.signature.inputs
    asked = [one.submit(json.dumps({spec.name: [[value]]}).encode()) for value in (0, 1, 9, 2)]
    one.threads.run_all()
    answers = [submitted.result for submitted in asked]
    assert isinstance(answers[2], InferenceError)
    assert "out of data bounds" in str(answers[2])
    found = [next(iter(json.loads(answers[index]).values())) for index in (0, 1, 3)]
    assert found == [[[[0.0, 1.0]]], [[[2.0, 3.0]]], [[[4.0, 5.0]]]]
    del answers, asked
    one.results.clear()
    assert is_all_returned(model)


def test_requests_with_unequal_inputs_run_alone(model_file: Find) -> None:
    """Only the model can pair their rows: in a batch they would meet rows of other requests."""
    one = scheduled(load(model_file("unequal"), "cpu"), batching="on")
    asked = [
        one.submit(json.dumps({"x": x, "y": y}).encode())
        for x, y in (
            ([[0.0, 0.0]], [[1.0, 1.0]]),
            ([[1.0, 1.0]], [[10.0, 10.0], [20.0, 20.0]]),
            ([[700.0, 700.0], [701.0, 701.0]], [[3.0, 3.0]]),
        )
    ]
    one.threads.run_all()
    assert [json.loads(submitted.result)["z"] for submitted in asked] == [
        [[1.0, 1.0]],
        [[11.0, 11.0], [21.0, 21.0]],
        [[703.0, 703.0], [704.0, 704.0]],
    ]


def test_a_model_that_mixes_rows_after_all_is_batched_no_more(
    model_file: Find, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the trial missed it, no request gets another's row or memory out of bounds."""
    monkeypatch.setattr("gpux.serving.engine.find_obstacle", lambda *_: None)
    model = load(model_file("distinct"), "cpu")
    one = scheduled(model)
    for _ in range(2):
        asked = [one.submit(body_of([1.0, 1.0])) for _ in range(4)]
        one.threads.run_all()
        assert [submitted.stages.rows for submitted in asked] == [1] * 4
        (name,) = json.loads(asked[0].result)
        assert all(json.loads(each.result)[name] == [[1.0, 1.0]] for each in asked)
    assert "Batching is off from now on" in caplog.text
    assert one.scheduler.limits is None
    assert one.scheduler.obstacle == "rows together gave an output of shape [1, 2] for 3 rows"
    assert is_all_returned(model)


def test_a_request_that_waits_past_its_deadline_is_never_run(model: Model) -> None:
    one = scheduled(model)
    first, late = one.submit(body_of([1.0])), one.submit(body_of([2.0]), timeout_seconds=-1.0)
    one.loop.advance(0.0)
    assert isinstance(late.result, DeadlineError)
    assert one.scheduler.queue_length == 0
    one.threads.run_all()
    assert first.result == answer_of([1.0])
    assert len(one.results) == 2


def test_a_request_is_answered_at_its_deadline_whatever_its_run_does(model: Model) -> None:
    one = scheduled(model)
    hasty = one.submit(body_of([1.0]), timeout_seconds=-1.0)
    patient = one.submit(body_of([2.0]))
    one.loop.advance(0.0)
    assert isinstance(hasty.result, DeadlineError)
    one.threads.run_all()
    assert patient.result == answer_of([2.0])
    assert len(hasty.results) == 1


def test_later_deadlines_have_a_timer_too(model: Model) -> None:
    one = scheduled(model)
    for seconds in (30.0, -1.0, 20.0):
        one.submit(body_of([1.0]), timeout_seconds=seconds)
    one.loop.advance(0.0)
    assert len(one.results) == 1
    assert [timer.at for timer in one.loop.timers if not timer.is_cancelled] == [
        pytest.approx(20.0, abs=5)
    ]
    one.threads.run_all()


def test_nothing_runs_for_a_client_that_has_left(model: Model) -> None:
    one = scheduled(model)
    asked = [one.submit(body_of([float(number)])) for number in range(4)]
    one.scheduler.cancel(asked[0].job)  # in the model
    one.scheduler.cancel(asked[2].job)  # in the queue
    one.scheduler.cancel(asked[2].job)
    one.threads.run_all()
    assert [submitted.results for submitted in asked] == [
        [],
        [answer_of([1.0])],
        [],
        [answer_of([3.0])],
    ]
    assert asked[1].stages.rows == 2


def test_a_run_for_a_client_that_has_left_is_stopped(model_file: Find) -> None:
    """Without an end, this test has none."""
    model = load(model_file("slow"), "cpu")
    one = scheduled(model, batching="off")
    gone = one.submit(b'{"steps":1000000000000}')
    one.scheduler.cancel(gone.job)
    one.threads.run_all()
    assert gone.results == []
    asked = one.submit(b'{"steps":1}')
    one.threads.run_all()
    assert asked.result == b'{"sum":128.0}'


def test_the_end_answers_all(model: Model) -> None:
    one = scheduled(model)
    asked = [one.submit(body_of([float(number)])) for number in range(3)]
    one.scheduler.stop()
    assert all(isinstance(submitted.result, UnavailableError) for submitted in asked)
    one.threads.run_all()
    assert len(one.results) == 3


def test_a_delay_waits_for_company(model: Model) -> None:
    one = scheduled(model, batch_delay_us=10**6, max_batch_size=2)
    first = one.submit(body_of([0.0]))
    assert one.threads.works == []
    second = one.submit(body_of([1.0]))
    one.threads.run_all()
    assert (first.result, second.result) == (answer_of([0.0]), answer_of([1.0]))
    assert first.stages.rows == 2


def test_a_delay_ends(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    one = scheduled(model, batch_delay_us=10**6, max_batch_size=2)
    alone = one.submit(body_of([0.0]))
    monkeypatch.setattr("gpux.serving.scheduler.time.monotonic", lambda: 10.0**9)
    one.loop.advance(2.0)
    one.threads.run_all()
    assert alone.stages.rows == 1


def test_long_bodies_and_responses_are_read_and_written_elsewhere(model: Model) -> None:
    one = scheduled(model, InlineLimits(run_seconds=5.0, first_proof=1))
    rows = [[0.5] * 20_000]
    for _ in range(2):
        long = one.submit(body_of(*rows))
        assert [work for work, _ in one.threads.works] == [
            long.job.steps or one.threads.works[0][0]
        ]
        one.threads.run_all()
        assert long.result == answer_of(*rows)
    assert long.stages.decode
    assert long.stages.encode


def test_a_bug_in_a_run_leaves_nobody_waiting(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scheduled(model)
    monkeypatch.setattr(one.scheduler, "_lay_out", lambda _: 1 / 0)
    asked = one.submit(body_of([1.0]))
    assert isinstance(asked.result, ZeroDivisionError)
    monkeypatch.undo()
    again = one.submit(body_of([1.0]))
    one.threads.run_all()
    assert again.result == answer_of([1.0])


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("name", ["matrix", "strings", "alias", "numbers"])
def test_64_threads_get_their_own_answers(name: str, model_file: Find) -> None:
    """In random order with random pauses, batched and unbatched values are equal."""
    settings = Settings(model=model_file(name), provider="cpu", batching="on", max_batch_size=16)
    alone = load(model_file(name), "cpu")
    engine = Engine(load(model_file(name), "cpu"), settings)
    assert engine.batching.limits is not None
    bodies = [_body(alone, number) for number in range(40)]
    predict = ServedEngine(engine).predict
    check_64_threads(predict, [(body, alone.respond(body)) for body in bodies], 12)
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
    alone, engine = load(path, "cpu"), Engine(load(path, "cpu"), settings)
    assert engine.batching.limits is not None
    assert (engine.batching.padding is not None) == (name != "sentiment")
    bodies = [json.dumps(value).encode() for value in values]
    cases = [(body, alone.respond(body)) for body in bodies]
    check_64_threads(ServedEngine(engine).predict, cases, 12, _is_close)
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
    """On the fake GPU: two runs at once, none of them in the loop's thread."""
    model, stream, session = load_on_fake_gpu(model_file("matrix"), cuda_graph="off")
    assert isinstance(session, FakeSession)
    engine = Engine(model, Settings(model=model.file, batching="on", max_batch_size=16))
    served = ServedEngine(engine)
    with ThreadPoolExecutor(32) as callers:

        def work(number: int) -> bool:
            body = f'{{"x":[[{number}.0,0.5]]}}'.encode()
            return served.predict(body) == f'{{"y":[[{number}.0,0.5]]}}'.encode()

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
    engine = Engine(load(file, "cpu"), settings)
    assert engine.info()["batching"] == {
        "enabled": False,
        "max_batch_size": None,
        "reason": obstacle,
        "padding": {"enabled": False, "reason": obstacle},
    }
    with pytest.raises(ConfigurationError, match=r"serving\.batching is on, but"):
        Engine(load(file, "cpu"), replace(settings, batching="on"))
