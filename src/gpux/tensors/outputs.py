"""The values of a model's outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from gpux.tensors.memory import HOST, Device, StringTensor, Tensor
from gpux.tensors.signature import BY_CODE


@dataclass(frozen=True, slots=True)
class Other:
    """The value of an output that is no tensor.

    Attributes:
        value: nested lists, dicts, strings, numbers and NumPy arrays, as ONNX Runtime gives them.
        float_type: the type that a Python float in it has in the model.
    """

    value: object
    float_type: str


Output = Tensor | StringTensor | Other


def tensor_of(value: Any, device: Device = HOST) -> Tensor:
    """An output that ONNX Runtime has allocated; its OrtValue is the owner."""
    return Tensor(
        BY_CODE[value.element_type()], tuple(value.shape()), value.data_ptr(), value, device
    )


# By output name, in the model's order. Tensors own their memory.
OutputValues = Mapping[str, Output]


def to_python(value: Output) -> Any:
    """An output for a Python caller, in memory of its own: it may share that of an input."""
    if isinstance(value, Other):
        return value.value
    if isinstance(value, StringTensor):
        array = numpy.empty(len(value.values), object)
        array[:] = value.values
        return array.reshape(value.shape)
    bits: numpy.ndarray[Any, Any] = numpy.asarray(value)
    if value.type.numpy is None:  # bfloat16 is the upper half of a float32
        return (bits.astype("uint32") << 16).view("float32")
    return bits.copy()
