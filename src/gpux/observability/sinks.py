"""Sinks of request records, such as the access log, each with a bounded queue and a thread."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from gpux.observability.record import RequestRecord

logger = logging.getLogger(__name__)


_MAX_WAITING = 10_000
_TOGETHER_SECONDS = 0.05


class Sink(Protocol):
    """What becomes of records: an access log, traces. Used by one thread.

    Attributes:
        name: for the metrics.
    """

    name: str

    def write(self, records: Sequence[RequestRecord]) -> int:
        """Takes them, in the order in which they ended; answers how many it could not take."""

    def close(self, seconds: float) -> None:
        """Ends it, in at most about so many seconds."""


class Recorder:
    """Hands records to a sink, in a thread of its own. Any number of threads may put.

    Args:
        sink: takes them.

    Attributes:
        dropped: how many were left out.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.dropped = 0
        self._lock = threading.Lock()  # guards dropped
        self._waiting: deque[RequestRecord] = deque()  # appending and popping are atomic
        self._is_waiting = threading.Event()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"gpux-{sink.name}", daemon=True)
        self._thread.start()

    def put(self, record: RequestRecord) -> None:
        """Hands one over; waits for nobody."""
        if len(self._waiting) >= _MAX_WAITING:
            self._drop(1)
            return
        self._waiting.append(record)
        if not self._is_waiting.is_set():
            self._is_waiting.set()

    def close(self, seconds: float) -> bool:
        """Waits until all is recorded that was put; answers whether it was within the time."""
        deadline = time.monotonic() + seconds
        self._is_closing.set()
        self._is_waiting.set()
        self._thread.join(seconds)
        is_done = not self._thread.is_alive()
        if is_done:
            self.sink.close(max(0.0, deadline - time.monotonic()))
        return is_done

    def _run(self) -> None:
        while not self._is_closing.is_set() or self._waiting:
            self._is_waiting.wait()
            # The first of many waits for company: a wake-up for each would cost more than its line.
            self._is_closing.wait(_TOGETHER_SECONDS)
            self._is_waiting.clear()
            records = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                self._drop(self.sink.write(records))
            except Exception:
                logger.exception("%s failed", self.sink.name)
                self._drop(len(records))

    def _drop(self, count: int) -> None:
        if count:
            with self._lock:
                self.dropped += count
