"""What the tests of the walk share: a pool that notices misuse, and outcomes to compare."""

import inspect
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from gpux._fastpath import InputSpec, walk
from gpux.errors import ClientError
from gpux.tensors.signature import BY_NAME, ELEMENT_TYPES, Dim, TensorSpec
from tests.support import oracle

Array = numpy.ndarray[Any, Any]

TYPE_NAMES = [element.name for element in ELEMENT_TYPES]
NUMBER_TYPES = [element.name for element in ELEMENT_TYPES if element.word == "number"]

# A pool that gives away exactly what it is asked for, and notices misuse.


@dataclass(eq=False)
class GuardedBlock:
    """A block of exactly the size that was asked for, between two guards."""

    nbytes: int
    memory: Array
    address: int = field(init=False)

    def __post_init__(self) -> None:
        self.address = self.memory.ctypes.data + GuardedPool.GUARD_BYTES

    @property
    def inside(self) -> Array:
        return self.memory[GuardedPool.GUARD_BYTES : GuardedPool.GUARD_BYTES + self.nbytes]

    @property
    def guards_hold(self) -> bool:
        outside = numpy.delete(
            self.memory,
            slice(GuardedPool.GUARD_BYTES, GuardedPool.GUARD_BYTES + self.nbytes),
        )
        return bool((outside == GuardedPool.GUARD).all())


class GuardedPool:
    """Counts, poisons what comes and goes, and looks at the guards.

    Args:
        failures: what take() raises, by the number of the call, from 0.
    """

    GUARD_BYTES = 64
    GUARD = 0xA5
    FRESH = 0xC3
    GONE = 0xDD

    def __init__(self, failures: dict[int, BaseException] | None = None) -> None:
        self.failures = failures or {}
        self.taken: list[GuardedBlock] = []  # all there ever were
        self.lent: list[GuardedBlock] = []
        self.calls = 0

    def take(self, nbytes: int) -> GuardedBlock:
        assert nbytes > 0
        self.calls += 1
        if self.calls - 1 in self.failures:
            raise self.failures[self.calls - 1]
        block = GuardedBlock(
            nbytes, numpy.full(nbytes + 2 * self.GUARD_BYTES, self.GUARD, numpy.uint8)
        )
        block.inside[:] = self.FRESH
        self.taken.append(block)
        self.lent.append(block)
        return block

    def give(self, block: GuardedBlock) -> None:
        self.lent.remove(block)  # raises where it was not lent
        block.inside[:] = self.GONE

    def check(self) -> None:
        """Nobody wrote outside a block, or into one that was given back."""
        for block in self.taken:
            assert block.guards_hold
            assert block in self.lent or bool((block.inside == self.GONE).all())


# The walk and the reference, with outcomes that can be compared.


class Refusal(NamedTuple):
    """An error of the client's."""

    error: type[ClientError]
    message: str
    path: tuple[int, ...] | None


Outcome = oracle.Converted | Refusal


def refusal(error: ClientError) -> Refusal:
    return Refusal(type(error), str(error), getattr(error, "path", None))


def expected(declared: TensorSpec, value: object) -> Outcome:
    """What the reference makes of a value."""
    try:
        return oracle.convert(value, declared)
    except ClientError as error:
        return refusal(error)


def walked(declared: TensorSpec, value: object, pool: GuardedPool | None = None) -> Outcome:
    """What the walk makes of a value; the blocks are counted in passing."""
    pool = pool or GuardedPool()
    try:
        content, shape, as_items, as_one_item = walk(InputSpec(declared), value, pool)
    except ClientError as error:
        assert pool.lent == []
        pool.check()
        return refusal(error)
    if isinstance(content, list):
        assert pool.calls == 0
        return oracle.Converted(shape, content, as_items, as_one_item)
    assert pool.lent == [content]
    size = declared.type.nbytes
    count = math.prod(shape)
    assert count * size <= content.nbytes
    written = content.inside.tobytes()
    pool.give(content)
    pool.check()
    elements = [written[i * size : (i + 1) * size] for i in range(count)]
    return oracle.Converted(shape, elements, as_items, as_one_item)


def spec(type_name: str, *dims: Dim, batched: bool | None = None) -> TensorSpec:
    return TensorSpec("x", BY_NAME[type_name], dims, batched=batched)


def check(declared: TensorSpec, value: object) -> Outcome:
    """The walk and the reference agree; answers what they say."""
    outcome = walked(declared, value)
    assert outcome == expected(declared, value)
    return outcome


# Kinds of objects that values are made of.


class OwnInt(int):
    def __str__(self) -> str:
        return "not a number"

    def __index__(self) -> int:
        raise AssertionError("the walk takes the number itself")


class OwnFloat(float):
    def __repr__(self) -> str:
        return "not a number"

    def __float__(self) -> float:
        raise AssertionError("the walk takes the number itself")


class OwnStr(str):
    __slots__ = ()


class OwnList(list[Any]):
    pass


class OwnTuple(tuple[Any, ...]):
    __slots__ = ()


class Reluctant(numpy.ndarray[Any, Any]):
    """An array of objects, whose elements are asked for with code of its own."""

    asked: Callable[[], object]

    def tolist(self) -> Any:
        return self.asked()


def reluctant(asked: Callable[[], object]) -> Reluctant:
    made = numpy.zeros(1, object).view(Reluctant)
    made.asked = asked
    return made


def spread(values: Array) -> Array:
    """The same values with gaps between them."""
    return numpy.stack([values, values], -1)[..., 0]


def backwards(values: Array) -> Array:
    """A view of all axes from their ends."""
    return values[(slice(None, None, -1),) * values.ndim + (...,)]


LAYOUTS: list[Callable[[Array], Array]] = [
    numpy.ascontiguousarray,
    numpy.asfortranarray,
    spread,
    lambda values: backwards(backwards(values).copy()),
    lambda values: values.copy().T,
]


def in_own_process(function: Callable[[], None]) -> None:
    """Runs a function of a test file in another interpreter, which may crash; it must end well.

    What is freed there is overwritten, so that it cannot be used unnoticed.
    """
    file = Path(inspect.getfile(function))
    folders = [str(file.parent), str(Path(__file__).parents[2])]
    run = subprocess.run(
        [
            *(sys.executable, "-X", "faulthandler", "-c"),
            f"import {file.stem}; {file.stem}.{function.__name__}()",
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(folders),
            "PYTHONMALLOC": "malloc_debug",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
