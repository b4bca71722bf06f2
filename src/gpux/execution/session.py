"""Sessions: how ONNX Runtime loads a model, on the CPU or with CUDA, and how its errors read."""

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from gpux._engine import (
    Binding,
    Declared,
    RunOptions,
    SessionOptions,
    available_providers,
    runtime_version,
)
from gpux._engine import Session as NativeSession
from gpux.config.settings import Settings
from gpux.errors import ConfigurationError, ModelError, RuntimeMissingError, install_command
from gpux.execution.cuda_libraries import open_cuda_libraries
from gpux.execution.runtime import find_library, load_runtime
from gpux.tensors.cuda import CudaStream, Stream

logger = logging.getLogger(__name__)

_CUDA = "CUDAExecutionProvider"
_SHORT_NAMES = {"CPUExecutionProvider": "cpu", _CUDA: "cuda"}
_OPTIMIZATION = {"disabled": 0, "basic": 1, "extended": 2, "all": 99}
# An explicit "no graph": without the entry, a run throws a C++ exception inside: 29 µs.
NO_GRAPH = -1


class Session:
    """An ONNX Runtime session. Any number of threads may run it concurrently.

    Args:
        native: the session of the core.
        stream: the stream of all work of a CUDA session; None on the CPU.
        no_graphs: why its runs cannot be captured as CUDA graphs; None if they can.
        provider: the execution provider that its options prefer.

    Attributes:
        native, provider: as above.
        host_inputs: inputs that the model reads on the host although it runs on a GPU: shapes,
            counts, any input of a node on the CPU.
        version: ONNX Runtime's version.
    """

    def __init__(
        self,
        native: NativeSession,
        stream: Stream | None = None,
        no_graphs: str | None = None,
        provider: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        self.native = native
        self.stream = stream
        self.host_inputs = frozenset(self._find_host_inputs() if stream is not None else ())
        # A graph would replay the values that it was captured with.
        self.no_graphs = no_graphs or next(
            (f"the model reads input '{name}' on the host" for name in sorted(self.host_inputs)),
            None,
        )
        self.provider = provider
        self.version = runtime_version()

    @property
    def inputs(self) -> list[Declared]:
        """The inputs that the model declares."""
        return self.native.inputs

    @property
    def outputs(self) -> list[Declared]:
        """The outputs that the model declares."""
        return self.native.outputs

    @property
    def initializers(self) -> list[Declared]:
        """The initializers that a caller may override."""
        return self.native.initializers

    def metadata(self) -> Mapping[str, Any]:
        """What the model says about itself, as gpux._engine.Session.metadata() returns it."""
        return self.native.metadata()

    def _find_host_inputs(self) -> Iterator[str]:
        """Yields the inputs that the model reads on the host.

        They must be bound there: ONNX Runtime copies a tensor bound elsewhere only at binding time.
        """
        memory = self.native.input_memory()
        if memory is None:
            raise ConfigurationError(
                f"ONNX Runtime {runtime_version()} does not report where a model reads its inputs; "
                f"install a newer one: {install_command('cuda')}"
            )
        for declared, name in zip(self.native.inputs, memory, strict=True):
            if name.lower() != "cuda":
                yield declared.name

    def create_binding(self) -> Binding:
        """Creates an IOBinding for run(). Not thread-safe."""
        return Binding(self.native)

    def create_options(self, graph: int = NO_GRAPH, *, synchronize: bool = False) -> RunOptions:
        """Creates RunOptions, through which a run can also be terminated.

        Args:
            graph: number of the CUDA graph to capture or, once captured, to replay.
            synchronize: whether a CUDA session waits for the run's end before it returns;
                otherwise the run ends when the stream is past it.
        """
        entries = {"gpu_graph_id": str(graph)}
        if not synchronize:
            entries["disable_synchronize_execution_providers"] = "1"
        return RunOptions(entries)

    def run(self, binding: Binding, options: RunOptions) -> None:
        """Runs the bound tensors, without the GIL. A CUDA session may return before the end.

        Raises:
            RuntimeError: in ONNX Runtime's words; see reason_of().
        """
        self.native.run(binding, options)

    def operators(self) -> set[tuple[str, str]] | None:
        """Returns the type and the domain of each operator of the graph; None as of placement()."""
        assignments = self.native.assignments()
        if assignments is None:
            return None
        return {(op_type, domain) for _, op_type, domain, _ in assignments}

    def placement(self) -> dict[str, list[str]] | None:
        """Returns the nodes assigned to each provider, as `Type name`, by its short name.

        None if ONNX Runtime is too old to report them (before 1.24).
        """
        assignments = self.native.assignments()
        if assignments is None:
            return None
        assigned: dict[str, list[str]] = {}
        for provider, op_type, _, node in assignments:
            name = _SHORT_NAMES.get(provider, provider)
            assigned.setdefault(name, []).append(f"{op_type} {node}".rstrip())
        return assigned


def create_session(settings: Settings) -> Session:
    """Creates a session for the model in the settings.

    Raises:
        StartError: no runtime; a model that it cannot load; or CUDA is required but unusable.
    """
    load_runtime()
    available = _CUDA in available_providers()
    if settings.provider == "cpu" or (settings.provider == "auto" and not available):
        return Session(_load(settings))
    try:
        if not available:
            raise ConfigurationError(
                "this ONNX Runtime was built without CUDA; "
                "install the GPU build: pip uninstall onnxruntime, then "
                f"{install_command('cuda')}"
            )
        return _create_cuda_session(settings)
    except (ConfigurationError, RuntimeMissingError) as error:
        if settings.provider == "cuda":
            raise type(error)(f"provider cuda: {error}") from error
        problem: Exception = error
    except ModelError as error:
        if settings.provider == "cuda":
            raise
        problem = error
    # If the model is to blame, this fails, too.
    session = Session(_load(settings))
    logger.warning("CUDA could not be used: %s. The model runs on the CPU", problem)
    return session


def _create_cuda_session(settings: Settings) -> Session:
    """Creates a session whose copies and kernels all use one stream of ours."""
    open_cuda_libraries(find_library().with_name("libonnxruntime_providers_cuda.so"))
    stream = CudaStream(settings.device)
    wants_graphs = settings.cuda_graph != "off"
    no_graphs = None
    try:
        native = _load(settings, _cuda_options(settings, stream, graphs=wants_graphs))
    except ModelError as error:
        # ONNX Runtime rejects the whole session if its graph could not be captured.
        if not wants_graphs or not _NO_GRAPHS.search(str(error)):
            raise
        no_graphs = _reason_for_no_graphs(str(error))
        native = _load(settings, _cuda_options(settings, stream, graphs=False))
    session = Session(native, stream, no_graphs, "cuda")
    if settings.cuda_graph == "on" and session.no_graphs:
        raise ConfigurationError(f"runtime.cuda_graph is on, but {session.no_graphs}")
    return session


_NO_GRAPHS = re.compile("graph capture|cuda graph", re.IGNORECASE)


def _reason_for_no_graphs(message: str) -> str:
    """A short reason why ONNX Runtime cannot capture the model."""
    if "control flow" in message:
        return "the model has control flow (If, Loop or Scan), which no graph can hold"
    return "not all of the model's nodes run on the GPU, and a graph holds nothing else"


def _load(settings: Settings, cuda: Mapping[str, str] | None = None) -> NativeSession:
    """Loads the model; with CUDA if there are options of its provider.

    Raises:
        ConfigurationError: CUDA, or a setting of gpux.yml, cannot be used.
        ModelError: ONNX Runtime cannot load the model.
    """
    options = _create_options(settings)
    if settings.free_dimensions:
        _check_free_dimensions(settings, options)
        for name, size in settings.free_dimensions.items():
            options.override_dimension(name, size)
    if cuda is not None:
        try:
            options.append_cuda(dict(cuda))
        except RuntimeError as error:
            raise ConfigurationError(
                f"ONNX Runtime could not use CUDA: {reason_of(error)} (see also its log above)"
            ) from error
    return _open(settings, options)


def _create_options(settings: Settings) -> SessionOptions:
    options = SessionOptions(
        settings.run_threads or settings.cores, _OPTIMIZATION[settings.graph_optimization]
    )
    entries = {
        # Spinning threads would burn the cores that decoding and other requests need.
        "session.intra_op.allow_spinning": "0",
        "session.inter_op.allow_spinning": "0",
        "session.record_ep_graph_assignment_info": "1",
    }
    for name, value in {**entries, **_texts(settings.session_options)}.items():
        options.add_config_entry(name, value)
    for index, library in enumerate(settings.custom_ops):
        try:
            options.register_custom_ops(library)
        except RuntimeError as error:
            settings.config.fail(
                "runtime", "custom_ops", index, problem=without_sources(str(error))
            )
    return options


def _open(settings: Settings, options: SessionOptions) -> NativeSession:
    try:
        return NativeSession(settings.model, options)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{settings.model}: {without_sources(str(error))}") from error


def _check_free_dimensions(settings: Settings, options: SessionOptions) -> None:
    """Rejects a name that no axis of an input has, which ONNX Runtime ignores.

    Loads the model once more: an axis whose size is fixed has lost its name.
    """
    names = {dim for declared in _open(settings, options).inputs for dim in declared.dims} - {None}
    for name in settings.free_dimensions:
        if name not in names:
            known = ", ".join(sorted(f"'{dim}'" for dim in names if isinstance(dim, str)))
            problem = f"no input has an axis of this name; they are {known}"
            settings.config.fail(
                "runtime",
                "free_dimensions",
                name,
                problem=problem if known else "no axis of the model's inputs has a name",
            )


def _cuda_options(settings: Settings, stream: CudaStream, *, graphs: bool) -> dict[str, str]:
    """The options of the CUDA provider, as text for ONNX Runtime."""
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
    return _texts({**options, **settings.provider_options})


def _texts(options: Mapping[str, str | int | float | bool]) -> dict[str, str]:
    return {
        name: str(int(value)) if isinstance(value, bool) else str(value)
        for name, value in options.items()
    }


# Prefixes within a message that quotes another: "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : ".
_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
# A location in its source: "/build/core/x.cc:123 void* onnxruntime::Class::Function(size_t,
# bool) ".
_SOURCE = re.compile(
    r"(?:[A-Za-z]:)?[/\\\w][^\s:]*\.(?:cc|cpp|cu|cuh|h|hpp):\d+ "
    r"(?:[^\n(]*?\w::[^\n(]*\([^\n]*?\)(?: const)? )?"
)
# Any path, but not the name of a node, which looks like one.
_PATH = re.compile(r"(?<![\w.])(?<!Name:')(?:[A-Za-z]:)?(?:[/\\][\w.+@~-]+){2,}")
_MAX_REASON = 500


def without_sources(message: str) -> str:
    """ONNX Runtime's message on one line, without its prefixes and locations in its source."""
    return " ".join(_SOURCE.sub("", _PREFIX.sub("", message)).split())


def reason_of(error: BaseException) -> str:
    """As without_sources(), also without paths of the server's file system, and not too long."""
    text = _PATH.sub("(path)", without_sources(str(error)))
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "…"
