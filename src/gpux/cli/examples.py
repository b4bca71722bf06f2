"""Example request bodies for `gpux inspect`, found by trying them.

The sizes that a model accepts for its dynamic axes are unknown, so a few are tried. Alternatives to
a body that succeeded (ids instead of a text, values of inputs that have a default) are derived from
the tensors that it produced.
"""

import itertools
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpux._engine import Request
from gpux.errors import ClientError, ServiceError
from gpux.inputs.model_io import PAIR, TEXT, ServedInput
from gpux.model import Model
from gpux.tensors.outputs import encode
from gpux.tensors.request import array_of_input, tensors_of
from gpux.tensors.signature import Dim, TensorSpec

_SENTENCES = ("I love this product!", "This is terrible.")
# Common sizes of dynamic axes: short sequences, images, audio windows.
_SIZES = (4, 1, 8, 32, 64, 128, 224, 256, 512, 1024, 2048)
# Names of inputs that are a sampling rate in Hz; most speech models expect 16,000.
_RATES = {"sr", "sample_rate", "sampling_rate"}
_RATE = 16000
_MAX_ELEMENTS = 2**22
_BATCH = 2
_ITEM_KINDS = {"batched", "single"}
_MAX_SEARCH_SECONDS = 10.0

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """A request that succeeded.

    Attributes:
        values: by input name.
        body, answer: the JSON texts of the request and the response.
    """

    values: Values
    body: bytes
    answer: bytes


def find_examples(model: Model, timeout_seconds: float = math.inf) -> dict[str, Example]:
    """Finds successful requests, by title; no more than it takes to show each input.

    One item and a batch, if the model has both; for texts, a pair, and ids in their place; an item
    with all optional inputs; and an empty body, if the model accepts it.

    Args:
        model: a loaded model.
        timeout_seconds: of each request.
    """
    inputs = model.io.inputs
    required_inputs = [entry for entry in inputs if entry.required and not entry.from_text]
    shown = required_inputs or inputs
    kinds = {entry.spec.kind for entry in shown}
    found: dict[str, Example] = {}

    def add(title: str, bodies: Iterable[Values]) -> None:
        example = _first_success(model, bodies, timeout_seconds)
        if example is not None:
            found[title] = example

    add("One item" if kinds & _ITEM_KINDS else "Example", _bodies(shown, None))
    if "batched" in kinds:
        add("A batch", _bodies(shown, _BATCH))
    if not required_inputs:
        add("Empty", [{}])
    if not found:
        return found
    first = next(iter(found.values())).values
    if TEXT in first and PAIR not in first and any(entry.name == PAIR for entry in inputs):
        add("A pair", [first | {PAIR: _second_texts(first[TEXT])}])
    received = _received(model, first)
    other_inputs = {name: value for name, value in first.items() if name not in (TEXT, PAIR)}
    token_ids = {entry.name: received[entry.name] for entry in inputs if entry.from_text}
    if token_ids:
        add("By ids", [token_ids | other_inputs])
    shown_names = {name for example in found.values() for name in example.values}
    omitted = {
        entry.name: received[entry.name]
        for entry in inputs
        if entry.name not in shown_names and not entry.is_text and not entry.from_text
    }
    if omitted:
        add("With all", [first | omitted])
    return found


def _first_success(
    model: Model, bodies: Iterable[Values], timeout_seconds: float
) -> Example | None:
    deadline = time.monotonic() + _MAX_SEARCH_SECONDS
    for values in bodies:
        if time.monotonic() > deadline:
            break
        body = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            return Example(values, body, model.respond(body, timeout_seconds))
        except (ClientError, ServiceError):
            continue
    return None


def _second_texts(texts: str | list[str]) -> str | list[str]:
    """Second texts for pairs."""
    return _SENTENCES[1] if isinstance(texts, str) else texts[::-1]


def _received(model: Model, values: Values) -> Values:
    """Returns the tensors that a body produces, as values that could be sent instead."""
    request = model.inputs.collect(values)
    numbers = [spec for spec in model.signature.inputs if spec.type.nbytes]
    tensors = tensors_of(request, numbers)
    encoded = json.loads(
        encode(
            {
                spec.name: replace(tensors[spec.name], shape=_shape_as_sent(request, spec))
                for spec in numbers
            }
        )
    )
    return {
        spec.name: encoded[spec.name]
        if spec.name in encoded
        else array_of_input(request, spec).reshape(_shape_as_sent(request, spec)).tolist()
        for spec in model.signature.inputs
    }


def _shape_as_sent(request: Request, spec: TensorSpec) -> tuple[int, ...]:
    """The shape without the leading axes that an item may omit."""
    shape, _, _ = request.form(spec.name)
    if spec.kind == "single" or (spec.kind == "batched" and request.unbatched):
        return shape[len(shape) - spec.min_axes :]
    return shape


def _bodies(shown: Sequence[ServedInput], rows: int | None) -> Iterator[Values]:
    """Yields bodies to try: single items if `rows` is None."""
    batch_axes = {entry.spec.dims[0] for entry in shown if entry.spec.kind == "batched"}
    last: Values | None = None
    # Most embedding tables have a row 1, and masks accept it; a table of one row has only row 0.
    # Without a pad token, the texts of a batch must have equal lengths.
    for guess in itertools.product(_SIZES, (rows or 1, None), (1, 0), (_SENTENCES, _SENTENCES[:1])):
        values = {entry.name: _Guess(rows, batch_axes, *guess).value(entry) for entry in shown}
        if values != last and all(value is not None for value in values.values()):
            yield values
        last = values


@dataclass(frozen=True, slots=True)
class _Guess:
    """Assumptions about a model.

    Attributes:
        rows: size of the batch; None for one item.
        batch_axes: the names of the batch axis.
        size: size of every other dynamic axis.
        inner_rows: size of unnamed axes of inputs without items; None for `size`. The state of a
            recurrent model has the batch size there.
        integer: value of every integer element.
        sentences: values of string elements.
    """

    rows: int | None
    batch_axes: set[Dim]
    size: int
    inner_rows: int | None
    integer: int
    sentences: Sequence[str]

    def value(self, entry: ServedInput) -> Any:
        """Returns a value for an input; None if it would be too large."""
        spec = entry.spec
        shape = [self._size(spec, axis) for axis in range(len(spec.dims))]
        if spec.kind == "single" or (spec.kind == "batched" and self.rows is None):
            del shape[0]
        if spec.flat_items:
            del shape[-1]
        if math.prod(shape) > _MAX_ELEMENTS:
            return None
        return _nest(shape, itertools.cycle(self._elements(entry)))

    def _size(self, spec: TensorSpec, axis: int) -> int:
        dim = spec.dims[axis]
        if isinstance(dim, int):
            return dim
        is_leading = axis == 0 and spec.kind == "batched"
        if is_leading or (dim is not None and dim in self.batch_axes):
            return self.rows or 1
        if dim is None and spec.kind not in _ITEM_KINDS and self.inner_rows is not None:
            return self.inner_rows
        return self.size

    def _elements(self, entry: ServedInput) -> Sequence[Any]:
        element = entry.spec.type
        if element.word == "string":
            max_length = None if entry.is_text else entry.config.max_length
            sentences = self.sentences[::-1] if entry.name == PAIR else self.sentences
            return [sentence[:max_length] for sentence in sentences]
        if element.word == "boolean":
            return [True]
        if entry.name in _RATES:
            return [_RATE]
        return [self.integer if "int" in element.name else 0.5]


def _nest(shape: Sequence[int], elements: Iterator[Any]) -> Any:
    if not shape:
        return next(elements)
    return [_nest(shape[1:], elements) for _ in range(shape[0])]
