"""deadline: late runs are stopped, finished runs are not."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpux.errors import DeadlineError
from gpux.execution.deadline import Watchdog
from tests.support.servers import PATIENCE_SECONDS

_FAR_SECONDS = 3600.0


class Options:
    """A fake RunOptions that records its termination."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    @property
    def terminate(self) -> bool:
        return self.stopped.is_set()

    @terminate.setter
    def terminate(self, value: bool) -> None:
        assert value is True
        self.stopped.set()


def begin(watchdog: Watchdog, options: Options, seconds: float) -> int:
    return watchdog.begin(options, time.monotonic() + seconds)


def check_that_a_late_run_is_stopped(watchdog: Watchdog, seconds: float) -> None:
    late = Options()
    token = begin(watchdog, late, seconds)
    assert late.stopped.wait(PATIENCE_SECONDS)
    assert watchdog.end(token), "end() tells that it was stopped"


def test_a_late_run_is_stopped() -> None:
    check_that_a_late_run_is_stopped(Watchdog(), 0.01)


def test_a_run_in_time_is_left_alone() -> None:
    watchdog, options = Watchdog(), Options()
    assert not watchdog.end(begin(watchdog, options, _FAR_SECONDS))
    assert not options.stopped.is_set()


def test_the_watchdog_wakes_for_the_first_run_after_a_pause() -> None:
    watchdog = Watchdog()
    for _ in range(3):
        check_that_a_late_run_is_stopped(watchdog, 0.01)


def test_the_one_that_is_due_first_is_stopped_first() -> None:
    watchdog, patient, late = Watchdog(), Options(), Options()
    tokens = [begin(watchdog, patient, _FAR_SECONDS), begin(watchdog, late, 0.01)]
    assert late.stopped.wait(PATIENCE_SECONDS)
    assert not patient.stopped.is_set()
    assert [watchdog.end(token) for token in tokens] == [False, True]


def test_one_that_ended_does_not_hold_up_the_next() -> None:
    watchdog = Watchdog()
    assert not watchdog.end(begin(watchdog, Options(), 0.05))
    check_that_a_late_run_is_stopped(watchdog, 0.05)


def test_options_are_their_owners_again_once_a_run_has_ended() -> None:
    """When a run races its deadline, end() says which was first, and that is final."""
    watchdog = Watchdog()

    def run(_: int) -> bool:
        options = Options()
        was_stopped = watchdog.end(begin(watchdog, options, 1e-4))
        return was_stopped == options.stopped.is_set()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(2000)))
    assert begin(watchdog, Options(), _FAR_SECONDS) == 2000


def test_one_thread_for_all() -> None:
    before = threading.active_count()
    watchdog = Watchdog()
    tokens = [begin(watchdog, Options(), _FAR_SECONDS - number) for number in range(50)]
    assert threading.active_count() == before + 1
    assert not any(watchdog.end(token) for token in tokens)


def test_runs_that_ended_long_before_they_are_due_do_not_pile_up() -> None:
    watchdog = Watchdog()
    running = begin(watchdog, Options(), _FAR_SECONDS)
    for _ in range(10_000):
        watchdog.end(begin(watchdog, Options(), _FAR_SECONDS))
    assert len(watchdog._running) == 1
    assert not watchdog.end(running)


def test_a_deadline_tells_what_is_left_of_it() -> None:
    deadline = Watchdog().deadline(10)
    assert 9 < deadline.left_seconds() <= 10
    assert Watchdog().deadline(1e-9).left_seconds() <= 0
    with pytest.raises(DeadlineError, match="longer than the limit of 10 seconds"):
        raise deadline.error()
