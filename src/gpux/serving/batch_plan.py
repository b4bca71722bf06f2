"""Which waiting requests run together: a pure function of what waits, the limits and the time.

While a model runs, requests wait; when it is free, it takes as many as fit together. Nobody waits
for company, unless the limits ask for it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A request that waits.

    Attributes:
        key: what its items look like: requests with equal keys can run together.
        rows: items in it.
        since_seconds: when it came, by a clock that never goes back.
    """

    key: Hashable
    rows: int
    since_seconds: float


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What a batch may be.

    Attributes:
        max_rows: rows that run together; a request that has more of its own runs alone.
        delay_seconds: how long the oldest request may be held back for company.
    """

    max_rows: int = 32
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    Attributes:
        batch: indexes in the sequence of those that run now, the oldest first; empty to wait.
        until_seconds: the time to look again, where nothing runs now; None if nothing waits.
    """

    batch: tuple[int, ...]
    until_seconds: float | None = None


def plan(waiting: Sequence[WaitingRequest], limits: BatchLimits, now_seconds: float) -> Plan:
    """Chooses the next batch.

    Args:
        waiting: in the order in which they came.
        limits: of a batch.
        now_seconds: by the clock of `since_seconds`.

    Returns:
        The oldest request with every younger one of its kind that still fits, in their order. So no
        request is overtaken by one that came later, but for those that fill its own batch or the
        batch of one before it, and none can wait for ever.
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
