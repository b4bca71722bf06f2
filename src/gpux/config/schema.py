"""The schema of gpux.yml, and its reader.

The classes below are the whole schema; msgspec validates values against it. inputs/model_io.py
validates the config against the model itself.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from gpux.config.diagnosis import describe, find_fault, parts, without_nulls
from gpux.config.messages import KeyPath, fail, show
from gpux.config.values import OriginText, Size, decode
from gpux.errors import ConfigurationError

_T = TypeVar("_T")

FILE_NAMES = ("gpux.yml", "gpux.yaml")

Activation = Literal["softmax", "sigmoid", "normalize"]
AccessLog = Literal["off", "json", "text"]
BatchingMode = Literal["auto", "on", "off"]
CudaGraph = Literal["auto", "on", "off"]
GraphOptimization = Literal["all", "extended", "basic", "disabled"]
Missing = Literal["nan"]
Provider = Literal["auto", "cpu", "cuda"]
FormerServer = Literal["waitress", "granian"]


Port = Annotated[int, Meta(ge=0, le=65535, description="an integer from 0 to 65535")]
Threads = Annotated[int, Meta(ge=1, le=1024, description="an integer from 1 to 1024")]
Workers = Annotated[int, Meta(ge=1, le=256, description="an integer from 1 to 256")]
Device = Annotated[int, Meta(ge=0, le=1023, description="an integer from 0 to 1023")]
Bytes = Annotated[Size, Meta(description="a size such as 1000000, 64MiB or 10MB")]
Seconds = Annotated[float, Meta(gt=0, le=86400, description="seconds above 0, at most 86400")]
Delay = Annotated[float, Meta(ge=0, le=86400, description="seconds from 0 to 86400")]
Microseconds = Annotated[int, Meta(ge=0, le=10**6, description="microseconds from 0 to 1000000")]
Queue = Annotated[int, Meta(ge=0, le=10**6, description="an integer from 0 to 1000000")]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1, description="an integer from 1 on")]
Dim = Annotated[
    Annotated[int, Meta(ge=-1, le=2**63 - 1)] | Annotated[str, Meta(min_length=1)] | None,
    Meta(description="a size, a name or null"),
]
Shape = Annotated[tuple[Dim, ...], Meta(description="a list of sizes, names and null")]
PadValue = Annotated[int | float | bool, Meta(description="a number, true or false")]
_BUCKETS = "a list of sizes from 1 on, each larger than the one before it"
Bucket = Annotated[int, Meta(ge=1, le=2**31 - 1, description="a size from 1 on")]
Name = Annotated[str, Meta(min_length=1, description="a name")]
Host = Annotated[str, Meta(min_length=1, description="a host's name or address")]
Origin = Annotated[
    OriginText,
    Meta(
        description="'*' or an origin such as https://app.example: lower case, ASCII, without a "
        "path or a default port"
    ),
]
_ORIGINS = "'*' or a list of origins such as https://app.example"
Origins = Annotated[tuple[Origin, ...], Meta(description=_ORIGINS)]
Option = Annotated[str | int | float | bool, Meta(description="text, a number, true or false")]


class _Section(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class SourceConfig(_Section, frozen=True):
    """The `model` section.

    Attributes:
        source: path of the .onnx file, relative to the folder of gpux.yml.
    """

    source: Name | None = None


class InputConfig(_Section, frozen=True):
    """An entry of `inputs`.

    Attributes:
        type: the element type; must be the model's.
        shape: must match the model's, but may fix a dynamic axis or name an unnamed one; None
            leaves an axis as the model declares it.
        required: `false` requires a default.
        default: the value if a request omits the input.
        missing: `nan`: null stands for NaN, and so does the whole input if a request omits it.
        max_length: limit on a text: in tokens for the tokenizer's texts, otherwise in characters.
        description, labels: shown by /info.
        batched: whether the leading axis is the batch axis; overrides what the shape implies.
    """

    type: str | None = None
    shape: Shape | None = None
    required: bool | None = None
    default: Any | UnsetType = UNSET
    missing: Missing | None = None
    max_length: Count | None = None
    description: str | None = None
    labels: tuple[str, ...] | None = None
    batched: bool | None = None


class OutputConfig(_Section, frozen=True):
    """An entry of `outputs`; keys that InputConfig has too mean the same.

    Attributes:
        source: `from`, the output's name in the model.
        activation: applied over the last axis.
    """

    source: Name | None = msgspec.field(default=None, name="from")
    activation: Activation | None = None
    type: str | None = None
    shape: Shape | None = None
    description: str | None = None
    labels: tuple[str, ...] | None = None
    batched: bool | None = None


class RuntimeConfig(_Section, frozen=True):
    """The `runtime` section: how ONNX Runtime runs the model.

    Attributes:
        device: the index of the GPU.
        threads: CPU threads that one run may use.
        gpu_memory_limit: limit of the CUDA provider's arena, in bytes.
        cuda_graph: whether runs are captured as CUDA graphs and replayed; `auto`: where possible,
            for recurring shapes.
        provider_options: further options of the CUDA provider.
        session_options: further config entries of the session.
        free_dimensions: the size to which the axes of a name are fixed.
        custom_ops: libraries with operators of the model: paths, relative to the folder of
            gpux.yml, or names of installed Python modules.
    """

    provider: Provider | None = None
    device: Device | None = None
    threads: Threads | None = None
    gpu_memory_limit: Bytes | None = None
    cuda_graph: CudaGraph = "auto"
    graph_optimization: GraphOptimization = "all"
    provider_options: dict[str, Option] = {}
    session_options: dict[str, Option] = {}
    free_dimensions: dict[str, Count] = {}
    custom_ops: tuple[Name, ...] = ()


class ServingConfig(_Section, frozen=True):
    """The `serving` section: see gpux.config.settings.Settings.

    Attributes:
        padding: pad value by input, for batches of requests of different lengths.
        buckets: the lengths to which they are padded.
        warmup: path of a file with a request body, relative to the folder of gpux.yml.
    """

    host: Host | None = None
    port: Port | None = None
    threads: Threads | None = None
    max_body: Bytes | None = None
    timeout: Seconds | None = None
    drain_delay: Delay | None = None
    drain_timeout: Seconds | None = None
    max_queue: Queue | None = None
    max_queue_bytes: Bytes | None = None
    batching: BatchingMode | None = None
    max_batch_size: Count | None = None
    batch_delay: Microseconds | None = None
    padding: dict[str, PadValue] | None = None
    buckets: Annotated[tuple[Bucket, ...] | None, Meta(description=_BUCKETS)] = None
    server: FormerServer | None = None
    workers: Workers | None = None
    cors_origins: Annotated[Origins | Literal["*"] | None, Meta(description=_ORIGINS)] = None
    access_log: AccessLog | None = None
    warmup: Name | None = None


class PreprocessingConfig(_Section, frozen=True):
    """The `preprocessing` section: how texts become token ids.

    Attributes:
        tokenizer: path of a tokenizer.json, relative to the folder of gpux.yml.
        max_length: number of tokens to which a text is truncated.
        pad_token: for a tokenizer that defines none.
    """

    tokenizer: Name | None = None
    max_length: Count | None = None
    pad_token: Name | None = None


class FileContent(_Section, frozen=True):
    """The whole file; the entries of `inputs` and `outputs` are converted one by one later."""

    name: Name | None = None
    version: str | None = None
    description: str | None = None
    model: SourceConfig = SourceConfig()
    inputs: list[Any] | dict[str, Any] = {}
    outputs: list[Any] | dict[str, Any] | None = None
    runtime: RuntimeConfig = RuntimeConfig()
    serving: ServingConfig = ServingConfig()
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    metadata: dict[str, Any] = {}


# Values of these keys are text, even if they look like numbers or booleans.
_TEXT_KEYS = frozenset(
    {
        *("name", "version", "description", "labels", "source", "from", "tokenizer", "warmup"),
        "custom_ops",
    }
)


@dataclass(frozen=True)
class ModelConfig:
    """A parsed and validated gpux.yml.

    Attributes:
        file: its path; None if there is no file and everything has its default.
        content: everything except the entries of `inputs` and `outputs`.
        inputs, outputs: by name, in file order; `outputs` None means all of the model's.
    """

    file: Path | None = None
    content: FileContent = field(default_factory=FileContent)
    inputs: Mapping[str, InputConfig] = field(default_factory=dict)
    outputs: Mapping[str, OutputConfig] | None = None
    _key_paths: Mapping[tuple[str, str], KeyPath] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        """The base of relative paths in the file."""
        return self.file.parent if self.file else Path()

    def fail(self, *path: str | int, problem: str) -> NoReturn:
        """Raises a ConfigurationError for a key path of the file.

        Args:
            path: by name, such as `"inputs", "image", "shape"`, even if the entries are a list.
            problem: what was expected, and what was found.
        """
        if len(path) > 1 and (key_path := self._key_paths.get((str(path[0]), str(path[1])))):
            path = (*key_path, *path[2:])
        fail(self.file, path, problem)


def read_config(file: Path, environment: Mapping[str, str]) -> ModelConfig:
    """Reads a gpux.yml.

    Args:
        file: its path.
        environment: values for `${VAR}`.

    Raises:
        ConfigurationError: one line with the file, the key path and what was expected.
    """
    from gpux.config.yaml import read_yaml  # with PyYAML, which a file alone needs

    document = read_yaml(file, environment, _TEXT_KEYS)
    content = _convert(file, (), document, FileContent)
    try:
        json.dumps(content.metadata, allow_nan=False)
    except ValueError:
        fail(file, ("metadata",), "JSON, as which it is answered, has neither .nan nor .inf")
    buckets = content.serving.buckets
    if buckets is not None and (not buckets or list(buckets) != sorted(set(buckets))):
        fail(file, ("serving", "buckets"), f"expected {_BUCKETS}, got {list(buckets)}")
    key_paths: dict[tuple[str, str], KeyPath] = {}
    inputs = _entries(file, "inputs", content.inputs, InputConfig, key_paths)
    outputs = None
    if content.outputs is not None:
        outputs = _entries(file, "outputs", content.outputs, OutputConfig, key_paths)
        if not outputs:
            fail(file, ("outputs",), "expected at least one output")
    return ModelConfig(file, content, inputs, outputs, key_paths)


def _entries(
    file: Path,
    section: str,
    raw: list[Any] | dict[str, Any],
    kind: type[_T],
    key_paths: dict[tuple[str, str], KeyPath],
) -> dict[str, _T]:
    """Converts the entries of `inputs` or `outputs`, given as a list or as a mapping by name."""
    entries: dict[str, _T] = {}
    for path, name, value in _named_entries(file, section, raw):
        if name in entries:
            fail(file, path, f"{show(name)} stands here twice")
        key_paths[section, name] = path
        entries[name] = _convert(file, path, value, kind)
    return entries


def _named_entries(
    file: Path, section: str, raw: list[Any] | dict[str, Any]
) -> Iterable[tuple[KeyPath, str, Any]]:
    if isinstance(raw, dict):
        for name, value in raw.items():
            yield (section, name), name, {} if value is None else value
        return
    for index, value in enumerate(raw):
        path = (section, index)
        if isinstance(value, str):
            yield path, value, {}
            continue
        if not isinstance(value, dict):
            fail(file, path, f"expected a name, or a mapping with one, got {show(value)}")
        named = value.get("name")
        if not isinstance(named, str) or not named:
            fail(file, (*path, "name"), f"expected the {section[:-1]}'s name, got {show(named)}")
        yield path, named, {key: item for key, item in value.items() if key != "name"}


def _convert(file: Path, path: KeyPath, value: Any, kind: type[_T]) -> _T:
    value = without_nulls(value, kind)
    try:
        return msgspec.convert(value, kind, dec_hook=decode)
    except msgspec.ValidationError:
        fault = find_fault(value, kind)
        assert fault, "msgspec found one"
        fail(file, path + fault[0], fault[1])


def convert_text(text: str, kind: Any, source: str) -> Any:
    """Converts a setting given as text, in the environment or on the command line.

    Args:
        text: unparsed; lists are comma-separated.
        kind: one of the types above.
        source: the option or variable, for the message.

    Raises:
        ConfigurationError: names the source, what was expected, and what was given.
    """
    if kind is Origins:
        return tuple(convert_text(part.strip(), Origin, source) for part in text.split(","))
    value: Any = text
    if parts(kind) == (int,) and re.fullmatch(r"[0-9]{1,9}", text):
        value = int(text)
    try:
        is_number = parts(kind) == (float,)
        return msgspec.convert(value, kind, strict=not is_number, dec_hook=decode)
    except msgspec.ValidationError:
        problem = f"expected {describe(kind)}, got {show(text)}"
        raise ConfigurationError(f"{source}: {problem}") from None
