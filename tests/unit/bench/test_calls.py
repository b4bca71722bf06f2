"""bench/run.py engine --part call: its contenders, its checks and its verdicts."""

import sys
from pathlib import Path
from typing import Any

import pytest
from answers import MismatchError
from calls import Worker, _check_same, measure_calls
from engine_table import AGAINST, BARE, GPUX, promises, tables
from report import CannotMeasureError

pytestmark = pytest.mark.full


def test_everything_is_measured_and_shown(tmp_path: Path) -> None:
    figures = list(measure_calls(2, 0.01, 1, Path(sys.executable), tmp_path))
    found = {(figure["group"], figure["case"], figure["by"]) for figure in figures}
    both = [GPUX, AGAINST]
    assert found == {
        ("call", "mlp", BARE),
        *(("call", case, by) for case in ("mlp", "classifier", "sentiment") for by in both),
        *((group, "mlp", by) for group in ("call threads", "start") for by in both),
    }
    (bare,) = (figure for figure in figures if figure["by"] == BARE)
    assert bare["gpux_over"] > 1
    text = tables(figures)
    assert "engine.predict, sentiment: CPU time, of the other build" in text


def test_one_build_needs_no_other(tmp_path: Path) -> None:
    figures = list(measure_calls(1, 0.01, 1, None, tmp_path))
    assert {figure["by"] for figure in figures} == {GPUX, BARE}


@pytest.mark.parametrize(
    "lines",
    [
        {GPUX: '{"y":[[1.0]]}', AGAINST: '{"y":[[1.5]]}'},
        {GPUX: '{"y":[[0.1]]}', BARE: "0.100000009"},
    ],
)
def test_a_wrong_response_ends_the_run(lines: dict[str, str]) -> None:
    with pytest.raises(MismatchError):
        _check_same(lines)


def test_the_same_response_in_other_words_passes() -> None:
    _check_same({GPUX: '{"y":[[0.1]]}', AGAINST: '{"y":[[0.1]]}', BARE: "0.100000001"})


def test_a_contender_that_does_not_start_is_named() -> None:
    with pytest.raises(CannotMeasureError, match="other exited with code 3"):
        Worker("other", [sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.parametrize(
    ("over", "verdict"), [(0.1, "aim reached"), (0.2, "reached"), (0.3, "MISSED")]
)
def test_calls_are_judged(over: float, verdict: str) -> None:
    figure: dict[str, Any] = {"group": "call", "case": "mlp", "by": AGAINST}
    figure |= {"gpux_over": over, "gpux_over_best": over}
    (judged,) = (promise for promise in promises([figure]) if promise.got is not None)
    assert judged.row()[-1] == verdict
