"""bench/run.py engine: its contenders, its checks and its goals."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import gpux
from common.answers import MismatchError
from common.cases import CASES
from common.report import CannotMeasureError
from engine import engine
from engine.call_worker import predict_callable
from engine.calls import AGAINST, BARE, GPUX, Worker, check_same, goals, measure_calls, tables

pytestmark = pytest.mark.full


def test_everything_is_measured_and_shown(tmp_path: Path) -> None:
    figures = list(measure_calls(2, 0.01, 1, Path(sys.executable), tmp_path))
    found = {(figure["group"], figure["case"], figure.get("by")) for figure in figures}
    both = (GPUX, AGAINST)
    assert found == {
        ("call", "mlp", BARE),
        *(("call", case, by) for case in ("mlp", "classifier", "sentiment") for by in both),
        *(("start", "mlp", by) for by in both),
        *(("two threads", case, None) for case in ("conv", "tokens32")),
    }
    (bare,) = (figure for figure in figures if figure.get("by") == BARE)
    assert bare["gpux_over"] > 1
    assert all(tables(figures))
    assert "not measured" not in {goal.verdict for goal in goals(figures)}


@pytest.mark.parametrize(
    "lines",
    [
        {GPUX: '{"y":[[1.0]]}', AGAINST: '{"y":[[1.5]]}'},
        {GPUX: '{"y":[[0.1]]}', BARE: "0.100000009"},
    ],
)
def test_a_wrong_response_ends_the_run(lines: dict[str, str]) -> None:
    with pytest.raises(MismatchError):
        check_same(lines)


def test_the_same_response_in_other_words_passes() -> None:
    check_same({GPUX: '{"y":[[0.1]]}', AGAINST: '{"y":[[0.1]]}', BARE: "0.100000001"})


def test_a_contender_that_does_not_start_is_named() -> None:
    with pytest.raises(CannotMeasureError, match="other exited with code 3"):
        Worker("other", [sys.executable, "-c", "raise SystemExit(3)"])


def test_a_model_that_responds_is_called_itself(tmp_path: Path) -> None:
    model, body = CASES["mlp"].write(tmp_path)
    assert predict_callable(SimpleNamespace(respond=bytes.upper))(b"body") == b"BODY"
    assert predict_callable(gpux.load(model, "cpu"))(body.read_bytes()).startswith(b'{"y":[[')


@pytest.mark.parametrize(
    ("over", "verdict"), [(0.1, "aim reached"), (0.2, "reached"), (0.3, "MISSED")]
)
def test_calls_are_judged(over: float, verdict: str) -> None:
    figure: dict[str, Any] = {"group": "call", "case": "mlp", "by": AGAINST, "gpux_over": over}
    found = [goal.verdict for goal in goals([figure]) if goal.got is not None]
    assert found == [verdict]


def test_batches_are_judged() -> None:
    rates = {("weights", "auto"): 190.0, ("mlp", "auto"): 97.0, ("tokens", "auto"): 111.0}
    figures = [
        {"group": "throughput", "case": case, "batching": batching, "per_second": rate}
        for (case, batching), rate in {
            **rates,
            **{(case, "off"): 100.0 for case, _ in rates},
        }.items()
    ]
    verdicts = [goal.verdict for goal in engine.goals(figures)]
    assert verdicts == ["MISSED", "reached", "aim reached"]


def test_batches_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BATCHED", {"mlp": CASES["mlp"]})
    figures = list(engine.measure_throughput(engine.Pace(1, 0.2), None))
    assert [figure["batching"] for figure in figures] == ["auto", "off"]
    assert all(figure["per_second"] > 0 for figure in figures)
