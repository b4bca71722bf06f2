"""_engine.Responder and RequestCounts: known requests, from HTTP bytes to HTTP bytes."""

import json
import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gpux._engine import InlinePolicy, RequestCounts, Responder
from gpux.model import Model, load
from gpux.observability.metrics import ROW_SIZE, Family, Metrics
from gpux.observability.shared_counters import SharedCounters
from gpux.observability.timings import FULL_SERVER_TIMING, Stages
from tests.support.model_runs import is_all_returned

BEFORE = b"POST /predict HTTP/1.1\r\nContent-Length: "
AFTER = b"\r\nHost: h\r\n\r\n"
START = b"HTTP/1.1 200 OK\r\n"
REST = f"Server-Timing: {FULL_SERVER_TIMING}\r\nContent-Length: %zu\r\n\r\n".encode()


class Known:
    """A responder of `matrix`, to which every size is proven.

    Attributes:
        seconds: for which a start of responses was asked.
    """

    def __init__(self, model: Model, timeout_seconds: float = 60.0, *, batched: bool = True):
        self.metrics = Metrics({}, SharedCounters(ROW_SIZE))
        self.policy = InlinePolicy(run_seconds=10.0, budget_seconds=10.0, threads=1, first_proof=1)
        self.seconds: list[int] = []
        for bits in range(65):
            self.policy.note_elsewhere(2**bits - 1, 0.0)
        self.responder = Responder(
            model.pipeline, self.policy, self.metrics.requests, self.start, REST, batched
        )
        self.responder.remember(BEFORE, AFTER, timeout_seconds)

    def start(self, epoch_seconds: int) -> bytes:
        self.seconds.append(epoch_seconds)
        return START

    def respond(self, request: bytes, room: int = 1) -> bytes | None:
        received = bytearray(request + b"7" * room)
        return self.responder.respond(received, len(request))

    def families(self) -> dict[str, Family]:
        return {family.name: family for family in self.metrics.families()}


def request(body: bytes) -> bytes:
    return BEFORE + str(len(body)).encode() + AFTER + body


def body_of(rows: int, length: int = 1) -> bytes:
    return json.dumps({"x": [[0.1] * length] * rows}).encode()


@pytest.fixture
def model(model_file: Callable[[str], Path]) -> Iterator[Model]:
    """`matrix`. Checks at teardown that every block was returned."""
    loaded = load(model_file("matrix"), "cpu")
    yield loaded
    assert is_all_returned(loaded)


@pytest.mark.parametrize("length", [1, 3, 300, 10_000])
def test_the_response_is_that_of_the_model(model: Model, length: int) -> None:
    known = Known(model)
    body = body_of(1, length)
    for _ in range(3):
        response = known.respond(request(body))
        assert response is not None
        section, _, content = response.partition(b"\r\n\r\n")
        assert content == model.respond(body)
        number = rb"\d+\.\d{3}"
        timing = rb", ".join(
            name + b";dur=" + number
            for name in (b"read", b"decode", b"queue", b"run", b"encode", b"total")
        )
        length_line = b"\r\nContent-Length: %d" % len(content)
        assert re.fullmatch(START + b"Server-Timing: " + timing + length_line, section), section


def test_starts_are_made_once_a_second(model: Model) -> None:
    known = Known(model)
    while len(known.seconds) < 3:
        assert known.respond(request(body_of(1))) is not None
    assert all(later - earlier == 1 for earlier, later in pairwise(known.seconds))


@pytest.mark.parametrize(
    "other",
    [
        request(b""),
        request(b"no JSON"),
        request(b'{"x":[[1]],"y":[[1]]}'),
        request(b'{"x":[[1,2],[3]]}'),
        request(body_of(1))[:-1],
        request(body_of(1)) + b" ",
        request(body_of(1)).replace(b"Host", b"host"),
        b"",
        b"POST",
    ],
)
def test_nothing_else_is_done_or_counted(model: Model, other: bytes) -> None:
    known = Known(model)
    assert known.respond(other) is None
    assert known.families()["gpux_requests"].samples == []
    assert known.seconds == []


def test_a_body_needs_a_byte_behind_it(model: Model) -> None:
    known = Known(model)
    assert known.respond(request(b'{"x":[[1]]}'), room=0) is None
    assert known.respond(request(b'{"x":[[1]]}'), room=1) is not None
    # The next request's digits are no part of the number.
    assert known.respond(request(b"1"), room=5) is None


def test_sizes_that_are_not_proven_are_left(model: Model) -> None:
    known = Known(model)
    request_of_two = request(body_of(2))
    known.policy.note_elsewhere(len(body_of(2)), 20.0)
    assert known.respond(request_of_two) is None
    assert known.respond(request(body_of(200))) is not None


def test_a_run_ends_at_its_deadline(model_file: Callable[[str], Path]) -> None:
    slow = load(model_file("slow"), "cpu")
    known = Known(slow, timeout_seconds=0.01)
    assert known.respond(request(b'{"steps":1000000000}')) is None
    assert known.respond(request(b'{"steps":1}')) is not None
    known.responder.remember(BEFORE, AFTER, math.inf)
    assert known.respond(request(b'{"steps":1}')) is not None


@pytest.mark.parametrize("batched", [True, False])
def test_it_counts_as_the_service_does(model: Model, batched: bool) -> None:
    known = Known(model, batched=batched)
    for rows in (1, 3, 3):
        assert known.respond(request(body_of(rows))) is not None
    families = known.families()
    assert families["gpux_requests"].samples == [(("200",), 3.0)]
    rows_together = families["gpux_batch_rows"].samples[0][1]
    assert not isinstance(rows_together, float)
    assert rows_together.total == (7.0 if batched else 3.0)
    stages = families["gpux_stage_duration_seconds"].samples
    for name in ("gpux_request_duration_seconds", "gpux_batch_rows"):
        stages = [*stages, *families[name].samples]
    for _, histogram in stages:
        assert not isinstance(histogram, float)
        assert histogram.buckets[-1] == ("+Inf", 3.0)
    by_stage = {
        labels[0]: histogram.total
        for labels, histogram in families["gpux_stage_duration_seconds"].samples
        if not isinstance(histogram, float)
    }
    whole = families["gpux_request_duration_seconds"].samples[0][1]
    assert not isinstance(whole, float)
    assert by_stage["read"] == by_stage["queue"] == 0.0
    assert 0 < sum(by_stage.values()) <= whole.total


def counts(row_size: int = ROW_SIZE, bounds: tuple[float, ...] = (1.0, 2.0)) -> RequestCounts:
    return RequestCounts(
        SharedCounters(row_size).mine,
        statuses_at=0,
        durations_at=600,
        bounds=bounds,
        stages=1,
        rows_at=608,
        row_bounds=(1.0,),
    )


def test_the_parts_of_a_row_fit() -> None:
    assert counts(611)
    with pytest.raises(ValueError, match="overlap"):
        counts(610)
    with pytest.raises(ValueError, match="overlap"):
        counts(bounds=(1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("status", "stages"), [(-1, (0.1,)), (600, (0.1,)), (200, ()), (200, (0.1, 0.1))]
)
def test_what_cannot_be_counted(status: int, stages: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="stages"):
        counts().count(status, 0.1, stages)


def test_values_count_up_to_their_bound() -> None:
    row = SharedCounters(620).mine
    tallied = RequestCounts(
        row,
        statuses_at=10,
        durations_at=610,
        bounds=(1.0,),
        stages=1,
        rows_at=616,
        row_bounds=(2.0,),
    )
    tallied.count(404, 1.0, (None,), None)
    tallied.count(404, 1.5, (0.5,), 2)
    tallied.count(200, 0.0, (7.0,), 3)
    assert row[210] == 1
    assert row[414] == 2
    assert row[610:].tolist() == [2, 1, 2.5, 1, 1, 7.5, 1, 1, 5, 0]


def test_a_responder_needs_the_stages_that_it_counts(model: Model) -> None:
    assert len(Stages().seconds()) == 5
    with pytest.raises(ValueError, match="1 stages, not 5"):
        Responder(model.pipeline, Known(model).policy, counts(), lambda _: b"", b"", True)
