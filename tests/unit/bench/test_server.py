"""bench/run.py server: parsing, verdicts, charts, processes, and real load."""

import json
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import load
import numpy
import onnxruntime
import pytest
import run
import server
from answers import MismatchError, check_text, check_v2_text
from cases import CASES
from contenders import CONTENDERS, Client, Server
from load import Load
from processes import ProcessTree, started
from report import CannotMeasureError, Report
from server import _Contestant
from server_table import PROMISES, tables, verdict

pytestmark = pytest.mark.full

ANSWER = b'{"y": [[0.5]]}'


# Load.


def summarize(values: dict[str, int], connections: int = 1, window_bytes: int = 0) -> Load:
    line = {"requests": 0, "bytes": 0, "p50_us": 0, "p99_us": 0}
    line |= {"refused": 0, "socket_errors": 0, "timeouts": 0}
    output = f"Running 10m test\n  1 threads\nLOAD {json.dumps(line | values)}\n"
    return load.summarize(output, connections, window_bytes, 2.0)


def test_what_wrk_read_in_the_window_is_the_rate() -> None:
    found = summarize(
        {"requests": 100, "bytes": 20_000, "p50_us": 1500, "p99_us": 20_000},
        connections=8,
        window_bytes=6_000,
    )
    assert found.per_second == 15  # 6,000 bytes are 30 responses, in 2 seconds
    assert (found.p50_ms, found.p99_ms) == (1.5, 20)
    assert (found.requests, found.errors) == (100, 0)


def test_refusals_are_not_counted_as_answers() -> None:
    values = {"requests": 100, "bytes": 10_000, "refused": 25, "socket_errors": 2, "timeouts": 1}
    found = summarize(values, window_bytes=800)
    assert found.per_second == 3
    assert (found.refused, found.socket_errors, found.timeouts) == (25, 2, 1)
    assert found.errors == 28


def test_with_few_answers_nothing_is_said_of_how_long_they_take() -> None:
    found = summarize({"requests": 7, "bytes": 700, "p50_us": 9, "p99_us": 9}, connections=8)
    assert (found.p50_ms, found.p99_ms) == (None, None)
    nothing = summarize({})
    assert (nothing.per_second, nothing.p50_ms) == (0, None)


def test_without_a_result_wrk_has_failed() -> None:
    with pytest.raises(CannotMeasureError, match="unable to connect"):
        load.summarize("unable to connect to 127.0.0.1:1\n", 1, 0, 1.0)


def test_without_wrk_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotMeasureError, match="apt-get install wrk"):
        load.wrk()


class _Handler(BaseHTTPRequestHandler):
    """Responds ANSWER to the expected request, and 400 to any other."""

    protocol_version = "HTTP/1.1"
    body = b""
    answered = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_right = body == self.body and self.headers["Content-Type"] == "application/json"
        self.send_response(200 if is_right and self.path == "/predict" else 400)
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)
        type(self).answered += is_right

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@contextmanager
def serving(body: bytes) -> Iterator[tuple[int, type[_Handler]]]:
    handler = type("Handler", (_Handler,), {"body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, handler
        finally:
            server.shutdown()
            thread.join()


def test_real_load(tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_bytes(json.dumps({"x": [0.1] * 100_000}).encode())
    with serving(body.read_bytes()) as (port, handler):
        url = f"http://127.0.0.1:{port}/predict"
        measured = load.put_under_load(url, body, 4, lambda: 0.2)
        assert measured.errors == 0
        assert measured.requests > 0
        assert measured.per_second > 0
        assert handler.answered >= measured.requests
        refused = load.put_under_load(url + "/other", body, 1, lambda: 0.2)
    assert refused.refused == refused.requests > 0
    assert refused.per_second == 0


# Processes.


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits for a condition, at most 60 s: signals are delivered asynchronously."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(600)
"""


def test_a_tree_is_stopped_continued_and_ended_as_a_whole() -> None:
    tree = ProcessTree(subprocess.Popen([sys.executable, "-c", PARENT]))
    wait_for(lambda: len(tree.pids()) == 2)
    parent, child = tree.pids()
    try:
        tree.freeze()
        wait_for(lambda: state(parent) == state(child) == "T")
        tree.resume()
        wait_for(lambda: "T" not in (state(parent), state(child)))
        assert 2**20 < tree.peak_bytes() < 2**30
    finally:
        tree.end()
    assert tree.has_ended
    wait_for(lambda: not Path(f"/proc/{child}").exists() or state(child) == "Z")


def test_what_ends_at_once_is_told_with_its_last_words() -> None:
    command = [sys.executable, "-c", "print('the port is taken'); raise SystemExit(3)"]
    with (
        pytest.raises(CannotMeasureError, match="the port is taken"),
        started(command, {}, lambda: False, 60),
    ):
        pass


# Cases.


@pytest.mark.parametrize("name", ["mlp", "tokens", "tokens32", "image", "wide", "conv"])
def test_the_cases_run_and_both_protocols_ask_the_same(name: str, tmp_path: Path) -> None:
    model, body = CASES[name].write(tmp_path)
    plain = json.loads(body.read_bytes())
    tensors = json.loads(CASES[name].v2_body())["inputs"]
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    types = {"tensor(float)": "float32", "tensor(int64)": "int64"}
    feeds = {
        node.name: numpy.asarray(plain[node.name], types[node.type])
        for node in session.get_inputs()
    }
    assert [tensor["name"] for tensor in tensors] == list(feeds) == list(plain)
    for tensor in tensors:
        feed = feeds[tensor["name"]]
        assert tensor["shape"] == list(feed.shape)
        assert tensor["datatype"] == {"float32": "FP32", "int64": "INT64"}[feed.dtype.name]
        assert numpy.array_equal(numpy.asarray(tensor["data"], feed.dtype), feed.ravel())
    for output in session.run(None, feeds):
        assert numpy.isfinite(output).all()


def test_an_answer_of_the_open_inference_protocol_is_checked_bit_for_bit() -> None:
    right = {"y": numpy.array([[0.1, 0.2], [0.3, 0.4]], numpy.float32)}

    def text(data: list[Any], shape: list[int]) -> bytes:
        return json.dumps({"outputs": [{"name": "y", "shape": shape, "data": data}]}).encode()

    check_v2_text("flat", text([0.1, 0.2, 0.3, 0.4], [2, 2]), right)
    check_v2_text("nested", text([[0.1, 0.2], [0.3, 0.4]], [2, 2]), right)
    with pytest.raises(MismatchError, match="1 of 4"):
        check_v2_text("wrong", text([0.1, 0.2, 0.3, 0.40000005], [2, 2]), right)
    with pytest.raises(MismatchError, match="instead of"):
        check_v2_text("transposed", text([0.1, 0.2, 0.3, 0.4], [4, 1]), right)


def test_floats_may_be_rounded_otherwise_where_that_is_said() -> None:
    right = {"y": numpy.array([[100.0, 0.25]], numpy.float32), "n": numpy.array([[7]])}
    text = b'{"y": [[100.0009, 0.2499]], "n": [[7]]}'
    check_text("rounded", text, right, rounding=1e-5)
    with pytest.raises(MismatchError, match="2 of 2"):
        check_text("exact", text, right)
    with pytest.raises(MismatchError, match="more than"):
        check_text("far", b'{"y": [[100.0, 0.26]], "n": [[7]]}', right, rounding=1e-5)
    with pytest.raises(MismatchError, match="the values differ"):
        check_text("integers", b'{"y": [[100.0, 0.25]], "n": [[8]]}', right, rounding=1e-5)


# The command.


def test_our_own_server_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FOLDER", tmp_path / "cases")
    output = tmp_path / "server.json"
    few = ["--case", "mlp", "--server", "gpux", "--connections", "2", "--rounds", "1"]
    assert run.main(["server", *few, "--seconds", "0.1", "--json", str(output)]) == 0
    report = json.loads(output.read_bytes())
    ours, alone = report["figures"]
    assert (ours["server"], ours["case"], ours["connections"]) == ("gpux", "mlp", 2)
    assert (ours["errors"], ours["differs"], ours["problem"]) == (0, "", "")
    assert ours["requests_per_second"] > 0
    assert ours["peak_mib"] > 10
    assert alone["server"] == "session.run"
    assert report["settings"]["not_measured"] == {}
    assert report["notes"][-1].startswith("All answers looked at")


def test_a_wrong_answer_of_ours_ends_it_and_a_peers_is_kept(tmp_path: Path) -> None:
    def check(text: bytes, rounding: float) -> None:
        assert rounding == 0.0  # nothing ran concurrently
        raise MismatchError(f"wrong: {text!r}")

    body = tmp_path / "body.json"
    body.write_text("{}")
    with serving(b"{}") as (port, _):
        tree = ProcessTree(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        try:
            server = Server(port, "/predict", tree)
            peer = _Contestant(CONTENDERS["fastapi"], server, body, check)
            assert peer.differs == f"wrong: {ANSWER!r}"
            with pytest.raises(MismatchError, match="wrong"):
                _Contestant(CONTENDERS["gpux"], server, body, check)
        finally:
            tree.end()


def test_a_batch_may_change_last_bits_only(tmp_path: Path) -> None:
    accepted = {0.0, 1e-5}

    def check(_: bytes, rounding: float) -> None:
        if rounding not in accepted:
            raise MismatchError("wrong")

    body = tmp_path / "body.json"
    body.write_text("{}")
    with serving(b"{}") as (port, _):
        tree = ProcessTree(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        client = Client("gpux", port)
        try:
            server = Server(port, "/predict", tree)
            ours = _Contestant(CONTENDERS["gpux"], server, body, check)
            ours._right = b"another text"
            accepted.remove(0.0)
            ours._ask(client)
            assert ours.has_other_last_bits
            assert ours.differs == ""
            accepted.clear()
            with pytest.raises(MismatchError, match="wrong"):
                ours._ask(client)
        finally:
            client.close()
            tree.end()


# The report.


def figure(case: str, server: str, rate: float | None, **others: Any) -> dict[str, Any]:
    kinds = {"gpux": "ours", "gpux-granian": "ours", "kibae": "peer"}
    return {
        "case": case,
        "server": server,
        "kind": kinds.get(server, "python peer"),
        "connections": 8,
        "requests_per_second": rate,
        "p50_ms": 1.234,
        "p99_ms": None,
        "errors": 0,
        "peak_mib": 100.0,
        "differs": "",
        "has_other_last_bits": False,
        "problem": "",
    } | others


def alone(case: str) -> dict[str, Any]:
    return figure(case, "session.run", 5000.0, kind="limit", connections=None)


def lines(figures: list[dict[str, Any]], first: str) -> list[list[str]]:
    """The rows of the table that starts with `first`, split at whitespace."""
    parts = tables(figures).split("\n\n")
    part = next(part for part in parts if part.startswith(first))
    return [line.split() for line in part.splitlines()[2:]]


def test_promises_are_measured_against_the_best_peer() -> None:
    figures = [
        figure("image", "gpux", 200.0, peak_mib=150.0),
        figure("image", "gpux-granian", 250.0, peak_mib=90.0),
        figure("image", "fastapi", 8.0),
        figure("image", "mlserver", 25.0),
        alone("image"),
    ]
    assert lines(figures, "promised") == [
        ["image", "gpux", "of", "all:", "mlserver", "8.00x", "≥", "7x", "≥", "12x", "reached"],
        [
            *("image", "gpux-granian", "of", "all:", "mlserver"),
            *("10.00x", "≥", "9x", "≥", "12x", "reached"),
        ],
        ["image,", "peak", "memory", "gpux", "fastapi", "1.50x", "≤", "1x", "MISSED"],
        ["image,", "peak", "memory", "gpux-granian", "fastapi", "0.90x", "≤", "1x", "reached"],
    ]


def test_who_answers_nothing_keeps_no_promise() -> None:
    figures = [
        figure("image", "gpux", None, peak_mib=0.0),
        figure("image", "fastapi", 8.0),
        alone("image"),
    ]
    (only,) = lines(figures, "promised")
    assert only[5] == "0.00x"
    assert only[-1] == "MISSED"


def test_some_promises_are_about_peers_in_python_only() -> None:
    figures = [
        figure("mlp", "gpux", 2000.0),
        figure("mlp", "gpux-granian", 6000.0),
        figure("mlp", "fastapi", 1000.0),
        figure("mlp", "kibae", 6000.0),
        alone("mlp"),
    ]
    python, all_of_them = lines(figures, "promised")
    assert python[2:6] == ["in", "Python:", "fastapi", "2.00x"]
    assert python[-1] == "reached"
    assert all_of_them[2:6] == ["of", "all:", "kibae", "1.00x"]
    assert all_of_them[-1] == "MISSED"  # a tie is not ahead


def test_an_aim_is_told_when_it_is_reached() -> None:
    promise = next(each for each in PROMISES if (each.case, each.server) == ("conv", "gpux"))
    assert [verdict(got, promise) for got in (4.4, 4.5, 6.0)] == [
        "MISSED",
        "reached",
        "aim reached",
    ]


def test_every_case_is_promised_for_both_servers() -> None:
    assert {promise.case for promise in PROMISES} == set(CASES)
    assert len(PROMISES) == 2 * len(CASES)


def test_the_tables_show_what_was_not_measured_and_what_differs() -> None:
    figures = [
        figure("wide", "gpux", 1234.0),
        figure("wide", "ray", None, p50_ms=None, errors=3),
        figure("wide", "triton", 12.345, differs="y: 1 of 4 elements differ"),
        figure("wide", "gpux-granian", 1000.0, has_other_last_bits=True),
        alone("wide"),
    ]
    assert lines(figures, "requests/s, 8 connections") == [
        ["wide", "1,234", "-", "12.3", "1,000", "5,000"]
    ]
    assert lines(figures, "case") == [
        ["wide", "8", "gpux", "1,234", "99.96x", "1.23", "-", "0", "100"],
        ["ray", "-", "-", "-", "3", "100"],
        ["triton", "12.3", "1.00x", "1.23", "-", "0", "100", "WRONG"],
        [*("gpux-granian", "1,000", "81.00x", "1.23", "-", "0", "100"), *("other", "last", "bits")],
    ]


def test_without_peers_nothing_is_promised() -> None:
    text = tables([figure("mlp", "gpux", 2000.0, connections=4), alone("mlp")])
    assert "promised" not in text
    assert text.startswith("requests/s, 4 connections")


def test_the_chart_has_every_server_and_how_far_ours_is_ahead(tmp_path: Path) -> None:
    from server_chart import draw

    figures = [
        figure("image", "gpux", 201.0),
        figure("image", "fastapi", 8.0),
        figure("image", "ray", None),
        alone("image"),
    ]
    report = Report("server", {"rounds": 3}, figures, "")
    draw(report, tmp_path / "chart.svg")
    root = xml.etree.ElementTree.parse(tmp_path / "chart.svg").getroot()
    texts = [
        " ".join("".join(node.itertext()).split()) for node in root.iter() if "text" in node.tag
    ]
    for text in ("image", "gpux", "fastapi", "ray", "201 25.1x", "8.0", "-"):
        assert text in texts
    draw(report, tmp_path / "again.svg")
    assert (tmp_path / "chart.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
