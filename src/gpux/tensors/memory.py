"""Memory for tensors: blocks of it, and the pools that lend them again.

A block belongs to whoever took it until it is given back; a pool never takes one back by itself. A
block that is dropped instead is simply freed. Blocks are all alike wherever they lie: in the host's
memory (this file), page-locked for a GPU, or on the GPU itself (cuda.py).
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

# A cache line, and the width of the widest vector registers: kernels like their inputs aligned to
# it.
ALIGNMENT_BYTES = 64
_MIN_BLOCK_BYTES = 4096
_M_ARENA_MAX = -8  # malloc.h
# Sizes of blocks between two powers of two: at most a quarter of a block is lent in vain.
_SIZES_PER_OCTAVE = 4


class Device(NamedTuple):
    """Where memory lies: a device, as DLPack has it (DLDevice).

    Attributes:
        device_type: 1 the host, 2 a CUDA device, 3 the host, page-locked for CUDA.
        device_id: the number of the device.
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
        address: of its first byte, on its own device; a multiple of 64.
        nbytes: its size.
        device: where it lies.
    """

    __slots__ = ("__weakref__", "_memory", "address", "device", "nbytes")

    def __init__(self, memory: object, address: int, nbytes: int, device: Device = HOST) -> None:
        self._memory = memory  # frees it
        self.address = address
        self.nbytes = nbytes
        self.device = device

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's view of it, where it lies on the host."""
        if self.device.device_type == _CUDA:
            raise AttributeError("the block lies on a GPU")
        return {
            "version": 3,
            "typestr": "|u1",
            "shape": (self.nbytes,),
            "data": (self.address, False),
        }

    def array(self, element: ElementType, shape: tuple[int, ...]) -> numpy.ndarray[Any, Any]:
        """A view of the block's front as a NumPy array, which keeps the memory alive.

        Args:
            element: a type that NumPy has.
            shape: the array's sizes.

        Raises:
            ValueError: it lies on a GPU.
        """
        assert element.numpy is not None
        if self.device.device_type == _CUDA:
            raise ValueError("the block lies on a GPU")
        count = numpy.prod(shape, dtype=int) * element.nbytes
        return numpy.asarray(self)[:count].view(element.numpy).reshape(shape)


def use_one_arena() -> None:
    """Has the C library serve all threads from one arena, where it is glibc.

    By default each thread has its own, and keeps what large bodies and tensors have left there for
    itself: with a few dozen threads hundreds of megabytes, which are touched anew each time.

    Source: mallopt(3).
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def allocate(nbytes: int) -> Block:
    """A block of the host's memory.

    Raises:
        MemoryError: the system has none.
    """
    memory = numpy.empty(nbytes + ALIGNMENT_BYTES, numpy.uint8)
    start = int(memory.ctypes.data)
    return Block(memory, start + -start % ALIGNMENT_BYTES, nbytes)


class PoolUsage(NamedTuple):
    """What a pool holds.

    Attributes:
        used_bytes, idle_bytes: in blocks that were taken, and that wait for a taker.
        allocations: blocks that had to be made, since the start.
    """

    used_bytes: int
    idle_bytes: int
    allocations: int


class Pool:
    """Lends blocks, in sizes four to a power of two, and keeps what comes back for the next taker.

    Any number of threads may use it at once.

    Args:
        make: allocates a block; raises MemoryError where there is no room.
        max_idle_bytes: idle blocks are kept up to this total; beyond it, those of the size that
            was not asked for longest are freed.
    """

    def __init__(
        self, make: Callable[[int], Block] = allocate, max_idle_bytes: int = 256 * 2**20
    ) -> None:
        self._make = make
        self._max_idle_bytes = max_idle_bytes
        self._lock = threading.Lock()  # guards the fields below
        # By size; the size that was used last stands last.
        self._idle: OrderedDict[int, list[Block]] = OrderedDict()
        self._idle_bytes = 0
        self._lent_bytes = 0
        self._allocations = 0

    @property
    def idle_bytes(self) -> int:
        """Bytes in blocks that nobody has taken."""
        return self._idle_bytes

    @property
    def usage(self) -> PoolUsage:
        """What it holds now."""
        with self._lock:
            return PoolUsage(self._lent_bytes, self._idle_bytes, self._allocations)

    def take(self, nbytes: int) -> Block:
        """A block of at least `nbytes` bytes, with undefined content.

        Raises:
            MemoryError: there is none, even after all idle blocks were freed.
        """
        size = block_size(nbytes)
        with self._lock:
            idle = self._idle.get(size)
            if idle:
                block = idle.pop()
                self._idle.move_to_end(size)
                self._idle_bytes -= size
                self._lent_bytes += size
                return block
        try:
            block = self._make(size)
        except MemoryError:
            # Its own idle blocks, of other sizes, may be what is in the way.
            self.free_idle()
            block = self._make(size)
        with self._lock:
            self._allocations += 1
            self._lent_bytes += size
        return block

    def give(self, block: Block) -> None:
        """Takes a block back. Its taker must not touch the memory any more."""
        freed: list[Block] = []  # outside of the lock: freeing may take its time
        with self._lock:
            self._lent_bytes -= block.nbytes
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
        """Frees every block that nobody has taken."""
        with self._lock:
            idle, self._idle = self._idle, OrderedDict()
            self._idle_bytes = 0
        idle.clear()


def block_size(nbytes: int) -> int:
    """The size of the block that is lent for `nbytes`."""
    if nbytes <= _MIN_BLOCK_BYTES:
        return _MIN_BLOCK_BYTES
    step = (1 << (nbytes - 1).bit_length() - 1) // _SIZES_PER_OCTAVE
    return -(-nbytes // step) * step


# By the type's code: what NumPy's protocol calls it.
_TYPESTR = {
    element.code: numpy.dtype(stored_as(element).numpy).str
    for element in ELEMENT_TYPES
    if element.nbytes
}


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Tensor:
    """A dense, C-ordered tensor, which other libraries can look at through DLPack.

    Attributes:
        type: of its elements; not string.
        shape: its sizes.
        address: of its first element.
        owner: what keeps the memory alive: a Block, what another library lent, or whatever object
            ONNX Runtime handed out.
        device: where it lies.
    """

    type: ElementType
    shape: tuple[int, ...]
    address: int
    owner: object
    device: Device = HOST

    @property
    def nbytes(self) -> int:
        """The size of its elements together."""
        count = self.type.nbytes
        for size in self.shape:
            count *= size
        return count

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """NumPy's view of it, where it lies on the host; bfloat16 as uint16."""
        if self.device.device_type == _CUDA:
            raise AttributeError("the tensor lies on a GPU")
        return {
            "version": 3,
            "typestr": _TYPESTR[self.type.code],
            "shape": self.shape,
            "data": (self.address, False),
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where it lies, as DLPack has it."""
        return self.device

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The tensor as a DLPack capsule, without a copy.

        Args:
            stream: on which it will be read. Nothing has to be waited for: whoever has a tensor has
                it complete.
            max_version: the newest version of DLPack that the caller knows.
            dl_device: where it is wanted, which can only be where it is.
            copy: never done.

        Raises:
            BufferError: a copy is asked for, or another device.

        The memory is valid until the request that the tensor belongs to is released.
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
        shape: its sizes.
        values: its elements in C order.
    """

    shape: tuple[int, ...]
    values: list[str]
