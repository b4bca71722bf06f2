"""A connection: HTTP/1.1 between a transport's bytes and an application's requests and responses.

It does no I/O of its own: what reads and writes is the transport. All of it runs in the loop's
thread.

A connection is in one state, and goes from it only to:

    WAITING     for a header section ──→ RECEIVING, RESPONDING, SKIPPING, LINGERING, CLOSING
    RECEIVING   a body               ──→ RESPONDING, WAITING, SKIPPING, LINGERING, CLOSING
    RESPONDING  the exchange does    ──→ WAITING, LINGERING, CLOSING
    SKIPPING    a body nobody wants  ──→ WAITING, CLOSING
    LINGERING   what still comes is dropped, until the client ends or a bound is reached ──→ CLOSING
    CLOSING     the transport closes when all is sent
    LOST        from any: the transport is closed

Reading never stops while the client behaves, as a transport that does not read notices neither the
end of the client's side nor its loss: requests that come while one is in flight are read ahead, up
to a bound. One request at a time is in flight, and none is begun before the last response is sent
in full, so what lies in memory for a client is one response and the bytes read ahead.
"""

import asyncio
import socket
import struct
from collections.abc import MutableSet
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol, cast

from gpux._fastpath import Body, Pool
from gpux.errors import BodyTooLargeError
from gpux.http.bodies import (
    LONG_BODY_BYTES,
    ChunkedBody,
    LongBody,
    ShortBody,
)
from gpux.http.head import MessageError, RequestHead, parse_head
from gpux.http.limits import Limits
from gpux.http.outgoing import Outgoing
from gpux.http.responses import Response

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc from Python 3.12 on

# Responses to pipelined requests are sent together up to this size.
_JOINED_BYTES = 2**16
# Pipelined requests that are begun before other connections have their turn.
_REQUESTS_IN_A_TURN = 16
# What one tick may hold against a client: where more passed, this process stood still.
_LONGEST_TICK_SECONDS = 2.0
# What a request may begin with: known methods, and empty lines.
_FIRST_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange(Protocol):
    """One request from its header section to its response, on the application's side."""

    def receive(self, body: bytes | Body) -> None:
        """Takes the complete body, once. It may call Connection.respond at once."""

    def abandon(self) -> None:
        """The client has left, or its body is refused: no response of the exchange is wanted."""


class Application(Protocol):
    """What responds to requests. Its methods are called in the loop's thread.

    Attributes:
        max_body_bytes: a longer body is refused, by its declared length before it is read.
    """

    max_body_bytes: int

    def respond_known(self, received: bytearray, nbytes: int) -> bytes | None:
        """Responds to one request of so many bytes at once, if that needs nothing of begin().

        Returns:
            The response with its header section, behind which the connection goes on; None if
            nothing was done. The byte of `received` behind the request may be overwritten.
        """

    def begin(self, head: RequestHead, connection: "Connection") -> Exchange | Response:
        """Takes a request whose header section is complete. A Response refuses it."""

    def reject(
        self, head: RequestHead | None, status: int, detail: str, connection: "Connection"
    ) -> Response:
        """Makes the response to a request that the connection refuses.

        Args:
            head: the request; None if its header section is what is wrong.
            status: of the response.
            detail: its message.
            connection: of the request. An exchange that had begun has been abandoned.
        """


class State(Enum):
    """Of a connection; the module's docstring has the transitions."""

    WAITING = auto()
    RECEIVING = auto()
    RESPONDING = auto()
    SKIPPING = auto()
    LINGERING = auto()
    CLOSING = auto()
    LOST = auto()

    __hash__ = object.__hash__  # Enum's own takes longer than all else that a transition does


# As names of the module they are read in a fifth of the time.
WAITING, RECEIVING, RESPONDING, SKIPPING, LINGERING, CLOSING, LOST = State

_NEXT = {
    WAITING: frozenset(State) - {WAITING},
    RECEIVING: frozenset(State) - {RECEIVING},
    RESPONDING: frozenset((WAITING, LINGERING, CLOSING, LOST)),
    SKIPPING: frozenset((WAITING, CLOSING, LOST)),
    LINGERING: frozenset((CLOSING, LOST)),
    CLOSING: frozenset((LOST,)),
    LOST: frozenset[State](),
}


class Connection(asyncio.BufferedProtocol):
    """One connection of a client. An exception of the application's closes it.

    Args:
        application: responds to its requests.
        limits: what the client is held to.
        connections: it is an element from when it is made until it is lost.
        receive_buffer: memory that all connections of a loop share: nothing stays in it from one
            event to the next.
        pool: supplies memory for long bodies.

    Attributes:
        peer: the client's address; empty for a Unix socket.
    """

    def __init__(
        self,
        application: Application,
        limits: Limits,
        connections: MutableSet["Connection"],
        receive_buffer: bytearray,
        pool: Pool,
    ) -> None:
        self._application = application
        self._limits = limits
        self._connections = connections
        self._receive_buffer = receive_buffer
        self._pool = pool
        self._transport: asyncio.Transport
        self.peer = ""
        self._state = WAITING
        # Reading. What was read and is not taken yet is in _ahead.
        self._ahead = bytearray()
        self._scanned_bytes = 0  # of it that hold no end of a header section
        self._read_bytes = 0  # in all
        self._is_in_place = False  # the memory that was given out last is the body's
        self._is_paused = False
        self._has_ended = False  # the client has ended its side
        # The present request.
        self._before_bytes = 0  # that were read before its first
        self._head: RequestHead | None = None
        self._exchange: Exchange | None = None
        self._body: ShortBody | ChunkedBody | LongBody | None = None
        self._dropped_bytes = 0  # to be dropped: of an unwanted body, or while lingering
        self._outgoing = Outgoing(limits)
        # What goes on.
        self._is_advancing = False
        self._is_deferred = False  # pipelined requests are left for the loop's next turn
        self._is_ending = False  # see end()
        self._ticked_seconds = 0.0
        self._ticked_bytes = 0  # that had been read then
        self._silent_seconds = 0.0  # since anything was read
        self._phase_seconds: float | None = None  # since the state began, or a request's first byte

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the transport, which nobody else would close if this failed."""
        self._transport = self._outgoing.transport = cast(asyncio.Transport, transport)
        try:
            peer = transport.get_extra_info("peername")
            self.peer = peer[0] if isinstance(peer, tuple) else ""
            self._transport.set_write_buffer_limits(high=0)  # resume_writing: all is sent
            self._connections.add(self)
        except BaseException:
            self._transport.abort()
            raise

    def get_buffer(self, sizehint: int) -> "Buffer":  # noqa: ARG002  # the more, the better
        """Memory for the bytes that come: that of a long body, or else what connections share."""
        if isinstance(self._body, LongBody):
            self._is_in_place = True
            return self._body.room()
        self._is_in_place = False
        return self._receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Takes the bytes that have come."""
        self._read_bytes += nbytes
        if self._is_in_place and isinstance(self._body, LongBody):
            body = self._body.filled(nbytes)
            if body is not None:
                self._advance(body)
            return
        if self._state is LINGERING:
            self._dropped_bytes -= nbytes
            if self._dropped_bytes < 0:
                self._close()
            return
        if self._state is CLOSING:
            return
        if not self._ahead and self._state is WAITING:
            if not (self._is_held or self._is_ending):
                response = self._application.respond_known(self._receive_buffer, nbytes)
                if response is not None:
                    self._phase_seconds = None
                    self._outgoing.put(response, len(response))
                    self._outgoing.flush()
                    return
            self._expect_request(nbytes)
        self._ahead += memoryview(self._receive_buffer)[:nbytes]
        self._advance()

    def eof_received(self) -> bool:
        """Takes the end of the client's side, by which it has left if that is within a request.

        Returns:
            Whether the connection stays: what was asked for in full is responded to.
        """
        self._has_ended = True
        if self._state is RESPONDING or self._is_held:
            return True
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # lost is lost
        """Takes leave."""
        self._enter(LOST)
        self._connections.discard(self)
        self._outgoing.drop()
        self._ahead.clear()
        self._drop_request()

    def pause_writing(self) -> None:
        """The client has not read all; called within a write, too."""
        self._outgoing.is_behind = True

    def resume_writing(self) -> None:
        """All is sent, so that the next request may begin."""
        self._outgoing.is_behind = False
        if self._state is WAITING:
            self._advance()

    # What the application and its server call.

    def respond(self, exchange: Exchange, response: Response, *, close: bool = False) -> None:
        """Sends the response of an exchange, which may not have received the body yet.

        Nothing is done if the exchange is not the present one, or the client has left: completions
        may come late.

        Args:
            exchange: whose response it is.
            response: its body is referred to until it is sent.
            close: closes the connection behind it.

        Raises:
            ValueError: a header of the response is invalid.
        """
        if exchange is not self._exchange:
            return
        head = self._head
        assert head is not None
        if self._state is RECEIVING:
            self._respond_unread(head, response, close=close)
        else:
            # What was read ahead may be requests in full, which are not to be lost.
            is_last = (self._is_ending or self._has_ended) and self._has_only_blanks()
            keeps = head.keeps_alive and not close and not is_last
            self._outgoing.put_response(head, response, keeps=keeps)
            self._exchange = self._head = None
            if keeps:
                self._wait()
            else:
                self._end_side(is_read=True)
        if not self._is_advancing:
            self._advance()

    @property
    def is_idle(self) -> bool:
        """Whether nothing was received in part, is in flight or is unsent."""
        return self._state is WAITING and not self._outgoing.is_behind and self._has_only_blanks()

    @property
    def buffered_bytes(self) -> int:
        """Bytes of requests that were received and are not handed over yet."""
        return len(self._ahead) + (self._body.nbytes if self._body is not None else 0)

    @property
    def owes_response(self) -> bool:
        """Whether a request that has come in full is not responded to, to its last byte."""
        return self._state is RESPONDING or self._is_held or self._outgoing.is_behind

    def announce_end(self) -> None:
        """Ends the connection behind its next response; an idle one is kept until then."""
        self._is_ending = True

    def end(self) -> None:
        """Ends the connection without loss: at once if it is idle, else behind the next response.

        A request that has come in part is still taken. So is the first one of a new connection, if
        it comes before the second tick: the kernel may have it already.
        """
        self._is_ending = True
        if self._read_bytes == 0:
            self._phase_seconds = None
        elif self._state is WAITING and self._has_only_blanks():
            self._close()

    def tick(self, now: float) -> None:
        """Turns a client away that is too slow, or silent for too long. To be called each second.

        What it cannot help is not held against it: time in which its requests are responded to, or
        in which this process stood still.

        Args:
            now: seconds on the monotonic clock.
        """
        seconds = min(now - self._ticked_seconds, _LONGEST_TICK_SECONDS)
        self._ticked_seconds = now
        if self._state is LOST:
            return
        if self._outgoing.is_read_too_slowly(seconds):
            self._reset()
        if self._outgoing.is_behind:
            return
        if self._state is RESPONDING or self._state is CLOSING:
            return
        if self._phase_seconds is None:  # it began somewhere within this second
            self._phase_seconds = self._silent_seconds = 0.0
            return
        self._phase_seconds += seconds
        is_silent = self._read_bytes == self._ticked_bytes
        self._silent_seconds = self._silent_seconds + seconds if is_silent else 0.0
        self._ticked_bytes = self._read_bytes
        try:
            self._judge_phase(self._phase_seconds)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Closes the connection without sending what is unsent."""
        if self._state is not LOST:
            self._transport.abort()

    # Requests.

    def _enter(self, state: State, *, goes_on: bool = False) -> None:
        assert state in _NEXT[self._state], f"{self._state} to {state}"
        self._state = state
        if not goes_on:  # as the time that a request may take does from its head to its body
            self._phase_seconds = None

    def _wait(self) -> None:
        """Goes on with the next request, of which bytes may be there."""
        self._enter(WAITING)
        if self._ahead:
            self._expect_request(len(self._ahead))

    def _expect_request(self, nbytes: int) -> None:
        """Notes that a request begins, of which so many bytes have been read."""
        self._before_bytes = self._read_bytes - nbytes
        self._phase_seconds = None
        self._scanned_bytes = 0

    @property
    def _is_held(self) -> bool:
        """Whether requests that may be there in full are not begun yet."""
        return self._state is WAITING and (self._outgoing.is_behind or self._is_deferred)

    def _has_only_blanks(self) -> bool:
        """Whether no request has begun: empty lines before one are nothing."""
        return not self._ahead.strip(b"\r\n")

    def _advance(self, body: Body | None = None) -> None:
        """Goes as far as the bytes that were read allow, then sends what there is to send.

        Args:
            body: of the present request, if it has been completed in its place.

        The application may respond while it is called from below; this is not called then.
        """
        self._is_advancing = True
        try:
            if body is not None:
                self._hand_over(body)
            self._take_requests()
            self._outgoing.flush()
        except BaseException:
            self.abort()
            raise
        finally:
            self._is_advancing = False
        if (self._has_ended or self._is_ending) and not self._is_held:
            if self._has_ended and self._state is not RESPONDING:
                self._leave()
            elif self._state is WAITING and self._has_only_blanks():
                self._close()
        if self._ahead or self._is_paused:
            self._pause_or_resume()

    def _advance_deferred(self) -> None:
        self._is_deferred = False
        self._advance()

    def _take_requests(self) -> None:
        begun = 0
        is_on = True
        while is_on and self._ahead:
            if self._state is WAITING:
                if self._outgoing.is_behind or self._is_deferred:
                    return
                if begun == _REQUESTS_IN_A_TURN:
                    self._is_deferred = True
                    asyncio.get_running_loop().call_soon(self._advance_deferred)
                    return
                begun += 1
                is_on = self._take_head()
            elif self._state is RECEIVING:
                is_on = self._take_body()
            elif self._state is SKIPPING:
                is_on = self._skip_body()
            else:
                return
            if self._outgoing.waiting_bytes > _JOINED_BYTES:
                self._outgoing.flush()

    def _take_head(self) -> bool:
        """Takes the next header section; returns whether it was there."""
        ahead, limit = self._ahead, self._limits.header_bytes
        end = self._find_end()
        blank_bytes = self._read_bytes - self._before_bytes - len(ahead)  # dropped before it
        if blank_bytes + (end or len(ahead)) > limit:
            self._refuse(431, f"The header section is larger than {limit} bytes")
            return False
        if end == 0:
            if ahead[0] not in _FIRST_BYTES:  # as of TLS, whose client would wait for long
                self._refuse(400, "Malformed request line or header")
            return False
        section = bytes(ahead[:end])
        del ahead[:end]
        try:
            head = self._head = parse_head(section, self._limits.header_fields)
        except MessageError as error:
            self._refuse(error.status, self._too_large() if error.status == 413 else error.detail)
            return False
        self._begin(head)
        return True

    def _find_end(self) -> int:
        """Finds the end of the header section that what was read begins with; 0 without one."""
        ahead = self._ahead
        if ahead[0] in b"\r\n":  # empty lines before it (RFC 9112, 2.2), as llhttp has them
            begun = ahead.lstrip(b"\r\n")
            self._scanned_bytes = 0
            del ahead[: len(ahead) - (len(begun) or 1)]  # the last is left: it keeps the clock on
            if not begun:
                return 0
        end = ahead.find(b"\n\r\n", self._scanned_bytes)
        if end >= 0:
            return end + 3
        end = ahead.find(b"\n\n", self._scanned_bytes)  # an end, too, but it is refused
        if end >= 0:
            return end + 2
        self._scanned_bytes = max(len(ahead) - 2, 0)
        return 0

    def _begin(self, head: RequestHead) -> None:
        """Has the application begin a request, and makes ready for its body."""
        nbytes = head.content_length or 0
        if nbytes > self._application.max_body_bytes:
            self._refuse(413, self._too_large())
            return
        begun = self._application.begin(head, self)
        if isinstance(begun, Response):
            self._respond_unread(head, begun, close=False)
            return
        self._exchange = begun
        if not head.is_chunked and nbytes <= len(self._ahead):
            body = bytes(self._ahead[:nbytes])
            del self._ahead[:nbytes]
            self._hand_over(body)
            return
        self._enter(RECEIVING, goes_on=True)
        if head.expects_continue and not self._ahead:
            self._outgoing.put(_CONTINUE, len(_CONTINUE))
        if head.is_chunked:
            self._body = ChunkedBody(self._application.max_body_bytes, self._limits)
        elif nbytes < LONG_BODY_BYTES:
            self._body = ShortBody(nbytes)
        else:
            try:
                self._body = LongBody(nbytes, self._ahead, self._pool)
            except MessageError as error:
                self._refuse(error.status, error.detail)

    def _take_body(self) -> bool:
        """Takes more of the body; returns whether it is complete."""
        try:
            assert isinstance(self._body, ShortBody | ChunkedBody)
            body = self._body.take_from(self._ahead)
        except MessageError as error:
            self._refuse(error.status, error.detail)
            return False
        if body is None:
            return False
        self._hand_over(body)
        return True

    def _hand_over(self, body: bytes | Body) -> None:
        self._body = None
        self._enter(RESPONDING)
        assert self._exchange is not None
        self._exchange.receive(body)

    def _skip_body(self) -> bool:
        """Drops more of a body that nobody wants; returns whether that was all."""
        nbytes = min(len(self._ahead), self._dropped_bytes)
        del self._ahead[:nbytes]
        self._dropped_bytes -= nbytes
        if self._dropped_bytes > 0:
            return False
        self._wait()
        return True

    def _drop_request(self) -> None:
        """Forgets the present request, and abandons its exchange."""
        exchange, self._exchange = self._exchange, None
        self._head = self._body = None
        self._is_in_place = False
        if exchange is not None:
            exchange.abandon()

    # Responses.

    def _too_large(self) -> str:
        return str(BodyTooLargeError(self._application.max_body_bytes))

    def _refuse(self, status: int, detail: str) -> None:
        """Refuses the present request, after which nothing of the connection can be understood."""
        head = self._head
        self._drop_request()
        response = self._application.reject(head, status, detail, self)
        self._outgoing.put_response(head, response, keeps=False)
        self._end_side(is_read=False)

    def _respond_unread(self, head: RequestHead, response: Response, *, close: bool) -> None:
        """Responds to a request whose body was not read in full.

        A body that is short and will come is read and dropped, so that the connection can be kept.
        """
        unread = (head.content_length or 0) - (self._body.nbytes if self._body is not None else 0)
        will_come = not head.expects_continue or self._state is RECEIVING or self._ahead
        keeps = (
            head.keeps_alive
            and not (close or self._is_ending or head.is_chunked)
            and (unread == 0 or (unread <= self._limits.skipped_bytes and bool(will_come)))
        )
        self._outgoing.put_response(head, response, keeps=keeps)
        self._exchange = None  # it has responded: it is not to be abandoned
        self._drop_request()
        if not keeps:
            self._end_side(is_read=not head.has_body)
        elif unread:
            self._dropped_bytes = unread
            self._enter(SKIPPING, goes_on=True)
        else:
            self._expect_request(len(self._ahead))

    # The end.

    def _end_side(self, *, is_read: bool) -> None:
        """Sends what is in line, and ends this side behind it.

        To close with bytes unread would reset the connection, and the client might lose the
        response: what still comes is dropped for a while (RFC 9112, 9.6).

        Args:
            is_read: whether the request was read in full.
        """
        self._outgoing.flush()
        if self._has_ended or (is_read and not self._ahead and not self._is_paused):
            self._close()
            return
        self._enter(LINGERING)
        self._ahead.clear()
        self._dropped_bytes = self._limits.linger_bytes
        self._pause_or_resume()
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def _leave(self) -> None:
        """The client has ended its side, and has asked for nothing more in full."""
        self._drop_request()
        self._close()

    def _close(self) -> None:
        """Closes the connection when all is sent."""
        if self._state is CLOSING or self._state is LOST:
            return
        self._enter(CLOSING)
        self._ahead.clear()
        self._transport.close()

    def _reset(self) -> None:
        """Closes the connection at once; the kernel, too, drops what the client has not read."""
        transport_socket = self._transport.get_extra_info("socket")
        if transport_socket is not None:
            with suppress(OSError):  # the client is gone already
                linger = struct.pack("ii", 1, 0)
                transport_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()

    def _judge_phase(self, seconds: float) -> None:
        """Ends what has taken too long: waiting, receiving a request, skipping, lingering."""
        nbytes = self._read_bytes - self._before_bytes
        if self._state is LINGERING:
            if seconds >= self._limits.linger_seconds:
                self._close()
        elif self._state is WAITING and not self._ahead:
            if self._is_ending or seconds >= self._limits.idle_seconds:
                self._close()
        elif (
            self._limits.is_request_too_slow(seconds, nbytes)
            or self._silent_seconds >= self._limits.idle_seconds
        ):
            if self._state is SKIPPING or (self._head is None and self._has_only_blanks()):
                self._close()  # nobody waits for a response
            else:
                self._refuse(408, self._limits.too_slow_message)

    def _pause_or_resume(self) -> None:
        """Stops reading while too much is read ahead."""
        is_full = len(self._ahead) > self._limits.read_ahead_bytes
        if is_full is self._is_paused or self._transport.is_closing():
            return
        self._is_paused = is_full
        if is_full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
