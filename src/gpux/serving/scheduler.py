"""Runs the requests of one model: inline, or queued and batched on other threads.

The scheduler belongs to an event loop: its state is touched by the loop's thread only, so that it
needs no locks. A request whose run is proven short runs at once, in that thread (inline.py). Any
other is queued. Whenever the model is free, the oldest request and all others with its batch key
that fit (batch_plan.py) go to a native thread as one batch; what comes back is encoded, and each
request's callback is called.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import partial
from typing import NoReturn

from gpux._engine import (
    Outputs,
    Request,
    RequestCounts,
    Responder,
    ResponseText,
    Work,
)
from gpux._fastpath import Body
from gpux.errors import DeadlineError, UnavailableError
from gpux.execution.cpu import CpuExecution, explain
from gpux.execution.deadline import Deadline
from gpux.model import Model
from gpux.observability.timings import Stages
from gpux.serving.batch import MixedRowsError, batch_key, collate, padding_of, shapes_of, split
from gpux.serving.batch_plan import BatchLimits, WaitingRequest, plan
from gpux.serving.inline import DEFAULT_LIMITS, InlineLimits, new_policy
from gpux.serving.padding import PaddedLayout, Padding
from gpux.serving.threads import Threads

logger = logging.getLogger(__name__)

# Reading or writing more would keep the loop for longer than a context switch.
LONG_BYTES = 2**16

Response = bytes | ResponseText
Result = Response | Exception
# Without batching each request runs alone.
_ALONE = BatchLimits(max_rows=1)


class Job:
    """One request, from its body to its result. State of the scheduler that made it.

    Attributes:
        body: until it is decoded.
        nbytes: its length.
        deadline: of the response.
        stages: receives the duration of each stage.
    """

    __slots__ = (
        "began",
        "body",
        "deadline",
        "is_over",
        "nbytes",
        "on_done",
        "queued",
        "request",
        "stages",
        "steps",
        "waiting",
    )

    def __init__(
        self,
        body: bytes | Body,
        deadline: Deadline,
        stages: Stages,
        on_done: Callable[[Result], None],
    ) -> None:
        self.body: bytes | Body | None = body
        self.nbytes = len(body)
        self.deadline = deadline
        self.stages = stages
        self.on_done = on_done
        self.request: Request | None = None
        self.queued = self.began = 0.0
        # What is in progress for this request alone, and can be stopped or cancelled.
        self.steps: Work | Future[Request] | None = None
        self.waiting: WaitingRequest | None = None
        self.is_over = False

    @property
    def rows(self) -> int:
        """Rows of the request, once it is queued."""
        return self.waiting.rows if self.waiting is not None else 1


class Scheduler:
    """Runs requests. Used by the thread of one loop only.

    Args:
        model: the model to run.
        loop: its timers.
        threads: what does not run inline goes to them.
        runs: maximum number of concurrent runs that are not inline.
        limits: of batches; None to run each request alone.
        padding: for batches of requests of different lengths; None for no such batches.
        inline: what may run inline; None if nothing may.

    Attributes:
        limits: of batches from now on; None if each request runs alone.
        obstacle: what a batch revealed about the model that turned batching off.
    """

    def __init__(
        self,
        model: Model,
        loop: asyncio.AbstractEventLoop,
        threads: Threads,
        runs: int,
        limits: BatchLimits | None,
        padding: Padding | None = None,
        inline: InlineLimits | None = DEFAULT_LIMITS,
    ) -> None:
        self._model = model
        self._loop = loop
        self._threads = threads
        self._padding = padding
        self.limits = limits
        self.obstacle: str | None = None
        self._cpu = model.execution if isinstance(model.execution, CpuExecution) else None
        is_held_back = limits is not None and limits.delay_seconds > 0
        # Whether one native call can take a request that runs alone from its body to its response.
        self._is_one_call = self._cpu is not None and not model.inputs.may_complete
        may_run_inline = self._is_one_call and not is_held_back
        self._inline = new_policy(inline) if may_run_inline and inline is not None else None
        self._responder: Responder | None = None
        self._free = runs
        self._waiting: list[Job] = []  # in order of arrival
        self._open: dict[Job, None] = {}  # all that are not over
        self._expiry: asyncio.TimerHandle | None = None  # at the first deadline of these
        self._due: asyncio.TimerHandle | None = None  # when a request has been held back enough
        self._thread = threading.get_ident()

    @property
    def queue_length(self) -> int:
        """Number of requests that wait for the model."""
        return len(self._waiting)

    def respond(self, body: bytes | Body, deadline: Deadline, stages: Stages) -> Result | None:
        """Responds to a request in the calling thread, if that takes less than the way to another.

        Unlike all else, it may be called by any thread: what it changes changes under the GIL.

        Args:
            body: any bytes, or a complete Body.
            deadline: of the response; its run is stopped then.
            stages: receives the duration of each stage.

        Returns:
            The response or the error, as submit() passes them on; None to submit() the request.
        """
        policy = self._inline
        if policy is None or len(body) > LONG_BYTES or not policy.allows(len(body)):
            return None
        assert self._cpu is not None
        start, cpu_start = time.perf_counter(), time.thread_time()
        try:
            response = self._cpu.respond(body, deadline, stages)
            if isinstance(response, Request):
                self._refuse(response)
        except Exception as error:
            return error
        finally:
            seconds, cpu_seconds = time.perf_counter() - start, time.thread_time() - cpu_start
            policy.note_inline(len(body), seconds, cpu_seconds)
        stages.queue = 0.0
        if self.limits is None:
            stages.rows = 1
        return response

    def responder(
        self, counts: RequestCounts, start: Callable[[int], bytes], rest: bytes
    ) -> Responder | None:
        """What responds to known requests at once; None if this model's never run inline.

        Args:
            counts: gets them.
            start: makes the first part of a response: see Responder.
            rest: format of the other headers: see Responder.
        """
        if self._inline is None:
            return None
        is_batched = self.limits is not None
        self._responder = Responder(
            self._model.pipeline, self._inline, counts, start, rest, is_batched=is_batched
        )
        return self._responder

    def submit(
        self,
        body: bytes | Body,
        deadline: Deadline,
        stages: Stages,
        on_done: Callable[[Result], None],
    ) -> Job | None:
        """Takes a request from its body to its response.

        Args:
            body: any bytes, or a complete Body.
            deadline: of the response. Its run is stopped then; one that has not begun never does.
            stages: receives the duration of each stage.
            on_done: called once, with the response or with the error: a ClientError, a
                ServiceError, a MemoryError, or a bug's exception. Not if the job is cancelled.

        Returns:
            The job, for cancel(); None if on_done has been called already.
        """
        self._check_thread()
        job = Job(body, deadline, stages, on_done)
        self._open[job] = None
        self._expire_at(deadline.at_seconds)
        if self._is_one_call and self.limits is None:
            self._enqueue(job, None)
        elif len(body) <= LONG_BYTES:
            start = time.perf_counter()
            try:
                request, is_complete = self._model.pipeline.decode(body)
            except Exception as error:
                self._finish(job, error)
            else:
                stages.decode = time.perf_counter() - start
                self._complete(job, request, is_complete=is_complete)
        else:
            work = self._model.pipeline.decode_work(body)
            self._threads.submit(work, partial(self._decoded, job))
        return None if job.is_over else job

    def cancel(self, job: Job) -> None:
        """Drops a request whose client has left: it does not run, or its run is stopped."""
        self._check_thread()
        if not job.is_over:
            steps = job.steps
            self._end(job)
            if isinstance(steps, Work):
                steps.stop()
            elif steps is not None:
                steps.cancel()

    def stop(self) -> None:
        """Ends all requests with an error, and stops their runs."""
        for job in list(self._open):
            self.cancel(job)
            job.on_done(UnavailableError("The server has stopped: it could not wait any longer"))

    def _check_thread(self) -> None:
        assert threading.get_ident() == self._thread, "not the loop's thread"

    # From the body to the queue.

    def _refuse(self, request: Request) -> NoReturn:
        """Raises the error of a request that lacks an input, where none can be completed."""
        self._model.inputs.complete(request)
        raise AssertionError("a request is incomplete without a missing input")

    def _decoded(self, job: Job, work: Work) -> None:
        if job.is_over:
            return
        try:
            request, is_complete = work.request()
        except Exception as error:
            self._finish(job, error)
            return
        job.stages.decode = work.decode_seconds
        self._complete(job, request, is_complete=is_complete)

    def _complete(self, job: Job, request: Request, *, is_complete: bool) -> None:
        """Has missing inputs completed, if that is possible."""
        inputs = self._model.inputs
        if is_complete:
            self._enqueue(job, request)
        elif self._model.text_encoder is not None:
            job.began = time.monotonic()
            job.steps = self._threads.preprocess(
                partial(inputs.complete, request), partial(self._completed, job)
            )
        else:
            try:
                request = inputs.complete(request)
            except Exception as error:
                self._finish(job, error)
            else:
                self._enqueue(job, request)

    def _completed(self, job: Job, future: "Future[Request]") -> None:
        if job.is_over:
            return
        job.steps = None
        try:
            request = future.result()
        except Exception as error:
            self._finish(job, error)
        else:
            job.stages.decode = (job.stages.decode or 0.0) + time.monotonic() - job.began
            self._enqueue(job, request)

    def _enqueue(self, job: Job, request: Request | None) -> None:
        """Queues a request, decoded or, if None, as its body."""
        now = time.monotonic()
        job.queued = job.began = now
        rows: int = 1
        key: Hashable | None = None
        if request is not None:
            job.request, job.body = request, None
            if self.limits is not None:
                rows = request.rows
                key = batch_key(request, self._model.signature, self._padding)
        # Without a batch key it only matches itself.
        job.waiting = WaitingRequest(job if key is None else key, rows, now)
        self._waiting.append(job)
        self._dispatch()

    # From the queue to a run.

    def _dispatch(self) -> None:
        """Starts as many runs as the model is free for."""
        self._check_thread()
        while self._waiting and self._free > 0:
            now = time.monotonic()
            waiting = [job.waiting for job in self._waiting if job.waiting is not None]
            chosen = plan(waiting, self.limits or _ALONE, now)
            if not chosen.batch:
                if self._due is None and chosen.until_seconds is not None:
                    self._due = self._loop.call_later(chosen.until_seconds - now, self._is_due)
                return
            batch = [self._waiting[index] for index in chosen.batch]
            for index in reversed(chosen.batch):
                del self._waiting[index]
            for job in batch:
                job.began = now
            self._free -= 1
            try:
                self._run(batch)
            except Exception as error:
                self._free += 1
                for job in batch:
                    self._finish(job, error)

    def _is_due(self) -> None:
        self._due = None
        self._dispatch()

    def _run(self, batch: list[Job]) -> None:
        """Has a batch run by another thread."""
        pipeline = self._model.pipeline
        first = batch[0]
        if first.request is None:
            assert first.body is not None
            first.steps = pipeline.respond_work(first.body, first.deadline.at_seconds)
            self._threads.submit(first.steps, partial(self._responded, first))
            return
        requests = [job.request for job in batch if job.request is not None]
        layout = self._lay_out(requests)
        deadline = max((job.deadline for job in batch), key=lambda deadline: deadline.at_seconds)
        if self._cpu is None:
            self._threads.run_on_gpu(
                partial(self._run_on_gpu, requests, layout, deadline),
                lambda future: self._ran(batch, layout, future.result),
            )
            return
        padded = padding_of(requests[0], layout) if layout else None
        is_left = layout is not None and layout.padding.is_left
        work = pipeline.run_work(requests, deadline.at_seconds, padded, is_left)
        if len(batch) == 1:
            first.steps = work
        self._threads.submit(work, partial(self._ran_natively, batch, layout))

    def _lay_out(self, requests: list[Request]) -> PaddedLayout | None:
        if self._padding is None or len(requests) == 1:
            return None
        return self._padding.lay_out(
            [shapes_of(request, self._model.signature) for request in requests]
        )

    def _run_on_gpu(
        self, requests: list[Request], layout: PaddedLayout | None, deadline: Deadline
    ) -> Outputs:
        """Runs a batch, in a thread that waits for it."""
        merged = requests[0]
        if len(requests) > 1:
            merged = collate(requests, self._model.pipeline, layout)
        return self._model.execution.run(merged, deadline)

    # From a run to the response.

    def _responded(self, job: Job, work: Work) -> None:
        """Called when one call has taken a request to its response."""
        self._free += 1
        self._dispatch()
        if job.is_over:
            return
        try:
            response = work.response()
            if isinstance(response, Request):
                self._refuse(response)
        except Exception as error:
            self._finish(job, _explain(error, job.deadline))
            return
        if self._inline is not None and job.nbytes <= LONG_BYTES:
            self._inline.note_elsewhere(job.nbytes, work.cpu_seconds)
        stages = job.stages
        stages.decode, stages.run = work.decode_seconds, work.run_seconds
        stages.encode, stages.rows = work.encode_seconds, 1
        stages.queue = job.began - job.queued
        self._finish(job, response)

    def _ran_natively(self, batch: list[Job], layout: PaddedLayout | None, work: Work) -> None:
        for job in batch:
            if self._inline is not None and job.nbytes <= LONG_BYTES:
                seconds = (job.stages.decode or 0.0) + work.cpu_seconds
                self._inline.note_elsewhere(job.nbytes, seconds, len(batch))
        self._ran(batch, layout, work.outputs)

    def _ran(
        self, batch: list[Job], layout: PaddedLayout | None, outputs: Callable[[], Outputs]
    ) -> None:
        """Called when a batch has run.

        If it failed, each request runs alone, so that only a faulty one fails.
        """
        self._free += 1
        try:
            together = outputs()
            parts = [together]
            if len(batch) > 1:
                parts = split(together, [job.rows for job in batch], layout)
        except Exception as error:
            self._failed(batch, error)
            self._dispatch()
            return
        self._dispatch()
        rows_together = sum(job.rows for job in batch)
        for job, part in zip(batch, parts, strict=True):
            self._encode(job, part, rows_together)

    def _failed(self, batch: list[Job], error: Exception) -> None:
        if len(batch) == 1:
            self._finish(batch[0], _explain(error, batch[0].deadline))
            return
        if isinstance(error, (TimeoutError, DeadlineError)):  # at the latest deadline of all
            for job in batch:
                self._finish(job, job.deadline.error())
            return
        if isinstance(error, MixedRowsError):
            self.obstacle = f"rows together gave {error}"
            self.limits = None
            if self._responder is not None:
                self._responder.is_batched = False
            logger.error("Batching is off from now on: %s", self.obstacle)
        elif isinstance(error, MemoryError):
            logger.warning("no room for a batch: %s", error)
        else:
            logger.warning("a batch of %d requests failed, each runs alone: %s", len(batch), error)
        again = [job for job in batch if not job.is_over]
        for job in again:
            job.waiting = WaitingRequest(job, job.rows, job.queued)
        self._waiting[:0] = again

    def _encode(self, job: Job, outputs: Outputs, rows: int) -> None:
        """Writes the response of a request."""
        if job.is_over or job.request is None:
            return
        job.steps = None
        stages = job.stages
        stages.queue = job.began - job.queued
        stages.run = outputs.run_seconds
        stages.rows = rows
        unbatched = job.request.unbatched
        if outputs.nbytes > LONG_BYTES:
            work = self._model.pipeline.encode_work(outputs, unbatched)
            self._threads.submit(work, partial(self._encoded, job))
            return
        start = time.perf_counter()
        try:
            response = outputs.encode(unbatched)
        except Exception as error:
            self._finish(job, _explain(error, job.deadline))
            return
        stages.encode = time.perf_counter() - start
        self._finish(job, response)

    def _encoded(self, job: Job, work: Work) -> None:
        if job.is_over:
            return
        try:
            response = work.response()
        except Exception as error:
            self._finish(job, _explain(error, job.deadline))
            return
        assert not isinstance(response, Request)
        job.stages.encode = work.encode_seconds
        self._finish(job, response)

    # The end of a request.

    def _finish(self, job: Job, result: Result) -> None:
        if not job.is_over:
            self._end(job)
            job.on_done(result)

    def _end(self, job: Job) -> None:
        job.is_over = True
        job.body = job.request = job.steps = None  # whoever keeps the job keeps no memory of it
        del self._open[job]
        if job in self._waiting:
            self._waiting.remove(job)

    def _expire_at(self, at_seconds: float) -> None:
        """Sees to it that deadlines are looked at then. One timer serves all requests."""
        delay = max(at_seconds - time.monotonic(), 0.0)
        if self._expiry is not None:
            if self._expiry.when() <= self._loop.time() + delay:
                return
            self._expiry.cancel()
        self._expiry = self._loop.call_later(delay, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        # Timers have whole milliseconds: one may be a little early.
        now = time.monotonic() + 0.001
        for job in [job for job in self._open if job.deadline.at_seconds <= now]:
            steps = job.steps
            self._finish(job, job.deadline.error())
            if isinstance(steps, Future):
                steps.cancel()
        if self._open:
            self._expire_at(min(job.deadline.at_seconds for job in self._open))


def _explain(error: Exception, deadline: Deadline) -> Exception:
    """The error of a request, of what its run raised."""
    return explain(error, deadline) if isinstance(error, RuntimeError | TimeoutError) else error
