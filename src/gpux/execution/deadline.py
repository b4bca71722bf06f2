"""When an answer is due, and what stops runs that take longer."""

import itertools
import threading
import time
from typing import Any, NamedTuple

from gpux.errors import DeadlineError


class Deadline(NamedTuple):
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
        # By token: when the run is late, and its options. Whoever takes an entry out, which is
        # atomic, has ended the run: end(), or the thread that stops it.
        self._running: dict[int, tuple[float, Any]] = {}
        self._tokens = itertools.count()
        self._changed = threading.Condition(threading.Lock())  # guards the fields below
        self._thread: threading.Thread | None = None
        self._wakes_at = _NEVER  # when the thread looks again by itself

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
        token = next(self._tokens)
        self._running[token] = (at_seconds, options)
        # Read after that: the thread sets it to never before it looks at what is running.
        if at_seconds < self._wakes_at:
            self._wake()
        return token

    def end(self, token: int) -> bool:
        """The run is over, or has failed; answers whether it was stopped."""
        if self._running.pop(token, None) is not None:
            return False
        with self._changed:  # the thread may be about to set it
            return True

    def _wake(self) -> None:
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while True:
                self._wakes_at = _NEVER
                now = time.monotonic()
                next_seconds = _NEVER
                for token, (at_seconds, options) in self._running.copy().items():
                    if at_seconds > now:
                        next_seconds = min(next_seconds, at_seconds)
                    elif self._running.pop(token, None) is not None:
                        options.terminate = True
                self._wakes_at = next_seconds
                self._changed.wait(None if next_seconds == _NEVER else next_seconds - now)


_NEVER = float("inf")
