"""Server shutdown: signals and requests in flight; also ports already in use."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.servers import Client, ServerProcess, post, run_gpux, serve, wait_until

Find = Callable[[str], Path]

# Matrix products: about a second, and longer than any test waits.
A_WHILE = b'{"steps": 25000}'
ENDLESS = b'{"steps": 100000000}'


@pytest.fixture
def slow(model_file: Find) -> Iterator[ServerProcess]:
    """A server whose model runs for the requested number of steps."""
    with serve(model_file("slow")) as server:
        yield server


def start_run(server: ServerProcess, client: Client, body: bytes) -> None:
    """Sends a request; returns once the model is running."""
    computed = server.cpu_seconds()
    client.send(post(body))
    wait_until(lambda: server.cpu_seconds() > computed + 0.05, "the model runs")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_without_requests_ends(slow: ServerProcess, number: int) -> None:
    with Client(slow) as idle, Client(slow) as unfinished:
        unfinished.send(post(A_WHILE)[:-1])
        assert slow.request("GET", "/health").status == 200
        assert slow.end(number) == 0
        assert idle.at_end()
        assert unfinished.at_end()
    assert slow.stdout.text.endswith("Stopped\n")
    assert slow.stderr.text == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered(slow: ServerProcess, number: int) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(slow)) for _ in range(3)]
        for client in clients:
            start_run(slow, client, A_WHILE)
        # The fourth thread responds: the other three have what was sent before.
        assert slow.request("GET", "/health").status == 200
        slow.process.send_signal(number)
        for client in clients:
            response = client.read()
            assert response.status == 200
            assert response.json == {"sum": 128.0}
    assert slow.wait() == 0
    assert slow.stdout.text.endswith("Stopped\n")
    assert slow.stderr.text == ""


def test_while_it_drains_nothing_new_is_taken(slow: ServerProcess) -> None:
    with Client(slow) as running, Client(slow) as kept:
        kept.send(post(b'{"steps": 1}'))
        assert kept.read().status == 200
        start_run(slow, running, ENDLESS)
        slow.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not slow.listens(), "connections are refused")
        kept.send(post(b'{"steps": 1}'), b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        rejected = kept.read()
        assert rejected.status == 503
        assert rejected.headers["Content-Type"] == "application/json"
        assert int(rejected.headers["Retry-After"]) > 0
        assert rejected.detail
        health = kept.read()
        assert health.status == 503
        assert health.json == {"status": "draining", "model": "slow"}
        slow.kill()


def test_a_request_that_waits_for_a_thread_is_answered(model_file: Find) -> None:
    with (
        serve(model_file("slow"), "--threads", "1") as server,
        Client(server) as running,
        Client(server) as waiting,
    ):
        start_run(server, running, A_WHILE)
        waiting.send(post(b'{"steps": 1}'))
        server.process.send_signal(signal.SIGTERM)
        assert running.read().status == 200
        response = waiting.read()
        # 200 if the request was read in full before the shutdown began, else 503.
        assert response.status in (200, 503)
        assert server.wait() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(slow: ServerProcess, number: int, second: int) -> None:
    with Client(slow) as client:
        start_run(slow, client, ENDLESS)
        slow.process.send_signal(number)
        wait_until(lambda: not slow.listens(), "connections are refused")
        assert slow.process.poll() is None
        slow.process.send_signal(second)
        # 0 would mean that the drain timeout had passed.
        assert slow.wait() not in (0, None)
        assert client.at_end()


def test_a_port_in_use(slow: ServerProcess, model_file: Find) -> None:
    done = run_gpux("serve", str(model_file("matrix")), "--port", str(slow.port))
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("gpux: ")
    assert str(slow.port) in done.stderr
    assert "in use" in done.stderr
    assert slow.post({"steps": 1}).status == 200
