"""What clients see of a model: its signature, with what gpux.yml says over it.

Pure: everything that the file says of inputs and outputs is held against the model here, before
anything is served.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from msgspec import UNSET

from gpux.config.schema import Activation, InputConfig, ModelConfig, OutputConfig
from gpux.config.yaml import show
from gpux.tensors.signature import BY_NAME, MAX_AXES, Dim, OtherSpec, Signature, TensorSpec

# What a tokenizer takes, and what it makes of it, as transformers call it.
TEXT, PAIR = "text", "text_pair"
IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class ServedInput:
    """An input as clients may send it.

    Attributes:
        spec: its type and axes.
        config: what gpux.yml says of it.
        from_text: it is made from a text, unless it is sent itself.
        is_text: it is that text, and no input of the model.
    """

    spec: TensorSpec
    config: InputConfig
    from_text: bool = False
    is_text: bool = False

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name

    @cached_property
    def required(self) -> bool:
        """Whether a request must have it."""
        if self.config.required is not None:
            return self.config.required
        if self.config.default is not UNSET or self.from_text:
            return False
        return self.name != PAIR

    @property
    def default(self) -> Any:
        """Its value where a request has none; UNSET if it must have one."""
        return self.config.default


@dataclass(frozen=True)
class ServedOutput:
    """A member of the answer.

    Attributes:
        name: in the answer.
        spec: the model's output that it is made from.
        config: what gpux.yml says of it.
    """

    name: str
    spec: TensorSpec | OtherSpec
    config: OutputConfig

    @property
    def activation(self) -> Activation | None:
        """What is done to the output."""
        return self.config.activation


@dataclass(frozen=True)
class ModelIO:
    """What a model takes and answers.

    Attributes:
        signature: the model's inputs, and those of its outputs that are answered.
        inputs: in the order in which they are shown: texts, then the model's own.
        outputs: in the order of the answer.
    """

    signature: Signature
    inputs: tuple[ServedInput, ...]
    outputs: tuple[ServedOutput, ...]


def takes_ids(model: Signature) -> bool:
    """Whether a tokenizer can serve a model: it takes ids, and no text by itself."""
    inputs = {spec.name: spec for spec in model.inputs}
    ids = inputs.get(IDS)
    is_right = ids is not None and ids.type.name in ("int64", "int32") and len(ids.dims) == 2
    return is_right and TEXT not in inputs and PAIR not in inputs


def declare(model: Signature, config: ModelConfig, *, has_tokenizer: bool = False) -> ModelIO:
    """The interface that a model and its gpux.yml make.

    Args:
        model: what ONNX Runtime reports.
        config: gpux.yml.
        has_tokenizer: it takes ids, and texts for them as well.

    Raises:
        ConfigurationError: the file contradicts the model, or itself.
    """
    known = {spec.name: spec for spec in model.inputs}
    texts = (TEXT, PAIR) if has_tokenizer else ()
    for name in config.inputs:
        if name not in known and name not in texts:
            hint = _hint(name, (*texts, *known), "its inputs are")
            config.fail("inputs", name, problem=f"the model has no such input; {hint}")
    merged = _merge_inputs(known, config)
    if has_tokenizer:
        # A text is an item, and a list of texts a batch, where a list of ids is one.
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
    )
    for entry in accepted:
        _check_input(entry, config)
    outputs = {spec.name: _follow(spec, fixed, known, merged) for spec in model.outputs}
    answered = tuple(_answer(outputs, config))
    own = tuple(entry.spec for entry in accepted if not entry.is_text)
    return ModelIO(
        Signature(own, tuple({entry.spec.name: entry.spec for entry in answered}.values())),
        accepted,
        answered,
    )


def _answer(
    outputs: dict[str, TensorSpec | OtherSpec], config: ModelConfig
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
    """A tensor as the model and the file declare it together."""
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
    if len(dims) > MAX_AXES:  # where the model declares none
        problem = f"expected at most {MAX_AXES} axes, got {len(dims)}"
        config.fail(section, name, "shape", problem=problem)
    if entry.batched and not dims:
        problem = "the model declares no axes of it: its shape must be given as well"
        config.fail(section, name, "batched", problem=problem)
    return replace(spec, dims=dims, batched=entry.batched)


def _merge_dims(
    model: Sequence[Dim], config: Sequence[Dim], *, may_fix: bool
) -> tuple[Dim, ...] | None:
    """The axes that both agree on; None where they contradict each other.

    The file may name or fix an axis that the model leaves unnamed, fix one that it names (of an
    input: outputs follow), and say nothing of an axis (null or -1). Where the model declares no
    axes, the file is believed.
    """
    said = tuple(None if dim == -1 else dim for dim in config)
    if not model:
        return said
    if len(said) != len(model):
        return None
    merged: list[Dim] = []
    for own, other in zip(model, said, strict=True):
        fits = own is None or other is None or own == other
        if not fits and not (may_fix and isinstance(own, str) and isinstance(other, int)):
            return None
        merged.append(own if other is None else other)
    return tuple(merged)


def _fixed_axes(
    specs: Iterable[TensorSpec], merged: dict[str, TensorSpec], config: ModelConfig
) -> dict[str, int]:
    """The model's named axes that the file fixes for an input, and so wherever the name stands."""
    fixed: dict[str, int] = {}
    for spec in specs:
        for axis, (own, other) in enumerate(
            zip(spec.dims, merged[spec.name].dims, strict=bool(spec.dims))
        ):
            if not isinstance(own, str) or not isinstance(other, int):
                continue
            if fixed.setdefault(own, other) != other:
                problem = f"expected {fixed[own]} for '{own}', as another input has it, got {other}"
                config.fail("inputs", spec.name, "shape", axis, problem=problem)
    return fixed


def _fix(spec: TensorSpec, fixed: dict[str, int]) -> TensorSpec:
    dims = tuple(fixed.get(dim, dim) if isinstance(dim, str) else dim for dim in spec.dims)
    return replace(spec, dims=dims)


def _follow(
    output: TensorSpec | OtherSpec,
    fixed: dict[str, int],
    known: Mapping[str, TensorSpec],
    merged: Mapping[str, TensorSpec],
) -> TensorSpec | OtherSpec:
    """An output, once inputs are fixed, and their unnamed leading axes named: its own follows."""
    if isinstance(output, OtherSpec):
        return output
    names = {
        merged[name].dims[0] for name, spec in known.items() if spec.dims and spec.dims[0] is None
    }
    if output.dims and output.dims[0] is None and len(names) == 1:
        output = replace(output, dims=(*names, *output.dims[1:]))
    return _fix(output, fixed)


def _check_input(entry: ServedInput, config: ModelConfig) -> None:
    name, own = entry.name, entry.config
    if own.max_length is not None and entry.spec.type.word != "string":
        problem = f"only texts have one, and {show(name)} is {entry.spec.type.name}"
        config.fail("inputs", name, "max_length", problem=problem)
    _check_labels(entry.spec, own, config, "inputs", name)
    if entry.is_text:
        for key, value in (("default", own.default), ("batched", own.batched)):
            if value is not UNSET and value is not None:
                config.fail("inputs", name, key, problem="a text for the tokenizer has none")
        if own.required is False and name == TEXT:
            problem = "a text for the tokenizer has no default: only ids can stand in its place"
            config.fail("inputs", name, "required", problem=problem)
    elif own.default is not UNSET and own.required:
        problem = "a required input has none: leave out `required` or `default`"
        config.fail("inputs", name, "default", problem=problem)
    elif own.required is False and own.default is UNSET and not entry.from_text:
        problem = "the model cannot run without it: an optional input needs a `default`"
        config.fail("inputs", name, "required", problem=problem)


def _check_other(spec: OtherSpec, entry: OutputConfig, config: ModelConfig, name: str) -> None:
    """A sequence or a map has a type and nothing else to be compared with."""
    if entry.type is not None and entry.type != spec.onnx:
        problem = f"expected {spec.onnx}, as the model declares it, got {show(entry.type)}"
        config.fail("outputs", name, "type", problem=problem)
    for key, value in (("shape", entry.shape), ("batched", entry.batched)):
        if value is not None:
            config.fail("outputs", name, key, problem=f"{spec.onnx} has no axes")


def _check_labels(
    spec: TensorSpec | OtherSpec,
    entry: InputConfig | OutputConfig,
    config: ModelConfig,
    section: str,
    name: str,
) -> None:
    if entry.labels is None or isinstance(spec, OtherSpec) or not spec.dims:
        return
    size = spec.dims[-1]
    if isinstance(size, int) and len(entry.labels) != size:
        problem = f"expected {size} labels, as the last axis of {spec.shape_text} has, "
        config.fail(section, name, "labels", problem=problem + f"got {len(entry.labels)}")


def _check_activation(
    spec: TensorSpec | OtherSpec, activation: Activation, config: ModelConfig, name: str
) -> None:
    problem = None
    if isinstance(spec, OtherSpec) or spec.type.name not in _FLOATS:
        kind = spec.onnx if isinstance(spec, OtherSpec) else spec.type.name
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
    """What /info says of an input or output, ready for JSON."""
    spec, own = entry.spec, entry.config
    described: dict[str, Any] = {
        "name": entry.name,
        "type": spec.type.name if isinstance(spec, TensorSpec) else spec.onnx,
        "shape": list(spec.dims) if isinstance(spec, TensorSpec) else None,
    }
    if isinstance(entry, ServedInput):
        described |= {"kind": entry.spec.kind, "required": entry.required}
        if entry.default is not UNSET:
            described["default"] = entry.default
        if entry.config.max_length is not None:
            described["max_length"] = entry.config.max_length
    else:
        if entry.name != spec.name:
            described["from"] = spec.name
        if entry.activation is not None:
            described["activation"] = entry.activation
    labels = None if own.labels is None else list(own.labels)
    return {**described, "description": own.description, "labels": labels}
