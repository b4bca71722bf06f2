"""Request bodies while they come: short ones, long ones in their place, chunked ones.

Short and chunked ones take what belongs to them from the data that was read; long ones are received
into their memory. The application gets a body when it is complete.
"""

from gpux._fastpath import Body, Chunks, Pool
from gpux.errors import BodyTooLargeError
from gpux.http.head import MessageError
from gpux.http.limits import Limits

# From here on a body is received into its place; copying a shorter one costs less than a read more.
LONG_BODY_BYTES = 2**16
_FAULTS = {
    "malformed": "Malformed chunk",
    "too_verbose": "The chunks of the body carry too much beside the body",
}


class ShortBody:
    """A body of known length that waits among what was read until all of it is there.

    Args:
        nbytes: its length.

    Attributes:
        nbytes: bytes of the body that it holds itself.
    """

    nbytes = 0

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes

    def take_from(self, data: bytearray) -> bytes | None:
        """Takes the body from the front of the data; None if it is not complete."""
        if len(data) < self._nbytes:
            return None
        body = bytes(data[: self._nbytes])
        del data[: self._nbytes]
        return body


class ChunkedBody:
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
        """Bytes of the body that have come."""
        return self._chunks.nbytes

    def take_from(self, data: bytearray) -> bytes | None:
        """Takes what belongs to the body from the front of the data; returns it when complete.

        Raises:
            MessageError: it is refused.
        """
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

    Args:
        nbytes: its length.
        data: what was read so far, all of it taken: less than the whole body.
        pool: supplies the memory.

    Raises:
        MessageError: there is no memory for it.

    Attributes:
        nbytes: bytes of the body that have come.
    """

    def __init__(self, nbytes: int, data: bytearray, pool: Pool) -> None:
        try:
            self._body = Body(pool, nbytes)
        except MemoryError:
            raise _out_of_memory() from None
        self._view = memoryview(self._body)
        self.nbytes = len(data)
        self._view[: len(data)] = data
        data.clear()

    def room(self) -> memoryview:
        """Memory for the bytes to come."""
        return self._view[self.nbytes :]

    def filled(self, nbytes: int) -> Body | None:
        """Notes that so many bytes have been received into room(); returns the complete body."""
        self.nbytes += nbytes
        return self._body if self.nbytes == len(self._view) else None


def _out_of_memory() -> MessageError:
    return MessageError(503, "There is no memory for the body of the request")
