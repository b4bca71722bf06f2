"""What the benchmarks share: tables, goals, turns, checks, references, load, processes, charts."""

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

import numpy
import pytest

from common import load
from common.answers import MismatchError, Question, check_close, check_outputs
from common.cases import CASES
from common.chart import Bar, Panel, draw
from common.load import Load, Window, medians, put_under_load
from common.processes import ProcessTree
from common.reference import Reference, run_alone
from common.report import CannotMeasureError, Goal, table
from common.servers import Server, running
from common.timing import take_turns

pytestmark = pytest.mark.full

RESPONSE = b'{"y": [[0.5]]}'


# Tables, goals, turns.


def test_a_table_has_a_row_for_each_figure() -> None:
    figures = [
        {"case": "mlp", "by": "gpux", "us": 10.25, "over": None},
        {"case": "mlp", "by": "other", "us": 100.0, "over": 0.1},
    ]
    columns = "case={case} | by={by} | us={us:.1f} | over={over:.2f}x"
    assert table(figures, columns).splitlines() == [
        "case  by        us   over",
        "-------------------------",
        "mlp   gpux    10.2",
        "      other  100.0  0.10x",
    ]
    assert table([], columns) == ""


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (Goal("", None, 1, 2), "not measured"),
        (Goal("", 0.9, 1, 2), "MISSED"),
        (Goal("", 1.0, 1, 2), "reached"),
        (Goal("", 2.0, 1, 2), "aim reached"),
        (Goal("", 2.0, 1), "reached"),
        (Goal("", 3.1, 3, 2, is_least=False), "MISSED"),
        (Goal("", 2.5, 3, 2, is_least=False), "reached"),
        (Goal("", 2.0, 3, 2, is_least=False), "aim reached"),
    ],
)
def test_goals_are_judged(goal: Goal, verdict: str) -> None:
    assert goal.verdict == verdict


def test_groups_keep_their_order_and_all_get_their_turns() -> None:
    log: list[str] = []

    def turn(name: str) -> Callable[[], int]:
        def take() -> int:
            log.append(name)
            return len(log)

        return take

    groups = [{name: turn(name) for name in "abcd"}, {"last": turn("last")}]
    taken = take_turns(groups, 8)
    rounds = [log[at : at + 5] for at in range(0, 40, 5)]
    assert all(each[-1] == "last" and set(each[:4]) == set("abcd") for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert [len(each) for each in taken.values()] == [8] * 5


# Checks.


def test_close_is_close() -> None:
    right = numpy.array([1.0, -100.0, 0.0], "float32")
    check_close("x", right + numpy.float32(1e-4), right, 1e-5)
    check_close("x", numpy.array([numpy.nan]), numpy.array([numpy.nan]), 1e-5)
    for wrong, says in (
        (right + numpy.float32(2e-3), "differs by 0.002, more than 0.001"),
        (right.astype("float64"), "float64"),
        (right[:2], r"\[2\]"),
        (numpy.array([1.0, -100.0, numpy.nan], "float32"), "finite"),
    ):
        with pytest.raises(MismatchError, match=says):
            check_close("x", wrong, right, 1e-5)
    with pytest.raises(MismatchError, match="1 of 1 elements differ"):
        check_close("x", numpy.array([1]), numpy.array([2]), 1)
    with pytest.raises(MismatchError, match="outputs"):
        check_outputs("x", {}, {"y": right})


EXPECTED = {"y": numpy.array([[0.1, numpy.inf]], "float32"), "n": numpy.array([[7]])}


@pytest.mark.parametrize(
    ("text", "tolerance", "says"),
    [
        ('{"y": [[0.1, null]], "n": [[7]]}', 0.0, None),
        ('{"y": [0.1, null], "n": [7]}', 0.0, None),
        ('{"y": [[0.100001, null]], "n": [[7]]}', 1e-4, None),
        ('{"y": [[0.100001, null]], "n": [[7]]}', 0.0, "1 of 2"),
        ('{"y": [[0.1, 5]], "n": [[7]]}', 1e-4, "finite"),
        ('{"y": [[0.1, null]], "n": [[8]]}', 1e-4, "1 of 1"),
        ('{"y": [[[0.1, null]]], "n": [[7]]}', 0.0, "instead of"),
        ('{"y": [[0.1, null]]}', 0.0, "outputs"),
        ('{"detail": "x"}', 0.0, "outputs"),
    ],
)
def test_responses_are_checked(text: str, tolerance: float, says: str | None) -> None:
    question = Question("x", b"", EXPECTED)
    if says is None:
        question.check(text.encode(), tolerance)
    else:
        with pytest.raises(MismatchError, match=says):
            question.check(text.encode(), tolerance)


@pytest.mark.parametrize(
    ("data", "shape", "is_right"),
    [
        ([0.1, 0.2, 0.3, 0.4], [2, 2], True),
        ([[0.1, 0.2], [0.3, 0.4]], [2, 2], True),
        ([0.1, 0.2, 0.3, 0.40000005], [2, 2], False),
        ([0.1, 0.2, 0.3, 0.4], [4, 1], False),
    ],
)
def test_the_open_inference_protocol_is_checked(
    data: list[Any], shape: list[int], is_right: bool
) -> None:
    right = {"y": numpy.array([[0.1, 0.2], [0.3, 0.4]], "float32")}
    question = Question("x", b"", right, is_v2=True)
    text = json.dumps({"outputs": [{"name": "y", "shape": shape, "data": data}]}).encode()
    if is_right:
        question.check(text)
    else:
        with pytest.raises(MismatchError):
            question.check(text)


# Cases, and ONNX Runtime alone.


@pytest.mark.parametrize("name", list(CASES))
def test_the_cases_run_and_both_protocols_ask_the_same(name: str, tmp_path: Path) -> None:
    model, body = CASES[name].write(tmp_path)
    plain = json.loads(body.read_bytes())
    tensors = json.loads(CASES[name].v2_body())["inputs"]
    assert [tensor["name"] for tensor in tensors] == list(plain)
    for tensor in tensors:
        values = numpy.asarray(plain[tensor["name"]])
        assert tensor["shape"] == list(values.shape)
        assert tensor["data"] == values.ravel().tolist()
        assert tensor["datatype"] == ("FP32" if values.dtype.kind == "f" else "INT64")
    for output in run_alone(model, plain).values():
        assert numpy.isfinite(output).all()


def test_onnx_runtime_alone(tmp_path: Path) -> None:
    model, _ = CASES["mlp"].write(tmp_path)
    imported_before = "onnxruntime" in sys.modules  # by a test before this one
    with Reference(model) as reference:
        outputs = reference.run(CASES["mlp"].request())
        assert len(reference.repeat(0.001)) >= 1
        number = reference.bind(CASES["mlp"].request(), outputs)
        seconds, bound = reference.run_bound(number)
        assert seconds > 0
        check_outputs("bound", bound, outputs)
        with pytest.raises(CannotMeasureError, match="ONNX Runtime alone"):
            reference.run({"x": [[1.0, 2.0]]})
    assert ("onnxruntime" in sys.modules) is imported_before


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(CannotMeasureError, match=r"missing\.onnx"):
        Reference(tmp_path / "missing.onnx")


# Load.


def summarize(values: dict[str, int], connections: int = 1, bytes_read: int = 0) -> Load:
    line = {"requests": 0, "bytes": 0, "p50_us": 0, "p99_us": 0}
    line |= {"refused": 0, "failed": 0}
    output = f"Running 10m test\n  1 threads\nLOAD {json.dumps(line | values)}\n"
    return load.summarize(output, connections, Window(2.0, bytes_read, 0.3, 1.0))


def test_what_wrk_read_in_the_window_is_the_rate() -> None:
    found = summarize(
        {"requests": 100, "bytes": 20_000, "p50_us": 1500, "p99_us": 20_000},
        connections=8,
        bytes_read=6_000,
    )
    assert found.per_second == 15  # 6,000 bytes are 30 responses, in 2 seconds
    assert found.cpu_us == pytest.approx(10_000)
    assert found.wrk_cores == 0.5
    assert (found.p50_ms, found.p99_ms) == (1.5, 20)
    assert (found.requests, found.errors) == (100, 0)


def test_refusals_do_not_count_as_responses() -> None:
    values = {"requests": 100, "bytes": 10_000, "refused": 25, "failed": 3}
    found = summarize(values, bytes_read=800)
    assert found.per_second == 3
    assert found.errors == 28


def test_of_few_responses_no_duration_is_given() -> None:
    found = summarize({"requests": 7, "bytes": 700, "p50_us": 9, "p99_us": 9}, connections=8)
    assert (found.p50_ms, found.p99_ms) == (None, None)
    nothing = summarize({})
    assert (nothing.per_second, nothing.p50_ms, nothing.cpu_us) == (0, None, None)
    assert medians([found, nothing])["cpu_us"] is None


def test_without_a_result_wrk_has_failed() -> None:
    with pytest.raises(CannotMeasureError, match="unable to connect"):
        load.summarize("unable to connect to 127.0.0.1:1\n", 1, Window(1.0, 0, 0.0, 0.0))


def test_without_wrk_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotMeasureError, match="apt-get install wrk"):
        load.wrk()


class _Handler(BaseHTTPRequestHandler):
    """Sends RESPONSE to the expected request, and 400 to any other."""

    protocol_version = "HTTP/1.1"
    body = b""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_right = body == self.body and self.headers["Content-Type"] == "application/json"
        self.send_response(200 if is_right and self.path == "/predict" else 400)
        self.send_header("Content-Length", str(len(RESPONSE)))
        self.end_headers()
        self.wfile.write(RESPONSE)

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@contextmanager
def serving(body: bytes) -> Iterator[Server]:
    """A server in this process; the processes that it claims to have only sleep."""
    handler = type("Handler", (_Handler,), {"body": body})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
        tree = ProcessTree(subprocess.Popen(sleeping))
        try:
            yield Server("server", server.server_port, tree)
        finally:
            tree.end()
            server.shutdown()
            thread.join()


def test_real_load(tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_bytes(json.dumps({"x": [0.1] * 100_000}).encode())
    seen: list[bytes] = []
    with serving(body.read_bytes()) as server:
        measured = put_under_load(server, body, 4, 0.2, seen.append)
        assert measured.errors == 0
        assert measured.per_second > 0
        assert set(seen) == {RESPONSE}

        def refuse(_: bytes) -> None:
            raise MismatchError("wrong")

        with pytest.raises(MismatchError, match="wrong"):
            put_under_load(server, body, 1, 0.2, refuse)
        other = Server("server", server.port, server.processes, "/other")
        with pytest.raises(CannotMeasureError, match="server: 400"):
            put_under_load(other, body, 1, 0.2, seen.append)


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
        assert 2**20 < tree.resident_bytes() <= tree.peak_bytes()
    finally:
        tree.end()
    wait_for(lambda: not Path(f"/proc/{child}").exists() or state(child) == "Z")


def test_a_server_that_ends_at_once_is_reported_with_its_last_words() -> None:
    command = [sys.executable, "-c", "print('the port is taken'); raise SystemExit(3)"]
    with (
        pytest.raises(CannotMeasureError, match="the port is taken"),
        running("server", lambda _: command, lambda _: False),
    ):
        pass


# Charts.


def test_a_chart_shows_every_bar_in_both_modes(tmp_path: Path) -> None:
    bars = [Bar("gpux", 201.0, "201   25.1x", is_ours=True), Bar("ray", None, "-")]
    files = [tmp_path / name for name in ("chart.svg", "again.svg", "chart.png")]
    for file in files:
        draw([Panel("image", "a cheap model", bars)], "Requests", "A machine", file)
    root = xml.etree.ElementTree.parse(files[0]).getroot()
    nodes = [node for node in root.iter() if "text" in node.tag]
    texts = [" ".join("".join(node.itertext()).split()) for node in nodes]
    for text in ("image", "gpux", "ray", "201 25.1x", "-", "A machine"):
        assert text in texts
    content = files[0].read_text()
    assert "#ffffff" not in content  # a ground
    assert "#000000" not in content
    assert files[1].read_text() == content
    assert files[2].read_bytes().startswith(b"\x89PNG")
