"""Watchdog: what is late is stopped, what has ended is not."""

import threading
from concurrent.futures import ThreadPoolExecutor

from servers import PATIENCE_SECONDS

from gpux.deadline import Watchdog

_AGES = 3600.0


class Options:
    """Stands for RunOptions: tells when it is stopped."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    @property
    def terminate(self) -> bool:
        return self.stopped.is_set()

    @terminate.setter
    def terminate(self, value: bool) -> None:
        assert value is True
        self.stopped.set()


def test_a_late_run_is_stopped() -> None:
    watchdog, late = Watchdog(0.01), Options()
    token = watchdog.begin(late)
    assert late.stopped.wait(PATIENCE_SECONDS)
    assert watchdog.end(token), "end() tells that it was stopped"


def test_a_run_in_time_is_left_alone() -> None:
    watchdog, options = Watchdog(_AGES), Options()
    assert not watchdog.end(watchdog.begin(options))
    assert not options.stopped.is_set()


def test_the_watchdog_wakes_for_the_first_run_after_a_pause() -> None:
    watchdog = Watchdog(0.01)
    for _ in range(3):
        options = Options()
        token = watchdog.begin(options)
        assert options.stopped.wait(PATIENCE_SECONDS)
        assert watchdog.end(token)


def test_one_that_ended_does_not_hold_up_the_next() -> None:
    watchdog = Watchdog(0.05)
    assert not watchdog.end(watchdog.begin(Options()))
    late = Options()
    token = watchdog.begin(late)
    assert late.stopped.wait(PATIENCE_SECONDS)
    assert watchdog.end(token)


def test_options_are_their_owners_again_once_a_run_has_ended() -> None:
    """Where a run races with its deadline, end() tells which was first, and that is final."""
    watchdog = Watchdog(1e-4)

    def run(_: int) -> bool:
        options = Options()
        was_stopped = watchdog.end(watchdog.begin(options))
        return was_stopped == options.stopped.is_set()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run, range(2000)))
    assert watchdog.begin(Options()) == 2000


def test_one_thread_for_all() -> None:
    before = threading.active_count()
    watchdog = Watchdog(_AGES)
    tokens = [watchdog.begin(Options()) for _ in range(50)]
    assert threading.active_count() == before + 1
    assert not any(watchdog.end(token) for token in tokens)
