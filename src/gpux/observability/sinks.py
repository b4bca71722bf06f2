"""Sinks of request records, such as the access log. Each has a bounded queue and a thread."""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from gpux.observability.record import RequestRecord

logger = logging.getLogger(__name__)

_BATCH_SECONDS = 0.05


class Sink(Protocol):
    """A destination of request records: the access log, traces. Used by one thread.

    Attributes:
        name: its label in the metrics.
    """

    name: str

    def write(self, records: Sequence[RequestRecord]) -> int:
        """Writes records, in the order in which they ended; returns how many it could not write."""

    def close(self, seconds: float) -> None:
        """Flushes and closes the sink, in at most about `seconds`."""


class Recorder:
    """Passes records to a sink in a thread of its own. Any number of threads may call `put`.

    Args:
        sink: receives the records.
        max_waiting: records in the queue; more are dropped.

    Attributes:
        dropped: number of records that were dropped.
    """

    def __init__(self, sink: Sink, max_waiting: int = 10_000) -> None:
        self.sink = sink
        self._max_waiting = max_waiting
        self.dropped = 0
        self._lock = threading.Lock()  # guards dropped
        self._queue: deque[RequestRecord] = deque()  # append and popleft are atomic
        self._has_records = threading.Event()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"gpux-{sink.name}", daemon=True)
        self._thread.start()

    def put(self, record: RequestRecord) -> None:
        """Enqueues a record. Never blocks: a full queue drops it and counts the drop."""
        if len(self._queue) >= self._max_waiting:
            self._drop(1)
            return
        self._queue.append(record)
        if not self._has_records.is_set():
            self._has_records.set()

    def close(self, seconds: float) -> bool:
        """Waits until the queue has been written; returns whether that took at most `seconds`."""
        deadline = time.monotonic() + seconds
        self._is_closing.set()
        self._has_records.set()
        self._thread.join(seconds)
        is_done = not self._thread.is_alive()
        if is_done:
            self.sink.close(max(0.0, deadline - time.monotonic()))
        return is_done

    def _run(self) -> None:
        while not self._is_closing.is_set() or self._queue:
            self._has_records.wait()
            # Let records accumulate: a wake-up for each would cost more than writing its line.
            self._is_closing.wait(_BATCH_SECONDS)
            self._has_records.clear()
            records = [self._queue.popleft() for _ in range(len(self._queue))]
            try:
                self._drop(self.sink.write(records))
            except Exception:
                logger.exception("%s failed", self.sink.name)
                self._drop(len(records))

    def _drop(self, count: int) -> None:
        if count:
            with self._lock:
                self.dropped += count
