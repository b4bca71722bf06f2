"""activate(): softmax, sigmoid, L2 normalization of the last axis, in float64, rounded once."""

import math
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gpux._fastpath import activate
from gpux.tensors.signature import BY_NAME
from tests.support.sanitizer import fewer

Array = numpy.ndarray[Any, Any]
NAMES = ("softmax", "sigmoid", "normalize")
TYPES = ("float16", "float32", "float64")


def activated(name: str, array: Array, type_name: str | None = None) -> Array:
    """Applies activate() to a dense array; bfloat16 is passed as its bits."""
    result = numpy.empty_like(array)
    code = BY_NAME[type_name or array.dtype.name].code
    activate(name, code, array.shape, array.ctypes.data, result.ctypes.data)
    return result


def reference(name: str, array: Array) -> Array:
    """The expected values in NumPy's float64, unrounded."""
    x = numpy.atleast_1d(array).astype("float64")
    with numpy.errstate(all="ignore"):
        if name == "sigmoid":
            result = numpy.where(x >= 0, 1 / (1 + numpy.exp(-x)), numpy.exp(x) / (1 + numpy.exp(x)))
        elif x.shape[-1] == 0:
            result = x
        elif name == "softmax":
            powers = numpy.exp(x - x.max(axis=-1, keepdims=True))
            result = powers / powers.sum(axis=-1, keepdims=True)
        else:
            # A quarter has the same direction, and its norm is finite in float64.
            x = numpy.where(abs(x).max(axis=-1, keepdims=True) > 1, x / 4, x)
            norms = [math.hypot(*row) for row in x.reshape(-1, x.shape[-1])]
            lengths = numpy.reshape(norms, (*x.shape[:-1], 1))
            result = numpy.where(lengths == 0, x, x / lengths)
    return numpy.reshape(result, array.shape)


def assert_close(result: Array, expected: Array) -> None:
    """Equal to within a few units in the last place: the roundings may differ."""
    digits = numpy.finfo(result.dtype).eps * (8 if result.dtype == "float64" else 1)
    smallest = float(numpy.finfo(result.dtype).smallest_subnormal)
    numpy.testing.assert_allclose(
        result.astype("float64"), expected, rtol=float(digits), atol=smallest, equal_nan=True
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("type_name", TYPES)
@given(data=st.data())
@settings(max_examples=fewer(100))
def test_equals_numpy(name: str, type_name: str, data: st.DataObject) -> None:
    shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    width: Any = numpy.dtype(type_name).itemsize * 8
    # Subnormals are too imprecise for the reference; another test covers them.
    elements = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False, width=width)
    array = data.draw(arrays.arrays(type_name, shapes, elements=elements))
    assert_close(activated(name, array), reference(name, array))


INFINITY, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        ("softmax", [0.0, -INFINITY], [1.0, 0.0]),
        ("softmax", [INFINITY, 0.0], [NAN, NAN]),
        ("softmax", [-INFINITY, -INFINITY], [NAN, NAN]),
        ("softmax", [NAN, 0.0], [NAN, NAN]),
        ("softmax", [0.0, NAN], [NAN, NAN]),
        ("softmax", [-6e4, -6e4], [0.5, 0.5]),
        ("softmax", [6e4, -6e4], [1.0, 0.0]),
        ("sigmoid", [-INFINITY, INFINITY, NAN, 0.0], [0.0, 1.0, NAN, 0.5]),
        ("sigmoid", [-6e4, 6e4], [0.0, 1.0]),
        ("normalize", [0.0, -0.0], [0.0, -0.0]),
        ("normalize", [INFINITY, 1.0], [NAN, 0.0]),
        ("normalize", [NAN, 1.0], [NAN, NAN]),
        ("normalize", [0.0, NAN], [NAN, NAN]),
        ("normalize", [3.0, -4.0], [0.6, -0.8]),
    ],
)
def test_the_edges(name: str, type_name: str, row: list[float], expected: list[float]) -> None:
    result = activated(name, numpy.array([row], type_name))
    numpy.testing.assert_array_equal(result, numpy.array([expected], type_name))


def test_a_norm_neither_overflows_nor_vanishes() -> None:
    for scale in (1e300, 1e-300, 5e-324):
        row = numpy.array([scale, scale])
        assert activated("normalize", row).tolist() == pytest.approx([0.5**0.5] * 2)


def test_rows_are_the_last_axis() -> None:
    array = numpy.zeros((2, 3, 4), "float32")
    assert activated("softmax", array).tolist() == numpy.full((2, 3, 4), 0.25).tolist()


def test_bfloat16() -> None:
    bits = (numpy.array([0.0, 1.0], "float32").view("uint32") >> 16).astype("uint16")
    result = activated("softmax", bits, "bfloat16")
    assert (result.astype("uint32") << 16).view("float32").tolist() == [0.26953125, 0.73046875]


@pytest.mark.parametrize("type_name", ["int64", "bool", "uint8"])
def test_other_types_are_refused(type_name: str) -> None:
    with pytest.raises(ValueError, match="not a tensor of a float type"):
        activated("softmax", numpy.zeros(2, type_name))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError):
        activated("relu", numpy.zeros(2))
