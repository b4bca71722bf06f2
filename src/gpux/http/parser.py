"""One request, from bytes to its head and body: waitress's parser, with limits and short cuts.

What is changed of waitress's:
- a body over the limit is refused by its declared length before it is read, without `100 Continue`,
  or as soon as its chunks pass the limit;
- a head that has come before is not taken apart again;
- a long body is received into its place.
"""

import io
import socket
import time
from typing import Any

from waitress.buffers import OverflowableBuffer
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import FixedStreamReceiver
from waitress.utilities import BadRequest, RequestEntityTooLarge

from gpux._fastpath import Body
from gpux.errors import BodyTooLargeError
from gpux.serving.admission import Permit

# More bytes than any body has.
NO_LIMIT = 2**62
# A chunk's size line, or the trailer: longer than any client has reason to send.
_LONGEST_CHUNK_LINE_BYTES = 2**13
# A body that is received in many pieces, each of which would be copied twice.
_LONG_BODY_BYTES = 2**16

# What heads of requests say, by their bytes, as clients send the same one again and again. Of
# whoever polls.
_KNOWN_HEADS: dict[bytes, dict[str, Any]] = {}
_MOST_KNOWN_HEADS = 256
_LONGEST_KNOWN_HEAD_BYTES = 1024


class LongBody:
    """A body of known length, for waitress what its FixedStreamReceiver is.

    waitress appends each piece to a buffer that grows; here all but the end is received into its
    place at once.

    Args:
        nbytes: its length, above 0.

    Attributes:
        remain: bytes that are to come.
        completed: nothing is.
    """

    error = None

    def __init__(self, nbytes: int) -> None:
        self._body = Body(nbytes)
        self._nbytes = self.remain = nbytes
        self.completed = False

    def __len__(self) -> int:
        return self._nbytes - self.remain

    def received(self, data: bytes) -> int:
        """Takes a piece; answers how much of it belongs to the body."""
        size = min(len(data), self.remain)
        if size > 0:
            memoryview(self._body)[len(self) : len(self) + size] = data[:size]
        self.remain -= size
        self.completed = self.remain == 0
        return size

    def receive(self, connection: socket.socket) -> int:
        """Receives what is there, but never the last byte, which says that the body is complete.

        Returns:
            How much was there; 0 at the end of the connection.
        """
        size = connection.recv_into(memoryview(self._body)[len(self) : self._nbytes - 1])
        self.remain -= size
        return size

    def getfile(self) -> io.BytesIO:
        """The whole body, for `wsgi.input`. To be called once."""
        return io.BytesIO(self._body.take())

    def getbuf(self) -> io.BytesIO:
        """What waitress closes after the answer: nothing is open."""
        return io.BytesIO()


class Parser(HTTPRequestParser):
    """waitress's parser, with the body limit judged here, exactly."""

    adj: Any  # waitress's Adjustments, with our limit
    body_rcv: Any
    path = ""  # waitress logs it even where it could not be read
    command: Any = ""
    permit: Permit | None = None  # while the request is in flight
    came_at_seconds = 0.0  # when it had been read in full, on the monotonic clock
    coming_seconds: float | None = None  # see Channel.hurry

    def received(self, data: bytes) -> int:
        """Takes bytes of a request; answers how many belong to it."""
        consumed: int = super().received(data)
        limit: int = self.adj.gpux_max_body_bytes
        if self.headers_finished:
            body_bytes = len(self.body_rcv) if self.chunked else self.content_length
            if body_bytes > limit:
                self.error = RequestEntityTooLarge(str(BodyTooLargeError(limit)))
                self.completed = True
            elif self.chunked and self._is_chunked_badly(limit):
                self.error = BadRequest("The chunks of the body carry too much beside the body")
                self.completed = True
        if self.completed:
            self.came_at_seconds = time.monotonic()
            self.expect_continue = False  # nothing is to come: no `100 Continue` before the answer
        return consumed

    @property
    def is_prediction(self) -> bool:
        """Whether the app has the model answer it. Slashes in front are stripped on the way."""
        return self.command == "POST" and self.path.lstrip("/") == "predict"

    def parse_header(self, header_plus: bytes) -> None:
        """Takes the head of a request apart, or remembers what the same one was."""
        known = _KNOWN_HEADS.get(header_plus)
        if known is not None:
            self.__dict__.update(known, headers=dict(known["headers"]))
            if self.content_length > 0:
                buffer = OverflowableBuffer(self.adj.inbuf_overflow)
                self.body_rcv = FixedStreamReceiver(self.content_length, buffer)
                self._take_long_body()
            return
        own = set(self.__dict__)
        self._take_apart(header_plus)
        if not self.chunked and len(header_plus) <= _LONGEST_KNOWN_HEAD_BYTES:
            if len(_KNOWN_HEADS) >= _MOST_KNOWN_HEADS:
                _KNOWN_HEADS.clear()
            found = {name: self.__dict__[name] for name in self.__dict__ if name not in own}
            found.pop("body_rcv", None)
            _KNOWN_HEADS[header_plus] = {**found, "headers": dict(self.headers)}
        self._take_long_body()

    def _take_long_body(self) -> None:
        """Has a long body, if it will be read at all, collected where it is read from."""
        is_long = _LONG_BODY_BYTES <= self.content_length <= self.adj.gpux_max_body_bytes
        if is_long and not self.chunked:
            self.body_rcv = LongBody(self.content_length)

    def _take_apart(self, header_plus: bytes) -> None:
        try:
            super().parse_header(header_plus)
        except ValueError as error:
            # Python does not read lengths of thousands of digits, nor urllib every URI.
            length = self.headers.get("CONTENT_LENGTH", "")
            if not length.isdigit() or len(length) < len(str(NO_LIMIT)):
                raise ParsingError("Malformed request line or header") from error
            self.content_length = NO_LIMIT

    def _is_chunked_badly(self, limit: int) -> bool:
        """Whether lines without end, or more than chunks of one byte need (six), have come."""
        line_bytes = max(len(self.body_rcv.control_line), len(self.body_rcv.trailer))
        most_bytes = 6 * limit + _LONGEST_CHUNK_LINE_BYTES
        return line_bytes > _LONGEST_CHUNK_LINE_BYTES or self.body_bytes_received > most_bytes
