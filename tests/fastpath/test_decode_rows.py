"""decode(): lists of a few numbers, read together with their brackets, against the reference."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpux.tensors.signature import Dim
from tests.support.decode_cases import an_input, check
from tests.support.oracle import INTEGERS, TextInput
from tests.support.sanitizer import fewer
from tests.support.walk_cases import NUMBER_TYPES, Refusal, refused

# Mostly the common spacing.
COMMAS = [",", ", ", ",", ", ", " ,", ",\n"]
BETWEEN = ["],[", "], [", "],[", "], [", "] ,[", "],  [", "],\n[", "],[ ", " ],["]
NUMBERS = [
    *("0", "1", "-1", "7", "255", "-0", "0.5", "-123.25", "1e2", "1E-7", "0.12345678901234567"),
    *("1000", "1023.5", "99999999", "123456789", "0." + "3" * 70, "16777217", "100e-2"),
]
FAULTS = [
    *("1e400", "-1e39", "256", "1.5", "-", "01", "1.", "1e", ".5", "+1", "--1", "1-1", "1 1"),
    *("9" * 40, "9" * 400, "true", "null", '"a"', "{", "", "[1]", "[]", "1,2", "1],[1", "1],[],[1"),
    *("1]", "1]]", "[1", "1],,[1", "1],1", "1][1", "1]],[[1", "1],[true"),
]


def number(random: Random, one: TextInput) -> str:
    """A number that the input accepts."""
    name = one.declared.type.name
    if name == "bool":
        return random.choice(["0", "1"])
    if name in INTEGERS:
        low, high = INTEGERS[name]
        return str(random.choice([low, high, 0, 7, random.randint(low, min(high, 40_000))]))
    return random.choice(NUMBERS)


def rows(random: Random, one: TextInput, size: int, count: int) -> list[str]:
    """The rows' numbers, and what separates each from the next."""
    is_even = random.random() < 0.7
    comma, between = random.choice(COMMAS), random.choice(BETWEEN)
    parts = []
    for index in range(size * count):
        if index > 0:
            if not is_even:
                comma, between = random.choice(COMMAS), random.choice(BETWEEN)
            parts.append(comma if index % size else between)
        parts.append(number(random, one))
    return parts


def some_input(random: Random, size: int, count: int) -> TextInput:
    rows: list[Dim] = ["n", count, count + 1, count - 1]
    columns: list[Dim] = ["m", "m", size]
    dims = [random.choice(rows), random.choice(columns)]
    if random.random() < 0.3:
        dims.insert(0, "k")
    return an_input(random.choice([*NUMBER_TYPES, "bool"]), *dims, batched=False)


def text_of(one: TextInput, parts: list[str], padding: int) -> bytes:
    axes = len(one.declared.dims)
    return f'{{"x":{"[" * axes}{"".join(parts)}{"]" * axes}}}{" " * padding}'.encode()


@given(st.randoms(use_true_random=False), st.integers(1, 9), st.integers(2, 40))
@settings(max_examples=fewer(300))
def test_short_rows(random: Random, size: int, count: int) -> None:
    one = some_input(random, size, count)
    parts = rows(random, one, size, count)
    check(text_of(one, parts, 0), one)
    check(text_of(one, parts, 200), one)
    for _ in range(3):
        # In place of a number, or of what separates two.
        at = random.randrange(len(parts))
        changed = parts.copy()
        changed[at] = random.choice(FAULTS if at % 2 == 0 else [",", "],[", "]", "[", "", "]],[["])
        check(text_of(one, changed, random.choice([0, 200])), one)


@pytest.mark.parametrize("type_name", ["float32", "float64", "int64", "uint8", "bool"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_each_fault_in_each_row(type_name: str, size: int) -> None:
    one = an_input(type_name, "n", "m")
    for between in ("],[", "], ["):
        for row in range(1, 24):
            fault = FAULTS[(row * size) % len(FAULTS)]
            for column in {0, size - 1}:
                parts = [
                    part
                    for index in range(24 * size)
                    for part in ("1", ", " if (index + 1) % size else between)
                ][:-1]
                parts[2 * (row * size + column)] = fault
                check(text_of(one, parts, 200), one)


@pytest.mark.parametrize("padding", [0, 200])
@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("[7,8]", "Invalid shape for 'x' at [41]: expected 3 values, got 2"),
        ("[7,8,9,10]", "Invalid shape for 'x' at [41]: expected 3 values, got 4"),
        ("[]", "Invalid shape for 'x' at [41]: expected 3 values, got 0"),
        ("7", "Invalid value for 'x' at [41]: expected array, got number"),
        ("[7,true,9]", "Invalid value for 'x' at [41][1]: expected number, got boolean"),
        ("[7,8,[9]]", "Invalid value for 'x' at [41][2]: expected number, got array"),
        ("[1e39,8,9]", "Invalid value for 'x' at [41][0]: 1e39 is out of range for float32"),
    ],
)
def test_what_is_wrong_in_the_last_row(last: str, message: str, padding: int) -> None:
    text = f'{{"x":[{"[1,2,3]," * 41}{last}]}}{" " * padding}'.encode()
    assert refused(check(text, an_input("float32", "n", "m"))).message == message


@pytest.mark.parametrize(("rows_fit", "declared"), [(True, 42), (False, 41), (False, 43)])
def test_no_row_beyond_the_fixed_size(rows_fit: bool, declared: int) -> None:
    text = f'{{"x":[{",".join(["[1,2,3]"] * 42)}]}}{" " * 200}'.encode()
    outcome = check(text, an_input("float32", declared, 3, batched=False))
    assert isinstance(outcome, list) == rows_fit


@pytest.mark.parametrize(
    ("type_name", "count"),
    [("float32", 1365), ("float32", 1366), ("float32", 1367), ("int8", 1366)],
)
def test_rows_where_the_memory_taken_at_once_ends(type_name: str, count: int) -> None:
    """The reader takes memory for 4096 numbers at once: 1365 rows of three and one number."""
    one = an_input(type_name, "n", 3)
    texts = [f"[{row % 100},2, -{row % 10}]" for row in range(count)]
    assert isinstance(check(f'{{"x":[{", ".join(texts)}]}}'.encode(), one), list)
    for wrong in ("[1,2]", "[1,null,3]", "[1e400,2,3]"):
        texts[-1] = wrong
        assert isinstance(check(f'{{"x":[{", ".join(texts)}]}}'.encode(), one), Refusal)
