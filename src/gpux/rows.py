"""Requests as one request, row after row, and its outputs as theirs again."""

import ctypes
import threading
from collections.abc import Hashable, Sequence
from dataclasses import replace

from gpux.execution import Output
from gpux.inputs import Request
from gpux.memory import Block, Pool, StringTensor, Tensor
from gpux.tensor import Signature


class MixedRowsError(Exception):
    """A model's rows are not independent of each other, whatever its axes are called."""


def kind_of(request: Request, signature: Signature) -> Hashable | None:
    """What a request's items look like: those of one kind can lie in one batch.

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
        kind.append(tensor.shape[1:])
    return tuple(kind)


def rows_of(request: Request) -> int:
    """The rows of a request: those of its longest input, as all lead with the batch axis."""
    return max((tensor.shape[0] for tensor in request.tensors.values()), default=1)


def gather(requests: Sequence[Request], signature: Signature, pool: Pool) -> Request:
    """One request that has the rows of several, in their order.

    Args:
        requests: of one kind; read, and left to their callers.
        signature: the model's.
        pool: where the blocks come from; the caller releases the request.

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
            given = [_numbers(part) for part in parts]
            block = pool.take(sum(part.nbytes for part in given))
            blocks.append(block)
            offset = 0
            for part in given:
                ctypes.memmove(block.address + offset, part.address, part.nbytes)
                offset += part.nbytes
            tensors[spec.name] = Tensor(spec.type, shape, block.address, block, block.place)
    except BaseException:
        for block in blocks:
            pool.give(block)
        raise
    return Request(tensors, unbatched=False, _blocks=blocks, _pool=pool)


def scatter(outputs: Sequence[Output], rows: Sequence[int]) -> list[list[Output]]:
    """The outputs of a batch as those of its requests.

    Args:
        outputs: each leads with the batch axis.
        rows: of each request, in the order of the batch.

    Returns:
        For each request its outputs, over the same memory.

    Raises:
        MixedRowsError: an output has other rows than the batch, so nobody can tell whose they are.
    """
    total = sum(rows)
    shared: list[list[Output]] = [[] for _ in rows]
    for output in outputs:
        assert isinstance(output, Tensor | StringTensor)
        if not output.shape or output.shape[0] != total:
            raise MixedRowsError(f"an output of shape {list(output.shape)} for {total} rows")
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


def _strings(tensor: Tensor | StringTensor) -> StringTensor:
    assert isinstance(tensor, StringTensor)
    return tensor


def _numbers(tensor: Tensor | StringTensor) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor


class Shared:
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
