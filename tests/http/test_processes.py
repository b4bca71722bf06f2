"""`gpux serve --workers 2`: a supervisor and its worker processes."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from gpux.config.settings import cores
from tests.support.servers import (
    ENDLESS,
    QUICK,
    Client,
    Find,
    ServerProcess,
    connect,
    failed_start,
    head,
    in_flight,
    metric,
    post,
    serve,
    wait_until,
)


@pytest.fixture
def two(model_file: Find) -> Iterator[ServerProcess]:
    """A server with two workers; leaves no process behind."""
    with serve(model_file("slow"), "--workers", "2") as server:
        workers = server.workers()
        yield server
    wait_until(lambda: not any(map(runs, workers)), "all of it has ended")


def runs(process: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def has(worker: int, client: Client) -> bool:
    """Whether this worker has the connection of a client."""
    port = client.socket.getsockname()[1]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[9]}]" for row in rows if int(row[2].rpartition(":")[2], 16) == port}
    for entry in Path(f"/proc/{worker}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            if str(entry.readlink()) in inodes:
                return True
    return False


def test_all_workers_answer_and_their_figures_add_up(two: ServerProcess) -> None:
    first, second = two.workers()
    with connect(two, 40) as clients:
        for client in clients:
            for _ in range(5):
                assert client.exchange(post(QUICK)).status == 200
        counts = [sum(has(worker, client) for client in clients) for worker in (first, second)]
    assert sum(counts) == 40
    assert min(counts) > 0
    for _ in range(10):  # whichever worker responds
        assert metric(two, "gpux_requests_total", status="200") == 200
        assert metric(two, "gpux_batch_rows_count") == 200
        assert metric(two, "gpux_model_loads_total") == 2
    assert metric(two, "process_cpu_seconds_total") > 0


def test_a_worker_that_is_killed_takes_only_its_connections_along(two: ServerProcess) -> None:
    """Under load: no request of the other fails, a new worker starts, and no count is lost."""
    victim, other = two.workers()
    stop = threading.Event()
    received = [0] * 8

    def send(number: int) -> int:
        """Sends requests on new connections; returns how many broke, none of them the other's."""
        broken = 0
        while not stop.is_set():
            is_others = False
            try:
                with Client(two) as client:
                    for _ in range(20):
                        assert client.exchange(post(QUICK)).status == 200
                        received[number] += 1
                        is_others = is_others or has(other, client)
            except (ConnectionError, AssertionError):
                assert not is_others
                broken += 1
        return broken

    with ThreadPoolExecutor(8) as pool:
        tasks = [pool.submit(send, number) for number in range(8)]
        wait_until(lambda: sum(received) > 200, "requests are answered")
        os.kill(victim, signal.SIGKILL)
        before = sum(received)
        wait_until(lambda: sum(received) > before + 200, "the others go on")
        wait_until(lambda: len(set(two.workers()) - {victim}) == 2, "a new one comes")
        stop.set()
        broken = sum(task.result() for task in tasks)
    wait_until(lambda: metric(two, "gpux_model_loads_total") == 3, "it has loaded the model")
    # Requests may have been counted whose response was not read.
    assert 0 <= metric(two, "gpux_requests_total", status="200") - sum(received) <= broken
    assert "worker" in two.stderr.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end(two: ServerProcess, number: int) -> None:
    """Each worker completes its requests in flight; idle connections are closed."""
    with connect(two, 4) as clients, Client(two) as idle, Client(two) as unfinished:
        unfinished.send(post(QUICK)[:-1])
        for client in clients:
            client.send(post(b'{"steps": 5000}'))
        wait_until(lambda: in_flight(two) == 4, "all are counted in")
        two.process.send_signal(number)
        assert [client.read().status for client in clients] == [200] * 4
        assert idle.at_end()
        assert not unfinished.stream.readline().startswith(b"HTTP/1.1 200")
        assert two.wait() == 0
    assert two.stdout.text.endswith("Stopped\n")
    assert two.stderr.text == ""


def test_a_second_signal_ends_all_at_once(two: ServerProcess) -> None:
    with Client(two) as client:
        client.send(post(ENDLESS))
        wait_until(lambda: in_flight(two) == 1, "it runs")
        two.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not two.listens(), "connections are refused")
        two.process.send_signal(signal.SIGTERM)
        assert two.wait() == -signal.SIGTERM
        assert client.at_end()


def test_workers_do_not_outlive_their_master(two: ServerProcess) -> None:
    workers = two.workers()
    two.kill()
    wait_until(lambda: not any(map(runs, workers)), "they end")


def test_slow_senders_do_not_stop_others(model_file: Find) -> None:
    with serve(model_file("slow")) as server, connect(server, 200) as slow:
        for client in slow:
            client.send(post(QUICK)[:-1])
        assert server.post(QUICK).status == 200
        for client in slow:
            client.send(QUICK[-1:])
        assert [client.read().status for client in slow] == [200] * 200


def test_too_many_are_refused_while_all_runs_are_busy(model_file: Find) -> None:
    options = ("--max-queue", "2", "--batching", "off", "--drain-timeout", "0.1")
    capacity = 2 + cores()
    with serve(model_file("slow"), *options) as server, connect(server, capacity + 1) as clients:
        client, *busy = clients
        for each in busy:
            each.send(post(ENDLESS))
        wait_until(lambda: in_flight(server) == capacity, "they are counted in")
        for _ in range(3):
            rejected = client.exchange(post(QUICK))
            assert rejected.error(503)
            assert int(rejected.headers["Retry-After"]) > 0
        assert server.request("GET", "/health").status == 200
        assert metric(server, "gpux_refused_total", reason="queue_full") == 3
        server.kill()


def test_a_refused_body_is_discarded_so_that_its_client_reads_the_answer(model_file: Find) -> None:
    with serve(model_file("slow"), "--max-body", "1MB") as server:
        assert server.post(b" " * 30_000_000).status == 413
        with Client(server) as client:
            assert client.exchange(head(1_000_001, "Expect: 100-continue")).status == 413
            assert client.at_end()
        chunks = (b"7fffffff\r\n", b" " * 1_000_001)
        assert server.exchange(head(None, "Transfer-Encoding: chunked"), *chunks).status == 413


def test_a_head_without_end_is_refused(two: ServerProcess) -> None:
    response = two.exchange(b"GET /health HTTP/1.1\r\nA: " + b"x" * 2**21 + b"\r\n\r\n")
    assert response.status in (400, 431)
    assert two.post(QUICK).status == 200


# Startup.


@pytest.mark.parametrize(("name", "content"), [("nonsense.onnx", b"nonsense"), ("empty.onnx", b"")])
def test_a_model_that_cannot_be_loaded(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    line = failed_start("serve", str(tmp_path / name), "--workers", "2", "--port", "0")
    assert line.startswith(f"gpux: {tmp_path / name}")


def test_a_port_in_use(two: ServerProcess, model_file: Find) -> None:
    line = failed_start("serve", str(model_file("matrix")), "--port", str(two.port))
    assert line == f"gpux: cannot listen on 127.0.0.1 port {two.port}: Address already in use"
    assert two.post(QUICK).status == 200
