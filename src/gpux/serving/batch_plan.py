"""Plans the next batch: a pure function of the waiting requests, the limits and the time.

Requests queue while the model runs; once it is free, the next batch takes as many as fit. No
request is held back for others to join it, unless the limits ask for it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A queued request.

    Attributes:
        key: its batch key: requests with equal keys can share a batch.
        rows: its row count.
        since_seconds: arrival time, on a monotonic clock.
    """

    key: Hashable
    rows: int
    since_seconds: float


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of a batch.

    Attributes:
        max_rows: rows per batch; a request with more rows runs alone.
        delay_seconds: how long the oldest request may be held back for others to join it.
    """

    max_rows: int = 32
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next.

    Attributes:
        batch: indexes of the requests to run now, oldest first; empty to wait.
        until_seconds: when to plan again, if nothing runs now; None if nothing waits.
    """

    batch: tuple[int, ...]
    until_seconds: float | None = None


def plan(waiting: Sequence[WaitingRequest], limits: BatchLimits, now_seconds: float) -> Plan:
    """Chooses the next batch.

    Args:
        waiting: in order of arrival.
        limits: of a batch.
        now_seconds: the current time, on the clock of `since_seconds`.

    Returns:
        The oldest request and all later ones with its key that still fit, in order. A request is
        only overtaken by later ones that join its own batch or that of an earlier request, so none
        starves.
    """
    if not waiting:
        return Plan(())
    oldest = waiting[0]
    batch, rows = [0], oldest.rows
    for index in range(1, len(waiting)):
        if rows >= limits.max_rows:
            break
        other = waiting[index]
        if other.key == oldest.key and rows + other.rows <= limits.max_rows:
            batch.append(index)
            rows += other.rows
    due = oldest.since_seconds + limits.delay_seconds
    if rows < limits.max_rows and now_seconds < due:
        return Plan((), due)
    return Plan(tuple(batch))
