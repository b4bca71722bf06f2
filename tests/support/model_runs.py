"""Observes the runs of a model, and sends requests from many threads at once."""

import operator
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpux.model import Model
from gpux.tensors.request import Request


def observe_runs(model: Model, observe: Callable[[Request], object]) -> None:
    """Calls `observe` with each request before it runs, in the thread that runs it."""
    run = model.execution.run

    def observed_run(request: Request, deadline: Any = None) -> Any:
        observe(request)
        return run(request, deadline)

    model.execution.run = observed_run  # type: ignore[method-assign]


def rows_of(request: Request) -> int:
    return next(iter(request.tensors.values())).shape[0]


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
