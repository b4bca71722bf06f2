"""Shared by the tests of Pipeline.decode(): outcomes to compare, and random spellings of a body."""

import math
from collections.abc import Sequence
from functools import lru_cache
from random import Random
from typing import NamedTuple

from gpux._engine import Pipeline, Request
from gpux._fastpath import InputSpec, InputTable, Pool
from gpux.errors import ClientError, InvalidJSONError
from gpux.tensors.signature import BY_NAME, Dim, ElementType, TensorSpec
from tests.support import oracle
from tests.support.oracle import TextInput
from tests.support.walk_cases import GuardedPool, Refusal, refusal

FLOAT_TYPES = list(oracle.FLOATS)
INTEGER_TYPES = list(oracle.INTEGERS)


class Syntax(NamedTuple):
    """A syntax error and its byte offset."""

    byte: int


Outcome = list[tuple[str, oracle.Converted]] | Refusal | Syntax


def an_input(
    type_name: str,
    *dims: Dim,
    name: str = "x",
    batched: bool | None = None,
    max_characters: int | None = None,
    group: int = 0,
    null_is_nan: bool = False,
) -> TextInput:
    declared = TensorSpec(name, BY_NAME[type_name], dims, batched=batched)
    return TextInput(declared, max_characters, group, null_is_nan)


@lru_cache(maxsize=4096)
def table(*inputs: TextInput) -> InputTable:
    return InputTable(
        [InputSpec(one.declared, one.max_characters, one.null_is_nan) for one in inputs],
        [one.group for one in inputs],
    )


def pipeline_of(inputs: Sequence[TextInput], pool: Pool) -> Pipeline:
    """A pipeline that only decodes, whose inputs may all be missing and never disagree."""
    rules: list[tuple[int, bool, bool, bool, str | None, list[tuple[int, str]]]] = [
        (one.declared.type.code, False, False, True, one.declared.name, []) for one in inputs
    ]
    return Pipeline(None, table(*inputs), rules, [], [], pool)


def decode(body: bytes, inputs: Sequence[TextInput], pool: Pool) -> Request:
    """The request of a body."""
    request, is_complete = pipeline_of(inputs, pool).decode(body)
    assert is_complete
    return request


def guarded(pool: GuardedPool) -> Pool:
    """A native pool whose blocks come from a guarded one, in the sizes of the native one."""
    return Pool(pool.take, 0)


def as_outcome(error: ClientError) -> Refusal | Syntax:
    if isinstance(error, InvalidJSONError):
        assert str(error).startswith(f"Invalid JSON at byte {error.byte}: ")
        return Syntax(error.byte)
    return refusal(error)


def expected(body: bytes, inputs: Sequence[TextInput]) -> Outcome:
    """The reference's outcome for a body, with the values in the order of the inputs."""
    try:
        values = dict(oracle.decode(body, inputs))
    except ClientError as error:
        return as_outcome(error)
    names = [one.declared.name for one in inputs]
    return [(name, values[name]) for name in names if name in values]


def read(body: bytes, inputs: Sequence[TextInput], pool: GuardedPool | None = None) -> Outcome:
    """The reader's outcome for a body. Also checks that every block is returned."""
    pool = pool or GuardedPool()
    try:
        request = decode(body, inputs, guarded(pool))
    except ClientError as error:
        assert pool.in_use == []
        pool.check()
        return as_outcome(error)
    types = {one.declared.name: one.declared.type for one in inputs}
    outcome = []
    for name in request.names:
        shape, as_items, as_one_item = request.form(name)
        content = bytes_of(request, name, types[name], pool) or request.strings(
            name, "surrogateescape"
        )
        outcome.append((name, oracle.Converted(shape, content, as_items, as_one_item)))
    del request
    assert pool.in_use == []
    pool.check()
    return outcome


def bytes_of(request: Request, name: str, element: ElementType, pool: GuardedPool) -> list[bytes]:
    """The elements of an input of numbers, which are in a block of the pool; else no elements."""
    size, count = element.nbytes, math.prod(request.form(name)[0])
    if size * count == 0:
        return []
    address, _, _ = request.content(name)
    (block,) = [one for one in pool.in_use if one.address == address]
    assert count * size <= block.nbytes
    written = block.payload.tobytes()
    return [written[i * size : (i + 1) * size] for i in range(count)]


def check(body: bytes, *inputs: TextInput) -> Outcome:
    """Asserts that the reader and the reference agree. Returns their outcome."""
    outcome = read(body, inputs)
    reference = expected(body, inputs)
    assert outcome == reference, f"{body[:2000]!r} of {len(body)} bytes, for {inputs}"
    return outcome


def elements(outcome: Outcome) -> list[bytes] | list[str]:
    """The elements of an outcome's only tensor."""
    assert isinstance(outcome, list), outcome
    ((_, tensor),) = outcome
    return tensor.elements


# Random spellings.

SPACES = [*[""] * 6, " ", " ", "\n", "\t", "\r\n", "  ", " \n\t\r "]


def space(random: Random) -> str:
    return random.choice(SPACES)


def spell(random: Random, negative: bool, digits: str, exponent: int) -> str:
    """A number's text with the exact value digits * 10**exponent.

    The position of the point, extra zeros and the form of the exponent are random.
    """
    zeros = random.choice([0, 0, 0, 1, 2, 5, 19, 40])
    digits, exponent = digits + "0" * zeros, exponent - zeros
    point = random.choice([1, len(digits), len(digits), random.randint(0, len(digits)), -3, -25])
    if random.random() < 0.5 and 0 >= exponent > -60:
        point = len(digits) + exponent  # leaves no exponent
    if point <= 0:
        integer, fraction = "0", "0" * -point + digits
    else:
        integer, fraction = digits[:point].ljust(point, "0"), digits[point:]
    # JSON has a leading zero only as the single integer digit.
    stripped = integer.lstrip("0")
    integer = stripped or "0"
    exponent += len(digits) - point
    text = "-" if negative else ""
    text += integer + ("." + fraction if fraction else random.choice(["", "", ".0", ".000"]))
    if exponent != 0 or random.random() < 0.1:
        sign = "-" if exponent < 0 else random.choice(["", "+"])
        padding = random.choice(["", "", "0", "000"])
        text += random.choice("eE") + sign + padding + str(abs(exponent))
    return text


def spell_integer(random: Random, value: int) -> str:
    """An integer's text: often the usual one."""
    if random.random() < 0.5:
        return str(value)
    return spell(random, value < 0, str(abs(value)), 0)


_SHORT_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n"}
_SHORT_ESCAPES |= {"\r": "r", "\t": "t"}


def spell_string(random: Random, value: str, escapes: float = 0.2) -> str:
    """A quoted string, each character literal or escaped."""
    parts = []
    for character in value:
        if character in '"\\' or character < " " or random.random() < escapes:
            if character in _SHORT_ESCAPES and random.random() < 0.7:
                parts.append("\\" + _SHORT_ESCAPES[character])
                continue
            units = character.encode("utf-16-be")
            for i in range(0, len(units), 2):
                unit = units[i : i + 2].hex()
                parts.append("\\u" + random.choice([unit, unit.upper()]))
        else:
            parts.append(character)
    return f'"{"".join(parts)}"'


def nest(random: Random, shape: Sequence[int], texts: list[str]) -> str:
    """Nested lists of elements, given as texts in C order; consumes `texts`."""
    if not shape:
        return texts.pop(0)
    items = []
    for _ in range(shape[0]):
        items.append(space(random) + nest(random, shape[1:], texts) + space(random))
    return f"[{','.join(items) or space(random)}]"


def body(random: Random, values: Sequence[tuple[str, str]]) -> bytes:
    """A JSON object of names and their values' texts."""
    members = [
        f"{space(random)}{spell_string(random, name, 0.05)}{space(random)}:"
        f"{space(random)}{text}{space(random)}"
        for name, text in values
    ]
    text = f"{space(random)}{{{','.join(members) or space(random)}}}{space(random)}"
    return text.encode()
