"""Single numbers: what each type stores, rounds and rejects."""

import math
import re
import struct
from typing import Any

import pytest

from gpux.tensors.signature import BY_NAME
from tests.support import oracle
from tests.support.walk_cases import NUMBER_TYPES, Refusal, SubInt, expected, spec, walked


def stored_bits(type_name: str, value: object) -> int | str:
    """The stored bits of a number, alone and in a list, or the message without its path."""
    outcome = walked(spec(type_name, "n"), value)
    in_list = walked(spec(type_name, "n"), [value])
    in_run = walked(spec(type_name, "n"), [0] * 40 + [value])
    if isinstance(outcome, Refusal):
        assert isinstance(in_list, Refusal)
        assert isinstance(in_run, Refusal)
        prefix = "Invalid value for 'x'"
        assert outcome.message.startswith(f"{prefix}: ")
        problem = outcome.message.removeprefix(f"{prefix}: ")
        assert in_list.message == f"{prefix} at [0]: {problem}"
        assert in_run.message == f"{prefix} at [40]: {problem}"
        return problem
    assert not isinstance(in_list, Refusal)
    assert not isinstance(in_run, Refusal)
    (element,) = outcome.elements
    assert in_list.elements == [element]
    assert in_run.elements[40] == element
    assert isinstance(element, bytes)
    return int.from_bytes(element, "little")


def float32_bits(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def float64_bits(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def outside(text: object, type_name: str) -> str:
    return f"{text} is out of range for {type_name}"


FLOAT_EDGES: list[tuple[str, object, int | str]] = [
    ("float16", 0.0, 0x0000),
    ("float16", -0.0, 0x8000),
    ("float16", 0, 0x0000),
    ("float16", 0.5, 0x3800),
    ("float16", 1e3, 0x63D0),
    ("float16", 65504, 0x7BFF),
    ("float16", 65510, 0x7BFF),
    ("float16", 65519.99, 0x7BFF),
    ("float16", -65519.99, 0xFBFF),
    ("float16", 65520, outside(65520, "float16")),
    ("float16", 65520.0, outside(65520.0, "float16")),
    ("float16", -65520.0, outside(-65520.0, "float16")),
    ("float16", 2**63, outside(2**63, "float16")),
    ("float16", 1e300, outside(1e300, "float16")),
    ("float16", 2.0**-14, 0x0400),
    ("float16", 2.0**-14 - 2.0**-24, 0x03FF),
    ("float16", 2.0**-14 - 2.0**-25, 0x0400),  # a carry out of the subnormals
    ("float16", 2.0**-24, 0x0001),
    ("float16", 2.0**-25, 0x0000),  # a tie, to even
    ("float16", -(2.0**-25), 0x8000),
    ("float16", math.nextafter(2.0**-25, 1), 0x0001),
    ("float16", 3 * 2.0**-25, 0x0002),
    ("float16", 5e-324, 0x0000),
    ("float16", -5e-324, 0x8000),
    ("float16", 1 + 2.0**-11, 0x3C00),
    ("float16", 1 + 3 * 2.0**-11, 0x3C02),
    ("float16", 1 + 2.0**-11 + 2.0**-40, 0x3C01),  # via float32 it would be a tie
    ("float16", 2049, 0x6800),
    ("float16", 2051, 0x6802),
    ("bfloat16", -0.0, 0x8000),
    ("bfloat16", 0.5, 0x3F00),
    ("bfloat16", 1 + 2.0**-8, 0x3F80),
    ("bfloat16", 1 + 3 * 2.0**-8, 0x3F82),
    ("bfloat16", 1 + 2.0**-8 + 2.0**-40, 0x3F81),  # via float32 it would be a tie
    ("bfloat16", 255 * 2.0**120, 0x7F7F),
    ("bfloat16", math.nextafter(511 * 2.0**119, 0), 0x7F7F),
    ("bfloat16", 511 * 2.0**119, outside(511 * 2.0**119, "bfloat16")),
    ("bfloat16", 3.4028234663852886e38, outside(3.4028234663852886e38, "bfloat16")),
    ("bfloat16", 2.0**-126, 0x0080),
    ("bfloat16", 2.0**-133, 0x0001),
    ("bfloat16", 2.0**-134, 0x0000),
    ("bfloat16", math.nextafter(2.0**-134, 1), 0x0001),
    ("bfloat16", 1e-45, 0x0000),
    ("bfloat16", 5e-324, 0x0000),
    ("float32", -0.0, 0x80000000),
    ("float32", 0.1, 0x3DCCCCCD),
    ("float32", 16777217, float32_bits(16777216.0)),
    ("float32", 16777219, float32_bits(16777220.0)),
    ("float32", 16777217.0, float32_bits(16777216.0)),
    # Rounded to float64 first, where it ties: rounding once would give 2**60 + 2**37.
    ("float32", 2**60 + 2**36 + 1, float32_bits(2.0**60)),
    ("float32", 2**63 + 2**39 + 1, float32_bits(2.0**63)),
    ("float32", 2**90 + 2**66 + 1, float32_bits(2.0**90)),
    ("float32", 2**90 + 2**66 + 2**40, float32_bits(2.0**90 + 2.0**67)),
    ("float32", 3.4028234663852886e38, 0x7F7FFFFF),
    ("float32", math.nextafter(3.4028235677973366e38, 0), 0x7F7FFFFF),
    ("float32", 3.4028235677973366e38, outside(3.4028235677973366e38, "float32")),
    ("float32", 10**39, outside(10**39, "float32")),
    ("float32", 10**100, "an integer of 333 bits is out of range for float32"),
    ("float32", -(10**400), "an integer of 1329 bits is out of range for float32"),
    ("float32", 2.0**-149, 0x00000001),
    ("float32", 2.0**-150, 0x00000000),
    ("float32", math.nextafter(2.0**-150, 1), 0x00000001),
    ("float32", 3 * 2.0**-150, 0x00000002),
    ("float32", math.nan, 0x7FC00000),
    ("float32", -math.inf, 0xFF800000),
    ("float16", math.nan, 0x7E00),
    ("float16", math.inf, 0x7C00),
    ("bfloat16", -math.nan, 0xFFC0),
    ("bfloat16", math.inf, 0x7F80),
    ("float64", -0.0, 1 << 63),
    ("float64", 5e-324, 1),
    ("float64", 2.0**-1022, 1 << 52),
    ("float64", 1.7976931348623157e308, float64_bits(1.7976931348623157e308)),
    ("float64", 2**53 + 1, float64_bits(2.0**53)),
    ("float64", 2**53 + 3, float64_bits(2.0**53 + 4)),
    ("float64", 2**64 - 1, float64_bits(2.0**64)),
    ("float64", -(2**63) - 1, float64_bits(-(2.0**63))),
    ("float64", 2**100 + 1, float64_bits(2.0**100)),
    ("float64", 2**1024 - 2**970 - 1, float64_bits(1.7976931348623157e308)),
    ("float64", 2**1024 - 2**970, "an integer of 1024 bits is out of range for float64"),
    ("float64", math.inf, float64_bits(math.inf)),
    ("float64", math.nan, float64_bits(math.nan)),
    ("bool", True, 1),
    ("bool", False, 0),
    ("bool", 0, 0),
    ("bool", 1, 1),
    ("bool", 1.0, 1),
    ("bool", -0.0, 0),
    ("bool", 2, "2 is out of range for bool"),
    ("bool", -1, "-1 is out of range for bool"),
    ("bool", 0.5, "0.5 is out of range for bool"),
    ("bool", 2**64, f"{2**64} is out of range for bool"),
    ("bool", math.nan, "nan is not a finite number"),
]


def integer_edges(type_name: str) -> list[tuple[object, int | str]]:
    low, high = oracle.INTEGERS[type_name]
    mask = 2 ** (8 * BY_NAME[type_name].nbytes) - 1
    largest_float = float(high) if float(high) <= high else math.nextafter(float(high), 0)
    return [
        (0, 0),
        (-0.0, 0),
        (low, low & mask),
        (high, high),
        (float(low), low & mask),
        (largest_float, int(largest_float)),
        (1e2, 100),
        (low - 1, outside(low - 1, type_name)),
        (high + 1, outside(high + 1, type_name)),
        (float(high) + 1, outside(float(high) + 1, type_name)),
        (2**64, outside(2**64, type_name)),
        (-(2**64), outside(-(2**64), type_name)),
        (2**256 - 1, outside(2**256 - 1, type_name)),
        (-(2**256) + 1, outside(-(2**256) + 1, type_name)),
        (2**256, f"an integer of 257 bits is out of range for {type_name}"),
        (-(10**400), f"an integer of 1329 bits is out of range for {type_name}"),
        (1e300, outside("1e+300", type_name)),
        (-1e300, outside("-1e+300", type_name)),
        (0.5, "0.5 is not an integer"),
        (1.0000000000000002, "1.0000000000000002 is not an integer"),
        (-1e-300, "-1e-300 is not an integer"),
        (5e-324, "5e-324 is not an integer"),
        *([(high + 0.5, f"{high + 0.5} is not an integer")] if high < 2**52 else []),
        (math.nan, "nan is not a finite number"),
        (math.inf, "inf is not a finite number"),
        (-math.inf, "-inf is not a finite number"),
    ]


INTEGER_EDGES = [
    (type_name, value, bits)
    for type_name in oracle.INTEGERS
    for value, bits in integer_edges(type_name)
] + [
    ("int64", 2**53 + 1, 2**53 + 1),
    ("int64", 2.0**63, outside(2.0**63, "int64")),
    ("int64", 2**64 - 1, outside(2**64 - 1, "int64")),
    ("uint64", 2**63, 2**63),
    ("uint64", 2.0**63, 2**63),
    ("uint64", 2.0**64, outside(2.0**64, "uint64")),
    ("int16", 1e3, 1000),
    ("uint8", 300, outside(300, "uint8")),
    ("uint8", 255.5, "255.5 is not an integer"),
]


def with_ids(edges: list[tuple[str, object, int | str]]) -> list[Any]:
    """Test parameters with short ids, even for long numbers."""
    return [pytest.param(*edge, id=f"{edge[0]}-{edge[1]!s:.24}") for edge in edges]


@pytest.mark.parametrize(("type_name", "value", "stored"), with_ids(FLOAT_EDGES + INTEGER_EDGES))
def test_an_edge_of_a_type_is_stored_or_refused(
    type_name: str, value: object, stored: int | str
) -> None:
    assert stored_bits(type_name, value) == stored
    # The reference must match the same table.
    outcome = expected(spec(type_name, "n"), value)
    if isinstance(outcome, Refusal):
        assert outcome.message == f"Invalid value for 'x': {stored}"
    else:
        assert isinstance(stored, int)
        assert outcome.elements == [stored.to_bytes(BY_NAME[type_name].nbytes, "little")]


@pytest.mark.parametrize("type_name", ["float16", "bfloat16"])
def test_between_two_neighbours_the_middle_goes_to_the_even_one(type_name: str) -> None:
    target = oracle.FLOATS[type_name]
    exact = [float(oracle.exact_value(bits, target)) for bits in range(target.infinity)]
    values: list[float] = []
    nearest: list[int] = []
    for bits in range(target.infinity - 1):
        middle = (exact[bits] + exact[bits + 1]) / 2  # exact in float64
        values += [math.nextafter(middle, 0), middle, math.nextafter(middle, math.inf)]
        nearest += [bits, bits + bits % 2, bits + 1]
    outcome = walked(spec(type_name, "n"), values)
    assert isinstance(outcome, oracle.Converted)
    assert outcome.elements == [bits.to_bytes(2, "little") for bits in nearest]


def test_the_messages_quote_no_unbounded_number() -> None:
    for number in (10**5000, -(10**5000), SubInt(10**5000)):
        for type_name in NUMBER_TYPES:
            outcome = walked(spec(type_name, "n"), [number])
            assert isinstance(outcome, Refusal)
            assert re.fullmatch(
                r".* an integer of 16610 bits is out of range for \w+", outcome.message
            )
