"""SIGTERM under load: no request that the server has taken is lost.

ENDS=50 in the environment makes it fifty ends.
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

from tests.support.request_outcomes import LostError, ask
from tests.support.servers import (
    Client,
    Response,
    ServerProcess,
    figure,
    post,
    serve,
    wait_until,
)

Find = Callable[[str], Path]

_ENDS = int(os.environ.get("ENDS", "4"))


@dataclass(frozen=True)
class Load:
    """What clients do until the end, and when that begins.

    Attributes:
        model: of models.py.
        threads: of the server.
        clients: as many, each with one request after the other.
        enough: so many answers at least, and at most, before the end.
        asks: the body of a request of a random number, and its answer.
    """

    model: str
    threads: int
    clients: int
    enough: tuple[int, int]
    asks: Callable[[int], tuple[bytes, bytes]]


_LOADS = (
    Load("matrix", 16, 24, (50, 300), lambda n: (b'{"x":[%d,0.5]}' % n, b'{"y":[%d.0,0.5]}' % n)),
    # Some milliseconds each: requests wait for threads, and for the model.
    Load("slow", 8, 24, (50, 200), lambda n: (b'{"steps":%d}' % (100 + n % 7), b'{"sum":128.0}')),
)


@contextmanager
def wrk(server: ServerProcess, kind: Load, folder: Path) -> Iterator[None]:
    """More load, where wrk is installed; nobody looks at what it is answered."""
    if shutil.which("wrk") is None:
        yield
        return
    script = folder / "post.lua"
    script.write_text(
        'wrk.method = "POST"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        f"wrk.body = '{kind.asks(0)[0].decode()}'\n"
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
    fates: Counter[object] = Counter()
    guard = threading.Lock()  # guards fates
    server = serve(model_file(kind.model), "--threads", str(kind.threads))

    def note(fate: object) -> None:
        with guard:
            fates[fate] += 1

    def load(thread: int) -> None:
        """One request after the other, until the server takes no connections any more."""
        chance = random.Random(100 * turn + thread)
        while True:
            try:
                client = Client(server)
            except ConnectionError:
                return
            with client:
                is_open = True
                while is_open:
                    body, right = kind.asks(chance.randrange(1000))
                    answer = ask(client, post(body))
                    if answer is None:
                        note("unread")
                    elif answer.status == 503:
                        note("refused")
                    else:
                        note(200 if answer.body == right else answer.body[:200])
                    is_open = answer is not None and answer.headers["Connection"] != "close"

    # Whatever fails, the server ends first: its clients go on until then.
    with ThreadPoolExecutor(kind.clients) as clients, server, wrk(server, kind, tmp_path):
        tasks = [clients.submit(load, thread) for thread in range(kind.clients)]
        enough = random.Random(turn).randrange(*kind.enough)
        wait_until(lambda: fates[200] >= enough, "requests are answered")
        assert server.end() == 0
        for task in tasks:
            task.result(60)
    assert set(fates) <= {200, "refused", "unread"}, fates
    assert server.stdout.text.endswith("Stopped\n")
    assert server.stderr.text == ""


def test_an_answer_that_waits_for_its_client_is_sent_whole(model_file: Find) -> None:
    """20 MB, more than the kernel takes at once."""
    many = 5_000_000
    with serve(model_file("repeat")) as server, Client(server) as client:
        client.send(post(b'{"count":[%d]}' % many))
        wait_until(lambda: bool(client.stream.peek(1)), "the answer begins")
        wait_until(lambda: figure(server, "gpux_in_flight_requests") == 0, "no thread has it")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not server.listens(), "connections are refused")
        assert client.read().body == b'{"ones":[' + b"1.0," * (many - 1) + b"1.0]}"
        assert server.wait() == 0


# What tells a lost request from another.

_REQUEST = post(b"{}")


@dataclass
class Toy:
    """Listens; stands for a server."""

    port: int


def fate(treat: Callable[[socket.socket], None], *, before: bool = False) -> Response | None:
    """Of a request whose server treats the connection so, and then closes it.

    Args:
        treat: is given the connection.
        before: it closes before the request is sent.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as thread:

        def serve_one() -> None:
            connection, _ = listening.accept()
            with connection:
                treat(connection)

        with Client(Toy(listening.getsockname()[1])) as client:
            task = thread.submit(serve_one)
            if before:
                task.result(30)
            answer = ask(client, _REQUEST)
            task.result(30)
            return answer


def take(connection: socket.socket, nbytes: int = len(_REQUEST)) -> None:
    """Reads that much; all of the request has come then."""
    assert len(connection.recv(len(_REQUEST), socket.MSG_WAITALL | socket.MSG_PEEK)) == len(
        _REQUEST
    )
    if nbytes:
        connection.recv(nbytes, socket.MSG_WAITALL)


def answer_half(connection: socket.socket) -> None:
    take(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")


def answer_half_and_reset(connection: socket.socket) -> None:
    take(connection, len(_REQUEST) - 1)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")


@pytest.mark.parametrize("treat", [take, answer_half, answer_half_and_reset])
def test_a_lost_request_is_known(treat: Callable[[socket.socket], None]) -> None:
    with pytest.raises(LostError):
        fate(treat)


@pytest.mark.parametrize("read", [0, 1, len(_REQUEST) - 1])
def test_so_is_one_that_was_not_read(read: int) -> None:
    assert fate(lambda connection: take(connection, read)) is None


def test_so_is_one_that_came_too_late() -> None:
    assert fate(lambda _: None, before=True) is None
