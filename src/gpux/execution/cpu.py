"""Runs requests on the CPU, in the caller's thread.

gpu.py does the same on a GPU, with the same outputs and errors.
"""

import contextlib
import math
from typing import Any

from gpux._engine import Outputs, Pipeline, Request
from gpux._fastpath import Body
from gpux.errors import InferenceError
from gpux.execution.deadline import Deadline
from gpux.execution.session import reason_of
from gpux.observability.timings import Stages


class CpuExecution:
    """Runs requests on the CPU. Thread-safe.

    Args:
        pipeline: the model's.

    Attributes:
        runs_until_warm: runs of one set of shapes until one is as fast as all later ones.
    """

    runs_until_warm = 1

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def run(self, request: Request, deadline: Deadline | None = None) -> Outputs:
        """Runs a request, without the GIL.

        Args:
            request: one of the model's pipeline.
            deadline: when to terminate the run; None for no limit.

        Raises:
            DeadlineError: the run was terminated.
            InferenceError: ONNX Runtime failed; its message is the reason.
        """
        try:
            return self._pipeline.run(request, deadline.at_seconds if deadline else math.inf)
        except (RuntimeError, TimeoutError) as error:
            raise explain(error, deadline) from error

    def respond(self, body: bytes | Body, deadline: Deadline, stages: Stages) -> bytes | Request:
        """Responds to a request body in one call, without the GIL.

        Args:
            body: any bytes, or a complete Body.
            deadline: when to terminate the run.
            stages: receives the duration of each stage.

        Returns:
            The response; or the request, if an input is missing: its caller completes and runs it.

        Raises:
            ClientError: the request is invalid.
            DeadlineError: the run was terminated.
            InferenceError: ONNX Runtime failed; its message is the reason.
        """
        try:
            return self._pipeline.respond(body, deadline.at_seconds, stages)
        except (RuntimeError, TimeoutError) as error:
            raise explain(error, deadline) from error

    def uncaptured(self) -> contextlib.AbstractContextManager[None]:
        """Context for trial runs, whose shapes are not counted; no effect on the CPU."""
        return contextlib.nullcontext()

    def describe(self) -> dict[str, Any]:
        """The /info fields of the execution: none on the CPU."""
        return {}


def explain(error: RuntimeError | TimeoutError, deadline: Deadline | None) -> Exception:
    """The error of a request, of what its pipeline raised; the latter is its cause."""
    if isinstance(error, TimeoutError):
        assert deadline is not None
        return deadline.error()
    failure = InferenceError(reason_of(error))
    failure.__cause__ = error
    return failure
