"""The values of a model's outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from gpux.tensors.memory import HOST, Device, StringTensor, Tensor
from gpux.tensors.signature import BY_CODE


@dataclass(frozen=True, slots=True)
class NonTensor:
    """The value of an output that is not a tensor.

    Attributes:
        value: nested lists, dicts, strings, numbers and NumPy arrays, as ONNX Runtime returns them.
        float_type: the model's type of a Python float in `value`.
    """

    value: object
    float_type: str


Output = Tensor | StringTensor | NonTensor


def tensor_of(value: Any, device: Device = HOST) -> Tensor:
    """Wraps an output that ONNX Runtime allocated; its OrtValue owns the memory."""
    return Tensor(
        BY_CODE[value.element_type()], tuple(value.shape()), value.data_ptr(), value, device
    )


# Output name -> value, in the model's order. Tensors own their memory.
OutputValues = Mapping[str, Output]


def to_python(value: Output) -> Any:
    """Converts an output for a Python caller. Copies tensors: they may share an input's memory."""
    if isinstance(value, NonTensor):
        return value.value
    if isinstance(value, StringTensor):
        array = numpy.empty(len(value.values), object)
        array[:] = value.values
        return array.reshape(value.shape)
    bits: numpy.ndarray[Any, Any] = numpy.asarray(value)
    if value.type.numpy is None:  # bfloat16 is the upper half of a float32
        return (bits.astype("uint32") << 16).view("float32")
    return bits.copy()
