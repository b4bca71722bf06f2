"""One loaded model: its signature, its session, and how a request is bound and run.

The only importer of onnxruntime, at the time of the first load, so that a missing or doubled
runtime can be reported in words.
"""

import ctypes
import importlib.metadata
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy

from gpux._fastpath import activate
from gpux.config import Settings, cores, read_settings
from gpux.deadline import Watchdog
from gpux.declaration import Provider, convert_text
from gpux.errors import (
    ConfigurationError,
    DeadlineError,
    InferenceError,
    ModelError,
    RuntimeMissingError,
)
from gpux.inputs import InputReader, Request
from gpux.interface import Answered, declare, describe
from gpux.memory import Block, HostPool, StringTensor, Tensor
from gpux.tensor import BY_CODE, BY_NAME, BY_ONNX, MOST_AXES, OtherSpec, Signature, TensorSpec
from gpux.text import TextReader, open_tokenizer

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
# What ONNX Runtime reports for a model that states no version.
_NO_VERSION = 2**63 - 1
_SHORT_NAMES = {_CPU: "cpu", _CUDA: "cuda"}


@dataclass(frozen=True, slots=True)
class Other:
    """The value of an output that is no tensor.

    Attributes:
        value: nested lists, dicts, strings, numbers and NumPy arrays, as ONNX Runtime gives them.
        float_type: the type that a Python float in it has in the model.
    """

    value: object
    float_type: str


# By output name, in the model's order. Tensors own their memory.
Answer = Mapping[str, Tensor | StringTensor | Other]


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
            "pip install 'gpux[cpu]' or pip install 'gpux[cuda]'"
        )
    # ONNX Runtime sends telemetry unless this is set before its import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        if error.name != "onnxruntime":
            raise RuntimeMissingError(f"ONNX Runtime cannot be imported: {error}") from error
        raise RuntimeMissingError(
            "ONNX Runtime is not installed: pip install 'gpux[cpu]', "
            "or pip install 'gpux[cuda]' for an NVIDIA GPU"
        ) from None
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def load(
    path: str | Path | None = None,
    provider: str | None = None,
    threads: int | None = None,
    config: str | Path | None = None,
) -> "Model":
    """Loads a model, as `gpux serve` would without its environment and options.

    Args:
        path: an .onnx file; a folder with gpux.yml or model.onnx; a gpux.yml.
        provider: `cpu`; `cuda`; or `auto`, which is CUDA where ONNX Runtime can use it and the CPU
            elsewhere. By default what gpux.yml says, or `auto`.
        threads: CPU threads that one run may use; by default what gpux.yml says, or one for each
            core that the process may use.
        config: a gpux.yml that is not in the model's folder.

    Raises:
        StartError: no runtime, no model, a model that cannot be served, or a gpux.yml that
            contradicts it; nothing stays loaded.
    """
    settings = read_settings(
        {}, {"model": _text(path), "config": _text(config)}, variables=os.environ
    )
    if provider is not None:
        settings = replace(settings, provider=convert_text(provider, Provider, "provider"))
    if threads is not None:
        settings = replace(settings, run_threads=threads)
    return load_model(settings)


def _text(path: str | Path | None) -> str | None:
    return None if path is None else os.fspath(path)


def load_model(settings: Settings) -> "Model":
    """Loads the model that the settings name.

    Raises:
        StartError: as load().
    """
    runtime = load_runtime()
    session = _create_session(runtime, settings)
    return Model(runtime, session, settings)


def _create_session(runtime: Any, settings: Settings) -> Any:
    provider, file = settings.provider, settings.model
    available = runtime.get_available_providers()
    wanted = _CUDA if provider != "cpu" and _CUDA in available else _CPU
    if provider == "cuda" and wanted != _CUDA:
        raise ConfigurationError(
            "provider cuda: this ONNX Runtime was built without CUDA; "
            "install the GPU build: pip uninstall onnxruntime, then pip install 'gpux[cuda]'"
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = settings.run_threads or cores()
    options.graph_optimization_level = getattr(
        runtime.GraphOptimizationLevel, _OPTIMIZATION[settings.graph_optimization]
    )
    # A spinning pool burns the cores that decoding and the other requests need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers = [(_CUDA, _cuda_options(settings)), _CPU] if wanted == _CUDA else [_CPU]
    try:
        session = runtime.InferenceSession(os.fspath(file), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise ModelError(f"{file}: {_PREFIX.sub('', str(error)).strip()}") from error
    # Without this a failing provider would be replaced by the CPU in the middle of service.
    session.disable_fallback()
    if wanted == _CUDA and session.get_providers()[0] != _CUDA:
        if provider == "cuda":
            raise ConfigurationError(
                "provider cuda: ONNX Runtime could not use CUDA (its reason is in its log above)"
            )
        logger.warning("CUDA could not be used (the reason is in ONNX Runtime's log above): CPU")
        return _create_session(runtime, replace(settings, provider="cpu"))
    return session


_OPTIMIZATION = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}


def _cuda_options(settings: Settings) -> dict[str, str]:
    """The options of the CUDA provider, which ONNX Runtime takes as text."""
    options: dict[str, str | int | float | bool] = {"device_id": settings.device}
    if settings.gpu_memory_limit_bytes is not None:
        options["gpu_mem_limit"] = settings.gpu_memory_limit_bytes
    options |= settings.provider_options
    return {
        key: str(int(value)) if isinstance(value, bool) else str(value)
        for key, value in options.items()
    }


@dataclass(frozen=True, slots=True)
class _Runner:
    """What one run needs of ONNX Runtime, and no other run at the same time.

    Attributes:
        binding: of inputs and outputs; None for a model that cannot be bound.
        options: by which the run can be stopped.
    """

    binding: Any
    options: Any


class Model:
    """A model that is ready to run. Any number of threads may use it at once.

    Attributes:
        name: gpux.yml's; or the folder's name, or the file's without its ending.
        file: the .onnx file.
        interface: what it takes and answers.
        signature: the model's own inputs, and the outputs that are answered.
        inputs: reads the values of requests.
        provider: `cpu` or `cuda`: the one really in use.
    """

    def __init__(self, runtime: Any, session: Any, settings: Settings) -> None:
        told = settings.declaration
        self.file = settings.model
        own = _read_signature(session, self.file)
        tokenizer = open_tokenizer(settings.tokenizer, own, told)
        self.interface = declare(own, told, has_tokenizer=tokenizer is not None)
        self.signature = self.interface.signature
        _check_types(self.signature, self.file)
        self.name = told.content.name or (
            self.file.resolve().parent.name if self.file.name == "model.onnx" else self.file.stem
        )
        text = None
        if tokenizer is not None and settings.tokenizer is not None:
            text = TextReader(tokenizer, settings.tokenizer, self.interface, told)
        self.inputs = InputReader(self.interface, HostPool(), text, told)
        self.provider = _SHORT_NAMES[session.get_providers()[0]]
        self.runtime_version = str(runtime.__version__)
        self._told = told.content
        self._device = f"cuda:{settings.device}" if self.provider == "cuda" else "cpu"
        self._runtime = runtime
        self._session = session
        self._output_names = [output.name for output in self.signature.outputs]
        # Runners that no run uses. list.pop and list.append are atomic.
        self._idle_runners: list[_Runner] = []

    def predict(self, inputs: Mapping[str, object]) -> dict[str, Any]:
        """Runs the model on Python values, by the rules that /predict has for JSON.

        Args:
            inputs: by input name; nested lists or tuples of numbers, strings or booleans, NumPy
                arrays or other buffers, or single values.

        Returns:
            By output name: NumPy arrays that own their memory (float32 for a bfloat16 output,
            object for strings); lists and dicts for sequences and maps.

        Raises:
            ClientError: the values do not fit the model.
            InferenceError: ONNX Runtime failed.
        """
        request = self.inputs.collect(inputs)
        try:
            return {name: _to_python(value) for name, value in self.run(request).items()}
        finally:
            request.release()

    def run(self, request: Request, watchdog: Watchdog | None = None) -> Answer:
        """Runs one request, in the calling thread, without the GIL while ONNX Runtime works.

        Args:
            request: stays the caller's, who may release it when the answer has been read.
            watchdog: stops the run at its deadline.

        Raises:
            DeadlineError: it was stopped.
            InferenceError: ONNX Runtime failed; its own words are the cause.
        """
        runner = self._take_runner()
        token = watchdog.begin(runner.options) if watchdog else 0
        try:
            if runner.binding is not None:
                self.bind(runner, request)
                self.execute(runner)
                outputs = self.fetch(runner)
            else:
                outputs = self._run_without_binding(runner, request)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            if watchdog and watchdog.end(token):
                raise DeadlineError(watchdog.limit_seconds) from error
            raise InferenceError(_reason(error)) from error
        # One that was stopped in its last moment has its answer, but may not be used again.
        if watchdog is None or not watchdog.end(token):
            self._idle_runners.append(runner)
        values = dict(zip(self._output_names, outputs, strict=True))
        return {
            answered.name: self._settle(
                answered, values[answered.spec.name], unbatched=request.unbatched
            )
            for answered in self.interface.outputs
        }

    def _take_runner(self) -> _Runner:
        try:
            return self._idle_runners.pop()
        except IndexError:
            return self.create_runner()

    def create_runner(self) -> _Runner:
        """What bind(), execute() and fetch() need, for one run at a time."""
        options = self._runtime.RunOptions()
        # ONNX Runtime would write each failure to stderr as well, beside what is raised.
        options.log_severity_level = 4
        # "No graph", said outright: a missing entry costs run_with_iobinding an exception of C++,
        # 29 µs a run.
        options.add_run_config_entry("gpu_graph_id", "-1")
        return _Runner(self._session.io_binding() if self.signature.is_numeric else None, options)

    def bind(self, runner: _Runner, request: Request) -> None:
        """Binds the request's tensors for execute(); nothing is copied on the CPU."""
        binding = runner.binding
        for name, tensor in request.tensors.items():
            assert isinstance(tensor, Tensor)
            binding.bind_input(name, "cpu", 0, tensor.type.code, tensor.shape, tensor.address)
        # Bound afresh each time: ONNX Runtime would write the next answer over the last one
        # otherwise.
        for name in self._output_names:
            binding.bind_output(name)

    def execute(self, runner: _Runner) -> None:
        """Runs what is bound, without the GIL."""
        self._session.run_with_iobinding(runner.binding, runner.options)

    def fetch(self, runner: _Runner) -> list[Tensor | StringTensor | Other]:
        """The outputs of a run, in the order of the signature; nothing stays bound."""
        outputs: list[Tensor | StringTensor | Other] = [
            Tensor(BY_CODE[value.element_type()], tuple(value.shape()), value.data_ptr(), value)
            for value in runner.binding.get_outputs()
        ]
        # No pointer into the request's blocks survives it.
        runner.binding.clear_binding_inputs()
        runner.binding.clear_binding_outputs()
        return outputs

    def _run_without_binding(
        self, runner: _Runner, request: Request
    ) -> list[Tensor | StringTensor | Other]:
        feeds = {name: self._feed(tensor) for name, tensor in request.tensors.items()}
        values = self._session.run(self._output_names, feeds, runner.options)
        return [
            _from_runtime(spec, value)
            for spec, value in zip(self.signature.outputs, values, strict=True)
        ]

    def _feed(self, tensor: Tensor | StringTensor) -> Any:
        """What session.run takes for a tensor; copied only where NumPy lacks the type."""
        if isinstance(tensor, StringTensor):
            # Of objects: NumPy's own string types cut at NUL, and ONNX Runtime reads past their
            # elements.
            array = numpy.empty(len(tensor.values), object)
            array[:] = tensor.values
            return array.reshape(tensor.shape)
        assert isinstance(tensor.owner, Block)
        if tensor.type.numpy is None:
            bits = tensor.owner.array(BY_NAME["uint16"], tensor.shape)
            return self._runtime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, tensor.type.code)
        return tensor.owner.array(tensor.type, tensor.shape)

    def _settle(
        self, answered: Answered, value: Tensor | StringTensor | Other, *, unbatched: bool
    ) -> Tensor | StringTensor | Other:
        """The value as it is answered: activated, and without batch axis if it is one item's."""
        spec = answered.spec
        if isinstance(spec, OtherSpec) or isinstance(value, Other):
            assert isinstance(value, Other)
            if unbatched and isinstance(value.value, list) and len(value.value) == 1:
                return Other(value.value[0], value.float_type)
            return value
        if answered.activation is not None:
            assert isinstance(value, Tensor)
            value = _activate(answered.activation, value)
        if not self.signature.loses_leading_axis(spec, value.shape, unbatched=unbatched):
            return value
        if isinstance(value, StringTensor):
            return StringTensor(value.shape[1:], value.values)
        return Tensor(value.type, value.shape[1:], value.address, value.owner)

    def describe(self) -> dict[str, Any]:
        """What /info says of the model, ready for JSON."""
        meta = self._session.get_modelmeta()
        facts = {
            "producer": meta.producer_name,
            "graph": meta.graph_name,
            "domain": meta.domain,
        }
        version = None if meta.version == _NO_VERSION else str(meta.version)
        description = meta.description or meta.graph_description
        return {
            "name": self.name,
            "version": self._told.version or version,
            "description": self._told.description or description or None,
            "format": "onnx",
            "size": self.file.stat().st_size,
            "provider": self.provider,
            "device": self._device,
            "runtime": f"onnxruntime {self.runtime_version}",
            "inputs": [describe(accepted) for accepted in self.interface.inputs],
            "outputs": [describe(answered) for answered in self.interface.outputs],
            "metadata": {
                **{key: value for key, value in facts.items() if value},
                **meta.custom_metadata_map,
                **self._told.metadata,
            },
        }


def _activate(activation: str, tensor: Tensor) -> Tensor:
    """The tensor with an activation applied, in memory of its own: others may read the output."""
    block = Block(math.prod(tensor.shape) * tensor.type.nbytes)
    activate(activation, tensor.type.code, tensor.shape, tensor.address, block.address)
    return Tensor(tensor.type, tensor.shape, block.address, block)


def _read_signature(session: Any, file: Path) -> Signature:
    inputs = []
    for node in session.get_inputs():
        if node.type not in BY_ONNX:
            raise ModelError(
                f"{file}: input '{node.name}' has type {node.type}, which cannot be sent as JSON; "
                f"inputs may be {', '.join(BY_NAME)}"
            )
        inputs.append(_read_tensor(node, file))
    outputs = [
        _read_tensor(node, file) if node.type in BY_ONNX else OtherSpec(node.name, node.type)
        for node in session.get_outputs()
    ]
    return Signature(tuple(inputs), tuple(outputs))


def _check_types(signature: Signature, file: Path) -> None:
    """Refuses outputs that cannot be answered; gpux.yml may leave them out."""
    for spec in signature.outputs:
        if isinstance(spec, OtherSpec) and not spec.onnx.startswith(("seq(", "map(")):
            raise ModelError(
                f"{file}: output '{spec.name}' has type {spec.onnx}, "
                "which cannot be answered as JSON"
            )
        # Such a model runs through NumPy, which has no bfloat16.
        if (
            not signature.is_numeric
            and isinstance(spec, TensorSpec)
            and spec.type.name == "bfloat16"
        ):
            raise ModelError(
                f"{file}: output '{spec.name}' is bfloat16 in a model with strings, sequences or "
                "maps, which ONNX Runtime cannot hand out"
            )


def _read_tensor(node: Any, file: Path) -> TensorSpec:
    dims = tuple(node.shape or ())
    if len(dims) > MOST_AXES:
        raise ModelError(f"{file}: '{node.name}' has {len(dims)} axes, more than {MOST_AXES}")
    return TensorSpec(node.name, BY_ONNX[node.type], dims)


def _from_runtime(spec: TensorSpec | OtherSpec, value: Any) -> Tensor | StringTensor | Other:
    """An output of session.run."""
    if isinstance(spec, OtherSpec):
        return Other(value, "float32" if "tensor(float)" in spec.onnx else "float64")
    array = numpy.asarray(value, order="C")
    if spec.type.word == "string":
        return StringTensor(array.shape, array.ravel().tolist())
    return Tensor(spec.type, array.shape, array.ctypes.data, array)


def _to_python(value: Tensor | StringTensor | Other) -> Any:
    """An output for a Python caller, in memory of its own: it may share that of an input."""
    if isinstance(value, Other):
        return value.value
    if isinstance(value, StringTensor):
        array = numpy.empty(len(value.values), object)
        array[:] = value.values
        return array.reshape(value.shape)
    count = numpy.prod(value.shape, dtype=int)
    if count == 0:
        return numpy.empty(value.shape, value.type.numpy or "float32")
    memory = (ctypes.c_ubyte * (count * value.type.nbytes)).from_address(value.address)
    bits = numpy.frombuffer(memory, value.type.numpy or "uint16").reshape(value.shape)
    if value.type.numpy is None:  # bfloat16 is the upper half of a float32
        return (bits.astype("uint32") << 16).view("float32")
    return bits.copy()


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
_LONGEST_REASON = 500


def _reason(error: BaseException) -> str:
    """What ONNX Runtime said, in one line without places in the server's file system."""
    text = _PREFIX.sub("", str(error))
    text = _PATH.sub("(path)", _SOURCE.sub("", text))
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "…"
