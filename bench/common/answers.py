"""Checks of timed results: bit for bit, or within a tolerance where sums may differ in order."""

import json
from collections.abc import Mapping
from typing import Any

import numpy

Array = numpy.ndarray[Any, Any]

# In float32, after the layers of a model: the rows of a batch, or a GPU, sum in another order.
BATCH_TOLERANCE, MODEL_TOLERANCE = 1e-5, 1e-3


class MismatchError(Exception):
    """A timed call returned a wrong result."""


def check_bits(what: str, got: Array, expected: Array) -> None:
    """Checks that two arrays are equal in type, shape and every bit.

    Args:
        what: the name for the error.
        got: the timed result.
        expected: the right one.

    Raises:
        MismatchError: with the first difference.
    """
    if got.dtype != expected.dtype or got.shape != expected.shape:
        raise MismatchError(
            f"{what}: {got.dtype} {list(got.shape)} instead of "
            f"{expected.dtype} {list(expected.shape)}"
        )
    if got.tobytes() == expected.tobytes():
        return
    bits = f"u{got.itemsize}"
    differs = numpy.ravel(got).view(bits) != numpy.ravel(expected).view(bits)
    index = int(numpy.flatnonzero(differs)[0])
    raise MismatchError(
        f"{what}: {numpy.count_nonzero(differs)} of {got.size} elements differ, the first is "
        f"number {index}: {got.ravel()[index]!r} instead of {expected.ravel()[index]!r}"
    )


def check_close(what: str, got: Array, expected: Array, tolerance: float) -> None:
    """Checks that two arrays have the same type and shape, and nearly the same numbers.

    Args:
        what: the name for the error.
        got: the timed result.
        expected: the right one.
        tolerance: by how much floats may differ, as a share of the largest of `expected`. Without
            one, and for other types than floats, every bit counts.

    Raises:
        MismatchError: with the difference.
    """
    is_float = expected.dtype.kind == "f"
    is_alike = got.dtype == expected.dtype and got.shape == expected.shape
    if not tolerance or not is_float or not is_alike:
        check_bits(what, got, expected)
        return
    finite = numpy.isfinite(expected)
    check_bits(f"{what}, where it is finite", numpy.isfinite(got), finite)
    exact, near = expected[finite].astype("float64"), got[finite].astype("float64")
    limit = tolerance * float(numpy.abs(exact).max(initial=0.0))
    difference = float(numpy.abs(near - exact).max(initial=0.0))
    if difference > limit:
        raise MismatchError(f"{what}: differs by {difference:.3g}, more than {limit:.3g}")


def check_outputs(
    what: str, got: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float = 0.0
) -> None:
    """Checks outputs by name; the names must be in the same order.

    Raises:
        MismatchError: a name or an array differs.
    """
    if list(got) != list(expected):
        raise MismatchError(f"{what}: outputs {list(got)} instead of {list(expected)}")
    for name, array in expected.items():
        check_close(f"{what}, output {name!r}", got[name], array, tolerance)


class Question:
    """A request and its expected response. Thread-safe.

    Args:
        what: the name for errors.
        body: the request.
        expected: the outputs by name, as ONNX Runtime returned them.
        is_v2: whether it speaks the Open Inference Protocol (V2), whose data may be flat.
    """

    def __init__(
        self, what: str, body: bytes, expected: Mapping[str, Array], *, is_v2: bool = False
    ) -> None:
        self.body = body
        self._what = what
        self._expected = {
            # JSON has no number for these; NumPy reads null as NaN.
            name: numpy.where(numpy.isfinite(array), array, array.dtype.type("nan"))
            if array.dtype.kind == "f"
            else array
            for name, array in expected.items()
        }
        self._is_v2 = is_v2
        self._right: bytes | None = None

    def check(self, text: bytes, tolerance: float = 0.0) -> None:
        """Checks a response's JSON text; a right text is not parsed twice.

        A missing leading axis of 1 counts as equal.

        Raises:
            MismatchError: an output is missing, or differs by more than the tolerance.
        """
        if text == self._right:
            return
        values = _values_of_v2(text) if self._is_v2 else json.loads(text)
        got = {name: self._array(name, value) for name, value in values.items()}
        check_outputs(self._what, got, self._expected, tolerance)
        self._right = text

    def _array(self, name: str, value: Any) -> Array:
        like = self._expected.get(name)
        if like is None:
            return numpy.asarray(value)
        array = numpy.asarray(value, like.dtype)
        is_unbatched = like.shape[:1] == (1,) and array.shape == like.shape[1:]
        return array[None] if is_unbatched else array


def _values_of_v2(text: bytes) -> dict[str, Any]:
    return {
        output["name"]: numpy.array(output["data"]).reshape(output["shape"])
        for output in json.loads(text)["outputs"]
    }
