"""What goes out of a connection: responses in line for the transport, and how fast it is read."""

import asyncio
from typing import TYPE_CHECKING

from gpux.http.head import RequestHead
from gpux.http.limits import Limits
from gpux.http.responses import Response, write_head

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc from Python 3.12 on

# Up to this size pieces are sent as one: to copy them costs less than to send several.
_COPIED_BYTES = 2**14


class Outgoing:
    """The bytes to a client, in order. Buffers are referred to until they are sent.

    Args:
        limits: what the client is held to.

    Attributes:
        transport: to be set before anything is sent.
        waiting_bytes: that the transport has not been given yet.
        is_behind: the client has not been sent all that the transport has been given. It is for the
            connection to set, as the transport pauses and resumes writing.
    """

    transport: asyncio.Transport

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: list[Buffer] = []
        self.waiting_bytes = 0
        self.is_behind = False
        self._given_bytes = 0  # to the transport, in all
        # At the last look at the client, and since it last was not behind.
        self._read_bytes = 0
        self._caught_up_bytes = 0
        self._behind_seconds = 0.0
        self._still_seconds = 0.0

    def put(self, piece: "Buffer", nbytes: int) -> None:
        """Puts a buffer of so many bytes in line."""
        self._waiting.append(piece)
        self.waiting_bytes += nbytes

    def put_response(self, head: RequestHead | None, response: Response, *, keeps: bool) -> None:
        """Puts a response in line.

        Args:
            head: of the request; None if it has none.
            response: to it.
            keeps: whether the connection goes on behind it.

        Raises:
            ValueError: a header of the response is invalid.
        """
        is_head = head is not None and head.method == "HEAD"
        if not keeps:
            connection = "close"
        elif head is not None and head.version == "1.0":
            connection = "keep-alive"
        else:
            connection = None
        body = response.body
        nbytes = len(body) if isinstance(body, bytes) else memoryview(body).nbytes
        section = write_head(response, nbytes, connection, is_head=is_head)
        self.put(section, len(section))
        if nbytes and not is_head:
            self.put(body, nbytes)

    def flush(self) -> None:
        """Gives the transport what is in line, by one call: each is a system call and a packet."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        nbytes, self.waiting_bytes = self.waiting_bytes, 0
        self._given_bytes += nbytes
        if self.transport.is_closing():  # a closed transport of uvloop raises
            return
        if nbytes <= _COPIED_BYTES:
            self.transport.write(b"".join(waiting))
        else:
            self.transport.writelines(waiting)  # type: ignore[arg-type]  # it takes any buffer

    def drop(self) -> None:
        """Drops what is in line."""
        self._waiting.clear()
        self.waiting_bytes = 0

    def is_read_too_slowly(self, seconds: float) -> bool:
        """Whether the client is to be cut off: it reads too slowly, or nothing for too long.

        Args:
            seconds: since this was called last.
        """
        if not self.is_behind:
            self._caught_up_bytes = self._read_bytes = self._given_bytes
            self._behind_seconds = self._still_seconds = 0.0
            return False
        read_bytes = self._given_bytes - self.transport.get_write_buffer_size()
        self._behind_seconds += seconds
        self._still_seconds = (
            0.0 if read_bytes > self._read_bytes else self._still_seconds + seconds
        )
        self._read_bytes = read_bytes
        return self._still_seconds > self._limits.idle_seconds or (
            self._limits.is_response_too_slow(
                self._behind_seconds, read_bytes - self._caught_up_bytes
            )
        )
