"""An engine whose scheduler runs in a loop's thread of its own, for tests that call from others."""

from typing import Any

from gpux._engine import Work
from gpux.execution.deadline import deadline_after
from gpux.observability.timings import Stages
from gpux.serving.background import Background
from gpux.serving.engine import Engine
from gpux.serving.inline import InlineLimits
from gpux.serving.scheduler import Scheduler

_PATIENCE_SECONDS = 120.0
# No run is proven short: each goes to another thread, so that there are batches.
NOTHING_INLINE = InlineLimits(run_seconds=-1.0)


class ServedEngine:
    """Serves an engine to any thread, as a WSGI host does.

    Args:
        engine: not started.
        inline: what runs in the loop's thread.
    """

    def __init__(self, engine: Engine, inline: InlineLimits = NOTHING_INLINE) -> None:
        self.engine = engine
        self._inline = inline
        self._background = Background(self._start)

    def predict(
        self, body: bytes, timeout_seconds: float = 60.0, stages: Stages | None = None
    ) -> bytes:
        """The response to a body; raises its error."""

        def submit(respond: Any) -> None:
            deadline, timings = deadline_after(timeout_seconds), stages or Stages()
            result = self.scheduler.respond(body, deadline, timings)
            if result is None:
                self.scheduler.submit(body, deadline, timings, respond)
            else:
                respond(result)

        result = self._background.call(submit, _PATIENCE_SECONDS)
        if isinstance(result, Exception):
            raise result
        return bytes(result)

    @property
    def scheduler(self) -> Scheduler:
        """The engine's scheduler, once a call has started it."""
        assert self.engine.scheduler is not None
        return self.engine.scheduler

    def _start(self, loop: Any) -> None:
        self.engine.start(loop, self._inline)


class ManualThreads:
    """In place of Threads: what is submitted waits until the test has it done.

    Attributes:
        works: native work that waits, oldest first.
        calls: functions for the other threads that wait.
    """

    def __init__(self) -> None:
        self.works: list[tuple[Work, Any]] = []
        self.calls: list[tuple[Any, Any]] = []

    def submit(self, work: Work, done: Any) -> None:
        self.works.append((work, done))

    def preprocess(self, function: Any, done: Any) -> Any:
        return self._call(function, done)

    def run_on_gpu(self, function: Any, done: Any) -> None:
        self._call(function, done)

    def _call(self, function: Any, done: Any) -> Any:
        future = _Future()
        self.calls.append((function, lambda: done(future.run(function))))
        return future

    def step(self) -> None:
        """Does the oldest work, or else the oldest call."""
        if self.works:
            work, done = self.works.pop(0)
            work.execute()
            done(work)
        else:
            self.step_call()

    def step_call(self) -> None:
        """Does the oldest call."""
        _, do = self.calls.pop(0)
        do()

    def run_all(self) -> None:
        """Does all that waits, and all that follows from it."""
        while self.works or self.calls:
            self.step()

    def close(self) -> None:
        """Does nothing."""


class _Future:
    """A future whose function is called when the test says so."""

    def __init__(self) -> None:
        self.is_cancelled = False
        self._error: BaseException | None = None
        self._value: Any = None

    def run(self, function: Any) -> "_Future":
        try:
            self._value = function()
        except Exception as error:
            self._error = error
        return self

    def cancel(self) -> None:
        self.is_cancelled = True

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


class ManualLoop:
    """In place of an event loop: timers fire when the test moves the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[_Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, function: Any) -> "_Timer":
        timer = _Timer(self.now + delay, function)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Moves the time, and fires what is due."""
        self.now += seconds
        due = [timer for timer in self.timers if timer.at <= self.now]
        self.timers = [timer for timer in self.timers if timer.at > self.now]
        for timer in due:
            if not timer.is_cancelled:
                timer.function()


class _Timer:
    def __init__(self, at: float, function: Any) -> None:
        self.at, self.function, self.is_cancelled = at, function, False

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.is_cancelled = True


class Scheduled:
    """A scheduler without threads or a loop: the test decides when what is done.

    Attributes:
        results: what came of each request, in the order of the results.
    """

    def __init__(self, engine: Engine, inline: InlineLimits | None = None, runs: int = 1) -> None:
        self.threads, self.loop = ManualThreads(), ManualLoop()
        batching = engine.batching
        loop: Any = self.loop
        threads: Any = self.threads
        self.scheduler = Scheduler(
            engine.model, loop, threads, runs, batching.limits, batching.padding, inline
        )
        self.results: list[Any] = []

    def submit(self, body: bytes, timeout_seconds: float = 60.0) -> "Submitted":
        """Submits a request."""
        submitted = Submitted(self.results)
        deadline = deadline_after(timeout_seconds)
        result = self.scheduler.respond(body, deadline, submitted.stages)
        if result is None:
            scheduler = self.scheduler
            submitted.job = scheduler.submit(body, deadline, submitted.stages, submitted.done)
        else:
            submitted.done(result)
        return submitted


class Submitted:
    """A request that was submitted.

    Attributes:
        job: for Scheduler.cancel().
        results: its result, once there is one.
    """

    def __init__(self, all_results: list[Any]) -> None:
        self.job: Any = None
        self.stages = Stages()
        self.results: list[Any] = []
        self._all = all_results

    def done(self, result: Any) -> None:
        self.results.append(result if isinstance(result, Exception) else bytes(result))
        self._all.append(self.results[-1])

    @property
    def result(self) -> Any:
        """The only result."""
        (result,) = self.results
        return result
