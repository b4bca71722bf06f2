"""How a server starts: what it answers while its model loads, and how it ends meanwhile."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import Client, ServerProcess, figure, post, run_gpux, start

Find = Callable[[str], Path]


def test_what_is_answered_while_the_model_loads(model_file: Find) -> None:
    loading = {"status": "loading", "model": "slow_to_load"}
    with start(model_file("slow_to_load")) as server:
        for path, status in (("/health", 503), ("/health/ready", 503), ("/health/live", 200)):
            answer = server.request("GET", path)
            assert (answer.status, answer.json) == (status, loading)
        with Client(server) as client:  # whose connection stays
            for number in range(1, 3):
                client.send(post(b"{}"))
                refused = client.read()
                assert refused.status == 503
                assert int(refused.headers["Retry-After"]) > 0
                assert refused.detail == "The server is loading its model"
                assert figure(server, "gpux_refused_total", reason="loading") == number
        info = server.request("GET", "/info")
        assert (info.status, info.detail) == (503, "The server is loading its model")
        assert figure(server, "gpux_model_loads_total") == 0
        assert server.stdout.text == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_does_not_wait_for_the_model(model_file: Find, number: int) -> None:
    """ONNX Runtime cannot be interrupted; it would go on for longer than any test waits."""
    with start(model_file("slow_to_load")) as server, Client(server) as idle:
        assert server.request("GET", "/health/live").json["status"] == "loading"
        assert server.end(number) == 0
        assert idle.at_end()
    assert server.stdout.text == "Stopped\n"
    assert server.stderr.text == ""


def test_a_port_in_use_is_told_before_the_model_is_loaded(model_file: Find) -> None:
    with start(model_file("slow_to_load")) as server:
        port = str(server.port)
        done = run_gpux("serve", str(model_file("slow_to_load")), "--port", port)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"gpux: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
        )
        assert server.request("GET", "/health/live").json["status"] == "loading"


def test_a_model_that_was_loaded_is_counted(server: Callable[[str], ServerProcess]) -> None:
    assert figure(server("matrix"), "gpux_model_loads_total") == 1
    assert figure(server("matrix"), "gpux_model_load_seconds", stage="load") > 0
    assert figure(server("matrix"), "gpux_model_load_seconds", stage="warmup") > 0
