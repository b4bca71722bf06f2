"""Server startup: responses while loading, the warm-up, and shutdown during either."""

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.support.onnx_models import catalogue, write_folder
from tests.support.servers import (
    Client,
    Find,
    Serve,
    failed_start,
    metric,
    post,
    run_program,
    serve,
    start,
    start_error,
    wait_until,
)


def write_recorded(folder: Path, body: object) -> Path:
    """Writes a request body to a file: text as it is, any other value as JSON."""
    file = folder / "request.json"
    file.write_text(body if isinstance(body, str) else json.dumps(body))
    return file


def test_what_is_answered_while_the_model_loads(model_file: Find) -> None:
    loading = {"status": "loading", "model": "slow_to_load"}
    with start(model_file("slow_to_load")) as server:
        for path, status in (("/health", 503), ("/health/ready", 503), ("/health/live", 200)):
            response = server.request("GET", path)
            assert (response.status, response.json) == (status, loading)
        with Client(server) as client:  # its connection stays open
            for number in range(1, 3):
                rejected = client.exchange(post(b"{}"))
                assert rejected.error(503) == "The server is loading its model"
                assert int(rejected.headers["Retry-After"]) > 0
                assert metric(server, "gpux_refused_total", reason="loading") == number
        info = server.request("GET", "/info")
        assert info.error(503) == "The server is loading its model"
        assert metric(server, "gpux_model_loads_total") == 0
        assert server.stdout.text == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_does_not_wait_for_the_model(model_file: Find, number: int) -> None:
    """ONNX Runtime cannot be interrupted; loading would take longer than any test waits."""
    with start(model_file("slow_to_load")) as server, Client(server) as idle:
        assert server.request("GET", "/health/live").json["status"] == "loading"
        assert server.end(number) == 0
        assert idle.at_end()
    assert server.stdout.text == "Stopped\n"
    assert server.stderr.text == ""


def test_a_port_in_use_is_told_before_the_model_is_loaded(model_file: Find) -> None:
    with start(model_file("slow_to_load")) as server:
        line = failed_start("serve", str(model_file("slow_to_load")), "--port", str(server.port))
        assert line == (
            f"gpux: cannot listen on 127.0.0.1 port {server.port}: Address already in use"
        )
        assert server.request("GET", "/health/live").json["status"] == "loading"


def test_a_model_that_was_loaded_is_counted(server: Serve) -> None:
    assert metric(server("matrix"), "gpux_model_loads_total") == 1
    for stage in ("load", "warmup"):
        assert metric(server("matrix"), "gpux_model_load_seconds", stage=stage) > 0


# The warm-up.


def test_a_server_is_ready_after_its_warm_up(model_file: Find, tmp_path: Path) -> None:
    recorded = write_recorded(tmp_path, {"steps": 50000})  # about two seconds
    with start(model_file("slow"), "--warmup", str(recorded)) as server:
        health = server.request("GET", "/health")
        assert (health.status, health.json["status"]) == (503, "loading")
        wait_until(lambda: server.request("GET", "/health").status == 200, "it is ready")
        assert server.stdout.wait_for("Serving   http://")
        assert metric(server, "gpux_model_load_seconds", stage="warmup") > 0.1
        assert metric(server, "gpux_requests_total") == 0, "nobody asked for the warm-up"
        assert server.predict({"steps": 1}) == {"sum": 128.0}
    assert server.stderr.text == ""


def test_the_end_does_not_wait_for_the_warm_up(model_file: Find, tmp_path: Path) -> None:
    recorded = write_recorded(tmp_path, {"steps": 10**9})
    with start(model_file("slow"), "--warmup", str(recorded)) as server:
        computed = server.cpu_seconds()
        wait_until(lambda: server.cpu_seconds() > computed + 1, "the model runs")
        assert server.request("GET", "/health").json["status"] == "loading"
        assert server.end() == 0
    assert (server.stdout.text, server.stderr.text) == ("Stopped\n", "")


@pytest.mark.parametrize(
    ("model", "body", "options", "said"),
    [
        ("matrix", '{"x": [1,', (), "Invalid JSON at byte 9: "),
        ("matrix", {"y": [1]}, (), "Unknown input: 'y'; the model's inputs are 'x'"),
        ("matrix", {}, (), "Missing required input: 'x'"),
        ("table", {"ids": [[9]]}, (), "Inference failed: "),
        ("slow", {"steps": 10**9}, ("--timeout", "0.5"), "longer than the limit of 0.5 seconds"),
    ],
    ids=["no JSON", "another input", "no input", "a run that fails", "a run that takes too long"],
)
def test_a_recorded_request_that_fails_ends_the_start(
    model_file: Find, tmp_path: Path, model: str, body: object, options: tuple[str, ...], said: str
) -> None:
    recorded = write_recorded(tmp_path, body)
    arguments = ("--port", "0", "--warmup", str(recorded), *options)
    line = failed_start("serve", str(model_file(model)), *arguments)
    assert line.startswith(f"gpux: {recorded}: ")
    assert said in line


def test_under_another_server_too_it_ends_the_start(model_file: Find, tmp_path: Path) -> None:
    recorded = write_recorded(tmp_path, {})
    variables = {"GPUX_MODEL": str(model_file("matrix")), "GPUX_WARMUP": str(recorded)}
    done = run_program(sys.executable, "-c", "from gpux.wsgi import app", variables=variables)
    line = start_error(done.returncode, done.stdout, done.stderr)
    assert line == f"gpux: {recorded}: Missing required input: 'x'"


def test_a_recorded_request_that_is_not_there(model_file: Find, tmp_path: Path) -> None:
    missing = tmp_path / "missing.json"
    options = ("--port", "0", "--warmup", str(missing))
    line = failed_start("serve", str(model_file("matrix")), *options)
    assert line == f"gpux: --warmup: no such file: {missing}"
    folder = write_folder(tmp_path / "folder", "matrix", "serving: {warmup: none.json}")
    line = failed_start("serve", str(folder), "--port", "0")
    error = f"serving.warmup: no such file: {folder / 'none.json'}"
    assert line == f"gpux: {folder / 'gpux.yml'}: {error}"


def test_recorded_rows_show_that_a_model_can_be_batched(tmp_path: Path) -> None:
    """A model that rejects all generated rows."""
    (tmp_path / "model.onnx").write_bytes(catalogue().SerializeToString())
    (tmp_path / "gpux.yml").write_text("serving: {warmup: request.json}")
    write_recorded(tmp_path, {"ids": [[100, 103], [102, 101]]})
    with serve(tmp_path) as server:
        assert "Batching  on: up to 32 rows" in server.stdout.text
        assert server.predict({"ids": [101]}) == {"embedding": [[2.0, 3.0]]}
    write_recorded(tmp_path, {"ids": [[100, 103]] * 2})
    with serve(tmp_path) as server:
        assert "Batching  off: no generated rows could be run: " in server.stdout.text
        assert server.stderr.text == ""


@pytest.mark.parametrize("name", ["distinct", "normalized"])
def test_recorded_rows_show_that_a_model_cannot_be_batched(
    model_file: Find, tmp_path: Path, name: str
) -> None:
    recorded = write_recorded(tmp_path, {"x": [[1, 2], [3, 5]]})
    with serve(model_file(name), "--warmup", str(recorded)) as server:
        assert "Batching  off: " in server.stdout.text
