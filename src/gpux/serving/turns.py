"""Lets a thread yield its turn to run Python while it waits, or works without the GIL.

As a rule one thread of the HTTP server's pool runs Python code at a time. Those threads set
`current.turn`; any other thread has no turn to give up.
"""

import contextlib
import threading
from typing import Any, Protocol


class Waiter(Protocol):
    """The wait of one thread until another wakes it."""

    def wait(self, timeout_seconds: float) -> bool:
        """Waits, in the thread that created the waiter.

        Args:
            timeout_seconds: negative to wait without a limit.

        Returns:
            False on a timeout.
        """

    def wake(self) -> None:
        """Ends the wait, or the next one. Called once, by any thread."""


class Turn(Protocol):
    """The turn of a pool thread. As a context manager, gives it up until the block ends."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def waiter(self) -> Waiter:
        """A waiter during whose wait other threads of the pool can have the turn."""


def waiter() -> Waiter:
    """A waiter for the calling thread, which gives up its turn while it waits."""
    turn: Turn | None = getattr(current, "turn", None)
    return _PlainWaiter() if turn is None else turn.waiter()


def yield_turn() -> contextlib.AbstractContextManager[Any]:
    """A context manager for work without the GIL: the caller gives up its turn meanwhile."""
    turn: Turn | None = getattr(current, "turn", None)
    return contextlib.nullcontext() if turn is None else turn


class _PlainWaiter:
    """The waiter of a thread outside the pool, without a turn."""

    def __init__(self) -> None:
        self._signal = threading.Lock()  # guards nothing: released to end the wait
        self._signal.acquire()

    def wait(self, timeout_seconds: float) -> bool:
        return self._signal.acquire(timeout=timeout_seconds)

    def wake(self) -> None:
        self._signal.release()


current = threading.local()  # `turn`: the calling thread's, if it belongs to a pool
