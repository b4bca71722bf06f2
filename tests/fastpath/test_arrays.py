"""walk(): arrays and other buffers convert like the equal nested lists."""

import array
import ctypes
import math
from itertools import cycle
from typing import Any

import ml_dtypes
import numpy
import pytest

from gpux._fastpath import InputSpec, walk
from gpux.errors import ClientError
from gpux.tensors.signature import Dim
from tests.support import oracle
from tests.support.walk_cases import (
    LAYOUTS,
    NUMBER_TYPES,
    TYPE_NAMES,
    Array,
    GuardedPool,
    Refusal,
    callback_array,
    check,
    expected,
    refused,
    run_in_subprocess,
    spec,
    walked,
)

NATIVE = ["?", "b", "h", "i", "l", "q", "B", "H", "I", "L", "Q", "e", "f", "d"]
FOREIGN = [
    *(">h", ">i", ">q", ">H", ">I", ">Q", ">e", ">f", ">d"),
    *("U3", "S3", "O", "F", "D", "g", "G"),
]


def sample(dtype: str) -> Array:
    """Six values that nearly all types accept, and six extreme ones."""
    kind = numpy.dtype(dtype).kind
    small = numpy.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    extreme: list[Any] = [0, 1, 2, 3, 4, 5]
    if kind in "iu":
        limits = numpy.iinfo(dtype)
        extreme = [limits.min, limits.max, 0, 1, limits.max // 2, limits.max - 1]
    elif kind == "f":
        extreme = [0.5, -0.0, 1e-7, 65504, numpy.finfo(dtype).max, numpy.finfo(dtype).tiny]
    elif kind == "O":
        extreme = [1, 2.5, 2**70, True, "text", None]
    return numpy.concatenate([small, numpy.array(extreme, numpy.dtype(dtype)).reshape(2, 3)])


ARRAY_DIMS: list[tuple[Dim, ...]] = [
    (),
    ("n", 3),
    ("n", None),
    (1, None, 3),
    (4, 3),
    (3, "n"),
    ("n",),
]


@pytest.mark.parametrize("type_name", TYPE_NAMES)
@pytest.mark.parametrize("dtype", NATIVE + FOREIGN)
def test_an_array_is_the_equal_nested_list(dtype: str, type_name: str) -> None:
    whole = sample(dtype)
    for values in (whole, whole[:2], whole[0], whole[2, 1:2], whole[0, 0, ...]):
        for dims, layout in zip(ARRAY_DIMS, cycle(LAYOUTS), strict=False):
            declared = spec(type_name, *dims)
            laid_out = layout(values)
            assert check(declared, laid_out) == walked(declared, laid_out.tolist())
            if laid_out.ndim > 0:
                check(declared, [laid_out, laid_out])
                check(declared, list(laid_out))


@pytest.mark.parametrize("dtype", ["f", "i", "?", ">f", "U3", "O"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3), (0, 0), (2, 3, 0), (0, 2, 3)])
def test_an_array_without_elements_still_has_its_axes(shape: tuple[int, ...], dtype: str) -> None:
    empty = numpy.zeros(shape, dtype)
    type_name = "string" if dtype == "U3" else "float32" if dtype != "?" else "bool"
    three: list[tuple[Dim, ...]] = [("n", "m", 3), ("n", "m", "k"), (1, "m", 3), (2, "m", 3)]
    for dims in ((), ("n", "m"), ("n", 3), *three):
        check(spec(type_name, *dims), empty)
    outcome = walked(spec(type_name), empty)
    assert outcome == oracle.Converted(shape, [], False, False)
    rows = walked(spec(type_name, "n", *[None] * len(shape)), [empty, empty])
    assert rows == oracle.Converted((2, *shape), [], False, False)


@pytest.mark.parametrize(
    "item",
    [
        *(1, 2.5, True, "text", None, [1, 2]),
        *(numpy.float64(2.5), numpy.str_("text"), numpy.float32(2.5)),
    ],
    ids=repr,
)
def test_an_array_of_objects_without_axes_is_its_object(item: object) -> None:
    without_axes = numpy.empty((), object)
    without_axes[()] = item
    with_one = numpy.empty(1, object)
    with_one[0] = item
    for type_name in TYPE_NAMES:
        for dims in ARRAY_DIMS:
            declared = spec(type_name, *dims)
            assert check(declared, without_axes) == walked(declared, item)
            assert check(declared, [without_axes]) == walked(declared, [item])
            assert check(declared, with_one) == walked(declared, [item])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_a_row_of_the_input_s_own_type_is_copied_whatever_its_floats_are(dtype: str) -> None:
    largest = numpy.finfo(dtype).max
    edges = [largest, -largest, numpy.finfo(dtype).tiny, numpy.finfo(dtype).smallest_subnormal]
    declared = spec(numpy.dtype(dtype).name, "n")
    for size in (*range(1, 10), 16, 17, 33, 255, 257):
        good = numpy.resize(numpy.array([*edges, 0.0, -0.0, 1.5], dtype), size)
        outcome = check(declared, good)
        assert isinstance(outcome, oracle.Converted)
        for bad in (math.nan, -math.nan, math.inf, -math.inf):
            for index in {0, size // 2, size - 1}:
                values = good.copy()
                values[index] = bad
                check(declared, values)
                check(spec(numpy.dtype(dtype).name, "n", "m"), [good, values])
                # At indexes before, at and after the model's fixed size.
                for fixed in {index, index + 1, size - 1, size}:
                    check(spec(numpy.dtype(dtype).name, fixed), values)


def test_a_row_of_booleans_is_copied_whatever_its_bytes_are() -> None:
    for size in (*range(1, 20), 31, 33, 64, 257, 600):
        row = (numpy.arange(size) % 2).astype("u1")
        check(spec("bool", "n"), row.view("?"))
        for true in (2, 128, 254, 255):
            for index in {0, size // 2, size - 1}:
                values = row.copy()
                values[index] = true
                check(spec("bool", "n"), values.view("?"))
                check(spec("bool", size - 1), values.view("?"))
                check(spec("bool", "n", "m"), [row.view("?"), values.view("?")])
    # Arrays in the position of a boolean, and the reverse.
    for declared in (spec("bool", "n"), spec("bool"), spec("bool", "n", 2)):
        for value in ([True, row.view("?")], [[True], row.view("?")[0]], row.view("?")[0, ...]):
            check(declared, value)


@pytest.mark.parametrize("dtype", [*NATIVE[1:11], *NATIVE[11:]])
def test_an_array_of_the_input_s_own_type_fits_bit_by_bit(dtype: str) -> None:
    size = numpy.dtype(dtype).itemsize
    memory = numpy.random.default_rng(7).integers(0, 256, 6 * 7 * size, "u1")
    if numpy.dtype(dtype).kind == "f":
        memory[size - 1 :: size] &= 0x3F  # small enough to be finite
    values = memory.view(dtype).reshape(6, 7)
    name = numpy.dtype(dtype).name
    parts = [values[1:, 2:], values[::-2], values[:, ::-1], values[:, :1]]
    for laid_out in (values, values.T, *parts):
        for dims in ((), ("n", "m"), ("n", 7), (6, 7), (5, "m"), ("n", 5)):
            outcome = check(spec(name, *dims), laid_out)
            if isinstance(outcome, oracle.Converted):
                assert b"".join(map(bytes, outcome.elements)) == laid_out.tobytes()  # type: ignore[arg-type]


def test_an_array_may_lie_anywhere_in_memory() -> None:
    memory = bytes(range(1, 50))
    for offset in range(8):
        for dtype in ("<f8", "<i4", "<u2", "<f2"):
            unaligned = numpy.frombuffer(memory, dtype, 4, offset)
            check(spec("float64", "n"), unaligned)
    grid = numpy.arange(7 * 11 * 13, dtype="f4").reshape(7, 11, 13)
    for view in (
        grid[::-1, ::-2, ::3],
        grid.transpose(2, 0, 1),
        grid.T[3:5, ::-1],
        numpy.broadcast_to(grid[0, 0], (4, 2, 13)),
        numpy.lib.stride_tricks.sliding_window_view(grid[0], (3, 3))[::2, 0],
        grid[:, None, 0],
    ):
        outcome = check(spec("float32"), view)
        assert isinstance(outcome, oracle.Converted)
        elements = [element for element in outcome.elements if isinstance(element, bytes)]
        assert b"".join(elements) == view.tobytes()


def test_a_row_of_an_array_of_any_length_is_stored_whole() -> None:
    for size in (255, 256, 257, 511, 512, 513, 1000):
        values = numpy.arange(size, dtype="u2")
        check(spec("float16" if size < 512 else "int32", "n"), values)
        check(spec("float32", "n"), values[::-1])
        bad = values.astype("f8")
        bad[-1] = 0.5
        check(spec("uint16", "n"), bad)
        check(spec("uint16", size - 1), bad)


@pytest.mark.parametrize(
    ("buffer", "equal"),
    [
        (array.array("d", [1.5, 2.5]), [1.5, 2.5]),
        (array.array("b", [-1, 2]), [-1, 2]),
        (array.array("Q", [0, 2**64 - 1]), [0, 2**64 - 1]),
        (memoryview(b"\x01\x02\xff"), [1, 2, 255]),
        (memoryview(b"\x01\x02\x03\x04")[::-2], [4, 2]),
        (memoryview(bytes(range(6))).cast("B", (2, 3)), [[0, 1, 2], [3, 4, 5]]),
        (memoryview(b"\x01\x00").cast("?"), [True, False]),
        (memoryview(bytes(8)).cast("d", ()), 0.0),
        (memoryview(b"ab").cast("c"), [b"a", b"b"]),
        (numpy.ones((2, 2), "f2").T.data, [[1.0, 1.0], [1.0, 1.0]]),
    ],
)
def test_any_buffer_is_the_equal_nested_list(buffer: object, equal: object) -> None:
    for type_name in TYPE_NAMES:
        for dims in ARRAY_DIMS:
            declared = spec(type_name, *dims)
            assert walked(declared, buffer) == expected(declared, equal)
            assert walked(declared, [buffer, buffer]) == expected(declared, [equal, equal])


def buffers_without_strides() -> None:
    pair = ctypes.c_int64 * 2
    for buffer, equal in (
        ((ctypes.c_float * 3)(1, 2, 3), [1.0, 2.0, 3.0]),
        ((pair * 2)(pair(1, 2), pair(3, 4)), [[1, 2], [3, 4]]),
        ((ctypes.c_bool * 2)(True, False), [True, False]),
        (ctypes.c_double(1.5), 1.5),
    ):
        for type_name in TYPE_NAMES:
            declared = spec(type_name)
            assert walked(declared, buffer) == expected(declared, equal)
    assert isinstance(walked(spec("uint8", "n"), (ctypes.c_char * 2)(b"a", b"b")), Refusal)
    # NumPy exports the buffer of a date as bytes.
    for date in (numpy.datetime64("2020-01-01"), numpy.timedelta64(3, "s")):
        rows = [spec("uint8", "n"), spec("float32", "n", "m")]
        for declared in (*rows, spec("string"), spec("bool")):
            assert walked(declared, [date]) == expected(declared, [date])
            assert walked(declared, date) == expected(declared, date)


def test_a_buffer_without_strides_is_dense() -> None:
    run_in_subprocess(buffers_without_strides)


def test_more_axes_than_any_tensor_are_refused() -> None:
    ones = numpy.ones((1,) * 40)
    for dims in ((), ("n",), ("n", 1), ("n", 2, 2)):
        check(spec("float32", *dims), ones)
        check(spec("float32", *dims), [ones])
        check(spec("float32", *dims), [1.0, ones])
        check(spec("float32", *dims), ones.astype(object))
    check(spec("float32"), numpy.ones((1,) * 32))
    check(spec("float32"), [numpy.ones((1,) * 32)])


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (numpy.array(["2020-01-01"], "M8[D]"), "ndarray"),
        (numpy.array([1], "m8[s]"), "ndarray"),
        (numpy.array([1], ml_dtypes.float8_e5m2), "ndarray"),
        (ml_dtypes.float8_e5m2(1), "float8_e5m2"),
        (numpy.longdouble(1), "longdouble"),
        (numpy.clongdouble(1), "clongdouble"),
    ],
    ids=repr,
)
def test_what_has_no_buffer_of_numbers_is_no_value(value: object, word: str) -> None:
    for type_name in NUMBER_TYPES:
        message = refused(walked(spec(type_name, "n"), value)).message
        assert message == "Invalid input type for 'x': expected number"
        outcome = walked(spec(type_name, "n", "m"), [[0, value]])
        assert isinstance(outcome, Refusal)
        problem = f"expected number, got {word}"
        assert outcome.message == f"Invalid value for 'x' at [0][1]: {problem}"


def test_a_memoryview_that_was_released_is_no_value() -> None:
    view = memoryview(b"ab")
    view.release()
    message = refused(walked(spec("uint8", "n"), [view])).message
    assert message == "Invalid value for 'x' at [0]: expected number, got memoryview"


def test_a_buffer_is_released_again() -> None:
    for value in ([1, 2, 3], [1, 2, 300]):
        memory = bytearray(bytes(value[:2]))
        numbers_of_16_bits = array.array("h", value)
        walked(spec("uint8", "n"), [memoryview(memory), numbers_of_16_bits])
        # Resizing raises BufferError while a buffer is exported.
        memory.append(1)
        numbers_of_16_bits.append(1)


def test_an_error_of_an_item_s_own_code_comes_through_as_itself() -> None:
    error = KeyError("its own")

    def fail() -> object:
        raise error

    for type_name in TYPE_NAMES:
        pool = GuardedPool()
        with pytest.raises(KeyError) as caught:
            walk(InputSpec(spec(type_name, "n")), [callback_array(fail)], pool)
        assert caught.value is error
        assert pool.in_use == []


def test_arrays_within_arrays_without_end_are_refused() -> None:
    inside_itself = numpy.empty((), object)
    inside_itself[()] = inside_itself
    pool = GuardedPool()
    with pytest.raises((RecursionError, ClientError)):
        walk(InputSpec(spec("float32")), inside_itself, pool)
    assert pool.in_use == []
    in_a_list = numpy.empty(1, object)
    in_a_list[0] = in_a_list
    assert refused(walked(spec("float32"), in_a_list)).message.endswith("got more than 32 axes")
