"""A connection: waitress's channel, and what becomes of clients that are slow, or leave.

What is changed of waitress's:
- an answer that was given before its request was read is followed by a lingering close (RFC 9112,
  9.6): closing with unread bytes would reset the connection, and the client would lose the answer;
- a client that does not read its answers keeps no thread waiting;
- one that sends or reads, but too slowly, is turned away: waitress looks for silence alone, and it
  closes nobody whose socket takes nothing more;
- one that has left while its request waited is seen, and no run begins for it.
"""

import contextlib
import socket
import struct
import time
from typing import Any

from waitress.channel import HTTPChannel

from gpux.errors import ClientGoneError
from gpux.http.data_rate import TooSlowError, is_answer_too_slow, is_request_too_slow
from gpux.http.parser import LongBody, Parser
from gpux.http.sockets import Sockets
from gpux.http.tasks import CountedTask, JSONErrorTask
from gpux.observability.timings import Stages

# What a refused client may still send before the connection is cut: bytes, and seconds.
_LINGER_BYTES = 256 * 2**20
_LINGER_SECONDS = 10.0
# What waitress is given at once while it looks for lines: it copies the rest for each it finds.
_PIECE_BYTES = 2**13


class Channel(HTTPChannel):
    """A connection.

    It lingers after an answer that was given before its request was read. Requests behind one
    whose long answer the client has not read yet are held, by no thread.
    """

    parser_class = Parser
    task_class = CountedTask
    error_task_class = JSONErrorTask
    adj: Any
    _map: Sockets
    request: Any
    requests: Any
    requests_lock: Any
    server: Any
    socket: Any
    _flush_exception: Any
    _flush_some: Any

    # Set by the task's thread before it sets close_when_flushed; the rest belongs to the main
    # thread.
    lingers = False
    linger_until: float | None = None
    linger_bytes_left = _LINGER_BYTES
    # How long there has been something for the client to read, and what had been sent before.
    behind_seconds = 0.0
    caught_up_bytes = 0
    sent_bytes = 0  # guarded by outbuf_lock
    # Guarded by requests_lock.
    is_held = False
    # The client has ended its side. It may still read: an answer that is on its way is sent. But no
    # run is begun for it.
    has_left = False

    def add_task(self, dispatcher: Any) -> None:
        """Has the next request answered, now or when enough of the last answer is sent.

        The caller holds requests_lock.
        """
        self.is_held = self._is_far_behind()
        if not self.is_held:
            dispatcher.add_task(self)

    def service(self) -> None:
        """Answers the next request, in a worker's thread."""
        request = self.requests[0]
        try:
            super().service()
        finally:
            if request.permit is not None:  # nobody was there for an answer
                seconds = time.monotonic() - request.came_at_seconds
                self.adj.gpux_service.metrics.request(ClientGoneError.status, seconds, Stages())
                self.count_out(request)
        if self._map.changed(self):
            self.server.wake()

    def count_out(self, request: Any) -> None:
        """Counts a request out, once, in the thread that answers it."""
        if request.permit is not None:
            request.permit.release()
            request.permit = None

    def received(self, data: bytes) -> bool:
        """Takes bytes that have come, in pieces: waitress's cost grows with the square of one."""
        start = 0
        while start < len(data):
            request: Any = self.request
            if request is None or request.body_rcv is None or request.chunked:
                size = _PIECE_BYTES
            else:
                size = max(request.body_rcv.remain, 1)
            if not super().received(data[start : start + size]):
                return False
            start += size
        return True

    def writable(self) -> bool:
        """Whether the main loop should write, or look whether a held request may go on."""
        return self.is_held or bool(super().writable())

    def readable(self) -> bool:
        """Whether the main loop should read; while lingering it does, to discard."""
        if self.linger_until is not None:
            return not self.will_close
        if self.has_left and self.requests:
            return False
        return bool(super().readable())

    def check_client_disconnected(self) -> bool:  # type: ignore[override]  # theirs answers too
        """Whether nobody is known to wait for the answer."""
        return self.has_left or not self.connected

    def handle_write(self) -> None:
        """Sends what there is; a channel that lingers then ends its own side only."""
        if self.lingers and self.close_when_flushed and self.linger_until is None:
            if self.total_outbufs_len:
                self._flush_exception(self._flush_some)
            if not self.connected:  # the client left meanwhile, and the channel is closed
                return
            if not self.total_outbufs_len and not self.will_close:
                self._start_to_linger()
                return
        super().handle_write()
        if self.is_held and not self._is_far_behind():
            with self.requests_lock:
                self.is_held = False
                if self.connected:
                    self.server.add_task(self)

    def handle_read(self) -> None:
        """Reads; while lingering, discards."""
        if self.linger_until is None:
            if self.requests and self._is_at_end():
                self.has_left = True
            elif not self._receive_long_body():
                super().handle_read()
            return
        try:
            data = self.recv(self.adj.recv_bytes)  # closes the channel at the end of the stream
        except OSError:
            self.handle_close()
            return
        self.linger_bytes_left -= len(data)
        if data and (self.linger_bytes_left < 0 or time.monotonic() > self.linger_until):
            self.handle_close()

    def send(self, data: bytes, do_close: bool = True) -> int:
        """Sends what the system takes."""
        sent: int = super().send(data, do_close=do_close)
        self.sent_bytes += sent
        return sent

    def hurry(self, seconds: float, silent_since: float) -> None:
        """Turns the client away if it reads, or sends, too slowly; called again and again.

        What others see to is not held against it: the time in which its requests are answered, and
        in which nothing is read because it has not read its answers.

        Args:
            seconds: since the last call.
            silent_since: a client that has not read since this time, of time.time(), is gone.
        """
        if self.total_outbufs_len:
            self.behind_seconds += seconds
            nbytes = self.sent_bytes - self.caught_up_bytes
            silent = self.last_activity < silent_since
            if (silent and self.behind_seconds > self.adj.channel_timeout) or is_answer_too_slow(
                self.behind_seconds, nbytes
            ):
                self.reset()
            return
        self.behind_seconds, self.caught_up_bytes = 0.0, self.sent_bytes
        if self.request is None:
            return
        with self.requests_lock:
            is_closing = self.will_close or self.close_when_flushed or self.linger_until is not None
            if not self.requests and not is_closing:
                self._hurry_request(self.request, seconds)

    def _hurry_request(self, request: Any, seconds: float) -> None:
        if request.coming_seconds is None:
            request.coming_seconds = 0.0
            return
        request.coming_seconds += seconds
        nbytes = request.header_bytes_received + request.body_bytes_received
        if is_request_too_slow(request.coming_seconds, nbytes):
            self._give_up(request)

    def _give_up(self, request: Any) -> None:
        """Answers a request that is not complete. The caller holds requests_lock."""
        if not request.headers_finished and not request.header_plus.strip():
            self.will_close = True  # line ends behind the last request: nobody waits for an answer
            return
        request.error = TooSlowError()
        request.completed = True
        request.expect_continue = False
        request.came_at_seconds = time.monotonic()
        self.request = None
        self.sent_continue = False
        self.requests.append(request)
        self.server.add_task(self)

    def reset(self) -> None:
        """Closes the connection at once; the system, too, drops what the client has not read."""
        connection = self.socket
        if connection is None:  # another thread has closed it in this moment
            return
        with contextlib.suppress(OSError):  # the client is gone already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handle_close()

    def _receive_long_body(self) -> bool:
        """Receives more of a long body; answers False if none is coming, or just its last byte."""
        body = self.request.body_rcv if self.request is not None else None
        if not isinstance(body, LongBody) or body.remain < 2:
            return False
        try:
            size = body.receive(self.socket)
        except BlockingIOError:
            return True
        except OSError:
            size = 0
        if size == 0:
            self.handle_close()
            return True
        self.last_activity = time.time()
        self.request.body_bytes_received += size
        return True

    def _is_at_end(self) -> bool:
        """Whether the client has ended its side, which leaves nothing to read."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK) == b"")
        except OSError:  # not now, or never again: reading tells
            return False

    def _is_far_behind(self) -> bool:
        return bool(self.total_outbufs_len > self.adj.outbuf_high_watermark)

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Does nothing, where waitress blocks a worker until the client has read on."""

    def _start_to_linger(self) -> None:
        self.close_when_flushed = False
        self.linger_until = time.monotonic() + _LINGER_SECONDS
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:  # the client is gone already
            self.handle_close()
