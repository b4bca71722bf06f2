"""Collates requests into one batch along the batch axis, and splits its outputs again."""

from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate

from gpux._engine import Outputs, Pipeline, Request
from gpux.serving.padding import Axes, PaddedLayout, Padding
from gpux.tensors.signature import Signature


class MixedRowsError(Exception):
    """The rows of a batch depend on each other, whatever the names of the model's axes suggest."""


def batch_key(
    request: Request, signature: Signature, padding: Padding | None = None
) -> Hashable | None:
    """The batch key of a request: requests with equal keys fit into one batch.

    Args:
        request: a complete request.
        signature: the model's.
        padding: makes items of different lengths compatible.

    Returns None if the request must run alone: another library owns memory of it, or its inputs
    have different row counts, which only the model can interpret.
    """
    key = request.batch_key()
    if key is None or padding is None:
        return key
    shapes = shapes_of(request, signature)
    return tuple([padding.item_shape(name, shape) for name, shape in shapes.items()])


def shapes_of(request: Request, signature: Signature) -> dict[str, tuple[int, ...]]:
    """The shape of each input by name, including the batch axis."""
    return {
        spec.name: request.form(spec.name)[0] for spec in signature.inputs if spec.name in request
    }


def collate(
    requests: Sequence[Request], pipeline: Pipeline, layout: PaddedLayout | None = None
) -> Request:
    """Concatenates requests along the batch axis, in their order.

    Args:
        requests: of equal batch keys; only read.
        pipeline: the model's.
        layout: their padding; None if all items have the same shapes.

    Raises:
        MemoryError: out of memory.
    """
    if layout is None:
        return pipeline.gather(list(requests))
    padded = padding_of(requests[0], layout)
    return pipeline.gather(list(requests), padded, is_left=layout.padding.is_left)


def padding_of(request: Request, layout: PaddedLayout) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """How inputs are padded: by name, the batch's shape and the bytes of the element that pads.

    Args:
        request: any of the batch.
        layout: the padding of the batch.
    """
    padded = {}
    for name, element in layout.padding.elements.items():
        if axes := layout.input_axes(name):
            shape = layout.padded_shape(request.form(name)[0], axes)
            padded[name] = shape, element.tobytes()
    return padded


def split(
    outputs: Outputs, rows: Sequence[int], layout: PaddedLayout | None = None
) -> list[Outputs]:
    """Splits the outputs of a batch into those of its requests.

    Args:
        outputs: of the batch; all are tensors.
        rows: row count of each request, in batch order.
        layout: their padding, which is cut off.

    Returns:
        The outputs of each request, in the batch's memory; a cut part that is not contiguous there
        is copied into memory of its own.

    Raises:
        MixedRowsError: the row count or a padded length of an output is not the batch's, so its
            rows cannot be attributed to requests.
    """
    shapes, total = outputs.shapes, sum(rows)
    padded = [layout.output_axes(index) if layout else () for index in range(len(shapes))]
    for shape, axes in zip(shapes, padded, strict=True):
        if not shape or shape[0] != total:
            raise MixedRowsError(f"an output of shape {list(shape or ())} for {total} rows")
        if layout and layout.padded_shape(shape, axes) != shape:
            sizes = ", ".join(f"{dim} {size}" for dim, size in layout.widths.items())
            raise MixedRowsError(f"an output of shape {list(shape)} for {sizes}")
    firsts = accumulate(rows, initial=0)
    if layout is None:
        return [outputs.part(first, count) for first, count in zip(firsts, rows, strict=False)]
    return [
        outputs.part(
            first,
            count,
            [
                _cut(shape, axes, sizes) if shape and axes else None
                for shape, axes in zip(shapes, padded, strict=True)
            ],
            is_left=layout.padding.is_left,
        )
        for first, count, sizes in zip(firsts, rows, layout.sizes, strict=False)
    ]


def _cut(shape: tuple[int, ...], axes: Axes, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """An output's shape without the leading axis, with a request's sizes of the padded axes."""
    own = {axis: sizes[dim] for axis, dim in axes}
    return tuple([own.get(axis, size) for axis, size in enumerate(shape)][1:])
