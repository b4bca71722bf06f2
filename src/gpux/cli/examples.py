"""Bodies that a model takes, found by sending them: what `gpux inspect` shows of it.

Nothing is known of a model's dynamic axes but that they are dynamic, so a few sizes are tried. What
may be sent beside that, ids in the place of a text and inputs that have a default, is read off what
the model got for a body that was answered.
"""

import itertools
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpux.errors import ClientError, ServiceError
from gpux.inputs.model_io import PAIR, TEXT, ServedInput
from gpux.model import Model
from gpux.serving.encoder import encode
from gpux.serving.engine import Engine
from gpux.tensors.memory import StringTensor, Tensor
from gpux.tensors.signature import Dim, TensorSpec

_SENTENCES = ("I love this product!", "This is terrible.")
# What dynamic axes have in the wild: short sequences, images, windows of sound.
_SIZES = (4, 1, 8, 32, 64, 128, 224, 256, 512, 1024, 2048)
# Names that tell what a number is: samples a second, of which most models of speech take 16,000.
_RATES = {"sr", "sample_rate", "sampling_rate"}
_RATE = 16000
_MAX_ELEMENTS = 2**22
_BATCH = 2
_OF_ITEMS = {"batched", "single"}
_MAX_SEARCH_SECONDS = 10.0

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """A request that was answered.

    Attributes:
        values: by input name.
        body, answer: JSON texts.
    """

    values: Values
    body: bytes
    answer: bytes


def find_examples(engine: Engine) -> dict[str, Example]:
    """Requests that were answered, by what they show; no more than it takes to show each input.

    They are one item and a batch, where the model knows both; for texts a pair, and ids in their
    place; an item with what may be left out as well; and nothing, where that will do.
    """
    inputs = engine.model.io.inputs
    needed = [entry for entry in inputs if entry.required and not entry.from_text]
    shown = needed or inputs
    kinds = {entry.spec.kind for entry in shown}
    found: dict[str, Example] = {}

    def add(title: str, bodies: Iterable[Values]) -> None:
        example = _first_answered(engine, bodies)
        if example is not None:
            found[title] = example

    add("One item" if kinds & _OF_ITEMS else "Example", _bodies(shown, None))
    if "batched" in kinds:
        add("A batch", _bodies(shown, _BATCH))
    if not needed:
        add("Empty", [{}])
    if not found:
        return found
    first = next(iter(found.values())).values
    if TEXT in first and PAIR not in first and any(entry.name == PAIR for entry in inputs):
        add("A pair", [first | {PAIR: _others(first[TEXT])}])
    received = _received(engine.model, first)
    own = {name: value for name, value in first.items() if name not in (TEXT, PAIR)}
    made = {entry.name: received[entry.name] for entry in inputs if entry.from_text}
    if made:
        add("By ids", [made | own])
    seen = {name for example in found.values() for name in example.values}
    left_out = {
        entry.name: received[entry.name]
        for entry in inputs
        if entry.name not in seen and not entry.is_text and not entry.from_text
    }
    if left_out:
        add("With all", [first | left_out])
    return found


def _first_answered(engine: Engine, bodies: Iterable[Values]) -> Example | None:
    give_up = time.monotonic() + _MAX_SEARCH_SECONDS
    for values in bodies:
        if time.monotonic() > give_up:
            break
        body = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            return Example(values, body, engine.predict(body))
        except (ClientError, ServiceError):
            continue
    return None


def _others(texts: str | list[str]) -> str | list[str]:
    """Second texts for pairs."""
    return _SENTENCES[1] if isinstance(texts, str) else texts[::-1]


def _received(model: Model, values: Values) -> Values:
    """What the model gets for a body, as values that could have been sent instead."""
    request = model.inputs.collect(values)
    try:
        tensors = {
            spec.name: _as_sent(spec, request.tensors[spec.name], unbatched=request.unbatched)
            for spec in model.signature.inputs
        }
        received: Values = json.loads(encode(tensors))
    finally:
        request.release()
    return received


def _as_sent(
    spec: TensorSpec, tensor: Tensor | StringTensor, *, unbatched: bool
) -> Tensor | StringTensor:
    """An item without the axes that it need not have."""
    if spec.kind == "single" or (spec.kind == "batched" and unbatched):
        return replace(tensor, shape=tensor.shape[len(tensor.shape) - spec.min_axes :])
    return tensor


def _bodies(shown: Sequence[ServedInput], rows: int | None) -> Iterator[Values]:
    """Bodies to try: as one item where `rows` is None."""
    batch_axes = {entry.spec.dims[0] for entry in shown if entry.spec.kind == "batched"}
    last: Values | None = None
    # Most tables of ids, and all masks, have a row 1; a table of one row has not. Without a token
    # to pad with, texts of a batch must be of one length.
    for guess in itertools.product(_SIZES, (rows or 1, None), (1, 0), (_SENTENCES, _SENTENCES[:1])):
        values = {entry.name: _Guess(rows, batch_axes, *guess).value(entry) for entry in shown}
        if values != last and all(value is not None for value in values.values()):
            yield values
        last = values


@dataclass(frozen=True, slots=True)
class _Guess:
    """What is assumed of a model.

    Attributes:
        rows: of the batch; None for one item.
        batch_axes: the names of its axis.
        size: of every other dynamic axis.
        inner_rows: that of an unnamed one in an input that is no item; None for `size`. The state
            of a recurrent model has the batch's there.
        integer: each number of an integer type.
        sentences: each string.
    """

    rows: int | None
    batch_axes: set[Dim]
    size: int
    inner_rows: int | None
    integer: int
    sentences: Sequence[str]

    def value(self, entry: ServedInput) -> Any:
        """A value for an input; None for one that would be too large."""
        spec = entry.spec
        sizes = [self._size(spec, axis) for axis in range(len(spec.dims))]
        if spec.kind == "single" or (spec.kind == "batched" and self.rows is None):
            del sizes[0]
        if spec.flat_items:
            del sizes[-1]
        if math.prod(sizes) > _MAX_ELEMENTS:
            return None
        return _nest(sizes, itertools.cycle(self._elements(entry)))

    def _size(self, spec: TensorSpec, axis: int) -> int:
        dim = spec.dims[axis]
        if isinstance(dim, int):
            return dim
        is_leading = axis == 0 and spec.kind == "batched"
        if is_leading or (dim is not None and dim in self.batch_axes):
            return self.rows or 1
        if dim is None and spec.kind not in _OF_ITEMS and self.inner_rows is not None:
            return self.inner_rows
        return self.size

    def _elements(self, entry: ServedInput) -> Sequence[Any]:
        element = entry.spec.type
        if element.word == "string":
            most = None if entry.is_text else entry.config.max_length
            sentences = self.sentences[::-1] if entry.name == PAIR else self.sentences
            return [sentence[:most] for sentence in sentences]
        if element.word == "boolean":
            return [True]
        if entry.name in _RATES:
            return [_RATE]
        return [self.integer if "int" in element.name else 0.5]


def _nest(sizes: Sequence[int], elements: Iterator[Any]) -> Any:
    if not sizes:
        return next(elements)
    return [_nest(sizes[1:], elements) for _ in range(sizes[0])]
