"""decode(): numbers of every type, in every spelling, at every position of a body."""

import ctypes
import struct
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpux._fastpath import Pool
from gpux.errors import ClientError, InvalidJSONError
from gpux.tensors.signature import BY_NAME
from tests.support.decode_cases import (
    FLOAT_TYPES,
    INTEGER_TYPES,
    Syntax,
    an_input,
    decode,
    elements,
    expected,
    read,
    spell,
    spell_integer,
)
from tests.support.oracle import FLOATS, INTEGERS, exact_value
from tests.support.sanitizer import fewer
from tests.support.walk_cases import NUMBER_TYPES, Refusal

TYPES = [*NUMBER_TYPES, "bool"]


@lru_cache(maxsize=1 << 18)
def verdict(type_name: str, text: str) -> bytes | str | int:
    """The reference's result for a number: its bytes, the message, or a syntax error's offset."""
    outcome = expected(f'{{"x":{text}}}'.encode(), [an_input(type_name)])
    if isinstance(outcome, list):
        (element,) = elements(outcome)
        assert isinstance(element, bytes)
        return element
    if isinstance(outcome, Syntax):
        return outcome.byte - len('{"x":')
    return outcome.message.removeprefix("Invalid value for 'x': ")


def check_number(type_name: str, text: str) -> bytes | str | int:
    """Compares the reader with the reference for a number at several positions of a body."""
    reference = verdict(type_name, text)
    one = [an_input(type_name)]
    for prefix, location, suffix in (
        ("", "", ""),
        ("", "", " " * 99),
        ("[", " at [0]", "]"),
        ("[", " at [0]", "]" + " " * 99),
        ("[", " at [0]", " , 1]"),
        ("[1,0,1, ", " at [3]", ",1,0]"),
        ("[1,0,1, ", " at [3]", ",1,0]" + " " * 99),
        ("[" + "1," * 40, " at [40]", "," + "0," * 60 + "1]"),
    ):
        body = f'{{"x":{prefix}{text}{suffix}}}'
        outcome = read(body.encode(), one)
        index = prefix.count(",")
        if isinstance(reference, bytes):
            assert elements(outcome)[index] == reference, (type_name, body)
        elif isinstance(reference, str):
            assert isinstance(outcome, Refusal), (type_name, body)
            assert outcome.message == f"Invalid value for 'x'{location}: {reference}"
        else:
            assert outcome == Syntax(len('{"x":' + prefix) + reference), (type_name, body)
    return reference


# Spellings of all kinds, valid for a type or not.

SPELLINGS = [
    *("0", "-0", "1", "-1", "7", "12", "100", "127", "128", "-128", "-129", "255", "256"),
    *("0.0", "-0.0", "1.0", "10e-1", "0.1e+1", "0.1E1", "1E0", "1e00", "1e-0", "1.000000000000"),
    *("0e0", "0e999", "-0e999", "0e-999", "0.000e5", "0e99999999999999999999999999", "0E+0"),
    *("1e2", "1e3", "1e4", "1e5", "65504", "65519.99", "65520", "65535", "65536", "1e10", "1e19"),
    *("1.5", "2.5", "0.5", "-0.5", "100.5", "0.1", "0.3", "1e-1", "1e-7", "1e-45", "1e-400"),
    *("32767", "32768", "-32768", "-32769", "2147483647", "2147483648", "4294967295", "4294967296"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775808"),
    *("-9223372036854775809", "18446744073709551615", "18446744073709551616"),
    "-18446744073709551615",
    *("9223372036854775807.0", "922337203685477580.7e1", "922337203685477580.70e+01"),
    *("92233720368547758070e-1", "9223372036854775807000000000000000000000e-21"),
    "0.0000000000000000000000000000009223372036854775807e48",
    "18446744073709551615.000000000000",
    *("1844674407370955161500e-2", "1844674407370955161.5e1", "1844674407370955161.6e1"),
    *("18446744073709551614.9999999999999999999999", "18446744073709551610"),
    "184467440737095516150",
    *("1.0000000000000000000001", "0.9999999999999999999999", "1.0000000000000000000000", "99e-2"),
    *("10000000000000000000000e-22", "0.0000000000000000000001e22", "0.0000000000000000000001e23"),
    *("1000000000000000000000000", "1000000000000000000000000e-24", "12345678901234567890e-19"),
    *("1e22", "1e23", "9007199254740991", "9007199254740992", "9007199254740993"),
    "9007199254740995",
    *("123456789012345678", "1234567890123456789", "12345678901234567890", "123456789012345678901"),
    *("1.23456789012345678", "1.234567890123456789", "1.2345678901234567891"),
    "0.12345678901234567890",
    *("1.7976931348623157e308", "1.7976931348623158e308", "1.7976931348623159e308", "1e308"),
    "1e309",
    "17976931348623158079372897140530341507993413271003782693617377898044496829276475094664901797",
    *("3.4028234663852886e38", "3.4028235677973365e38", "3.4028235677973366e38"),
    "3.4028235677973367e38",
    *("3.3895313892515355e38", "3.3961775292304600e38", "3.3961775292304598e38", "3.39e38"),
    "3.4e38",
    *("1.1754943508222875e-38", "1.1754942106924411e-38", "1.401298464324817e-45"),
    "7.006492321624085e-46",
    *("7.006492321624086e-46", "7.0064923216240853546186479164495e-46"),
    "7.00649232162408535461864792e-46",
    *("2.2250738585072014e-308", "2.2250738585072011e-308", "2.225073858507201e-308"),
    "4.9406564584124654e-324",
    *("2.4703282292062327e-324", "2.4703282292062328e-324", "5e-324", "3e-324", "2e-324", "1e-323"),
    *("6.103515625e-05", "6.097555160522461e-05", "5.960464477539063e-08"),
    "2.9802322387695312e-08",
    *("2.98023223876953125e-08", "2.980232238769531250000000000001e-08", "8.940696716308594e-08"),
    *("16777216", "16777217", "16777218", "16777219", "16777217.0000000000000000000000001", "2049"),
    *("1e400", "-1e400", "1e99999999999999999999999999", "1e-99999999999999999999999999"),
    "-1e-999",
    *("0." + "0" * 400 + "1e401", "1" + "0" * 400 + "e-400", "1" + "0" * 400 + "e-401"),
    *("0." + "0" * 70000 + "1e70001", "0." + "0" * 70000 + "15e70001", "1" + "0" * 70000),
    *("9" * 800, "0." + "9" * 800, "9" * 400 + "." + "9" * 400, "0." + "1" * 5000),
    *("1." + "0" * 800, "1." + "0" * 800 + "1", "1e" + "0" * 500 + "2", "1e-" + "0" * 500 + "2"),
    # Not numbers.
    *("01", "-01", "00", "00.5", "1.", "-1.", ".5", "-.5", "-", "--1", "+1", "1e", "1e+", "1e-"),
    *("1e5.5", "1.5.5", "1.e5", "1.5e", "-a", "0x1", "1_0", "1a", "1.a", "1ea", "-e5", "0e", "0."),
    *("1234567a", "12345678a", "1.2345678a", "1.a2345678", "1.12345678a", "1.123456789012345678a"),
    *("1/", "1:", "1;", "9/9", "1.:", "1.0:", "1.00000000:", "12:45", "\xb11", "1\xb1", "1.\xb2"),
    *("1.2345678901234:", "1.234567890123456:", "1.:2345678901234567", "1.234567:", "/"),
    "00000000",
    *("-12345678", "-123456789", "-012345678", "012345678", "0123", "-1.5", "-0.00000000000000000"),
]


@pytest.mark.parametrize("type_name", TYPES)
def test_every_sort_of_number_everywhere(type_name: str) -> None:
    for text in SPELLINGS:
        check_number(type_name, text)


@pytest.mark.parametrize("type_name", TYPES)
def test_what_some_sorts_mean(type_name: str) -> None:
    """Checks the reference itself against independently known results."""
    width = BY_NAME[type_name].nbytes
    if type_name in FLOATS:
        codes = {"float16": "<e", "float32": "<f", "float64": "<d"}
        largest = 65504 if type_name == "float16" else 1e38
        for text in ("0.1", "-0.0", "1e-7", "2049", "16777216", "3.0517578125e-05", "65504"):
            if type_name in codes and float(text) <= largest:
                assert verdict(type_name, text) == struct.pack(codes[type_name], float(text))
        assert verdict(type_name, "1e400") == f"1e400 is out of range for {type_name}"
        return
    for text in ("1", "1.0", "10e-1", "0.1e+1", "1000000000000000000000000e-24"):
        assert verdict(type_name, text) == b"\1" + b"\0" * (width - 1)
    assert verdict(type_name, "-0") == bytes(width)
    word = "is out of range for bool" if type_name == "bool" else "is not an integer"
    assert verdict(type_name, "1.0000000000000000000001") == f"1.0000000000000000000001 {word}"
    quoted = "9" * 60 + "…"
    assert verdict(type_name, "9" * 800) == f"{quoted} is out of range for {type_name}"


# Every length at every offset from the start of the list, from 64-byte blocks and from the end.


def lengths() -> Iterator[str]:
    """Numbers of every length and of each kind that the reader distinguishes; some are invalid."""
    digits = "9182736455463728190"
    for size in range(1, 21):
        yield (digits * 2)[:size]
        yield "0." + (digits * 2)[:size]
        yield "-7." + (digits[::-1] * 2)[:size]
    yield from ("-5", "-0", "-12345678", "-123456789", "12.25", "123456.5", "1e5", "1.5e-7")
    yield "3." + "14159265358979323846" * 4
    yield "4" * 70
    yield "1." + "0" * 60 + "1e-30"
    yield from ("01", "1.", "-", "1.2x", "12345x", "0.123456789012x4", "-x", "1e", "0.5.5")


def check_at(type_name: str, text: str, start: int, end: int, pool: Pool) -> None:
    """Checks a number `start` bytes into a list and `end` bytes before the end of the body.

    Args:
        type_name: of the input.
        text: of the number, which the list has twice.
        start: any but 1.
        end: count of spaces after the body.
        pool: for the tensor.
    """
    before = "1," * (start // 2) if start % 2 == 0 else "1, " + "1," * ((start - 3) // 2)
    body = f'{{"x":[{before}{text},{text}]}}{" " * end}'
    reference = verdict(type_name, text)
    count = before.count(",")
    found: object
    try:
        request = decode(body.encode(), [an_input(type_name)], pool)
    except InvalidJSONError as error:
        found = error.byte - len('{"x":[' + before)
    except ClientError as error:
        found = str(error).removeprefix(f"Invalid value for 'x' at [{count}]: ")
    else:
        one = verdict(type_name, "1")
        assert isinstance(one, bytes)
        assert request.form("x")[0] == (count + 2,), body
        found = ctypes.string_at(request.content("x")[0], (count + 2) * len(one))
        if isinstance(reference, bytes):
            reference = one * count + reference * 2
    assert found == reference, body


STARTS = [0, *range(2, 70)]


@pytest.mark.parametrize("type_name", ["float32", "int64"])
def test_numbers_of_every_length_at_every_distance(type_name: str) -> None:
    """Each number at every start and at every end, and some at every pair of both."""
    pool = Pool()
    for number, text in enumerate(lengths()):
        for start in STARTS:
            for end in range((number + start) % 8, 92, 8):
                check_at(type_name, text, start, end, pool)


@pytest.mark.parametrize("type_name", ["float64", "float16", "bfloat16", "uint8", "bool"])
def test_numbers_of_every_length_at_many_distances(type_name: str) -> None:
    pool = Pool()
    random = Random(0)
    for text in lengths():
        for start in STARTS:
            for end in random.sample(range(92), 2):
                check_at(type_name, text, start, end, pool)


@pytest.mark.parametrize("type_name", ["float32", "float64", "int32"])
def test_numbers_of_mixed_lengths_in_long_lists(type_name: str) -> None:
    random = Random(1)
    kinds = [text for text in lengths() if isinstance(verdict(type_name, text), bytes)]
    one = [an_input(type_name, "n")]
    for _ in range(fewer(300)):
        texts = random.choices(kinds, k=random.randint(1, 300))
        commas = random.choice([[","], [", "], [",", ", "], [",", ", ", " ,", ",\n", ",  "]])
        body = texts[0] + "".join(random.choice(commas) + text for text in texts[1:])
        outcome = read(f'{{"x":[{body}]}}'.encode(), one)
        assert elements(outcome) == [verdict(type_name, text) for text in texts]


def test_what_a_block_may_end_in() -> None:
    """Separators at every offset around the end of a 64-byte block."""
    one = [an_input("float64", "n")]
    separators = [",", ", ", " ,", ",  ", " , ", ",\n", "\t, ", ",,", ", ,", "", ";", "]", "],["]
    for size in range(50, 80):
        for separator in separators:
            body = f'{{"x":[{"1," * (size // 2)}{"25"[size % 2 :]}{separator}0.5,1]}}{" " * 200}'
            assert read(body.encode(), one) == expected(body.encode(), one), body


# Many numbers.


def exact_text(value: Fraction) -> tuple[str, int]:
    """The decimal digits and exponent of a fraction whose denominator is a power of two."""
    twos = value.denominator.bit_length() - 1
    assert value.denominator == 1 << twos
    return str(value.numerator * 5**twos), -twos


def near_ties(random: Random, type_name: str) -> Iterator[str]:
    """The midpoint of two adjacent floats, and numbers just below and just above it."""
    target = FLOATS[type_name]
    # Of every magnitude, including subnormals and the largest.
    size = random.randint(1, target.infinity.bit_length())
    bits = random.choice([random.getrandbits(size), random.randrange(target.infinity)])
    bits = min(bits, target.infinity - 1)
    below = exact_value(bits, target)
    step = exact_value(1, target) if bits == 0 else below - exact_value(bits - 1, target)
    if bits + 1 < target.infinity:
        step = exact_value(bits + 1, target) - below
    digits, exponent = exact_text(below + step / 2)
    negative = random.random() < 0.3
    for change in (-1, 0, 1):
        zeros = random.choice([1, 3, 20, 40])
        changed = str(int(digits) * 10**zeros + change)
        yield spell(random, negative, changed, exponent - zeros)
    # Cut to a usual number of digits, which is only near the midpoint.
    cut = random.choice([9, 16, 17, 18, 19, 20])
    if len(digits) > cut:
        yield spell(random, negative, digits[:cut], exponent + len(digits) - cut)


@pytest.mark.parametrize("type_name", FLOAT_TYPES)
def test_ties_and_their_neighbours(type_name: str) -> None:
    random = Random(2)
    for _ in range(fewer(150)):
        for text in near_ties(random, type_name):
            check_number(type_name, text)


@pytest.mark.parametrize("type_name", FLOAT_TYPES)
def test_the_shortest_texts_of_all_float16(type_name: str) -> None:
    texts = [repr(struct.unpack("<e", struct.pack("<H", bits))[0]) for bits in range(0x7C00)]
    body = f'{{"x":[{",".join(texts)}]}}'.encode()
    codes = {"float16": "<e", "float32": "<f", "float64": "<d"}
    found = elements(read(body, [an_input(type_name, "n")]))
    if type_name in codes:
        assert found == [struct.pack(codes[type_name], float(text)) for text in texts]
    else:
        assert found == [verdict(type_name, text) for text in texts]


@pytest.mark.parametrize("type_name", FLOAT_TYPES)
def test_decimals_of_every_length(type_name: str) -> None:
    random = Random(3)
    for size in (*range(1, 45), 100, 300, 767, 768, 769, 800, 2000):
        for _ in range(3):
            digits = str(random.randrange(10 ** (size - 1), 10**size))
            exponent = random.choice([0, -size, random.randint(-400, 400), 5 - size, -30 - size])
            check_number(type_name, spell(random, random.random() < 0.5, digits, exponent))


@pytest.mark.parametrize("type_name", [*INTEGER_TYPES, "bool"])
def test_integers_at_their_edges_in_many_spellings(type_name: str) -> None:
    random = Random(4)
    low, high = INTEGERS.get(type_name, (0, 1))
    values = [low - 1, low, low + 1, -1, 0, 1, high - 1, high, high + 1, 10 * high, low * 10 - 1]
    values += [random.randint(low, high) for _ in range(10)]
    for value in values:
        fits = low <= value <= high
        for _ in range(6):
            reference = check_number(type_name, spell_integer(random, value))
            assert isinstance(reference, bytes) == fits
        # A slightly larger magnitude is not an integer.
        for _ in range(2):
            zeros = random.choice([1, 2, 19, 30])
            digits = str(abs(value) * 10**zeros + random.choice([1, 5, 9]))
            reference = check_number(type_name, spell(random, value < 0, digits, -zeros))
            assert isinstance(reference, str)


@given(
    st.sampled_from(TYPES),
    st.booleans(),
    st.text("0123456789", min_size=1, max_size=30),
    st.integers(-40, 40),
    st.randoms(use_true_random=False),
)
@settings(max_examples=fewer(300))
def test_any_decimal(
    type_name: str, negative: bool, digits: str, exponent: int, random: object
) -> None:
    assert isinstance(random, Random)
    check_number(type_name, spell(random, negative, digits, exponent))


@given(st.sampled_from(TYPES), st.text("0123456789.eE+-", min_size=1, max_size=25))
@settings(max_examples=fewer(300))
def test_anything_that_looks_like_a_number(type_name: str, text: str) -> None:
    if text[0] in "-0123456789":
        body = f'{{"x":[1,{text},{text}]}}'.encode()
        for end in (b"", b" " * 99):
            one = [an_input(type_name)]
            assert read(body + end, one) == expected(body + end, one)


def test_lists_of_any_numbers_in_any_spelling() -> None:
    random = Random(5)
    for type_name in TYPES:
        for _ in range(20):
            texts = [some_number(random, type_name) for _ in range(random.randint(1, 100))]
            body = f'{{"x":[{",".join(texts)}]}}'.encode()
            one = [an_input(type_name, "n")]
            assert read(body, one) == expected(body, one)


def some_number(random: Random, type_name: str) -> str:
    if type_name in INTEGERS or type_name == "bool":
        low, high = INTEGERS.get(type_name, (0, 1))
        return spell_integer(random, random.randint(low, high))
    digits = str(random.randrange(10 ** random.randint(1, 22)))
    return spell(random, random.random() < 0.5, digits, random.randint(-30, 4) - len(digits))
