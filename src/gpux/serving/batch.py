"""Requests as one request, row after row, and its outputs as theirs again."""

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
    """A model's rows are not independent of each other, whatever its axes are called."""


def batch_key(
    request: Request, signature: Signature, padding: Padding | None = None
) -> Hashable | None:
    """What a request's items look like: those of one kind can lie in one batch.

    Args:
        request: a whole one.
        signature: the model's.
        padding: with which items of different lengths look the same.

    None for one that has to run alone: because another library has lent some of it, or because its
    inputs have different numbers of rows, which the model alone can make sense of.
    """
    if len({tensor.shape[0] for tensor in request.tensors.values()}) != 1:
        return None
    kind: list[Hashable] = []
    for spec in signature.inputs:
        tensor = request.tensors[spec.name]
        if isinstance(tensor, Tensor) and not isinstance(tensor.owner, Block):
            return None
        kind.append(padding.item_shape(spec.name, tensor.shape) if padding else tensor.shape[1:])
    return tuple(kind)


def rows_of(request: Request) -> int:
    """The rows of a request: those of its longest input, as all lead with the batch axis."""
    return max([tensor.shape[0] for tensor in request.tensors.values()] or [1])


def size_of(request: Request) -> int:
    """The elements of a request."""
    return sum([math.prod(tensor.shape) for tensor in request.tensors.values()])


def shapes_of(request: Request) -> dict[str, tuple[int, ...]]:
    """The shape of each input, with the batch axis."""
    return {name: tensor.shape for name, tensor in request.tensors.items()}


def collate(
    requests: Sequence[Request],
    signature: Signature,
    pool: Pool,
    layout: PaddedLayout | None = None,
) -> Request:
    """One request that has the rows of several, in their order.

    Args:
        requests: of one kind; read, and left to their callers.
        signature: the model's.
        pool: where the blocks come from; the caller releases the request.
        layout: how they are padded; None for requests whose items have the same shapes.

    Raises:
        MemoryError: there is no room.
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
                shape = layout.widen(shape, padded)
            blank = Tensor(spec.type, shape, 0, None)
            block = pool.take(blank.nbytes)
            blocks.append(block)
            whole = replace(blank, address=block.address, owner=block, device=block.device)
            tensors[spec.name] = whole
            if layout and padded:
                _lay_apart(whole, [_numbers(part) for part in parts], layout, spec.name)
            else:
                _lay_together(whole, [_numbers(part) for part in parts])
    except BaseException:
        for block in blocks:
            pool.give(block)
        raise
    return Request(tensors, unbatched=False, _blocks=blocks, _pool=pool)


def _lay_together(whole: Tensor, parts: Sequence[Tensor]) -> None:
    address = whole.address
    for part in parts:
        ctypes.memmove(address, part.address, part.nbytes)
        address += part.nbytes


def _lay_apart(whole: Tensor, parts: Sequence[Tensor], layout: PaddedLayout, name: str) -> None:
    array: numpy.ndarray[Any, Any] = numpy.asarray(whole)
    array[...] = layout.padding.elements[name]
    windows = layout.windows(array.ndim, layout.input_axes(name), [part.shape[0] for part in parts])
    for part, window in zip(parts, windows, strict=True):
        array[window] = part


def split(
    outputs: Sequence[Output], rows: Sequence[int], layout: PaddedLayout | None = None
) -> list[list[Output]]:
    """The outputs of a batch as those of its requests.

    Args:
        outputs: each leads with the batch axis.
        rows: of each request, in the order of the batch.
        layout: how they were padded, and are to be cut.

    Returns:
        For each request its outputs, over the same memory; what is cut, and does not lie in one
        piece there, is copied into memory of its own.

    Raises:
        MixedRowsError: an output has other rows than the batch, or is not as long as it was padded
            to be, so nobody can tell whose they are.
    """
    total = sum(rows)
    shared: list[list[Output]] = [[] for _ in rows]
    for index, output in enumerate(outputs):
        assert isinstance(output, Tensor | StringTensor)
        if not output.shape or output.shape[0] != total:
            raise MixedRowsError(f"an output of shape {list(output.shape)} for {total} rows")
        padded = layout.output_axes(index) if layout else ()
        if layout and padded:
            if layout.widen(output.shape, padded) != output.shape:
                sizes = ", ".join(f"{dim} {size}" for dim, size in layout.widths.items())
                raise MixedRowsError(f"an output of shape {list(output.shape)} for {sizes}")
            windows = layout.windows(len(output.shape), padded, rows)
            for own, part in zip(shared, _cut(output, windows), strict=True):
                own.append(part)
            continue
        first = 0
        for count, own in zip(rows, shared, strict=True):
            own.append(_part(output, first, count))
            first += count
    return shared


def _part(output: Output, first: int, count: int) -> Output:
    assert isinstance(output, Tensor | StringTensor)
    shape = (count, *output.shape[1:])
    if isinstance(output, StringTensor):
        row = len(output.values) // output.shape[0]
        return StringTensor(shape, output.values[first * row : (first + count) * row])
    row = output.nbytes // output.shape[0]
    return replace(output, shape=shape, address=output.address + first * row)


def _cut(output: Tensor | StringTensor, windows: Iterable[Window]) -> Iterator[Output]:
    """What lies in each window: in device, or in a dense copy that is freed with its tensor."""
    if isinstance(output, StringTensor):
        strings = numpy.empty(len(output.values), object)
        strings[:] = output.values
        for window in windows:
            own = strings.reshape(output.shape)[window]
            yield StringTensor(own.shape, own.ravel().tolist())
        return
    whole: numpy.ndarray[Any, Any] = numpy.asarray(output)
    for window in windows:
        own = whole[window]
        if own.flags.c_contiguous:
            address = own.__array_interface__["data"][0]
            yield replace(output, shape=own.shape, address=address)
            continue
        block = allocate(own.nbytes)
        block.array(stored_as(output.type), own.shape)[...] = own
        yield Tensor(output.type, own.shape, block.address, block)


def _strings(tensor: Tensor | StringTensor) -> StringTensor:
    assert isinstance(tensor, StringTensor)
    return tensor


def _numbers(tensor: Tensor | StringTensor) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor


class RefCountedBatch:
    """A batch whose memory several requests read: the last one to end releases it.

    Args:
        request: the batch.
        readers: how many there are.
    """

    def __init__(self, request: Request, readers: int) -> None:
        self._request = request
        self._readers = readers
        self._lock = threading.Lock()  # guards the number of readers

    def leave(self) -> None:
        """One reader has ended."""
        with self._lock:
            self._readers -= 1
            is_last = self._readers == 0
        if is_last:
            self._request.release()
