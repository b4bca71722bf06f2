"""Memory for tensors: blocks, and the pools that reuse them.

A block belongs to its taker until it is returned to the pool; a pool never reclaims one. A block
that is dropped instead is freed. Blocks have the same type wherever they are: in host memory (this
file), in pinned memory for a GPU, or on the GPU (cuda.py).
"""

import contextlib
import ctypes
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from gpux import _dlpack
from gpux.tensors.signature import ELEMENT_TYPES, ElementType, stored_as

# A cache line and the widest vector register: kernels prefer inputs with this alignment.
ALIGNMENT_BYTES = 64
_MIN_BLOCK_BYTES = 4096
_M_ARENA_MAX = -8  # malloc.h
# Block sizes per power of two: internal fragmentation is at most 25 %.
_SIZES_PER_OCTAVE = 4


class Device(NamedTuple):
    """The location of memory, as in DLPack (DLDevice).

    Attributes:
        device_type: 1 for host memory, 2 for a CUDA device, 3 for host memory pinned for CUDA.
        device_id: index of the device.
    """

    device_type: int
    device_id: int = 0


_CUDA = 2
HOST = Device(1)
PINNED = Device(3)


def on_gpu(index: int) -> Device:
    """The memory of a CUDA device."""
    return Device(_CUDA, index)


class Block:
    """A block of memory.

    Attributes:
        address: address of the first byte, on the block's device; a multiple of 64.
        nbytes: its size.
        device: its location.
    """

    __slots__ = ("__weakref__", "_memory", "address", "device", "nbytes")

    def __init__(self, memory: object, address: int, nbytes: int, device: Device = HOST) -> None:
        self._memory = memory  # its deallocation frees the block
        self.address = address
        self.nbytes = nbytes
        self.device = device

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's array interface of a block in host memory."""
        if self.device.device_type == _CUDA:
            raise AttributeError("the block lies on a GPU")
        return {
            "version": 3,
            "typestr": "|u1",
            "shape": (self.nbytes,),
            "data": (self.address, False),
        }

    def array(self, element: ElementType, shape: tuple[int, ...]) -> numpy.ndarray[Any, Any]:
        """A view of the start of the block as a NumPy array, which keeps the memory alive.

        Args:
            element: a type that NumPy has.
            shape: the array's shape.

        Raises:
            ValueError: the block is on a GPU.
        """
        assert element.numpy is not None
        if self.device.device_type == _CUDA:
            raise ValueError("the block lies on a GPU")
        count = numpy.prod(shape, dtype=int) * element.nbytes
        return numpy.asarray(self)[:count].view(element.numpy).reshape(shape)


def use_one_arena() -> None:
    """Makes glibc's malloc use one arena for all threads; no effect on other C libraries.

    By default each thread has its own arena, which keeps the freed memory of large bodies and
    tensors: with a few dozen threads hundreds of megabytes, faulted in again each time.

    Source: mallopt(3).
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def allocate(nbytes: int) -> Block:
    """Allocates a block of host memory.

    Raises:
        MemoryError: not enough memory.
    """
    memory = numpy.empty(nbytes + ALIGNMENT_BYTES, numpy.uint8)
    start = int(memory.ctypes.data)
    return Block(memory, start + -start % ALIGNMENT_BYTES, nbytes)


class PoolUsage(NamedTuple):
    """The memory usage of a pool.

    Attributes:
        used_bytes, idle_bytes: bytes in acquired blocks, and in idle ones.
        allocations: blocks allocated since the start.
    """

    used_bytes: int
    idle_bytes: int
    allocations: int


class Pool:
    """A pool of reusable blocks, in four sizes per power of two. Thread-safe.

    Args:
        make: allocates a block; raises MemoryError if there is no room.
        max_idle_bytes: limit of the idle blocks' total; beyond it, blocks of the least recently
            used size are freed.
    """

    def __init__(
        self, make: Callable[[int], Block] = allocate, max_idle_bytes: int = 256 * 2**20
    ) -> None:
        self._make = make
        self._max_idle_bytes = max_idle_bytes
        self._lock = threading.Lock()  # guards the fields below
        # By size; the most recently used size is last.
        self._idle: OrderedDict[int, list[Block]] = OrderedDict()
        self._idle_bytes = 0
        self._used_bytes = 0
        self._allocations = 0

    @property
    def idle_bytes(self) -> int:
        """Bytes in idle blocks."""
        return self._idle_bytes

    @property
    def usage(self) -> PoolUsage:
        """The current usage."""
        with self._lock:
            return PoolUsage(self._used_bytes, self._idle_bytes, self._allocations)

    def take(self, nbytes: int) -> Block:
        """Acquires a block of at least `nbytes` bytes, with undefined contents.

        Raises:
            MemoryError: there is no room, even after all idle blocks were freed.
        """
        size = block_size(nbytes)
        with self._lock:
            idle = self._idle.get(size)
            if idle:
                block = idle.pop()
                self._idle.move_to_end(size)
                self._idle_bytes -= size
                self._used_bytes += size
                return block
        try:
            block = self._make(size)
        except MemoryError:
            # Idle blocks of other sizes may be using the memory.
            self.free_idle()
            block = self._make(size)
        with self._lock:
            self._allocations += 1
            self._used_bytes += size
        return block

    def give(self, block: Block) -> None:
        """Returns a block to the pool. The caller must no longer touch its memory."""
        freed: list[Block] = []  # freed outside the lock, as that may take long
        with self._lock:
            self._used_bytes -= block.nbytes
            if block.nbytes > self._max_idle_bytes:
                return
            self._idle_bytes += block.nbytes
            self._idle.setdefault(block.nbytes, []).append(block)
            self._idle.move_to_end(block.nbytes)
            while self._idle_bytes > self._max_idle_bytes:
                size = next(iter(self._idle))
                if self._idle[size]:
                    freed.append(self._idle[size].pop())
                    self._idle_bytes -= size
                else:
                    del self._idle[size]

    def free_idle(self) -> None:
        """Frees all idle blocks."""
        with self._lock:
            idle, self._idle = self._idle, OrderedDict()
            self._idle_bytes = 0
        idle.clear()


def block_size(nbytes: int) -> int:
    """The size of the block that a pool provides for `nbytes`."""
    if nbytes <= _MIN_BLOCK_BYTES:
        return _MIN_BLOCK_BYTES
    step = (1 << (nbytes - 1).bit_length() - 1) // _SIZES_PER_OCTAVE
    return -(-nbytes // step) * step


# Type code -> typestr of NumPy's array interface.
_TYPESTR = {
    element.code: numpy.dtype(stored_as(element).numpy).str
    for element in ELEMENT_TYPES
    if element.nbytes
}


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Tensor:
    """A dense, C-ordered tensor, which other libraries can access through DLPack.

    Attributes:
        type: its element type; not string.
        shape: its dimensions.
        address: address of the first element.
        owner: keeps the memory alive: a Block, a View borrowed from another library, or an object
            returned by ONNX Runtime.
        device: the location of its memory.
    """

    type: ElementType
    shape: tuple[int, ...]
    address: int
    owner: object
    device: Device = HOST

    @property
    def nbytes(self) -> int:
        """The total size of its elements."""
        count = self.type.nbytes
        for size in self.shape:
            count *= size
        return count

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's array interface of a tensor in host memory; bfloat16 as uint16."""
        if self.device.device_type == _CUDA:
            raise AttributeError("the tensor lies on a GPU")
        return {
            "version": 3,
            "typestr": _TYPESTR[self.type.code],
            "shape": self.shape,
            "data": (self.address, False),
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's (device type, device index) of the tensor."""
        return self.device

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Exports the tensor as a DLPack capsule, without a copy.

        Args:
            stream: the consumer's stream; ignored, as the tensor's data is already complete.
            max_version: the newest version of DLPack that the consumer supports.
            dl_device: the requested device; can only be the tensor's own.
            copy: whether to copy; never done.

        Raises:
            BufferError: a copy or another device is requested.

        The memory is valid until the tensor's request is released.
        Source: the Python array API standard, 2024.12, `__dlpack__`.
        """
        del stream
        if copy or (dl_device is not None and tuple(dl_device) != tuple(self.device)):
            raise BufferError("it is handed out only where it lies, and never copied")
        is_new = max_version is not None and max_version[0] >= 1
        return _dlpack.capsule(self, self.address, self.type.code, self.shape, self.device, is_new)


@dataclass(frozen=True, slots=True)
class StringTensor:
    """A tensor of strings.

    Attributes:
        shape: its dimensions.
        values: its elements in C order.
    """

    shape: tuple[int, ...]
    values: list[str]
