"""Admission control: bounds the requests in flight, and the bytes of their bodies."""

import threading
from typing import Self


class Admission:
    """Admits requests while there is room for them. Any number of threads may call it at once.

    Args:
        max_requests: in flight at once.
        max_bytes: of their bodies together; a request alone may exceed it.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests = max_requests
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # guards the two fields below
        self.requests = 0
        self._bytes = 0

    def admit(self, nbytes: int) -> "Permit | None":
        """Admits a request with a body of `nbytes` bytes; None where there is no room for it."""
        with self._lock:
            if self.requests >= self.max_requests or (
                self.requests > 0 and self._bytes + nbytes > self._max_bytes
            ):
                return None
            self.requests += 1
            self._bytes += nbytes
        return Permit(self, nbytes)

    def release(self, nbytes: int) -> None:
        """Makes room again. Called by the permit, once."""
        with self._lock:
            self.requests -= 1
            self._bytes -= nbytes


class Permit:
    """An admitted request's share of the admission, until release() or the end of `with`.

    One thread at a time may use it; releasing it twice does nothing.
    """

    __slots__ = ("_admission", "_nbytes")

    def __init__(self, admission: Admission, nbytes: int) -> None:
        self._admission: Admission | None = admission
        self._nbytes = nbytes

    def release(self) -> None:
        """Ends the request's share."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.release(self._nbytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
