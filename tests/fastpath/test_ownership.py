"""walk(): each block is transferred or dropped; reference counts do not change."""

import math
import sys
from functools import partial
from itertools import pairwise

import numpy
import pytest

from gpux._fastpath import Block, Body, InputSpec, Pool, walk
from gpux.errors import ClientError, InvalidValueError
from gpux.tensors.signature import TensorSpec
from tests.support.walk_cases import (
    NUMBER_TYPES,
    GuardedPool,
    Refusal,
    SubFloat,
    SubInt,
    SubStr,
    check_pool_failures,
    check_references,
    expected,
    refusal,
    spec,
    walked,
)

# Blocks: allocated once or grown, transferred or dropped.

ROW = [0.5] * 300


def growing(rows: int) -> list[object]:
    """Rows whose first one does not predict the size of the rest."""
    return [numpy.asarray(ROW), *[ROW] * (rows - 1)]


@pytest.mark.parametrize("type_name", NUMBER_TYPES)
def test_a_block_grows_with_what_was_written(type_name: str) -> None:
    rows: list[object] = [numpy.arange(100), *[list(range(100))] * 40]
    pool = GuardedPool()
    outcome = walked(spec(type_name, "n", "m"), rows, pool)
    assert outcome == expected(spec(type_name, "n", "m"), rows)
    assert pool.calls > 3
    # Blocks at least double, so the bytes copied in total stay within twice the result.
    sizes = [block.nbytes for block in pool.allocated]
    assert all(2 * small <= large for small, large in pairwise(sizes))


def test_a_regular_list_takes_one_block_of_its_size() -> None:
    pool = GuardedPool()
    walked(spec("float32", "n", "m", "k"), [[ROW] * 3] * 2, pool)
    assert [block.nbytes for block in pool.allocated] == [2 * 3 * 300 * 4]


@pytest.mark.parametrize("value", ["text", 1, [1.0], [[1.0, 2.0]], [[]], None], ids=repr)
def test_what_is_declared_takes_no_memory_before_it_comes(value: object) -> None:
    for dims in ((None, 3, 4096, 4096), ("n", 2**40), (2**30,)):
        declared = spec("float32", *dims)
        with pytest.raises(ClientError) as caught:
            walk(InputSpec(declared), value, GuardedPool(max_bytes=2**25))
        assert refusal(caught.value) == expected(declared, value)


def test_a_first_list_that_promises_much_takes_little() -> None:
    inner: object = [1.0]
    for _ in range(4):
        inner = [inner] * 5000
    pool = GuardedPool()
    walked(spec("float32", None, 1, 1, 1, 1), inner, pool)
    assert sum(block.nbytes for block in pool.allocated) <= 2**25


@pytest.mark.parametrize(
    "bad",
    [None, "text", {}, [], [1.0], ROW[1:], [*ROW, 1.0], [math.nan] * 300, b"", 1j, {1}],
    ids=lambda value: f"{value!r:.20}",
)
def test_every_block_comes_back_when_a_value_is_refused(bad: object) -> None:
    # walked() checks that all blocks are returned.
    for value in ([bad], [*growing(5), bad], [bad, *growing(5)], [*growing(5), [*ROW[:-1], bad]]):
        for declared in (
            spec("float32", "n", "m"),
            spec("float32", 5, 300),
            spec("float32", 7, "m"),
        ):
            outcome = walked(declared, value)
            assert outcome == expected(declared, value)


@pytest.mark.parametrize(
    "failure", [MemoryError("none left"), KeyboardInterrupt(), ValueError("?")]
)
def test_what_the_pool_raises_comes_through_as_itself(failure: BaseException) -> None:
    walk_rows = partial(walk, InputSpec(spec("float32", "n", "m")), growing(30))
    assert check_pool_failures(walk_rows, failure) > 3


def test_strings_take_no_block() -> None:
    pool = GuardedPool({0: AssertionError("nothing is to be stored")})
    content, shape, _, _ = walk(InputSpec(spec("string", "n", 2)), [["a", "b"], ["c", "d"]], pool)
    assert (content, shape) == (["a", "b", "c", "d"], (2, 2))


def test_a_block_of_the_host_pool_serves_again() -> None:
    pool = Pool()
    native = InputSpec(spec("float64", "n"))
    addresses = set()
    for _ in range(100):
        block, _, _, _ = walk(native, ROW, pool)
        assert isinstance(block, Block)
        addresses.add(block.address)
        used = pool.used_bytes
        assert used == block.nbytes
        del block
        with pytest.raises(InvalidValueError):
            walk(native, [*ROW, "text"], pool)
        assert (pool.used_bytes, pool.idle_bytes) == (0, used)
    assert len(addresses) == 1


# References.


def mortal_text(number: int) -> str:
    return f"a text that nobody else has, {number}"


def reference_cases() -> list[tuple[TensorSpec, list[object]]]:
    """Inputs with accepted and rejected values, of objects whose references can be counted."""
    real = float("1234.5")
    large = int("123456789012")
    huge = int("1" + "0" * 30)
    text = mortal_text(0)
    own: list[object] = [SubInt(large), SubFloat(real), numpy.float32(real), numpy.array([real])]
    return [
        (spec("float32", "n"), [real, large, huge, *own[:3]]),
        (spec("float64", "n", "m"), [[real, real], [large, huge], (real, own[1])]),
        (spec("int64", "n"), [large, large, own[0]]),
        (spec("string", "n"), [text, text, SubStr(text), mortal_text(1)]),
        (spec("float32", "n", "m"), [own[3], [real]]),
        # Rejected.
        (spec("int64", "n"), [large, huge]),
        (spec("int8", "n"), [real, real]),
        (spec("int8", "n"), [large]),
        (spec("int8", "n"), [own[0]]),
        (spec("float16", "n"), [real, large, own[0]]),
        (spec("float32", "n"), [real, text]),
        (spec("string", "n"), [text, real]),
        (spec("string", "n"), [text, text + "\ud800"]),
        (spec("string", 1), [text, text]),
        (spec("float32", 2), [real, real, real]),
        (spec("float32", "n", "m"), [[real, real], [real]]),
        (spec("float32", "n", "m"), [[real], {real: text}]),
        (spec("float32", "n", "m"), [[real], frozenset([real])]),
        (spec("float32", "n"), [[[real]]]),
        (spec("float32", "n", 3), [own[3]]),
        (spec("int32", "n", "m"), [own[3], [own[3]]]),
    ]


def everything_in(value: object) -> list[object]:
    """A value and all objects inside its lists, each once."""
    found: dict[int, object] = {id(value): value}
    pending = [value]
    while pending:
        node = pending.pop()
        for child in node if isinstance(node, list | tuple) else ():
            if id(child) not in found:
                found[id(child)] = child
                pending.append(child)
    return list(found.values())


@pytest.mark.parametrize("case", range(len(reference_cases())))
def test_a_walk_leaves_all_reference_counts_as_they_were(case: int) -> None:
    declared, value = reference_cases()[case]
    native = InputSpec(declared)
    pool = Pool()
    counted = [*everything_in(value), native, pool, declared]
    is_rejected = isinstance(expected(declared, value), Refusal)

    def once() -> None:
        try:
            walk(native, value, pool)
        except ClientError:
            assert is_rejected
        else:
            assert not is_rejected

    check_references(once, counted, rounds=1000)


def test_the_strings_of_a_tensor_are_those_of_the_value() -> None:
    text = mortal_text(2)
    before = sys.getrefcount(text)
    content, _, _, _ = walk(InputSpec(spec("string", "n")), [text, text], Pool())
    assert isinstance(content, list)
    assert content[0] is text
    assert sys.getrefcount(text) == before + 2
    content.clear()
    assert sys.getrefcount(text) == before


def test_the_memory_of_a_body_goes_back_when_nothing_refers_to_it() -> None:
    pool = Pool()
    body = Body(pool, 5)
    view = memoryview(body)
    view[:3] = b"abc"
    memoryview(body)[3:] = b"de"
    assert len(body) == view.nbytes == 5
    assert bytes(body) == b"abcde"
    del body
    assert pool.used_bytes > 0
    view.release()
    assert pool.used_bytes == 0
    again = Body(pool, 5)
    assert len(again) == 5
    assert pool.allocations == 1


@pytest.mark.parametrize("nbytes", [2**62, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_body_that_is_too_large(nbytes: int) -> None:
    with pytest.raises(MemoryError):
        Body(Pool(), nbytes)
