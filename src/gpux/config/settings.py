"""Settings: command-line options override the environment, which overrides gpux.yml."""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from gpux.config.custom_ops import find_custom_ops
from gpux.config.schema import (
    FILE_NAMES,
    AccessLog,
    BatchingMode,
    Bytes,
    Count,
    CudaGraph,
    Delay,
    Device,
    FormerServer,
    GraphOptimization,
    Host,
    Microseconds,
    ModelConfig,
    Origins,
    Port,
    Provider,
    Queue,
    Seconds,
    Threads,
    Workers,
    convert_text,
    read_config,
)
from gpux.errors import ConfigurationError, ModelError

logger = logging.getLogger(__name__)

_YAML = (".yml", ".yaml")
PROVIDERS: tuple[str, ...] = get_args(Provider)
BATCHING: tuple[str, ...] = get_args(BatchingMode)
ACCESS_LOG: tuple[str, ...] = get_args(AccessLog)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to serve, and how.

    Attributes:
        model: the .onnx file.
        tokenizer: a tokenizer.json that turns texts into the model's token ids.
        config: the parsed gpux.yml.
        provider: `auto`, `cpu` or `cuda`.
        device: the index of the GPU.
        run_threads: CPU threads that one run may use; None for one per core of the worker.
        gpu_memory_limit_bytes: limit of the CUDA provider's arena; None for no limit.
        cuda_graph: whether runs are captured as CUDA graphs and replayed.
        graph_optimization: how much ONNX Runtime may rewrite the graph.
        provider_options: further options of the CUDA provider.
        session_options: further config entries of the session.
        free_dimensions: the size to which the axes of a name are fixed.
        custom_ops: shared libraries with operators of the model.
        workers: serving processes, each with its own copy of the model.
        host: the address to listen on; None for 127.0.0.1 and, where available, ::1.
        port: 0 for any free port.
        threads: native threads that run models; None for one per core of the worker.
        max_body_bytes: larger bodies are rejected with 413.
        timeout_seconds: a response that takes longer, queueing included, becomes 504.
        drain_delay_seconds: how long requests are still served at shutdown, for those who send them
            to notice that the server is not ready any more.
        drain_timeout_seconds: how long requests in flight may take to finish at shutdown.
        max_queue: requests that may wait, besides the running ones; more are rejected with 503.
        max_queue_bytes: total size of the bodies of all waiting and running requests.
        batching: whether waiting requests are batched; `auto`: if a trial run gave equal results.
        max_batch_size: rows in a batch, at most.
        batch_delay_us: how long a request may wait for others to batch with, in microseconds.
        cors_origins: the origins whose pages may read responses; `*` for all.
        access_log: one line per request, on standard output: `json`, `text`, or `off`.
        warmup: a file with a request body that is run first; None to generate one.
    """

    model: Path
    tokenizer: Path | None = None
    config: ModelConfig = field(default_factory=ModelConfig)
    provider: Provider = "auto"
    device: int = 0
    run_threads: int | None = None
    gpu_memory_limit_bytes: int | None = None
    cuda_graph: CudaGraph = "auto"
    graph_optimization: GraphOptimization = "all"
    provider_options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    session_options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    free_dimensions: Mapping[str, int] = field(default_factory=dict)
    custom_ops: tuple[Path, ...] = ()
    workers: int = 1
    host: str | None = None
    port: int = 8080
    threads: int | None = None
    max_body_bytes: int = 64 * 2**20
    timeout_seconds: float = 60.0
    drain_delay_seconds: float = 0.0
    drain_timeout_seconds: float = 30.0
    max_queue: int = 256
    max_queue_bytes: int = 2**30
    batching: BatchingMode = "auto"
    max_batch_size: int = 32
    batch_delay_us: int = 0
    cors_origins: tuple[str, ...] = ()
    access_log: AccessLog = "off"
    warmup: Path | None = None

    @property
    def cores(self) -> int:
        """CPU cores per worker."""
        return max(1, cores() // self.workers)

    @property
    def native_threads(self) -> int:
        """Native threads that run models: no more than there are cores for them."""
        return min(self.threads or self.cores, self.cores)

    @property
    def name(self) -> str:
        """The model's name: from gpux.yml, else the folder's if `model.onnx`, else the file's."""
        is_named_by_folder = self.model.name == "model.onnx"
        name = self.model.resolve().parent.name if is_named_by_folder else self.model.stem
        return self.config.content.name or name


# What options and environment variables can set: the attribute of Settings, and its type.
_SETTINGS: dict[str, tuple[str, Any]] = {
    "provider": ("provider", Provider),
    "device": ("device", Device),
    "workers": ("workers", Workers),
    "host": ("host", Host),
    "port": ("port", Port),
    "threads": ("threads", Threads),
    "max_body": ("max_body_bytes", Bytes),
    "timeout": ("timeout_seconds", Seconds),
    "drain_delay": ("drain_delay_seconds", Delay),
    "drain_timeout": ("drain_timeout_seconds", Seconds),
    "max_queue": ("max_queue", Queue),
    "max_queue_bytes": ("max_queue_bytes", Bytes),
    "batching": ("batching", BatchingMode),
    "max_batch_size": ("max_batch_size", Count),
    "batch_delay": ("batch_delay_us", Microseconds),
    "cors_origins": ("cors_origins", Origins),
    "access_log": ("access_log", AccessLog),
}

# Options of the CUDA provider that the server sets itself.
_RESERVED_PROVIDER_OPTIONS = {
    "device_id": "expected runtime.device instead",
    "gpu_mem_limit": "expected runtime.gpu_memory_limit instead",
    "enable_cuda_graph": "expected runtime.cuda_graph instead",
    "user_compute_stream": "the stream is the server's own",
    "has_user_compute_stream": "the stream is the server's own",
}
# Config entries of the session that the server sets itself, or that it cannot allow.
_SPINNING = "threads never spin: they would take the cores of other requests"
_RESERVED_SESSION_OPTIONS = {
    "session.intra_op.allow_spinning": _SPINNING,
    "session.inter_op.allow_spinning": _SPINNING,
    "session.record_ep_graph_assignment_info": "the nodes are always recorded",
    "session.set_denormal_as_zero": "it would change the whole process, not this session",
}


def read_settings(
    environment: Mapping[str, str],
    options: Mapping[str, str | None],
    *,
    variables: Mapping[str, str] = os.environ,
) -> Settings:
    """Merges options, environment variables and gpux.yml into Settings.

    Args:
        environment: keyed by `GPUX_` and the setting's name in capitals; empty means not set.
        options: as text, by setting: `model`, `config`, `provider`, `device`, `host`, `port`,
            `threads`, `warmup`, and the others of `_SETTINGS`; None means not set.
        variables: values for `${VAR}` in gpux.yml.

    Raises:
        ConfigurationError: names the option, the variable or the file and its key, and says what
            was expected.
        ModelError: the model file does not exist.
    """

    def lookup(name: str) -> tuple[str, str] | None:
        """Returns a setting's text and its source, for messages."""
        option = options.get(name)
        if option is not None:
            return option, "PATH" if name == "model" else "--" + name.replace("_", "-")
        variable = "GPUX_" + name.upper()
        value = environment.get(variable)
        return (value, variable) if value else None

    settings: dict[str, Any] = {}
    for name, (attribute, kind) in _SETTINGS.items():
        text = lookup(name)
        if text is not None:
            settings[attribute] = convert_text(text[0], kind, text[1])
    model, config_file = lookup("model"), lookup("config")
    if model and Path(model[0]).suffix in _YAML:
        # `model` names a gpux.yml. The command line takes precedence over the environment.
        if model[1] == "PATH" and config_file and config_file[1] == "--config":
            raise ConfigurationError(f"{model[0]} and --config {config_file[0]}: name one file")
        is_model_first = config_file is None or model[1] == "PATH"
        model, config_file = None, model if is_model_first else config_file
    file, config = _find_model(
        Path(model[0]) if model else None, Path(config_file[0]) if config_file else None, variables
    )
    runtime = config.content.runtime
    for key, reserved in (
        ("provider_options", _RESERVED_PROVIDER_OPTIONS),
        ("session_options", _RESERVED_SESSION_OPTIONS),
    ):
        for option, problem in reserved.items():
            if option in getattr(runtime, key):
                config.fail("runtime", key, option, problem=problem)
    for name, (attribute, _) in _SETTINGS.items():
        section = runtime if name in ("provider", "device") else config.content.serving
        file_value = getattr(section, name)
        if file_value is not None:
            settings.setdefault(attribute, (file_value,) if file_value == "*" else file_value)
    merged = Settings(
        model=file,
        tokenizer=_find_tokenizer(file, config),
        warmup=_find_warmup(lookup("warmup"), config),
        config=config,
        run_threads=runtime.threads,
        gpu_memory_limit_bytes=runtime.gpu_memory_limit,
        cuda_graph=runtime.cuda_graph,
        graph_optimization=runtime.graph_optimization,
        provider_options=runtime.provider_options,
        session_options=runtime.session_options,
        free_dimensions=runtime.free_dimensions,
        custom_ops=_find_custom_ops(config),
        **settings,
    )
    server = lookup("server")
    if server is not None:
        convert_text(server[0], FormerServer, server[1])
    if server is not None or config.content.serving.server is not None:
        name = server[1] if server else "serving.server"
        logger.warning("%s has no effect: since 0.2.0 there is one server", name)
    if merged.threads is not None and merged.threads > merged.cores:
        threads = lookup("threads")
        logger.warning(
            "%s is %d, but a worker has %d of the cores: so many threads run models",
            threads[1] if threads else "serving.threads",
            merged.threads,
            merged.cores,
        )
    return merged


def _find_model(
    path: Path | None, config_file: Path | None, variables: Mapping[str, str]
) -> tuple[Path, ModelConfig]:
    """Returns the .onnx file and its config, as named or from the same folder."""
    if config_file is not None:
        config = read_config(config_file, variables)
        return _find_file(path) if path else _find_source(config), config
    if path is None:
        raise ConfigurationError(
            "no model is named: PATH or GPUX_MODEL names an .onnx file or a folder with one, "
            "--config or GPUX_CONFIG a gpux.yml"
        )
    folder = path if _is_folder(path) else path.parent
    config_files = [folder / name for name in FILE_NAMES if _is_file(folder / name)]
    if not config_files:
        return _find_file(path), ModelConfig()
    config = read_config(config_files[0], variables)
    if _is_folder(path):
        return _find_source(config), config
    # The folder may hold several models: its gpux.yml applies only to the one that it names.
    source = _source(config)
    applies = _is_file(source) and _is_file(path) and source.samefile(path)
    return _find_file(path), config if applies else ModelConfig()


def _source(config: ModelConfig) -> Path:
    return config.folder / (config.content.model.source or "model.onnx")


def _find_source(config: ModelConfig) -> Path:
    """Returns the model file of a gpux.yml."""
    file = _source(config)
    if config.content.model.source is None:
        return _find_file(config.folder)
    if not _is_file(file):
        config.fail("model", "source", problem=f"no such file: {file}")
    return file


def _find_file(path: Path) -> Path:
    if _is_folder(path):
        file = path / "model.onnx"
        if not _is_file(file):
            raise ModelError(f"{path}: the folder has no model.onnx")
        return file
    if not _is_file(path):
        raise ModelError(f"{path}: no such file or folder")
    return path


def _find_tokenizer(model: Path, config: ModelConfig) -> Path | None:
    source = config.content.preprocessing.tokenizer
    if source is None:
        default = model.parent / "tokenizer.json"
        return default if _is_file(default) else None
    file = config.folder / source
    if not _is_file(file):
        config.fail("preprocessing", "tokenizer", problem=f"no such file: {file}")
    return file


def _find_custom_ops(config: ModelConfig) -> tuple[Path, ...]:
    libraries = []
    for index, name in enumerate(config.content.runtime.custom_ops):
        try:
            libraries.append(find_custom_ops(name, config.folder))
        except ValueError as error:
            config.fail("runtime", "custom_ops", index, problem=str(error))
    return tuple(libraries)


def _find_warmup(setting: tuple[str, str] | None, config: ModelConfig) -> Path | None:
    if setting is not None:
        if not _is_file(Path(setting[0])):
            raise ConfigurationError(f"{setting[1]}: no such file: {setting[0]}")
        return Path(setting[0])
    source = config.content.serving.warmup
    if source is None:
        return None
    file = config.folder / source
    if not _is_file(file):
        config.fail("serving", "warmup", problem=f"no such file: {file}")
    return file


# Path's own methods raise for names that no file system accepts: too long, or with a NUL.


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112


def cores() -> int:
    """CPU cores available to this process: its affinity mask, capped by the container's quota."""
    affinity = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def _cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPU quota of the process' control group, in CPUs; None for no limit.

    Source: the Linux kernel's documentation, "Control Group v2", cpu.max; for v1,
    cpu.cfs_quota_us.
    """
    try:
        if (file := root / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # an unlimited quota reads `max`
        return None
