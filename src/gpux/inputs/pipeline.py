"""Creates the native pipeline of a model: what docs/numbers.md says of its inputs, in figures."""

from msgspec import UNSET

from gpux._engine import Pipeline, Session
from gpux._fastpath import InputSpec, InputTable, Pool
from gpux.inputs.model_io import ModelIO, ServedInput
from gpux.inputs.tokenizer import MAX_CHARACTERS
from gpux.tensors.signature import TensorSpec, names

_UNBATCH = {"never": 0, "with_request": 1, "always": 2}


def create_pipeline(io: ModelIO, pool: Pool, session: Session | None = None) -> Pipeline:
    """Creates the pipeline.

    Args:
        io: the inputs and outputs that clients see.
        pool: supplies the blocks of requests.
        session: the model's; None if nothing is run through the pipeline.
    """
    signature = io.signature
    named = sum(any(isinstance(dim, str) for dim in spec.dims) for spec in signature.inputs)
    output_names = names(signature.outputs)
    return Pipeline(
        session,
        InputTable([_spec(entry) for entry in io.inputs], [group_of(entry) for entry in io.inputs]),
        [_rule(entry, compares_axes=named > 1) for entry in io.inputs],
        output_names,
        [
            (
                served.name,
                output_names.index(served.spec.name),
                served.activation,
                _UNBATCH[signature.unbatching(served.spec)],
            )
            for served in io.outputs
        ],
        pool,
    )


def group_of(entry: ServedInput) -> int:
    """A body must not have both texts (1) and inputs that are made from them (2)."""
    return 1 if entry.is_text else 2 if entry.from_text else 0


def _spec(entry: ServedInput) -> InputSpec:
    max_characters = MAX_CHARACTERS if entry.is_text else entry.config.max_length
    return InputSpec(entry.spec, max_characters, entry.null_is_nan)


def _rule(
    entry: ServedInput, *, compares_axes: bool
) -> tuple[int, bool, bool, bool, str | None, list[tuple[int, str]]]:
    """What the model does with an input: see Pipeline."""
    spec = entry.spec
    if entry.is_text:  # ids are made from it, which have rules of their own
        return spec.type.code, False, False, True, None, []
    if entry.is_optional:
        # With a default of gpux.yml, it must not be missing when the model runs.
        may_miss = not entry.required and entry.default is UNSET
        return spec.type.code, False, False, may_miss, spec.name, []
    is_batched = spec.kind == "batched"
    return (
        spec.type.code,
        is_batched,
        is_batched and spec.dims[0] is not None,
        False,
        spec.name,
        _named_axes(spec) if compares_axes else [],
    )


def _named_axes(spec: TensorSpec) -> list[tuple[int, str]]:
    return [(axis, dim) for axis, dim in enumerate(spec.dims) if isinstance(dim, str)]
