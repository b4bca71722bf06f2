"""Runs requests on the model: inline while it is free, else queued and batched.

A request that finds the model free runs in its caller's thread, as does one whose run is shorter
than the context switches of queueing. Any other is queued; when a run ends, a scheduler thread
takes the oldest request and all others with its batch key that fit (batch_plan.py), and runs them
as one batch.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

from gpux._engine import Outputs, Request
from gpux.errors import ClientGoneError, DeadlineError, GpuxError, InferenceError
from gpux.execution.cpu import CpuExecution
from gpux.execution.deadline import Deadline
from gpux.execution.gpu import GpuExecution
from gpux.model import Model
from gpux.observability.timings import Stages
from gpux.serving.batch import (
    MixedRowsError,
    batch_key,
    collate,
    shapes_of,
    split,
)
from gpux.serving.batch_plan import BatchLimits, WaitingRequest, plan
from gpux.serving.padding import Padding
from gpux.serving.turns import waiter, yield_turn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SchedulerTuning:
    """Which runs execute inline: without queueing, while their thread keeps its turn.

    Attributes:
        short_run_seconds: runs shorter than this execute inline, as queueing would cost more.
        max_busy_seconds: even those are queued once the model has been busy for longer.
    """

    short_run_seconds: float = 0.0002
    max_busy_seconds: float = 0.001


DEFAULT_TUNING = SchedulerTuning()


class Scheduler:
    """Queues requests and runs them, alone or batched. Thread-safe.

    Args:
        model: the model to run.
        runs: maximum number of concurrent runs.
        limits: of batches; None to run each request alone.
        padding: for batches of requests of different lengths; None for no such batches.
        tuning: which runs execute inline.
        run_times: what is known of earlier runs.

    Attributes:
        limits: of batches from now on; None if each request runs alone.
        obstacle: what a batch revealed about the model that turned batching off.
    """

    def __init__(
        self,
        model: Model,
        runs: int,
        limits: BatchLimits | None,
        padding: Padding | None = None,
        tuning: SchedulerTuning = DEFAULT_TUNING,
        run_times: "RunTimeEstimate | None" = None,
    ) -> None:
        self._model = model
        self._tuning = tuning
        self._padding = padding
        self.limits = limits
        self.obstacle: str | None = None
        # GPU runs use a scheduler thread, so that the caller can leave at its deadline.
        is_on_gpu = isinstance(model.execution, GpuExecution)
        self._may_run_inline = not is_on_gpu and (limits is None or limits.delay_seconds == 0)
        self._inline_execution = (
            model.execution
            if self._may_run_inline and isinstance(model.execution, CpuExecution)
            else None
        )
        self._lock = threading.Lock()  # guards the fields below
        self._changed = threading.Condition(self._lock)  # guards the same fields
        self._runs = runs
        self._free = runs  # free run slots; below 0 while short runs exceed them
        self._busy_since = 0.0  # when the first of the present runs began
        self._waiting: list[_Entry] = []  # in order of arrival
        self._threads = [
            threading.Thread(target=self._work, name=f"scheduler-{number}", daemon=True)
            for number in range(runs)
        ]
        self._started = False
        self._run_times = run_times or RunTimeEstimate()  # by the number of elements
        self._body_times = RunTimeEstimate()  # by the number of bytes

    @property
    def queue_length(self) -> int:
        """Number of waiting requests."""
        return len(self._waiting)

    def respond(self, body: bytes, deadline: Deadline, stages: Stages) -> bytes | Request | None:
        """Responds to a body in one call, without the GIL, if the model is free.

        Args:
            body: any bytes.
            deadline: of the response.
            stages: receives the duration of each stage.

        Returns:
            The response; the request, if an input is missing, to be completed and run; None if the
            model is busy, or not to be run inline.

        Raises:
            ClientError: the request is invalid.
            DeadlineError, InferenceError: as run().
        """
        execution = self._inline_execution
        if execution is None:
            return None
        size = len(body)
        is_short = self._body_times.seconds(size) < self._tuning.short_run_seconds
        if not self._try_begin_inline(is_short=is_short):
            return None
        try:
            if is_short:
                response = execution.respond(body, deadline, stages)
            else:
                with yield_turn():  # other threads can decode and queue requests: the next batch
                    response = execution.respond(body, deadline, stages)
        finally:
            self._end_run()
        if stages.run is not None:
            self._body_times.note(size, stages.run)
        if self.limits is None:
            stages.rows = 1
        return response

    def run(
        self,
        request: Request,
        deadline: Deadline | None = None,
        is_gone: Callable[[], bool] | None = None,
    ) -> "RunResult":
        """Runs a request, alone or batched, and returns its outputs.

        Args:
            request: complete.
            deadline: once it has passed, this raises even if the run continues.
            is_gone: whether the client has disconnected; checked before a run.

        Raises:
            DeadlineError: the deadline has passed. A request that is still queued is never run; one
                that runs alone is stopped.
            ClientGoneError: the client has disconnected.
            InferenceError: ONNX Runtime failed.
        """
        size = request.elements
        is_short = self._run_times.seconds(size) < self._tuning.short_run_seconds
        if not self._try_begin_inline(is_short=is_short):
            rows, key = 1, None
            if self.limits is not None:
                rows = request.rows
                key = batch_key(request, self._model.signature, self._padding)
            entry = _Entry(request, deadline, is_gone, rows, key)
            with self._lock:
                self._start()
                self._waiting.append(entry)
                if self._free > 0:
                    self._changed.notify()
            return entry.wait(self._cancel)
        try:
            if is_short:
                outputs = self._model.execution.run(request, deadline)
            else:
                with yield_turn():  # other threads can decode and queue requests: the next batch
                    outputs = self._model.execution.run(request, deadline)
        finally:
            self._end_run()
        self._run_times.note(size, outputs.run_seconds)
        rows = 1 if self.limits is None else request.rows
        return RunResult(outputs, 0.0, outputs.run_seconds, rows)

    def _try_begin_inline(self, *, is_short: bool) -> bool:
        """Claims a run slot for the calling thread, if one is free or a short run needs none."""
        if not self._may_run_inline:
            return False
        now = time.monotonic()
        with self._lock:
            is_free = self._free > 0 and not self._waiting
            # Run time may depend on values, not only on size: runs that still go on show that.
            is_busy_briefly = now - self._busy_since < self._tuning.max_busy_seconds
            if not is_free and not (is_short and is_busy_briefly):
                return False
            self._begin_run(now)
            return True

    def _begin_run(self, now: float) -> None:
        """Claims a run slot; the caller holds the lock."""
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

    def _cancel(self, entry: "_Entry") -> bool:
        """Removes an entry from the queue; returns False if it is no longer queued."""
        with self._lock:
            try:
                self._waiting.remove(entry)
            except ValueError:
                return False
            return True

    # Below, the scheduler's own threads.

    def _work(self) -> None:
        while True:
            self._run_next()  # in a frame that keeps no request alive while this thread waits

    def _run_next(self) -> None:
        batch = self._take()
        try:
            if len(batch) == 1:
                self._run_alone(batch[0])
            else:
                self._run_batch(batch)
        except BaseException as error:  # a bug, which must not leave callers waiting
            logger.exception("a run ended unexpectedly")
            for entry in batch:
                failure = InferenceError("internal error")
                failure.__cause__ = error
                entry.fail(failure)
                del failure  # it refers to this frame
        finally:
            self._end_run()

    def _take(self) -> "list[_Entry]":
        """Waits for the next batch and claims its run slot."""
        with self._lock:
            while True:
                if self._free > 0:
                    self._drop_disconnected()
                    now = time.monotonic()
                    chosen = plan(
                        [entry.waiting for entry in self._waiting], self.limits or _ALONE, now
                    )
                    if chosen.batch:
                        self._begin_run(now)
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

    def _drop_disconnected(self) -> None:
        for entry in [entry for entry in self._waiting if entry.client_is_gone()]:
            self._waiting.remove(entry)
            entry.fail(ClientGoneError())

    def _run_alone(self, entry: "_Entry") -> None:
        if entry.client_is_gone():
            entry.fail(ClientGoneError())
            return
        if entry.deadline is not None and entry.deadline.left_seconds() <= 0:
            entry.fail(entry.deadline.error())
            return
        try:
            outputs = self._model.execution.run(entry.request, entry.deadline)
        except GpuxError as error:
            entry.fail(error)
        else:
            self._run_times.note(entry.request.elements, outputs.run_seconds)
            entry.finish(outputs, entry.rows)

    def _run_batch(self, batch: "list[_Entry]") -> None:
        """Runs a batch. If it fails, runs each request alone, so that only a faulty one fails."""
        model = self._model
        requests = [entry.request for entry in batch]
        layout = None
        if self._padding:
            layout = self._padding.lay_out([shapes_of(each, model.signature) for each in requests])
        try:
            merged = collate(requests, model.pipeline, layout)
        except MemoryError as error:
            logger.warning("no room for a batch: %s", error)
            for entry in batch:
                self._run_alone(entry)
            return
        try:
            outputs = model.execution.run(merged, _latest(batch))
            parts = split(outputs, [entry.rows for entry in batch], layout)
        except DeadlineError as error:  # the latest of the batch
            for entry in batch:
                entry.fail(entry.deadline.error() if entry.deadline else error)
            return
        except MixedRowsError as error:
            self.obstacle = f"rows together gave {error}"
            self.limits = None
            logger.error("Batching is off from now on: %s", self.obstacle)
            for entry in batch:
                self._run_alone(entry)
            return
        except Exception as error:
            logger.warning("a batch of %d requests failed, each runs alone: %s", len(batch), error)
            for entry in batch:
                self._run_alone(entry)
            return
        rows = sum(entry.rows for entry in batch)
        for entry, part in zip(batch, parts, strict=True):
            entry.finish(part, rows)


# Without batching each request runs alone.
_ALONE = BatchLimits(max_rows=1)


def _latest(batch: "list[_Entry]") -> Deadline | None:
    """The latest deadline of a batch: past it no caller waits."""
    deadlines = [entry.deadline for entry in batch]
    known = [deadline for deadline in deadlines if deadline is not None]
    if len(known) < len(deadlines):
        return None
    return max(known, key=lambda deadline: deadline.at_seconds)


class RunTimeEstimate:
    """Estimates run times by request size. Thread-safe.

    Keeps the minimum: time spent waiting for a core or the GIL says nothing about the model. An old
    minimum fades, as each run can raise it by a tenth.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}  # by the size's bit length

    def seconds(self, size: int) -> float:
        """Estimate for a request of `size` elements; infinite before the first run."""
        return self._seconds.get(size.bit_length(), math.inf)

    def note(self, size: int, seconds: float) -> None:
        """Records the duration of a run."""
        bits = size.bit_length()
        raised = 1.1 * self._seconds.get(bits, math.inf)
        self._seconds[bits] = seconds if seconds < raised else raised


class RunResult(NamedTuple):
    """The result of a run.

    Attributes:
        outputs: of the request.
        queue_seconds, run_seconds: how long the request waited, and how long it ran.
        rows: row count of the whole batch.
    """

    outputs: Outputs
    queue_seconds: float
    run_seconds: float
    rows: int


class _Entry:
    """A queued request, shared by the thread that waits for it and the thread that runs it.

    Its lock decides what ends it first, the deadline or the run.
    """

    def __init__(
        self,
        request: Request,
        deadline: Deadline | None,
        is_gone: Callable[[], bool] | None,
        rows: int,
        key: Hashable | None,
    ) -> None:
        self.request = request
        self.deadline = deadline
        self.is_gone = is_gone
        self.rows = rows
        # Without a batch key it only matches itself.
        self.queued = self.began = time.monotonic()
        self.waiting = WaitingRequest(id(self) if key is None else key, self.rows, self.queued)
        self._lock = threading.Lock()  # guards the fields below
        self._has_ended = False
        self._result: RunResult | GpuxError | None = None
        self._waiter = waiter()

    def client_is_gone(self) -> bool:
        """Whether the client has disconnected."""
        return self.is_gone is not None and self.is_gone()

    def wait(self, cancel: Callable[["_Entry"], bool]) -> RunResult:
        """Waits for the result, in the thread of the caller.

        Args:
            cancel: removes the entry from the queue, if it is still queued.
        """
        left_seconds = -1.0 if self.deadline is None else max(self.deadline.left_seconds(), 0.0)
        if not self._waiter.wait(left_seconds):
            assert self.deadline is not None
            if cancel(self):
                raise self.deadline.error()
            with self._lock:
                if not self._has_ended:
                    self._has_ended = True
                    self._result = self.deadline.error()
        result, self._result = self._result, None
        if isinstance(result, GpuxError):
            try:
                raise result
            finally:
                del result  # the error refers to this frame: both would keep the request alive
        assert result is not None
        return result

    def finish(self, outputs: Outputs, rows: int) -> None:
        """Ends it with the outputs of its run."""
        now = time.monotonic()
        self._end(RunResult(outputs, self.began - self.queued, now - self.began, rows))

    def fail(self, error: GpuxError) -> None:
        """Ends it with the error of its run, or without a run."""
        self._end(error)

    def _end(self, result: RunResult | GpuxError) -> None:
        """Stores the result and wakes the caller, unless it has ended."""
        with self._lock:
            if self._has_ended:
                return  # the caller has left, or a bug occurred after the end
            self._has_ended = True
            self._result = result
        self._waiter.wake()
