"""Memory for tensors: aligned blocks of host memory, and the pool that lends them again.

A block belongs to whoever took it until it is given back; the pool never takes one back by itself.
A block that is dropped instead is simply freed. The CUDA side (pinned blocks, device blocks) has
the same interface.
"""

import threading
from dataclasses import dataclass
from typing import Any

import numpy

from gpux.tensor import ElementType

# A cache line, and the width of the widest vector registers: kernels like their inputs aligned to
# it.
ALIGNMENT_BYTES = 64
_SMALLEST_BLOCK_BYTES = 4096


class Block:
    """A block of host memory.

    Attributes:
        address: of its first byte, a multiple of 64.
        nbytes: its size.
    """

    __slots__ = ("_memory", "address", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self._memory = numpy.empty(nbytes + ALIGNMENT_BYTES, numpy.uint8)
        start = int(self._memory.ctypes.data)
        self.address = start + -start % ALIGNMENT_BYTES
        self.nbytes = nbytes

    def array(self, element: ElementType, shape: tuple[int, ...]) -> numpy.ndarray[Any, Any]:
        """A view of the block's front as a NumPy array, which keeps the memory alive.

        Args:
            element: a type that NumPy has.
            shape: the array's sizes.
        """
        assert element.numpy is not None
        offset = self.address - int(self._memory.ctypes.data)
        count = numpy.prod(shape, dtype=int) * element.nbytes
        return self._memory[offset : offset + count].view(element.numpy).reshape(shape)


class HostPool:
    """Lends blocks, in sizes of powers of two, and keeps those that come back for the next taker.

    Args:
        most_idle_bytes: idle blocks are kept up to this total; one that would pass it is freed.
    """

    def __init__(self, most_idle_bytes: int = 256 * 2**20) -> None:
        self._most_idle_bytes = most_idle_bytes
        self._lock = threading.Lock()  # guards the two fields below
        self._idle: dict[int, list[Block]] = {}
        self._idle_bytes = 0

    @property
    def idle_bytes(self) -> int:
        """Bytes in blocks that nobody has taken."""
        return self._idle_bytes

    def take(self, nbytes: int) -> Block:
        """A block of at least `nbytes` bytes, with undefined content.

        Raises:
            MemoryError: the system has none.
        """
        size = max(_SMALLEST_BLOCK_BYTES, 1 << (nbytes - 1).bit_length() if nbytes > 0 else 0)
        with self._lock:
            idle = self._idle.get(size)
            if idle:
                self._idle_bytes -= size
                return idle.pop()
        return Block(size)

    def give(self, block: Block) -> None:
        """Takes a block back. Its taker must not touch the memory any more."""
        with self._lock:
            if self._idle_bytes + block.nbytes <= self._most_idle_bytes:
                self._idle.setdefault(block.nbytes, []).append(block)
                self._idle_bytes += block.nbytes


@dataclass(frozen=True, slots=True)
class Tensor:
    """A dense, C-ordered tensor in host memory.

    Attributes:
        type: of its elements; not string.
        shape: its sizes.
        address: of its first element.
        owner: what keeps the memory alive: a Block, or whatever object ONNX Runtime handed out.
    """

    type: ElementType
    shape: tuple[int, ...]
    address: int
    owner: object


@dataclass(frozen=True, slots=True)
class StringTensor:
    """A tensor of strings.

    Attributes:
        shape: its sizes.
        values: its elements in C order.
    """

    shape: tuple[int, ...]
    values: list[str]
