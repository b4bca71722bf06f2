"""Shared by the tests of walk(): a pool that detects misuse, and outcomes to compare."""

import inspect
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest

from gpux._fastpath import InputSpec, walk
from gpux.errors import ClientError
from gpux.tensors.signature import BY_NAME, ELEMENT_TYPES, Dim, TensorSpec
from tests.support import oracle

Array = numpy.ndarray[Any, Any]

TYPE_NAMES = [element.name for element in ELEMENT_TYPES]
NUMBER_TYPES = [element.name for element in ELEMENT_TYPES if element.word == "number"]

# A pool of exactly sized blocks that detects misuse.


@dataclass(eq=False)
class GuardedBlock:
    """A block of exactly the requested size, between two guard areas."""

    nbytes: int
    memory: Array
    address: int = field(init=False)

    def __post_init__(self) -> None:
        self.address = self.memory.ctypes.data + GuardedPool.GUARD_BYTES

    @property
    def payload(self) -> Array:
        return self.memory[GuardedPool.GUARD_BYTES : GuardedPool.GUARD_BYTES + self.nbytes]

    @property
    def guards_intact(self) -> bool:
        outside = numpy.delete(
            self.memory, slice(GuardedPool.GUARD_BYTES, GuardedPool.GUARD_BYTES + self.nbytes)
        )
        return bool((outside == GuardedPool.GUARD).all())


class GuardedPool:
    """A pool that counts calls, poisons fresh and returned blocks, and checks their guards.

    Args:
        failures: exceptions of take(), by the index of the call.
    """

    GUARD_BYTES = 64
    GUARD = 0xA5
    FRESH = 0xC3
    RETURNED = 0xDD

    def __init__(self, failures: dict[int, BaseException] | None = None) -> None:
        self.failures = failures or {}
        self.allocated: list[GuardedBlock] = []  # every block so far
        self.in_use: list[GuardedBlock] = []
        self.calls = 0

    def take(self, nbytes: int) -> GuardedBlock:
        assert nbytes > 0
        self.calls += 1
        if self.calls - 1 in self.failures:
            raise self.failures[self.calls - 1]
        block = GuardedBlock(
            nbytes, numpy.full(nbytes + 2 * self.GUARD_BYTES, self.GUARD, numpy.uint8)
        )
        block.payload[:] = self.FRESH
        self.allocated.append(block)
        self.in_use.append(block)
        return block

    def give(self, block: GuardedBlock) -> None:
        self.in_use.remove(block)  # raises ValueError unless it is in use
        block.payload[:] = self.RETURNED

    def check(self) -> None:
        """Fails after a write outside a block, or into one that was returned."""
        for block in self.allocated:
            assert block.guards_intact
            assert block in self.in_use or bool((block.payload == self.RETURNED).all())


def check_pool_failures(
    read: Callable[[Any], object], failure: BaseException, pool_type: type[GuardedPool]
) -> int:
    """Asserts that an exception of any take() of a pool comes through as itself.

    Args:
        read: takes blocks from its argument, a pool.
        failure: raised by the first take(), then by the second one, and so on.
        pool_type: of the pools.

    Returns:
        The number of take() calls.
    """
    pool = pool_type()
    read(pool)
    for call in range(pool.calls):
        failing = pool_type({call: failure})
        with pytest.raises(type(failure)) as caught:
            read(failing)
        assert caught.value is failure
        assert failing.calls == call + 1
        assert failing.in_use == []
        failing.check()
    return pool.calls


def check_references(once: Callable[[], None], counted: Sequence[object], rounds: int) -> None:
    """Asserts that many calls change no reference count of objects, and leak nothing else."""
    once()
    before = [sys.getrefcount(one) for one in counted]
    blocks_before = sys.getallocatedblocks()
    for _ in range(rounds):
        once()
    assert [sys.getrefcount(one) for one in counted] == before
    assert sys.getallocatedblocks() - blocks_before < 500  # the lists above are a few


# Outcomes of the walk and of the reference, for comparison.


class Refusal(NamedTuple):
    """A ClientError in comparable form."""

    error: type[ClientError]
    message: str
    path: tuple[int, ...] | None


Outcome = oracle.Converted | Refusal


def refusal(error: ClientError) -> Refusal:
    return Refusal(type(error), str(error), getattr(error, "path", None))


def refused(outcome: object) -> Refusal:
    """The outcome, which must be a rejection."""
    assert isinstance(outcome, Refusal), outcome
    return outcome


def expected(declared: TensorSpec, value: object) -> Outcome:
    """The reference's outcome for a value."""
    try:
        return oracle.convert(value, declared)
    except ClientError as error:
        return refusal(error)


def walked(declared: TensorSpec, value: object, pool: GuardedPool | None = None) -> Outcome:
    """The walk's outcome for a value. Also checks that every other block is returned."""
    pool = pool or GuardedPool()
    try:
        content, shape, as_items, as_one_item = walk(InputSpec(declared), value, pool)
    except ClientError as error:
        assert pool.in_use == []
        pool.check()
        return refusal(error)
    if isinstance(content, list):
        assert pool.calls == 0
        return oracle.Converted(shape, content, as_items, as_one_item)
    assert pool.in_use == [content]
    size = declared.type.nbytes
    count = math.prod(shape)
    assert count * size <= content.nbytes
    written = content.payload.tobytes()
    pool.give(content)
    pool.check()
    elements = [written[i * size : (i + 1) * size] for i in range(count)]
    return oracle.Converted(shape, elements, as_items, as_one_item)


def spec(type_name: str, *dims: Dim, batched: bool | None = None) -> TensorSpec:
    return TensorSpec("x", BY_NAME[type_name], dims, batched=batched)


def check(declared: TensorSpec, value: object) -> Outcome:
    """Asserts that the walk and the reference agree. Returns their outcome."""
    outcome = walked(declared, value)
    assert outcome == expected(declared, value)
    return outcome


# Unusual objects in values.


class SubInt(int):
    def __str__(self) -> str:
        return "not a number"

    def __index__(self) -> int:
        raise AssertionError("the walk takes the number itself")


class SubFloat(float):
    def __repr__(self) -> str:
        return "not a number"

    def __float__(self) -> float:
        raise AssertionError("the walk takes the number itself")


class SubStr(str):
    __slots__ = ()


class SubList(list[Any]):
    pass


class SubTuple(tuple[Any, ...]):
    __slots__ = ()


class CallbackArray(numpy.ndarray[Any, Any]):
    """An object array that runs a callback when its elements are read."""

    callback: Callable[[], object]

    def tolist(self) -> Any:
        return self.callback()


def callback_array(callback: Callable[[], object]) -> CallbackArray:
    array = numpy.zeros(1, object).view(CallbackArray)
    array.callback = callback
    return array


def strided(values: Array) -> Array:
    """The same values, not contiguous in memory."""
    return numpy.stack([values, values], -1)[..., 0]


def reverse_axes(values: Array) -> Array:
    """A view with all axes reversed."""
    return values[(slice(None, None, -1),) * values.ndim + (...,)]


LAYOUTS: list[Callable[[Array], Array]] = [
    numpy.ascontiguousarray,
    numpy.asfortranarray,
    strided,
    lambda values: reverse_axes(reverse_axes(values).copy()),
    lambda values: values.copy().T,
]


def run_in_subprocess(function: Callable[[], None]) -> None:
    """Runs a function of a test file in another interpreter, and fails if that one does or crashes.

    Freed memory is overwritten there (`malloc_debug`), so that a use after free is detected.
    """
    file = Path(inspect.getfile(function))
    folders = [str(file.parent), str(Path(__file__).parents[2])]
    run = subprocess.run(
        [
            *(sys.executable, "-X", "faulthandler", "-c"),
            f"import {file.stem}; {file.stem}.{function.__name__}()",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), "PYTHONMALLOC": "malloc_debug"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
