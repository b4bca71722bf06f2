"""The threads that work for an event loop, and how what they have done comes back to it.

Native threads take the steps of requests: they never run Python. One Python thread does what needs
Python and takes long (texts to token ids); on a GPU, others wait for its runs. None of them touches
the loop's state: results are handed to callbacks in the loop's thread.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from gpux._engine import ThreadPool, Work

T = TypeVar("T")


class Threads:
    """The threads of one loop. Its methods are called by the loop's thread.

    Args:
        loop: runs the callbacks.
        native: number of native threads.
        on_gpu: number of Python threads that wait for a GPU's runs; 0 without a GPU.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, native: int, on_gpu: int = 0) -> None:
        self._loop = loop
        self._pool = ThreadPool(native)
        self._preprocess = ThreadPoolExecutor(1, "preprocess")
        self._gpu = ThreadPoolExecutor(on_gpu, "gpu-run") if on_gpu else None
        loop.add_reader(self._pool.fileno(), self._collect)

    def submit(self, work: Work, done: Callable[[Work], None]) -> None:
        """Has work executed by a native thread.

        Args:
            work: not to be used until then.
            done: called with the work once it is executed.
        """
        work.done = done
        self._pool.submit(work)

    def preprocess(
        self, function: Callable[[], T], done: Callable[["Future[T]"], None]
    ) -> "Future[T]":
        """Calls a function in the thread for preprocessing; `done` gets the completed future."""
        return self._call(self._preprocess, function, done)

    def run_on_gpu(self, function: Callable[[], T], done: Callable[["Future[T]"], None]) -> None:
        """Calls a function that waits for a GPU; `done` gets the completed future."""
        assert self._gpu is not None
        self._call(self._gpu, function, done)

    def close(self) -> None:
        """Ends the threads, once what they have begun is done; all other work is dropped."""
        self._loop.remove_reader(self._pool.fileno())
        self._pool.close()
        for executor in (self._preprocess, self._gpu):
            if executor is not None:
                executor.shutdown(cancel_futures=True)

    def _call(
        self,
        executor: ThreadPoolExecutor,
        function: Callable[[], T],
        done: Callable[["Future[T]"], None],
    ) -> "Future[T]":
        def post(future: "Future[T]") -> None:
            if not future.cancelled():
                self._loop.call_soon_threadsafe(done, future)

        future = executor.submit(function)
        future.add_done_callback(post)
        return future

    def _collect(self) -> None:
        for work in self._pool.completed():
            done: Any = work.done
            work.done = None  # it may refer to the work
            done(work)
