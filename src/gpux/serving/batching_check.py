"""Checks by experiment whether a model computes the same for batched rows as for single ones.

A batch axis is only a name. A model may normalize over it, draw random numbers or mix its rows in
another way; requests of different clients must then never share a batch. Nor do all models ignore
the padding of shorter rows.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from gpux._engine import Outputs
from gpux.errors import DeadlineError, GpuxError
from gpux.execution.deadline import Deadline
from gpux.model import Model
from gpux.serving.batch import MixedRowsError, collate, shapes_of, split
from gpux.serving.padding import Padding
from gpux.tensors.signature import Dim, NonTensorSpec, TensorSpec

_TOO_LONG = "the trial of its rows took too long"
_ROWS = 3
# Scales of floats and shares of ones among integers. They differ by row, so that statistics over
# all rows show.
_SCALES = (1.0, 0.01, 16.0)
_ONES = (0.5, 0.9, 0.2)
_MAX_BYTES = 2**28  # per row
# Common sizes of dynamic axes, much as in cli/examples.py.
_SIZES = (8, 1, 4, 16, 32, 64, 128, 224, 256)
_WORDS = ("good", "bad", "")
# Relative and absolute tolerances by element type: with more rows, a matrix product sums in another
# order.
_TOLERANCES = {
    "float32": (1e-3, 1e-4),
    "float64": (1e-9, 1e-10),
    "float16": (2e-2, 2e-3),
    "bfloat16": (1e-1, 2e-2),
}

Sizes = Mapping[Dim, int]
Sample = Mapping[str, Any]
# The sizes of each row, and a function that makes a row from its sizes and index.
Trial = tuple[Sequence[Sizes], Callable[[Sizes, int], Sample]]


def find_obstacle(
    model: Model, deadline: Deadline | None = None, recorded: Sequence[Sample] = ()
) -> str | None:
    """Finds out why requests for a model cannot be batched; None if they can.

    A few rows are run alone and batched: those of a recorded request, if at least two differ, and
    generated ones, floats from 0 to 16 and integers 0 and 1. If the recorded rows agree, the model
    need not accept the generated ones.

    Args:
        model: a loaded model.
        deadline: of the check.
        recorded: rows that the model accepts.
    """
    obstacle = _missing_axis(model) or _mixing_node(model)
    if obstacle is not None:
        return obstacle
    distinct = _distinct_rows(recorded)
    if distinct:
        try:
            obstacle = _compare_batched(model, distinct, deadline)
        except DeadlineError:
            return _TOO_LONG
        except (GpuxError, MemoryError) as error:
            return f"the recorded rows could not be run: {error}"
    return obstacle or _try_in_turn(model, _equal_rows(model), deadline, needed=not distinct)


def _distinct_rows(rows: Sequence[Sample]) -> Sequence[Sample]:
    """_ROWS rows, at least two of them different; empty if all recorded rows are equal."""
    different: list[Sample] = []
    for row in rows:
        if not any(all((row[name] == other[name]).all() for name in row) for other in different):
            different.append(row)
        if len(different) == _ROWS:
            break
    return [different[number % len(different)] for number in range(_ROWS)] if different[1:] else ()


def try_padding(model: Model, padding: Padding, deadline: Deadline | None = None) -> Padding | str:
    """Checks whether requests of different lengths can share a batch.

    Generated rows are run alone, then padded in one batch. They differ from the pad value: floats
    above and below it, the integers 0 and 1 other than it, and masks that hide nothing.

    Args:
        model: one whose requests of equal lengths can be batched.
        padding: the padding to check.
        deadline: of the check.

    Returns:
        The padding, with the buckets that the model can run, or why it cannot be padded.
    """
    problem = _try_in_turn(model, _unequal_rows(model, padding), deadline, padding)
    if problem:
        return problem
    # A model may have a maximum length, such as that of a table of position embeddings.
    buckets = padding.buckets
    while len(buckets) > 1 and not _can_run(model, padding, buckets[-1], deadline):
        buckets = buckets[:-1]
    return replace(padding, buckets=buckets)


def _can_run(model: Model, padding: Padding, bucket: int, deadline: Deadline | None) -> bool:
    """Whether the model runs a row as long as the bucket."""
    for others in _candidates(model, padding):
        sizes = dict(others)
        sizes.update(dict.fromkeys(padding.axes, bucket))
        if _row_bytes(model, sizes) > _MAX_BYTES:
            continue
        try:
            _run_alone(model, _padded_row(model, padding, sizes, 0), deadline)
        except DeadlineError:
            return True  # out of time, which says nothing about the model
        except (GpuxError, MemoryError):
            continue
        return True
    return False


def _missing_axis(model: Model) -> str | None:
    """Reports an input or output without a leading batch axis; None if all have one."""
    signature = model.signature
    if not signature.inputs:
        return "it has no inputs"
    for spec in signature.inputs:
        if spec.kind != "batched":
            return f"input '{spec.name}' does not lead with a batch axis"
    for output in signature.outputs:
        if isinstance(output, NonTensorSpec):
            return f"output '{output.name}' is no tensor"
        leads = output.dims and output.dims[0] in signature.batch_axes
        if not (leads if output.batched is None else output.batched):
            return f"output '{output.name}' does not lead with the batch axis"
    return None


def _mixing_node(model: Model) -> str | None:
    """Reports a node known to compute across rows, which the runs may not reveal."""
    for nodes in (model.placement or {}).values():
        for node in nodes:
            if node.startswith("DynamicQuantize"):
                return f"node '{node}' scales all rows by the largest number in them"
    return None


def _equal_rows(model: Model) -> Iterator[Trial]:
    """Trials with rows of equal sizes; the first that can be run decides."""
    for scales in (_SCALES, (1.0,) * _ROWS):

        def make(sizes: Sizes, number: int, scales: Sequence[float] = scales) -> Sample:
            return _row(model, sizes, number, scales[number])

        for sizes in _candidates(model):
            yield [sizes] * _ROWS, make


def _unequal_rows(model: Model, padding: Padding) -> Iterator[Trial]:
    """Trials with rows that differ along each padded axis; the first that can be run decides."""

    def make(sizes: Sizes, number: int) -> Sample:
        return _padded_row(model, padding, sizes, number)

    for bucket in padding.buckets:
        # All shorter than the bucket where possible.
        lengths = [max(1, bucket // 4), max(1, bucket // 2), max(1, bucket - 1)]
        for others in _candidates(model, padding):
            all_sizes = []
            for number in range(_ROWS):
                sizes = dict(others)
                for position, dim in enumerate(padding.axes):
                    # The longest row differs by axis.
                    sizes[dim] = lengths[(number + position) % _ROWS]
                all_sizes.append(sizes)
            yield all_sizes, make


def _try_in_turn(
    model: Model,
    trials: Iterator[Trial],
    deadline: Deadline | None,
    padding: Padding | None = None,
    *,
    needed: bool = True,
) -> str | None:
    """Reports an output that differs between batched and single rows, in the first runnable trial.

    If no trial can be run, that is an obstacle only if one is needed.
    """
    problem = "no generated rows could be run"
    for sizes, make in trials:
        if max(_row_bytes(model, row_sizes) for row_sizes in sizes) > _MAX_BYTES:
            problem = "its rows are too large to try"
            continue
        rows = [make(row_sizes, number) for number, row_sizes in enumerate(sizes)]
        try:
            return _compare_batched(model, rows, deadline, padding)
        except DeadlineError:
            problem = _TOO_LONG
            break
        except (GpuxError, MemoryError) as error:
            problem = f"no generated rows could be run: {error}"
    return problem if needed else None


def _compare_batched(
    model: Model, rows: Sequence[Sample], deadline: Deadline | None, padding: Padding | None = None
) -> str | None:
    """Reports an output that differs between batched and single rows.

    Raises:
        GpuxError, MemoryError: a row cannot be run alone.
    """
    alone = [_run_alone(model, row, deadline) for row in rows]
    return _uninformative(model, alone) or _compare_orders(model, rows, alone, deadline, padding)


def generate(model: Model) -> Iterator[Sample]:
    """Generates one-row requests for a model without a recorded one; not all can be run."""
    for sizes in _candidates(model):
        if _row_bytes(model, sizes) <= _MAX_BYTES:
            yield _row(model, sizes, 0, 1.0)


def _row_bytes(model: Model, sizes: Sizes) -> int:
    return sum(
        spec.type.nbytes * math.prod(_row_shape(spec, sizes)) for spec in model.signature.inputs
    )


def _uninformative(model: Model, alone: Sequence[Outputs]) -> str | None:
    """Reports an output without values, or without finite ones, which proves nothing."""
    for index, spec in enumerate(model.signature.outputs):
        has_elements = all(0 not in (outputs.shapes[index] or ()) for outputs in alone)
        if not has_elements or not any(outputs.is_informative(index) for outputs in alone):
            return f"output '{spec.name}' of the rows that were tried tells nothing"
    return None


def _compare_orders(
    model: Model,
    rows: Sequence[Sample],
    alone: Sequence[Outputs],
    deadline: Deadline | None,
    padding: Padding | None,
) -> str | None:
    """Reports an output that differs when the rows are batched: in order, permuted, or repeated."""
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
    """Sizes to try for the dynamic axes, except the batch axis and padded axes."""
    names = {dim for spec in model.signature.inputs for dim in spec.dims[1:]}
    dynamic = {dim for dim in names if not isinstance(dim, int)}
    dynamic -= set(padding.axes) if padding else set()
    for size in _SIZES if dynamic else _SIZES[:1]:
        yield dict.fromkeys(dynamic, size)


def _row(model: Model, sizes: Sizes, number: int, scale: float) -> dict[str, Any]:
    """A generated value of one row for each input; `number` seeds it."""
    random = Random(number)  # noqa: S311 - rows for a trial
    row: dict[str, Any] = {}
    for spec in model.signature.inputs:
        shape = _row_shape(spec, sizes)
        count = math.prod(shape)
        elements: list[Any]
        if spec.type.word == "string":
            elements = random.choices(_WORDS, k=count)
        elif spec.type.name.startswith(("float", "bfloat")):
            elements = [random.random() * scale for _ in range(count)]
        else:
            kind = bool if spec.type.word == "boolean" else int
            elements = [kind(random.random() < _ONES[number]) for _ in range(count)]
        row[spec.name] = _nest(elements, shape)
    return row


def _nest(elements: list[Any], shape: Sequence[int]) -> Any:
    """Elements in C order as nested lists of a shape."""
    if not shape:
        return elements[0]
    for size in reversed(shape[1:]):
        elements = [elements[start : start + size] for start in range(0, len(elements), size)]
    return elements


def _padded_row(model: Model, padding: Padding, sizes: Sizes, number: int) -> Sample:
    """A generated row that differs from its padding as much as possible."""
    import numpy

    random = numpy.random.default_rng(number)
    row = _row(model, sizes, number, 1.0)
    for spec in model.signature.inputs:
        if spec.name not in padding.values:
            continue
        pad_value = padding.values[spec.name]
        shape = _row_shape(spec, sizes)
        if "mask" in spec.name:  # it marks the padding
            row[spec.name] = numpy.full(
                shape, not pad_value if spec.type.word == "boolean" else int(pad_value != 1)
            )
        elif spec.type.name.startswith(("float", "bfloat")):
            # Above, below and around the pad value, so that a maximum or minimum reveals padding.
            low, high = ((0.1, 1.0), (-1.0, -0.1), (-1.0, 1.0))[number]
            row[spec.name] = pad_value + random.uniform(low, high, shape)
        elif spec.type.word == "boolean":
            row[spec.name] = numpy.full(shape, not pad_value)
        else:
            row[spec.name] = random.choice([value for value in (0, 1) if value != pad_value], shape)
    return row


def _row_shape(spec: TensorSpec, sizes: Sizes) -> tuple[int, ...]:
    """The shape of one row; the whole shape of an input without rows."""
    if not spec.dims:
        return ()
    leading = spec.dims[0] if spec.kind == "fixed" else 1
    known = (leading, *spec.dims[1:])
    return tuple(dim if isinstance(dim, int) else sizes.get(dim, 1) for dim in known)


def _run_alone(model: Model, values: Sample, deadline: Deadline | None) -> Outputs:
    return model.execution.run(model.inputs.collect(values), deadline)


def _compare(
    model: Model,
    rows: Sequence[Sample],
    alone: Sequence[Outputs],
    deadline: Deadline | None,
    padding: Padding | None,
) -> str | None:
    """Reports an output that differs between the rows in one batch and alone."""
    how = "padded together" if padding else "together"
    try:
        requests = [model.inputs.collect(row) for row in rows]
        layout = None
        if padding:
            layout = padding.lay_out([shapes_of(each, model.signature) for each in requests])
        batch = collate(requests, model.pipeline, layout)
        parts = split(model.execution.run(batch, deadline), [1] * len(rows), layout)
        for part, expected in zip(parts, alone, strict=True):
            for index, spec in enumerate(model.signature.outputs):
                assert isinstance(spec, TensorSpec)
                tolerances = _TOLERANCES.get(spec.type.name, (0.0, 0.0))
                if not part.is_close(index, expected, *tolerances):
                    return f"output '{spec.name}' differs between rows {how} and one by one"
    except MixedRowsError as error:
        return f"rows {how} gave {error}"
    except DeadlineError:
        return _TOO_LONG
    except (GpuxError, MemoryError) as error:
        return f"rows {how} could not be run: {error}"
    return None
