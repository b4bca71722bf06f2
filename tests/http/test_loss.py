"""SIGTERM under load: no request that the server has read is lost.

ENDS=50 in the environment repeats the shutdown fifty times.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.request_outcomes import LostError, exchange
from tests.support.servers import (
    Client,
    Find,
    Response,
    ServerProcess,
    in_flight,
    post,
    serve,
    wait_until,
)

_ENDS = int(os.environ.get("ENDS", "4"))


@dataclass(frozen=True)
class Load:
    """What clients send, and when the shutdown begins.

    Attributes:
        model: a model of onnx_models.py, by name.
        clients: number of clients, each of which sends one request after the other.
        responses: range of the number of responses before the shutdown.
        exchange: from a random number to a request body and its expected response body.
        keeps: whether a client sends all requests over one connection.
    """

    model: str
    keeps: bool
    clients: int
    responses: tuple[int, int]
    exchange: Callable[[int], tuple[bytes, bytes]]


_SUM = b'{"sum":128.0}'
_LOADS = (
    *(
        Load("matrix", keeps, 24, (50, 300), lambda n: (b'{"x":[%d]}' % n, b'{"y":[%d.0]}' % n))
        for keeps in (True, False)
    ),
    # A few milliseconds each: requests wait for threads and for the model.
    *(
        Load("slow", keeps, 24, (50, 200), lambda n: (b'{"steps":%d}' % (100 + n % 7), _SUM))
        for keeps in (True, False)
    ),
)


@contextmanager
def wrk(server: ServerProcess, kind: Load, folder: Path) -> Iterator[None]:
    """Additional load, if wrk is installed; its responses are not checked."""
    if shutil.which("wrk") is None:
        yield
        return
    script = folder / "post.lua"
    script.write_text(
        'wrk.method = "POST"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = '{kind.exchange(0)[0].decode()}'\n"
    )
    url = f"http://127.0.0.1:{server.port}/predict"
    command = ["wrk", "-t1", "-c32", "-d60", "-s", str(script), url]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as load:
        try:
            yield
        finally:
            load.kill()


@pytest.mark.parametrize("turn", range(_ENDS))
def test_no_request_is_lost_at_the_end(model_file: Find, tmp_path: Path, turn: int) -> None:
    kind = _LOADS[turn % len(_LOADS)]
    outcomes: Counter[object] = Counter()
    guard = threading.Lock()  # guards outcomes
    server = serve(model_file(kind.model))

    def record(outcome: object) -> None:
        with guard:
            outcomes[outcome] += 1

    def load(thread: int) -> None:
        """Sends requests one by one until the server accepts no more connections."""
        rng = random.Random(100 * turn + thread)
        while True:
            try:
                client = Client(server)
            except ConnectionError:
                return
            with client:
                is_open = True
                while is_open:
                    body, expected = kind.exchange(rng.randrange(1000))
                    response = exchange(client, post(body))
                    if response is None:
                        record("unread")
                    elif response.status == 503:
                        record("refused")
                    else:
                        record(200 if response.body == expected else response.body[:200])
                    is_open = (
                        kind.keeps
                        and response is not None
                        and response.headers["Connection"] != "close"
                    )

    # On failure, too, the server ends first: its clients run until then.
    with ThreadPoolExecutor(kind.clients) as clients, server, wrk(server, kind, tmp_path):
        tasks = [clients.submit(load, thread) for thread in range(kind.clients)]
        target = random.Random(turn).randrange(*kind.responses)
        wait_until(lambda: outcomes[200] >= target, "requests are answered")
        assert server.end() == 0
        for task in tasks:
            task.result(60)
    assert set(outcomes) <= {200, "refused", "unread"}, outcomes
    assert server.stdout.text.endswith("Stopped\n")
    assert server.stderr.text == ""


def test_an_answer_that_waits_for_its_client_is_sent_whole(model_file: Find) -> None:
    """20 MB, more than the kernel buffers."""
    count = 5_000_000
    with serve(model_file("repeat")) as server, Client(server) as client:
        client.send(post(b'{"count":[%d]}' % count))
        wait_until(lambda: bool(client.stream.peek(1)), "the answer begins")
        wait_until(lambda: in_flight(server) == 0, "no thread has it")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not server.listens(), "connections are refused")
        assert client.read().body == b'{"ones":[' + b"1.0," * (count - 1) + b"1.0]}"
        assert server.wait() == 0


# How lost requests are detected.

_REQUEST = post(b"{}")


@dataclass
class Toy:
    """The port of a listening socket that stands in for a server."""

    port: int


def outcome(handle: Callable[[socket.socket], None], *, closed: bool = False) -> Response | None:
    """The outcome of a request whose server handles the connection and then closes it.

    Args:
        handle: is called with the accepted connection.
        closed: whether the connection is closed before the request is sent.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as thread:

        def serve_one() -> None:
            connection, _ = listening.accept()
            with connection:
                handle(connection)

        with Client(Toy(listening.getsockname()[1])) as client:
            task = thread.submit(serve_one)
            if closed:
                task.result(30)
            response = exchange(client, _REQUEST)
            task.result(30)
            return response


def read_request(connection: socket.socket, nbytes: int = len(_REQUEST)) -> None:
    """Waits for the whole request; reads `nbytes` of it."""
    assert connection.recv(len(_REQUEST), socket.MSG_WAITALL | socket.MSG_PEEK) == _REQUEST
    if nbytes:
        connection.recv(nbytes, socket.MSG_WAITALL)


def respond_half(connection: socket.socket, nbytes: int = len(_REQUEST)) -> None:
    read_request(connection, nbytes)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")


def respond_half_and_reset(connection: socket.socket) -> None:
    respond_half(connection, len(_REQUEST) - 1)


@pytest.mark.parametrize("treat", [read_request, respond_half, respond_half_and_reset])
def test_a_lost_request_is_known(treat: Callable[[socket.socket], None]) -> None:
    with pytest.raises(LostError):
        outcome(treat)


@pytest.mark.parametrize("read", [0, 1, len(_REQUEST) - 1])
def test_so_is_one_that_was_not_read(read: int) -> None:
    assert outcome(lambda connection: read_request(connection, read)) is None


def test_so_is_one_that_came_too_late() -> None:
    assert outcome(lambda _: None, closed=True) is None
