"""Deadlines, and the native watchdog: late runs are stopped, finished runs are not."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpux._engine import RunOptions
from gpux.errors import DeadlineError
from gpux.execution.deadline import deadline_after
from gpux.model import Model, load
from tests.support.servers import wait_until

Find = Callable[[str], Path]
_FAR_SECONDS = 3600.0


@pytest.fixture
def model(model_file: Find) -> Model:
    return load(model_file("slow"), "cpu")


def run(model: Model, steps: int, seconds: float) -> bytes:
    request = model.inputs.decode(b'{"steps":%d}' % steps)
    return model.execution.run(request, deadline_after(seconds)).encode(False)


def test_a_late_run_is_stopped(model: Model) -> None:
    for _ in range(3):  # the watchdog wakes up for the first run after a pause, too
        start = time.monotonic()
        with pytest.raises(DeadlineError, match=r"longer than the limit of 0\.1 seconds"):
            run(model, 1_000_000_000, 0.1)
        assert 0.1 <= time.monotonic() - start < 10
        assert run(model, 1, _FAR_SECONDS) == b'{"sum":128.0}'


def test_the_one_that_is_due_first_is_stopped_first(model: Model) -> None:
    stopped: list[float] = []

    def stop(seconds: float) -> None:
        with pytest.raises(DeadlineError):
            run(model, 1_000_000_000, seconds)
        stopped.append(seconds)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(stop, (0.9, 0.1, 0.5)))
    assert stopped == [0.1, 0.5, 0.9]


def test_a_run_that_races_its_deadline_is_stopped_or_answers(model: Model) -> None:
    def race(number: int) -> bool:
        try:
            return run(model, 20, number * 1e-6) == b'{"sum":128.0}'
        except DeadlineError:
            return False

    with ThreadPoolExecutor(8) as callers:
        answered = list(callers.map(race, range(2000)))
    assert not answered[0]
    assert run(model, 20, _FAR_SECONDS) == b'{"sum":128.0}'


@pytest.mark.usefixtures("model")
def test_options_that_are_watched_tell_whether_they_were_stopped() -> None:
    """They are watched for one run at a time, from any thread."""
    late, patient = RunOptions({}), RunOptions({})
    patient.watch(time.monotonic() + _FAR_SECONDS)
    late.watch(time.monotonic() - 1)
    stopped = threading.Event()

    def was_stopped() -> bool:
        late.watch(time.monotonic() - 1)
        time.sleep(0.001)
        if late.unwatch():
            stopped.set()
        return stopped.is_set()

    late.unwatch()
    wait_until(was_stopped, "the watchdog stopped it")
    assert not patient.unwatch()
    assert not patient.unwatch()


def test_a_deadline_tells_what_is_left_of_it() -> None:
    deadline = deadline_after(10)
    assert 9 < deadline.left_seconds() <= 10
    assert deadline_after(1e-9).left_seconds() <= 0
    assert deadline_after(10, time.monotonic() - 20).left_seconds() < -9
    with pytest.raises(DeadlineError, match="longer than the limit of 10 seconds"):
        raise deadline.error()
