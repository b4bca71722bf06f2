"""Deadlines of requests, and the watchdog that terminates runs at theirs."""

import itertools
import threading
import time
from typing import Any, NamedTuple

from gpux.errors import DeadlineError


class Deadline(NamedTuple):
    """The deadline of one request.

    Attributes:
        limit_seconds: total time allowed, for the error message.
        at_seconds: when it expires, on the monotonic clock.
        watchdog: terminates the request's run.
    """

    limit_seconds: float
    at_seconds: float
    watchdog: "Watchdog"

    def left_seconds(self) -> float:
        """Time left; negative once the deadline has passed."""
        return self.at_seconds - time.monotonic()

    def error(self) -> DeadlineError:
        """The error of a request that missed the deadline."""
        return DeadlineError(self.limit_seconds)


class Watchdog:
    """Terminates runs at their deadlines. Thread-safe.

    One thread, started on first use, sleeps until the next deadline. Termination takes effect
    between two nodes of the graph: a single long node runs to its end.
    """

    def __init__(self) -> None:
        # Token -> deadline and RunOptions. Either end() or the watchdog's thread removes an entry,
        # which is atomic and decides whether the run counts as terminated.
        self._running: dict[int, tuple[float, Any]] = {}
        self._tokens = itertools.count()
        self._changed = threading.Condition(threading.Lock())  # guards the fields below
        self._thread: threading.Thread | None = None
        self._wakes_at = _NEVER  # when the thread wakes up by itself

    def deadline(self, limit_seconds: float, since_seconds: float | None = None) -> Deadline:
        """Creates a deadline, counted from now or from a time on the monotonic clock."""
        start = time.monotonic() if since_seconds is None else since_seconds
        return Deadline(limit_seconds, start + limit_seconds, self)

    def begin(self, options: Any, at_seconds: float) -> int:
        """Starts watching a run.

        Args:
            options: its RunOptions, whose `terminate` is set at the deadline. Not to be used for
                another run before end() has returned.
            at_seconds: the deadline, on the monotonic clock.

        Returns:
            A token for end().
        """
        token = next(self._tokens)
        self._running[token] = (at_seconds, options)
        # Read last: the thread resets it to _NEVER before it scans the running ones.
        if at_seconds < self._wakes_at:
            self._wake()
        return token

    def end(self, token: int) -> bool:
        """Stops watching a run that returned or failed; returns whether it was terminated."""
        if self._running.pop(token, None) is not None:
            return False
        with self._changed:  # the thread may be about to set `terminate`
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
