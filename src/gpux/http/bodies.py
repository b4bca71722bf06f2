"""Request bodies while they come: short ones, long ones in their place, chunked ones.

Each is given what was read from the connection, and takes from it what belongs to the body.
"""

from typing import Protocol

from gpux._fastpath import Body, Chunks
from gpux.errors import BodyTooLargeError
from gpux.http.head import MessageError
from gpux.http.limits import Limits

# From here on a body is received into its place; copying a shorter one costs less than a read more.
LONG_BODY_BYTES = 2**16
_FAULTS = {
    "malformed": "Malformed chunk",
    "too_verbose": "The chunks of the body carry too much beside the body",
}


class ComingBody(Protocol):
    """A body that has not come in full."""

    @property
    def nbytes(self) -> int:
        """Bytes of the body that it holds."""

    def room(self) -> memoryview | None:
        """Memory for the next bytes from the connection, which filled() then notes.

        None where they are to be given to take_from(). A view of it must be gone by the next call
        of a method, but for filled().
        """

    def filled(self, nbytes: int) -> None:
        """So many bytes have been received into room()."""

    def take_from(self, data: bytearray) -> bytes | None:
        """Takes what belongs to the body from the front of the data.

        Returns:
            The body, if it is complete.

        Raises:
            MessageError: it is refused.
        """


class _Copied:
    """A body that has no room of its own."""

    def room(self) -> memoryview | None:
        return None

    def filled(self, nbytes: int) -> None:
        raise NotImplementedError(f"{nbytes} bytes came where there is no room")


class ShortBody(_Copied):
    """A body of known length that waits among what was read until all of it is there.

    Args:
        nbytes: its length.
    """

    nbytes = 0

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes

    def take_from(self, data: bytearray) -> bytes | None:
        if len(data) < self._nbytes:
            return None
        body = bytes(data[: self._nbytes])
        del data[: self._nbytes]
        return body


class ChunkedBody(_Copied):
    """A body in chunks.

    Args:
        max_bytes: limit of its size.
        limits: of its framing.
    """

    def __init__(self, max_bytes: int, limits: Limits) -> None:
        self._max_bytes = max_bytes
        self._chunks = Chunks(
            max_bytes,
            limits.chunk_line_bytes,
            limits.chunk_framing_bytes,
            limits.trailer_bytes,
            limits.header_fields,
        )

    @property
    def nbytes(self) -> int:
        return self._chunks.nbytes

    def take_from(self, data: bytearray) -> bytes | None:
        try:
            consumed = self._chunks.decode(data)
        except MemoryError:
            raise _out_of_memory() from None
        del data[:consumed]
        if self._chunks.fault == "too_large":
            raise MessageError(413, str(BodyTooLargeError(self._max_bytes)))
        if self._chunks.fault is not None:
            raise MessageError(400, _FAULTS[self._chunks.fault])
        return self._chunks.take() if self._chunks.is_complete else None


class LongBody:
    """A body of known length that is received into the memory that it is read from.

    All but its last byte: whoever receives still refers to the memory then, in which state the body
    cannot be taken.

    Args:
        nbytes: its length.
        data: what was read so far; what belongs to the body is taken from it. It must be less than
            the whole body.

    Raises:
        MessageError: there is no memory for it.
    """

    def __init__(self, nbytes: int, data: bytearray) -> None:
        try:
            self._body = Body(nbytes)
        except MemoryError:
            raise _out_of_memory() from None
        self._view = memoryview(self._body)
        self.nbytes = len(data)
        self._view[: len(data)] = data
        data.clear()

    def room(self) -> memoryview | None:
        last = len(self._view) - 1
        return self._view[self.nbytes : last] if self.nbytes < last else None

    def filled(self, nbytes: int) -> None:
        self.nbytes += nbytes

    def take_from(self, data: bytearray) -> bytes | None:
        if not data:
            return None
        self._view[-1] = data[0]
        del data[:1]
        self._view.release()
        return self._body.take()


def _out_of_memory() -> MessageError:
    return MessageError(503, "There is no memory for the body of the request")
