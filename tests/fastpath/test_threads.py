"""walk(): concurrent walks, and lists that change during a walk."""

import ctypes
import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any

import numpy
import pytest

from gpux._fastpath import InputSpec, Pool, walk
from gpux.errors import ClientError
from gpux.tensors.signature import TensorSpec
from tests.support import oracle
from tests.support.walk_cases import (
    GuardedBlock,
    GuardedPool,
    Outcome,
    callback_array,
    expected,
    refusal,
    run_in_subprocess,
    spec,
)

# Concurrent walks.


@pytest.mark.usefixtures("eager_threads")
def test_eight_threads_at_once_get_the_same_answers() -> None:
    pool = Pool()
    grid = numpy.arange(3000, dtype="f8").reshape(30, 100)
    walks = [
        (spec("float32", "n", "m"), grid),
        (spec("float32", "n", "m"), grid.tolist()),
        (spec("float64", "n", "m"), [grid[0], *grid[1:].tolist()]),
        (spec("int16", "n", 100), list(grid)),
        (spec("int8", "n", "m"), grid),
        (spec("uint64", "n", "m"), [*grid[:20], grid[0, 1:]]),
        (spec("string", "n"), [f"text {i}" for i in range(100)]),
        (spec("float16", "n"), [1, 2, None]),
    ]
    cases = [(InputSpec(declared), declared, value) for declared, value in walks]
    outcomes = [expected(declared, value) for declared, value in walks]
    start = Barrier(8)

    def work(thread: int) -> int:
        start.wait(timeout=30)
        compared = 0
        for turn in range(10 * len(cases)):
            case = (turn + thread) % len(cases)
            native, declared, value = cases[case]
            outcome: Outcome
            try:
                content, shape, as_items, as_one_item = walk(native, value, pool)
            except ClientError as error:
                outcome = refusal(error)
            else:
                elements: list[bytes] | list[str]
                if isinstance(content, list):
                    elements = content
                else:
                    size = declared.type.nbytes
                    written = ctypes.string_at(content.address, math.prod(shape) * size)
                    elements = [written[i : i + size] for i in range(0, len(written), size)]
                outcome = oracle.Converted(shape, elements, as_items, as_one_item)
            assert outcome == outcomes[case]
            compared += 1
        return compared

    with ThreadPoolExecutor(8) as executor:
        # Raises the error of a thread.
        assert list(executor.map(work, range(8))) == [10 * len(cases)] * 8


# Lists that change during a walk, in a subprocess.


def walk_changing(declared: TensorSpec, value: object, pool: GuardedPool) -> None:
    """Walks a changing value: the result is a tensor of its shape, or a ClientError."""
    before = list(pool.in_use)
    try:
        content, shape, _, _ = walk(InputSpec(declared), value, pool)
    except ClientError:
        assert pool.in_use == before
        return
    if isinstance(content, list):
        assert len(content) == math.prod(shape)
    else:
        assert math.prod(shape) * declared.type.nbytes <= content.nbytes


CHANGEABLE = ["float32", "float64", "float16", "int64", "uint8", "bool", "string"]


def fitting_rows(type_name: str, rows: int, size: int) -> list[list[object]]:
    one: object = "text" if type_name == "string" else True if type_name == "bool" else 1
    rows_of: list[list[object]] = [[one] * size for _ in range(rows)]
    if type_name.startswith("float"):
        for row in rows_of:
            row[:] = [float(index) for index in range(size)]
    return rows_of


def lists_changed_by_the_pool() -> None:
    """The pool shortens the list when a block is allocated in the middle of it."""
    for type_name in CHANGEABLE[:-1]:
        for keep in (0, 1, 7, 40):
            (inner,) = fitting_rows(type_name, 1, 5000)

            class Meddler(GuardedPool):
                def __init__(self, victim: list[object], keep: int) -> None:
                    super().__init__()
                    self.victim, self.keep = victim, keep

                def take(self, nbytes: int) -> GuardedBlock:
                    block = super().take(nbytes)
                    if self.calls > 1:
                        del self.victim[self.keep :]
                        self.victim.copy()
                    return block

            pool = Meddler(inner, keep)
            first = numpy.ones(2000, bool if type_name == "bool" else "f4")
            walk_changing(spec(type_name, "n", "m"), [first[:1], first[:1], inner], pool)
            walk_changing(spec(type_name, "n"), inner, pool)
            inner += fitting_rows(type_name, 1, 5000)[0]
            walk_changing(spec(type_name, "n", "m"), [first, inner, inner], pool)
            assert pool.calls > 1
            pool.check()


def lists_changed_by_an_item() -> None:
    """An item's code clears, shortens or replaces the enclosing lists."""
    for type_name in CHANGEABLE:
        for index in (0, 1, 31, 32, 33, 64, 98, 99):
            for change in range(4):
                rows = fitting_rows(type_name, 3, 100)

                def meddle(
                    rows: list[list[object]] = rows,
                    one: object = rows[2][0],
                    index: int = index,
                    change: int = change,
                ) -> object:
                    if change == 0:
                        rows[1].clear()
                    elif change == 1:
                        del rows[1][index:]
                    elif change == 2:
                        rows.clear()
                    else:
                        rows[1] = []
                        rows[1:] = [rows[1]]
                    return one

                rows[1][index] = callback_array(meddle)
                pool = GuardedPool()
                walk_changing(spec(type_name, "n", "m"), rows, pool)
                assert pool.in_use == []
                pool.check()


def lists_changed_by_another_thread() -> None:
    """Another thread changes the rows while arrays are read without the GIL and blocks grow."""
    sys.setswitchinterval(1e-6)
    for type_name in CHANGEABLE:
        rows: list[Any] = []
        walks_done = Event()

        def fresh(type_name: str = type_name) -> list[Any]:
            rows: list[Any] = [numpy.ones(100, "f4"), *fitting_rows(type_name, 20, 100)]
            rows[10] = numpy.ones(100, bool if type_name == "bool" else "i4")
            if type_name == "string":
                rows[0] = numpy.array(["text"] * 100)
                rows[10] = numpy.array(["text"] * 100)
            return rows

        def change(
            rows: list[Any] = rows,
            fresh: Callable[[], list[Any]] = fresh,
            walks_done: Event = walks_done,
        ) -> int:
            turns = 0
            while not walks_done.is_set():
                turn = turns % 5
                if turn == 0:
                    rows[:] = fresh()
                elif turn == 1:
                    rows[5].clear()
                    rows[15].extend(rows[16])
                elif turn == 2:
                    del rows[3:]
                elif turn == 3:
                    rows.append(list(rows[1]) if len(rows) > 1 else [])
                else:
                    rows.clear()
                turns += 1
            return turns

        rows[:] = fresh()
        with ThreadPoolExecutor(1) as executor:
            changer = executor.submit(change)
            try:
                pool = GuardedPool()
                for _ in range(1000):
                    walk_changing(spec(type_name, "n", "m"), rows, pool)
                    pool.check()
                    pool.allocated.clear()
            finally:
                walks_done.set()
            assert changer.result(timeout=60) > 0


@pytest.mark.parametrize(
    "changes",
    [lists_changed_by_the_pool, lists_changed_by_an_item, lists_changed_by_another_thread],
)
def test_a_list_may_change_while_it_is_walked(changes: Callable[[], None]) -> None:
    run_in_subprocess(changes)
