"""A server's sockets, and which of them are ready: waitress's map of sockets, over epoll.

waitress asks each of its sockets, before each wait, what it waits for, and tells the system about
all of them again. Here the system is told what has changed: idle connections cost nothing.
"""

import contextlib
import select
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

_GONE = select.EPOLLHUP | select.EPOLLERR


class Sockets(dict[int, Any]):
    """What waitress calls a map: its sockets by descriptor. Of one thread at a time, which polls.

    A socket is asked what it waits for (`readable()`, `writable()`) when it is new, when something
    has happened to it, and when somebody says that it may have changed.

    Args:
        handle: (socket, events) → waitress's `readwrite`, which no error of the socket leaves.
    """

    def __init__(self, handle: Callable[[Any, int], None]) -> None:
        super().__init__()
        self._handle = handle
        self._epoll = select.epoll()
        # What the system watches, by descriptor. Written by the thread that polls, read by others.
        self._watched: dict[int, int] = {}
        self._changed: deque[Any] = deque()  # appended to by any thread

    def __setitem__(self, descriptor: int, socket: Any) -> None:
        super().__setitem__(descriptor, socket)
        self._changed.append(socket)

    def __delitem__(self, descriptor: int) -> None:
        super().__delitem__(descriptor)
        if self._watched.pop(descriptor, 0):
            with contextlib.suppress(OSError):  # not watched yet, where another thread closes it
                self._epoll.unregister(descriptor)

    def changed(self, socket: Any) -> bool:
        """Says, in any thread, that a socket may wait for something else from now on.

        Returns:
            Whether wait() has to be ended for it.
        """
        # _watch() notes what is watched before it asks once more: whichever of the two comes last
        # sees what the other one did.
        if _wanted(socket) == self._watched.get(socket._fileno, 0):
            return False
        self._changed.append(socket)
        return True

    def wait(self, timeout_seconds: float) -> list[tuple[int, int]]:
        """Waits until a socket is ready; answers what the system tells, for handle()."""
        while self._changed:
            self._watch(self._changed.popleft())
        return self._epoll.poll(timeout_seconds)

    def handle(self, ready: Iterable[tuple[int, int]]) -> None:
        """Lets sockets that are ready read and write."""
        for descriptor, events in ready:
            socket = self.get(descriptor)
            # Each of these may close it, after which nothing else is to happen to it.
            if events & select.EPOLLIN and socket is not None:
                self._handle(socket, select.POLLIN)
            if events & select.EPOLLOUT and self.get(descriptor) is socket is not None:
                self._handle(socket, select.POLLOUT)
            # What there still is to read, the end included, is read first.
            is_over = events & _GONE and not events & select.EPOLLIN
            if is_over and self.get(descriptor) is socket is not None:
                self._handle(socket, select.POLLHUP)
            if socket is not None:
                self._watch(socket)

    def close(self) -> None:
        """Watches nothing any more."""
        self._epoll.close()

    def _watch(self, socket: Any) -> None:
        """Has the system watch what a socket waits for now."""
        descriptor = socket._fileno
        while self.get(descriptor) is socket:
            wanted, watched = _wanted(socket), self._watched.get(descriptor, 0)
            if wanted == watched:
                return
            self._watched[descriptor] = wanted
            try:
                if not watched:
                    self._epoll.register(descriptor, wanted)
                elif wanted:
                    self._epoll.modify(descriptor, wanted)
                else:  # the system would go on to tell of its end
                    self._epoll.unregister(descriptor)
            except OSError:  # another thread has closed it in this moment
                self._watched.pop(descriptor, None)
                return


def _wanted(socket: Any) -> int:
    """What a socket waits for, as the system has it."""
    reads = select.EPOLLIN if socket.readable() else 0
    return reads | select.EPOLLOUT if socket.writable() and not socket.accepting else reads
