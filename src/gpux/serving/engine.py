"""A body in, an answer out: one loaded model, and how its requests run."""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpux.config.settings import Settings
from gpux.errors import ConfigurationError, InferenceError
from gpux.execution.deadline import Deadline, Watchdog
from gpux.execution.gpu import GpuExecution
from gpux.model import Model
from gpux.observability.timings import Stages
from gpux.serving.batch_plan import BatchLimits
from gpux.serving.batching_check import Sample, find_obstacle, try_padding
from gpux.serving.encoder import encode
from gpux.serving.padding import Padding, find_padding
from gpux.serving.scheduler import Scheduler
from gpux.serving.turns import aside
from gpux.tensors.memory import Tensor
from gpux.tensors.request import Request

logger = logging.getLogger(__name__)

# Of a GPU: one that runs, and one that is copied in and launched meanwhile.
_RUNS_ON_GPU = 2
# A body, or a tensor, that takes longer to read, or write, than a change of threads takes.
_LONG_BYTES = 2**16
_HERE = contextlib.nullcontext()


@dataclass(frozen=True, slots=True)
class BatchingDecision:
    """Whether waiting requests run together.

    Attributes:
        limits: of a batch; None where each runs alone.
        reason: why each runs alone.
        padding: how those of different lengths do.
        padding_reason: why they do not.
    """

    limits: BatchLimits | None
    reason: str | None = None
    padding: Padding | None = None
    padding_reason: str | None = None


class Engine:
    """Serves one model. Any number of threads may call it at once.

    Args:
        model: a loaded one.
        settings: limits of time and batches; None for the defaults, without batches.

        recorded: rows by which it is tried, beside generated ones, whether they can run together.

    Raises:
        ConfigurationError: batching, or padding with it, is demanded for a model whose rows cannot
            run together.

    Attributes:
        runs: at the same time.
        batching: whether waiting requests run together, as it was at the start.
        scheduler: its requests.
    """

    def __init__(
        self, model: Model, settings: Settings | None = None, recorded: Sequence[Sample] = ()
    ) -> None:
        settings = settings or Settings(model=model.file, batching="off")
        self.model = model
        self._watchdog = Watchdog()
        is_on_gpu = isinstance(model.execution, GpuExecution)
        padding = find_padding(
            model.signature, model.config, model.text_encoder, is_on_gpu=is_on_gpu
        )
        trial = self._watchdog.deadline(settings.timeout_seconds)
        with model.execution.uncaptured():
            self.batching = _choose_batching(model, settings, padding, recorded, trial)
        self.runs = _RUNS_ON_GPU if is_on_gpu else 1 if self.batching.limits else settings.cores
        self.scheduler = Scheduler(model, self.runs, self.batching.limits, self.batching.padding)
        self._timeout_seconds = settings.timeout_seconds

    def predict(
        self,
        body: bytes,
        *,
        arrival_seconds: float | None = None,
        timeout_seconds: float | None = None,
        is_gone: Callable[[], bool] | None = None,
        stages: Stages | None = None,
    ) -> bytes:
        """Answers one request.

        Args:
            body: any bytes; see InputReader.decode.
            arrival_seconds: when it had been read, on the monotonic clock; None for just now.
            timeout_seconds: what the client is ready to wait, if that is less than the limit.
            is_gone: whether the client has left.
            stages: how long each stage took is noted here.

        Returns:
            The answer's JSON text.

        Raises:
            ClientError: the request is wrong.
            ServiceError: it may be right, but could not be answered.
        """
        stages = stages if stages is not None else Stages()
        deadline = self.deadline(timeout_seconds, arrival_seconds)
        if arrival_seconds is not None:
            stages.thread = max(0.0, time.monotonic() - arrival_seconds - (stages.read or 0.0))
        if deadline.left_seconds() <= 0:
            raise deadline.error()
        try:
            start = time.perf_counter()
            with aside() if len(body) > _LONG_BYTES else _HERE:
                request = self.model.inputs.decode(body)
            stages.decode = time.perf_counter() - start
            answer = self.answer(request, deadline, is_gone, stages)
        except InferenceError as error:
            logger.error("Inference failed: %s", error.__cause__)  # whole, for the operator
            raise
        return answer

    def deadline(
        self, timeout_seconds: float | None = None, arrival_seconds: float | None = None
    ) -> Deadline:
        """When a request is due: at the limit, or earlier where its client says so."""
        limit = self._timeout_seconds
        return self._watchdog.deadline(min(limit, timeout_seconds or limit), arrival_seconds)

    def answer(
        self,
        request: Request,
        deadline: Deadline,
        is_gone: Callable[[], bool] | None = None,
        stages: Stages | None = None,
    ) -> bytes:
        """Runs a request that has been decoded; releases it, whatever comes.

        Args:
            request: the caller's no more.
            deadline: when it is due.
            is_gone: whether the client has left.
            stages: how long each stage took is noted here.
        """
        stages = stages if stages is not None else Stages()
        unbatched = request.unbatched
        outcome = self.scheduler.run(request, deadline, is_gone)
        stages.queue = stages.thread + outcome.queue_seconds
        stages.run = outcome.run_seconds
        stages.rows = outcome.rows
        try:
            start = time.perf_counter()
            processed = self.model.postprocess(outcome.outputs, unbatched=unbatched)
            nbytes = sum([out.nbytes for out in processed.values() if isinstance(out, Tensor)])
            with aside() if nbytes > _LONG_BYTES else _HERE:
                answer = encode(processed)
            stages.encode = time.perf_counter() - start
        finally:
            outcome.release()
        return answer

    def info(self) -> dict[str, Any]:
        """What /info says."""
        limits = self.scheduler.limits
        obstacle = self.scheduler.obstacle or self.batching.reason
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
    trial: Deadline,
) -> BatchingDecision:
    if settings.batching == "off":
        return BatchingDecision(None, "serving.batching is off")
    limits = BatchLimits(settings.max_batch_size, settings.batch_delay_us / 1e6)
    if limits.max_rows == 1:
        return BatchingDecision(None, "serving.max_batch_size is 1")
    obstacle = find_obstacle(model, trial, recorded)
    if obstacle is not None:
        if settings.batching == "on":
            raise ConfigurationError(f"serving.batching is on, but {obstacle}")
        return BatchingDecision(None, obstacle)
    if isinstance(padding, Padding):
        padding = try_padding(model, padding, trial)
    if isinstance(padding, Padding):
        return BatchingDecision(limits, padding=padding)
    if settings.batching == "on" and settings.config.content.serving.padding:
        settings.config.fail("serving", "padding", problem=padding)
    return BatchingDecision(limits, padding_reason=padding)
