"""Whether a model gives the same answers to rows together as one by one: found by trying.

A batch axis is only a name. A model may normalize over it, draw random numbers, or mix its rows up
otherwise; then requests of different clients must never run together. Nor need it pass over what
shorter rows are filled up with.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy

from gpux.errors import DeadlineError, GpuxError
from gpux.execution.deadline import Deadline
from gpux.model import Model
from gpux.serving.batch import MixedRowsError, collate, shapes_of, split
from gpux.serving.padding import Padding
from gpux.tensors.outputs import to_python
from gpux.tensors.request import Request
from gpux.tensors.signature import Dim, OtherSpec, TensorSpec

_TOO_LONG = "the trial of its rows took too long"
_ROWS = 3
# Rows unlike each other, so that what is taken over all of them shows: the range of their floats,
# and the share of ones among their integers.
_SCALES = (1.0, 0.01, 16.0)
_ONES = (0.5, 0.9, 0.2)
_MAX_BYTES = 2**28  # of a row
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

Sizes = Mapping[Dim, int]
Sample = Mapping[str, Any]
# The sizes of each row, and what makes a row of its sizes and its number.
Trial = tuple[Sequence[Sizes], Callable[[Sizes, int], Sample]]


def find_obstacle(
    model: Model, deadline: Deadline | None = None, recorded: Sequence[Sample] = ()
) -> str | None:
    """Why requests for a model cannot run together; None if they can.

    A few rows are run, alone and together: those of a recorded request, if it has two that differ,
    and generated ones, floats from 0 to 16 and integers 0 and 1. Where recorded rows agree, those
    that were generated may be none that the model takes.

    Args:
        model: a loaded one.
        deadline: of the trial.
        recorded: rows that the model takes.
    """
    obstacle = _missing_axis(model) or _mixing_node(model)
    if obstacle is not None:
        return obstacle
    unlike = _unlike_each_other(recorded)
    if unlike:
        try:
            obstacle = _difference(model, unlike, deadline)
        except DeadlineError:
            return _TOO_LONG
        except (GpuxError, MemoryError) as error:
            return f"the recorded rows could not be run: {error}"
    return obstacle or _disagreement(model, _equal_rows(model), deadline, needed=not unlike)


def _unlike_each_other(rows: Sequence[Sample]) -> Sequence[Sample]:
    """As many rows as a trial takes; none, if there are no two that differ."""
    different: list[Sample] = []
    for row in rows:
        if not any(all((row[name] == other[name]).all() for name in row) for other in different):
            different.append(row)
        if len(different) == _ROWS:
            break
    return [different[number % len(different)] for number in range(_ROWS)] if different[1:] else ()


def try_padding(model: Model, padding: Padding, deadline: Deadline | None = None) -> Padding | str:
    """Whether requests of different lengths can run together.

    Generated rows are run, alone and padded together. They are unlike what pads them: floats above
    and below it, whichever of the integers 0 and 1 it is not, and masks that hide nothing.

    Args:
        model: one whose requests of equal lengths run together.
        padding: of its rows.
        deadline: of the trial.

    Returns:
        The padding with those buckets that the model can run, or why there is none.
    """
    problem = _disagreement(model, _unequal_rows(model, padding), deadline, padding)
    if problem:
        return problem
    # A model may end somewhere, as a table of positions does.
    buckets = padding.buckets
    while len(buckets) > 1 and not _can_run(model, padding, buckets[-1], deadline):
        buckets = buckets[:-1]
    return replace(padding, buckets=buckets)


def _can_run(model: Model, padding: Padding, bucket: int, deadline: Deadline | None) -> bool:
    """Whether the model runs a row that is as long as a bucket."""
    for others in _candidates(model, padding):
        sizes = dict(others)
        sizes.update(dict.fromkeys(padding.axes, bucket))
        if _row_bytes(model, sizes) > _MAX_BYTES:
            continue
        try:
            _run_alone(model, _padded_row(model, padding, sizes, 0), deadline)
        except DeadlineError:
            return True  # it fails at nothing but the time that is left
        except (GpuxError, MemoryError):
            continue
        return True
    return False


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


def _equal_rows(model: Model) -> Iterator[Trial]:
    """Rows of the same sizes, until some can be run."""
    for scales in (_SCALES, (1.0,) * _ROWS):

        def make(sizes: Sizes, number: int, scales: Sequence[float] = scales) -> Sample:
            return _row(model, sizes, number, scales[number])

        for sizes in _candidates(model):
            yield [sizes] * _ROWS, make


def _unequal_rows(model: Model, padding: Padding) -> Iterator[Trial]:
    """Rows that differ along each padded axis, until some can be run."""

    def make(sizes: Sizes, number: int) -> Sample:
        return _padded_row(model, padding, sizes, number)

    for bucket in padding.buckets:
        # All of them shorter than the bucket, where that can be.
        lengths = [max(1, bucket // 4), max(1, bucket // 2), max(1, bucket - 1)]
        for others in _candidates(model, padding):
            all_sizes = []
            for number in range(_ROWS):
                sizes = dict(others)
                for place, dim in enumerate(padding.axes):
                    # Along another axis another row is the longest.
                    sizes[dim] = lengths[(number + place) % _ROWS]
                all_sizes.append(sizes)
            yield all_sizes, make


def _disagreement(
    model: Model,
    trials: Iterator[Trial],
    deadline: Deadline | None,
    padding: Padding | None = None,
    *,
    needed: bool = True,
) -> str | None:
    """In which output rows together differ from rows alone, in the first trial that can be run.

    If none can, that is no obstacle where none is needed.
    """
    problem = "no generated rows could be run"
    for sizes, make in trials:
        if max(_row_bytes(model, own) for own in sizes) > _MAX_BYTES:
            problem = "its rows are too large to try"
            continue
        rows = [make(own, number) for number, own in enumerate(sizes)]
        try:
            return _difference(model, rows, deadline, padding)
        except DeadlineError:
            problem = _TOO_LONG
            break
        except (GpuxError, MemoryError) as error:
            problem = f"no generated rows could be run: {error}"
    return problem if needed else None


def _difference(
    model: Model, rows: Sequence[Sample], deadline: Deadline | None, padding: Padding | None = None
) -> str | None:
    """In which output rows together differ from rows alone.

    Raises:
        GpuxError, MemoryError: they cannot be run alone.
    """
    alone = [_run_alone(model, row, deadline) for row in rows]
    return _unlike(model, alone) or _compare_orders(model, rows, alone, deadline, padding)


def generate(model: Model) -> Iterator[Sample]:
    """Requests of one row, made up for any model, for want of real ones; not all can be run."""
    for sizes in _candidates(model):
        if _row_bytes(model, sizes) <= _MAX_BYTES:
            yield _row(model, sizes, 0, 1.0)


def _row_bytes(model: Model, sizes: Sizes) -> int:
    return sum(
        spec.type.nbytes * math.prod(_row_shape(spec, sizes)) for spec in model.signature.inputs
    )


def _unlike(model: Model, alone: Sequence[Sequence[Any]]) -> str | None:
    """Whether answers tell nothing: no finite number, or none at all."""
    for index, spec in enumerate(model.signature.outputs):
        values = [answers[index] for answers in alone]
        is_float = all(value.dtype.kind == "f" for value in values)
        if any(value.size == 0 for value in values) or (
            is_float and not any(numpy.isfinite(value.astype(float)).any() for value in values)
        ):
            return f"output '{spec.name}' of the rows that were tried tells nothing"
    return None


def _compare_orders(
    model: Model,
    rows: Sequence[Sample],
    alone: Sequence[Sequence[Any]],
    deadline: Deadline | None,
    padding: Padding | None,
) -> str | None:
    """What differs where the same rows run together, in this order, another, and one twice."""
    for order in ((0, 1, 2), (2, 0, 1), (0, 0, 1)):
        problem = _compare(
            model,
            [rows[number] for number in order],
            [alone[number] for number in order],
            deadline,
            padding,
        )
        if problem:
            return problem
    return None


def _candidates(model: Model, padding: Padding | None = None) -> Iterator[Sizes]:
    """Sizes to try for the dynamic axes behind the batch's, but for those that are padded."""
    names = {dim for spec in model.signature.inputs for dim in spec.dims[1:]}
    dynamic = {dim for dim in names if not isinstance(dim, int)}
    dynamic -= set(padding.axes) if padding else set()
    for size in _SIZES if dynamic else _SIZES[:1]:
        yield dict.fromkeys(dynamic, size)


def _row(model: Model, sizes: Sizes, number: int, scale: float) -> dict[str, Any]:
    """One row for every input, another one for each number."""
    random = numpy.random.default_rng(number)
    row: dict[str, Any] = {}
    for spec in model.signature.inputs:
        shape = _row_shape(spec, sizes)
        if spec.type.word == "string":
            row[spec.name] = numpy.asarray(random.choice(_WORDS, shape), object)
        elif spec.type.name.startswith(("float", "bfloat")):
            row[spec.name] = numpy.asarray(random.random(shape) * scale)
        else:
            ones = numpy.asarray(random.random(shape) < _ONES[number])
            row[spec.name] = ones if spec.type.word == "boolean" else ones.astype(numpy.int64)
    return row


def _padded_row(model: Model, padding: Padding, sizes: Sizes, number: int) -> Sample:
    """One row for every input, as unlike its padding as can be."""
    random = numpy.random.default_rng(number)
    row = _row(model, sizes, number, 1.0)
    for spec in model.signature.inputs:
        if spec.name not in padding.values:
            continue
        filler = padding.values[spec.name]
        shape = _row_shape(spec, sizes)
        if "mask" in spec.name:  # it tells what is padding
            row[spec.name] = numpy.full(
                shape, not filler if spec.type.word == "boolean" else int(filler != 1)
            )
        elif spec.type.name.startswith(("float", "bfloat")):
            # Above it, below it, and around it: what a largest or a least element shows.
            least, most = ((0.1, 1.0), (-1.0, -0.1), (-1.0, 1.0))[number]
            row[spec.name] = filler + random.uniform(least, most, shape)
        elif spec.type.word == "boolean":
            row[spec.name] = numpy.full(shape, not filler)
        else:
            row[spec.name] = random.choice([value for value in (0, 1) if value != filler], shape)
    return row


def _row_shape(spec: TensorSpec, sizes: Sizes) -> tuple[int, ...]:
    """Of one row, or of all where an input has none."""
    if not spec.dims:
        return ()
    leading = spec.dims[0] if spec.kind == "fixed" else 1
    known = (leading, *spec.dims[1:])
    return tuple(dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in known)


def _run_alone(model: Model, values: Sample, deadline: Deadline | None) -> list[Any]:
    """What one row answers, in memory of its own."""
    request = model.inputs.collect(values)
    try:
        return [to_python(output) for output in model.execution.run(request, deadline)]
    finally:
        request.release()


def _compare(
    model: Model,
    rows: Sequence[Sample],
    alone: Sequence[Sequence[Any]],
    deadline: Deadline | None,
    padding: Padding | None,
) -> str | None:
    """What differs where rows run together."""
    requests: list[Request] = []
    together = None
    how = "padded together" if padding else "together"
    try:
        requests += [model.inputs.collect(row) for row in rows]
        layout = padding.lay_out([shapes_of(request) for request in requests]) if padding else None
        together = collate(requests, model.signature, model.pool, layout)
        parts = split(model.execution.run(together, deadline), [1] * len(rows), layout)
        for own, expected in zip(parts, alone, strict=True):
            for part, value, spec in zip(own, expected, model.signature.outputs, strict=True):
                assert isinstance(spec, TensorSpec)
                if not _agree(to_python(part), value, spec.type.name):
                    return f"output '{spec.name}' differs between rows {how} and one by one"
    except MixedRowsError as error:
        return f"rows {how} gave {error}"
    except DeadlineError:
        return _TOO_LONG
    except (GpuxError, MemoryError) as error:
        return f"rows {how} could not be run: {error}"
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
