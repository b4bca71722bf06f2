"""Threads that answer requests, of which one at a time has its turn with Python.

Threads that run Python code get in each other's way: each waits for the others wherever the GIL is
released, and each change between them costs more than a small request does. So a thread that has
its turn goes on from task to task, and looks for new ones itself when there are no more. No other
one is woken until it steps aside: to wait for another thread, or for work that needs no Python,
such as the run of a large model. Threads whose wait is over get the next turn, before new tasks.

Source: leader and followers (Schmidt and others, 2000); the concurrency value of Windows' I/O
completion ports; sysmon of Go's scheduler, which takes the place of one that is stuck.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from gpux.serving.turns import Waiter, current

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Where tasks come from. One thread at a time, whichever has nothing else to do, looks."""

    def wait(self) -> Any:
        """Waits, without the GIL, and not for ever; answers what there is."""

    def handle(self, found: Any) -> None:
        """Submits the tasks in what there is."""

    def wake(self) -> None:
        """Ends a wait, in any thread."""


class Workers:
    """Threads for tasks; the one that was used last is used first.

    Args:
        count: of tasks that are worked on at the same time.
        name: of the threads.
        source: where tasks come from, beside submit(). It has a thread even where all others are
            at their tasks.
    """

    def __init__(self, count: int, name: str, source: Source | None = None) -> None:
        self._count = count
        self._source = source
        self._lock = threading.Lock()  # guards the fields below, and those of the workers
        self._tasks: deque[Callable[[], None]] = deque()
        self._returning: deque[_Worker] = deque()  # whose wait is over, and who have no turn yet
        threads = count if source is None else count + 1
        self._all = [_Worker(self, f"{name}-{number}") for number in range(threads)]
        self._idle = self._all[::-1]
        self._turns = 0  # threads that have theirs: one; more where one came back meanwhile
        self._busy = 0  # threads that are at a task
        self._has_looker = False  # a thread is at the source
        self._is_ending = False
        self._ring: Callable[[], None] | None = None  # see is_quiet()

    def start(self) -> None:
        """Starts the threads."""
        for worker in self._all:
            worker.thread.start()
        with self._lock:
            following = self._give_turn()
        _awaken(following)

    def submit(self, task: Callable[[], None]) -> None:
        """Has a task done, sooner or later. May be called by any thread."""
        with self._lock:
            self._tasks.append(task)
            following = self._give_turn()
        _awaken(following)

    def relieve(self) -> None:
        """Takes the turn of a thread that is still at what it was at when this was last called.

        Called every few milliseconds unless all is quiet: not all that takes long steps aside.
        """
        with self._lock:
            for worker in self._all:
                if worker.has_turn and worker.steps == worker.steps_at_last_look:
                    worker.has_turn = False
                    self._turns -= 1
                worker.steps_at_last_look = worker.steps
            following = self._give_turn()
        _awaken(following)

    def is_quiet(self, ring: Callable[[], None]) -> bool:
        """Whether nobody has a turn.

        Args:
            ring: is called, once, when something comes from the source after that.
        """
        self._ring = ring  # before it looks: what begins meanwhile is seen, or rings
        return self._turns == 0

    def shutdown(self, timeout_seconds: float) -> None:
        """Ends the threads, and waits that long for them; tasks that none has begun are dropped."""
        with self._lock:
            self._is_ending = True
            self._tasks.clear()
            sleeping = [*self._idle, *self._returning]
            self._idle.clear()
            self._returning.clear()
        for worker in sleeping:
            worker.signal.release()
        if self._source is not None:
            self._source.wake()
        deadline = time.monotonic() + timeout_seconds
        for worker in self._all:
            worker.thread.join(max(deadline - time.monotonic(), 0.0))

    def _give_turn(self) -> "_Worker | None":
        """Who is next, if nobody has the turn. The caller has the lock, and awakens them."""
        if self._turns > 0 or self._is_ending:
            return None
        if self._returning:
            worker = self._returning.popleft()
        elif self._idle and (self._may_begin() or self._may_look()):
            worker = self._idle.pop()
        else:
            return None
        self._take_turn(worker)
        return worker

    def _may_begin(self) -> bool:
        return bool(self._tasks) and self._busy < self._count

    def _may_look(self) -> bool:
        return self._source is not None and not self._has_looker

    def _take_turn(self, worker: "_Worker") -> None:
        worker.steps += 1
        if not worker.has_turn:
            worker.has_turn = True
            self._turns += 1

    def _drop_turn(self, worker: "_Worker") -> "_Worker | None":
        """Answers who has it now, and is to be awakened."""
        if worker.has_turn:
            worker.has_turn = False
            self._turns -= 1
        return self._give_turn()

    # What the workers' own threads do.

    def _work(self, worker: "_Worker") -> None:
        current.turn = worker
        worker.signal.acquire()
        while (task := self._next_task(worker)) is not None:
            try:
                task()
            except BaseException:  # a bug, which must not end the thread
                logger.exception("a task ended unexpectedly")
            with self._lock:
                self._busy -= 1

    def _next_task(self, worker: "_Worker") -> Callable[[], None] | None:
        """Waits until there is one; answers None at the end of all."""
        while True:
            with self._lock:
                if self._is_ending:
                    return None
                self._take_turn(worker)
                is_alone = self._turns == 1 and not self._returning
                if is_alone and self._may_begin():
                    self._busy += 1
                    return self._tasks.popleft()
                looks = is_alone and self._may_look()
                if looks:
                    self._has_looker = True
                else:
                    self._idle.append(worker)
                following = self._drop_turn(worker)
            _awaken(following)
            if looks:
                self._look(worker)
            else:
                worker.signal.acquire()

    def _look(self, worker: "_Worker") -> None:
        """Waits for what comes from the source, without a turn, and handles it in one."""
        assert self._source is not None
        try:
            found = self._source.wait()
        except Exception:  # a bug, which must not end the thread
            logger.exception("the source could not be waited for")
            found = None
        with self._lock:
            has_to_wait = self._turns > 0 and not self._is_ending
            if has_to_wait:
                self._returning.append(worker)
            else:
                self._take_turn(worker)
        if found and self._ring is not None:
            ring, self._ring = self._ring, None
            ring()
        if has_to_wait:
            worker.signal.acquire()
        try:
            if found:
                self._source.handle(found)
        except Exception:  # a bug, too
            logger.exception("what came could not be handled")
        with self._lock:
            self._has_looker = False

    def _step_aside(self, worker: "_Worker") -> None:
        with self._lock:
            following = self._drop_turn(worker)
        _awaken(following)

    def _step_back(self, worker: "_Worker") -> None:
        # At once: it has little left to do, and waiting for a turn is a change of threads, too.
        with self._lock:
            self._take_turn(worker)

    def _wait(self, worker: "_Worker", waiter: "_TurnWaiter", timeout_seconds: float) -> bool:
        with self._lock:
            if waiter.is_woken:
                return True
            waiter.is_waiting = True
            following = self._drop_turn(worker)
        _awaken(following)
        if worker.signal.acquire(timeout=timeout_seconds):
            return True
        with self._lock:
            waiter.is_waiting = False
            if not waiter.is_woken:
                self._take_turn(worker)
                return False
            if worker in self._returning:
                self._returning.remove(worker)
                self._take_turn(worker)
                return True
        worker.signal.acquire()  # it was given its turn in the last moment
        return True

    def _wake(self, worker: "_Worker", waiter: "_TurnWaiter") -> None:
        with self._lock:
            waiter.is_woken = True
            if not waiter.is_waiting:
                return
            self._returning.append(worker)
            following = self._give_turn()
        _awaken(following)


class _Worker:
    """One thread. As a context manager it is yield_turn()."""

    def __init__(self, workers: Workers, name: str) -> None:
        self.workers = workers
        self.thread = threading.Thread(target=workers._work, args=(self,), name=name, daemon=True)
        self.signal = threading.Lock()  # guards nothing: released to awaken the thread
        self.signal.acquire()
        self.has_turn = False
        self.steps = 0  # counts what it has begun to do
        self.steps_at_last_look = 0

    def __enter__(self) -> None:
        self.workers._step_aside(self)

    def __exit__(self, *_: object) -> None:
        self.workers._step_back(self)

    def waiter(self) -> Waiter:
        return _TurnWaiter(self)


class _TurnWaiter:
    """The wait of a worker's thread."""

    def __init__(self, worker: _Worker) -> None:
        self._worker = worker
        self.is_waiting = False
        self.is_woken = False

    def wait(self, timeout_seconds: float) -> bool:
        return self._worker.workers._wait(self._worker, self, timeout_seconds)

    def wake(self) -> None:
        self._worker.workers._wake(self._worker, self)


def _awaken(worker: _Worker | None) -> None:
    if worker is not None:
        worker.signal.release()
