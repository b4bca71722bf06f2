"""A loaded model: its signature, its session, and how a request passes through it."""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpux._engine import Declared, Outputs
from gpux._fastpath import Pool
from gpux.config.schema import ModelConfig, Provider, convert_text
from gpux.config.settings import Settings, read_settings
from gpux.errors import ModelError
from gpux.execution.cpu import CpuExecution
from gpux.execution.cuda_graphs import GraphCache
from gpux.execution.deadline import deadline_after
from gpux.execution.gpu import GpuExecution
from gpux.execution.session import Session, create_session
from gpux.inputs.model_io import ServedOutput, describe, merge_config
from gpux.inputs.pipeline import create_pipeline
from gpux.inputs.reader import InputReader
from gpux.inputs.tokenizer import TextEncoder, open_tokenizer
from gpux.observability.timings import Stages
from gpux.tensors.outputs import to_python
from gpux.tensors.signature import (
    BY_NAME,
    BY_ONNX,
    MAX_AXES,
    NonTensorSpec,
    Signature,
    TensorSpec,
    names,
)

# ONNX Runtime's value for a model without a version.
_NO_VERSION = 2**63 - 1
# Of initializers that are optional inputs without being named in gpux.yml.
_MAX_OPTIONAL = 16
_MAX_ELEMENTS = 4096


def load(
    path: str | Path | None = None,
    provider: str | None = None,
    threads: int | None = None,
    config: str | Path | None = None,
) -> "Model":
    """Loads a model as `gpux serve` would, but without its environment variables and options.

    Args:
        path: an .onnx file; a folder with gpux.yml or model.onnx; a gpux.yml.
        provider: `cpu`, `cuda`, or `auto` for CUDA if ONNX Runtime can use it and else the CPU.
            Defaults to that of gpux.yml, or `auto`.
        threads: CPU threads per run; defaults to that of gpux.yml, or one per core that the process
            may use.
        config: a gpux.yml outside the model's folder.

    Raises:
        StartError: ONNX Runtime or the model is missing, the model cannot be served, or gpux.yml
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
        StartError: as load() does.
    """
    return Model(create_session(settings), settings)


class Model:
    """A model that is ready to run. Thread-safe.

    Args:
        session: the model's.
        settings: what to serve, and how.

    Attributes:
        name: as in /info.
        file: the .onnx file.
        io: the inputs and outputs that clients see.
        signature: the model's own inputs, and the outputs that are served.
        inputs: reads the values of requests.
        pipeline: takes requests to responses.
        text_encoder: encodes texts as ids; None if the model accepts no texts.
        config: its gpux.yml.
        execution: runs requests.
        provider: `cpu` or `cuda`: the one actually in use.
        device: `cpu`, or `cuda:` and its index.
        placement: the nodes that each provider runs; None if ONNX Runtime does not report them.
        operators: the type and domain of each operator; None as placement.
        pool: supplies the blocks of requests.
    """

    def __init__(self, session: Session, settings: Settings) -> None:
        config = self.config = settings.config
        self.file = settings.model
        declared = _read_signature(session, config, self.file)
        tokenizer = open_tokenizer(settings.tokenizer, declared, config)
        self.io = merge_config(declared, config, has_tokenizer=tokenizer is not None)
        self.signature = self.io.signature
        _check_types(self.signature, self.file)
        self.name = settings.name
        self.text_encoder: TextEncoder | None = None
        if tokenizer is not None and settings.tokenizer is not None:
            self.text_encoder = TextEncoder(tokenizer, settings.tokenizer, self.io, config)
        stream = session.stream
        self.pool = Pool(stream.allocate_pinned if stream else None)
        self.pipeline = create_pipeline(self.io, self.pool, session.native)
        self.inputs = InputReader(
            self.io, self.pipeline, self.text_encoder, config, stream, session.host_inputs
        )
        self.execution: CpuExecution | GpuExecution
        if stream is None:
            self.execution = CpuExecution(self.pipeline)
        else:
            reason = session.no_graphs
            if not self.signature.is_numeric:
                reason = "the model takes or answers strings, sequences or maps"
            graphs = GraphCache(settings.cuda_graph, reason)
            self.execution = GpuExecution(session, self.signature, stream, self.pipeline, graphs)
        self.provider = session.provider
        self.runtime_version = session.version
        self.placement = session.placement()
        self.operators = session.operators()
        self.device = f"cuda:{settings.device}" if self.provider == "cuda" else "cpu"
        self._session = session

    def predict(self, inputs: Mapping[str, object]) -> dict[str, Any]:
        """Runs the model on Python values, by the rules that /predict has for JSON.

        Args:
            inputs: by input name; nested lists or tuples of numbers, strings or booleans, NumPy
                arrays or other buffers, or single values.

        Returns:
            By output name: NumPy arrays that own their memory (float32 for bfloat16 outputs, object
            for strings); lists and dicts for sequences and maps.

        Raises:
            ClientError: the values do not fit the model.
            InferenceError: ONNX Runtime failed.
        """
        request = self.inputs.collect(inputs)
        outputs = self.execution.run(request)
        return {
            served.name: self._output(served, outputs, unbatched=request.unbatched)
            for served in self.io.outputs
        }

    def respond(self, body: bytes, timeout_seconds: float = math.inf) -> bytes:
        """Responds to the body of a request as POST /predict does, in the caller's thread.

        Args:
            body: any bytes.
            timeout_seconds: after which a run is stopped.

        Returns:
            The response, as JSON in UTF-8.

        Raises:
            ClientError: the request is invalid.
            DeadlineError: it took longer.
            InferenceError: ONNX Runtime failed.

        Without the GIL, but for texts, defaults and what runs on a GPU.
        """
        deadline = deadline_after(timeout_seconds)
        if isinstance(self.execution, CpuExecution) and not self.inputs.may_complete:
            response = self.execution.respond(body, deadline, Stages())
            if isinstance(response, bytes):
                return response
            request = self.inputs.complete(response)
        else:
            request = self.inputs.decode(body)
        return self.execution.run(request, deadline).encode(request.unbatched)

    def _output(self, served: ServedOutput, outputs: Outputs, *, unbatched: bool) -> Any:
        """An output as served: with its activation, and without the batch axis if unbatched."""
        index = names(self.signature.outputs).index(served.spec.name)
        value = to_python(outputs, index, served.spec, served.activation)
        if isinstance(value, list):  # a sequence
            return value[0] if unbatched and len(value) == 1 else value
        unbatching = self.signature.unbatching(served.spec)
        may_unbatch = unbatching == "always" or (unbatching == "with_request" and unbatched)
        return value[0] if may_unbatch and value.shape[:1] == (1,) else value

    def pools(self) -> dict[str, Pool]:
        """The pools of blocks, by where their memory lies."""
        if isinstance(self.execution, GpuExecution):
            return {"pinned": self.pool, "device": self.execution.device_pool}
        return {"host": self.pool}

    def gpu_memory(self) -> dict[str, int]:
        """Bytes of GPU memory that are used, by any process, and free; empty on the CPU."""
        stream = self._session.stream
        if stream is None:
            return {}
        free_bytes, all_bytes = stream.memory_bytes()
        return {"used": all_bytes - free_bytes, "free": free_bytes}

    def describe(self) -> dict[str, Any]:
        """The model's part of /info, as JSON values."""
        meta = self._session.metadata()
        # Those that are optional inputs, and those that are too many or too large.
        initializers = len(self._session.initializers)
        version = None if meta["version"] == _NO_VERSION else str(meta["version"])
        description = meta["description"] or meta["graph_description"]
        placement = self.placement
        return {
            "name": self.name,
            "version": self.config.content.version or version,
            "description": self.config.content.description or description or None,
            "format": "onnx",
            "size": self.file.stat().st_size,
            "provider": self.provider,
            "device": self.device,
            "runtime": f"onnxruntime {self.runtime_version}",
            "nodes": placement and {name: len(nodes) for name, nodes in placement.items()},
            **self.execution.describe(),
            "inputs": [describe(accepted) for accepted in self.io.inputs],
            "outputs": [describe(served) for served in self.io.outputs],
            "metadata": {
                **{key: meta[key] for key in ("producer", "graph", "domain") if meta[key]},
                **meta["custom"],
                **self.config.content.metadata,
            },
            **({"overridable_initializers": initializers} if initializers else {}),
        }


def _read_signature(session: Session, config: ModelConfig, file: Path) -> Signature:
    inputs = []
    for declared in session.inputs:
        if declared.onnx not in BY_ONNX:
            raise ModelError(
                f"{file}: input '{declared.name}' has type {declared.onnx}, which cannot be sent "
                f"as JSON; inputs may be {', '.join(BY_NAME)}"
            )
        inputs.append(_read_tensor(declared, file))
    outputs = [
        _read_tensor(declared, file)
        if declared.onnx in BY_ONNX
        else NonTensorSpec(declared.name, declared.onnx)
        for declared in session.outputs
    ]
    return Signature(tuple(inputs), tuple(outputs), _optional_inputs(session, config, file))


def _optional_inputs(session: Session, config: ModelConfig, file: Path) -> tuple[TensorSpec, ...]:
    """The initializers that a request may override.

    All if they are few and small, as a threshold is; of a model that exposes its weights, only
    those that gpux.yml names.
    """
    found = [
        # One axis less would not be an item: they have no batch axis.
        replace(_read_tensor(declared, file), batched=False)
        for declared in session.initializers
        if declared.onnx in BY_ONNX
    ]
    elements = [math.prod(dim for dim in spec.dims if isinstance(dim, int)) for spec in found]
    if len(session.initializers) <= _MAX_OPTIONAL and max(elements, default=0) <= _MAX_ELEMENTS:
        return tuple(found)
    return tuple(spec for spec in found if spec.name in config.inputs)


def _check_types(signature: Signature, file: Path) -> None:
    """Rejects outputs that JSON cannot express; gpux.yml may leave them out."""
    for spec in signature.outputs:
        if isinstance(spec, NonTensorSpec) and not spec.onnx.startswith(("seq(", "map(")):
            raise ModelError(
                f"{file}: output '{spec.name}' has type {spec.onnx}, "
                "which cannot be answered as JSON"
            )


def _read_tensor(declared: Declared, file: Path) -> TensorSpec:
    axes = len(declared.dims)
    if axes > MAX_AXES:
        raise ModelError(f"{file}: '{declared.name}' has {axes} axes, more than {MAX_AXES}")
    return TensorSpec(declared.name, BY_ONNX[declared.onnx], declared.dims)
