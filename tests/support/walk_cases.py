"""Shared by the tests of walk(): a pool that detects misuse, and outcomes to compare."""

import inspect
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest

from gpux._fastpath import Block, InputSpec, walk
from gpux.errors import ClientError
from gpux.tensors.signature import BY_NAME, ELEMENT_TYPES, Dim, TensorSpec
from tests.support import oracle

Array = numpy.ndarray[Any, Any]

TYPE_NAMES = [element.name for element in ELEMENT_TYPES]
NUMBER_TYPES = [element.name for element in ELEMENT_TYPES if element.word == "number"]

# A pool of exactly sized blocks that detects misuse.


@dataclass(eq=False)
class GuardedMemory:
    """The memory of one block: exactly the requested size, between two guard areas."""

    nbytes: int
    memory: Array
    is_returned: bool = False

    @property
    def address(self) -> int:
        return int(self.memory.ctypes.data) + GuardedPool.GUARD_BYTES

    @property
    def payload(self) -> Array:
        return self.memory[GuardedPool.GUARD_BYTES : GuardedPool.GUARD_BYTES + self.nbytes]

    def check(self) -> None:
        """Fails after a write outside the block, or into one that was returned."""
        before = self.memory[: GuardedPool.GUARD_BYTES]
        behind = self.memory[GuardedPool.GUARD_BYTES + self.nbytes :]
        assert bool((before == GuardedPool.GUARD).all())
        assert bool((behind == GuardedPool.GUARD).all())
        assert not self.is_returned or bool((self.payload == GuardedPool.RETURNED).all())


class GuardedBlock(Block):
    """A block of a GuardedPool, which it returns to when it is dropped."""

    def __init__(self, guarded: GuardedMemory) -> None:
        super().__init__(guarded.memory, guarded.address, guarded.nbytes)
        self.guarded = guarded

    def __del__(self) -> None:
        assert not self.guarded.is_returned
        self.guarded.payload[:] = GuardedPool.RETURNED
        self.guarded.is_returned = True


class GuardedPool:
    """A pool that counts calls, poisons fresh and returned blocks, and checks their guards.

    Args:
        failures: exceptions of take(), by the index of the call.
        max_bytes: larger requests raise MemoryError; None for no limit.

    Attributes:
        allocated: the memory of every block so far.
    """

    GUARD_BYTES = 64
    GUARD = 0xA5
    FRESH = 0xC3
    RETURNED = 0xDD

    def __init__(
        self, failures: dict[int, BaseException] | None = None, max_bytes: int | None = None
    ) -> None:
        self.failures = failures or {}
        self.max_bytes = max_bytes
        self.allocated: list[GuardedMemory] = []
        self.calls = 0

    def take(self, nbytes: int) -> GuardedBlock:
        assert nbytes > 0
        self.calls += 1
        if self.calls - 1 in self.failures:
            raise self.failures[self.calls - 1]
        if self.max_bytes is not None and nbytes > self.max_bytes:
            raise MemoryError(nbytes)
        memory = numpy.full(nbytes + 2 * self.GUARD_BYTES, self.GUARD, numpy.uint8)
        self.allocated.append(GuardedMemory(nbytes, memory))
        self.allocated[-1].payload[:] = self.FRESH
        return GuardedBlock(self.allocated[-1])

    @property
    def in_use(self) -> list[GuardedMemory]:
        """The memory of blocks that somebody refers to."""
        return [guarded for guarded in self.allocated if not guarded.is_returned]

    def check(self) -> None:
        """Fails after a write outside a block, or into one that was returned."""
        for guarded in self.allocated:
            guarded.check()


def check_pool_failures(read: Callable[[GuardedPool], object], failure: BaseException) -> int:
    """Asserts that an exception of any take() of a pool comes through as itself.

    Args:
        read: takes blocks from its argument.
        failure: raised by the first take(), then by the second one, and so on.

    Returns:
        The number of take() calls.
    """
    pool = GuardedPool()
    read(pool)
    for call in range(pool.calls):
        # A native pool asks once more when there is no room.
        failing = GuardedPool({call: failure, call + 1: failure})
        with pytest.raises(type(failure)) as caught:
            read(failing)
        assert caught.value is failure
        retries = failing.calls - (call + 1)
        assert 0 <= retries <= isinstance(failure, MemoryError)
        caught.value.__traceback__ = None  # its frames refer to blocks
        del caught
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
    assert pool.in_use == [content.guarded]
    size = declared.type.nbytes
    count = math.prod(shape)
    assert count * size <= content.nbytes
    written = content.guarded.payload.tobytes()
    del content
    assert pool.in_use == []
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
