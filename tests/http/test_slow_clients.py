"""Clients that send or read too slowly are disconnected, and no others.

The servers here have shorter timeouts than usual: tests/support/strict_timeouts_server.py.
"""

import select
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import pytest

from tests.support.servers import (
    ENDLESS,
    PATIENCE_SECONDS,
    QUICK,
    Client,
    Find,
    ServerProcess,
    connect,
    head,
    metric,
    post,
    wait_until,
)

GOOD = b'{"x":[1.0]}'
RESPONSE = b'{"y":[1.0]}'


def serve_strict(
    path: Path, *options: str, grace: float = 1, min_rate: float = 1000, idle: float = 120
) -> ServerProcess:
    """`gpux serve PATH` with strict timeouts.

    Args:
        path: the model.
        options: of `gpux serve`.
        grace: seconds that any request or response may take.
        min_rate: bytes per second; n bytes may take n / min_rate seconds more.
        idle: seconds without any activity before a connection is closed.
    """
    program = str(Path(__file__).parents[1] / "support" / "strict_timeouts_server.py")
    timeouts = map(str, (grace, min_rate, idle))
    command = [sys.executable, program, *timeouts, "serve", str(path), "--port", "0", *options]
    return ServerProcess(command, r"Serving   http://\S+:(\d+)/predict", {})


@pytest.fixture(scope="module")
def matrix(model_file: Find) -> Iterator[ServerProcess]:
    with serve_strict(model_file("matrix")) as server:
        yield server
    assert server.stderr.text == ""


class Reader:
    """A client with a small receive buffer, so that most of a response stays on the server.

    Args:
        server: where to connect to.
        request: what to send.
    """

    def __init__(self, server: ServerProcess, request: bytes) -> None:
        self.received = bytearray()
        self._socket = socket.socket()
        self._socket.settimeout(PATIENCE_SECONDS)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        self._socket.connect(("127.0.0.1", server.port))
        self._socket.sendall(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def read_byte(self) -> None:
        """Reads one byte, if any has been received."""
        with suppress(BlockingIOError, ConnectionResetError):
            self.received += self._socket.recv(1, socket.MSG_DONTWAIT)

    def read_until(self, nbytes: int) -> None:
        """Reads until `nbytes` have been received, or the connection ends."""
        with suppress(ConnectionResetError):
            while len(self.received) < nbytes and (piece := self._socket.recv(2**16)):
                self.received += piece


# Requests.


def timed_out(client: Client) -> bool:
    """Checks that the next response is a 408; returns whether the connection then ends."""
    response = client.read()
    assert response.headers["Connection"] == "close"
    assert response.error(408) == (
        "The request came too slowly: the limit is 1 seconds, and one more for each 1000 bytes"
    )
    return client.at_end()


def test_requests_that_do_not_come(matrix: ServerProcess) -> None:
    before = metric(matrix, "gpux_requests_total", status="408")
    with connect(matrix, 6) as clients:
        second, *others = clients
        second.send(post(GOOD), b"P")
        begun = (
            b"P",
            head(1000)[:40],
            head(1000),
            head(1000) + b"{",
            head(None, "Transfer-Encoding: chunked") + b"4\r\n{",
        )
        for client, sent in zip(others, begun, strict=True):
            client.send(sent)
        assert second.read().body == RESPONSE
        assert all(timed_out(client) for client in clients)
    # Only requests that were known to be for the model are counted.
    assert metric(matrix, "gpux_requests_total", status="408") == before + 3


def test_one_byte_after_the_other(matrix: ServerProcess) -> None:
    request = iter(head(1000) + b" " * 1000)
    with Client(matrix) as client:
        while not select.select([client.socket], [], [], 0.1)[0]:
            client.send(bytes([next(request)]))
        assert timed_out(client)


def test_nobody_else_is_turned_away(matrix: ServerProcess) -> None:
    """Neither a client that was fast so far, nor connections before or between requests."""
    with connect(matrix, 4) as (faster, new, kept, late):
        assert kept.exchange(post(GOOD)).body == RESPONSE
        faster.send(head(100_000), b" " * 50_000)
        late.send(b"P")
        assert timed_out(late)
        assert faster.exchange(GOOD.rjust(50_000)).body == RESPONSE
        for client in (new, kept):
            assert client.exchange(post(GOOD)).body == RESPONSE


def test_line_ends_behind_a_request_are_answered_by_nothing(matrix: ServerProcess) -> None:
    """The client would take a response for that of its next request."""
    with Client(matrix) as client:
        assert client.exchange(post(GOOD), b"\r\n").body == RESPONSE
        assert client.at_end()


def test_the_time_in_which_others_are_answered_does_not_count(model_file: Find) -> None:
    """A request is pipelined behind one that runs longer than its own time limit."""
    request = post(QUICK)
    with (
        serve_strict(model_file("slow"), "--timeout", "3.5", grace=1.5) as server,
        Client(server) as client,
    ):
        assert client.exchange(post(ENDLESS), request[:-1]).status == 504
        assert client.exchange(request[-1:]).status == 200


# Responses.

MANY = 200_000
LONG = post(b'{"count":[%d]}' % MANY)
LONG_BODY = b'{"ones":[' + b"1.0," * (MANY - 1) + b"1.0]}"


def test_slow_readers_stop_nobody_and_are_cut_off(model_file: Find) -> None:
    """200 clients, each of which reads a response of 800 KB byte by byte."""
    with (
        serve_strict(model_file("repeat"), "--threads", "4", grace=2, min_rate=1e7) as server,
        ExitStack() as stack,
        Client(server) as other,
    ):
        quick = post(b'{"count":[2]}')
        assert other.exchange(quick).body == b'{"ones":[1.0,1.0]}'
        descriptors = server.descriptors()
        slow = [stack.enter_context(Reader(server, LONG)) for _ in range(200)]
        for reader in slow:
            reader.read_until(1)
        for _ in range(50):
            assert other.exchange(quick).body == b'{"ones":[1.0,1.0]}'

        def all_are_closed() -> bool:
            for reader in slow:
                reader.read_byte()
            return server.descriptors() == descriptors

        wait_until(all_are_closed, "the slow readers are cut off")
        for reader in slow:
            reader.read_until(len(LONG_BODY))
            assert reader.received.startswith(b"HTTP/1.1 200 OK\r\n")
            assert len(reader.received) < len(LONG_BODY)
        assert metric(server, "gpux_requests_total", status="200") == 251


def test_what_was_read_so_far_is_time_for_the_rest(model_file: Find) -> None:
    body = LONG.partition(b"\r\n\r\n")[2]
    last = head(len(body), "Connection: close") + body
    with (
        serve_strict(model_file("repeat")) as server,
        Client(server) as late,
        Reader(server, last) as steady,
    ):
        steady.read_until(50_000)
        late.send(b"P")
        assert timed_out(late)
        steady.read_until(2 * len(LONG_BODY))  # until the connection ends
        assert steady.received.endswith(b"\r\n\r\n" + LONG_BODY)


def test_a_reader_that_stands_still_is_cut_off(model_file: Find) -> None:
    """Its socket never becomes writable, so the server gets no event for it."""
    with serve_strict(model_file("repeat"), min_rate=1, idle=2) as server:
        descriptors = server.descriptors()
        with Reader(server, LONG) as reader:
            reader.read_until(1)
            wait_until(lambda: server.descriptors() == descriptors, "it is cut off")
            reader.read_until(len(LONG_BODY))
            assert 1 <= len(reader.received) < len(LONG_BODY)
