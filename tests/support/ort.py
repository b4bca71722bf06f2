"""ONNX Runtime without gpux: the reference for every response."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import pytest
from onnx import TensorProto

needs_placement = pytest.mark.skipif(
    not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"),
    reason="ONNX Runtime before 1.24 does not report the placement of nodes",
)


@cache
def _session(model: Path) -> Any:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def run(
    model: Path, feeds: Mapping[str, Any], wanted: Sequence[str] | None = None
) -> dict[str, Any]:
    """Runs a model on arrays. Returns the outputs by name, all unless some are `wanted`."""
    session = _session(model)
    names = wanted or [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def run_bfloat16(model: Path, feeds: Mapping[str, Any], name: str, like: Any) -> Any:
    """A bfloat16 output, which `session.run` cannot return; of the shape and dtype of `like`."""
    session = _session(model)
    output = numpy.zeros_like(like)
    binding = session.io_binding()
    for key, value in feeds.items():
        binding.bind_ortvalue_input(key, ortvalue(value))
    binding.bind_output(name, "cpu", 0, TensorProto.BFLOAT16, output.shape, output.ctypes.data)
    session.run_with_iobinding(binding)
    return output


def ortvalue(array: Any) -> Any:
    """An array as an OrtValue, ml_dtypes' bfloat16 included."""
    if array.dtype.name == "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            array.view(numpy.uint16), TensorProto.BFLOAT16
        )
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def same_bits(actual: object, expected: Any) -> bool:
    """Whether a response's value is an array, bit for bit; null stands for a non-finite number."""
    expected = numpy.asarray(expected)
    if expected.dtype.kind not in "fV":  # integers, booleans, strings; V is ml_dtypes' bfloat16
        return bool(actual == expected.tolist())
    # numpy reads None as NaN.
    values = numpy.asarray(actual, numpy.float64).astype(expected.dtype)
    finite = numpy.isfinite(expected)
    return (
        values.shape == expected.shape
        and bool((numpy.isfinite(values) == finite).all())
        and values[finite].tobytes() == expected[finite].tobytes()
    )
