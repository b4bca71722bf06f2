"""Clients of a local server: single requests, and many concurrent connections."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from contenders import Client
from gpu_answers import Question

_PATIENCE_SECONDS = 60.0


def post(port: int, body: bytes) -> tuple[int, bytes]:
    """POST /predict over a new connection; returns status and body."""
    return _request(port, "POST", "/predict", body)


def info(port: int) -> dict[str, Any]:
    """The response of GET /info."""
    _, text = _request(port, "GET", "/info")
    found: dict[str, Any] = json.loads(text)
    return found


def _request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()


@dataclass(slots=True)
class Answers:
    """Timed responses.

    Attributes:
        seconds: per request, from before the first byte sent to after the last one read.
        span_seconds: the time in which all of them were received.
    """

    seconds: list[float] = field(default_factory=list)
    span_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return len(self.seconds) / self.span_seconds


def ask_at_once(
    port: int,
    connections: int,
    seconds: float,
    choose: Callable[[int, int], Question],
    warm_up_seconds: float = 0.0,
) -> Answers:
    """Sends requests over keep-alive connections, one thread each, and checks all responses.

    Args:
        port: the server's port.
        connections: their number.
        seconds: the duration.
        choose: (thread, number of the request) → the request. Called at least once per thread.
        warm_up_seconds: a time before that whose requests are checked, but not counted.

    Raises:
        MismatchError: a response was wrong. The other threads stop.
        CannotMeasureError: the server responded with an error, or not at all.
    """
    stopped = threading.Event()
    begin = time.perf_counter() + warm_up_seconds
    end = begin + seconds

    def ask(thread: int) -> list[tuple[float, float]]:
        taken: list[tuple[float, float]] = []
        client = Client("gpux", port)
        number = 0
        try:
            while not stopped.is_set() and (not taken or time.perf_counter() < end):
                question = choose(thread, number)
                started = time.perf_counter()
                lasted, text = client.post(question.body)
                question.check(text)
                number += 1
                if started >= begin:
                    taken.append((started, lasted))
        except BaseException:
            stopped.set()
            raise
        finally:
            client.close()
        return taken

    with ThreadPoolExecutor(connections) as threads:
        asked = [threads.submit(ask, thread) for thread in range(connections)]
        taken = [each for future in asked for each in future.result()]
    last = max(started + lasted for started, lasted in taken)
    return Answers([lasted for _, lasted in taken], last - begin)
