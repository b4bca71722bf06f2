"""bench/run.py server: goals, tables, contestants, and the command itself."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import run
from common.answers import MismatchError, Question
from common.report import CannotMeasureError
from server import beside, server
from server.contenders import CONTENDERS, Contender, other_build
from server.server import _Contestant
from server.tables import RAW, goals, tables
from tests.unit.bench.test_common import RESPONSE, serving

pytestmark = pytest.mark.full


def figure(case: str, name: str, rate: float | None, **others: Any) -> dict[str, Any]:
    kind = {"gpux": "ours", "gpux-wsgi": "ours", "fastapi": "python peer"}.get(name, "peer")
    return {
        "group": "load",
        "case": case,
        "server": name,
        "kind": "before" if name.startswith("before") else kind,
        "connections": 8,
        "per_second": rate,
        "p50_ms": 1.234,
        "p99_ms": None,
        "cpu_us": 100.0,
        "errors": 0,
        "peak_mib": 100.0,
        "differs": "",
        "has_other_last_bits": False,
        "problem": "",
    } | others


def alone(case: str) -> dict[str, Any]:
    return figure(case, RAW, 5000.0, group="alone", kind="limit", connections=None)


def verdicts(figures: list[dict[str, Any]], *, is_against: bool = True) -> dict[str, str]:
    return {goal.what: goal.verdict for goal in goals(figures, is_against=is_against)}


def test_goals_are_of_the_better_front_end_of_the_other_build() -> None:
    figures = [
        figure("mlp", "gpux", 4100.0, cpu_us=20.0),
        figure("mlp", "gpux", 1000.0, connections=1, p50_ms=0.3),
        figure("mlp", "gpux", 3900.0, connections=64),
        figure("mlp", "gpux", 2000.0, connections=256),
        figure("mlp", "gpux-wsgi", 1500.0),
        figure("mlp", "before-waitress", 1000.0, cpu_us=90.0),
        figure("mlp", "before-granian", 800.0, cpu_us=100.0),
        figure("mlp", "before-waitress", 500.0, connections=1, p50_ms=1.0),
        figure("mlp", "before-wsgi", 1000.0),
        figure("mlp", "fastapi", 500.0),
        figure("mlp", "kibae", 3000.0),
        {"group": "beside", "server": "gpux", "ratio": 4.0},
        {"group": "beside", "server": "before-granian", "ratio": 1.0},
    ]
    assert verdicts(figures) == {
        "mlp: requests/s, of the other build": "reached",
        "mlp: requests/s, of fastapi": "reached",
        "mlp: requests/s, of kibae": "MISSED",
        "mlp: CPU time of a request, of the other build": "reached",
        "mlp: p50 at one connection, of the other build": "reached",
        "mlp: requests/s at 64 connections, of 8": "aim reached",
        "mlp: requests/s at 256 connections, of 8": "MISSED",
        "mlp: requests/s under waitress-serve, of the other build": "reached",
        "ids beside tokenizing of long texts: p99, of alone": "MISSED",
    }


def test_memory_is_compared_with_the_smaller_front_end() -> None:
    figures = [
        figure("image", "gpux", 100.0, peak_mib=70.0),
        figure("image", "before-waitress", 100.0, peak_mib=200.0),
        figure("image", "before-granian", 80.0, peak_mib=100.0),
    ]
    assert verdicts(figures) == {
        "image: requests/s, of the other build": "MISSED",
        "image: peak memory, of the other build": "reached",
        "image: requests/s under waitress-serve, of the other build": "not measured",
    }


def test_a_server_without_responses_reaches_nothing() -> None:
    figures = [figure("wide", "gpux", None), figure("wide", "before-waitress", 10.0)]
    assert verdicts(figures) == {"wide: requests/s, of the other build": "not measured"}


def test_without_another_build_only_peers_count() -> None:
    figures = [figure("tokens", "gpux", 700.0), figure("tokens", "fastapi", 100.0)]
    found = verdicts(figures, is_against=False)
    assert found == {"tokens: requests/s, of fastapi": "reached"}


def test_the_tables_show_what_was_not_measured_and_what_differs() -> None:
    figures = [
        figure("wide", "gpux", 1234.0, has_other_last_bits=True),
        figure("wide", "ray", None, p50_ms=None, cpu_us=None, errors=3),
        figure("wide", "triton", 12.345, differs="y: 1 of 4 elements differ"),
        alone("wide"),
    ]
    survey, everything, texts = tables(figures)
    assert survey.splitlines()[2].split() == ["wide", "1,234", "-", "12.3", "5,000"]
    rows = [re.split(" {2,}", line.strip()) for line in everything.splitlines()[2:]]
    assert rows == [
        [*("wide", "8", "gpux", "1,234", "99.96x", "1.23", "100", "0", "100"), "other last bits"],
        ["ray", "3", "100"],
        ["triton", "12", "1.00x", "1.23", "100", "0", "100", "WRONG"],
    ]
    assert texts == ""


# Contestants.


class StandInQuestion(Question):
    """Accepts a response if its tolerance is among these."""

    accepted: frozenset[float] = frozenset()

    def check(self, text: bytes, tolerance: float = 0.0) -> None:
        if tolerance not in self.accepted:
            raise MismatchError(f"wrong: {text!r}")


@pytest.fixture
def body(tmp_path: Path) -> Path:
    file = tmp_path / "body.json"
    file.write_text("{}")
    return file


def contestant(contender: Contender, running: Any, body: Path, *accepted: float) -> _Contestant:
    question = StandInQuestion("", body.read_bytes(), {})
    question.accepted = frozenset(accepted)
    return _Contestant(contender, running, body, question)


def test_a_wrong_answer_of_ours_ends_it_and_a_peers_is_kept(body: Path) -> None:
    with serving(b"{}") as running:
        peer = contestant(CONTENDERS["fastapi"], running, body)
        assert peer.figure(8, [])["differs"] == f"wrong: {RESPONSE!r}"
        with pytest.raises(MismatchError, match="wrong"):
            contestant(CONTENDERS["gpux"], running, body)


def test_a_batch_may_change_last_bits_only(body: Path) -> None:
    with serving(b"{}") as running:
        with pytest.raises(MismatchError):  # the first response came alone
            contestant(CONTENDERS["gpux"], running, body, 1e-5)
        ours = contestant(CONTENDERS["gpux"], running, body, 0.0, 1e-5)
        ours._question.accepted = frozenset({1e-5})  # type: ignore[attr-defined]
        ours._check(b"other")
        figure = ours.figure(8, [])
        assert (figure["has_other_last_bits"], figure["differs"]) == (True, "")


def test_another_build_needs_its_python(tmp_path: Path) -> None:
    with pytest.raises(CannotMeasureError, match="no gpux with a python beside it"):
        other_build(tmp_path / "gpux")
    for name in ("gpux", "python"):
        (tmp_path / name).touch()
    made = other_build(tmp_path / "gpux")
    assert [each.name for each in made] == ["before-waitress", "before-granian", "before-wsgi"]
    command = made[1].command(made[1].install().python, Path("m.onnx"), 1)
    assert command[0] == str(tmp_path / "python")
    assert list(command[-2:]) == ["--server", "granian"]


# The command.


def test_our_own_servers_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FOLDER", tmp_path / "cases")
    monkeypatch.setattr(beside, "FOLDER", tmp_path / "cases")
    output, chart = tmp_path / "server.json", tmp_path / "chart.svg"
    few = ["--case", "mlp", "texts", "--server", "gpux", "gpux-wsgi", "--connections", "2"]
    pace = ["--quick", "--json", str(output), "--chart", str(chart)]
    assert run.main(["server", *few, *pace]) == 0
    report = json.loads(output.read_bytes())
    assert report["settings"]["not_measured"] == {}
    loads = [each for each in report["figures"] if each["group"] == "load"]
    assert [each["server"] for each in loads] == ["gpux", "gpux-wsgi"]
    for each in loads:
        assert (each["errors"], each["differs"], each["problem"]) == (0, "", "")
        assert each["per_second"] > 0
        assert each["peak_mib"] > 10
    besides = [each for each in report["figures"] if each["group"] == "beside"]
    assert [each["server"] for each in besides] == ["gpux", "gpux-wsgi"]
    assert report["notes"][-1].startswith("All responses looked at")
    assert chart.exists()


def test_a_report_without_loads_has_its_notes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "measure_beside", lambda *_: iter(()))
    assert run.main(["server", "--case", "texts", "--server", "gpux"]) == 0
    assert "gpux: gpux serve." in capsys.readouterr().out
