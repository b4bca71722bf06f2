"""Whether a model gives the same answers to rows together as one by one: found by trying.

A batch axis is only a name. A model may normalize over it, draw random numbers, or mix its rows up
otherwise; then requests of different clients must never run together.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy

from gpux.deadline import Deadline
from gpux.errors import DeadlineError, GpuxError
from gpux.inputs import Request
from gpux.model import Model, to_python
from gpux.rows import MixedRowsError, gather, scatter
from gpux.tensor import Dim, OtherSpec, TensorSpec

_ROWS = 3
# Rows unlike each other, so that what is taken over all of them shows: the range of their floats,
# and the share of ones among their integers.
_SCALES = (1.0, 0.01, 16.0)
_ONES = (0.5, 0.9, 0.2)
_MOST_BYTES = 2**28  # of a row
# What dynamic axes have in the wild, as in example.py.
_SIZES = (8, 1, 4, 16, 32, 64, 128, 224, 256)
_WORDS = ("good", "bad", "")
# By element type: how far answers may be from each other, relative and absolute. A matrix product
# sums in another order when it has more rows.
_TOLERANCES = {
    "float32": (1e-3, 1e-4),
    "float64": (1e-9, 1e-10),
    "float16": (2e-2, 2e-3),
    "bfloat16": (1e-1, 2e-2),
}


def find_obstacle(model: Model, deadline: Deadline | None = None) -> str | None:
    """Why requests for a model cannot run together; None if they can.

    A few generated rows are run, alone and together: floats from 0 to 16, integers 0 and 1.

    Args:
        model: a loaded one.
        deadline: of the trial.
    """
    return _missing_axis(model) or _mixing_node(model) or _disagreement(model, deadline)


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


def _mixing_node(model: Model) -> str | None:
    """A node that is known to look at all rows at once, though trials may not show it."""
    for nodes in (model.placement or {}).values():
        for node in nodes:
            if node.startswith("DynamicQuantize"):
                return f"node '{node}' scales all rows by the largest number in them"
    return None


def _disagreement(model: Model, deadline: Deadline | None) -> str | None:
    """In which output rows together differ from rows alone."""
    problem = "no generated rows could be run"
    for scales in (_SCALES, (1.0,) * _ROWS):
        for sizes in _candidates(model):
            if _row_bytes(model, sizes) > _MOST_BYTES:
                problem = "its rows are too large to try"
                continue
            rows = [_row(model, sizes, number, scales[number]) for number in range(_ROWS)]
            try:
                alone = [_run_alone(model, row, deadline) for row in rows]
            except DeadlineError:
                return "the trial of its rows took too long"
            except (GpuxError, MemoryError) as error:
                problem = f"no generated rows could be run: {error}"
            else:
                return _unlike(model, alone) or _compare_orders(model, rows, alone, deadline)
    return problem


def _row_bytes(model: Model, sizes: Mapping[Dim, int]) -> int:
    return sum(
        spec.type.nbytes
        * math.prod(dim if isinstance(dim, int) else sizes[dim] for dim in spec.dims[1:])
        for spec in model.signature.inputs
    )


def _unlike(model: Model, alone: Sequence[Sequence[Any]]) -> str | None:
    """Whether answers tell nothing: no finite number, or none at all."""
    for index, spec in enumerate(model.signature.outputs):
        values = [answers[index] for answers in alone]
        is_float = all(value.dtype.kind == "f" for value in values)
        if any(value.size == 0 for value in values) or (
            is_float and not any(numpy.isfinite(value.astype(float)).any() for value in values)
        ):
            return f"output '{spec.name}' of generated rows tells nothing"
    return None


def _compare_orders(
    model: Model,
    rows: Sequence[Mapping[str, Any]],
    alone: Sequence[Sequence[Any]],
    deadline: Deadline | None,
) -> str | None:
    """What differs where the same rows run together, in this order, another, and one twice."""
    for order in ((0, 1, 2), (2, 0, 1), (0, 0, 1)):
        problem = _compare(
            model, [rows[number] for number in order], [alone[number] for number in order], deadline
        )
        if problem:
            return problem
    return None


def _candidates(model: Model) -> Iterator[Mapping[Dim, int]]:
    """Sizes to try for the dynamic axes behind the batch's."""
    names = {dim for spec in model.signature.inputs for dim in spec.dims[1:]}
    dynamic = {dim for dim in names if not isinstance(dim, int)}
    for size in _SIZES if dynamic else _SIZES[:1]:
        yield dict.fromkeys(dynamic, size)


def _row(model: Model, sizes: Mapping[Dim, int], number: int, scale: float) -> dict[str, Any]:
    """One row for every input, another one for each number."""
    random = numpy.random.default_rng(number)
    row: dict[str, Any] = {}
    for spec in model.signature.inputs:
        shape = (1, *(dim if isinstance(dim, int) else sizes[dim] for dim in spec.dims[1:]))
        if spec.type.word == "string":
            row[spec.name] = random.choice(_WORDS, shape).astype(object)
        elif spec.type.name.startswith(("float", "bfloat")):
            row[spec.name] = random.random(shape) * scale
        else:
            ones = random.random(shape) < _ONES[number]
            row[spec.name] = ones if spec.type.word == "boolean" else ones.astype(numpy.int64)
    return row


def _run_alone(model: Model, values: Mapping[str, Any], deadline: Deadline | None) -> list[Any]:
    """What one row answers, in memory of its own."""
    request = model.inputs.collect(values)
    try:
        return [to_python(output) for output in model.execution.run(request, deadline)]
    finally:
        request.release()


def _compare(
    model: Model,
    rows: Sequence[Mapping[str, Any]],
    alone: Sequence[Sequence[Any]],
    deadline: Deadline | None,
) -> str | None:
    """What differs where rows run together."""
    requests: list[Request] = []
    together = None
    try:
        requests += [model.inputs.collect(row) for row in rows]
        together = gather(requests, model.signature, model.pool)
        parts = scatter(model.execution.run(together, deadline), [1] * len(rows))
        for own, expected in zip(parts, alone, strict=True):
            for part, value, spec in zip(own, expected, model.signature.outputs, strict=True):
                assert isinstance(spec, TensorSpec)
                if not _agree(to_python(part), value, spec.type.name):
                    return f"output '{spec.name}' differs between rows together and one by one"
    except MixedRowsError as error:
        return f"rows together gave {error}"
    except DeadlineError:
        return "the trial of its rows took too long"
    except (GpuxError, MemoryError) as error:
        return f"rows together could not be run: {error}"
    finally:
        for request in (*requests, *([together] if together else [])):
            request.release()
    return None


def _agree(one: Any, other: Any, type_name: str) -> bool:
    if one.shape != other.shape:
        return False
    if type_name not in _TOLERANCES:
        return bool((one == other).all())
    relative, absolute = _TOLERANCES[type_name]
    return bool(
        numpy.allclose(one.astype(float), other.astype(float), relative, absolute, equal_nan=True)
    )
