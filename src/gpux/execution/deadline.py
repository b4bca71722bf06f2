"""Deadlines of requests."""

import time
from typing import NamedTuple

from gpux.errors import DeadlineError


class Deadline(NamedTuple):
    """The deadline of one request, at which its run is terminated.

    Termination takes effect between two nodes of the graph: a single long node runs to its end.

    Attributes:
        limit_seconds: total time allowed, for the error message.
        at_seconds: when it expires, on the monotonic clock.
    """

    limit_seconds: float
    at_seconds: float

    def left_seconds(self) -> float:
        """Time left; negative once the deadline has passed."""
        return self.at_seconds - time.monotonic()

    def error(self) -> DeadlineError:
        """The error of a request that missed the deadline."""
        return DeadlineError(self.limit_seconds)


def deadline_after(limit_seconds: float, since_seconds: float | None = None) -> Deadline:
    """A deadline, counted from now or from a time on the monotonic clock."""
    start = time.monotonic() if since_seconds is None else since_seconds
    return Deadline(limit_seconds, start + limit_seconds)
