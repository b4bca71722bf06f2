"""The access log of a running server: one line per response, and no forged lines."""

import json
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gpux.config.settings import cores
from tests.support.servers import (
    ENDLESS,
    JSON_HEADERS,
    PATIENCE_SECONDS,
    QUICK,
    Client,
    Find,
    Serve,
    ServerProcess,
    connect,
    environment,
    head,
    in_flight,
    metric,
    post,
    serve,
    serve_wsgi,
    start_run,
    wait_until,
)

NEW_ID = re.compile(r"[0-9a-f]{32}")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def lines(server: ServerProcess) -> list[str]:
    """Stops the server and returns the lines of its access log."""
    assert server.end() == 0
    *_, output = re.split(r"^Serving .*\n", server.stdout.text, maxsplit=1, flags=re.MULTILINE)
    *found, last = output.splitlines()
    assert last == "Stopped"
    return found


def entries(server: ServerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(server)]


def test_without_being_asked_nothing_is_written(server: Serve) -> None:
    running = server("matrix")
    before = running.stdout.text
    response = running.post(b'{"x": [[1.0]]}', {"X-Request-Id": "mine"})
    assert response.status == 200
    assert "X-Request-Id" not in response.headers
    assert "gpux_unrecorded" not in running.request("GET", "/metrics").body.decode()
    assert running.stdout.text == before


def test_a_line_of_json_has_what_was_measured(model_file: Find) -> None:
    began = datetime.now(UTC)
    with serve(model_file("matrix"), "--access-log", "json") as server:
        body = b'{"x": [[1.0, 2.0], [3.0, 4.0]]}'
        headers = {**JSON_HEADERS, "User-Agent": "caller/1.0"}
        response = server.request("POST", "/predict?secret=1", body, headers)
        timing = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["Server-Timing"]))
        (entry,) = entries(server)
    assert began <= datetime.fromisoformat(entry.pop("time")) <= datetime.now(UTC)
    # The total that the app reports is part of the logged duration.
    assert entry.pop("duration_ms") >= float(timing.pop("total"))
    assert NEW_ID.fullmatch(response.headers["X-Request-Id"])
    assert entry == {
        "request_id": response.headers["X-Request-Id"],
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "bytes_in": len(body),
        "bytes_out": len(response.body),
        "rows": 2,
        "user_agent": "caller/1.0",
        **{f"{stage}_ms": float(ms) for stage, ms in timing.items()},
    }


def test_whoever_answers_there_is_a_line(model_file: Find) -> None:
    """Responses of the app, responses of the server itself, and requests that cannot be parsed."""
    options = ("--access-log", "json", "--max-body", "100", "--max-queue", "0", "--timeout", "2")
    runs = cores()
    with (
        serve(model_file("slow"), *options, "--cors-origins", "https://a.example") as server,
        connect(server, runs) as busy,
        Client(server) as client,
    ):
        for each in busy:
            each.send(post(ENDLESS))
        wait_until(lambda: in_flight(server) == runs, "all cores are busy")
        rejected = server.post(QUICK)  # the queue is full
        # Rejected by its Content-Length.
        too_large = server.post(b" " * 101, {"Origin": "https://a.example"})
        assert "X-Request-Id" in too_large.headers["Access-Control-Expose-Headers"]
        assert rejected.headers["Access-Control-Expose-Headers"] is None
        assert rejected.headers["Retry-After"]
        assert NEW_ID.fullmatch(too_large.headers["X-Request-Id"])
        chunked = ("Transfer-Encoding: chunked", "X-Request-Id: chunks")
        responses = [
            rejected,
            too_large,
            *[each.read() for each in busy],
            client.exchange(head(None, *chunked), b"65\r\n", b" " * 101),
            server.post(QUICK),
            server.post(b"["),
            server.post(b"{}", {"Content-Type": "text/plain"}),
            server.request("GET", "/predict"),
            server.request("GET", "/health/live"),
            server.exchange(b"GET\r\n\r\n"),
        ]
        statuses = {
            status: metric(server, "gpux_requests_total", status=status)
            for status in ("200", "400", "405", "413", "415", "503", "504")
        }
        rejections = metric(server, "gpux_refused_total", reason="queue_full")
        found = [entry for entry in entries(server) if entry.get("path") != "/metrics"]
    by_id = {entry["request_id"]: entry for entry in found}
    assert len(by_id) == len(found) == len(responses)
    for response in responses:
        entry = by_id[response.headers["X-Request-Id"]]
        assert (entry["status"], entry["bytes_out"]) == (response.status, len(response.body))
    assert "bytes_in" not in by_id["chunks"]
    unparsable = by_id[responses[-1].headers["X-Request-Id"]]
    assert unparsable["status"] == 400
    assert "path" not in unparsable
    # Every POST to /predict is counted exactly once.
    once = dict.fromkeys(("200", "400", "415"), 1)
    assert statuses == {**once, "405": 0, "413": 2, "503": 0, "504": runs}
    assert rejections == 1
    sent = sum(entry.get("path") == "/predict" and entry["method"] == "POST" for entry in found)
    assert sum(statuses.values()) + rejections == sent


def test_who_left_before_a_thread_was_free_is_counted(model_file: Find) -> None:
    options = ("--threads", "1", "--timeout", "2")
    with serve(model_file("slow"), *options) as server, connect(server, 3) as clients:
        first, *leavers = clients
        start_run(server, first, post(ENDLESS))
        for client in leavers:
            client.send(post(ENDLESS))
        wait_until(lambda: in_flight(server) == 3, "they wait for it")
        leavers[0].reset()
        leavers[1].close()
        assert first.read().status == 504
        wait_until(lambda: in_flight(server) == 0, "nobody is here")
        left = metric(server, "gpux_requests_total", status="499")
        assert left + metric(server, "gpux_requests_total", status="504") == 3
        assert left >= 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Request-Id": "order-7/2"}, "order-7/2"),
        ({"X-Request-Id": "~" * 128}, "~" * 128),
        ({"X-Request-Id": "~" * 129}, None),
        ({"X-Request-Id": "two words"}, None),
        ({"X-Request-Id": "é"}, None),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "X-Request-Id": "mine"}, "mine"),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"}, None),
        ({"traceparent": TRACE}, None),
    ],
)
def test_the_id_is_the_clients_where_it_is_a_plain_word(
    logging_server: ServerProcess, headers: dict[str, str], expected: str | None
) -> None:
    response = logging_server.request("GET", "/health", headers=headers)
    request_id = response.headers["X-Request-Id"]
    assert request_id == expected if expected else NEW_ID.fullmatch(request_id)
    assert logging_server.stdout.wait_for(rf'"request_id":"{re.escape(request_id)}"')


@pytest.fixture(scope="module")
def logging_server(model_file: Find) -> Any:
    with serve(model_file("matrix"), GPUX_ACCESS_LOG="json") as server:
        yield server


def test_nobody_writes_lines_of_his_own(model_file: Find, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "model.onnx").symlink_to(model_file("matrix"))
    (folder / "gpux.yml").write_text("serving: {access_log: text}")
    with serve(folder) as server:
        response = server.exchange(
            b"GET /a%0Ab%22c%5C%1b[31m%C3%A9 HTTP/1.1\r\nHost: x\r\n",
            b'User-Agent: "\x9b[2J\\\t' + b"u" * 300 + b"\r\nReferer: http://page\r\n\r\n",
        )
        assert response.status == 404
        server.post(b'{"x": [[1.0]]}', {"X-Request-Id": "b"})
        first, second = lines(server)
    stamp = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\]"
    agent = rf'"\\x22\\x9b\[2J\\x5c\\x09{"u" * 193}"'
    request = r'"GET /a\\x0ab\\x22c\\x5c\\x1b\[31m\\xc3\\xa9 HTTP/1\.1"'
    assert re.fullmatch(
        rf'127\.0\.0\.1 - - {stamp} {request} 404 \d+ "http://page" {agent} '
        r'\d+\.\d{6} "[0-9a-f]{32}"',
        first,
    )
    assert re.fullmatch(
        rf'127\.0\.0\.1 - - {stamp} "POST /predict HTTP/1\.1" 200 13 "-" "-" \d+\.\d{{6}} "b"',
        second,
    )


def test_nothing_that_was_answered_is_missing_at_the_end(model_file: Find) -> None:
    with serve(model_file("matrix"), "--access-log", "json") as server, Client(server) as client:
        for number in range(300):
            request = head(14, f"X-Request-Id: {number}") + b'{"x": [[1.0]]}'
            assert client.exchange(request).status == 200
        assert [entry["request_id"] for entry in entries(server)] == [*map(str, range(300))]


def test_a_reader_that_stands_still_stops_nothing(model_file: Find) -> None:
    """A full stdout pipe delays neither responses nor the shutdown."""
    command = [sys.executable, "-m", "gpux", "serve", str(model_file("matrix")), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--access-log", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        pipesize=4096,
    )
    assert process.stdout is not None
    try:
        while not (ready := re.search(rb"Serving .*:(\d+)/", process.stdout.readline())):
            pass
        reached: Any = type("Reached", (), {"port": int(ready[1])})
        with Client(reached) as client:
            for _ in range(200):
                assert client.exchange(post(b'{"x": [[1.0]]}')).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.communicate()


def test_what_failed_names_the_request(model_file: Find) -> None:
    with serve(model_file("table"), "--access-log", "json") as server:
        assert server.post('{"ids": [9]}', {"X-Request-Id": "failing"}).status == 500
        logged = server.stderr.wait_for(r"ERROR gpux\.http\.inference: Inference failed: .*")
        assert logged
        assert logged[0].endswith(" [request failing]")
        (entry,) = entries(server)
    assert (entry["request_id"], entry["status"]) == ("failing", 500)
    assert "run_ms" not in entry


def test_the_log_is_the_same_under_another_server(model_file: Find) -> None:
    variables = {"GPUX_MODEL": str(model_file("matrix")), "GPUX_ACCESS_LOG": "json"}
    with serve_wsgi(variables) as server:
        server.post(b'{"x": [[1.0]]}')
        assert server.stdout.wait_for(r'"status":200,"bytes_in":14,"bytes_out":13,.*"rows":1')
        server.kill()
