"""A connection without a socket: a transport that notes what it is given, and an application."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gpux._fastpath import Body, Pool
from gpux.http.connection import Connection, Exchange
from gpux.http.head import RequestHead
from gpux.http.limits import Limits
from gpux.http.responses import Response

MAX_BODY_BYTES = 1_000_000


class FakeTransport(asyncio.Transport):
    """A transport whose peer reads as much as `room` has, by default everything.

    It raises where uvloop's does: for whatever is done after it is closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.connection: Connection
        self.sent = bytearray()
        self.writes: list[bytes] = []
        self.room: int | None = None
        self.unsent = bytearray()
        self.is_reading_paused = False
        self.has_ended_side = False
        self.is_aborted = False
        self.is_closed = False
        self.is_write_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 50000) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (0, None)

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writelines([data])

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        assert not self.is_closed
        assert not self.has_ended_side
        data = b"".join(bytes(piece) for piece in list_of_data)
        self.writes.append(data)
        self.unsent += data
        self._send()
        if self.unsent and not self.is_write_paused:
            self.is_write_paused = True
            self.connection.pause_writing()

    def read(self, nbytes: int | None = None) -> None:
        """The peer reads so many bytes of what it has not been sent, or all."""
        self.room = nbytes
        self._send()
        if not self.unsent and self.is_write_paused:
            self.is_write_paused = False
            self.connection.resume_writing()

    def _send(self) -> None:
        nbytes = len(self.unsent) if self.room is None else min(self.room, len(self.unsent))
        self.sent += self.unsent[:nbytes]
        del self.unsent[:nbytes]
        if self.room is not None:
            self.room -= nbytes

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        assert not self.is_closed
        self.has_ended_side = True

    def pause_reading(self) -> None:
        assert not self.is_closed
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        assert not self.is_closed
        self.is_reading_paused = False

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True


@dataclass
class FakeExchange:
    """A request, and what became of it."""

    head: RequestHead
    connection: Connection
    respond_at_once: Callable[["FakeExchange"], Response] | None
    body: bytes | None = None
    is_abandoned: bool = False

    def receive(self, body: bytes | Body) -> None:
        assert self.body is None
        assert not self.is_abandoned
        self.body = bytes(body)
        if self.respond_at_once is not None:
            self.connection.respond(self, self.respond_at_once(self))

    def abandon(self) -> None:
        assert not self.is_abandoned
        self.is_abandoned = True


def echo(exchange: FakeExchange) -> Response:
    """What was understood of a request."""
    body = exchange.body or b""
    text = f"{exchange.head.method} {exchange.head.path} {len(body)}:".encode() + body[:100]
    return Response(200, [("Content-Type", "text/plain")], text)


@dataclass
class FakeApplication:
    """Responds by `respond` at once, or later where that is None.

    `refusals` has the responses to requests that are refused by their path; `known` may respond to
    what comes whole.
    """

    respond: Callable[[FakeExchange], Response] | None = echo
    refusals: dict[str, Response] = field(default_factory=dict)
    max_body_bytes: int = MAX_BODY_BYTES
    exchanges: list[FakeExchange] = field(default_factory=list)
    rejected: list[tuple[str | None, int, str]] = field(default_factory=list)
    known: Callable[[bytes], bytes | None] | None = None

    def respond_known(self, received: bytearray, nbytes: int) -> bytes | None:
        return None if self.known is None else self.known(bytes(received[:nbytes]))

    def begin(self, head: RequestHead, connection: Connection) -> Exchange | Response:
        if head.path in self.refusals:
            return self.refusals[head.path]
        self.exchanges.append(FakeExchange(head, connection, self.respond))
        return self.exchanges[-1]

    def reject(
        self, head: RequestHead | None, status: int, detail: str, connection: Connection
    ) -> Response:
        assert connection
        self.rejected.append((head.path if head else None, status, detail))
        body = json.dumps({"detail": detail}).encode()
        return Response(status, [("Content-Type", "application/json")], body)


@dataclass
class Received:
    """A response, as a client reads it."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A client of one connection."""

    def __init__(
        self,
        application: FakeApplication | None = None,
        limits: Limits | None = None,
        buffer_bytes: int = 2**16,
    ) -> None:
        self.application = application or FakeApplication()
        self.connections: set[Connection] = set()
        self.connection = Connection(
            self.application, limits or Limits(), self.connections, bytearray(buffer_bytes), Pool()
        )
        self.transport = FakeTransport()
        self.transport.connection = self.connection
        self.connection.connection_made(self.transport)
        self.now = 100.0
        self.connection.tick(self.now)

    def send(self, *pieces: bytes) -> None:
        """Has the connection read each piece on its own, as far as it still reads."""
        for piece in pieces:
            rest = memoryview(piece)
            while rest and not self.transport.is_closed and not self.transport.is_reading_paused:
                with memoryview(self.connection.get_buffer(-1)) as buffer:
                    nbytes = min(len(buffer), len(rest))
                    buffer[:nbytes] = rest[:nbytes]
                    self.connection.buffer_updated(nbytes)
                rest = rest[nbytes:]

    def end_side(self) -> None:
        """Sends FIN."""
        if not self.transport.is_closed and not self.connection.eof_received():
            self.transport.close()

    def leave(self) -> None:
        """Sends RST."""
        self.transport.is_closed = True
        self.connection.connection_lost(ConnectionResetError())

    def pass_time(self, seconds: float) -> None:
        """Ticks once a second."""
        for _ in range(int(seconds)):
            self.now += 1
            self.connection.tick(self.now)

    def responses(self) -> list[Received]:
        """What the client has been sent, in full."""
        return list(read_responses(bytes(self.transport.sent)))

    def statuses(self) -> list[int]:
        return [response.status for response in self.responses()]

    @property
    def is_ended(self) -> bool:
        """Whether the client reads the end of the connection."""
        return self.transport.has_ended_side or self.transport.is_closed


def read_responses(data: bytes, *, to_head: bool = False) -> Iterator[Received]:
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = dict(line.split(": ", 1) for line in lines)
        nbytes = 0 if to_head else int(headers.get("Content-Length", "0"))
        assert len(data) >= nbytes
        yield Received(int(status), headers, data[:nbytes])
        data = data[nbytes:]


def request(
    body: bytes | None = None,
    *headers: str,
    method: str = "POST",
    path: str = "/predict",
    version: str = "1.1",
) -> bytes:
    """A request; without a body it has no Content-Length."""
    lines = [f"{method} {path} HTTP/{version}", "Host: a", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunked(*chunks: bytes, trailer: bytes = b"") -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return framed + b"0\r\n" + trailer + b"\r\n"


def chunked_request(*chunks: bytes, trailer: bytes = b"") -> bytes:
    head = request(None, "Transfer-Encoding: chunked")
    return head + chunked(*chunks, trailer=trailer)
