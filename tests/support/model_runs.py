"""Observes the runs of a model, and sends requests from many threads at once."""

import gc
import operator
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpux._engine import Outputs, Request
from gpux._fastpath import Body
from gpux.execution.cpu import CpuExecution
from gpux.model import Model
from gpux.observability.timings import Stages


def observe_runs(model: Model, observe: Callable[[Request], object]) -> None:
    """Calls `observe` with each request before it runs, in the thread that runs it."""
    execution = model.execution
    run = execution.run

    def observed_run(request: Request, deadline: Any = None) -> Outputs:
        observe(request)
        return run(request, deadline)

    def respond(body: bytes | Body, deadline: Any, stages: Stages) -> bytes | Request:
        """In steps what is otherwise one native call."""
        request, is_complete = model.pipeline.decode(body)
        if not is_complete:
            return request
        outputs = observed_run(request, deadline)
        stages.run, stages.rows = outputs.run_seconds, request.rows
        return outputs.encode(request.unbatched)

    execution.run = observed_run  # type: ignore[method-assign]
    if isinstance(execution, CpuExecution):
        execution.respond = respond  # type: ignore[method-assign]


def is_all_returned(model: Model) -> bool:
    """Whether all blocks are back, once what only an error's traceback refers to is freed."""
    gc.collect()
    return model.pool.used_bytes == 0


def check_64_threads(
    predict: Callable[[bytes], Any],
    cases: Sequence[tuple[bytes, Any]],
    turns: int,
    agrees: Callable[[Any, Any], bool] = operator.eq,
) -> None:
    """Asserts that each thread gets its own responses, in random order with random pauses.

    Args:
        predict: returns the response to a body.
        cases: bodies, each with the expected response.
        turns: requests of each thread.
        agrees: compares a response with the expected one.
    """
    wrong: list[object] = []

    def work(thread: int) -> None:
        own = random.Random(thread)
        for body, expected in own.sample(cases, turns):
            time.sleep(own.random() / 500)
            response = predict(body)
            if not agrees(response, expected):
                wrong.append((body, response, expected))

    with ThreadPoolExecutor(64) as callers:
        list(callers.map(work, range(64)))
    assert wrong == []
