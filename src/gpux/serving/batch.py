"""Collates requests into one batch along the batch axis, and splits its outputs again."""

import ctypes
import math
import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy

from gpux.serving.padding import PaddedLayout, Padding, Window
from gpux.tensors.memory import Block, Pool, StringTensor, Tensor, allocate
from gpux.tensors.outputs import Output
from gpux.tensors.request import Request
from gpux.tensors.signature import Signature, stored_as


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
    if len({tensor.shape[0] for tensor in request.tensors.values()}) != 1:
        return None
    key: list[Hashable] = []
    for spec in signature.inputs:
        tensor = request.tensors[spec.name]
        if isinstance(tensor, Tensor) and not isinstance(tensor.owner, Block):
            return None
        key.append(padding.item_shape(spec.name, tensor.shape) if padding else tensor.shape[1:])
    return tuple(key)


def rows_of(request: Request) -> int:
    """The row count of a request: that of its longest input, as all lead with the batch axis."""
    return max([tensor.shape[0] for tensor in request.tensors.values()] or [1])


def size_of(request: Request) -> int:
    """The total number of elements of a request."""
    return sum([math.prod(tensor.shape) for tensor in request.tensors.values()])


def shapes_of(request: Request) -> dict[str, tuple[int, ...]]:
    """The shape of each input by name, including the batch axis."""
    return {name: tensor.shape for name, tensor in request.tensors.items()}


def collate(
    requests: Sequence[Request],
    signature: Signature,
    pool: Pool,
    layout: PaddedLayout | None = None,
) -> Request:
    """Concatenates requests along the batch axis, in their order.

    Args:
        requests: of equal batch keys; only read, and still owned by their callers.
        signature: the model's.
        pool: allocates the blocks; the caller releases the batch.
        layout: their padding; None if all items have the same shapes.

    Raises:
        MemoryError: out of memory.
    """
    blocks: list[Block] = []
    tensors: dict[str, Tensor | StringTensor] = {}
    try:
        for spec in signature.inputs:
            parts = [request.tensors[spec.name] for request in requests]
            shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
            if isinstance(parts[0], StringTensor):
                values = [value for part in parts for value in _strings(part).values]
                tensors[spec.name] = StringTensor(shape, values)
                continue
            padded = layout.input_axes(spec.name) if layout else ()
            if layout and padded:
                shape = layout.padded_shape(shape, padded)
            template = Tensor(spec.type, shape, 0, None)
            block = pool.take(template.nbytes)
            blocks.append(block)
            whole = replace(template, address=block.address, owner=block, device=block.device)
            tensors[spec.name] = whole
            if layout and padded:
                _pad(whole, [_numeric(part) for part in parts], layout, spec.name)
            else:
                _concatenate(whole, [_numeric(part) for part in parts])
    except BaseException:
        for block in blocks:
            pool.give(block)
        raise
    return Request(tensors, unbatched=False, _blocks=blocks, _pool=pool)


def _concatenate(whole: Tensor, parts: Sequence[Tensor]) -> None:
    address = whole.address
    for part in parts:
        ctypes.memmove(address, part.address, part.nbytes)
        address += part.nbytes


def _pad(whole: Tensor, parts: Sequence[Tensor], layout: PaddedLayout, name: str) -> None:
    array: numpy.ndarray[Any, Any] = numpy.asarray(whole)
    array[...] = layout.padding.elements[name]
    windows = layout.windows(array.ndim, layout.input_axes(name), [part.shape[0] for part in parts])
    for part, window in zip(parts, windows, strict=True):
        array[window] = part


def split(
    outputs: Sequence[Output], rows: Sequence[int], layout: PaddedLayout | None = None
) -> list[list[Output]]:
    """Splits the outputs of a batch into those of its requests.

    Args:
        outputs: each leads with the batch axis.
        rows: row count of each request, in batch order.
        layout: their padding, which is cut off.

    Returns:
        The outputs of each request, as views of the batch's memory; a cut part that is not
        contiguous there is copied into memory of its own.

    Raises:
        MixedRowsError: the row count or a padded length of an output is not the batch's, so its
            rows cannot be attributed to requests.
    """
    total = sum(rows)
    per_request: list[list[Output]] = [[] for _ in rows]
    for index, output in enumerate(outputs):
        assert isinstance(output, Tensor | StringTensor)
        if not output.shape or output.shape[0] != total:
            raise MixedRowsError(f"an output of shape {list(output.shape)} for {total} rows")
        padded = layout.output_axes(index) if layout else ()
        if layout and padded:
            if layout.padded_shape(output.shape, padded) != output.shape:
                sizes = ", ".join(f"{dim} {size}" for dim, size in layout.widths.items())
                raise MixedRowsError(f"an output of shape {list(output.shape)} for {sizes}")
            windows = layout.windows(len(output.shape), padded, rows)
            for request_outputs, part in zip(per_request, _cut(output, windows), strict=True):
                request_outputs.append(part)
            continue
        first = 0
        for count, request_outputs in zip(rows, per_request, strict=True):
            request_outputs.append(_part(output, first, count))
            first += count
    return per_request


def _part(output: Output, first: int, count: int) -> Output:
    assert isinstance(output, Tensor | StringTensor)
    shape = (count, *output.shape[1:])
    if isinstance(output, StringTensor):
        row = len(output.values) // output.shape[0]
        return StringTensor(shape, output.values[first * row : (first + count) * row])
    row = output.nbytes // output.shape[0]
    return replace(output, shape=shape, address=output.address + first * row)


def _cut(output: Tensor | StringTensor, windows: Iterable[Window]) -> Iterator[Output]:
    """The part in each window: a view if contiguous, else a dense copy freed with its tensor."""
    if isinstance(output, StringTensor):
        strings = numpy.empty(len(output.values), object)
        strings[:] = output.values
        for window in windows:
            part = strings.reshape(output.shape)[window]
            yield StringTensor(part.shape, part.ravel().tolist())
        return
    whole: numpy.ndarray[Any, Any] = numpy.asarray(output)
    for window in windows:
        part = whole[window]
        if part.flags.c_contiguous:
            address = part.__array_interface__["data"][0]
            yield replace(output, shape=part.shape, address=address)
            continue
        block = allocate(part.nbytes)
        block.array(stored_as(output.type), part.shape)[...] = part
        yield Tensor(output.type, part.shape, block.address, block)


def _strings(tensor: Tensor | StringTensor) -> StringTensor:
    assert isinstance(tensor, StringTensor)
    return tensor


def _numeric(tensor: Tensor | StringTensor) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor


class RefCountedBatch:
    """Reference-counts a batch whose memory several requests read; the last release() frees it.

    Args:
        request: the batch.
        readers: the initial count.
    """

    def __init__(self, request: Request, readers: int) -> None:
        self._request = request
        self._readers = readers
        self._lock = threading.Lock()  # guards _readers

    def release(self) -> None:
        """Drops one reader."""
        with self._lock:
            self._readers -= 1
            is_last = self._readers == 0
        if is_last:
            self._request.release()
