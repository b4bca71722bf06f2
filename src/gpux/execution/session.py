"""ONNX Runtime: found, asked for a session, and that session with what is known of it.

The only importer of onnxruntime, at the time of the first load, so that a missing or doubled
runtime can be reported in words.
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

# Builds of ONNX Runtime that install the same module, and so overwrite each other's files.
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
# "No graph", said outright: a missing entry costs run_with_iobinding an exception of C++, 29 µs a
# run.
NO_GRAPH = -1


def load_runtime() -> Any:
    """The onnxruntime module.

    Raises:
        RuntimeMissingError: there is none, or there are two.
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


class Session:
    """A session of ONNX Runtime. Any number of threads may run it at once.

    Args:
        runtime: the onnxruntime module.
        raw: its InferenceSession.
        stream: that all its work is put on, for a CUDA session.
        no_graphs: why its runs cannot be captured as CUDA graphs; None where they can.

    Attributes:
        host_inputs: those that the model reads on the host, though it runs on a GPU: shapes,
            counts, whatever a node on the CPU takes.
        provider: `cpu` or `cuda`: the one really in use.
        version: of ONNX Runtime.
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

    def _find_host_inputs(self) -> Iterator[str]:
        """ONNX Runtime copies a tensor that is bound elsewhere at the moment of binding, not later.

        So those that it will read on the host must be bound there.
        """
        for node, memory in zip(
            self.raw.get_inputs(), self.raw.get_input_memory_infos(), strict=True
        ):
            if memory.name.lower() != "cuda":
                yield node.name

    def create_binding(self) -> Any:
        """What run() takes: inputs and outputs by pointer. Of one thread at a time."""
        return self.raw.io_binding()

    def create_options(self, graph: int = NO_GRAPH, *, synchronize: bool = False) -> Any:
        """The options of a run, by which it can be stopped, too.

        Args:
            graph: the CUDA graph that it replays, or, at first, captures.
            synchronize: a CUDA session returns from the run only when it is done; otherwise it is
                done when the stream has got past it.
        """
        options = self._runtime.RunOptions()
        # ONNX Runtime would write each failure to stderr as well, beside what is raised.
        options.log_severity_level = 4
        options.add_run_config_entry("gpu_graph_id", str(graph))
        if not synchronize:
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return options

    def run(self, binding: Any, options: Any) -> None:
        """Runs what is bound, without the GIL. A CUDA session may return before it is done."""
        self.raw.run_with_iobinding(binding, options)

    def run_arrays(self, names: Sequence[str], feeds: Mapping[str, Any], options: Any) -> list[Any]:
        """Runs on NumPy arrays, without the GIL: the way of strings, sequences and maps."""
        outputs: list[Any] = self.raw.run(names, feeds, options)
        return outputs

    def value_of_bits(self, bits: Any, type_code: int) -> Any:
        """A tensor of a type that NumPy does not have, from its bits in an array of uint16."""
        return self._runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, type_code)

    def placement(self) -> dict[str, list[str]] | None:
        """The nodes that each provider runs, as `Type name`, by the provider's short name.

        None where ONNX Runtime is too old to tell (before 1.24), or was not asked to.
        """
        try:
            parts = self.raw.get_provider_graph_assignment_info()
        except (AttributeError, RuntimeError):
            return None
        placed: dict[str, list[str]] = {}
        for part in parts:
            name = _SHORT_NAMES.get(part.ep_name, part.ep_name)
            placed.setdefault(name, []).extend(
                f"{node.op_type} {node.name}".rstrip() for node in part.get_nodes()
            )
        return placed


def create_session(settings: Settings) -> Session:
    """A session of the model that the settings name.

    Raises:
        StartError: no runtime; no model that it can load; or CUDA is demanded and cannot be used.
    """
    runtime = load_runtime()
    available = _CUDA in runtime.get_available_providers()
    if settings.provider == "cpu" or (settings.provider == "auto" and not available):
        return Session(runtime, _create(runtime, settings, [_CPU]))
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
        return Session(runtime, _create(runtime, settings, [_CPU]))


def _create_cuda_session(runtime: Any, settings: Settings) -> Session:
    """A session whose copies and kernels all go through one stream of ours."""
    if hasattr(runtime, "preload_dlls"):
        # cuBLAS and cuDNN, where pip has put them. It prints what it does not find.
        with contextlib.redirect_stdout(sys.stderr):
            runtime.preload_dlls()
    stream = CudaStream(settings.device)
    wants_graphs = settings.cuda_graph != "off"
    no_graphs = None
    try:
        raw = _create(runtime, settings, _cuda_providers(settings, stream, graphs=wants_graphs))
    except ModelError as error:
        # ONNX Runtime refuses the whole session where a graph of it could not be captured.
        if not wants_graphs or not _NO_GRAPHS.search(str(error)):
            raise
        no_graphs = _reason_for_no_graphs(str(error))
        raw = _create(runtime, settings, _cuda_providers(settings, stream, graphs=False))
    if raw.get_providers()[0] != _CUDA:
        raise ConfigurationError("ONNX Runtime could not use CUDA (its reason is in its log above)")
    session = Session(runtime, raw, stream, no_graphs)
    if settings.cuda_graph == "on" and session.no_graphs:
        raise ConfigurationError(f"runtime.cuda_graph is on, but {session.no_graphs}")
    return session


_NO_GRAPHS = re.compile("graph capture|cuda graph", re.IGNORECASE)


def _reason_for_no_graphs(said: str) -> str:
    """Why ONNX Runtime will not capture, shortly."""
    if "control flow" in said:
        return "the model has control flow (If, Loop or Scan), which no graph can hold"
    return "not all of the model's nodes run on the GPU, and a graph holds nothing else"


def _create(runtime: Any, settings: Settings, providers: list[Any]) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = settings.run_threads or settings.cores
    options.graph_optimization_level = getattr(
        runtime.GraphOptimizationLevel, _OPTIMIZATION[settings.graph_optimization]
    )
    # A spinning pool burns the cores that decoding and the other requests need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(os.fspath(settings.model), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ModelError(f"{settings.model}: {strip_prefix(str(error)).strip()}") from error
    # Without this a failing provider would be replaced by the CPU in the middle of service.
    session.disable_fallback()
    return session


def _cuda_providers(settings: Settings, stream: CudaStream, *, graphs: bool) -> list[Any]:
    """The CUDA provider with its options, which ONNX Runtime takes as text, and the CPU's."""
    options: dict[str, str | int | float | bool] = {
        "device_id": settings.device,
        "user_compute_stream": stream.address,
        "enable_cuda_graph": graphs,
        # Doubling would take twice what a changing shape needs.
        "arena_extend_strategy": "kSameAsRequested",
        # EXHAUSTIVE, its default, searches anew for each shape.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The answers of the CPU, as closely as the GPU can.
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


# What ONNX Runtime puts in front, once or more: "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : ".
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |^Error in execution: ")
# Where in its source it failed: "/build/core/x.cc:123 void* onnxruntime::Class::Function(size_t,
# bool) ".
_SOURCE = re.compile(
    r"(?:[A-Za-z]:)?[/\\\w][^\s:]*\.(?:cc|cpp|cu|cuh|h|hpp):\d+ "
    r"(?:[^\n(]*?\w::[^\n(]*\([^\n]*?\)(?: const)? )?"
)
# Any path but the name of a node, which looks like one.
_PATH = re.compile(r"(?<![\w.])(?<!Name:')(?:[A-Za-z]:)?(?:[/\\][\w.+@~-]+){2,}")
_MAX_REASON = 500


def strip_prefix(said: str) -> str:
    """What ONNX Runtime said, without the codes in front."""
    return _PREFIX.sub("", said)


def reason_of(error: BaseException) -> str:
    """What ONNX Runtime said, in one line without places in the server's file system."""
    text = strip_prefix(str(error))
    text = _PATH.sub("(path)", _SOURCE.sub("", text))
    text = " ".join(text.split())
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "…"
