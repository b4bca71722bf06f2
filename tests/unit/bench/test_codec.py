"""bench/run.py codec on tiny bodies: full coverage, wrong results, missing peers."""

import gc
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from codec.bodies import SEVENTEEN_DIGITS, TOKEN_IDS, Body, make
from codec.codec import measure_bodies
from common.answers import MismatchError
from common.report import Report

pytestmark = pytest.mark.full

FLOATS = numpy.array([[0.1, -2.5e-7, 3.0], [1 / 3, 65504.0, -0.0]])
IDS = numpy.array([[1, 2**62], [-3, 0]])


@pytest.fixture(autouse=True)
def _fast_collections() -> Iterator[None]:
    gc.freeze()  # each round starts with gc.collect(): exclude what other tests left
    yield
    gc.unfreeze()


def measure(*bodies: Body) -> Report:
    return measure_bodies(bodies, rounds=2, round_seconds=1e-5)


def image() -> Body:
    return make(SEVENTEEN_DIGITS, FLOATS, "float32", "float64")


def token_ids() -> Body:
    return make(TOKEN_IDS, IDS, "int64", "int64")


def test_all_is_measured_and_equal() -> None:
    report = measure(image(), token_ids())
    ours = {
        (figure["group"], figure["body"]) for figure in report.figures if figure["by"] == "gpux"
    }
    groups = ("decode", "encode", "list to tensor", "array to tensor")
    bodies = (SEVENTEEN_DIGITS, TOKEN_IDS)
    assert ours == {(group, body) for group in groups for body in bodies}
    goals = [goal.what for goal in report.goals]
    assert f"decode, {TOKEN_IDS}, of pysimdjson" in goals
    assert f"list to tensor, {SEVENTEEN_DIGITS}, of numpy.array" in goals
    assert [figure["differs"] for figure in report.figures if figure["differs"]] == []
    assert "equal bit for bit" in report.text()


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simdjson", None)
    report = measure(image())
    assert "pysimdjson" not in {figure["by"] for figure in report.figures}
    assert "pysimdjson is not installed: left out." in report.notes


def test_a_peers_wrong_answer_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(_: bytes) -> dict[str, Any]:
        return {"x": (FLOATS + 1).tolist()}

    def dumps(_: object, option: int) -> bytes:
        assert option == 4
        return b'{"y":[]}'

    fake = SimpleNamespace(loads=loads, dumps=dumps, OPT_SERIALIZE_NUMPY=4)
    monkeypatch.setitem(sys.modules, "orjson", fake)
    report = measure(image())
    assert {figure["by"] for figure in report.figures if figure["differs"]} == {
        "orjson",
        "orjson + numpy",
    }
    assert "DIFFERS" in report.text()


def test_our_own_wrong_answer_ends_it() -> None:
    right = image()
    wrong = numpy.nextafter(right.tensor, numpy.float32(9))
    with pytest.raises(MismatchError, match="gpux"):
        measure(Body(right.name, right.text, wrong, right.answer))
    with pytest.raises(MismatchError, match="encode"):
        measure(Body(right.name, right.text, right.tensor, right.answer[::-1]))
