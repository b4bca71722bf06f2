"""The access log of a server: a line for each answer, whoever gives it, and none is made up."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gpux.config.settings import cores
from tests.support.servers import (
    JSON_HEADERS,
    PATIENCE_SECONDS,
    Client,
    ServerProcess,
    environment,
    figure,
    head,
    post,
    serve,
    wait_until,
)

Find = Callable[[str], Path]

NEW_ID = re.compile(r"[0-9a-f]{32}")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
FOR_EVER = b'{"steps": 100000000}'


def lines(server: ServerProcess) -> list[str]:
    """What the log has, once the server has ended."""
    assert server.end() == 0
    *_, said = re.split(r"^Serving .*\n", server.stdout.text, maxsplit=1, flags=re.MULTILINE)
    *found, last = said.splitlines()
    assert last == "Stopped"
    return found


def entries(server: ServerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(server)]


def test_without_being_asked_nothing_is_written(server: Callable[[str], ServerProcess]) -> None:
    running = server("matrix")
    before = running.stdout.text
    headers = {**JSON_HEADERS, "X-Request-Id": "mine"}
    answer = running.request("POST", "/predict", b'{"x": [[1.0]]}', headers)
    assert answer.status == 200
    assert "X-Request-Id" not in answer.headers
    assert "gpux_unrecorded" not in running.request("GET", "/metrics").body.decode()
    assert running.stdout.text == before


def test_a_line_of_json_has_what_was_measured(model_file: Find) -> None:
    began = datetime.now(UTC)
    with serve(model_file("matrix"), "--access-log", "json") as server:
        body = b'{"x": [[1.0, 2.0], [3.0, 4.0]]}'
        headers = {**JSON_HEADERS, "User-Agent": "caller/1.0"}
        answer = server.request("POST", "/predict?secret=1", body, headers)
        timing = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["Server-Timing"]))
        (entry,) = entries(server)
    assert began <= datetime.fromisoformat(entry.pop("time")) <= datetime.now(UTC)
    # Of the whole, the app's own is a part.
    assert entry.pop("duration_ms") >= float(timing.pop("total"))
    assert NEW_ID.fullmatch(answer.headers["X-Request-Id"])
    assert entry == {
        "request_id": answer.headers["X-Request-Id"],
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "bytes_in": len(body),
        "bytes_out": len(answer.body),
        "rows": 2,
        "user_agent": "caller/1.0",
        **{f"{stage}_ms": float(taken) for stage, taken in timing.items()},
    }


def test_whoever_answers_there_is_a_line(model_file: Find) -> None:
    """What the app answers, what the server answers before it, and what cannot even be read."""
    options = ("--access-log", "json", "--max-body", "100", "--max-queue", "0", "--timeout", "2")
    with (
        serve(model_file("slow"), *options, "--cors-origins", "https://a.example") as server,
        Client(server) as client,
    ):
        runs = cores()
        busy = [Client(server) for _ in range(runs)]
        for each in busy:
            each.send(post(FOR_EVER))
        wait_until(lambda: figure(server, "gpux_in_flight_requests") == runs, "all cores are busy")
        got = [
            server.post(b'{"steps": 1}'),  # too many
            # By its declared length.
            server.request(
                "POST", "/predict", b" " * 101, {**JSON_HEADERS, "Origin": "https://a.example"}
            ),
        ]
        refused, too_large = got
        assert "X-Request-Id" in too_large.headers["Access-Control-Expose-Headers"]
        assert refused.headers["Access-Control-Expose-Headers"] is None
        assert refused.headers["Retry-After"]
        assert NEW_ID.fullmatch(too_large.headers["X-Request-Id"])
        chunked = ("Transfer-Encoding: chunked", "X-Request-Id: chunks")
        client.send(head(None, *chunked), b"65\r\n", b" " * 101)
        got.append(client.read())
        got += [each.read() for each in busy]
        for each in busy:
            each.close()
        got.append(server.post(b'{"steps": 1}'))
        got.append(server.post(b"["))
        got.append(server.request("POST", "/predict", b"{}", {"Content-Type": "text/plain"}))
        got.append(server.request("GET", "/predict"))
        got.append(server.request("GET", "/health/live"))
        with Client(server) as unreadable:
            unreadable.send(b"GET\r\n\r\n")
            got.append(unreadable.read())
        statuses = {
            status: figure(server, "gpux_requests_total", status=status)
            for status in ("200", "400", "405", "413", "415", "503", "504")
        }
        refusals = figure(server, "gpux_refused_total", reason="queue_full")
        found = [entry for entry in entries(server) if entry.get("path") != "/metrics"]
    by_id = {entry["request_id"]: entry for entry in found}
    assert len(by_id) == len(found) == len(got)
    for answer in got:
        entry = by_id[answer.headers["X-Request-Id"]]
        assert (entry["status"], entry["bytes_out"]) == (answer.status, len(answer.body))
    assert by_id["chunks"]["bytes_in"] >= 101
    unread = by_id[got[-1].headers["X-Request-Id"]]
    assert unread["status"] == 400
    assert "path" not in unread
    # Every POST to /predict is counted exactly once.
    once = dict.fromkeys(("200", "400", "415"), 1)
    assert statuses == {**once, "405": 0, "413": 2, "503": 0, "504": runs}
    assert refusals == 1
    sent = sum(entry.get("path") == "/predict" and entry["method"] == "POST" for entry in found)
    assert sum(statuses.values()) + refusals == sent


def test_who_left_before_a_thread_was_free_is_counted(model_file: Find) -> None:
    options = ("--threads", "1", "--timeout", "2")
    with serve(model_file("slow"), *options) as server, Client(server) as first:
        first.send(post(FOR_EVER))
        wait_until(lambda: figure(server, "gpux_in_flight_requests") == 1, "the thread is busy")
        leavers = [Client(server), Client(server)]
        for client in leavers:
            client.send(post(FOR_EVER))
        wait_until(lambda: figure(server, "gpux_in_flight_requests") == 3, "they wait for it")
        leavers[0].reset()
        leavers[1].close()
        assert first.read().status == 504
        wait_until(lambda: figure(server, "gpux_in_flight_requests") == 0, "nobody is here")
        counted = [
            figure(server, "gpux_requests_total", status=status) for status in ("499", "504")
        ]
        assert sum(counted) == 3
        assert counted[0] >= 1


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
    answer = logging_server.request("GET", "/health", headers=headers)
    told = answer.headers["X-Request-Id"]
    assert told == expected if expected else NEW_ID.fullmatch(told)
    assert logging_server.stdout.wait_for(rf'"request_id":"{re.escape(told)}"')


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
        with Client(server) as client:
            client.send(
                b"GET /a%0Ab%22c%5C%1b[31m%C3%A9 HTTP/1.1\r\nHost: x\r\n",
                b'User-Agent: "\x9b[2J\\\t' + b"u" * 300 + b"\r\nReferer: http://page\r\n\r\n",
            )
            assert client.read().status == 404
        server.request("POST", "/predict", b'{"x": [[1.0]]}', {**JSON_HEADERS, "X-Request-Id": "b"})
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
            client.send(head(14, f"X-Request-Id: {number}"), b'{"x": [[1.0]]}')
            assert client.read().status == 200
        assert [entry["request_id"] for entry in entries(server)] == [*map(str, range(300))]


def test_a_reader_that_stands_still_stops_nothing(model_file: Find) -> None:
    """Neither answers nor the end, although standard output takes no more."""
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
        while not (said := re.search(rb"Serving .*:(\d+)/", process.stdout.readline())):
            pass
        reached: Any = type("Reached", (), {"port": int(said[1])})
        with Client(reached) as client:
            for _ in range(200):
                client.send(post(b'{"x": [[1.0]]}'))
                assert client.read().status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.communicate()


def test_what_failed_names_the_request(model_file: Find) -> None:
    with serve(model_file("table"), "--access-log", "json") as server:
        headers = {**JSON_HEADERS, "X-Request-Id": "failing"}
        assert server.request("POST", "/predict", '{"ids": [9]}', headers).status == 500
        said = server.stderr.wait_for(r"ERROR gpux\.engine: Inference failed: .*")
        assert said
        assert said[0].endswith(" [request failing]")
        (entry,) = entries(server)
    assert (entry["request_id"], entry["status"]) == ("failing", 500)
    assert "run_ms" not in entry


def test_the_log_is_the_same_under_another_server(model_file: Find) -> None:
    command = [str(Path(sys.executable).parent / "waitress-serve"), "--port=0", "gpux.wsgi:app"]
    variables = {"GPUX_MODEL": str(model_file("matrix")), "GPUX_ACCESS_LOG": "json"}
    with ServerProcess(command, r"http://\S+:(\d+)", variables, "stderr") as server:
        server.request("POST", "/predict", b'{"x": [[1.0]]}', JSON_HEADERS)
        assert server.stdout.wait_for(r'"status":200,"bytes_in":14,"bytes_out":13,.*"rows":1')
        os.kill(server.process.pid, signal.SIGKILL)
        server.wait()
