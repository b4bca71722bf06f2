"""`gpux serve`: the app under waitress, with its sockets, its limits and its end.

The only importer of waitress. What is changed of waitress, and why:
- a body over the limit is refused by its declared length before it is read, without `100 Continue`,
  or as soon as its chunks pass the limit; and what waitress answers by itself is JSON, as
  everything else is;
- such an answer is followed by a lingering close (RFC 9112, 9.6): closing with unread bytes would
  reset the connection, and the client would lose the answer;
- a client that does not read its answers keeps no thread waiting;
- one that sends or reads, but too slowly, is turned away: waitress looks for silence alone, which a
  byte a minute breaks, and it closes nobody whose socket takes nothing more;
- a request is counted in before it waits for a thread, and turned away at once if there are too
  many; whatever is not /predict has a thread of its own, so that probes are answered under load;
- the end: listening stops, what was read in full is answered, then the process ends.
"""

import contextlib
import io
import json
import signal
import socket
import struct
import threading
import time
from functools import lru_cache
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import FixedStreamReceiver
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import BadRequest, Error, RequestEntityTooLarge, build_http_date

from gpux._fastpath import Body
from gpux.app import ADMITTED, EXPOSED_HEADERS
from gpux.config import Settings
from gpux.connections import bind, url
from gpux.errors import (
    BodyTooLargeError,
    ClientGoneError,
    UnavailableError,
)
from gpux.exchange import begin
from gpux.metrics import Stages
from gpux.observe import REQUEST_ID_HEADER, Observers
from gpux.service import Service
from gpux.sockets import Sockets
from gpux.workers import Workers

# What a refused client may still send before the connection is cut: bytes, and seconds.
_LINGER_BYTES = 256 * 2**20
_LINGER_SECONDS = 10.0
# How slow a client may be: so long at first, and a second more for so many bytes. For requests it
# is what Apache's mod_reqtimeout has. An answer lies here whole until its last byte is sent, so its
# reader has to be faster.
_HEAD_START_SECONDS = 20.0
_SLOWEST_REQUEST_BYTES_PER_SECOND = 500
_SLOWEST_ANSWER_BYTES_PER_SECOND = 4000
# What is counted of the time between two looks at them, which is about a second.
_LONGEST_LOOK_SECONDS = 2.0
# A chunk's size line, or the trailer: longer than any client has reason to send.
_LONGEST_CHUNK_LINE_BYTES = 2**13
# What waitress is given at once while it looks for lines: it copies the rest for each it finds.
_PIECE_BYTES = 2**13
_NO_LIMIT = 2**62
# An answer that is copied behind its head. Copying more would take longer than sending it apart.
_SHORT_ANSWER_BYTES = 2**16
# A body that is received in many pieces, each of which would be copied twice.
_LONG_BODY_BYTES = 2**16
_IDENT = "gpux"
# How long a worker keeps others waiting whose request takes longer than was foreseen.
_RELIEF_SECONDS = 0.002
_LONGEST_WAIT_SECONDS = 1.0


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
    counted_bytes: int | None = None  # of the body, while the request is counted in
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
            if not length.isdigit() or len(length) < len(str(_NO_LIMIT)):
                raise ParsingError("Malformed request line or header") from error
            self.content_length = _NO_LIMIT

    def _is_chunked_badly(self, limit: int) -> bool:
        """Whether lines without end, or more than chunks of one byte need (six), have come."""
        line_bytes = max(len(self.body_rcv.control_line), len(self.body_rcv.trailer))
        most_bytes = 6 * limit + _LONGEST_CHUNK_LINE_BYTES
        return line_bytes > _LONGEST_CHUNK_LINE_BYTES or self.body_bytes_received > most_bytes


class TooSlowError(Error):
    """A request that has not come in the time that its bytes may take."""

    code = 408
    reason = "Request Timeout"

    def __init__(self) -> None:
        super().__init__(
            f"The request came too slowly: the limit is {_HEAD_START_SECONDS:g} seconds, and one"
            f" more for each {_SLOWEST_REQUEST_BYTES_PER_SECOND:g} bytes"
        )


class RefusalError(Error):
    """A request that is turned away; its connection goes on."""

    code = 503
    reason = "Service Unavailable"

    def __init__(self, error: UnavailableError) -> None:
        super().__init__(str(error))
        self.retry_after_seconds = error.retry_after_seconds


# Headers by which an app decides what is waitress's else.
_DECIDED = frozenset(("connection", "date", "server", "transfer-encoding"))


@lru_cache(maxsize=64)
def _capitalize(name: str) -> str:
    """The name of a header as it is mostly written."""
    return "-".join(part.capitalize() for part in name.split("-"))


@lru_cache(maxsize=2)
def _date(seconds: int) -> str:
    """A time since the epoch, for a `Date` header."""
    return str(build_http_date(seconds))


class CountedTask(WSGITask):
    """A request that may have been counted in already, which the app must know."""

    request: Any
    channel: Any
    status: str
    version: str
    response_headers: list[tuple[str, str]]

    def build_response_header(self) -> bytes:
        """As waitress builds it; sooner for an answer after which the connection stays open."""
        names = [name for name, _ in self.response_headers]
        is_plain = (
            self.version == "1.1"
            and self.request.headers.get("CONNECTION", "keep-alive") in ("keep-alive", "Keep-Alive")
            and "content-length" in names
            and _DECIDED.isdisjoint(names)
            and not self.close_on_finish
            and self.has_body
        )
        if not is_plain:
            head: bytes = super().build_response_header()
            return head
        lines = [f"{_capitalize(name)}: {value}\r\n" for name, value in self.response_headers]
        date = _date(int(self.start_time))
        first, last = f"HTTP/1.1 {self.status}\r\n", f"Date: {date}\r\nServer: {_IDENT}\r\n\r\n"
        return f"{first}{''.join(lines)}{last}".encode("latin-1")

    def get_environment(self) -> dict[str, Any]:
        """PEP 3333's, and whether the request has been counted in."""
        environment: dict[str, Any] = super().get_environment()
        if self.request.counted_bytes is not None:
            environment[ADMITTED] = self.request.came_at_seconds
        return environment

    def write(self, data: bytes) -> None:
        """Writes the answer; whoever has read it finds room for the next request."""
        self.channel.count_out(self.request)
        is_short = len(data) == self.content_length and len(data) <= _SHORT_ANSWER_BYTES
        if is_short and not self.wrote_header:
            # In one piece: each piece is a system call, a packet, and a chance to lose the GIL.
            head = self.build_response_header()
            self.wrote_header = True
            self.content_bytes_written = len(data)
            self.channel.write_soon(head + data)
            return
        super().write(data)


class JSONErrorTask(ErrorTask):
    """An answer that waitress gives by itself, as JSON."""

    channel: Any
    request: Any
    response_headers: Any

    def execute(self) -> None:
        """Writes the answer; but for a request that was turned away, the connection closes."""
        error = self.request.error
        body = json.dumps({"detail": error.body}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers.extend(self._cross_origin_headers())
        self.content_length = len(body)
        is_refused = isinstance(error, RefusalError)
        if is_refused:
            self.response_headers.append(("Retry-After", str(error.retry_after_seconds)))
        else:
            self.set_close_on_finish()
        self._tell(error.code, len(body), is_refused=is_refused)
        self.write(body)
        self.channel.lingers = not is_refused

    def _tell(self, status: int, sent_bytes: int, *, is_refused: bool) -> None:
        """Counts the request, and tells of it, as the app does of those that it answers."""
        request, adjustments = self.request, self.channel.adj
        if request.is_prediction and not is_refused:  # those are counted already
            seconds = time.monotonic() - request.came_at_seconds
            adjustments.gpux_service.metrics.request(status, seconds, Stages())
        if not adjustments.gpux_observers or not request.came_at_seconds:
            return  # waitress makes up a request where the app failed, which is told of already
        exchange = begin(self._environment(), request.came_at_seconds)
        self.response_headers.append((REQUEST_ID_HEADER, exchange.request_id))
        exchange.status = status
        exchange.sent_bytes = sent_bytes
        exchange.end()
        adjustments.gpux_observers.tell(exchange)

    def _environment(self) -> dict[str, Any]:
        """What begin() needs of WSGI's environment, as far as the request could be read."""
        request = self.request
        return {
            **{f"HTTP_{name}": value for name, value in request.headers.items()},
            "CONTENT_LENGTH": str(request.body_bytes_received),
            "REMOTE_ADDR": self.channel.addr[0],
            "REQUEST_METHOD": request.command,
            "PATH_INFO": request.path,
            "SERVER_PROTOCOL": f"HTTP/{request.version}",
            "wsgi.url_scheme": self.channel.adj.url_scheme,
        }

    def _cross_origin_headers(self) -> list[tuple[str, str]]:
        """As app.CrossOrigin has them, so that pages can read these answers too."""
        allowed = self.channel.adj.gpux_cors_origins
        exposed = ("Access-Control-Expose-Headers", EXPOSED_HEADERS)
        if "*" in allowed:
            return [("Access-Control-Allow-Origin", "*"), exposed]
        origin = self.request.headers.get("ORIGIN")
        headers = [("Vary", "Origin")] if allowed else []
        if origin in allowed:
            headers += [("Access-Control-Allow-Origin", origin), exposed]
        return headers


def is_too_slow(seconds: float, nbytes: int, slowest_bytes_per_second: float) -> bool:
    """Whether so many bytes should have taken less time."""
    return seconds > _HEAD_START_SECONDS + nbytes / slowest_bytes_per_second


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
            if request.counted_bytes is not None:  # nobody was there for an answer
                seconds = time.monotonic() - request.came_at_seconds
                self.adj.gpux_service.metrics.request(ClientGoneError.status, seconds, Stages())
                self.count_out(request)
        if self._map.changed(self):
            self.server.wake()

    def count_out(self, request: Any) -> None:
        """Counts a request out, once, in the thread that answers it."""
        if request.counted_bytes is not None:
            nbytes, request.counted_bytes = request.counted_bytes, None
            self.adj.gpux_service.admission.leave(nbytes)

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
            if (silent and self.behind_seconds > self.adj.channel_timeout) or is_too_slow(
                self.behind_seconds, nbytes, _SLOWEST_ANSWER_BYTES_PER_SECOND
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
        if is_too_slow(request.coming_seconds, nbytes, _SLOWEST_REQUEST_BYTES_PER_SECOND):
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


class Dispatcher:
    """Hands requests to threads: those to /predict to the workers, if there is room for them.

    What waits for a worker has been counted in. All else, refusals included, has a thread of its
    own, which no model keeps busy.

    Args:
        service: counts requests in.
        workers: threads for /predict.
        loop: where requests come from.

    Attributes:
        workers: the threads for /predict, and for the loop.
    """

    def __init__(self, service: Service, workers: int, loop: "Loop") -> None:
        self._service = service
        self.workers = Workers(workers, "worker", loop)
        self._others = Workers(1, "others")

    def start(self) -> None:
        """Starts the threads, one of which runs the loop from now on."""
        self._others.start()
        self.workers.start()

    def add_task(self, channel: Any) -> None:
        """Called when a channel's next request has been read, and all before it are answered."""
        request = channel.requests[0]
        if request.error or not request.is_prediction:
            self._others.submit(channel.service)
            return
        nbytes = len(request.body_rcv) if request.body_rcv is not None else 0
        refusal = self._service.refuse(nbytes, request.came_at_seconds)
        if refusal is None:
            request.counted_bytes = nbytes
            self.workers.submit(channel.service)
        else:
            request.error = RefusalError(refusal)
            self._others.submit(channel.service)

    def shutdown(self) -> None:
        """Ends the threads; what they have not begun is dropped."""
        self.workers.shutdown(timeout_seconds=1.0)
        self._others.shutdown(timeout_seconds=1.0)


class Listener(TcpWSGIServer):
    """One listening socket."""

    channel_class = Channel
    _map: Sockets
    trigger: Any
    active_channels: Any
    adj: Any
    socket: Any
    _looked_at_seconds = 0.0  # when maintenance() was last called, on the monotonic clock

    def add_task(self, task: Any) -> None:
        """Called when a channel's next request has been read."""
        task.add_task(self.task_dispatcher)

    def pull_trigger(self) -> None:
        """Does nothing, where waitress wakes its main thread: service() tells if there is need."""

    def wake(self) -> None:
        """Ends the wait for the sockets."""
        self.trigger.pull_trigger()

    def maintenance(self, now: int) -> None:
        """Closes channels that are too slow, or lingered long enough; called every second."""
        super().maintenance(now)
        monotonic = time.monotonic()
        # Clients are not to blame where this process stood still.
        seconds = min(monotonic - self._looked_at_seconds, _LONGEST_LOOK_SECONDS)
        self._looked_at_seconds = monotonic
        for channel in list(self.active_channels.values()):
            channel.hurry(seconds, now - self.adj.channel_timeout)
            if channel.linger_until is not None and monotonic > channel.linger_until:
                channel.will_close = True
            if channel.will_close:
                self._map.changed(channel)


class Loop:
    """The sockets, as the source of what the workers do.

    Attributes:
        is_over: after end(): all is answered, and nothing is read any more.
    """

    def __init__(self) -> None:
        self.sockets = Sockets(wasyncore.readwrite)
        self.listeners: list[Listener] = []
        self._is_ending = False
        self.is_over = False

    def wait(self) -> list[tuple[int, int]]:
        """Waits for what comes over the sockets."""
        for listener in self.listeners:  # they look after their connections when they are asked
            self.sockets.changed(listener)
        return self.sockets.wait(_LONGEST_WAIT_SECONDS)

    def handle(self, found: list[tuple[int, int]]) -> None:
        """Reads and writes; requests that are complete are handed to the dispatcher."""
        if self.is_over:
            return
        self.sockets.handle(found)
        # Judged where requests are read: none comes between this and the end.
        self.is_over = self._is_ending and not self._is_busy()

    def wake(self) -> None:
        """Ends a wait."""
        self.listeners[0].wake()

    def end(self) -> None:
        """Takes no more connections, and is over when all that was read has been answered."""
        self.listeners[0].trigger.pull_trigger(self._close_listeners)

    def _close_listeners(self) -> None:
        for listener in self.listeners:
            listener.accepting = False
            listener.del_channel(self.sockets)
            listener.socket.close()
        self._is_ending = True

    def _is_busy(self) -> bool:
        """Whether a request that was read in full has not been answered to its last byte."""
        return any(
            channel.requests or channel.total_outbufs_len
            for channel in list(self.sockets.values())
            if isinstance(channel, Channel)
        )


class Bell:
    """Rung by any thread, or by a signal's handler, for one that waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards nothing: released to end the wait
        self._lock.acquire()

    def ring(self) -> None:
        """Ends the wait, or the next one."""
        with contextlib.suppress(RuntimeError):  # it rings already
            self._lock.release()

    def wait(self, timeout_seconds: float) -> None:
        """Waits until it rings."""
        self._lock.acquire(timeout=timeout_seconds)


class Server:
    """The server: its sockets are bound when this returns, and requests are answered by run().

    Args:
        app: a WSGI app.
        settings: host, port, threads, max_body_bytes, cors_origins, drain_timeout_seconds.
        service: the app's.
        observers: are told of each request.

    Raises:
        ConfigurationError: the address cannot be listened on.

    Attributes:
        port: that it listens on.
        url: of its root, as a client on this machine has it.
    """

    def __init__(
        self,
        app: Any,
        settings: Settings,
        service: Service,
        observers: Observers | None = None,
    ) -> None:
        observers = observers or Observers()
        sockets = bind(settings.host, settings.port)
        adjustments: Any = Adjustments(
            sockets=sockets,
            threads=settings.threads,
            ident=_IDENT,
            # A long body is received into its place; other things are short. The system's memory
            # would be shredded by many large pieces of which little is kept.
            recv_bytes=2**16,
            # A body stays in memory, as does its answer.
            inbuf_overflow=_NO_LIMIT,
            outbuf_overflow=_NO_LIMIT,
            max_request_body_size=_NO_LIMIT,  # Parser judges it
            max_request_header_size=2**16,
            connection_limit=1000,
            cleanup_interval=1,
            # One request ahead is read while one is answered, so that a client that leaves is seen.
            channel_request_lookahead=1,
            # The app reads no header of a proxy.
            clear_untrusted_proxy_headers=False,
            # A closed connection is not worth a stack trace in the log.
            log_socket_errors=False,
        )
        adjustments.gpux_max_body_bytes = settings.max_body_bytes
        adjustments.gpux_cors_origins = settings.cors_origins
        adjustments.gpux_service = service
        adjustments.gpux_observers = observers
        self._loop = Loop()
        self._service = service
        self._drain_seconds = settings.drain_timeout_seconds
        self._dispatcher = Dispatcher(service, settings.threads, self._loop)
        dispatcher: Any = self._dispatcher  # has what waitress asks for
        self._loop.listeners = [
            Listener(
                observers.around(app),
                self._loop.sockets,
                True,
                bound,
                dispatcher=dispatcher,
                adj=adjustments,
                sockinfo=(bound.family, bound.type, bound.proto, bound.getsockname()),
                bind_socket=False,
            )
            for bound in sockets
        ]
        self.port: int = sockets[0].getsockname()[1]
        self.url = url(settings.host, sockets)
        self._bell = Bell()
        self._stopping = False

    def run(self) -> None:
        """Answers requests until stop() is called, then those in flight."""
        self._dispatcher.start()
        while not self._stopping:
            self._attend()
        self._service.drain()
        deadline = time.monotonic() + self._drain_seconds
        self._loop.end()
        while not self._loop.is_over and time.monotonic() < deadline:
            self._attend(0.05)
            self._loop.wake()
        self._dispatcher.shutdown()
        wasyncore.close_all(self._loop.sockets)
        self._loop.sockets.close()

    def stop(self) -> None:
        """Begins the end. May be called by a signal handler or another thread."""
        self._stopping = True
        self._bell.ring()

    def stop_on_signals(self) -> None:
        """SIGTERM and SIGINT begin the end; a second one ends the process at once."""

        def handle(number: int, frame: object) -> None:
            del number, frame
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            self.stop()

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)

    def _attend(self, longest_seconds: float = _LONGEST_WAIT_SECONDS) -> None:
        """Waits a little, and sees to it that no worker keeps the others waiting."""
        is_quiet = self._dispatcher.workers.is_quiet(self._bell.ring)
        self._bell.wait(longest_seconds if is_quiet else _RELIEF_SECONDS)
        self._dispatcher.workers.relieve()
