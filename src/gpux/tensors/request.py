"""The inputs of a request as tensors, for code that copies or binds them one by one."""

from collections.abc import Iterable
from typing import Any

from gpux._engine import Request
from gpux.tensors.memory import Device, Tensor, readable
from gpux.tensors.signature import TensorSpec


def tensors_of(request: Request, specs: Iterable[TensorSpec]) -> dict[str, Tensor]:
    """The tensors of the inputs that a request gives, by name; each keeps its memory alive.

    Args:
        request: one whose inputs are numbers.
        specs: the model's inputs.
    """
    tensors = {}
    for spec in specs:
        if spec.name in request:
            shape, _, _ = request.form(spec.name)
            address, owner, device = request.content(spec.name)
            tensors[spec.name] = Tensor(spec.type, shape, address, owner, Device(*device))
    return tensors


def array_of_input(request: Request, spec: TensorSpec) -> Any:
    """An input that a request gives, as a NumPy array that owns its memory.

    Of objects for strings, of float32 for bfloat16.
    """
    import numpy

    if spec.type.word == "string":
        strings = request.strings(spec.name)
        array = numpy.empty(len(strings), object)
        array[:] = strings
        return array.reshape(request.form(spec.name)[0])
    return readable(numpy.array(tensors_of(request, [spec])[spec.name]), spec.type)
