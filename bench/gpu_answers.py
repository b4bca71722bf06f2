"""Compares results of a GPU with the CPU's, within the tolerance of their type.

Two processors sum in different orders. Integers and booleans must be equal; floats may differ by a
share of the largest number of their tensor.
"""

import json
from collections.abc import Mapping

import numpy
from answers import Array, MismatchError, check_bits

from gpux.tensors.memory import Tensor
from gpux.tensors.outputs import encode
from gpux.tensors.signature import BY_NAME

# After one operation, TF32 off. For float16 and bfloat16 this is a few units in the last place.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 1.6e-2}
# In float32, after a few layers, and after the many of a whole model.
FEW_LAYERS_TOLERANCE, MODEL_TOLERANCE = 1e-4, 1e-3


def check_close(what: str, got: Array, expected: Array, tolerance: float) -> None:
    """Checks that two arrays have the same type and shape, and nearly the same numbers.

    Args:
        what: the name for the error.
        got: the GPU's.
        expected: the CPU's.
        tolerance: by how much floats may differ, relative to the largest of `expected`.

    Raises:
        MismatchError: with the difference.
    """
    if expected.dtype.kind != "f" or got.dtype != expected.dtype or got.shape != expected.shape:
        check_bits(what, got, expected)
        return
    if got.tobytes() == expected.tobytes():
        return
    finite = numpy.isfinite(expected)
    check_bits(f"{what}, where it is not finite", numpy.isfinite(got), finite)
    exact, near = expected[finite].astype("float64"), got[finite].astype("float64")
    largest = float(numpy.abs(exact).max(initial=0.0))
    difference = float(numpy.abs(near - exact).max(initial=0.0))
    if difference > tolerance * largest:
        raise MismatchError(
            f"{what}: differs by up to {difference:.3g} where the largest number is {largest:.3g}; "
            f"{tolerance:g} of that is allowed"
        )


def check_all_close(
    what: str, got: Mapping[str, Array], expected: Mapping[str, Array], tolerance: float
) -> None:
    """Checks outputs by name; the names must be in the same order."""
    if list(got) != list(expected):
        raise MismatchError(f"{what}: outputs {list(got)} instead of {list(expected)}")
    for name, array in expected.items():
        check_close(f"{what}, output {name!r}", got[name], array, tolerance)


class Question:
    """A request and its expected response. Thread-safe.

    Args:
        what: the name for errors.
        body: the request body, with all axes.
        expected: the outputs, by name.
        tolerance: see check_close().
    """

    def __init__(
        self, what: str, body: bytes, expected: Mapping[str, Array], tolerance: float
    ) -> None:
        self.body = body
        self._what = what
        self._expected = expected
        self._tolerance = tolerance
        self._right: bytes | None = None

    def check(self, text: bytes) -> None:
        """Checks a response's JSON text; the same text is not parsed twice.

        Raises:
            MismatchError: it differs.
        """
        if text == self._right:
            return
        values = json.loads(text)
        arrays = {}
        for name, value in values.items():
            like = self._expected.get(name)
            arrays[name] = numpy.asarray(value, None if like is None else like.dtype)
        check_all_close(self._what, arrays, self._expected, self._tolerance)
        self._right = text


def body_of(inputs: Mapping[str, Array]) -> bytes:
    """Encodes a request as JSON, each float with as many digits as it needs."""
    return encode(
        {
            name: Tensor(BY_NAME[array.dtype.name], array.shape, array.ctypes.data, array)
            for name, array in inputs.items()
        }
    )
