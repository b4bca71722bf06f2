"""The event loop of a service whose host has none: WSGI servers call from threads of their own.

The loop runs in a thread that the first call of a process starts, so that a host may fork before.
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from gpux.errors import DeadlineError

T = TypeVar("T")
_START_SECONDS = 60.0
# Threads of Python hold the interpreter for this long while the loop waits for it.
SWITCH_SECONDS = 0.0005


class Background:
    """Calls functions in the thread of an event loop, and waits for their results. Thread-safe.

    Args:
        opened: called in the loop's thread before anything else.
    """

    def __init__(self, opened: Callable[[asyncio.AbstractEventLoop], None]) -> None:
        self._opened = opened
        self._lock = threading.Lock()  # guards the start of the loop
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(self, function: Callable[[Callable[[T], None]], object], timeout_seconds: float) -> T:
        """Calls a function in the loop's thread.

        Args:
            function: gets a callback, which it has called once, with the result.
            timeout_seconds: how long to wait for that.

        Raises:
            DeadlineError: it took longer.
            Exception: what the function raised.
        """
        return call_in_loop(self._loop or self._start(), function, timeout_seconds)

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = new_event_loop()
                is_open = threading.Event()

                def run() -> None:
                    sys.setswitchinterval(SWITCH_SECONDS)
                    loop.call_soon(self._opened, loop)
                    loop.call_soon(is_open.set)
                    loop.run_forever()

                threading.Thread(target=run, name="loop", daemon=True).start()
                is_open.wait(_START_SECONDS)
                self._loop = loop
            return self._loop


def call_in_loop(
    loop: asyncio.AbstractEventLoop,
    function: Callable[[Callable[[T], None]], object],
    timeout_seconds: float,
) -> T:
    """Calls a function in a loop's thread, from another thread: see Background.call()."""
    result = _Result[T]()

    def call() -> None:
        try:
            function(result.put)
        except Exception as error:
            result.fail(error)

    loop.call_soon_threadsafe(call)
    return result.wait(timeout_seconds)


class _Result(Generic[T]):
    """The result of one call, for the thread that waits for it."""

    def __init__(self) -> None:
        self._signal = threading.Lock()  # guards nothing: released when the result is there
        self._signal.acquire()
        self._value: T | None = None
        self._error: Exception | None = None

    def put(self, value: T) -> None:
        self._value = value
        self._signal.release()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._signal.release()

    def wait(self, timeout_seconds: float) -> T:
        if not self._signal.acquire(timeout=timeout_seconds):
            raise DeadlineError(timeout_seconds)
        if self._error is not None:
            raise self._error
        assert self._value is not None
        return self._value


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new loop of uvloop, or the standard one where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
