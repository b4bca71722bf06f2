"""Pads requests of different lengths into one batch: along which axes, with what, to which size.

A batch has one size along each axis. If gpux.yml or the tokenizer defines a pad value for an input,
shorter requests are padded, and the outputs are cut back to their lengths. This module only
computes shapes; batch.py copies.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gpux._fastpath import Block, InputSpec, Pool, walk
from gpux.config.messages import show
from gpux.config.schema import ModelConfig
from gpux.errors import ClientError
from gpux.inputs.tokenizer import TextEncoder
from gpux.tensors.memory import array_of
from gpux.tensors.signature import NonTensorSpec, Signature, TensorSpec

# A CPU computes padding like any other value, so buckets that double would cost more than batching
# saves. From 16 on there are four per power of two, and a tenth of a batch is padding. A GPU has
# capacity to spare, gains more from batching, and needs few shapes for its CUDA graphs. Beyond the
# last bucket one request is so much work that batching saves little.
_BUCKETS_ON_CPU = (
    *(*range(4, 32, 4), *range(32, 64, 8), *range(64, 128, 16)),
    *(*range(128, 256, 32), *range(256, 513, 64)),
)
_BUCKETS_ON_GPU = (16, 32, 64, 128, 256, 512)

# The padded axes of a tensor: the index and name of each.
Axes = tuple[tuple[int, str], ...]
Value = int | float | bool


@dataclass(frozen=True)
class Padding:
    """How requests of a model are padded.

    Attributes:
        values: pad value of each padded input, as configured.
        elements: the same values as NumPy scalars.
        buckets: sizes to round up to, ascending.
        inputs, outputs: the padded axes of each; outputs in the order of the signature.
        is_left: whether padding precedes the values, instead of following them.
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
        """Rounds a size up to its bucket; returns a size without a bucket as it is.

        No bucket: sizes above the largest, and 0, as a request of only padding is meaningless.
        """
        if not 0 < size <= self.buckets[-1]:
            return size
        return self.buckets[bisect_left(self.buckets, size)]

    def item_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The padded shape of an input's items: requests of equal ones can share a batch.

        Args:
            name: the input's.
            shape: of its tensor, with the batch axis.
        """
        sizes = list(shape)
        for axis, _ in self.inputs.get(name, ()):
            sizes[axis] = self.round_up(sizes[axis])
        return tuple(sizes[1:])

    def lay_out(self, requests: Sequence[Mapping[str, tuple[int, ...]]]) -> "PaddedLayout":
        """Lays requests out in one batch.

        Args:
            requests: the shape of each input, by name.

        An axis along which all lengths are equal is not padded. Any other is padded to the bucket
        rather than to the longest request, so that the same few shapes recur, for which a GPU has
        captured graphs and ONNX Runtime a memory plan. The next smaller bucket bounds the cost.
        """
        sizes = [
            {dim: shapes[name][axis] for name, axes in self.inputs.items() for axis, dim in axes}
            for shapes in requests
        ]
        widths: dict[str, int] = {}
        for dim in self.axes:
            lengths = {request[dim] for request in sizes}
            if len(lengths) > 1:
                widths[dim] = self.round_up(max(lengths))
        return PaddedLayout(self, widths, sizes)

    def sizes(self) -> Iterator[Mapping[str, int]]:
        """Sizes of padded batches for a warm-up, by axis name: each bucket along all axes.

        Different buckets are not combined: several axes would give hundreds of combinations.
        """
        for bucket in self.buckets:
            yield dict.fromkeys(self.axes, bucket)

    def describe(self) -> dict[str, Any]:
        """The padding section of /info."""
        return {"values": dict(self.values), "buckets": list(self.buckets)}


@dataclass(frozen=True, slots=True)
class PaddedLayout:
    """The layout of several requests in one padded batch.

    Attributes:
        padding: the model's.
        widths: the batch's sizes along the axes where the requests differ, by axis name.
        sizes: of each request, its sizes along all padded axes, by axis name.
    """

    padding: Padding
    widths: Mapping[str, int]
    sizes: Sequence[Mapping[str, int]]

    def input_axes(self, name: str) -> Axes:
        """The axes of an input along which requests of this batch are padded."""
        return self._padded(self.padding.inputs.get(name, ()))

    def output_axes(self, index: int) -> Axes:
        """The axes of an output, by its index in the signature, along which it is cut back."""
        return self._padded(self.padding.outputs[index])

    def _padded(self, axes: Axes) -> Axes:
        return tuple(axis for axis in axes if axis[1] in self.widths)

    def padded_shape(self, shape: tuple[int, ...], padded: Axes) -> tuple[int, ...]:
        """Replaces the sizes along the padded axes by the batch's."""
        sizes = list(shape)
        for axis, dim in padded:
            sizes[axis] = self.widths[dim]
        return tuple(sizes)


def find_padding(
    signature: Signature,
    config: ModelConfig,
    text: TextEncoder | None = None,
    *,
    is_on_gpu: bool = False,
) -> Padding | str:
    """Derives a model's padding from gpux.yml, or else from its tokenizer.

    Args:
        signature: the model's, with the axes that gpux.yml declares.
        config: gpux.yml.
        text: encodes texts as ids, if the model accepts texts.
        is_on_gpu: whether the model runs on a GPU.

    Returns:
        The padding, or why there is none.

    Raises:
        ConfigurationError: gpux.yml asks for padding that is impossible.
    """
    serving = config.content.serving
    values: Mapping[str, Value] = {}
    buckets: tuple[int, ...] = _BUCKETS_ON_GPU if is_on_gpu else _BUCKETS_ON_CPU
    is_left = False
    reason = "serving.padding does not say with what"
    if not signature.has_lengths:
        reason = "all items have the same shapes"
    if text is not None:
        values, is_left = text.pad_values, text.pads_left
        reason = "the tokenizer names no token to pad with"
        # No text is longer, and a table of position embeddings often ends there.
        shorter = [size for size in buckets if size < text.max_length]
        buckets = (*shorter, text.max_length)[: len(buckets)]
    if serving.padding is not None:
        values, reason = serving.padding, "serving.padding is empty"
    if not values:
        if serving.buckets is not None:
            config.fail("serving", "buckets", problem=f"nothing is padded to them: {reason}")
        return reason
    try:
        return _create(signature, values, serving.buckets or buckets, is_left=is_left)
    except _ImpossibleError as error:
        if serving.padding is not None:
            config.fail("serving", "padding", *error.path, problem=str(error))
        return str(error)


class _ImpossibleError(Exception):
    """Requests of a model cannot be padded.

    Args:
        problem: the reason.
        path: the input at fault, as a key path below serving.padding.
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
    outputs = tuple(_matching_axes(spec, inputs) for spec in signature.outputs)
    return Padding(values, elements, buckets, inputs, outputs, is_left)


def _element(spec: TensorSpec, value: Value) -> Any:
    """Converts a pad value to an element of an input, by the rules for values of requests."""
    if spec.type.word == "string":
        raise _ImpossibleError("only numbers are filled up, and it is string", spec.name)
    try:
        content, *_ = walk(InputSpec(TensorSpec(spec.name, spec.type, ())), value, Pool())
    except ClientError as error:
        raise _ImpossibleError(str(error), spec.name) from error
    assert isinstance(content, Block)
    return array_of(content, spec.type, ())[()].copy()


def _padded_axes(spec: TensorSpec) -> Axes:
    """The padded axes of an input: all dynamic ones except the batch axis."""
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


def _matching_axes(spec: TensorSpec | NonTensorSpec, inputs: Mapping[str, Axes]) -> Axes:
    """The axes of a tensor that have the name of a padded input axis."""
    padded = {dim for axes in inputs.values() for _, dim in axes}
    dims = spec.dims if isinstance(spec, TensorSpec) else ()
    return tuple(
        (axis, dim) for axis, dim in enumerate(dims) if isinstance(dim, str) and dim in padded
    )


def _check_axes(signature: Signature, inputs: Mapping[str, Axes]) -> None:
    """Checks that each tensor can be padded, or cut back, along every padded axis."""
    for spec in (*signature.inputs, *signature.outputs):
        for axis, dim in _matching_axes(spec, inputs):
            if axis == 0:
                raise _ImpossibleError(f"its axis '{dim}' is the leading one of '{spec.name}'")
    for spec in signature.inputs:
        if spec.name not in inputs and (shared := _matching_axes(spec, inputs)):
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
