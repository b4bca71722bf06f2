"""Serves one loaded model: request body in, response body out."""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpux._engine import Request
from gpux.config.settings import Settings
from gpux.errors import ConfigurationError, InferenceError
from gpux.execution.deadline import Deadline, deadline_after
from gpux.execution.gpu import GpuExecution
from gpux.model import Model
from gpux.observability.timings import Stages
from gpux.serving.batch_plan import BatchLimits
from gpux.serving.batching_check import Sample, find_obstacle, try_padding
from gpux.serving.padding import Padding, find_padding
from gpux.serving.scheduler import DEFAULT_TUNING, Scheduler, SchedulerTuning
from gpux.serving.turns import yield_turn

logger = logging.getLogger(__name__)

# On a GPU one run computes while the next one is copied in and launched.
_RUNS_ON_GPU = 2
# Larger bodies and tensors take longer to decode or encode than a context switch.
_LONG_BYTES = 2**16
_KEEP_TURN = contextlib.nullcontext()


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
    """Serves one model. Thread-safe.

    Args:
        model: a loaded model.
        settings: timeout and batching; None for the defaults, without batching.
        recorded: rows to check batching with, in addition to generated ones.
        tuning: the scheduler's.

    Raises:
        ConfigurationError: batching, or padding with it, is required, but the rows of the model
            cannot be batched.

    Attributes:
        runs: maximum number of concurrent runs.
        batching: the decision made at start-up.
        scheduler: runs the requests.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings | None = None,
        recorded: Sequence[Sample] = (),
        tuning: SchedulerTuning = DEFAULT_TUNING,
    ) -> None:
        settings = settings or Settings(model=model.file, batching="off")
        self.model = model
        is_on_gpu = isinstance(model.execution, GpuExecution)
        padding = find_padding(
            model.signature, model.config, model.text_encoder, is_on_gpu=is_on_gpu
        )
        check_deadline = deadline_after(settings.timeout_seconds)
        with model.execution.uncaptured():
            self.batching = _choose_batching(model, settings, padding, recorded, check_deadline)
        self.runs = _RUNS_ON_GPU if is_on_gpu else 1 if self.batching.limits else settings.cores
        self.scheduler = Scheduler(
            model, self.runs, self.batching.limits, self.batching.padding, tuning
        )
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
        """Responds to one request.

        Args:
            body: any bytes; see InputReader.decode.
            arrival_seconds: when the request was received, on the monotonic clock; None for now.
            timeout_seconds: the client's timeout, if it is below the configured one.
            is_gone: whether the client has disconnected.
            stages: receives the duration of each stage.

        Returns:
            The response body, as JSON.

        Raises:
            ClientError: the request is invalid.
            ServiceError: the request may be valid but could not be served.
        """
        stages = stages if stages is not None else Stages()
        deadline = self.deadline(timeout_seconds, arrival_seconds)
        if arrival_seconds is not None:
            stages.thread = max(0.0, time.monotonic() - arrival_seconds - (stages.read or 0.0))
            if deadline.left_seconds() <= 0:
                raise deadline.error()
        try:
            request = None
            # A long body would keep the model waiting while it is decoded.
            if len(body) <= _LONG_BYTES and not self.model.inputs.may_complete:
                response = self.scheduler.respond(body, deadline, stages)
                if isinstance(response, bytes):
                    stages.queue = stages.thread
                    return response
                request = response
            return self.respond(self._decode(body, request, stages), deadline, is_gone, stages)
        except InferenceError as error:
            logger.error("Inference failed: %s", error.__cause__)  # in full, for the operator
            raise

    def _decode(self, body: bytes, request: Request | None, stages: Stages) -> Request:
        """The complete request of a body, as far as it is not decoded yet."""
        start = time.perf_counter()
        if request is not None:
            request = self.model.inputs.complete(request)
        else:
            with yield_turn() if len(body) > _LONG_BYTES else _KEEP_TURN:
                request = self.model.inputs.decode(body)
        stages.decode = time.perf_counter() - start
        return request

    def deadline(
        self, timeout_seconds: float | None = None, arrival_seconds: float | None = None
    ) -> Deadline:
        """The deadline of a request: the configured timeout, or the client's if that is shorter."""
        limit = self._timeout_seconds
        return deadline_after(min(limit, timeout_seconds or limit), arrival_seconds)

    def respond(
        self,
        request: Request,
        deadline: Deadline,
        is_gone: Callable[[], bool] | None = None,
        stages: Stages | None = None,
    ) -> bytes:
        """Runs a decoded request and encodes its outputs.

        Args:
            request: complete.
            deadline: of the response.
            is_gone: whether the client has disconnected.
            stages: receives the duration of each stage.
        """
        stages = stages if stages is not None else Stages()
        result = self.scheduler.run(request, deadline, is_gone)
        stages.queue = stages.thread + result.queue_seconds
        stages.run = result.run_seconds
        stages.rows = result.rows
        start = time.perf_counter()
        with yield_turn() if result.outputs.nbytes > _LONG_BYTES else _KEEP_TURN:
            response = result.outputs.encode(request.unbatched)
        stages.encode = time.perf_counter() - start
        return response

    def info(self) -> dict[str, Any]:
        """The contents of /info."""
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
