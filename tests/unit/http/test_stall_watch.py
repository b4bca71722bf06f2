"""stall_watch: which connections are closed because no response is sent on them."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gpux.http.listen import bind_reuse_port
from gpux.http.stall_watch import StallWatch, connections, stop_reading

PATIENCE = 100.0


class Server:
    """A listening socket, and the connections that it has accepted."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        address = (socket.AF_INET, "127.0.0.1", 0)
        self._listening = stack.enter_context(bind_reuse_port(address))
        self._listening.listen()
        self.port: int = self._listening.getsockname()[1]

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a new connection: the client's and the server's."""
        client = self._stack.enter_context(socket.create_connection(("127.0.0.1", self.port), 10))
        accepted = self._stack.enter_context(self._listening.accept()[0])
        accepted.settimeout(10)
        return client, accepted


@pytest.fixture
def server() -> Iterator[Server]:
    with ExitStack() as stack:
        yield Server(stack)


def send(client: socket.socket, accepted: socket.socket, data: bytes) -> None:
    """Sends, and returns when all of it has been received."""
    client.sendall(data)
    remaining = len(data)
    while remaining:
        remaining -= len(accepted.recv(remaining))


def is_open(client: socket.socket) -> bool:
    client.settimeout(0)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True


def test_those_that_were_accepted_are_found(server: Server) -> None:
    sides = [server.connect() for _ in range(3)]
    expected = {client.getsockname() for client, _ in sides}
    assert {client for client, _ in connections(server.port)} == expected
    sides[0][1].close()
    expected.remove(sides[0][0].getsockname())
    assert {client for client, _ in connections(server.port)} == expected


def test_one_that_is_not_answered_is_ended(server: Server) -> None:
    watch = StallWatch(server.port, PATIENCE)
    client, accepted = server.connect()
    send(client, accepted, b"POST")
    assert watch.look(0) == 0
    assert watch.look(PATIENCE) == 0
    assert is_open(client)
    assert watch.look(PATIENCE + 1) == 1
    assert accepted.recv(1) == b""  # a reader waiting for the rest of the body is woken
    assert not is_open(client)


def test_answers_begin_the_time_anew(server: Server) -> None:
    watch = StallWatch(server.port, PATIENCE)
    client, accepted = server.connect()
    send(client, accepted, b"GET")
    watch.look(0)
    for now in (90, 180, 270):
        send(accepted, client, b"200")
        assert watch.look(now) == 0
    assert watch.look(270 + PATIENCE + 1) == 1


def test_bytes_of_a_request_buy_time_and_single_ones_do_not(server: Server) -> None:
    watch = StallWatch(server.port, PATIENCE)
    fast, dripping = server.connect(), server.connect()
    for sides in (fast, dripping):
        send(*sides, b"POST")
    watch.look(0)
    send(*fast, bytes(50 * 1024))
    send(*dripping, b"x" * 100)
    assert watch.look(PATIENCE + 49) == 1
    assert is_open(fast[0])
    assert not is_open(dripping[0])
    dripping[1].close()
    assert watch.look(PATIENCE + 51) == 1


def test_those_that_have_sent_nothing_are_left_to_others(server: Server) -> None:
    watch = StallWatch(server.port, PATIENCE)
    client, _ = server.connect()
    watch.look(0)
    assert watch.look(PATIENCE + 1) == 0
    assert is_open(client)


def test_other_ports_are_not_looked_at(server: Server) -> None:
    with ExitStack() as stack:
        client, accepted = Server(stack).connect()
        send(client, accepted, b"POST")
        watch = StallWatch(server.port, PATIENCE)
        watch.look(0)
        assert watch.look(PATIENCE + 1) == 0


def test_reading_ends_where_nothing_is_to_be_sent(server: Server) -> None:
    client, accepted = server.connect()
    client.sendall(b"POST")
    busy_client, busy = server.connect()
    busy.setblocking(False)
    sent = 0
    while True:  # until the client's buffers are full
        try:
            sent += busy.send(bytes(100_000))
        except BlockingIOError:
            break
    stop_reading(server.port)
    assert [accepted.recv(4), accepted.recv(1)] == [b"POST", b""]
    with pytest.raises(BlockingIOError):
        busy.recv(1)
    accepted.sendall(b"200")
    assert client.recv(3) == b"200"
    assert busy_client.recv(1)
