"""Bodies that a model takes, found by sending them: what `gpux inspect` shows of it.

Nothing is known of a model's dynamic axes but that they are dynamic, so a few sizes are tried.
"""

import itertools
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gpux.engine import Engine
from gpux.errors import ClientError, ServiceError
from gpux.interface import TEXT, Accepted, Interface

_SENTENCES = ("I love this product!", "This is terrible.")
# What dynamic axes have in the wild: short sequences, images, windows of sound.
_SIZES = (4, 1, 8, 32, 64, 128, 224, 256, 512, 1024, 2048)
_MOST_ELEMENTS = 2**22
_BATCH = 2
_OF_ITEMS = {"batched", "single"}
_LONGEST_SEARCH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Example:
    """A request that was answered.

    Attributes:
        body, answer: JSON texts.
    """

    body: bytes
    answer: bytes


def find_examples(engine: Engine) -> dict[str, Example]:
    """Examples by what they are: one item and a batch of two, where the model knows both."""
    interface = engine.model.interface
    kinds = {entry.spec.kind for entry in interface.inputs}
    wanted: dict[str, int | None] = {"One item" if kinds & _OF_ITEMS else "Example": None}
    if "batched" in kinds:
        wanted["A batch"] = _BATCH
    found = {
        title: _first_answered(engine, _bodies(interface, rows)) for title, rows in wanted.items()
    }
    return {title: example for title, example in found.items() if example is not None}


def _first_answered(engine: Engine, bodies: Iterable[dict[str, Any]]) -> Example | None:
    give_up = time.monotonic() + _LONGEST_SEARCH_SECONDS
    for value in bodies:
        if time.monotonic() > give_up:
            break
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            return Example(body, engine.predict(body))
        except (ClientError, ServiceError):
            continue
    return None


def _bodies(interface: Interface, rows: int | None) -> Iterator[dict[str, Any]]:
    """Bodies to try: as one item where `rows` is None."""
    wanted = [entry for entry in interface.inputs if _is_shown(entry)]
    if not wanted:
        yield {}
        return
    sizes = _SIZES if any(_has_dynamic_axis(entry) for entry in wanted) else _SIZES[:1]
    # Most tables of ids, and all masks, have a row 1; a table of one row has not.
    for size, integer in itertools.product(sizes, (1, 0)):
        values = {entry.name: _value(entry, rows, size, integer) for entry in wanted}
        if all(value is not None for value in values.values()):
            yield values


def _is_shown(entry: Accepted) -> bool:
    """Whether an example needs the input: a text rather than what is made from it."""
    return entry.name == TEXT if entry.is_text else entry.required and not entry.from_text


def _has_dynamic_axis(entry: Accepted) -> bool:
    return any(not isinstance(dim, int) for dim in entry.spec.dims)


def _value(entry: Accepted, rows: int | None, size: int, integer: int) -> Any:
    """A value for an input; None for one that would be too large."""
    spec = entry.spec
    sizes = [dim if isinstance(dim, int) else size for dim in spec.dims]
    if spec.kind == "batched" and rows is not None:
        sizes[0] = rows
    elif spec.kind in ("batched", "single"):
        del sizes[0]
    if spec.flat_items:
        del sizes[-1]
    if math.prod(sizes) > _MOST_ELEMENTS:
        return None
    if spec.type.word == "string":
        most = None if entry.is_text else entry.declared.max_length
        return _nest(sizes, itertools.cycle([sentence[:most] for sentence in _SENTENCES]))
    if spec.type.word == "boolean":
        return _nest(sizes, itertools.repeat(True))
    is_integer = "int" in spec.type.name
    return _nest(sizes, itertools.repeat(integer if is_integer else 0.5))


def _nest(sizes: Sequence[int], elements: Iterator[Any]) -> Any:
    if not sizes:
        return next(elements)
    return [_nest(sizes[1:], elements) for _ in range(sizes[0])]
