"""How a thread lets other threads run Python while it waits, or works without the GIL.

The HTTP server's thread pool runs one of its threads at a time. A thread of it sets `current.turn`;
in any other thread nothing has to be given up.
"""

import contextlib
import threading
from typing import Any, Protocol


class Waiter(Protocol):
    """The wait of one thread for another."""

    def wait(self, timeout_seconds: float) -> bool:
        """Waits, in the thread that created this.

        Args:
            timeout_seconds: negative to wait forever.

        Returns:
            Whether it was woken.
        """

    def wake(self) -> None:
        """Ends the wait, or the one to come. Called once, by any thread."""


class Turn(Protocol):
    """A pool thread's turn; as a context manager it gives the turn up meanwhile."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def waiter(self) -> Waiter:
        """A wait during which other threads of the pool have the turn."""


def waiter() -> Waiter:
    """A wait for the calling thread, which gives up its turn meanwhile."""
    turn: Turn | None = getattr(current, "turn", None)
    return _PlainWaiter() if turn is None else turn.waiter()


def aside() -> contextlib.AbstractContextManager[Any]:
    """Context manager: gives up the turn while the caller works without the GIL."""
    turn: Turn | None = getattr(current, "turn", None)
    return contextlib.nullcontext() if turn is None else turn


class _PlainWaiter:
    """The wait of a thread outside the pool."""

    def __init__(self) -> None:
        self._signal = threading.Lock()  # guards nothing: released to end the wait
        self._signal.acquire()

    def wait(self, timeout_seconds: float) -> bool:
        return self._signal.acquire(timeout=timeout_seconds)

    def wake(self) -> None:
        self._signal.release()


current = threading.local()  # `turn`: that of the calling thread, if it belongs to a pool
