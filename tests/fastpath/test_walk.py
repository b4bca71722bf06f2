"""walk(): random values against the reference, and the rules of contract.md one by one."""

import array
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice, product
from typing import Any, cast

import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.exceptions import ComplexWarning

from gpux._fastpath import InputSpec, walk
from gpux.errors import (
    ClientError,
    EmptyBatchError,
    InvalidShapeError,
    InvalidTypeError,
    InvalidValueError,
)
from gpux.tensors.signature import BY_NAME, Dim, TensorSpec
from tests.support import oracle
from tests.support.sanitizer import fewer
from tests.support.walk_cases import (
    LAYOUTS,
    NUMBER_TYPES,
    TYPE_NAMES,
    Array,
    GuardedBlock,
    GuardedPool,
    Refusal,
    SubFloat,
    SubInt,
    SubList,
    SubStr,
    SubTuple,
    callback_array,
    check,
    expected,
    refused,
    spec,
    walked,
)

# Random inputs, with values that mostly fit them.

EDGE_INTEGERS = sorted(
    {
        sign * (2**power + step)
        for power in (0, 1, 7, 8, 11, 15, 16, 24, 31, 32, 53, 60, 63, 64, 128, 255, 256, 1024)
        for step in (-1, 0, 1)
        for sign in (-1, 1)
    }
    | {65503, 65504, 65519, 65520, 10**39, 10**100, 10**400, -(10**400)}
)
EDGE_FLOATS = [
    *(sign * 2.0**power for power in (-1074, -150, -149, -133, -25, -24, -1) for sign in (-1, 1)),
    *(2.0**power for power in (7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 1023)),
    *(-(2.0**power) for power in (7, 8, 15, 31, 63, 128)),
    *(0.0, -0.0, 0.1, 0.5, 1.0, 1.5, -1.0, 1e3, 1e300, 1.7976931348623157e308),
    *(65504.0, 65519.99, 65520.0, 3.4028234663852886e38, 3.4028235677973366e38, 3.39e38),
    *(1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-24),
    *(1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-24 + 2.0**-52),
    *(math.nan, math.inf, -math.inf),
]
numbers = st.one_of(
    st.sampled_from(EDGE_INTEGERS),
    st.sampled_from(EDGE_FLOATS),
    st.integers(-300, 300),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.floats(width=16, allow_nan=False, allow_infinity=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-(2**70), 2**70).map(SubInt),
    st.floats(width=16).map(SubFloat),
    st.floats(width=16).map(numpy.float64),
    st.floats(width=16).map(numpy.float32),
    st.floats(width=16).map(numpy.float16),
    st.integers(-128, 127).map(numpy.int8),
    st.integers(0, 2**64 - 1).map(numpy.uint64),
    st.sampled_from(EDGE_INTEGERS).map(SubInt),
)
texts = st.one_of(
    st.sampled_from(["", "a", "ä", "text\0text", "🙂", "x" * 40]),
    st.text(max_size=5),
    st.text(max_size=5).map(SubStr),
    st.sampled_from(["b", "ü"]).map(numpy.str_),
)
odd = st.one_of(
    numbers,
    texts,
    st.booleans(),
    st.sampled_from(
        [
            *(None, {}, {"a": 1}, b"bytes", bytearray(3), 1j, numpy.True_, numpy.complex64(1)),
            *(numpy.datetime64("2020-01-01"), "\ud800", "a\udfff", {1}, range(3), len),
        ]
    ),
    st.sampled_from([[], (), [[]], [[], []], [1], ["a"], [[1, 2], [3, 4]], [[1], [2, 3]], [None]]),
    st.sampled_from(
        [
            *(numpy.zeros(0), numpy.zeros((2, 0), "i4"), numpy.zeros((0, 3), "f4")),
            *(numpy.ones(2), numpy.ones((2, 2), "u1"), numpy.array(1.5), numpy.array(True)),
        ]
    ),
)


def fitting(type_name: str) -> st.SearchStrategy[object]:
    """Elements that a type accepts."""
    if type_name == "string":
        return texts
    if type_name == "bool":
        return st.sampled_from([True, False, 0, 1, 1.0, -0.0, numpy.True_, SubInt(1)])
    if type_name in oracle.INTEGERS:
        low, high = oracle.INTEGERS[type_name]
        integers = st.integers(low, high)
        exact = st.integers(max(low, -(2**53)), min(high, 2**53))
        return st.one_of(
            integers,
            st.sampled_from([low, high, 0]),
            exact.map(float),
            integers.map(SubInt),
            exact.map(float).map(SubFloat),
        )
    floats = st.floats(
        width=64 if type_name == "float64" else 32 if type_name == "float32" else 16,
        allow_nan=False,
        allow_infinity=False,
    )
    return st.one_of(floats, st.floats(-6e4, 6e4), st.integers(-65504, 65504), floats.map(SubFloat))


dims = st.one_of(
    st.none(), st.sampled_from(["batch", "n"]), st.integers(1, 3), st.integers(1, 3), st.just(0)
)


@st.composite
def specs(draw: st.DrawFn) -> TensorSpec:
    """Inputs of all types and kinds, of rank up to 5, with `batched` as in gpux.yml."""
    declared: list[Dim] = draw(
        st.one_of(
            st.lists(dims, max_size=5),
            st.lists(dims, min_size=1, max_size=2),
            st.sampled_from(
                [
                    *(["batch"], ["batch", 1], [None, 1], ["batch", 3], ["batch", "seq"]),
                    *(["batch", 2, None], [1, 2, 3], [2, 3], []),
                ]
            ),
        )
    )
    batched = draw(st.sampled_from([None, None, None, True, False])) if declared else None
    return spec(draw(st.sampled_from(TYPE_NAMES)), *declared, batched=batched)


def nested(shape: Sequence[int], elements: Iterator[object]) -> object:
    if len(shape) == 0:
        return next(elements)
    return [nested(shape[1:], elements) for _ in range(shape[0])]


@st.composite
def regular(draw: st.DrawFn, declared: TensorSpec) -> object:
    """Regular nested lists, most of them of a shape that the input accepts."""
    shape = [
        dim if isinstance(dim, int) else draw(st.sampled_from([2, 2, 3, 3, 1, 0]))
        for dim in declared.dims
    ]
    form = draw(st.sampled_from(["full", "full", "full", "item", "item", "flat", "any", "long"]))
    if form == "item":
        shape = shape[1:]
    elif form == "flat":
        shape = [draw(st.integers(0, 3))]
    elif form == "any":
        shape = draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
    elif form == "long":
        # More elements than the walk collects per call of the sink.
        axis = draw(st.integers(0, max(len(shape) - 1, 0)))
        sizes = [dim if isinstance(dim, int) else 1 for dim in declared.dims]
        shape = [*sizes[:axis], draw(st.integers(300, 700)), *sizes[axis + 1 :]]
    elements = draw(st.lists(fitting(declared.type.name), min_size=1, max_size=4))
    return nested(shape, cycle(elements))


Change = Callable[[Any], Any]


def changed(value: Any, path: Sequence[int], change: Change) -> Any:
    """A copy of nested lists with one node changed."""
    if len(path) == 0:
        return change(value)
    return [
        changed(child, path[1:], change) if index == path[0] else child
        for index, child in enumerate(value)
    ]


def shortened(node: Any) -> Any:
    return node[:-1] if isinstance(node, list) else node


def lengthened(node: Any) -> Any:
    return [*node, *node[:1]] if isinstance(node, list) else node


def unwrapped(node: Any) -> Any:
    return node[0] if isinstance(node, list) and node else node


def as_array(dtype: str | type | None, layout: Callable[[Array], Array]) -> Change:
    """Converts nested lists to an array, where NumPy can."""

    def change(node: Any) -> Any:
        try:
            with numpy.errstate(all="ignore"):
                return layout(numpy.asarray(node, dtype))
        except (ValueError, TypeError, OverflowError, AssertionError, ComplexWarning):
            return node

    return change


array_changes = st.builds(
    as_array,
    st.sampled_from([None, "f2", "f4", "f8", ">f4", ">i2", "i8", "u8", "u1", "?", "U", object]),
    st.sampled_from(LAYOUTS),
)
changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(lambda other: lambda _: other, odd),
    array_changes,
    st.sampled_from(
        [
            shortened,
            shortened,
            lengthened,
            lengthened,
            lambda node: [node],
            unwrapped,
            lambda node: SubList(node) if isinstance(node, list) else node,
            lambda node: tuple(node) if isinstance(node, list) else node,
            lambda node: SubTuple(node) if isinstance(node, list) else node,
        ]
    ),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[TensorSpec, object]:
    """An input and a value for it with up to three changes."""
    declared = draw(specs())
    value: Any = draw(regular(declared))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2, 3]))):
        path: list[int] = []
        node = value
        while isinstance(node, list) and node and draw(st.integers(0, 3)) > 0:
            # Prefer the ends to the middle.
            path.append(draw(st.sampled_from([0, len(node) - 1, len(node) // 2])))
            node = node[path[-1]]
        value = changed(value, path, draw(changes))
    return declared, value


@settings(max_examples=fewer(1000))
@given(cases())
@example((spec("string", "batch", 1), [numpy.str_("a"), SubStr("b")]))
@example((spec("string", 1), ["a", "\ud800"]))
@example((spec("float16", "batch"), [70000]))
@example((spec("float32", "batch"), [10**39]))
@example((spec("float32", "batch"), [2.0**-150]))
def test_any_value_gives_the_tensor_or_the_error_of_the_reference(
    case: tuple[TensorSpec, object],
) -> None:
    check(*case)


@settings(max_examples=fewer(600))
@given(
    st.sampled_from(TYPE_NAMES).flatmap(
        lambda name: st.tuples(
            st.just(name), st.lists(st.one_of(fitting(name), numbers), min_size=1, max_size=80)
        )
    ),
    st.integers(0, 70),
)
def test_a_list_of_numbers_is_stored_up_to_the_first_bad_one(
    case: tuple[str, list[object]], repeats: int
) -> None:
    type_name, elements = case
    # One element after a run of any length of fitting ones.
    check(spec(type_name, "n"), elements)
    check(spec(type_name, "n"), [*islice(cycle(elements[:-1]), repeats), elements[-1]])


# The rules of the contract.

# Messages as in the contract, with short names for their prefixes.
PREFIXES = {
    "type": "Invalid input type for 'x'",
    "value": "Invalid value for 'x'",
    "shape": "Invalid shape for 'x'",
}
GOT_2 = "shape: expected [n, 2], got"
ORDER = ": the same sizes in another order"
CASES: list[tuple[str, tuple[Dim, ...], object, tuple[int, ...] | str]] = [
    # Values of full rank, and single items.
    ("float32", ("batch", "seq"), [[1, 2], [3, 4]], (2, 2)),
    ("float32", ("batch", "seq"), [1, 2, 3], (1, 3)),
    ("float32", (None, 3, 2), [[1, 2], [3, 4], [5, 6]], (1, 3, 2)),
    ("float32", (1, 3), [1, 2, 3], (1, 3)),
    ("float32", (1, 3), [[1, 2, 3]], (1, 3)),
    ("float32", (1,), 5, (1,)),
    ("float32", (2, 2), [[1, 2], [3, 4]], (2, 2)),
    ("float32", (2, 2), [1, 2], "shape: expected [2, 2], got [2]"),
    ("string", ("batch",), "text", (1,)),
    ("string", ("batch",), ["a", "b"], (2,)),
    ("string", ("batch", 1), "text", (1, 1)),
    ("string", ("batch", 1), ["a", "b", "c"], (3, 1)),
    ("string", ("batch", 1), [["a"], ["b"]], (2, 1)),
    ("string", ("batch", 1), ["a"], (1, 1)),
    ("int64", ("batch", 1), [5], (1, 1)),
    ("int64", ("batch", 1), [[5]], (1, 1)),
    ("int64", (), 16000, ()),
    ("int64", (), [[[1]], [[2]]], (2, 1, 1)),
    ("int64", (), [], (0,)),
    ("int64", (), [[], []], (2, 0)),
    # Empty lists.
    ("int64", ("batch", "seq"), [], (1, 0)),
    ("int64", ("batch", "seq"), [[]], (1, 0)),
    ("int64", ("batch",), [], "shape: the batch is empty"),
    ("int64", ("batch", 1), [], "shape: the batch is empty"),
    ("int64", ("batch", 3), [], "shape: the batch is empty"),
    # Axes that are missing below one take the declared sizes: of all axes, or else of an item's.
    ("float32", ("batch", 2, "past", 4), [[[], []]], (1, 2, 0, 4)),
    ("float32", ("batch", 2, "past", 4), [[[], []]] * 3, (3, 2, 0, 4)),
    ("float32", ("batch", 2, "past", 4), [[], []], (1, 2, 0, 4)),
    (
        "float32",
        ("batch", 2, "past", 4),
        [[]] * 3,
        "shape: expected [batch, 2, past, 4], got [3, 0]",
    ),
    ("float32", ("batch", 2, "past", 4), [], "shape: expected [batch, 2, past, 4], got [0]"),
    ("float32", ("batch", 2, 3), [[], []], "shape: expected [batch, 2, 3], got [2, 0, 3]"),
    ("float32", ("batch", 2, "n", "m"), [[], []], "shape: expected [batch, 2, n, m], got [2, 0]"),
    ("int64", ("batch", "n", 3), [], (1, 0, 3)),
    ("int64", ("batch", "n", 3), [[]], (1, 0, 3)),
    ("int64", (1, 4), [], "shape: expected [1, 4], got [0, 4]"),
    ("int64", (2, "n", 4), [[], []], (2, 0, 4)),
    ("int64", (2, "n", 4), [[]] * 3, "shape: expected [2, n, 4], got [3, 0]"),
    ("int64", ("n", 3), [[], [], []], "shape: expected [n, 3], got [3, 0]"),
    ("int64", ("n", "m"), [[], [1]], "shape at [1]: expected 0 values, got 1"),
    ("int64", ("n", "m"), [[], 1], "value at [1]: expected array, got number"),
    ("int64", ("n", "m"), [[], [[1]]], "value at [1][0]: expected number, got array"),
    # The kind of the whole value.
    ("int64", ("batch", "seq"), "text", "type: expected array"),
    ("int64", ("batch", "seq"), 5, "type: expected array"),
    ("int64", ("batch", "seq"), None, "type: expected array, got null"),
    ("int64", ("batch",), None, "type: expected number, got null"),
    ("int64", ("batch",), True, "type: expected number"),
    ("int64", (), {}, "type: expected number"),
    ("string", ("batch",), 5, "type: expected string"),
    ("bool", ("batch",), "text", "type: expected boolean"),
    ("bool", ("batch",), [], "shape: the batch is empty"),
    ("int64", ("batch",), 300.5, "value: 300.5 is not an integer"),
    # The kind of an element.
    ("uint8", (None, 2), [[1, "1"]], "value at [0][1]: expected number, got string"),
    ("uint8", (None, 2), [[1, True]], "value at [0][1]: expected number, got boolean"),
    ("uint8", (None, 2), [[1, None]], "value at [0][1]: expected number, got null"),
    ("uint8", (None, 2), [[1, {}]], "value at [0][1]: expected number, got object"),
    ("uint8", (None, 2), [[1, [2]]], "value at [0][1]: expected number, got array"),
    ("uint8", (None, 2), [[1, 2], 3], "value at [1]: expected array, got number"),
    ("uint8", (None, 2), [[1, 2], "3"], "value at [1]: expected array, got string"),
    ("uint8", ("n", 2, 2), [None], "value at [0]: expected array, got null"),
    ("uint8", ("n", 2, 2), [[None]], "value at [0][0]: expected number, got null"),
    ("uint8", ("n", 2, 2), [1], "shape: expected [n, 2, 2], got [1]"),
    ("uint8", ("n", 2, 2), [1, None], "value at [1]: expected number, got null"),
    ("string", ("n",), ["a", 1], "value at [1]: expected string, got number"),
    ("bool", ("n",), [True, "1"], "value at [1]: expected boolean, got string"),
    ("uint8", ("n", 2), [[1, 300]], "value at [0][1]: 300 is out of range for uint8"),
    # Ragged lists.
    ("uint8", ("n", "m"), [[1, 2, 3], [4, 5]], "shape at [1]: expected 3 values, got 2"),
    ("uint8", ("n", "m"), [[1], [2, 3]], "shape at [1]: expected 1 value, got 2"),
    ("uint8", (), [[[1, 2], [3, 4]], [[5, 6]]], "shape at [1]: expected 2 values, got 1"),
    ("uint8", (), [[[1, 2], [3, 4]], [[5], [6]]], "shape at [1][0]: expected 2 values, got 1"),
    # Shapes, checked at the end of the value.
    (
        "float32",
        ("batch", 3, 224, 224),
        [[[0.5] * 224] * 3],
        "shape: expected [batch, 3, 224, 224], got [1, 3, 224]",
    ),
    ("float32", (None, 3), [[1, 2]], "shape: expected [None, 3], got [1, 2]"),
    ("float32", (1, 2), [[1, 2], [3, 4]], "shape: expected [1, 2], got [2, 2]"),
    # Past the first fault, the rest is counted.
    ("float32", (2,), [1, 2, None, "a", True], "shape: expected [2], got [5]"),
    ("float32", (2,), [1, 2, numpy.float32(3), set()], "shape: expected [2], got [4]"),
    ("float32", ("n", 2), numpy.zeros((4, 3, 2)), "shape: expected [n, 2], got more than 2 axes"),
    ("float32", ("n", 2), numpy.broadcast_to(0.5, (2**30, 2**20)), f"{GOT_2} [{2**30}, {2**20}]"),
    ("float32", ("n", 2), [[1, 2], numpy.zeros(3), numpy.zeros(3)], f"{GOT_2} more"),
    ("float32", ("n", 2), [numpy.zeros(3), numpy.ones(3, "u1"), [1, 2, 3]], f"{GOT_2} [3, 3]"),
    ("float32", ("n", 2), [[1, 2, 3], numpy.array([1, None, "a"], object)], f"{GOT_2} [2, 3]"),
    ("float32", (2,), [1, 2, {}], "shape: expected [2], got more"),
    ("float32", (2, 3), [[1, 2, 3]] * 3 + [4], "shape: expected [2, 3], got more"),
    # The same sizes in another order.
    ("float32", ("n", 2, 3), [[[1, 2]] * 3], f"shape: expected [n, 2, 3], got [1, 3, 2]{ORDER}"),
    (
        "float32",
        (1, 2, 3, 3),
        [[[1, 2]] * 3] * 3,
        f"shape: expected [1, 2, 3, 3], got [3, 3, 2]{ORDER}",
    ),
    ("float32", (2, "n"), [[1, 2]] * 3, f"shape: expected [2, n], got [3, 2]{ORDER}"),
    ("float32", ("n", 2, 2), [[[1, 2]] * 3], "shape: expected [n, 2, 2], got [1, 3, 2]"),
    # Excess sizes and axes.
    ("float32", (None, 2), [[1, 2, "?"], None], "shape: expected [None, 2], got more"),
    ("float32", (None, 2), [[1, 2, []], None], "shape: expected [None, 2], got more"),
    ("float32", (2,), [1, 2, None], "shape: expected [2], got [3]"),
    ("string", (2,), ["a", "b", "\ud800"], "shape: expected [2], got [3]"),
    ("float32", (2,), [1, 1e39, 3], "value at [1]: 1e+39 is out of range for float32"),
    ("float32", ("n", 2), [[[1]], None], "shape: expected [n, 2], got more than 2 axes"),
    ("float32", ("n",), [[1]], "shape: expected [n], got more than 1 axis"),
    ("float32", ("n", 1), [[1], [[1]]], "value at [1][0]: expected number, got array"),
    # Strings.
    ("string", ("n",), ["a\0b", "\U0001f600"], (2,)),
    ("string", ("n",), ["\ud83d\ude00"], "value at [0]: the string has a lone surrogate"),
    ("string", ("n",), "\udc00", "value: the string has a lone surrogate"),
    ("string", ("n", 3), "\udc00", "type: expected array"),
    ("string", (), [["a"], "\udc00"], "value at [1]: expected array, got string"),
    # Types that JSON lacks.
    ("uint8", ("n",), b"ab", "type: expected number"),
    ("uint8", ("n",), [b"ab"], "value at [0]: expected number, got bytes"),
    ("uint8", ("n",), [{1}], "value at [0]: expected number, got set"),
    ("string", ("n",), [b"ab"], "value at [0]: expected string, got bytes"),
]


def test_counting_runs_no_code_whose_errors_would_come_first() -> None:
    declared = spec("float32", "n", 2)
    buffers = [[1, 2, 3], array.array("b", [1] * 3), memoryview(b"123"), numpy.zeros(3, ">f4")]
    assert refused(walked(declared, buffers)).message.endswith("got [4, 3]")
    failing = [[1, 2, 3], callback_array(lambda: 1 / 0)]
    assert refused(walked(declared, failing)).message.endswith("got more")
    with pytest.raises(ZeroDivisionError):
        walked(declared, failing[::-1])


@pytest.mark.parametrize("dims", [("n",), ("n", 1), (1,), (), ("n", "m"), (2, 2)])
@pytest.mark.parametrize("type_name", ["float16", "bfloat16", "float32", "float64"])
def test_none_stands_for_nan(type_name: str, dims: tuple[Dim, ...]) -> None:
    declared = spec(type_name, *dims)
    native = InputSpec(declared, null_is_nan=True)
    for value in (
        None,
        [None],
        [1, None, 2.5],
        [[None], [1.5]],
        [[1, 2], [None, None]],
        [[1, None]] * 3,
    ):
        pool = GuardedPool()
        try:
            reference = oracle.convert(value, declared, null_is_nan=True)
        except ClientError as error:
            with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
                walk(native, value, pool)
            continue
        block, *rest = walk(native, value, pool)
        assert isinstance(block, GuardedBlock)
        assert tuple(rest) == (reference[0], *reference[2:])
        found = block.guarded.payload.tobytes()
        assert found.startswith(b"".join(cast("Sequence[bytes]", reference.elements)))


def check_rule(declared: TensorSpec, value: object, says: tuple[int, ...] | str) -> None:
    """Asserts that the walk and the reference give a shape or a message."""
    if isinstance(says, str):
        kind = says[: len("shape")].rstrip(": ")
        says = PREFIXES[kind] + says[len(kind) :]
    for outcome in (walked(declared, value), expected(declared, value)):
        assert (outcome.message if isinstance(outcome, Refusal) else outcome.shape) == says


@pytest.mark.parametrize(("type_name", "dims", "value", "says"), CASES)
def test_a_rule_of_the_contract_holds(
    type_name: str, dims: tuple[Dim, ...], value: object, says: tuple[int, ...] | str
) -> None:
    check_rule(spec(type_name, *dims), value, says)


@pytest.mark.parametrize(
    ("dims", "batched", "value", "says"),
    [
        # A leading axis that looks like a batch axis but is not.
        (("batch", "seq"), False, [[1, 2]], (1, 2)),
        (("batch", "seq"), False, [1, 2], "shape: expected [batch, seq], got [2]"),
        (("batch", 2), False, [], (0, 2)),
        (("batch",), False, [], (0,)),
        (("batch",), False, 5, "type: expected array"),
        (("batch", 1), False, [[5], [6]], (2, 1)),
        (("batch", 1), False, [5], "shape: expected [batch, 1], got [1]"),
        ((1, 2), False, [1, 2], "shape: expected [1, 2], got [2]"),
        ((1, 2), False, [[1, 2]], (1, 2)),
        # A batch axis of fixed size.
        ((2, 3), True, [[1, 2, 3], [4, 5, 6]], (2, 3)),
        ((2, 3), True, [1, 2, 3], "shape: expected [2, 3], got [3]"),
        ((1, 3), True, [1, 2, 3], (1, 3)),
        ((1, 1), True, 5, (1, 1)),
        ((1, 1), True, [5], (1, 1)),
        ((2, 1), True, [5, 6], (2, 1)),
        ((2, 1), True, [[5], [6]], (2, 1)),
        ((2, 1), True, [5], "shape: expected [2, 1], got [1]"),
        ((2, 1), True, 5, "shape: expected [2, 1], got []"),
        ((2,), True, [5, 6], (2,)),
        ((2,), True, [5, 6, 7], "shape: expected [2], got [3]"),
    ],
)
def test_gpux_yml_says_whether_the_leading_axis_is_a_batch(
    dims: tuple[Dim, ...], batched: bool, value: object, says: tuple[int, ...] | str
) -> None:
    check_rule(spec("float32", *dims, batched=batched), value, says)


@pytest.mark.parametrize(
    ("dims", "value", "as_items", "as_one_item"),
    [
        (("batch", "seq"), [1, 2], True, True),
        (("batch", "seq"), [[1, 2]], False, False),
        (("batch",), 1, True, True),
        (("batch",), [1], False, False),
        (("batch", 1), 1, True, True),
        (("batch", 1), [1], True, False),
        (("batch", 1), [1, 2], True, False),
        (("batch", 1), [[1]], False, False),
        ((1, 2), [1, 2], True, True),
        ((1, 2), [[1, 2]], False, False),
        ((2,), [1, 2], False, False),
        ((), 1, False, False),
        ((), [1], False, False),
    ],
)
def test_a_value_without_its_batch_axis_is_one_item(
    dims: tuple[Dim, ...], value: object, as_items: bool, as_one_item: bool
) -> None:
    for type_name in NUMBER_TYPES:
        outcome = check(spec(type_name, *dims), value)
        assert isinstance(outcome, oracle.Converted)
        assert (outcome.as_items, outcome.as_one_item) == (as_items, as_one_item)


def test_the_error_is_of_its_family_and_knows_its_input_and_place() -> None:
    declared = TensorSpec("pixels", BY_NAME["uint8"], ("n", 2))
    for value, error, path in (
        ("?", InvalidTypeError, None),
        ([[1, 2], [3, 300]], InvalidValueError, (1, 1)),
        ([[1, 2], [3]], InvalidShapeError, (1,)),
        ([[1, 2, 3]], InvalidShapeError, ()),
        (numpy.zeros((0, 2)), EmptyBatchError, None),
    ):
        with pytest.raises(error) as caught:
            walk(InputSpec(declared), value, GuardedPool())
        assert type(caught.value) is error
        assert caught.value.name == "pixels"
        assert getattr(caught.value, "path", None) == path


def deep(levels: int, core: object) -> object:
    for _ in range(levels):
        core = [core]
    return core


@pytest.mark.parametrize(
    ("dims", "levels"),
    [
        *product([(), ("n",), ("n", 1), ("n", 2, 2, 2)], [31, 32, 33, 34]),
        ((), 100_000),
        (("n", 1), 100_000),
    ],
)
def test_lists_are_as_deep_as_the_input_allows(dims: tuple[Dim, ...], levels: int) -> None:
    check(spec("float32", *dims), deep(levels, 1.0))
    check(spec("string", *dims), deep(levels, "a"))
    check(spec("float32", *dims), deep(levels, []))
    # Among numbers, the error is the list itself, not its depth.
    check(spec("float32", *dims), [1.0, deep(levels, 1.0)])


def test_a_list_that_contains_itself_is_too_deep() -> None:
    endless: list[object] = []
    endless.append(endless)
    for dims, limit in (((), "32 axes"), (("n",), "1 axis"), (("n", 2, 2), "3 axes")):
        message = refused(walked(spec("float32", *dims), endless)).message
        assert message.endswith(f"got more than {limit}")
    values: list[object] = [1.0, 2.0]
    values.append(values)
    message = refused(walked(spec("float32"), values)).message
    assert message == "Invalid value for 'x' at [2]: expected number, got array"
    values[:] = [{}]
    values.insert(0, values)
    assert isinstance(walked(spec("float32", "n", "m"), values), Refusal)


class Unreadable(list[Any]):
    """A list whose overridden methods all fail."""

    def __len__(self) -> int:
        raise AssertionError("the walk takes the items themselves")

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the walk takes the items themselves")

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("the walk takes the items themselves")


def test_a_list_s_own_methods_are_not_called() -> None:
    for type_name, elements in (
        ("float32", [1.5, 2, SubInt(3)]),
        ("float16", [1.5, 70000]),
        ("uint8", [1, 300]),
        ("uint8", [1, 2.5]),
        ("string", ["a", "b", 1]),
        ("int8", [1, 2, 2**70]),
    ):
        for wrong in (elements, [*elements, None], [*elements, []]):
            declared = spec(type_name, "n", "m")
            assert walked(declared, Unreadable([Unreadable(wrong)])) == expected(declared, [wrong])


def test_more_axes_than_the_core_holds_are_refused_when_the_input_is_declared() -> None:
    InputSpec(spec("float32", *[1] * 32))
    with pytest.raises(ValueError, match="more than 32 axes"):
        InputSpec(spec("float32", *[1] * 33))


def test_the_spec_has_the_input_s_name_and_cannot_be_changed() -> None:
    native = InputSpec(spec("float32", "n"))
    assert native.name == "x"
    for attribute in ("name", "other"):
        with pytest.raises(AttributeError):
            setattr(native, attribute, "y")
