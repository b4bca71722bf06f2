"""The device under test: everything that `gpu` needs of it, so that the rest runs without a GPU.

CudaBackend is a GPU. The tests replace it with a stand-in.
"""

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import contenders
import environments
import numpy
from answers import Array
from python_runtime import load_runtime
from report import CannotMeasureError

from gpux.config.settings import Settings, cores
from gpux.errors import RuntimeMissingError
from gpux.execution.session import Session, create_session
from gpux.tensors.cuda import Stream, load_cupy

_CUDA = "CUDAExecutionProvider"


class NoGpuError(CannotMeasureError):
    """No usable GPU.

    Args:
        missing: what is missing, in words; joined into one line.
    """

    def __init__(self, missing: str) -> None:
        super().__init__(" ".join(missing.split()))


@dataclass(frozen=True, slots=True)
class Lent:
    """A device tensor of another library.

    Attributes:
        value: the tensor.
        address: the address of its first element.
    """

    value: object
    address: int


class Backend(Protocol):
    """A device.

    Attributes:
        provider: the short name of its execution provider in the counts of nodes.
    """

    provider: str

    def create_session(self, settings: Settings) -> Session:
        """Creates a session on the device, with a stream."""

    def raw(self, file: Path, *, graphs: bool) -> "RawSession":
        """Loads the model in plain ONNX Runtime, with the same options.

        Args:
            file: the model file.
            graphs: whether its runs are captured as CUDA graphs.
        """

    def bare_copy(self, stream: Stream) -> Callable[[int, int, int], None]:
        """A minimal host-to-device copy on the stream: (target, source, bytes) → None."""

    def used_bytes(self) -> int:
        """The device memory in use, by any process."""

    def lenders(self) -> Mapping[str, Callable[[Array], Lent]]:
        """By library, a function that copies a float32 array to a tensor on the device."""

    def serve(self, path: Path) -> AbstractContextManager[int]:
        """Runs `gpux serve PATH` on the device while the context lasts; yields the port."""


class RawSession:
    """A model in plain ONNX Runtime, with IOBinding. For one thread.

    Args:
        runtime: the onnxruntime module.
        raw: the InferenceSession.
        device: ONNX Runtime's name of the device.
        graphs: whether its runs are captured as CUDA graphs.
    """

    def __init__(self, runtime: Any, raw: Any, device: str, *, graphs: bool) -> None:
        self._runtime = runtime
        self._raw = raw
        self._device = device
        self._graphs = graphs
        self._bound = 0

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> "RawRun":
        """Copies inputs to the device and binds them once; allocates and binds the outputs.

        Args:
            inputs: by name.
            outputs: by name, arrays of the expected types and shapes.
        """
        value_of = self._runtime.OrtValue
        binding = self._raw.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, value_of.ortvalue_from_numpy(array, self._device, 0))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(
                name,
                value_of.ortvalue_from_shape_and_type(array.shape, array.dtype, self._device, 0),
            )
        options = self._runtime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(self._bound if self._graphs else -1))
        self._bound += 1
        return RawRun(self._raw, binding, options, list(outputs))


class RawRun:
    """A binding that can be run. Its inputs and outputs stay on the device."""

    def __init__(self, raw: Any, binding: Any, options: Any, names: Sequence[str]) -> None:
        self._raw = raw
        self._binding = binding
        self._options = options
        self._names = names

    def run(self) -> None:
        """Runs the model; the device has finished when this returns."""
        self._raw.run_with_iobinding(self._binding, self._options)

    def outputs(self) -> dict[str, Array]:
        """Copies of the outputs."""
        return dict(zip(self._names, self._binding.copy_outputs_to_cpu(), strict=True))


class CudaBackend:
    """The first GPU."""

    provider = "cuda"

    def create_session(self, settings: Settings) -> Session:
        return create_session(settings)

    def raw(self, file: Path, *, graphs: bool) -> RawSession:
        runtime = load_runtime()
        if hasattr(runtime, "preload_dlls"):
            runtime.preload_dlls()  # cuBLAS and cuDNN, if installed by pip
        options = runtime.SessionOptions()
        options.intra_op_num_threads = cores()
        for pool in ("intra", "inter"):
            options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
        options.log_severity_level = 3
        cuda = {
            "device_id": "0",
            "enable_cuda_graph": str(int(graphs)),
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
        }
        providers = [(_CUDA, cuda), "CPUExecutionProvider"]
        raw = runtime.InferenceSession(os.fspath(file), options, providers=providers)
        raw.disable_fallback()
        if raw.get_providers()[0] != _CUDA:
            raise CannotMeasureError("plain ONNX Runtime could not use CUDA")
        return RawSession(runtime, raw, "cuda", graphs=graphs)

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

    def lenders(self) -> Mapping[str, Callable[[Array], Lent]]:
        def to_cupy(array: Array) -> Lent:
            value = load_cupy().asarray(array)
            load_cupy().cuda.runtime.deviceSynchronize()
            return Lent(value, int(value.data.ptr))

        found = {"cupy": to_cupy}
        try:
            torch: Any = importlib.import_module("torch")
        except ImportError:
            return found

        def to_torch(array: Array) -> Lent:
            value = torch.from_numpy(numpy.array(array)).cuda()
            return Lent(value, int(value.data_ptr()))

        return {**found, "torch": to_torch} if torch.cuda.is_available() else found

    @contextmanager
    def serve(self, path: Path) -> Iterator[int]:
        def command(python: Path, model: Path, port: int) -> Sequence[str]:
            return contenders.serve_command(python, model, port, "--provider", "cuda")

        ours = environments.OURS
        contender = contenders.Contender("gpux", "on a GPU", "ours", command, lambda: ours)
        with contenders.serving(contender, ours, path) as server:
            yield server.port


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
        onnxruntime = load_runtime()
    except RuntimeMissingError as error:
        raise NoGpuError(str(error)) from error
    if _CUDA not in onnxruntime.get_available_providers():
        raise NoGpuError(
            f"this ONNX Runtime ({onnxruntime.__version__}) was built without CUDA: "
            "pip uninstall onnxruntime, then pip install '.[cuda]'"
        )
    properties = runtime.getDeviceProperties(0)
    return {
        "gpu": properties["name"].decode(),
        "gpus": count,
        "gpu_memory_bytes": int(properties["totalGlobalMem"]),
        "driver_cuda": int(runtime.driverGetVersion()),
        "runtime_cuda": int(runtime.runtimeGetVersion()),
        "cupy": str(cupy.__version__),
        "onnxruntime": str(onnxruntime.__version__),
    }


@contextmanager
def folder_with(model: Path, described: str) -> Iterator[Path]:
    """A temporary folder with a model and a gpux.yml, to be served."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model.read_bytes())
        (folder / "gpux.yml").write_text(described)
        yield folder
