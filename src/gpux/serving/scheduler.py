"""Requests that wait for the model, and who runs them: at once, or together when it is free.

A request that finds the model free runs in its own thread, as does one whose run is shorter than
the changes of threads that waiting would take. Any other waits; when a run ends, a thread of the
scheduler takes the oldest one and every other of its kind that fits beside it (batching.py), and
runs them as one.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable

from gpux.errors import ClientGoneError, DeadlineError, GpuxError, InferenceError
from gpux.execution.deadline import Deadline
from gpux.execution.gpu import GpuExecution
from gpux.model import Model
from gpux.serving.batch import (
    MixedRowsError,
    RefCountedBatch,
    batch_key,
    collate,
    rows_of,
    shapes_of,
    size_of,
    split,
)
from gpux.serving.batch_plan import BatchLimits, WaitingRequest, plan
from gpux.serving.padding import Padding
from gpux.serving.turns import aside, waiter
from gpux.tensors.outputs import Output
from gpux.tensors.request import Request

logger = logging.getLogger(__name__)


class Scheduler:
    """Any number of threads may use it at once.

    Args:
        model: what runs.
        runs: runs at the same time.
        limits: of batches; None to run each request alone.
        padding: with which requests of different lengths run together; None where none do.

    Attributes:
        limits: of batches, from now on; None where each request runs alone.
        obstacle: what a batch has shown of the model, so that there are no more.
    """

    def __init__(
        self, model: Model, runs: int, limits: BatchLimits | None, padding: Padding | None = None
    ) -> None:
        self._model = model
        self._padding = padding
        self.limits = limits
        self.obstacle: str | None = None
        # What a GPU is given takes a thread for itself, so that its caller can leave.
        is_on_gpu = isinstance(model.execution, GpuExecution)
        self._runs_at_once = not is_on_gpu and (limits is None or limits.delay_seconds == 0)
        self._lock = threading.Lock()  # guards the fields below
        self._changed = threading.Condition(self._lock)  # guards the same
        self._runs = runs
        self._free = runs  # that could begin; below 0 while short ones run beside them
        self._busy_since = 0.0  # when the first one of those that run now began
        self._waiting: list[_Entry] = []  # in the order in which they came
        self._threads = [
            threading.Thread(target=self._work, name=f"scheduler-{number}", daemon=True)
            for number in range(runs)
        ]
        self._started = False
        self._run_times = RunTimeEstimate()

    @property
    def queue_length(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def run(
        self,
        request: Request,
        deadline: Deadline | None = None,
        is_gone: Callable[[], bool] | None = None,
    ) -> "RunResult":
        """Runs a request, sooner or later, alone or with others.

        Args:
            request: the caller's, who releases it, unless this raises; not before it has read the
                outputs.
            deadline: past it the caller is answered, whether its run goes on or not.
            is_gone: whether nobody waits for the answer any more; asked before a run.

        Raises:
            DeadlineError: the deadline has passed. A request that waited is never run; one that
                runs alone is stopped.
            ClientGoneError: nobody waits for it.
            InferenceError: ONNX Runtime failed.

        A request that this raises for is released here.
        """
        size = size_of(request)
        is_short = self._run_times.seconds(size) < _SHORT_SECONDS
        if not self._begin_at_once(is_short=is_short):
            rows, kind = 1, None
            if self.limits is not None:
                rows = rows_of(request)
                kind = batch_key(request, self._model.signature, self._padding)
            entry = _Entry(request, deadline, is_gone, rows, kind)
            with self._lock:
                self._start()
                self._waiting.append(entry)
                if self._free > 0:
                    self._changed.notify()
            return entry.wait(self._leave)
        began = time.monotonic()
        try:
            if is_short:
                outputs = self._model.execution.run(request, deadline)
            else:
                with aside():  # others may decode meanwhile, and come to wait: the next batch
                    outputs = self._model.execution.run(request, deadline)
        except BaseException:
            request.release()
            raise
        finally:
            self._end_run()
        taken = time.monotonic() - began
        self._run_times.note(size, taken)
        rows = 1 if self.limits is None else rows_of(request)
        return RunResult(outputs, request.release, 0.0, taken, rows)

    def _begin_at_once(self, *, is_short: bool) -> bool:
        """Begins a run in the calling thread, if there is a free one for it, or none is needed."""
        if not self._runs_at_once:
            return False
        now = time.monotonic()
        with self._lock:
            is_free = self._free > 0 and not self._waiting
            # How long a run takes may lie in its numbers: those that go on tell.
            if not is_free and not (is_short and now - self._busy_since < _SHORT_WAIT_SECONDS):
                return False
            self._take_run(now)
            return True

    def _take_run(self, now: float) -> None:
        """Counts a run in; the caller has the lock."""
        if self._free == self._runs:
            self._busy_since = now
        self._free -= 1

    def _start(self) -> None:
        if not self._started:
            for thread in self._threads:
                thread.start()
            self._started = True

    def _end_run(self) -> None:
        with self._lock:
            self._free += 1
            if self._waiting:
                self._changed.notify()

    def _leave(self, entry: "_Entry") -> bool:
        """Takes an entry out of the queue; answers False if it is there no more."""
        with self._lock:
            try:
                self._waiting.remove(entry)
            except ValueError:
                return False
            return True

    # The threads of the scheduler.

    def _work(self) -> None:
        while True:
            batch = self._take()
            try:
                if len(batch) == 1:
                    self._run_alone(batch[0])
                else:
                    self._run_together(batch)
            except BaseException as error:  # a bug, which must not leave anybody waiting
                logger.exception("a run ended unexpectedly")
                failure = InferenceError("internal error")
                failure.__cause__ = error
                for entry in batch:
                    entry.fail(failure)
            finally:
                self._end_run()

    def _take(self) -> "list[_Entry]":
        """The next batch, whose run counts from now on."""
        with self._lock:
            while True:
                if self._free > 0:
                    self._drop_those_that_left()
                    now = time.monotonic()
                    chosen = plan(
                        [entry.waiting for entry in self._waiting], self.limits or _ALONE, now
                    )
                    if chosen.batch:
                        self._take_run(now)
                        batch = [self._waiting[index] for index in chosen.batch]
                        for index in reversed(chosen.batch):
                            del self._waiting[index]
                        for entry in batch:
                            entry.began = now
                        if self._waiting and self._free > 0:
                            self._changed.notify()
                        return batch
                    if chosen.until_seconds is not None:
                        self._changed.wait(chosen.until_seconds - now)
                        continue
                self._changed.wait()

    def _drop_those_that_left(self) -> None:
        for entry in [entry for entry in self._waiting if entry.has_left()]:
            self._waiting.remove(entry)
            entry.fail(ClientGoneError())

    def _run_alone(self, entry: "_Entry") -> None:
        if entry.has_left():
            entry.fail(ClientGoneError())
            return
        if entry.deadline is not None and entry.deadline.left_seconds() <= 0:
            entry.fail(entry.deadline.error())
            return
        began = time.monotonic()
        try:
            outputs = self._model.execution.run(entry.request, entry.deadline)
        except GpuxError as error:
            entry.fail(error)
        else:
            self._run_times.note(size_of(entry.request), time.monotonic() - began)
            entry.finish(outputs, entry.request.release, entry.rows)

    def _run_together(self, batch: "list[_Entry]") -> None:
        """Runs a batch; where that fails, each of its requests alone, so that one alone fails."""
        model = self._model
        requests = [entry.request for entry in batch]
        layout = (
            self._padding.lay_out([shapes_of(request) for request in requests])
            if self._padding
            else None
        )
        try:
            together = collate(requests, model.signature, model.pool, layout)
        except MemoryError as error:
            logger.warning("no room for a batch: %s", error)
            for entry in batch:
                self._run_alone(entry)
            return
        try:
            outputs = model.execution.run(together, _latest(batch))
            parts = split(outputs, [entry.rows for entry in batch], layout)
        except DeadlineError as error:  # of the last of them
            together.release()
            for entry in batch:
                entry.fail(entry.deadline.error() if entry.deadline else error)
            return
        except MixedRowsError as error:
            together.release()
            self.obstacle = f"rows together gave {error}"
            self.limits = None
            logger.error("Batching is off from now on: %s", self.obstacle)
            for entry in batch:
                self._run_alone(entry)
            return
        except Exception as error:
            together.release()
            logger.warning("a batch of %d requests failed, each runs alone: %s", len(batch), error)
            for entry in batch:
                self._run_alone(entry)
            return
        shared = RefCountedBatch(together, len(batch))
        rows = sum(entry.rows for entry in batch)
        for entry, own in zip(batch, parts, strict=True):
            entry.request.release()
            entry.finish(own, shared.leave, rows)


# A run that is not worth a change of threads: it waits for no other one, and nobody else has a turn
# meanwhile.
_SHORT_SECONDS = 0.0002
# While others have run for longer than this, it waits all the same.
_SHORT_WAIT_SECONDS = 0.001
# Without batches each request runs alone.
_ALONE = BatchLimits(max_rows=1)


def _latest(batch: "list[_Entry]") -> Deadline | None:
    """When nobody waits for a shared run any more."""
    deadlines = [entry.deadline for entry in batch]
    known = [deadline for deadline in deadlines if deadline is not None]
    if len(known) < len(deadlines):
        return None
    return max(known, key=lambda deadline: deadline.at_seconds)


class RunTimeEstimate:
    """How long runs take, by the size of what they are given. Any number of threads may use it.

    The least that was measured counts: that a thread waited for a processor, or for the GIL, says
    nothing of the model. It is forgotten slowly, as each run may make it a tenth more.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}  # by the power of two that the size is below

    def seconds(self, size: int) -> float:
        """What a run of that size takes; infinite before the first one."""
        return self._seconds.get(size.bit_length(), math.inf)

    def note(self, size: int, seconds: float) -> None:
        """A run has taken so long."""
        self._seconds[size.bit_length()] = min(seconds, 1.1 * self.seconds(size))


class RunResult:
    """What a run has answered.

    Attributes:
        outputs: in the order of the signature, valid until release().
        release: gives their memory back; call it once.
        queue_seconds, run_seconds: how long the request waited, and how long it ran.
        rows: of the whole batch.
    """

    __slots__ = ("outputs", "queue_seconds", "release", "rows", "run_seconds")

    def __init__(
        self,
        outputs: list[Output],
        release: Callable[[], None],
        queue_seconds: float,
        run_seconds: float,
        rows: int,
    ) -> None:
        self.outputs = outputs
        self.release = release
        self.queue_seconds = queue_seconds
        self.run_seconds = run_seconds
        self.rows = rows


class _Entry:
    """A request that waits, between the thread that waits for it and the one that runs it.

    Whoever ends it first, the deadline or the run, is decided under its lock; the other one gives
    the memory back.
    """

    def __init__(
        self,
        request: Request,
        deadline: Deadline | None,
        is_gone: Callable[[], bool] | None,
        rows: int,
        kind: Hashable | None,
    ) -> None:
        self.request = request
        self.deadline = deadline
        self.is_gone = is_gone
        self.rows = rows
        # What has no kind is only like itself.
        self.came = self.began = time.monotonic()
        self.waiting = WaitingRequest(id(self) if kind is None else kind, self.rows, self.came)
        self._lock = threading.Lock()  # guards the two fields below
        self._was_abandoned = False
        self._ended: RunResult | GpuxError | None = None
        self._waiter = waiter()

    def has_left(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.is_gone is not None and self.is_gone()

    def wait(self, leave: Callable[["_Entry"], bool]) -> RunResult:
        """What became of it, in the thread of its caller.

        Args:
            leave: takes it out of the queue, if it is still there.
        """
        left = -1.0 if self.deadline is None else max(self.deadline.left_seconds(), 0.0)
        if not self._waiter.wait(left):
            assert self.deadline is not None
            if leave(self):
                self.request.release()
                raise self.deadline.error()
            with self._lock:
                self._was_abandoned = self._ended is None
            if self._was_abandoned:
                raise self.deadline.error()
        ended = self._ended
        assert ended is not None
        if isinstance(ended, GpuxError):
            self.request.release()
            raise ended
        return ended

    def finish(self, outputs: list[Output], release: Callable[[], None], rows: int) -> None:
        """Its run has ended well."""
        now = time.monotonic()
        outcome = RunResult(outputs, release, self.began - self.came, now - self.began, rows)
        if not self._end(outcome):
            release()

    def fail(self, error: GpuxError) -> None:
        """Its run has failed, or never began."""
        if not self._end(error):
            self.request.release()

    def _end(self, ended: RunResult | GpuxError) -> bool:
        """Answers whether somebody still waits for it."""
        with self._lock:
            if self._ended is not None:
                return True  # it has ended before: a bug was met after that
            self._ended = ended
            is_waited_for = not self._was_abandoned
        self._waiter.wake()
        return is_waited_for
