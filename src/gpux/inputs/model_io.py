"""A model's inputs and outputs as clients see them: its signature, merged with gpux.yml.

Pure: everything that gpux.yml says about inputs and outputs is checked against the model here,
before anything is served.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from msgspec import UNSET

from gpux.config.messages import show
from gpux.config.schema import Activation, InputConfig, ModelConfig, OutputConfig
from gpux.tensors.signature import BY_NAME, MAX_AXES, Dim, NonTensorSpec, Signature, TensorSpec

# A tokenizer's inputs and outputs, with the names used by transformers.
TEXT, PAIR = "text", "text_pair"
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class ServedInput:
    """An input that clients may send.

    Attributes:
        spec: its type and shape.
        config: its entry in gpux.yml.
        from_text: whether the tokenizer makes it from a text, unless it is sent itself.
        is_text: whether it is that text, rather than an input of the model.
        is_optional: whether the model has a value for it: it is an initializer.
    """

    spec: TensorSpec
    config: InputConfig
    from_text: bool = False
    is_text: bool = False
    is_optional: bool = False

    @property
    def name(self) -> str:
        """The input's name."""
        return self.spec.name

    @cached_property
    def required(self) -> bool:
        """Whether every request must have it."""
        if self.config.required is not None:
            return self.config.required
        if (
            self.config.default is not UNSET
            or self.from_text
            or self.is_optional
            or self.null_is_nan
        ):
            return False
        return self.name != PAIR

    @property
    def null_is_nan(self) -> bool:
        """Whether null stands for NaN, also where a request omits the whole input."""
        return self.config.missing is not None

    @property
    def default(self) -> Any:
        """Its value in requests without it; UNSET if it has no default."""
        return self.config.default


@dataclass(frozen=True)
class ServedOutput:
    """An output in the response.

    Attributes:
        name: its name in the response.
        spec: the model's output that it is made from.
        config: its entry in gpux.yml.
    """

    name: str
    spec: TensorSpec | NonTensorSpec
    config: OutputConfig

    @property
    def activation(self) -> Activation | None:
        """The activation applied to the output; None for none."""
        return self.config.activation


@dataclass(frozen=True)
class ModelIO:
    """The inputs that a model accepts and the outputs that it returns.

    Attributes:
        signature: the model's inputs, and those of its outputs that are served.
        inputs: in display order: texts, the model's own, then optional ones.
        outputs: in the order of the response.
    """

    signature: Signature
    inputs: tuple[ServedInput, ...]
    outputs: tuple[ServedOutput, ...]


def takes_ids(model: Signature) -> bool:
    """Whether a tokenizer can serve a model: it accepts token ids, and no texts."""
    inputs = {spec.name: spec for spec in model.inputs}
    ids = inputs.get(IDS)
    accepts_ids = ids is not None and ids.type.name in ("int64", "int32") and len(ids.dims) == 2
    return accepts_ids and TEXT not in inputs and PAIR not in inputs


def merge_config(model: Signature, config: ModelConfig, *, has_tokenizer: bool = False) -> ModelIO:
    """Merges a model's signature with its gpux.yml.

    Args:
        model: the signature reported by ONNX Runtime.
        config: gpux.yml.
        has_tokenizer: whether texts are accepted in place of the model's token ids.

    Raises:
        ConfigurationError: gpux.yml contradicts the model, or itself.
    """
    known = {spec.name: spec for spec in model.inputs}
    optional = {spec.name: spec for spec in model.optional}
    texts = (TEXT, PAIR) if has_tokenizer else ()
    for name in config.inputs:
        if name not in known and name not in optional and name not in texts:
            hint = _hint(name, (*texts, *known, *optional), "its inputs are")
            config.fail("inputs", name, problem=f"the model has no such input; {hint}")
    merged = _merge_inputs(known, config)
    if has_tokenizer:
        # A text is one item, like a list of ids; a list of texts is a batch.
        ids = merged[IDS]
        added = {
            name: TensorSpec(name, BY_NAME["string"], ids.dims[:1], ids.batched) for name in texts
        }
        known = {**added, **known}
        merged = {**_merge_inputs(added, config), **merged}
    from_text = [
        name
        for name in (IDS, MASK, TYPES)
        if has_tokenizer and name in known and len(known[name].dims) == 2
    ]
    fixed = _fixed_axes(known.values(), merged, config)
    accepted = tuple(
        ServedInput(
            _fix(merged[name], fixed),
            config.inputs.get(name, InputConfig()),
            from_text=name in from_text,
            is_text=name in texts,
        )
        for name in known
    ) + tuple(
        ServedInput(spec, config.inputs.get(name, InputConfig()), is_optional=True)
        for name, spec in _merge_inputs(optional, config).items()
    )
    for entry in accepted:
        _check_input(entry, config)
    outputs = {spec.name: _propagate(spec, fixed, known, merged) for spec in model.outputs}
    served = tuple(_merge_outputs(outputs, config))
    own = [entry for entry in accepted if not entry.is_text]
    signature = Signature(
        tuple(entry.spec for entry in own if not entry.is_optional),
        tuple({entry.spec.name: entry.spec for entry in served}.values()),
        tuple(entry.spec for entry in own if entry.is_optional),
    )
    return ModelIO(signature, accepted, served)


def _merge_outputs(
    outputs: dict[str, TensorSpec | NonTensorSpec], config: ModelConfig
) -> Iterable[ServedOutput]:
    if config.outputs is None:
        yield from (ServedOutput(name, spec, OutputConfig()) for name, spec in outputs.items())
        return
    for name, entry in config.outputs.items():
        source = entry.source or name
        spec = outputs.get(source)
        if spec is None:
            path = ("outputs", name, "from") if entry.source else ("outputs", name)
            hint = _hint(source, outputs, "its outputs are")
            config.fail(*path, problem=f"the model has no output {show(source)}; {hint}")
        if isinstance(spec, TensorSpec):
            spec = _merge(spec, entry, config, "outputs", name)
        else:
            _check_other(spec, entry, config, name)
        _check_labels(spec, entry, config, "outputs", name)
        if entry.activation is not None:
            _check_activation(spec, entry.activation, config, name)
        yield ServedOutput(name, spec, entry)


def _merge_inputs(specs: Mapping[str, TensorSpec], config: ModelConfig) -> dict[str, TensorSpec]:
    return {
        name: _merge(spec, config.inputs[name], config, "inputs", name)
        if name in config.inputs
        else spec
        for name, spec in specs.items()
    }


def _merge(
    spec: TensorSpec,
    entry: InputConfig | OutputConfig,
    config: ModelConfig,
    section: str,
    name: str,
) -> TensorSpec:
    """The spec of a tensor, merged with its entry in gpux.yml."""
    if entry.type is not None and entry.type != spec.type.name:
        problem = f"expected {spec.type.name}, as the model declares it, got {show(entry.type)}"
        config.fail(section, name, "type", problem=problem)
    dims = spec.dims
    if entry.shape is not None:
        merged = _merge_dims(spec.dims, entry.shape, may_fix=section == "inputs")
        if merged is None:
            got = f"[{', '.join('null' if dim is None else str(dim) for dim in entry.shape)}]"
            problem = f"expected {spec.shape_text}, as the model declares it, got {got}"
            config.fail(section, name, "shape", problem=problem)
        dims = merged
    if len(dims) > MAX_AXES:  # only if the model declares no shape
        problem = f"expected at most {MAX_AXES} axes, got {len(dims)}"
        config.fail(section, name, "shape", problem=problem)
    if entry.batched and not dims:
        problem = "the model declares no axes of it: its shape must be given as well"
        config.fail(section, name, "batched", problem=problem)
    return replace(
        spec, dims=dims, batched=spec.batched if entry.batched is None else entry.batched
    )


def _merge_dims(
    declared: Sequence[Dim], config: Sequence[Dim], *, may_fix: bool
) -> tuple[Dim, ...] | None:
    """Merges a declared shape with that of gpux.yml; None if they contradict each other.

    gpux.yml may name or fix an axis that the model leaves unnamed, fix one that the model names
    (of an input: outputs follow), and leave an axis as it is (null or -1). If the model declares no
    shape, that of gpux.yml is used.
    """
    configured = tuple(None if dim == -1 else dim for dim in config)
    if not declared:
        return configured
    if len(configured) != len(declared):
        return None
    merged: list[Dim] = []
    for old, new in zip(declared, configured, strict=True):
        fits = old is None or new is None or old == new
        if not fits and not (may_fix and isinstance(old, str) and isinstance(new, int)):
            return None
        merged.append(old if new is None else new)
    return tuple(merged)


def _fixed_axes(
    specs: Iterable[TensorSpec], merged: dict[str, TensorSpec], config: ModelConfig
) -> dict[str, int]:
    """Axis name -> the size that gpux.yml fixes for an input, and so wherever the name occurs."""
    fixed: dict[str, int] = {}
    for spec in specs:
        for axis, (dim, size) in enumerate(
            zip(spec.dims, merged[spec.name].dims, strict=bool(spec.dims))
        ):
            if not isinstance(dim, str) or not isinstance(size, int):
                continue
            if fixed.setdefault(dim, size) != size:
                problem = f"expected {fixed[dim]} for '{dim}', as another input has it, got {size}"
                config.fail("inputs", spec.name, "shape", axis, problem=problem)
    return fixed


def _fix(spec: TensorSpec, fixed: dict[str, int]) -> TensorSpec:
    dims = tuple(fixed.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.dims)
    return replace(spec, dims=dims)


def _propagate(
    output: TensorSpec | NonTensorSpec,
    fixed: dict[str, int],
    known: Mapping[str, TensorSpec],
    merged: Mapping[str, TensorSpec],
) -> TensorSpec | NonTensorSpec:
    """Applies to an output the sizes fixed for inputs, and the name given to their leading axis."""
    if isinstance(output, NonTensorSpec):
        return output
    names = {
        merged[name].dims[0] for name, spec in known.items() if spec.dims and spec.dims[0] is None
    }
    if output.dims and output.dims[0] is None and len(names) == 1:
        output = replace(output, dims=(*names, *output.dims[1:]))
    return _fix(output, fixed)


def _check_input(entry: ServedInput, config: ModelConfig) -> None:
    name, options = entry.name, entry.config
    if options.max_length is not None and entry.spec.type.word != "string":
        problem = f"only texts have one, and {show(name)} is {entry.spec.type.name}"
        config.fail("inputs", name, "max_length", problem=problem)
    _check_labels(entry.spec, options, config, "inputs", name)
    if entry.is_optional and options.batched:
        problem = "it is an initializer of the model, which has no batch axis"
        config.fail("inputs", name, "batched", problem=problem)
    if entry.null_is_nan and entry.spec.type.name not in _FLOATS:
        problem = f"only floats can be NaN, and {show(name)} is {entry.spec.type.name}"
        config.fail("inputs", name, "missing", problem=problem)
    if entry.null_is_nan and (options.default is not UNSET or options.required):
        problem = "NaN is its default: leave out `default` and `required: true`"
        config.fail("inputs", name, "missing", problem=problem)
    if entry.is_text:
        for key, value in (("default", options.default), ("batched", options.batched)):
            if value is not UNSET and value is not None:
                config.fail("inputs", name, key, problem="a text for the tokenizer has none")
        if options.required is False and name == TEXT:
            problem = "a text for the tokenizer has no default: only ids can stand in its place"
            config.fail("inputs", name, "required", problem=problem)
    elif options.default is not UNSET and options.required:
        problem = "a required input has none: leave out `required` or `default`"
        config.fail("inputs", name, "default", problem=problem)
    elif (
        options.required is False
        and options.default is UNSET
        and not entry.from_text
        and not entry.is_optional
        and not entry.null_is_nan
    ):
        problem = "the model cannot run without it: an optional input needs a `default`"
        config.fail("inputs", name, "required", problem=problem)


def _check_other(spec: NonTensorSpec, entry: OutputConfig, config: ModelConfig, name: str) -> None:
    """Checks the entry of a sequence or a map, which has a type but no shape."""
    if entry.type is not None and entry.type != spec.onnx:
        problem = f"expected {spec.onnx}, as the model declares it, got {show(entry.type)}"
        config.fail("outputs", name, "type", problem=problem)
    for key, value in (("shape", entry.shape), ("batched", entry.batched)):
        if value is not None:
            config.fail("outputs", name, key, problem=f"{spec.onnx} has no axes")


def _check_labels(
    spec: TensorSpec | NonTensorSpec,
    entry: InputConfig | OutputConfig,
    config: ModelConfig,
    section: str,
    name: str,
) -> None:
    if entry.labels is None or isinstance(spec, NonTensorSpec) or not spec.dims:
        return
    size = spec.dims[-1]
    if isinstance(size, int) and len(entry.labels) != size:
        problem = f"expected {size} labels, as the last axis of {spec.shape_text} has, "
        config.fail(section, name, "labels", problem=problem + f"got {len(entry.labels)}")


def _check_activation(
    spec: TensorSpec | NonTensorSpec, activation: Activation, config: ModelConfig, name: str
) -> None:
    problem = None
    if isinstance(spec, NonTensorSpec) or spec.type.name not in _FLOATS:
        kind = spec.onnx if isinstance(spec, NonTensorSpec) else spec.type.name
        problem = f"{activation} needs an output of floats, and {show(spec.name)} is {kind}"
    elif activation != "sigmoid" and len(spec.dims) == 1 and spec.kind == "batched":
        problem = f"{activation} needs an axis beside the batch's, and {spec.shape_text} has none"
    if problem:
        config.fail("outputs", name, "activation", problem=problem)


def _hint(name: str, known: Iterable[str], otherwise: str) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {show(close[0])}?"
    shown = ", ".join(show(known_name) for known_name in names[:20])
    return f"{otherwise} {shown}" if names else "it has none"


def describe(entry: ServedInput | ServedOutput) -> dict[str, Any]:
    """The /info entry of an input or output, ready for JSON."""
    spec, options = entry.spec, entry.config
    described: dict[str, Any] = {
        "name": entry.name,
        "type": spec.type.name if isinstance(spec, TensorSpec) else spec.onnx,
        "shape": list(spec.dims) if isinstance(spec, TensorSpec) else None,
    }
    if isinstance(entry, ServedInput):
        described |= {"kind": entry.spec.kind, "required": entry.required}
        if entry.default is not UNSET:
            described["default"] = entry.default
        if entry.config.missing is not None:
            described["missing"] = entry.config.missing
        if entry.config.max_length is not None:
            described["max_length"] = entry.config.max_length
    else:
        if entry.name != spec.name:
            described["from"] = spec.name
        if entry.activation is not None:
            described["activation"] = entry.activation
    labels = None if options.labels is None else list(options.labels)
    return {**described, "description": options.description, "labels": labels}
