"""Stops runs that take too long."""

import threading
import time
from typing import Any


class Watchdog:
    """Stops what runs longer than a limit. Any number of threads may use it at once.

    One thread does it, from the first use on; it sleeps until the oldest run is due. Stopping acts
    between two nodes of the graph: a single long node runs to its end.

    Args:
        limit_seconds: the same for all runs.
    """

    def __init__(self, limit_seconds: float) -> None:
        self.limit_seconds = limit_seconds
        self._changed = threading.Condition(threading.Lock())  # guards the fields below
        # In the order in which they began, and so in that of their deadlines.
        self._running: dict[int, tuple[float, Any]] = {}
        self._next_token = 0
        self._thread: threading.Thread | None = None
        self._is_idle = False  # the thread waits for a run to begin

    def begin(self, options: Any) -> int:
        """Watches a run from now on.

        Args:
            options: its RunOptions, whose `terminate` is set once it is late. The run's own until
                end() has returned.

        Returns:
            A token for end().
        """
        with self._changed:
            token = self._next_token
            self._next_token += 1
            self._running[token] = (time.monotonic() + self.limit_seconds, options)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)
                self._thread.start()
            elif self._is_idle:
                self._changed.notify()
        return token

    def end(self, token: int) -> bool:
        """The run is over, or has failed; answers whether it was stopped."""
        with self._changed:
            return self._running.pop(token, None) is None

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                oldest = next(iter(self._running), None)
                if oldest is None:
                    self._is_idle = True
                    self._changed.wait()
                    self._is_idle = False
                elif self._running[oldest][0] > now:
                    self._changed.wait(self._running[oldest][0] - now)
                else:
                    _, options = self._running.pop(oldest)
                    options.terminate = True
