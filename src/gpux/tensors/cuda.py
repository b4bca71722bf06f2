"""One NVIDIA GPU: its memory, pinned host memory, and the stream that orders its work.

The only importer of CuPy, on first use. All of a session's work on its GPU goes through one stream
of ours: copies in, kernels, copies out. So a request waits only for the end of its copies out, on
an event, without the GIL.
"""

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from gpux._fastpath import Block
from gpux.errors import ConfigurationError, RuntimeMissingError, install_command
from gpux.tensors.memory import PINNED, Device, on_gpu

# cudaMemcpyKind.
_HOST_TO_DEVICE = 1
_DEVICE_TO_HOST = 2
# cudaErrorMemoryAllocation.
_MEMORY_ALLOCATION = 2


class Event(Protocol):
    """A point in a stream's sequence of work."""

    def wait(self) -> None:
        """Waits, without the GIL, until all work enqueued before the event is done."""


class Stream(Protocol):
    """A device and its stream, as GpuExecution needs them: CudaStream, or a fake in tests.

    Attributes:
        name: ONNX Runtime's name of the device.
        device: the location of its memory.
        address: address of the stream (cudaStream_t).
    """

    name: str
    device: Device
    address: int

    def adopt(self) -> None:
        """Makes this the current device of the calling thread."""

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total bytes on the device, whichever process uses the rest."""

    def allocate(self, nbytes: int) -> Block:
        """Allocates a block on the device. Raises MemoryError if it is full."""

    def allocate_pinned(self, nbytes: int) -> Block:
        """Allocates a block of pinned host memory. Raises MemoryError if there is no room."""

    def copy_in(self, target: int, source: int, nbytes: int) -> None:
        """Enqueues a copy from pinned memory to the device."""

    def copy_out(self, target: int, source: int, nbytes: int) -> None:
        """Enqueues a copy from the device to pinned memory."""

    def record(self) -> Event:
        """Records an event after everything enqueued so far."""

    def capturing(self) -> contextlib.AbstractContextManager[None]:
        """Context in which no thread allocates or frees, which would break a graph's capture."""

    def end_capture(self) -> None:
        """Ends a capture that failed half-way, so that the stream is usable again."""


class CudaStream:
    """A GPU and a non-blocking stream on it. Thread-safe.

    Args:
        device: the GPU's index.

    Raises:
        RuntimeMissingError: CuPy is not installed.
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
        # Also held while a graph is captured.
        self._memory_lock = threading.RLock()  # guards allocations, frees and memory queries
        self._device = self._cupy.cuda.Device(device)
        with self._device:
            self._stream = self._cupy.cuda.Stream(non_blocking=True)
        self.address = int(self._stream.ptr)

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total bytes on the GPU, whichever process uses the rest."""
        with self._memory_lock, self._device:
            free, total = self._cupy.cuda.runtime.memGetInfo()
        return int(free), int(total)

    def adopt(self) -> None:
        """Makes this the current GPU of the calling thread."""
        self._device.use()

    def allocate(self, nbytes: int) -> Block:
        """Allocates a block on the GPU (cudaMalloc).

        Raises:
            MemoryError: the GPU is full.
        """
        with self._memory_lock, self._device, self._as_memory_error("the GPU's memory"):
            memory = self._cupy.cuda.Memory(nbytes)
        return Block(_CupyMemory(memory, self._memory_lock), int(memory.ptr), nbytes, self.device)

    def allocate_pinned(self, nbytes: int) -> Block:
        """Allocates a block of pinned host memory (cudaHostAlloc).

        Raises:
            MemoryError: there is no room.
        """
        cuda = self._cupy.cuda
        with self._memory_lock, self._device, self._as_memory_error("page-locked memory"):
            memory = cuda.PinnedMemory(nbytes, cuda.runtime.hostAllocPortable)
        return Block(_CupyMemory(memory, self._memory_lock), int(memory.ptr), nbytes, PINNED)

    @contextlib.contextmanager
    def _as_memory_error(self, what: str) -> Iterator[None]:
        runtime = self._cupy.cuda.runtime
        try:
            yield
        except runtime.CUDARuntimeError as error:
            if error.status != _MEMORY_ALLOCATION:
                raise
            raise MemoryError(f"{what} is full") from error

    def copy_in(self, target: int, source: int, nbytes: int) -> None:
        """Enqueues a copy from pinned memory to the GPU, and returns immediately."""
        self._cupy.cuda.runtime.memcpyAsync(target, source, nbytes, _HOST_TO_DEVICE, self.address)

    def copy_out(self, target: int, source: int, nbytes: int) -> None:
        """Enqueues a copy from the GPU to pinned memory, and returns immediately."""
        self._cupy.cuda.runtime.memcpyAsync(target, source, nbytes, _DEVICE_TO_HOST, self.address)

    def record(self) -> "_CudaEvent":
        """Records an event after everything enqueued so far."""
        with self._device:
            event = self._cupy.cuda.Event(disable_timing=True)
        event.record(self._stream)
        return _CudaEvent(event)

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Context in which no thread allocates or frees GPU memory.

        CUDA would reject the call and invalidate the capture: cudaStreamCaptureModeGlobal.
        """
        with self._memory_lock:
            was_enabled = gc.isenabled()
            gc.disable()  # garbage would be freed in this thread, which holds the lock
            try:
                yield
            finally:
                if was_enabled:
                    gc.enable()

    def end_capture(self) -> None:
        """Ends a capture that failed half-way, so that the stream is usable again."""
        runtime = self._cupy.cuda.runtime
        # Raises if there is no capture, or CUDA has already given it up.
        with contextlib.suppress(runtime.CUDARuntimeError):
            runtime.graphDestroy(runtime.streamEndCapture(self.address))


class _CudaEvent:
    __slots__ = ("_event",)

    def __init__(self, event: Any) -> None:
        self._event = event

    def wait(self) -> None:
        self._event.synchronize()


class _CupyMemory:
    """Memory allocated by CuPy, freed under the lock that captures hold."""

    __slots__ = ("_lock", "_memory")

    def __init__(self, memory: object, lock: Any) -> None:
        self._memory: object | None = memory
        self._lock = lock

    def __del__(self) -> None:
        with self._lock:
            self._memory = None


def load_cupy() -> Any:
    """Imports and returns the cupy module.

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
