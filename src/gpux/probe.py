"""Whether a model gives the same answers to rows together as one by one: found by trying.

A batch axis is only a name. A model may normalize over it, draw random numbers, or mix its rows up
otherwise; then requests of different clients must never run together.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy

from gpux.errors import GpuxError
from gpux.execution import Output
from gpux.inputs import Request
from gpux.memory import StringTensor, Tensor
from gpux.model import Model, to_python
from gpux.rows import gather, scatter
from gpux.tensor import Dim, OtherSpec, TensorSpec

_ROWS = 3
# What dynamic axes have in the wild, as in example.py.
_SIZES = (8, 1, 4, 16, 32, 64, 128, 224, 256)
_WORDS = ("good", "a bad film", "")
# By element type: how far answers may be from each other, relative and absolute. A matrix product
# sums in another order when it has more rows.
_TOLERANCES = {
    "float32": (1e-3, 1e-4),
    "float64": (1e-9, 1e-10),
    "float16": (2e-2, 2e-3),
    "bfloat16": (1e-1, 2e-2),
}


def find_obstacle(model: Model) -> str | None:
    """Why requests for a model cannot run together; None if they can.

    A few generated rows are run, alone and together: floats from 0 to 1, integers 0 and 1.
    """
    return _missing_axis(model) or _disagreement(model)


def _missing_axis(model: Model) -> str | None:
    """Which input or output does not lead with the batch axis."""
    signature = model.signature
    if not signature.inputs:
        return "it has no inputs"
    for spec in signature.inputs:
        if spec.kind != "batched":
            return f"input '{spec.name}' does not lead with a batch axis"
    for output in signature.outputs:
        if isinstance(output, OtherSpec):
            return f"output '{output.name}' is no tensor"
        leads = output.dims and output.dims[0] in signature.batch_axes
        if not (leads if output.batched is None else output.batched):
            return f"output '{output.name}' does not lead with the batch axis"
    return None


def _disagreement(model: Model) -> str | None:
    """In which output rows together differ from rows alone."""
    problem = "no generated rows could be run"
    for sizes in _candidates(model):
        try:
            alone = [_run_alone(model, _row(model, sizes, number)) for number in range(_ROWS)]
        except GpuxError as error:
            problem = f"no generated rows could be run: {error}"
        else:
            return _compare(model, sizes, alone)
    return problem


def _candidates(model: Model) -> Iterator[Mapping[Dim, int]]:
    """Sizes to try for the dynamic axes behind the batch's."""
    names = {dim for spec in model.signature.inputs for dim in spec.dims[1:]}
    dynamic = {dim for dim in names if not isinstance(dim, int)}
    for size in _SIZES if dynamic else _SIZES[:1]:
        yield dict.fromkeys(dynamic, size)


def _row(model: Model, sizes: Mapping[Dim, int], number: int) -> dict[str, Any]:
    """One row for every input, another one for each number."""
    random = numpy.random.default_rng(number)
    return {
        spec.name: _values(
            spec, [dim if isinstance(dim, int) else sizes[dim] for dim in spec.dims[1:]], random
        )
        for spec in model.signature.inputs
    }


def _values(spec: TensorSpec, shape: Sequence[int], random: numpy.random.Generator) -> Any:
    shape = (1, *shape)
    if spec.type.word == "string":
        return random.choice(_WORDS, shape).astype(object)
    if spec.type.name.startswith(("float", "bfloat")):
        return random.random(shape)
    bits = random.integers(0, 2, shape)
    return bits.astype(bool) if spec.type.word == "boolean" else bits


def _run_alone(model: Model, values: Mapping[str, Any]) -> list[Any]:
    """What one row answers, in memory of its own."""
    request = model.inputs.collect(values)
    try:
        return [to_python(output) for output in model.execution.run(request)]
    finally:
        request.release()


def _compare(model: Model, sizes: Mapping[Dim, int], alone: Sequence[Sequence[Any]]) -> str | None:
    """What differs where the same rows run together."""
    requests: list[Request] = []
    together = None
    try:
        requests += [model.inputs.collect(_row(model, sizes, number)) for number in range(_ROWS)]
        together = gather(requests, model.signature, model.pool)
        outputs = model.execution.run(together)
        for output, spec in zip(outputs, model.signature.outputs, strict=True):
            if _leading(output) != _ROWS:
                return f"output '{spec.name}' has {_leading(output)} rows for {_ROWS}"
        parts = scatter(outputs, [1] * _ROWS)
        for own, expected in zip(parts, alone, strict=True):
            for part, value, spec in zip(own, expected, model.signature.outputs, strict=True):
                assert isinstance(spec, TensorSpec)
                if not _agree(to_python(part), value, spec.type.name):
                    return f"output '{spec.name}' differs between rows together and one by one"
    except GpuxError as error:
        return f"rows together could not be run: {error}"
    finally:
        for request in (*requests, *([together] if together else [])):
            request.release()
    return None


def _leading(output: Output) -> int | None:
    assert isinstance(output, Tensor | StringTensor)
    return output.shape[0] if output.shape else None


def _agree(one: Any, other: Any, type_name: str) -> bool:
    if one.shape != other.shape:
        return False
    if type_name not in _TOLERANCES:
        return bool((one == other).all())
    relative, absolute = _TOLERANCES[type_name]
    return bool(
        numpy.allclose(one.astype(float), other.astype(float), relative, absolute, equal_nan=True)
    )
