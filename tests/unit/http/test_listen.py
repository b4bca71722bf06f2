"""listen: which sockets listen, for how many processes, and what is refused."""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from gpux.errors import ConfigurationError
from gpux.http import listen as module
from gpux.http.listen import listen, url

Listen = Callable[[str | None, int, int], list[list[socket.socket]]]


@pytest.fixture
def listening() -> Iterator[Listen]:
    """listen(), whose sockets are closed in the end."""
    with ExitStack() as stack:

        def call(host: str | None, port: int, workers: int) -> list[list[socket.socket]]:
            listeners = listen(host, port, workers)
            for sockets in listeners:
                for one in sockets:
                    stack.enter_context(one)
            return listeners

        yield call


def ports(listeners: Sequence[Sequence[socket.socket]]) -> set[int]:
    return {one.getsockname()[1] for sockets in listeners for one in sockets}


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_each_worker_listens_on_each_address(
    listening: Listen, host: str | None, workers: int
) -> None:
    listeners = listening(host, 0, workers)
    assert len(listeners) == workers
    (port,) = ports(listeners)
    addresses = [one.getsockname()[0] for one in listeners[0]]
    assert addresses[0] == "127.0.0.1"
    for sockets in listeners:
        assert [one.getsockname()[0] for one in sockets] == addresses
        assert all(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in sockets)
    for address in addresses:
        socket.create_connection((address, port), 10).close()
    assert url(host, listeners[0]) == f"http://{host or 'localhost'}:{port}"


def test_connections_are_distributed(listening: Listen) -> None:
    listeners = [one for (one,) in listening("127.0.0.1", 0, 2)]
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(listeners[0].getsockname(), 10))
        counts = [accepted(listener, stack) for listener in listeners]
    assert sum(counts) == 40
    assert min(counts) > 0


def accepted(listener: socket.socket, stack: ExitStack) -> int:
    """Accepts all connections that wait; returns how many."""
    listener.setblocking(False)
    count = 0
    while True:
        try:
            stack.enter_context(listener.accept()[0])
        except BlockingIOError:
            return count
        count += 1


@pytest.mark.parametrize("second", [1, 2])
@pytest.mark.parametrize("first", [1, 2])
def test_a_port_in_use(listening: Listen, first: int, second: int) -> None:
    (port,) = ports(listening("127.0.0.1", 0, first))
    with pytest.raises(ConfigurationError) as raised:
        listening("127.0.0.1", port, second)
    assert str(raised.value) == f"cannot listen on 127.0.0.1 port {port}: Address already in use"


def test_a_port_that_another_takes_in_between(
    listening: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have bound it, as they may; the second one to listen is refused."""
    (bound,) = module.bind("127.0.0.1", 0)
    port = bound.getsockname()[1]
    with bound:
        (slower,) = module.bind("127.0.0.1", port)
        bound.listen()
        monkeypatch.setattr(module, "bind", lambda *_: [slower])
        with pytest.raises(ConfigurationError, match=f"127.0.0.1 port {port}: Address already"):
            listening("127.0.0.1", port, 1)
    assert slower.fileno() == -1


def test_a_host_that_does_not_exist(listening: Listen) -> None:
    with pytest.raises(ConfigurationError, match=r"--host nowhere\.invalid: "):
        listening("nowhere.invalid", 0, 2)
