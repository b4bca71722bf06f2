"""Memory for tensors, and tensors in it.

Blocks have the same type wherever they are: in host memory (this file), in pinned memory for a
GPU, or on the GPU (cuda.py). Whoever refers to a block owns it; dropped, it returns to its pool.

NumPy is imported by the functions that need it, here and elsewhere: to serve a model of numbers
takes none of it, and it takes a fifth of the time to start, and of the memory then.
"""

import contextlib
import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from gpux import _dlpack
from gpux._fastpath import Block, Pool
from gpux.tensors.signature import ElementType, stored_as

if TYPE_CHECKING:
    import numpy

# A cache line and the widest vector register: kernels prefer inputs with this alignment.
ALIGNMENT_BYTES = 64
_M_ARENA_MAX = -8  # malloc.h


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


def use_one_arena() -> None:
    """Makes glibc's malloc use one arena for all threads; no effect on other C libraries.

    By default each thread has its own arena, which keeps the freed memory of large bodies and
    tensors: with a few dozen threads hundreds of megabytes, faulted in again each time.

    Source: mallopt(3).
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def allocate(nbytes: int) -> Block:
    """Allocates a block of host memory, which no pool keeps.

    Raises:
        MemoryError: not enough memory.
    """
    block = _UNPOOLED.take(nbytes)
    return Block(block, block.address, nbytes)


_UNPOOLED = Pool(max_idle_bytes=0)


def array_of(
    block: Block, element: ElementType, shape: tuple[int, ...]
) -> "numpy.ndarray[Any, Any]":
    """A view of the start of a block in host memory as a NumPy array, which keeps it alive.

    Args:
        block: the memory.
        element: the type; bfloat16 is viewed as uint16.
        shape: the array's shape.
    """
    import numpy

    element = stored_as(element)
    assert element.numpy is not None
    count = numpy.prod(shape, dtype=int) * element.nbytes
    return numpy.asarray(block)[:count].view(element.numpy).reshape(shape)


def readable(array: "numpy.ndarray[Any, Any]", element: ElementType) -> "numpy.ndarray[Any, Any]":
    """An array of elements that NumPy may lack: bfloat16, viewed as uint16, becomes float32."""
    if element.numpy is None:  # bfloat16 is the upper half of a float32
        return (array.astype("uint32") << 16).view("float32")
    return array


def _typestr(element: ElementType) -> str:
    """The type in NumPy's array interface; all supported machines are little-endian."""
    name = stored_as(element).name
    kind = "b" if name == "bool" else "f" if name.startswith("float") else name[0]
    return f"{'|' if element.nbytes == 1 else '<'}{kind}{element.nbytes}"


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Tensor:
    """A dense, C-ordered tensor, which other libraries can access through DLPack.

    Attributes:
        type: its element type; not string.
        shape: its dimensions.
        address: address of the first element.
        owner: keeps the memory alive: a Block, a Request, a View borrowed from another library, or
            a Value of ONNX Runtime.
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
            "typestr": _typestr(self.type),
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

        Source: the Python array API standard, 2024.12, `__dlpack__`.
        """
        del stream
        if copy or (dl_device is not None and tuple(dl_device) != tuple(self.device)):
            raise BufferError("it is handed out only where it lies, and never copied")
        is_new = max_version is not None and max_version[0] >= 1
        return _dlpack.capsule(self, self.address, self.type.code, self.shape, self.device, is_new)
