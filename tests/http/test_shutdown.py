"""Server shutdown: signals and requests in flight; also ports already in use."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.servers import (
    A_WHILE,
    ENDLESS,
    QUICK,
    Client,
    Find,
    ServerProcess,
    connect,
    failed_start,
    post,
    serve,
    start_run,
    wait_until,
)


@pytest.fixture
def slow(model_file: Find) -> Iterator[ServerProcess]:
    """A server whose model runs for the requested number of steps."""
    with serve(model_file("slow")) as server:
        yield server


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
    with connect(slow, 3) as clients:
        for client in clients:
            start_run(slow, client, post(A_WHILE))
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
        assert kept.exchange(post(QUICK)).status == 200
        start_run(slow, running, post(ENDLESS))
        slow.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not slow.listens(), "connections are refused")
        assert kept.at_end()
        slow.kill()


def test_a_delay_lets_others_notice(model_file: Find) -> None:
    """Requests are served, with the last response of their connection; readiness is not."""
    with serve(model_file("slow"), "--drain-delay", "3") as server:
        with Client(server) as kept, Client(server) as probe, ExitStack() as stack:
            assert kept.exchange(post(QUICK)).headers["Connection"] is None
            server.process.send_signal(signal.SIGTERM)
            get = b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
            wait_until(
                lambda: server.request("GET", "/health/ready").status == 503, "it is not ready"
            )
            health = probe.exchange(get)
            assert health.status == 503
            assert health.json == {"status": "draining", "model": "slow"}
            for client in (kept, stack.enter_context(Client(server))):
                response = client.exchange(post(QUICK))
                assert (response.status, response.headers["Connection"]) == (200, "close")
                assert client.at_end()
        assert server.wait() == 0


def test_a_request_that_waits_for_a_thread_is_answered(model_file: Find) -> None:
    with (
        serve(model_file("slow"), "--threads", "1") as server,
        Client(server) as running,
        Client(server) as waiting,
    ):
        start_run(server, running, post(A_WHILE))
        waiting.send(post(QUICK))
        server.process.send_signal(signal.SIGTERM)
        assert running.read().status == 200
        # 200 if the request was read in full before the shutdown began, else 503.
        assert waiting.read().status in (200, 503)
        assert server.wait() == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(slow: ServerProcess, number: int, second: int) -> None:
    with Client(slow) as client:
        start_run(slow, client, post(ENDLESS))
        slow.process.send_signal(number)
        wait_until(lambda: not slow.listens(), "connections are refused")
        assert slow.process.poll() is None
        slow.process.send_signal(second)
        # 0 would mean that the drain timeout had passed.
        assert slow.wait() not in (0, None)
        assert client.at_end()


def test_a_port_in_use(slow: ServerProcess, model_file: Find) -> None:
    line = failed_start("serve", str(model_file("matrix")), "--port", str(slow.port))
    assert str(slow.port) in line
    assert "in use" in line
    assert slow.post({"steps": 1}).status == 200
