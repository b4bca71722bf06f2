"""The device under test: all that `gpu` needs of it, so that the rest runs without a GPU.

CudaBackend is a GPU. The tests replace it with a stand-in.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from common.reference import Reference
from common.report import CannotMeasureError
from gpux._engine import available_providers
from gpux.config.settings import Settings, cores
from gpux.errors import RuntimeMissingError
from gpux.execution.runtime import load_runtime
from gpux.execution.session import Session, create_session
from gpux.tensors.cuda import Stream, load_cupy


class NoGpuError(CannotMeasureError):
    """No usable GPU; what is missing, in one line."""

    def __init__(self, missing: str) -> None:
        super().__init__(" ".join(missing.split()))


class Backend(Protocol):
    """A device."""

    def create_session(self, settings: Settings) -> Session:
        """Creates a session on the device, with a stream."""

    def alone(self, file: Path, *, graphs: bool) -> Reference:
        """Loads the model in plain ONNX Runtime, with the same options, in a process of its own.

        Args:
            file: the model file.
            graphs: whether its runs are captured as CUDA graphs.
        """

    def bare_copy(self, stream: Stream) -> Callable[[int, int, int], None]:
        """A minimal host-to-device copy on the stream: (target, source, bytes) → None."""

    def used_bytes(self) -> int:
        """The device memory in use, by any process."""


class CudaBackend:
    """The first GPU."""

    def create_session(self, settings: Settings) -> Session:
        return create_session(settings)

    def alone(self, file: Path, *, graphs: bool) -> Reference:
        return Reference(file, "cuda", threads=cores(), graphs=graphs)

    def bare_copy(self, stream: Stream) -> Callable[[int, int, int], None]:
        runtime = load_cupy().cuda.runtime
        copy, wait, address = runtime.memcpyAsync, runtime.streamSynchronize, stream.address

        def bare(target: int, source: int, nbytes: int) -> None:
            copy(target, source, nbytes, 1, address)  # cudaMemcpyHostToDevice
            wait(address)

        return bare

    def used_bytes(self) -> int:
        free, total = load_cupy().cuda.runtime.memGetInfo()
        return int(total) - int(free)


def find_gpu() -> dict[str, Any]:
    """Describes the first GPU and the software installed for it.

    Raises:
        NoGpuError: CuPy, the driver, ONNX Runtime or its CUDA provider is missing.
    """
    try:
        cupy = load_cupy()
        runtime = cupy.cuda.runtime
        try:
            count = int(runtime.getDeviceCount())
        except Exception as error:
            raise NoGpuError(f"no NVIDIA driver with a GPU: {error}") from error
        if count == 0:
            raise NoGpuError("the driver knows no GPU")
        load_runtime()
    except RuntimeMissingError as error:
        raise NoGpuError(str(error)) from error
    if "CUDAExecutionProvider" not in available_providers():
        raise NoGpuError(
            "this ONNX Runtime was built without CUDA: "
            "pip uninstall onnxruntime, then pip install '.[cuda]'"
        )
    properties = runtime.getDeviceProperties(0)
    return {
        "gpu": properties["name"].decode(),
        "gpu_memory_bytes": int(properties["totalGlobalMem"]),
        "driver_cuda": int(runtime.driverGetVersion()),
        "cupy": str(cupy.__version__),
    }
