"""sockets: epoll watches exactly the events that each socket waits for."""

import select
import socket
import threading
from collections.abc import Iterator

import pytest
from waitress import wasyncore

from gpux.http.sockets import Sockets
from tests.support.servers import PATIENCE_SECONDS


class Peer(wasyncore.dispatcher):
    """One end of a socket pair; waits for the events that the test sets."""

    _fileno: int

    def __init__(self, sockets: Sockets, own: socket.socket) -> None:
        self.reads, self.writes = True, False
        self.read, self.written = b"", 0
        self.closes_after_reading = False
        super().__init__(own, map=sockets)
        self.connected = True

    def readable(self) -> bool:
        return self.reads

    def writable(self) -> bool:
        return self.writes

    def handle_read(self) -> None:
        self.read += self.recv(100)
        if self.closes_after_reading:
            self.close()

    def handle_write(self) -> None:
        self.written += 1
        self.writes = False

    def handle_close(self) -> None:
        self.close()


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    created = Sockets(wasyncore.readwrite)
    yield created
    wasyncore.close_all(created)
    created.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    own, other = socket.socketpair()
    other.settimeout(PATIENCE_SECONDS)
    yield own, other
    other.close()


@pytest.fixture
def peer(sockets: Sockets, ends: tuple[socket.socket, socket.socket]) -> Peer:
    return Peer(sockets, ends[0])


@pytest.fixture
def other(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    """The other end of `peer`'s socket pair."""
    return ends[1]


def poll(sockets: Sockets, seconds: float) -> None:
    sockets.handle(sockets.wait(seconds))


def test_what_comes_is_read(sockets: Sockets, peer: Peer, other: socket.socket) -> None:
    other.send(b"one")
    poll(sockets, PATIENCE_SECONDS)
    other.send(b"two")
    poll(sockets, PATIENCE_SECONDS)
    assert peer.read == b"onetwo"


def test_who_does_not_want_to_read_is_left_alone(
    sockets: Sockets, peer: Peer, other: socket.socket
) -> None:
    peer.reads = False
    other.send(b"one")
    poll(sockets, 0.0)
    assert peer.read == b""
    peer.reads = True
    assert sockets.changed(peer)
    poll(sockets, PATIENCE_SECONDS)
    assert peer.read == b"one"


def test_what_has_not_changed_needs_no_waking(sockets: Sockets, peer: Peer) -> None:
    assert sockets.changed(peer)  # not watched yet
    poll(sockets, 0.0)
    assert not sockets.changed(peer)
    peer.writes = True
    assert sockets.changed(peer)
    poll(sockets, PATIENCE_SECONDS)
    assert peer.written == 1
    # Changes by its own handlers are picked up right after them.
    assert not sockets.changed(peer)


def test_the_end_of_the_other_side_closes(
    sockets: Sockets, peer: Peer, other: socket.socket
) -> None:
    other.send(b"last")
    other.close()
    poll(sockets, PATIENCE_SECONDS)
    assert peer.read == b"last"
    poll(sockets, PATIENCE_SECONDS)
    assert not peer.connected
    assert not sockets
    assert not sockets._watched


def test_a_closed_connection_is_not_written_to(
    sockets: Sockets, peer: Peer, other: socket.socket
) -> None:
    peer.writes = peer.closes_after_reading = True
    other.send(b"one")
    poll(sockets, PATIENCE_SECONDS)
    assert peer.read == b"one"
    assert peer.written == 0


def test_the_end_is_not_told_to_who_does_not_listen(
    sockets: Sockets, peer: Peer, other: socket.socket
) -> None:
    peer.reads = False
    poll(sockets, 0.0)
    other.close()
    poll(sockets, 0.0)
    assert peer.connected
    assert sockets._epoll.poll(0) == [], "it would be told again and again"


def test_a_descriptor_that_is_used_again(sockets: Sockets) -> None:
    for number in range(5):
        own, other = socket.socketpair()
        peer = Peer(sockets, own)
        other.send(b"%d" % number)
        poll(sockets, PATIENCE_SECONDS)
        assert peer.read == b"%d" % number
        peer.close()
        other.close()
    assert not sockets._watched


def test_no_change_is_lost(sockets: Sockets, peer: Peer) -> None:
    """One thread changes the wanted events, and wakes the poller only if it must."""
    peer.reads = False
    may_poll = threading.Semaphore(0)
    rounds = 2000

    def change() -> None:
        for number in range(rounds):
            peer.reads = number % 2 == 0
            if sockets.changed(peer):
                may_poll.release()
        may_poll.release()

    changing = threading.Thread(target=change)
    changing.start()
    while changing.is_alive():
        may_poll.acquire(timeout=0.1)
        poll(sockets, 0.0)
    poll(sockets, 0.0)
    assert sockets._watched.get(peer._fileno, 0) == (select.EPOLLIN if peer.reads else 0)
