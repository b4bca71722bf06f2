"""When an answer is due, and what stops runs that take longer."""

import heapq
import threading
import time
from dataclasses import dataclass
from typing import Any

from gpux.errors import DeadlineError


@dataclass(frozen=True, slots=True)
class Deadline:
    """When the answer to one request is due.

    Attributes:
        limit_seconds: how long it may take in all, for the message.
        at_seconds: the time on the monotonic clock.
        watchdog: stops its run.
    """

    limit_seconds: float
    at_seconds: float
    watchdog: "Watchdog"

    def left_seconds(self) -> float:
        """How long there still is; below 0 once it has passed."""
        return self.at_seconds - time.monotonic()

    def error(self) -> DeadlineError:
        """What the client is answered once it has passed."""
        return DeadlineError(self.limit_seconds)


class Watchdog:
    """Stops what runs past its deadline. Any number of threads may use it at once.

    One thread does it, from the first use on; it sleeps until the first run is due. Stopping acts
    between two nodes of the graph: a single long node runs to its end.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())  # guards the fields below
        self._running: dict[int, Any] = {}  # options by token
        self._due: list[tuple[float, int]] = []  # a heap; those that ended are skipped
        self._next_token = 0
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0  # when the thread looks again by itself

    def deadline(self, limit_seconds: float, since_seconds: float | None = None) -> Deadline:
        """A deadline that far from now, or from a time on the monotonic clock."""
        start = time.monotonic() if since_seconds is None else since_seconds
        return Deadline(limit_seconds, start + limit_seconds, self)

    def begin(self, options: Any, at_seconds: float) -> int:
        """Watches a run from now on.

        Args:
            options: its RunOptions, whose `terminate` is set once it is late. The run's own until
                end() has returned.
            at_seconds: when it is late, on the monotonic clock.

        Returns:
            A token for end().
        """
        with self._changed:
            token = self._next_token
            self._next_token += 1
            self._running[token] = options
            heapq.heappush(self._due, (at_seconds, token))
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)
                self._thread.start()
            elif at_seconds < self._wakes_at:
                self._changed.notify()
        return token

    def end(self, token: int) -> bool:
        """The run is over, or has failed; answers whether it was stopped."""
        with self._changed:
            was_stopped = self._running.pop(token, None) is None
            # Most runs end long before they are due: what is left of them must not pile up.
            if len(self._due) > 2 * len(self._running) + _MOST_ENDED:
                self._due = [entry for entry in self._due if entry[1] in self._running]
                heapq.heapify(self._due)
        return was_stopped

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                while self._due and (
                    self._due[0][0] <= now or self._due[0][1] not in self._running
                ):
                    _, token = heapq.heappop(self._due)
                    late = self._running.pop(token, None)
                    if late is not None:
                        late.terminate = True
                self._wakes_at = self._due[0][0] if self._due else float("inf")
                self._changed.wait(self._wakes_at - now if self._due else None)


_MOST_ENDED = 64
