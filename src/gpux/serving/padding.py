"""How requests of different lengths lie in one batch: along which axes, with what, and how far.

A batch has one size along each axis. Where the file or the tokenizer says what fills an input up,
shorter requests are padded, and what the model answers there is cut off again. Sizes go in and come
out here; rows.py copies.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gpux._fastpath import InputSpec, walk
from gpux.config.schema import ModelConfig
from gpux.config.yaml import show
from gpux.errors import ClientError
from gpux.inputs.tokenizer import TextEncoder
from gpux.tensors.memory import Block, Pool
from gpux.tensors.signature import OtherSpec, Signature, TensorSpec, stored_as

# A CPU computes padding like everything else, and with sizes that double it would lose more by it
# than company saves: from 16 on there are four to a power of two, and a tenth of a batch is filled
# up. A GPU has room for that, and wants company, and few shapes for its graphs. Beyond the last one
# there is so much to compute for one request that company saves little.
_BUCKETS_ON_CPU = (
    *(*range(4, 32, 4), *range(32, 64, 8), *range(64, 128, 16)),
    *(*range(128, 256, 32), *range(256, 513, 64)),
)
_BUCKETS_ON_GPU = (16, 32, 64, 128, 256, 512)

# The padded axes of a tensor: which one it is, and its name.
Axes = tuple[tuple[int, str], ...]
Window = tuple[slice, ...]
Value = int | float | bool


@dataclass(frozen=True)
class Padding:
    """How requests of one model are padded.

    Attributes:
        values: what fills up each padded input, as it was declared.
        elements: the same, as NumPy has it.
        buckets: sizes to which others are rounded up, ascending.
        inputs, outputs: which of their axes are padded; outputs in the order of the signature.
        is_left: a request lies at the end of its axes, and not at their beginning.
    """

    values: Mapping[str, Value]
    elements: Mapping[str, Any]
    buckets: tuple[int, ...]
    inputs: Mapping[str, Axes]
    outputs: tuple[Axes, ...]
    is_left: bool = False

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The names of the padded axes."""
        return tuple(dict.fromkeys(name for axes in self.inputs.values() for _, name in axes))

    def round_up(self, size: int) -> int:
        """The size to which one is padded: itself, if there is no bucket for it.

        That is one larger than all buckets, and 0: of nothing but padding no model makes sense.
        """
        if not 0 < size <= self.buckets[-1]:
            return size
        return self.buckets[bisect_left(self.buckets, size)]

    def item_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What the items of an input look like when they are padded: equal ones fit together.

        Args:
            name: the input's.
            shape: of its tensor, with the batch axis.
        """
        sizes = list(shape)
        for axis, _ in self.inputs.get(name, ()):
            sizes[axis] = self.round_up(sizes[axis])
        return tuple(sizes[1:])

    def lay_out(self, requests: Sequence[Mapping[str, tuple[int, ...]]]) -> "PaddedLayout":
        """How requests lie in one batch.

        Args:
            requests: the shape of each input, by name.

        Along an axis where all are equally long there is nothing to pad. Otherwise they are padded
        to the bucket, and not just to the longest of them: the same few shapes then come again, for
        which a GPU has its graphs and ONNX Runtime its plan of the memory. What that costs is
        bounded by the next smaller bucket.
        """
        sizes = [
            {dim: shapes[name][axis] for name, axes in self.inputs.items() for axis, dim in axes}
            for shapes in requests
        ]
        widths: dict[str, int] = {}
        for dim in self.axes:
            found = {own[dim] for own in sizes}
            if len(found) > 1:
                widths[dim] = self.round_up(max(found))
        return PaddedLayout(self, widths, sizes)

    def sizes(self) -> Iterator[Mapping[str, int]]:
        """Sizes that a padded batch may have, by axis, for a warm-up: each bucket along all axes.

        Of several axes not every bucket of one with every bucket of another: those are hundreds.
        """
        for bucket in self.buckets:
            yield dict.fromkeys(self.axes, bucket)

    def describe(self) -> dict[str, Any]:
        """What /info says of it."""
        return {"values": dict(self.values), "buckets": list(self.buckets)}


@dataclass(frozen=True, slots=True)
class PaddedLayout:
    """How several requests lie in one batch.

    Attributes:
        padding: the model's.
        widths: the batch's sizes along the axes where the requests differ, by name.
        sizes: those of each request, along all padded axes.
    """

    padding: Padding
    widths: Mapping[str, int]
    sizes: Sequence[Mapping[str, int]]

    def input_axes(self, name: str) -> Axes:
        """Those axes of an input along which some of the requests are padded."""
        return self._padded(self.padding.inputs.get(name, ()))

    def output_axes(self, index: int) -> Axes:
        """Those axes of an output, by its index in the signature, along which it is cut."""
        return self._padded(self.padding.outputs[index])

    def _padded(self, axes: Axes) -> Axes:
        return tuple(axis for axis in axes if axis[1] in self.widths)

    def widen(self, shape: tuple[int, ...], padded: Axes) -> tuple[int, ...]:
        """The shape of a tensor of the batch."""
        sizes = list(shape)
        for axis, dim in padded:
            sizes[axis] = self.widths[dim]
        return tuple(sizes)

    def windows(self, axes: int, padded: Axes, rows: Sequence[int]) -> Iterator[Window]:
        """Where each request lies in a tensor of the batch.

        Args:
            axes: of the tensor.
            padded: those along which something is.
            rows: of each request.
        """
        first = 0
        for count, sizes in zip(rows, self.sizes, strict=True):
            window = [slice(first, first + count)] + [slice(None)] * (axes - 1)
            for axis, dim in padded:
                size, width = sizes[dim], self.widths[dim]
                start = width - size if self.padding.is_left else 0
                window[axis] = slice(start, start + size)
            yield tuple(window)
            first += count


def find_padding(
    signature: Signature,
    config: ModelConfig,
    text: TextEncoder | None = None,
    *,
    is_on_gpu: bool = False,
) -> Padding | str:
    """How a model's requests are padded, by its gpux.yml, or else by its tokenizer.

    Args:
        signature: the model's, with what gpux.yml says of its axes.
        config: gpux.yml.
        text: makes ids of texts, where the model takes them.
        is_on_gpu: the model runs there.

    Returns:
        The padding, or why there is none.

    Raises:
        ConfigurationError: gpux.yml asks for what cannot be.
    """
    serving = config.content.serving
    values: Mapping[str, Value] = {}
    buckets: tuple[int, ...] = _BUCKETS_ON_GPU if is_on_gpu else _BUCKETS_ON_CPU
    is_left = False
    without = "serving.padding does not say with what"
    if not signature.has_lengths:
        without = "all items have the same shapes"
    if text is not None:
        values, is_left = text.fillers, text.pads_left
        without = "the tokenizer names no token to pad with"
        # No text is longer, and a table of positions often ends there.
        shorter = [size for size in buckets if size < text.max_length]
        buckets = (*shorter, text.max_length)[: len(buckets)]
    if serving.padding is not None:
        values, without = serving.padding, "serving.padding is empty"
    if not values:
        if serving.buckets is not None:
            config.fail("serving", "buckets", problem=f"nothing is padded to them: {without}")
        return without
    try:
        return _create(signature, values, serving.buckets or buckets, is_left=is_left)
    except _ImpossibleError as error:
        if serving.padding is not None:
            config.fail("serving", "padding", *error.path, problem=str(error))
        return str(error)


class _ImpossibleError(Exception):
    """Requests of a model cannot be padded.

    Args:
        problem: why.
        path: the input that it is about, below serving.padding.
    """

    def __init__(self, problem: str, *path: str) -> None:
        super().__init__(problem)
        self.path = path


def _create(
    signature: Signature, values: Mapping[str, Value], buckets: tuple[int, ...], *, is_left: bool
) -> Padding:
    specs = {spec.name: spec for spec in signature.inputs}
    for name in values:
        if name not in specs:
            known = ", ".join(show(known_name) for known_name in specs)
            raise _ImpossibleError(f"the model has no such input; its inputs are {known}", name)
    elements = {name: _element(specs[name], value) for name, value in values.items()}
    inputs = {name: _padded_axes(specs[name]) for name in values}
    _check_axes(signature, inputs)
    outputs = tuple(_named(spec, inputs) for spec in signature.outputs)
    return Padding(values, elements, buckets, inputs, outputs, is_left)


def _element(spec: TensorSpec, value: Value) -> Any:
    """A value as an element of an input, by the rules for those of requests."""
    if spec.type.word == "string":
        raise _ImpossibleError("only numbers are filled up, and it is string", spec.name)
    try:
        content, *_ = walk(InputSpec(TensorSpec(spec.name, spec.type, ())), value, Pool())
    except ClientError as error:
        raise _ImpossibleError(str(error), spec.name) from error
    assert isinstance(content, Block)
    return content.array(stored_as(spec.type), ())[()].copy()


def _padded_axes(spec: TensorSpec) -> Axes:
    """The axes of an input that are padded: all dynamic ones but the batch's."""
    if spec.kind != "batched":
        raise _ImpossibleError(f"'{spec.name}' does not lead with a batch axis", spec.name)
    dynamic = [
        (axis, dim) for axis, dim in enumerate(spec.dims) if axis and not isinstance(dim, int)
    ]
    if not dynamic:
        raise _ImpossibleError(f"'{spec.name}' has one shape, {spec.shape_text}", spec.name)
    axes = []
    for axis, dim in dynamic:
        if not isinstance(dim, str):
            problem = f"axis {axis} of '{spec.name}' has no name that tells which outputs have it"
            raise _ImpossibleError(problem + f": inputs.{spec.name}.shape can give one", spec.name)
        axes.append((axis, dim))
    return tuple(axes)


def _named(spec: TensorSpec | OtherSpec, inputs: Mapping[str, Axes]) -> Axes:
    """The axes of any tensor that are called as padded ones of inputs are."""
    padded = {dim for axes in inputs.values() for _, dim in axes}
    dims = spec.dims if isinstance(spec, TensorSpec) else ()
    return tuple(
        (axis, dim) for axis, dim in enumerate(dims) if isinstance(dim, str) and dim in padded
    )


def _check_axes(signature: Signature, inputs: Mapping[str, Axes]) -> None:
    """Checks that each tensor can be padded, or cut, along every axis that is."""
    for spec in (*signature.inputs, *signature.outputs):
        for axis, dim in _named(spec, inputs):
            if axis == 0:
                raise _ImpossibleError(f"its axis '{dim}' is the leading one of '{spec.name}'")
    for spec in signature.inputs:
        if spec.name not in inputs and (shared := _named(spec, inputs)):
            problem = f"'{spec.name}' has the axis '{shared[0][1]}' as well, and no value for it"
            raise _ImpossibleError(problem)
    known = {dim for spec in signature.inputs for dim in spec.dims if isinstance(dim, str)}
    for output in signature.outputs:
        for axis, own in enumerate(output.dims if isinstance(output, TensorSpec) else ()):
            if axis > 0 and not isinstance(own, int) and own not in known:
                called = "has no name" if own is None else f"is '{own}', which no input has"
                raise _ImpossibleError(
                    f"axis {axis} of output '{output.name}' {called}: nothing tells where to cut it"
                )
