"""The outputs of a run as Python values."""

from collections.abc import Mapping
from typing import Any

from gpux._engine import Outputs, Pipeline, Value
from gpux._fastpath import InputTable, Pool, activate
from gpux.tensors.memory import HOST, Device, Tensor, allocate, array_of, readable
from gpux.tensors.signature import BY_CODE, NonTensorSpec, TensorSpec


def tensor_of(value: Value, device: Device = HOST) -> Tensor:
    """Wraps an output that ONNX Runtime allocated; its Value owns the memory."""
    return Tensor(
        BY_CODE[value.element_type()], tuple(value.shape()), value.data_ptr(), value, device
    )


def encode(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors of numbers in host memory as a JSON object, as a response has them."""
    responses = [(name, index, None, 0) for index, name in enumerate(tensors)]
    pipeline = Pipeline(None, InputTable([], []), [], list(tensors), responses, Pool())
    return pipeline.outputs(list(tensors.values()), 0.0).encode(False)


def to_python(
    outputs: Outputs, index: int, spec: TensorSpec | NonTensorSpec, activation: str | None = None
) -> Any:
    """Converts an output for a Python caller.

    Args:
        outputs: of a run.
        index: the output's, in the order of the run.
        spec: the output.
        activation: is applied to it; None for none.

    Returns:
        A NumPy array that owns its memory (float32 for bfloat16, object for strings); a list for a
        sequence, a dict for a map.
    """
    import numpy

    if isinstance(spec, NonTensorSpec):
        return _as_python(outputs.value(index))
    if spec.type.word == "string":
        return _as_python(outputs.value(index))
    code, shape, address = outputs.tensor(index)
    tensor = Tensor(BY_CODE[code], shape, address, outputs)
    block = allocate(tensor.nbytes)
    array = array_of(block, tensor.type, shape)
    if activation is None:
        array[...] = numpy.asarray(tensor)
    else:
        activate(activation, code, shape, address, block.address)
    return readable(array, tensor.type)


def _as_python(value: Any) -> Any:
    """What Outputs.value() returns, in the words of NumPy and Python."""
    import numpy

    if isinstance(value, list):
        return [_as_python(element) for element in value]
    if len(value) == 3:  # a tensor of numbers
        code, shape, content = value
        element = BY_CODE[code]
        block = allocate(len(content))
        array = array_of(block, element, shape)
        array[...] = numpy.frombuffer(content, array.dtype).reshape(shape)
        return readable(array, element)
    first, second = value
    if isinstance(second, list):  # a tensor of strings: its shape and elements
        array = numpy.empty(len(second), object)
        array[:] = second
        return array.reshape(first)
    # A map: its keys and its values.
    return dict(zip(_as_python(first).tolist(), _as_python(second).tolist(), strict=True))
