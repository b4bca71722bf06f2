"""`missing: nan` in gpux.yml: null, and inputs that a request omits, are NaN."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

import gpux
from tests.support import onnx_models

Load = Callable[..., gpux.Model]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a model that answers the shapes of its inputs, and the values of the first one."""

    def loaded(**dims: list[int | str | None]) -> gpux.Model:
        model = onnx_models.reshaped(dict(dims), {"values": [None]})
        (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
        (tmp_path / "gpux.yml").write_text("inputs: {a: {missing: nan}}\n")
        return gpux.load(tmp_path)

    return loaded


def shape_of_a(model: gpux.Model, **values: Any) -> list[int]:
    return [int(size) for size in model.predict(values)["a_shape"][:-2]]


@pytest.mark.parametrize(
    ("dims", "values", "shape"),
    [
        ({"a": ["n", "m"], "b": ["n", "m"]}, {"b": [[1, 2], [3, 4]]}, [2, 2]),
        ({"a": ["n"], "b": ["n", 2]}, {"b": [[1, 2]] * 3}, [3]),
        # The rows, whatever their axis is called.
        ({"a": ["n", 3], "b": [None, 2]}, {"b": [[1, 2]] * 3}, [3, 3]),
        ({"a": [None, 3], "b": ["n", 2]}, {"b": [1, 2]}, [1, 3]),
        ({"a": [2, 3], "b": ["n"]}, {"b": [1]}, [2, 3]),
    ],
)
def test_an_input_that_is_left_out_takes_its_sizes_from_others(
    load: Load, dims: dict[str, Any], values: dict[str, Any], shape: list[int]
) -> None:
    assert shape_of_a(load(**dims), **values) == shape


@pytest.mark.parametrize(
    ("dims", "values", "missing"),
    [
        ({"a": ["n"]}, {}, "a"),
        ({"a": [2, 3], "b": ["n"]}, {}, "a"),
        ({"a": ["n", "m"], "b": ["n"]}, {"b": [1]}, "a"),
        ({"a": ["n", None], "b": ["n"]}, {"b": [1]}, "a"),
        ({"b": ["n"], "a": ["n"]}, {"a": [1]}, "b"),
    ],
)
def test_an_unknown_size_is_a_missing_input(
    load: Load, dims: dict[str, Any], values: dict[str, Any], missing: str
) -> None:
    with pytest.raises(gpux.ClientError, match=f"^Missing required input: '{missing}'$"):
        load(**dims).predict(values)


def test_null_is_nan(load: Load) -> None:
    model = load(a=["n", 2])
    outputs = model.predict({"a": [[1, None], [None, 2]]})
    numpy.testing.assert_array_equal(outputs["values"], [1, numpy.nan, numpy.nan, 2])
    with pytest.raises(gpux.ClientError, match=r"expected array, got null$"):
        model.predict({"a": None})
