"""Admission control: bounds the requests in flight and the total bytes of their bodies."""

import threading
from typing import Self


class Admission:
    """Admits requests up to a limit of count and of bytes. Thread-safe.

    Args:
        max_requests: limit of requests in flight.
        max_bytes: limit of the bytes of their bodies in total; a lone request may exceed it.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests = max_requests
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # guards the two fields below
        self.requests = 0
        self._bytes = 0

    def admit(self, nbytes: int) -> "Permit | None":
        """Admits a request with a body of `nbytes` bytes; returns None if a limit is reached."""
        with self._lock:
            if self.requests >= self.max_requests or (
                self.requests > 0 and self._bytes + nbytes > self._max_bytes
            ):
                return None
            self.requests += 1
            self._bytes += nbytes
        return Permit(self, nbytes)

    def release(self, nbytes: int) -> None:
        """Returns the share of one request. Called once, by its permit."""
        with self._lock:
            self.requests -= 1
            self._bytes -= nbytes


class Permit:
    """An admitted request's share of the limits, held until release() or the end of `with`.

    For one thread at a time; a second release() does nothing.
    """

    __slots__ = ("_admission", "_nbytes")

    def __init__(self, admission: Admission, nbytes: int) -> None:
        self._admission: Admission | None = admission
        self._nbytes = nbytes

    def release(self) -> None:
        """Returns the share to the admission."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.release(self._nbytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
