"""One loaded model, and how its requests run: batched or alone, inline or on other threads."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpux._engine import Request
from gpux.config.settings import Settings
from gpux.errors import ConfigurationError
from gpux.execution.deadline import Deadline, deadline_after
from gpux.execution.gpu import GpuExecution
from gpux.model import Model
from gpux.serving.batch_plan import BatchLimits
from gpux.serving.batching_check import Sample, find_obstacle, try_padding
from gpux.serving.inline import DEFAULT_LIMITS, InlineLimits, may_run_inline
from gpux.serving.padding import Padding, find_padding
from gpux.serving.scheduler import Scheduler
from gpux.serving.threads import Threads

# On a GPU one run computes while the next one is copied in and launched.
_RUNS_ON_GPU = 2


@dataclass(frozen=True, slots=True)
class BatchingDecision:
    """Whether waiting requests are batched, and how.

    Attributes:
        limits: of a batch; None if each request runs alone.
        reason: why each request runs alone.
        padding: of requests of different lengths; None if these are not batched.
        padding_reason: why these are not batched.
    """

    limits: BatchLimits | None
    reason: str | None = None
    padding: Padding | None = None
    padding_reason: str | None = None


class Engine:
    """One model, and how its requests run.

    Args:
        model: a loaded model.
        settings: timeout and batching; None for the defaults, without batching.
        recorded: rows to check batching with, in addition to generated ones.

    Raises:
        ConfigurationError: batching, or padding with it, is required, but the rows of the model
            cannot be batched.

    Attributes:
        runs: maximum number of concurrent runs, but for inline ones.
        batching: the decision made at start-up.
        scheduler: runs the requests; None before start().
    """

    def __init__(
        self,
        model: Model,
        settings: Settings | None = None,
        recorded: Sequence[Sample] = (),
    ) -> None:
        settings = settings or Settings(model=model.file, batching="off")
        self.model = model
        self._is_on_gpu = isinstance(model.execution, GpuExecution)
        padding = find_padding(
            model.signature, model.config, model.text_encoder, is_on_gpu=self._is_on_gpu
        )
        check_deadline = deadline_after(settings.timeout_seconds)
        with model.execution.uncaptured():
            self.batching = _choose_batching(model, settings, padding, recorded, check_deadline)
        self._threads = settings.native_threads
        one_at_a_time = self.batching.limits is not None
        self.runs = _RUNS_ON_GPU if self._is_on_gpu else 1 if one_at_a_time else self._threads
        self.timeout_seconds = settings.timeout_seconds
        self.scheduler: Scheduler | None = None

    def start(
        self, loop: asyncio.AbstractEventLoop, inline: InlineLimits = DEFAULT_LIMITS
    ) -> Scheduler:
        """Starts the threads and the scheduler. Called by the loop's thread, once.

        Args:
            loop: requests are submitted in its thread.
            inline: what may run inline.
        """
        threads = Threads(loop, self._threads, _RUNS_ON_GPU if self._is_on_gpu else 0)
        self.scheduler = Scheduler(
            self.model,
            loop,
            threads,
            self.runs,
            self.batching.limits,
            self.batching.padding,
            inline if may_run_inline(self.model) else None,
        )
        return self.scheduler

    def run(self, request: Request, timeout_seconds: float | None = None) -> None:
        """Runs a request and drops its outputs, in the caller's thread: before start().

        Raises:
            DeadlineError, InferenceError: as Model.respond().
        """
        deadline = deadline_after(min(self.timeout_seconds, timeout_seconds or math.inf))
        self.model.execution.run(request, deadline).encode(request.unbatched)

    def info(self) -> dict[str, Any]:
        """The contents of /info."""
        limits, obstacle = self.batching.limits, self.batching.reason
        if self.scheduler is not None:
            limits, obstacle = self.scheduler.limits, self.scheduler.obstacle or obstacle
        padding = None if obstacle else self.batching.padding
        return {
            **self.model.describe(),
            "batching": {
                "enabled": limits is not None,
                "max_batch_size": limits and limits.max_rows,
                "reason": obstacle,
                "padding": {
                    "enabled": padding is not None,
                    **(padding.describe() if padding else {}),
                    "reason": obstacle or self.batching.padding_reason,
                },
            },
        }


def _choose_batching(
    model: Model,
    settings: Settings,
    padding: Padding | str,
    recorded: Sequence[Sample],
    check_deadline: Deadline,
) -> BatchingDecision:
    if settings.batching == "off":
        return BatchingDecision(None, "serving.batching is off")
    limits = BatchLimits(settings.max_batch_size, settings.batch_delay_us / 1e6)
    if limits.max_rows == 1:
        return BatchingDecision(None, "serving.max_batch_size is 1")
    obstacle = find_obstacle(model, check_deadline, recorded)
    if obstacle is not None:
        if settings.batching == "on":
            raise ConfigurationError(f"serving.batching is on, but {obstacle}")
        return BatchingDecision(None, obstacle)
    if isinstance(padding, Padding):
        padding = try_padding(model, padding, check_deadline)
    if isinstance(padding, Padding):
        return BatchingDecision(limits, padding=padding)
    if settings.batching == "on" and settings.config.content.serving.padding:
        settings.config.fail("serving", "padding", problem=padding)
    return BatchingDecision(limits, padding_reason=padding)
