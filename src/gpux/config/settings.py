"""Settings: what the command line says, over the environment, over gpux.yml."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from gpux.config.schema import (
    FILE_NAMES,
    AccessLog,
    BatchingMode,
    Bytes,
    Count,
    CudaGraph,
    Device,
    GraphOptimization,
    Host,
    Microseconds,
    ModelConfig,
    Origins,
    Port,
    Provider,
    Queue,
    Seconds,
    ServerName,
    Threads,
    Workers,
    convert_text,
    read_config,
)
from gpux.errors import ConfigurationError, ModelError

_YAML = (".yml", ".yaml")
PROVIDERS: tuple[str, ...] = get_args(Provider)
BATCHING: tuple[str, ...] = get_args(BatchingMode)
ACCESS_LOG: tuple[str, ...] = get_args(AccessLog)
SERVERS: tuple[str, ...] = get_args(ServerName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to serve, and how.

    Attributes:
        model: the .onnx file.
        tokenizer: a tokenizer.json that makes the model's ids from text.
        config: gpux.yml.
        provider: `auto`, `cpu` or `cuda`.
        device: the number of the GPU.
        run_threads: CPU threads that one run may use; None for one a core of the worker.
        gpu_memory_limit_bytes: of the CUDA provider's arena; None for all.
        cuda_graph: whether runs are captured as CUDA graphs and replayed.
        graph_optimization: how much ONNX Runtime may rewrite the graph.
        provider_options: further options of the CUDA provider.
        server: `waitress` or `granian`.
        workers: processes that serve, each with a model of its own; granian's.
        host: the address to listen on; None for 127.0.0.1 and, where there is one, ::1.
        port: 0 takes a free one.
        threads: requests that are worked on at once.
        max_body_bytes: larger bodies are refused with 413.
        timeout_seconds: an answer that takes longer, waiting included, is 504.
        drain_timeout_seconds: what requests in flight have at the end.
        max_queue: requests that may wait beside those that run; more are refused with 503.
        max_queue_bytes: of the bodies of all that wait and run.
        batching: whether waiting requests run together; `auto` where that was tried and agreed.
        max_batch_size: rows that run together.
        batch_delay_us: how long a request may be held back for company, in microseconds.
        cors_origins: the origins whose pages may read answers; `*` for all.
        access_log: a line for each request, on standard output: `json`, `text`, or `off`.
        warmup: a file with a request body, which is run before any other; None to make one up.
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
    server: ServerName = "waitress"
    workers: int = 1
    host: str | None = None
    port: int = 8080
    threads: int = 32
    max_body_bytes: int = 64 * 2**20
    timeout_seconds: float = 60.0
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
        """CPU cores for each worker."""
        return max(1, cores() // self.workers)

    @property
    def name(self) -> str:
        """The model's: gpux.yml's; or its folder's, or its file's without the ending."""
        is_named_by_folder = self.model.name == "model.onnx"
        name = self.model.resolve().parent.name if is_named_by_folder else self.model.stem
        return self.config.content.name or name


# What options and environment can set: the attribute of Settings, and its type.
_SETTINGS: dict[str, tuple[str, Any]] = {
    "provider": ("provider", Provider),
    "device": ("device", Device),
    "server": ("server", ServerName),
    "workers": ("workers", Workers),
    "host": ("host", Host),
    "port": ("port", Port),
    "threads": ("threads", Threads),
    "max_body": ("max_body_bytes", Bytes),
    "timeout": ("timeout_seconds", Seconds),
    "drain_timeout": ("drain_timeout_seconds", Seconds),
    "max_queue": ("max_queue", Queue),
    "max_queue_bytes": ("max_queue_bytes", Bytes),
    "batching": ("batching", BatchingMode),
    "max_batch_size": ("max_batch_size", Count),
    "batch_delay": ("batch_delay_us", Microseconds),
    "cors_origins": ("cors_origins", Origins),
    "access_log": ("access_log", AccessLog),
}

# Options of the CUDA provider that are ours to set.
_OUR_PROVIDER_OPTIONS = {
    "device_id": "expected runtime.device instead",
    "gpu_mem_limit": "expected runtime.gpu_memory_limit instead",
    "enable_cuda_graph": "expected runtime.cuda_graph instead",
    "user_compute_stream": "the stream is the server's own",
    "has_user_compute_stream": "the stream is the server's own",
}


def read_settings(
    environment: Mapping[str, str],
    options: Mapping[str, str | None],
    *,
    variables: Mapping[str, str] = os.environ,
) -> Settings:
    """The settings that options, environment and gpux.yml make.

    Args:
        environment: by setting, in capitals behind `GPUX_`; empty is not given.
        options: as text, by setting: `model`, `config`, `provider`, `device`, `host`, `port`,
            `threads`, `warmup`, and the others of `_SETTINGS`; None is not given.
        variables: what `${VAR}` in gpux.yml stands for.

    Raises:
        ConfigurationError: names the option, the variable or the file and its key, and says what
            was expected.
        ModelError: there is no such model.
    """

    def given(name: str) -> tuple[str, str] | None:
        """A setting's text and where it stands."""
        option = options.get(name)
        if option is not None:
            return option, "PATH" if name == "model" else "--" + name.replace("_", "-")
        variable = "GPUX_" + name.upper()
        value = environment.get(variable)
        return (value, variable) if value else None

    settings: dict[str, Any] = {}
    for name, (attribute, kind) in _SETTINGS.items():
        text = given(name)
        if text is not None:
            settings[attribute] = convert_text(text[0], kind, text[1])
    model, named = given("model"), given("config")
    if model and Path(model[0]).suffix in _YAML:
        # It names no model but a gpux.yml. What the command line names has the say.
        if model[1] == "PATH" and named and named[1] == "--config":
            raise ConfigurationError(f"{model[0]} and --config {named[0]}: name one file")
        is_first = named is None or model[1] == "PATH"
        model, named = None, model if is_first else named
    file, config = _find_model(
        Path(model[0]) if model else None, Path(named[0]) if named else None, variables
    )
    runtime = config.content.runtime
    for option, instead in _OUR_PROVIDER_OPTIONS.items():
        if option in runtime.provider_options:
            config.fail("runtime", "provider_options", option, problem=instead)
    for name, (attribute, _) in _SETTINGS.items():
        section = runtime if name in ("provider", "device") else config.content.serving
        in_file = getattr(section, name)
        if in_file is not None:
            settings.setdefault(attribute, (in_file,) if in_file == "*" else in_file)
    read = Settings(
        model=file,
        tokenizer=_find_tokenizer(file, config),
        warmup=_find_warmup(given("warmup"), config),
        config=config,
        run_threads=runtime.threads,
        gpu_memory_limit_bytes=runtime.gpu_memory_limit,
        cuda_graph=runtime.cuda_graph,
        graph_optimization=runtime.graph_optimization,
        provider_options=runtime.provider_options,
        **settings,
    )
    if read.workers > 1 and read.server == "waitress":
        raise ConfigurationError(
            f"serving.workers is {read.workers}, but waitress is one process; "
            "serving.server: granian has several"
        )
    return read


def _find_model(
    path: Path | None, config_file: Path | None, variables: Mapping[str, str]
) -> tuple[Path, ModelConfig]:
    """The .onnx file, and the gpux.yml about it: where they are named, or beside each other."""
    if config_file is not None:
        config = read_config(config_file, variables)
        return _find_file(path) if path else _find_source(config), config
    if path is None:
        raise ConfigurationError(
            "no model is named: PATH or GPUX_MODEL names an .onnx file or a folder with one, "
            "--config or GPUX_CONFIG a gpux.yml"
        )
    folder = path if _is_folder(path) else path.parent
    beside = [folder / name for name in FILE_NAMES if _is_file(folder / name)]
    if not beside:
        return _find_file(path), ModelConfig()
    config = read_config(beside[0], variables)
    if _is_folder(path):
        return _find_source(config), config
    # A file of that name may stand beside several models: it is about the one that it names.
    source = _source(config)
    is_about_it = _is_file(source) and _is_file(path) and source.samefile(path)
    return _find_file(path), config if is_about_it else ModelConfig()


def _source(config: ModelConfig) -> Path:
    return config.folder / (config.content.model.source or "model.onnx")


def _find_source(config: ModelConfig) -> Path:
    """The file that a gpux.yml is about."""
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
    named = config.content.preprocessing.tokenizer
    if named is None:
        beside = model.parent / "tokenizer.json"
        return beside if _is_file(beside) else None
    file = config.folder / named
    if not _is_file(file):
        config.fail("preprocessing", "tokenizer", problem=f"no such file: {file}")
    return file


def _find_warmup(given: tuple[str, str] | None, config: ModelConfig) -> Path | None:
    if given is not None:
        if not _is_file(Path(given[0])):
            raise ConfigurationError(f"{given[1]}: no such file: {given[0]}")
        return Path(given[0])
    named = config.content.serving.warmup
    if named is None:
        return None
    file = config.folder / named
    if not _is_file(file):
        config.fail("serving", "warmup", problem=f"no such file: {file}")
    return file


# Path's own methods raise for names that no file system takes: too long, or with a NUL.


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112


def cores() -> int:
    """CPU cores that this process may use: those it is bound to, within its container's quota."""
    bound = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


def _cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The CPUs that the process' control group may use at a time; None for all.

    Source: the Linux kernel's documentation, "Control Group v2", cpu.max; and of version 1,
    cpu.cfs_quota_us.
    """
    try:
        if (file := root / "cpu.max").exists():
            quota, period = file.read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no quota is written as `max`
        return None
