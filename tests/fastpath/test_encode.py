"""The native writer: shortest number texts, the layout of responses, memory and threads."""

import json
import math
import struct
import sys
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from threading import Barrier

import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpux._engine import Pipeline
from gpux._fastpath import InputTable, Pool
from gpux.tensors.memory import Tensor
from gpux.tensors.outputs import encode
from gpux.tensors.signature import BY_NAME, ELEMENT_TYPES
from tests.support import oracle
from tests.support.sanitizer import fewer
from tests.support.walk_cases import Array, check_references, run_in_subprocess

TYPE_NAMES = [element.name for element in ELEMENT_TYPES if element.nbytes > 0]
# NumPy's unsigned types for the bits of an element, by its size in bytes.
BITS = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}


def as_bits(type_name: str, bits: Sequence[int] | Array) -> Array:
    """An array of elements from their bits."""
    return numpy.asarray(bits, BITS[BY_NAME[type_name].nbytes])


def tensor_of(type_name: str, bits: Array, shape: tuple[int, ...] | None = None) -> Tensor:
    """A tensor in an array's memory, given the bits of its elements."""
    bits = numpy.ascontiguousarray(bits)
    if shape is None:
        shape = bits.shape
    return Tensor(BY_NAME[type_name], shape, int(bits.ctypes.data), bits)


def text_of(type_name: str, bits: Array, shape: tuple[int, ...] | None = None) -> str:
    """The JSON text of a tensor, given the bits of its elements."""
    response = encode({"y": tensor_of(type_name, bits, shape)})
    prefix, suffix = b'{"y":', b"}"
    assert response.startswith(prefix)
    assert response.endswith(suffix)
    return response[len(prefix) : -len(suffix)].decode("ascii")


def texts_of(type_name: str, bits: Sequence[int] | Array) -> list[str]:
    """The JSON text of each element."""
    text = text_of(type_name, as_bits(type_name, bits))
    assert (text[0], text[-1]) == ("[", "]")
    return text[1:-1].split(",")


def read_back(type_name: str, texts: Sequence[str]) -> list[int | None]:
    """The bits that a client gets: `float(text)`, then rounded to the type; None for null."""
    target = oracle.FLOATS[type_name]
    bits: list[int | None] = []
    for text in texts:
        if text == "null":
            bits.append(None)
            continue
        value = float(text)
        in_float64 = int.from_bytes(struct.pack("<d", abs(value)), "little")
        exact = oracle.exact_value(in_float64, oracle.FLOATS["float64"])
        magnitude = oracle.round_to_bits(exact, target)
        bits.append(magnitude | (target.sign if math.copysign(1, value) < 0 else 0))
    return bits


# All 16-bit floats.


@pytest.mark.parametrize("type_name", ["float16", "bfloat16"])
def test_each_of_all_16_bit_floats_is_the_shortest_text_that_reads_back(type_name: str) -> None:
    target = oracle.FLOATS[type_name]
    texts = texts_of(type_name, range(2**16))
    positive = [oracle.encode_number(bits, type_name) for bits in range(target.sign)]
    negative = [text if text == "null" else "-" + text for text in positive]
    wrong = {
        hex(bits): (text, expected)
        for bits, (text, expected) in enumerate(zip(texts, positive + negative, strict=True))
        if text != expected
    }
    assert wrong == {}


@pytest.mark.parametrize("type_name", ["float16", "bfloat16"])
def test_each_of_all_16_bit_floats_reads_back_to_its_bits(type_name: str) -> None:
    target = oracle.FLOATS[type_name]
    finite = [bits for bits in range(2**16) if bits & (target.sign - 1) < target.infinity]
    assert read_back(type_name, texts_of(type_name, finite)) == finite


def test_each_of_all_float16_has_the_digits_that_numpy_finds() -> None:
    values = numpy.arange(2**16, dtype="u2").view("f2")
    finite = values[numpy.isfinite(values)]
    texts = texts_of("float16", finite.view("u2"))
    for value, text in zip(finite, texts, strict=True):
        assert as_scientific(text) == numpy.format_float_scientific(value, unique=True, trim="-")


def as_scientific(text: str) -> str:
    """Converts a number's text to NumPy's scientific notation, digit by digit."""
    sign, text = ("-", text[1:]) if text.startswith("-") else ("", text)
    number, _, power = text.partition("e")
    whole, _, fraction = number.partition(".")
    exponent = int(power or 0) + len(whole) - 1
    digits = whole + fraction
    leading = len(digits) - len(digits.lstrip("0"))
    digits = digits.strip("0")
    if digits == "":
        return f"{sign}0e+00"
    exponent -= leading
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02}"


# Floats of 32 and 64 bits.

EDGES_OF_FLOAT64 = [
    *(sign * 10.0**power for power in range(-30, 31) for sign in (1, -1)),
    *(sign * 2.0**power for power in range(-1074, 1024) for sign in (1, -1)),
    *(math.nextafter(10.0**power, towards) for power in range(-6, 19) for towards in (0, 1e300)),
    *(0.1, 0.2, 0.3, 0.1 + 0.2, 1 / 3, 2 / 3, 123456789012345.6, 1234567890123456.7, 5e-324),
    *(9007199254740991.0, 9007199254740993.0, 9999999999999998.0, 1e16 - 2, 1e22, 1e23),
    *(1.7976931348623157e308, 2.2250738585072014e-308, 2.225073858507201e-308, 4.35, 0.5, 1e-7),
]


def bits_of_float64(values: Sequence[float]) -> Array:
    return numpy.asarray(values, "f8").view("u8")


def test_an_edge_of_float64_is_written_as_by_repr() -> None:
    texts = texts_of("float64", bits_of_float64(EDGES_OF_FLOAT64))
    assert texts == [repr(value) for value in EDGES_OF_FLOAT64]


@settings(max_examples=fewer(150))
@given(
    st.lists(
        st.one_of(
            st.integers(0, 2**64 - 1),
            st.floats().map(lambda value: int(bits_of_float64([value])[0])),
        ),
        min_size=1,
        max_size=100,
    )
)
def test_any_float64_is_written_as_by_repr(bits: list[int]) -> None:
    values = as_bits("float64", bits).view("f8").tolist()
    expected = [repr(value) if math.isfinite(value) else "null" for value in values]
    assert texts_of("float64", bits) == expected


def edges_of_float32() -> Array:
    """Bits around each power of two and of ten, and at the ends of the range."""
    powers = numpy.arange(-149, 128, dtype="f8")
    values = numpy.concatenate([2.0**powers, 10.0 ** numpy.arange(-45, 39)]).astype("f4").view("u4")
    around = numpy.concatenate([values - 1, values, values + 1])
    ends = numpy.array([0, 1, 2, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x3DCCCCCD, 0x4B800000], "u4")
    positive = numpy.concatenate([around[around < 0x7F800000], ends])
    return numpy.concatenate([positive, positive | 0x80000000])


def test_an_edge_of_float32_is_the_shortest_text_that_reads_back() -> None:
    bits = edges_of_float32()
    assert texts_of("float32", bits) == [oracle.encode_number(int(one), "float32") for one in bits]


@settings(max_examples=fewer(150))
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
@example([0x7F800000, 0xFF800000, 0x7FC00000, 0xFFFFFFFF, 0x7F800001])
def test_any_float32_is_the_shortest_text_that_reads_back(bits: list[int]) -> None:
    texts = texts_of("float32", bits)
    assert texts == [oracle.encode_number(one, "float32") for one in bits]
    for one, text in zip(as_bits("float32", bits).view("f4"), texts, strict=True):
        if text != "null":
            digits = numpy.format_float_scientific(one, unique=True, trim="-")
            assert as_scientific(text) == digits


@pytest.mark.parametrize(("type_name", "floats"), [("float32", "f4"), ("float64", "f8")])
def test_many_random_floats_read_back_to_their_bits(type_name: str, floats: str) -> None:
    seed = 20240229
    limits = numpy.iinfo(BITS[BY_NAME[type_name].nbytes])
    random = numpy.random.default_rng(seed)
    values = random.integers(0, limits.max, 100_000, limits.dtype, endpoint=True).view(floats)
    values = values[numpy.isfinite(values)]
    # The digits that distinguish neighbours are never cut.
    texts = texts_of(type_name, values.view(limits.dtype))
    again = numpy.array([float(text) for text in texts]).astype(floats)
    assert (again.view(limits.dtype) == values.view(limits.dtype)).all()


# The layout of one element.

LAYOUT: list[tuple[float, str]] = [
    (0.0, "0.0"),
    (-0.0, "-0.0"),
    (1.0, "1.0"),
    (-1.0, "-1.0"),
    (0.5, "0.5"),
    (10.0, "10.0"),
    (100.25, "100.25"),
    (0.0001220703125, "0.0001220703125"),
    (0.00006103515625, "6.103515625e-05"),
    (2.0**50, "1125899906842624.0"),
    (2.0**54, "1.8014398509481984e+16"),
    (math.inf, "null"),
    (-math.inf, "null"),
    (math.nan, "null"),
]


@pytest.mark.parametrize(("value", "text"), LAYOUT)
def test_a_float64_is_laid_out_as_by_repr(value: float, text: str) -> None:
    assert texts_of("float64", bits_of_float64([value])) == [text]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1e15, "1000000000000000.0"),
        (9999999e9, "9999999000000000.0"),
        (1e16, "1e+16"),
        (1e-4, "0.0001"),
        (1e-5, "1e-05"),
        (1.5e-5, "1.5e-05"),
        (1e-45, "1e-45"),
        (3.4028234663852886e38, "3.4028235e+38"),
        (-3.4028234663852886e38, "-3.4028235e+38"),
        (16777216.0, "16777216.0"),
        (1 / 3, "0.33333334"),
        (-0.0, "-0.0"),
        (math.nan, "null"),
    ],
)
def test_a_float32_is_short_in_its_own_type(value: float, text: str) -> None:
    assert texts_of("float32", numpy.array([value], "f4").view("u4")) == [text]


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0x0000, "0.0"),
        (0x8000, "-0.0"),
        (0x3C00, "1.0"),
        (0x2E66, "0.1"),
        (0x7BFF, "65500.0"),
        (0x0001, "6e-08"),
        (0x2400, "0.01563"),  # 2**-6, below which the spacing halves
        (0x78EE, "40400.0"),  # midway to the next one, and read as the even one
        (0x7C00, "null"),
        (0xFC00, "null"),
        (0x7E00, "null"),
    ],
)
def test_a_float16_is_short_in_its_own_type(bits: int, text: str) -> None:
    assert texts_of("float16", [bits]) == [text]


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0x8000, "-0.0"),
        (0x3F80, "1.0"),
        (0x3DCD, "0.1"),
        (0x7F7F, "3.39e+38"),
        (0x0001, "9e-41"),
        (0x5F80, "1.85e+19"),  # 2**64
        (0x7F80, "null"),
        (0xFFFF, "null"),
    ],
)
def test_a_bfloat16_is_short_in_its_own_type(bits: int, text: str) -> None:
    assert texts_of("bfloat16", [bits]) == [text]


@pytest.mark.parametrize("type_name", oracle.INTEGERS)
def test_an_integer_is_written_in_full(type_name: str) -> None:
    low, high = oracle.INTEGERS[type_name]
    values = sorted(
        {low, low + 1, high - 1, high, 0, 1, 9, 10}
        | {sign * (10**power + step) for power in range(20) for step in (-1, 0) for sign in (1, -1)}
    )
    values = [value for value in values if low <= value <= high]
    width = 2 ** (8 * BY_NAME[type_name].nbytes)
    bits = [value % width for value in values]
    assert texts_of(type_name, bits) == [str(value) for value in values]
    assert [oracle.encode_number(one, type_name) for one in bits] == [str(v) for v in values]


def test_each_of_all_16_bit_integers_is_written_in_full() -> None:
    assert texts_of("int16", range(2**16)) == [str(n - 2**16 * (n >= 2**15)) for n in range(2**16)]
    assert texts_of("uint16", range(2**16)) == [str(n) for n in range(2**16)]


@settings(max_examples=fewer(150))
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 63)), max_size=200))
def test_any_64_bit_integer_is_written_in_full(numbers: list[tuple[int, int]]) -> None:
    bits = [number >> shift for number, shift in numbers]
    values = as_bits("uint64", bits)
    assert text_of("uint64", values) == json.dumps(values.tolist(), separators=(",", ":"))
    signed = values.view("i8") * numpy.array([1, -1])[values % 2]
    text = text_of("int64", signed.view("u8"))
    assert text == json.dumps(signed.tolist(), separators=(",", ":"))


def test_a_boolean_is_true_or_false_whatever_its_byte_is() -> None:
    assert texts_of("bool", [0, 1]) == ["false", "true"]
    assert texts_of("bool", range(2, 256)) == ["true"] * 254


# Blocks: the writer converts many elements at a time, and some of them separately.


def examples(type_name: str) -> list[int]:
    """Bits of elements that take different paths in the writer."""
    if type_name in oracle.FLOATS:
        target = oracle.FLOATS[type_name]
        one, ulp = oracle.round_to_bits(Fraction(1), target), 1
        positive = [0, 1, one, one + 3 * ulp, 2 * one - 1, one // 2, target.infinity - 1]
        negative = [bits | target.sign for bits in positive]
        return [*positive, target.infinity, target.infinity + 1, *negative]
    if type_name == "bool":
        return [0, 1]
    low, high = oracle.INTEGERS[type_name]
    numbers = [0, 7, -8, 123, -120, 2**19 - 1, 2**19, -(10**6), 10**8, 10**16 - 1, 10**16]
    numbers += [low, high]
    return [number % (high - low + 1) for number in numbers if low <= number <= high]


@pytest.mark.parametrize("type_name", TYPE_NAMES)
def test_an_element_is_written_alike_wherever_it_stands(type_name: str) -> None:
    usual, *others = reversed(examples(type_name))
    expected = {one: oracle.encode_number(one, type_name) for one in (usual, *others)}
    for other in others:
        for index in (*range(70), 127, 128, 129):
            for rest in (0, 1, 31, 64):
                bits = [usual] * index + [other] + [usual] * rest
                assert texts_of(type_name, bits) == [expected[one] for one in bits]


@pytest.mark.parametrize("type_name", TYPE_NAMES)
@pytest.mark.parametrize("columns", [1, 2, 5, 31, 32, 33, 63, 64, 65, 100])
def test_rows_may_end_anywhere_in_a_block(type_name: str, columns: int) -> None:
    some = examples(type_name)
    expected = {one: oracle.encode_number(one, type_name) for one in some}
    bits = [some[index * index % len(some)] for index in range(7 * columns)]
    text = text_of(type_name, as_bits(type_name, bits), (7, columns))
    assert text == oracle.encode_tensor((7, columns), [expected[one] for one in bits])


@pytest.mark.parametrize("type_name", TYPE_NAMES)
def test_a_tensor_need_not_be_aligned(type_name: str) -> None:
    elements = as_bits(type_name, [1] * 100)
    memory = numpy.zeros(elements.nbytes + 8, "u1")
    expected = text_of(type_name, elements)
    for start in range(8):
        memory[start : start + elements.nbytes] = elements.view("u1")
        address = int(memory.ctypes.data) + start
        tensor = Tensor(BY_NAME[type_name], (100,), address, memory)
        assert encode({"y": tensor}).decode() == f'{{"y":{expected}}}'


# Nesting.

SHAPES: list[tuple[int, ...]] = [
    *((), (1,), (3,), (2, 3), (3, 1, 2), (1, 1, 1, 1), (2, 2, 2, 2, 2), (0,), (0, 3), (3, 0)),
    *((2, 0, 3), (0, 0), (2, 3, 0), (1,) * 31, (1,) * 32, (2,) + (1,) * 30 + (2,)),
    (1,) * 30 + (2, 0),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("type_name", TYPE_NAMES)
def test_a_tensor_is_nested_by_its_shape(type_name: str, shape: tuple[int, ...]) -> None:
    count = math.prod(shape)
    bits = as_bits(type_name, [index % 2 for index in range(count)])
    texts = [oracle.encode_number(int(one), type_name) for one in bits]
    assert text_of(type_name, bits, shape) == oracle.encode_tensor(shape, texts)


no_surrogates = st.characters(exclude_categories=["Cs"])


@settings(max_examples=fewer(200))
@given(st.lists(st.integers(0, 4), max_size=5), st.data())
def test_an_answer_is_what_numpy_and_json_make_of_it(shape: list[int], data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text(no_surrogates, max_size=5), max_size=4, unique=True))
    arrays: dict[str, Array] = {}
    for name in names:
        element = data.draw(st.sampled_from([one for one in ELEMENT_TYPES if one.numpy]))
        numbers = [data.draw(st.integers(0, 1)) for _ in range(4)]
        arrays[name] = numpy.resize(numpy.array(numbers, element.numpy), shape)
    response = encode(
        {
            name: tensor_of(array.dtype.name, array.view(BITS[array.itemsize]), array.shape)
            for name, array in arrays.items()
        }
    )
    assert json.loads(response) == {name: array.tolist() for name, array in arrays.items()}
    assert list(json.loads(response)) == names
    # No spaces, and nothing after the object.
    parts = [
        f"{json.dumps(name, ensure_ascii=False)}:{reference_text(array)}"
        for name, array in arrays.items()
    ]
    assert response.decode() == "{" + ",".join(parts) + "}"


def reference_text(tensor: Array) -> str:
    """A NumPy array as the reference encodes it."""
    bits = tensor.view(BITS[tensor.itemsize]).ravel().tolist()
    texts = [oracle.encode_number(one, tensor.dtype.name) for one in bits]
    return oracle.encode_tensor(tensor.shape, texts)


def test_outputs_stand_in_the_order_of_the_responses() -> None:
    tensors = [
        tensor_of("int64", numpy.array([[1, 2], [3, 4]], "u8")),
        tensor_of("bool", numpy.array([1], "u1"), ()),
    ]
    responses = [("b", 0, None, 0), ('ä"\u2028', 1, None, 0), ("a", 0, None, 0)]
    pipeline = Pipeline(None, InputTable([], []), [], ["one", "two"], responses, Pool())
    body = pipeline.outputs(tensors, 0.0).encode(False)
    assert body.decode() == '{"b":[[1,2],[3,4]],"ä\\"\u2028":true,"a":[[1,2],[3,4]]}'


def test_an_answer_without_members_is_an_empty_object() -> None:
    assert encode({}) == b"{}"


# Outputs that cannot be encoded.


@pytest.mark.parametrize(
    ("type_name", "shape", "error"),
    [
        ("string", (1,), ValueError),
        ("float32", (1,) * 33, ValueError),
        ("float32", (2**62,), MemoryError),
        ("float32", (2**32, 2**32), MemoryError),
        ("float32", (2**63 - 1,) * 32, MemoryError),
        ("float32", (2**58,), MemoryError),
        ("float32", (2**64,), OverflowError),
        ("float32", (-1,), MemoryError),
    ],
    ids=repr,
)
def test_what_cannot_be_written_is_an_error_before_memory_is_read(
    type_name: str, shape: tuple[int, ...], error: type[Exception]
) -> None:
    good = tensor_of("float32", numpy.ones(3, "u4"))
    bad = Tensor(BY_NAME[type_name], shape, 0, None)
    for tensors in ({"y": bad}, {"x": good, "y": bad}):
        with pytest.raises(error):
            encode(tensors)


# Memory: the buffer has the largest size that the response can have.


LONGEST = {
    "float64": [-2.2250738585072014e-308, -1.7976931348623157e308, -1.2345678901234567e-100],
    "float32": [-1e15, -9.9999999e14, -1.17549435e-38, -3.4028235e38, -0.00012345678],
}


def longest(type_name: str) -> list[int]:
    """Bits of a type's elements with the longest texts."""
    if type_name in LONGEST:
        target = oracle.FLOATS[type_name]
        return [
            oracle.round_to_bits(abs(Fraction(value)), target) | target.sign
            for value in LONGEST[type_name]
        ]
    if type_name in oracle.FLOATS:
        texts = texts_of(type_name, range(2**16))
        return [max(range(2**16), key=lambda bits: len(texts[bits]))]
    if type_name == "bool":
        return [0]
    low, high = oracle.INTEGERS[type_name]
    return [low % (2 * high + 2) if low < 0 else high]


def responses_of_the_largest_size() -> None:
    """Each response fills its buffer as far as possible; free() detects an overrun."""
    shapes: list[tuple[int, ...]] = [
        *((), (1,), (2,), (1, 1), (3, 1), (1, 3), (7, 5), (1,) * 32, (2,) * 8, (0,), (5, 0)),
        *((9, 0, 2), (1000,), (1000, 1), (1, 1000), (20_000,), (20_000, 1), (3,) + (1,) * 20),
    ]
    for type_name in TYPE_NAMES:
        for one in longest(type_name):
            for shape in shapes:
                count = math.prod(shape)
                bits = as_bits(type_name, [one] * count)
                texts = [oracle.encode_number(one, type_name)] * count
                expected = oracle.encode_tensor(shape, texts)
                assert text_of(type_name, bits, shape) == expected
                tensor = tensor_of(type_name, bits, shape)
                for outputs in ("xy", "vwxyz"):
                    response = encode(dict.fromkeys(outputs, tensor))
                    texts = [f'"{name}":{expected}' for name in outputs]
                    assert response.decode() == "{" + ",".join(texts) + "}"


def test_no_answer_is_larger_than_its_memory() -> None:
    run_in_subprocess(responses_of_the_largest_size)


@pytest.mark.parametrize("count", [3, 300, 40_000])
def test_an_answer_leaves_all_reference_counts_as_they_were(count: int) -> None:
    """Short responses are written on the stack, long ones where they stay."""
    tensor = tensor_of("float32", numpy.arange(count, dtype="u4"))
    strings = Tensor(BY_NAME["string"], tensor.shape, tensor.address, tensor.owner)
    tensors = {"a name of its own": tensor, "another": tensor}
    counted = [tensor, tensor.owner, strings, tensors, *tensors]

    def once() -> None:
        response = encode(tensors)
        assert sys.getrefcount(response) == 2
        with pytest.raises(ValueError, match="not a tensor of numbers"):
            encode({**tensors, "bad": strings})

    check_references(once, counted, rounds=100 if count < 1000 else 10)


def test_outputs_keep_their_tensors() -> None:
    tensor = tensor_of("int8", numpy.ones(3, "u1"))
    memory = weakref.ref(tensor)
    pipeline = Pipeline(None, InputTable([], []), [], ["y"], [("y", 0, None, 0)], Pool())
    outputs = pipeline.outputs([tensor], 0.0)
    del tensor
    parts = [outputs.part(0, 1), outputs.part(1, 2)]
    del outputs
    assert memory() is not None
    assert [part.encode(False) for part in parts] == [b'{"y":[1]}', b'{"y":[1,1]}']
    del parts
    assert memory() is None


# Threads.


@pytest.mark.usefixtures("eager_threads")
def test_eight_threads_at_once_write_the_same_answers() -> None:
    tensors = {name: as_bits(name, range(100)) for name in TYPE_NAMES}
    expected = {
        name: [oracle.encode_number(int(one), name) for one in bits]
        for name, bits in tensors.items()
    }
    start = Barrier(8)

    def work(thread: int) -> int:
        start.wait(timeout=30)
        written = 0
        for turn in range(300):
            name = TYPE_NAMES[(turn + thread) % len(TYPE_NAMES)]
            assert texts_of(name, tensors[name]) == expected[name]
            written += 1
        return written

    with ThreadPoolExecutor(8) as executor:
        # Raises the error of a thread.
        assert list(executor.map(work, range(8))) == [300] * 8
