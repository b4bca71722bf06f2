"""Clients that go on sending or reading, but too slowly: they are turned away, and nobody else.

The servers here have less patience than usual: impatient.py.
"""

import select
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import pytest

from tests.support.servers import (
    PATIENCE_SECONDS,
    Client,
    ServerProcess,
    figure,
    head,
    post,
    wait_until,
)

Find = Callable[[str], Path]

GOOD = b'{"x":[1.0]}'
ANSWER = b'{"y":[1.0]}'


def serve_impatiently(
    path: Path,
    *options: str,
    head_start: float = 1,
    slowest: float = 1000,
    silence: float = 120,
) -> ServerProcess:
    """`gpux serve PATH` that has less patience.

    Args:
        path: of the model.
        options: of `gpux serve`.
        head_start: seconds that anything may take.
        slowest: bytes for which it may take a second more.
        silence: seconds in which nothing need happen.
    """
    program = str(Path(__file__).parents[1] / "support" / "strict_timeouts_server.py")
    patience = map(str, (head_start, slowest, silence))
    command = [sys.executable, program, *patience, "serve", str(path), "--port", "0", *options]
    return ServerProcess(command, r"Serving   http://\S+:(\d+)/predict", {})


@pytest.fixture(scope="module")
def matrix(model_file: Find) -> Iterator[ServerProcess]:
    with serve_impatiently(model_file("matrix")) as server:
        yield server
    assert server.stderr.text == ""


class Reader:
    """A client for whom the system keeps little, so that the rest of an answer stays where it is.

    Args:
        server: where to connect to.
        request: is sent.
    """

    def __init__(self, server: ServerProcess, request: bytes) -> None:
        self.got = bytearray()
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
        """Takes one byte of what has come, if there is any."""
        with suppress(BlockingIOError, ConnectionResetError):
            self.got += self._socket.recv(1, socket.MSG_DONTWAIT)

    def read_until(self, nbytes: int) -> None:
        """Reads until so many have come, or the connection ends."""
        with suppress(ConnectionResetError):
            while len(self.got) < nbytes and (piece := self._socket.recv(2**16)):
                self.got += piece


# Requests.


def turned_away(client: Client) -> bool:
    """Whether the next answer says that the request came too slowly, and is the last one."""
    answer = client.read()
    assert answer.status == 408
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Connection"] == "close"
    assert answer.detail == (
        "The request came too slowly: the limit is 1 seconds, and one more for each 1000 bytes"
    )
    return client.at_end()


def test_requests_that_do_not_come(matrix: ServerProcess) -> None:
    before = figure(matrix, "gpux_requests_total", status="408")
    with ExitStack() as stack:
        second, *others = clients = [stack.enter_context(Client(matrix)) for _ in range(6)]
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
        assert second.read().body == ANSWER
        assert all(turned_away(client) for client in clients)
    # Counted are those of which it was known that they asked the model.
    assert figure(matrix, "gpux_requests_total", status="408") == before + 3


def test_one_byte_after_the_other(matrix: ServerProcess) -> None:
    request = iter(head(1000) + b" " * 1000)
    with Client(matrix) as client:
        while not select.select([client.socket], [], [], 0.1)[0]:
            client.send(bytes([next(request)]))
        assert turned_away(client)


def test_nobody_else_is_turned_away(matrix: ServerProcess) -> None:
    """Not who was faster so far, nor who has asked for nothing yet, or for nothing more."""
    with (
        Client(matrix) as faster,
        Client(matrix) as new,
        Client(matrix) as kept,
        Client(matrix) as late,
    ):
        kept.send(post(GOOD))
        assert kept.read().body == ANSWER
        faster.send(head(100_000), b" " * 50_000)
        late.send(b"P")
        assert turned_away(late)
        faster.send(GOOD.rjust(50_000))
        assert faster.read().body == ANSWER
        for client in (new, kept):
            client.send(post(GOOD))
            assert client.read().body == ANSWER


def test_line_ends_behind_a_request_are_answered_by_nothing(matrix: ServerProcess) -> None:
    """An answer would be taken for the next request's."""
    with Client(matrix) as client:
        client.send(post(GOOD), b"\r\n")
        assert client.read().body == ANSWER
        assert client.at_end()


def test_the_time_in_which_others_are_answered_does_not_count(model_file: Find) -> None:
    """A request that comes behind one which takes longer than it may."""
    request = post(b'{"steps":1}')
    with (
        serve_impatiently(model_file("slow"), "--timeout", "3.5", head_start=1.5) as server,
        Client(server) as client,
    ):
        client.send(post(b'{"steps":100000000}'), request[:-1])
        assert client.read().status == 504
        client.send(request[-1:])
        assert client.read().status == 200


# Answers.

MANY = 200_000
LONG = post(b'{"count":[%d]}' % MANY)
LONG_BODY = b'{"ones":[' + b"1.0," * (MANY - 1) + b"1.0]}"


def test_slow_readers_stop_nobody_and_are_cut_off(model_file: Find) -> None:
    """200 of them, each with an answer of 800 KB, of which it reads a byte at a time."""
    with (
        serve_impatiently(
            model_file("repeat"), "--threads", "4", head_start=2, slowest=1e7
        ) as server,
        ExitStack() as stack,
        Client(server) as other,
    ):
        other.send(post(b'{"count":[2]}'))
        assert other.read().body == b'{"ones":[1.0,1.0]}'
        descriptors = server.descriptors()
        slow = [stack.enter_context(Reader(server, LONG)) for _ in range(200)]
        for reader in slow:
            reader.read_until(1)
        for _ in range(50):
            other.send(post(b'{"count":[2]}'))
            assert other.read().body == b'{"ones":[1.0,1.0]}'

        def all_are_closed() -> bool:
            for reader in slow:
                reader.read_byte()
            return server.descriptors() == descriptors

        wait_until(all_are_closed, "the slow readers are cut off")
        for reader in slow:
            reader.read_until(len(LONG_BODY))
            assert reader.got.startswith(b"HTTP/1.1 200 OK\r\n")
            assert len(reader.got) < len(LONG_BODY)
        assert figure(server, "gpux_requests_total", status="200") == 251


def test_what_was_read_so_far_is_time_for_the_rest(model_file: Find) -> None:
    body = LONG.partition(b"\r\n\r\n")[2]
    last = head(len(body), "Connection: close") + body
    with (
        serve_impatiently(model_file("repeat")) as server,
        Client(server) as late,
        Reader(server, last) as steady,
    ):
        steady.read_until(50_000)
        late.send(b"P")
        assert turned_away(late)
        steady.read_until(2 * len(LONG_BODY))  # to the end of the connection
        assert steady.got.endswith(b"\r\n\r\n" + LONG_BODY)


def test_a_reader_that_stands_still_is_cut_off(model_file: Find) -> None:
    """Its socket takes nothing more, so that there is never anything to do for it."""
    with serve_impatiently(model_file("repeat"), slowest=1, silence=2) as server:
        descriptors = server.descriptors()
        with Reader(server, LONG) as reader:
            reader.read_until(1)
            wait_until(lambda: server.descriptors() == descriptors, "it is cut off")
            reader.read_until(len(LONG_BODY))
            assert 1 <= len(reader.got) < len(LONG_BODY)
