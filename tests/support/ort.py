"""ONNX Runtime itself, without anything of gpux: what every answer is compared with."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
from onnx import TensorProto


@cache
def _session(model: Path) -> Any:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def run(
    model: Path, feeds: Mapping[str, Any], wanted: Sequence[str] | None = None
) -> dict[str, Any]:
    """`session.run` with arrays; the outputs by name, all of them unless some are `wanted`."""
    session = _session(model)
    names = wanted or [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def run_bfloat16(model: Path, feeds: Mapping[str, Any], name: str, like: Any) -> Any:
    """An output of bfloat16, which `session.run` cannot hand out; of the shape of `like`."""
    session = _session(model)
    answer = numpy.zeros_like(like)
    binding = session.io_binding()
    for key, value in feeds.items():
        binding.bind_ortvalue_input(key, ortvalue(value))
    binding.bind_output(name, "cpu", 0, TensorProto.BFLOAT16, answer.shape, answer.ctypes.data)
    session.run_with_iobinding(binding)
    return answer


def ortvalue(array: Any) -> Any:
    """An array as ONNX Runtime's own value, ml_dtypes' bfloat16 included."""
    if array.dtype.name == "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(
            array.view(numpy.uint16), TensorProto.BFLOAT16
        )
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def same_bits(answered: object, expected: Any) -> bool:
    """Whether a value of an answer is an array, bit for bit; null stands for what is not finite."""
    expected = numpy.asarray(expected)
    if expected.dtype.kind not in "fV":  # integers, booleans, strings; V is ml_dtypes' bfloat16
        return bool(answered == expected.tolist())
    # numpy reads None as NaN.
    values = numpy.asarray(answered, numpy.float64).astype(expected.dtype)
    finite = numpy.isfinite(expected)
    return (
        values.shape == expected.shape
        and bool((numpy.isfinite(values) == finite).all())
        and values[finite].tobytes() == expected[finite].tobytes()
    )
