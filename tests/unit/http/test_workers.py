"""workers: one thread has the turn; the others wait or have stepped aside."""

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from gpux.http.workers import Workers
from gpux.serving.turns import Waiter, waiter, yield_turn
from tests.support.servers import PATIENCE_SECONDS, wait_until


@pytest.fixture
def workers() -> Iterator[Workers]:
    created = Workers(4, "test")
    created.start()
    yield created
    created.shutdown(PATIENCE_SECONDS)


def run_all(workers: Workers, *tasks: Callable[[], None]) -> None:
    """Submits tasks, and returns once all have run."""
    completed = threading.Semaphore(0)

    def counting(task: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            task()
            completed.release()

        return run

    for task in tasks:
        workers.submit(counting(task))
    for _ in tasks:
        assert completed.acquire(timeout=PATIENCE_SECONDS)


def wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE_SECONDS)


def test_one_task_at_a_time(workers: Workers) -> None:
    running: list[int] = []
    max_running = 0

    def task() -> None:
        nonlocal max_running
        running.append(1)
        max_running = max(max_running, len(running))
        time.sleep(0.001)  # gives other threads a chance to overlap
        running.pop()

    run_all(workers, *[task] * 20)
    assert max_running == 1


def test_the_thread_that_was_used_last_is_used_first(workers: Workers) -> None:
    names: list[str] = []
    for _ in range(10):
        run_all(workers, lambda: names.append(threading.current_thread().name))
        wait_until(lambda: len(workers._idle) == 4, "all are idle")
    assert set(names) == {"test-0"}


def test_others_have_their_turn_while_one_is_aside(workers: Workers) -> None:
    other_ran = threading.Event()

    def large() -> None:
        with yield_turn():
            wait(other_ran)

    run_all(workers, large, other_ran.set)


def test_as_many_are_aside_as_there_are_threads(workers: Workers) -> None:
    all_are_here = threading.Barrier(4)

    def large() -> None:
        with yield_turn():
            all_are_here.wait(PATIENCE_SECONDS)

    run_all(workers, *[large] * 12)


def test_others_have_their_turn_while_one_waits(workers: Workers) -> None:
    waiters: list[Waiter] = []
    woken: list[bool] = []

    def first() -> None:
        waiters.append(waiter())
        woken.append(waiters[0].wait(PATIENCE_SECONDS))

    run_all(workers, first, lambda: waiters[0].wake())
    assert woken == [True]


def test_a_wait_that_was_ended_before_it_began(workers: Workers) -> None:
    woken: list[bool] = []

    def task() -> None:
        own = waiter()
        own.wake()
        woken.append(own.wait(-1.0))

    run_all(workers, task)
    task()  # in a thread outside the pool
    assert woken == [True, True]


def test_a_wait_that_nobody_ends(workers: Workers) -> None:
    woken: list[bool] = []
    run_all(workers, lambda: woken.append(waiter().wait(0.01)))
    woken.append(waiter().wait(0.01))
    assert woken == [False, False]
    assert workers._turns == 0 or not workers._tasks


def test_who_comes_back_goes_before_new_tasks(workers: Workers) -> None:
    order: list[str] = []
    waiters: list[Waiter] = []

    def first() -> None:
        waiters.append(waiter())
        waiters[0].wait(PATIENCE_SECONDS)
        order.append("first")

    def second() -> None:
        # It has the turn: the woken thread and the new task run after it.
        waiters[0].wake()
        workers.submit(lambda: order.append("third"))
        order.append("second")

    run_all(workers, first, second)
    wait_until(lambda: len(order) == 3, "all are done")
    assert order == ["second", "first", "third"]


def test_what_takes_long_without_a_word_loses_its_turn(workers: Workers) -> None:
    is_running, is_over, other_ran = threading.Event(), threading.Event(), threading.Event()

    def large() -> None:
        is_running.set()
        wait(is_over)

    workers.submit(large)
    workers.submit(other_ran.set)
    wait(is_running)
    workers.relieve()
    assert workers._tasks
    workers.relieve()
    wait(other_ran)
    assert not workers._tasks
    is_over.set()
    wait_until(lambda: workers._turns == 0 and len(workers._idle) == 4, "all are idle")


def test_a_task_that_fails_is_logged(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("as it should")

    workers.submit(fail)
    run_all(workers, lambda: None)
    assert "as it should" in caplog.text


def test_at_the_end_what_was_not_begun_is_dropped() -> None:
    workers = Workers(2, "test")
    workers.start()
    is_running, may_end = threading.Event(), threading.Event()
    done_tasks: list[str] = []

    def task() -> None:
        is_running.set()
        wait(may_end)
        done_tasks.append("first")

    workers.submit(task)
    wait(is_running)
    workers.submit(lambda: done_tasks.append("second"))
    threading.Timer(0.05, may_end.set).start()
    workers.shutdown(PATIENCE_SECONDS)
    assert done_tasks == ["first"]
    assert not any(worker.thread.is_alive() for worker in workers._all)


def test_nothing_is_lost_and_nobody_left_behind() -> None:
    """A random mix of asides and waits; wakes come before, at and after the timeouts."""
    workers = Workers(8, "test")
    workers.start()
    random_ = random.Random(1)
    ended = threading.Semaphore(0)
    waiting: list[Waiter] = []
    lock = threading.Lock()  # guards the list above

    def wake_one() -> None:
        with lock:
            other = waiting.pop(random_.randrange(len(waiting))) if waiting else None
        if other is not None:
            other.wake()

    def task() -> None:
        kind = random_.random()
        if kind < 0.3:
            with yield_turn():
                time.sleep(random_.random() * 1e-3)
        elif kind < 0.8:
            own = waiter()
            with lock:
                waiting.append(own)
            own.wait(random_.random() * 1e-3)
        wake_one()
        ended.release()

    for number in range(3000):
        workers.submit(task)
        if number % 3 == 0:
            wake_one()
        if number % 50 == 0:
            workers.relieve()
    for _ in range(3000):
        workers.relieve()
        assert ended.acquire(timeout=PATIENCE_SECONDS)
    wait_until(lambda: len(workers._idle) == 8, "all are idle")
    assert workers._turns == 0
    assert not workers._returning
    workers.shutdown(PATIENCE_SECONDS)


class QueueSource:
    """A task source: each list put into `found` is returned whole by one wait()."""

    def __init__(self) -> None:
        self.workers = Workers(2, "test", self)
        self.found: queue.SimpleQueue[list[Callable[[], None]]] = queue.SimpleQueue()
        self.handler_threads: list[str] = []
        self.workers.start()

    def wait(self) -> list[Callable[[], None]]:
        with contextlib.suppress(queue.Empty):
            return self.found.get(timeout=PATIENCE_SECONDS)
        return []

    def handle(self, found: list[Callable[[], None]]) -> None:
        self.handler_threads.append(threading.current_thread().name)
        for task in found:
            self.workers.submit(task)

    def wake(self) -> None:
        self.found.put([])


@pytest.fixture
def source() -> Iterator[QueueSource]:
    created = QueueSource()
    yield created
    created.workers.shutdown(PATIENCE_SECONDS)
    assert not any(worker.thread.is_alive() for worker in created.workers._all)


def test_who_finds_tasks_does_them(source: QueueSource) -> None:
    names: list[str] = []
    ended = threading.Semaphore(0)

    def task() -> None:
        names.append(threading.current_thread().name)
        ended.release()

    for _ in range(5):
        source.found.put([task, task])
        for _ in range(2):
            assert ended.acquire(timeout=PATIENCE_SECONDS)
    assert {*names, *source.handler_threads} == {"test-0"}


def test_somebody_looks_though_all_are_at_their_tasks(source: QueueSource) -> None:
    may_end = threading.Event()
    ended = threading.Semaphore(0)

    def large() -> None:
        with yield_turn():
            wait(may_end)
        ended.release()

    source.found.put([large, large])
    wait_until(lambda: source.workers._busy == 2, "both are at it")
    source.found.put([ended.release])
    wait_until(lambda: bool(source.workers._tasks), "it was found")
    assert not ended.acquire(timeout=0.05), "no more than two at a time"
    may_end.set()
    for _ in range(3):
        assert ended.acquire(timeout=PATIENCE_SECONDS)


def test_who_comes_back_need_not_wait_for_who_looks(source: QueueSource) -> None:
    waiters: list[Waiter] = []
    woken: list[bool] = []
    ended = threading.Semaphore(0)

    def task() -> None:
        waiters.append(waiter())
        woken.append(waiters[0].wait(PATIENCE_SECONDS))
        ended.release()

    source.found.put([task])
    wait_until(lambda: source.workers._has_looker and bool(waiters), "somebody looks again")
    waiters[0].wake()
    assert ended.acquire(timeout=PATIENCE_SECONDS)
    assert woken == [True]


def test_another_one_looks_while_one_is_stuck(source: QueueSource) -> None:
    is_running, is_over, other_ran = threading.Event(), threading.Event(), threading.Event()

    def large() -> None:
        is_running.set()
        wait(is_over)

    source.found.put([large])
    wait(is_running)
    source.found.put([other_ran.set])
    source.workers.relieve()
    source.workers.relieve()
    wait(other_ran)
    is_over.set()


def test_it_rings_when_it_is_quiet_no_more(source: QueueSource) -> None:
    rings: list[int] = []
    wait_until(lambda: source.workers.is_quiet(lambda: rings.append(1)), "somebody looks")
    assert rings == []
    ended = threading.Event()
    source.found.put([ended.set])
    wait(ended)
    assert rings == [1]
    source.found.put([])
    assert rings == [1]


def test_a_source_that_fails_is_looked_at_again(
    source: QueueSource, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()
    source.found.put(1)  # type: ignore[arg-type]
    source.found.put([ended.set])
    wait(ended)
    assert "what came could not be handled" in caplog.text
