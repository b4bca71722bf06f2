"""A loaded model: its signature, its session, and how a request passes through it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpux._fastpath import activate
from gpux.config.schema import Provider, convert_text
from gpux.config.settings import Settings, read_settings
from gpux.errors import ModelError
from gpux.execution.cpu import CpuExecution
from gpux.execution.cuda_graphs import GraphCache
from gpux.execution.deadline import Deadline
from gpux.execution.gpu import GpuExecution
from gpux.execution.session import Session, create_session
from gpux.inputs.model_io import ServedOutput, describe, merge_config
from gpux.inputs.reader import InputReader
from gpux.inputs.tokenizer import TextEncoder, open_tokenizer
from gpux.tensors.memory import Pool, StringTensor, Tensor, allocate
from gpux.tensors.outputs import NonTensor, Output, OutputValues, to_python
from gpux.tensors.request import Request
from gpux.tensors.signature import BY_NAME, BY_ONNX, MAX_AXES, NonTensorSpec, Signature, TensorSpec

# ONNX Runtime's value for a model without a version.
_NO_VERSION = 2**63 - 1


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
        text_encoder: encodes texts as ids; None if the model accepts no texts.
        config: its gpux.yml.
        execution: runs requests.
        provider: `cpu` or `cuda`: the one actually in use.
        device: `cpu`, or `cuda:` and its index.
        placement: the nodes that each provider runs; None if ONNX Runtime does not report them.
        pool: supplies the blocks of requests.
    """

    def __init__(self, session: Session, settings: Settings) -> None:
        config = self.config = settings.config
        self.file = settings.model
        declared = _read_signature(session.raw, self.file)
        tokenizer = open_tokenizer(settings.tokenizer, declared, config)
        self.io = merge_config(declared, config, has_tokenizer=tokenizer is not None)
        self.signature = self.io.signature
        _check_types(self.signature, self.file)
        self.name = settings.name
        self.text_encoder: TextEncoder | None = None
        if tokenizer is not None and settings.tokenizer is not None:
            self.text_encoder = TextEncoder(tokenizer, settings.tokenizer, self.io, config)
        stream = session.stream
        self.pool = Pool(stream.allocate_pinned if stream else allocate)
        self.inputs = InputReader(
            self.io, self.pool, self.text_encoder, config, stream, session.host_inputs
        )
        self.execution: CpuExecution | GpuExecution
        if stream is None:
            self.execution = CpuExecution(session, self.signature)
        else:
            reason = session.no_graphs
            if not self.signature.is_numeric:
                reason = "the model takes or answers strings, sequences or maps"
            graphs = GraphCache(settings.cuda_graph, reason)
            self.execution = GpuExecution(session, self.signature, stream, self.pool, graphs)
        self.provider = session.provider
        self.runtime_version = session.version
        self.placement = session.placement()
        self.device = f"cuda:{settings.device}" if self.provider == "cuda" else "cpu"
        self._session = session
        self._output_names = [output.name for output in self.signature.outputs]

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
        try:
            return {name: to_python(value) for name, value in self.run(request).items()}
        finally:
            request.release()

    def run(self, request: Request, deadline: Deadline | None = None) -> OutputValues:
        """Runs one request. The caller waits without the GIL.

        Args:
            request: still the caller's, to be released once the outputs have been read.
            deadline: when the run is stopped.

        Raises:
            DeadlineError: the run was stopped.
            InferenceError: ONNX Runtime failed; its exception is the cause.
        """
        return self.postprocess(self.execution.run(request, deadline), unbatched=request.unbatched)

    def postprocess(self, outputs: Sequence[Output], *, unbatched: bool) -> OutputValues:
        """Turns the outputs of a run into those of the response.

        Args:
            outputs: in the order of the signature.
            unbatched: whether the request was a single item.
        """
        values = dict(zip(self._output_names, outputs, strict=True))
        return {
            served.name: self._postprocess(served, values[served.spec.name], unbatched=unbatched)
            for served in self.io.outputs
        }

    def _postprocess(self, served: ServedOutput, value: Output, *, unbatched: bool) -> Output:
        """The value as served: with its activation, and without the batch axis if unbatched."""
        spec = served.spec
        if isinstance(spec, NonTensorSpec) or isinstance(value, NonTensor):
            assert isinstance(value, NonTensor)
            if unbatched and isinstance(value.value, list) and len(value.value) == 1:
                return NonTensor(value.value[0], value.float_type)
            return value
        if served.activation is not None:
            assert isinstance(value, Tensor)
            value = _activate(served.activation, value)
        if not self.signature.loses_leading_axis(spec, value.shape, unbatched=unbatched):
            return value
        if isinstance(value, StringTensor):
            return StringTensor(value.shape[1:], value.values)
        return replace(value, shape=value.shape[1:])

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
        meta = self._session.raw.get_modelmeta()
        facts = {
            "producer": meta.producer_name,
            "graph": meta.graph_name,
            "domain": meta.domain,
        }
        version = None if meta.version == _NO_VERSION else str(meta.version)
        description = meta.description or meta.graph_description
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
                **{key: value for key, value in facts.items() if value},
                **meta.custom_metadata_map,
                **self.config.content.metadata,
            },
        }


def _activate(activation: str, tensor: Tensor) -> Tensor:
    """Applies an activation into new memory, as the output may share its own with others."""
    block = allocate(tensor.nbytes)
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
        _read_tensor(node, file) if node.type in BY_ONNX else NonTensorSpec(node.name, node.type)
        for node in session.get_outputs()
    ]
    return Signature(tuple(inputs), tuple(outputs))


def _check_types(signature: Signature, file: Path) -> None:
    """Rejects outputs that JSON cannot express; gpux.yml may leave them out."""
    for spec in signature.outputs:
        if isinstance(spec, NonTensorSpec) and not spec.onnx.startswith(("seq(", "map(")):
            raise ModelError(
                f"{file}: output '{spec.name}' has type {spec.onnx}, "
                "which cannot be answered as JSON"
            )
        # Such a model is run through NumPy, which has no bfloat16.
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
    if len(dims) > MAX_AXES:
        raise ModelError(f"{file}: '{node.name}' has {len(dims)} axes, more than {MAX_AXES}")
    return TensorSpec(node.name, BY_ONNX[node.type], dims)
