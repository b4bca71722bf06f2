"""Admission control: bounds the requests in flight and the total bytes of their bodies."""

from typing import Self


class Admission:
    """Admits requests up to a limit of count and of bytes. Used by the loop's thread only.

    Args:
        max_requests: limit of requests in flight.
        max_bytes: limit of the bytes of their bodies in total; a lone request may exceed it.

    Attributes:
        requests, nbytes: what is in flight.
    """

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.requests = 0
        self.nbytes = 0

    def admit(self, nbytes: int) -> "Permit | None":
        """Admits a request; returns None if a limit is reached.

        Args:
            nbytes: length of its body.
        """
        if not self.has_room(nbytes):
            return None
        self.requests += 1
        self.nbytes += nbytes
        return Permit(self, nbytes)

    def has_room(self, nbytes: int) -> bool:
        """Whether there is room for another request, and for so many bytes."""
        return self.requests < self.max_requests and (
            self.requests == 0 or self.nbytes + nbytes <= self.max_bytes
        )


class Permit:
    """An admitted request's share of the limits, held until release() or the end of `with`.

    A second release() does nothing.
    """

    __slots__ = ("_admission", "_nbytes")

    def __init__(self, admission: Admission, nbytes: int) -> None:
        self._admission: Admission | None = admission
        self._nbytes = nbytes

    def release(self) -> None:
        """Returns the share to the admission."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.requests -= 1
            admission.nbytes -= self._nbytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
