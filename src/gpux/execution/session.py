"""ONNX Runtime: loads it, creates sessions, and wraps them.

The only importer of onnxruntime, on the first load of a model, so that a missing or duplicate
installation gets a clear error message.
"""

import contextlib
import importlib.metadata
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from gpux.config.settings import Settings
from gpux.errors import ConfigurationError, ModelError, RuntimeMissingError, install_command
from gpux.tensors.cuda import CudaStream, Stream

logger = logging.getLogger(__name__)

# Distributions of ONNX Runtime: all install the same module, and overwrite each other's files.
_RUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
    "onnxruntime-directml",
)
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_SHORT_NAMES = {_CPU: "cpu", _CUDA: "cuda"}
_OPTIMIZATION = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}
# An explicit "no graph": without the entry, run_with_iobinding throws a C++ exception: 29 µs a run.
NO_GRAPH = -1


def load_runtime() -> Any:
    """Imports and returns the onnxruntime module.

    Raises:
        RuntimeMissingError: none is installed, or more than one.
    """
    installed = [name for name in _RUNTIMES if _is_installed(name)]
    if len(installed) > 1:
        raise RuntimeMissingError(
            f"{' and '.join(installed)} are both installed and overwrite each other's files; "
            f"remove them (pip uninstall {' '.join(installed)}), then install one: "
            f"{install_command('cpu')}, or {install_command('cuda')}"
        )
    # ONNX Runtime sends telemetry unless this is set before its import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        if error.name != "onnxruntime":
            raise RuntimeMissingError(f"ONNX Runtime cannot be imported: {error}") from error
        raise RuntimeMissingError(
            f"ONNX Runtime is not installed: {install_command('cpu')}, "
            f"or {install_command('cuda')} for an NVIDIA GPU"
        ) from None
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


# The first version whose IOBinding.get_outputs() returns values that outlive the binding.
_FIRST_WITH_OWN_OUTPUTS = (1, 30)


def _is_older(version: str, than: tuple[int, int]) -> bool:
    major, minor, *_ = version.split(".")
    return (int(major), int(minor)) < than


class Session:
    """An ONNX Runtime session. Any number of threads may run it concurrently.

    Args:
        runtime: the onnxruntime module.
        raw: its InferenceSession.
        stream: the stream of all work of a CUDA session; None on the CPU.
        no_graphs: why its runs cannot be captured as CUDA graphs; None if they can.

    Attributes:
        host_inputs: inputs that the model reads on the host although it runs on a GPU: shapes,
            counts, any input of a node on the CPU.
        provider: the execution provider actually in use: `cpu` or `cuda`.
        version: ONNX Runtime's version.
        outputs_alias_binding: the outputs of a binding are references into it, which clearing it or
            running it again invalidates. Later versions return values of their own.
    """

    def __init__(
        self, runtime: Any, raw: Any, stream: Stream | None = None, no_graphs: str | None = None
    ) -> None:
        self._runtime = runtime
        self.raw = raw
        self.stream = stream
        self.host_inputs = frozenset(self._find_host_inputs() if stream is not None else ())
        # A graph would replay the values that it was captured with.
        self.no_graphs = no_graphs or next(
            (f"the model reads input '{name}' on the host" for name in sorted(self.host_inputs)),
            None,
        )
        self.provider = cast(Literal["cpu", "cuda"], _SHORT_NAMES[raw.get_providers()[0]])
        self.version = str(runtime.__version__)
        self.outputs_alias_binding = _is_older(self.version, _FIRST_WITH_OWN_OUTPUTS)

    def _find_host_inputs(self) -> Iterator[str]:
        """Yields the inputs that the model reads on the host.

        They must be bound there: ONNX Runtime copies a tensor bound elsewhere only at binding time.
        """
        for node, memory in zip(
            self.raw.get_inputs(), self.raw.get_input_memory_infos(), strict=True
        ):
            if memory.name.lower() != "cuda":
                yield node.name

    def create_binding(self) -> Any:
        """Creates an IOBinding for run(). Not thread-safe."""
        return self.raw.io_binding()

    def create_options(self, graph: int = NO_GRAPH, *, synchronize: bool = False) -> Any:
        """Creates RunOptions, through which a run can also be terminated.

        Args:
            graph: number of the CUDA graph to capture or, once captured, to replay.
            synchronize: whether a CUDA session waits for the run's end before it returns;
                otherwise the run ends when the stream is past it.
        """
        options = self._runtime.RunOptions()
        # Otherwise ONNX Runtime also writes each failure to stderr, in addition to raising it.
        options.log_severity_level = 4
        options.add_run_config_entry("gpu_graph_id", str(graph))
        if not synchronize:
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return options

    def run(self, binding: Any, options: Any) -> None:
        """Runs the bound tensors, without the GIL. A CUDA session may return before the end."""
        self.raw.run_with_iobinding(binding, options)

    def run_arrays(self, names: Sequence[str], feeds: Mapping[str, Any], options: Any) -> list[Any]:
        """Runs on NumPy arrays, without the GIL; for strings, sequences and maps."""
        outputs: list[Any] = self.raw.run(names, feeds, options)
        return outputs

    def value_from_bits(self, bits: Any, type_code: int) -> Any:
        """Creates an OrtValue of a type that NumPy lacks, from its bits in a uint16 array."""
        return self._runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, type_code)

    def placement(self) -> dict[str, list[str]] | None:
        """Returns the nodes assigned to each provider, as `Type name`, by its short name.

        None if ONNX Runtime is too old to report them (before 1.24), or did not record them.
        """
        try:
            parts = self.raw.get_provider_graph_assignment_info()
        except (AttributeError, RuntimeError):
            return None
        assigned: dict[str, list[str]] = {}
        for part in parts:
            name = _SHORT_NAMES.get(part.ep_name, part.ep_name)
            assigned.setdefault(name, []).extend(
                f"{node.op_type} {node.name}".rstrip() for node in part.get_nodes()
            )
        return assigned


def create_session(settings: Settings) -> Session:
    """Creates a session for the model in the settings.

    Raises:
        StartError: no runtime; a model that it cannot load; or CUDA is required but unusable.
    """
    runtime = load_runtime()
    available = _CUDA in runtime.get_available_providers()
    if settings.provider == "cpu" or (settings.provider == "auto" and not available):
        return Session(runtime, _create_raw(runtime, settings, [_CPU]))
    try:
        if not available:
            raise ConfigurationError(
                "this ONNX Runtime was built without CUDA; "
                "install the GPU build: pip uninstall onnxruntime, then "
                f"{install_command('cuda')}"
            )
        return _create_cuda_session(runtime, settings)
    except (ConfigurationError, RuntimeMissingError) as error:
        if settings.provider == "cuda":
            raise type(error)(f"provider cuda: {error}") from error
        logger.warning("CUDA could not be used: %s. The model runs on the CPU", error)
        return Session(runtime, _create_raw(runtime, settings, [_CPU]))


def _create_cuda_session(runtime: Any, settings: Settings) -> Session:
    """Creates a session whose copies and kernels all use one stream of ours."""
    if hasattr(runtime, "preload_dlls"):
        # Loads cuBLAS and cuDNN from where pip put them, and prints what it does not find.
        with contextlib.redirect_stdout(sys.stderr):
            runtime.preload_dlls()
    stream = CudaStream(settings.device)
    wants_graphs = settings.cuda_graph != "off"
    no_graphs = None
    try:
        raw = _create_raw(runtime, settings, _cuda_providers(settings, stream, graphs=wants_graphs))
    except ModelError as error:
        # ONNX Runtime rejects the whole session if its graph could not be captured.
        if not wants_graphs or not _NO_GRAPHS.search(str(error)):
            raise
        no_graphs = _reason_for_no_graphs(str(error))
        raw = _create_raw(runtime, settings, _cuda_providers(settings, stream, graphs=False))
    if raw.get_providers()[0] != _CUDA:
        raise ConfigurationError("ONNX Runtime could not use CUDA (its reason is in its log above)")
    session = Session(runtime, raw, stream, no_graphs)
    if settings.cuda_graph == "on" and session.no_graphs:
        raise ConfigurationError(f"runtime.cuda_graph is on, but {session.no_graphs}")
    return session


_NO_GRAPHS = re.compile("graph capture|cuda graph", re.IGNORECASE)


def _reason_for_no_graphs(message: str) -> str:
    """A short reason why ONNX Runtime cannot capture the model."""
    if "control flow" in message:
        return "the model has control flow (If, Loop or Scan), which no graph can hold"
    return "not all of the model's nodes run on the GPU, and a graph holds nothing else"


def _create_raw(runtime: Any, settings: Settings, providers: list[Any]) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = settings.run_threads or settings.cores
    options.graph_optimization_level = getattr(
        runtime.GraphOptimizationLevel, _OPTIMIZATION[settings.graph_optimization]
    )
    # Spinning threads would burn the cores that decoding and other requests need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(os.fspath(settings.model), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ModelError(f"{settings.model}: {strip_prefix(str(error)).strip()}") from error
    # Otherwise the CPU would replace a failing provider in the middle of service.
    session.disable_fallback()
    return session


def _cuda_providers(settings: Settings, stream: CudaStream, *, graphs: bool) -> list[Any]:
    """The CUDA provider with its options, as text for ONNX Runtime, then the CPU provider."""
    options: dict[str, str | int | float | bool] = {
        "device_id": settings.device,
        "user_compute_stream": stream.address,
        "enable_cuda_graph": graphs,
        # Doubling would allocate twice what a changing shape needs.
        "arena_extend_strategy": "kSameAsRequested",
        # EXHAUSTIVE, the default, searches again for each shape.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Results as close to the CPU's as the GPU can compute.
        "use_tf32": False,
    }
    if settings.gpu_memory_limit_bytes is not None:
        options["gpu_mem_limit"] = settings.gpu_memory_limit_bytes
    options |= settings.provider_options
    texts = {
        key: str(int(value)) if isinstance(value, bool) else str(value)
        for key, value in options.items()
    }
    return [(_CUDA, texts), _CPU]


# ONNX Runtime's prefixes, one or more: "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : ".
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |^Error in execution: ")
# A location in its source: "/build/core/x.cc:123 void* onnxruntime::Class::Function(size_t,
# bool) ".
_SOURCE = re.compile(
    r"(?:[A-Za-z]:)?[/\\\w][^\s:]*\.(?:cc|cpp|cu|cuh|h|hpp):\d+ "
    r"(?:[^\n(]*?\w::[^\n(]*\([^\n]*?\)(?: const)? )?"
)
# Any path, but not the name of a node, which looks like one.
_PATH = re.compile(r"(?<![\w.])(?<!Name:')(?:[A-Za-z]:)?(?:[/\\][\w.+@~-]+){2,}")
_MAX_REASON = 500


def strip_prefix(message: str) -> str:
    """ONNX Runtime's message without its prefixes."""
    return _PREFIX.sub("", message)


def reason_of(error: BaseException) -> str:
    """ONNX Runtime's message on one line, without paths of the server's file system."""
    text = strip_prefix(str(error))
    text = _PATH.sub("(path)", _SOURCE.sub("", text))
    text = " ".join(text.split())
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "…"
