"""One NVIDIA GPU: its memory, page-locked memory beside it, and the stream that orders its work.

The only importer of cupy, at the time of the first use. Everything that a session does on its GPU
goes through one stream of ours: copies in, kernels, copies out. So nothing on the GPU has to be
waited for but the end of a request's copies out, and that by an event, without the GIL.
"""

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from gpux.errors import ConfigurationError, RuntimeMissingError, install_command
from gpux.tensors.memory import PINNED, Block, Device, Tensor, on_gpu

# cudaMemcpyKind.
_HOST_TO_DEVICE = 1
_DEVICE_TO_HOST = 2
# cudaErrorMemoryAllocation.
_MEMORY_ALLOCATION = 2


class Event(Protocol):
    """A place in the order of a stream's work."""

    def wait(self) -> None:
        """Returns when all that was put on the stream before it is done. Without the GIL."""


class Stream(Protocol):
    """What a model's executor needs of a device. CudaStream, or what tests put in its place.

    Attributes:
        name: what ONNX Runtime calls the device.
        device: where its memory lies.
        address: of the stream itself (cudaStream_t).
    """

    name: str
    device: Device
    address: int

    def adopt(self) -> None:
        """The calling thread works with this device from now on."""

    def memory_bytes(self) -> tuple[int, int]:
        """Free bytes on the device, and all of them, whoever has taken the others."""

    def allocate(self, nbytes: int) -> Block:
        """A block on the device. Raises MemoryError where it is full."""

    def allocate_pinned(self, nbytes: int) -> Block:
        """A block on the host, page-locked. Raises MemoryError where there is no room."""

    def copy_in(self, target: int, source: int, nbytes: int) -> None:
        """Puts a copy from page-locked memory to the device on the stream."""

    def copy_out(self, target: int, source: int, nbytes: int) -> None:
        """Puts a copy from the device to page-locked memory on the stream."""

    def record(self) -> Event:
        """An event behind all that was put on the stream so far."""

    def capturing(self) -> contextlib.AbstractContextManager[None]:
        """While it is entered nobody allocates or frees, which would break a graph's capture."""

    def end_capture(self) -> None:
        """Ends a capture that failed half-way, so that the stream works again."""


class CudaStream:
    """A GPU and a non-blocking stream on it. Any number of threads may use it at once.

    Args:
        device: the GPU's number.

    Raises:
        RuntimeMissingError: CuPy is missing.
        ConfigurationError: there is no such GPU, or no driver for it.
    """

    name = "cuda"

    def __init__(self, device: int) -> None:
        self._cupy = load_cupy()
        runtime = self._cupy.cuda.runtime
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            raise ConfigurationError(f"no GPU can be used: {error}") from error
        if device >= count:
            raise ConfigurationError(f"there is no GPU {device}: this machine has {count}")
        self.device = on_gpu(device)
        # Held while a graph is captured, too.
        self._memory_lock = threading.RLock()  # guards all that allocates, releases, asks
        self._device = self._cupy.cuda.Device(device)
        with self._device:
            self._stream = self._cupy.cuda.Stream(non_blocking=True)
        self.address = int(self._stream.ptr)

    @property
    def gpu_name(self) -> str:
        """The GPU's own name."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self.device.device_id)
        return str(properties["name"].decode())

    def memory_bytes(self) -> tuple[int, int]:
        """Free bytes on the GPU, and all of them, whoever has taken the others."""
        with self._memory_lock, self._device:
            free, total = self._cupy.cuda.runtime.memGetInfo()
        return int(free), int(total)

    def adopt(self) -> None:
        """The calling thread works with this GPU from now on."""
        self._device.use()

    def allocate(self, nbytes: int) -> Block:
        """A block on the GPU (cudaMalloc).

        Raises:
            MemoryError: the GPU is full.
        """
        with self._memory_lock, self._device, self._full_is_memory_error("the GPU's memory"):
            memory = self._cupy.cuda.Memory(nbytes)
        return Block(_Held(memory, self._memory_lock), int(memory.ptr), nbytes, self.device)

    def allocate_pinned(self, nbytes: int) -> Block:
        """A block on the host, page-locked (cudaHostAlloc).

        Raises:
            MemoryError: there is no room.
        """
        cuda = self._cupy.cuda
        with self._memory_lock, self._device, self._full_is_memory_error("page-locked memory"):
            memory = cuda.PinnedMemory(nbytes, cuda.runtime.hostAllocPortable)
        return Block(_Held(memory, self._memory_lock), int(memory.ptr), nbytes, PINNED)

    @contextlib.contextmanager
    def _full_is_memory_error(self, what: str) -> Iterator[None]:
        runtime = self._cupy.cuda.runtime
        try:
            yield
        except runtime.CUDARuntimeError as error:
            if error.status != _MEMORY_ALLOCATION:
                raise
            raise MemoryError(f"{what} is full") from error

    def copy_in(self, target: int, source: int, nbytes: int) -> None:
        """Puts a copy from page-locked memory to the GPU on the stream; returns at once."""
        self._cupy.cuda.runtime.memcpyAsync(target, source, nbytes, _HOST_TO_DEVICE, self.address)

    def copy_out(self, target: int, source: int, nbytes: int) -> None:
        """Puts a copy from the GPU to page-locked memory on the stream; returns at once."""
        self._cupy.cuda.runtime.memcpyAsync(target, source, nbytes, _DEVICE_TO_HOST, self.address)

    def record(self) -> "_CudaEvent":
        """An event behind all that was put on the stream so far."""
        with self._device:
            event = self._cupy.cuda.Event(disable_timing=True)
        event.record(self._stream)
        return _CudaEvent(event)

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """While it is entered no thread allocates or frees memory of the GPU's.

        CUDA would refuse that, and the capture would be lost: cudaStreamCaptureModeGlobal.
        """
        with self._memory_lock:
            was_enabled = gc.isenabled()
            gc.disable()  # what it finds would be freed in this thread, which holds the lock
            try:
                yield
            finally:
                if was_enabled:
                    gc.enable()

    def end_capture(self) -> None:
        """Ends a capture that failed half-way, so that the stream works again."""
        runtime = self._cupy.cuda.runtime
        # Raises where there is no capture, or CUDA has given it up already.
        with contextlib.suppress(runtime.CUDARuntimeError):
            runtime.graphDestroy(runtime.streamEndCapture(self.address))


class _CudaEvent:
    __slots__ = ("_event",)

    def __init__(self, event: Any) -> None:
        self._event = event

    def wait(self) -> None:
        self._event.synchronize()


class _Held:
    """CuPy's memory, freed under the lock that captures hold."""

    __slots__ = ("_lock", "_memory")

    def __init__(self, memory: object, lock: Any) -> None:
        self._memory: object | None = memory
        self._lock = lock

    def __del__(self) -> None:
        with self._lock:
            self._memory = None


def as_cupy(tensor: Tensor) -> Any:
    """A tensor on a GPU as a cupy.ndarray over the same memory, which it keeps alive.

    Args:
        tensor: of a type that NumPy has.

    No driver is needed to make it.
    """
    cupy = load_cupy()
    memory = cupy.cuda.UnownedMemory(
        tensor.address, max(tensor.nbytes, 1), tensor, tensor.device.device_id
    )
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return cupy.ndarray(tensor.shape, tensor.type.numpy, memptr=pointer)


def load_cupy() -> Any:
    """The cupy module.

    Raises:
        RuntimeMissingError: it is not installed.
    """
    try:
        import cupy
    except ImportError as error:
        raise RuntimeMissingError(
            f"CuPy cannot be imported ({error}): {install_command('cuda')}"
        ) from error
    return cupy
