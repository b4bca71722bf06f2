"""_engine.Work and ThreadPool: steps of requests in native threads."""

import json
import math
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpux._engine import Request, ResponseText, ThreadPool, Work
from gpux.errors import InvalidJSONError
from gpux.model import Model, load
from tests.support.model_runs import is_all_returned

Find = Callable[[str], Path]
_PATIENCE_SECONDS = 60


@pytest.fixture
def model(model_file: Find) -> Iterator[Model]:
    """`matrix`. Checks at teardown that every block was returned."""
    loaded = load(model_file("matrix"), "cpu")
    yield loaded
    assert is_all_returned(loaded)


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    threads = ThreadPool(4)
    yield threads
    threads.close()


def wait_for(pool: ThreadPool, number: int) -> list[Work]:
    """What has been completed, once it is so many."""
    found: list[Work] = []
    while len(found) < number:
        assert select.select([pool.fileno()], [], [], _PATIENCE_SECONDS)[0], "nothing is completed"
        found += pool.completed()
    return found


def body_of(number: int, length: int = 1) -> bytes:
    return json.dumps({"x": [[float(number)] * length]}).encode()


def execute(work: Work) -> Work:
    work.execute()
    return work


def test_each_work_gets_its_own_result(model: Model, pool: ThreadPool) -> None:
    respond_work = model.pipeline.respond_work
    works = {respond_work(body_of(number), math.inf): number for number in range(500)}
    for work in works:
        pool.submit(work)
    for work in wait_for(pool, len(works)):
        assert work.response() == b'{"y":[[%d.0]]}' % works.pop(work)
    assert works == {}
    assert pool.completed() == []


def test_the_steps_make_up_the_whole(model: Model, pool: ThreadPool) -> None:
    def run(work: Work) -> Work:
        pool.submit(work)
        assert wait_for(pool, 1) == [work]
        return work

    pipeline = model.pipeline
    body = body_of(7, 3)
    request, is_complete = run(pipeline.decode_work(body)).request()
    assert is_complete
    outputs = run(pipeline.run_work([request], math.inf)).outputs()
    encoding = run(pipeline.encode_work(outputs, request.unbatched))
    assert encoding.response() == model.respond(body)
    assert encoding.cpu_seconds > 0


def test_requests_run_together(model: Model) -> None:
    pipeline = model.pipeline
    requests = [pipeline.decode(body_of(number, 2))[0] for number in range(3)]
    outputs = execute(pipeline.run_work(requests, math.inf)).outputs()
    assert outputs.shapes == [(3, 2)]
    assert outputs.part(2, 1).encode(False) == b'{"y":[[2.0,2.0]]}'
    padded: dict[str, tuple[tuple[int, ...], bytes]] = {"x": ((3, 4), b"\0\0\0\0")}
    outputs = execute(pipeline.run_work(requests, math.inf, padded)).outputs()
    assert outputs.part(1, 1).encode(False) == b'{"y":[[1.0,1.0,0.0,0.0]]}'


@pytest.mark.parametrize("length", [2**14 - 1, 2**14, 2**16])
def test_a_long_response_owns_its_memory(model: Model, length: int) -> None:
    body = body_of(0, length)
    work = execute(model.pipeline.respond_work(body, math.inf))
    response: Any = work.response()
    del work
    assert bytes(response) == model.respond(body)
    assert isinstance(response, ResponseText) == (len(response) > 2**16)


def test_errors_are_those_of_the_pipeline(model: Model) -> None:
    for work in (
        model.pipeline.respond_work(b"{", math.inf),
        model.pipeline.decode_work(b"{"),
    ):
        work.execute()
        with pytest.raises(InvalidJSONError, match="at byte 1"):
            (work.request if work.rows == 0 else work.response)()
    incomplete = execute(model.pipeline.respond_work(b"{}", math.inf)).response()
    assert isinstance(incomplete, Request)
    request, is_complete = execute(model.pipeline.decode_work(b"{}")).request()
    assert (request.names, is_complete) == ([], False)


def test_a_stopped_run_ends(model_file: Find, pool: ThreadPool) -> None:
    """Before it begins, and while it goes on; without an end, this test has none."""
    pipeline = load(model_file("slow"), "cpu").pipeline
    endless = b'{"steps":1000000000000}'
    early, running = (pipeline.respond_work(endless, math.inf) for _ in range(2))
    early.stop()
    pool.submit(early)
    assert wait_for(pool, 1) == [early]
    pool.submit(running)
    threading.Timer(0.05, running.stop).start()
    assert wait_for(pool, 1) == [running]
    for work in (early, running):
        with pytest.raises(TimeoutError):
            work.response()


def test_what_has_not_begun_is_dropped_at_the_end(model_file: Find) -> None:
    pipeline = load(model_file("slow"), "cpu").pipeline
    pool = ThreadPool(1)
    works = [pipeline.respond_work(b'{"steps":2000}', math.inf) for _ in range(50)]
    for work in works:
        pool.submit(work)
    pool.close()
    pool.close()


def test_a_pool_may_be_forgotten(model: Model) -> None:
    pool = ThreadPool(2)
    for number in range(20):
        pool.submit(model.pipeline.respond_work(body_of(number), math.inf))
    del pool
