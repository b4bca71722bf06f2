"""Figures that several processes count together: each writes a row, and each reads all of them.

A row outlives the process that wrote it. The one that takes its place counts on from there: nothing
that was counted is lost, even where a process was killed. The values are doubles at multiples of
eight bytes, which processors write and read whole.
"""

import mmap
import os
from collections.abc import MutableSequence, Sequence
from multiprocessing.reduction import DupFd
from typing import Any

CounterRow = MutableSequence[float]


class SharedCounters:
    """Rows of values, as the process sees them that writes one.

    Attributes:
        mine: the row that this process writes.
        rows: all of them.
        master: the process that started those that write; None where this one is alone.
    """

    def __init__(self, size: int) -> None:
        """A counters of this process alone: plain numbers, which cost less than shared ones."""
        self.mine: CounterRow = [0.0] * size
        self.rows: Sequence[CounterRow] = [self.mine]
        self.master: int | None = None

    def sums(self) -> list[float]:
        """The sum of each figure over all rows."""
        return [sum(column) for column in zip(*self.rows, strict=True)]


class CounterMemory:
    """The memory of a counters, owned by all processes that have it.

    To a process that is started (multiprocessing's "spawn") it is given as an argument.

    Args:
        size: values of a row.
        rows: as many as there are processes that write.
        descriptor: of memory that is there already.
        master: the process that made it.
    """

    def __init__(
        self, size: int, rows: int, descriptor: int | None = None, master: int | None = None
    ) -> None:
        self._size = size
        self._rows = rows
        self._master = master or os.getpid()
        if descriptor is None:
            descriptor = os.memfd_create("gpux-counters")  # goes with the last process that has it
            os.ftruncate(descriptor, size * rows * 8)
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        """For multiprocessing, which hands the descriptor over."""
        return _open, (self._size, self._rows, DupFd(self._descriptor), self._master)

    def counters(self, index: int) -> SharedCounters:
        """The counters, for the process that writes a row of this index."""
        values = memoryview(mmap.mmap(self._descriptor, self._size * self._rows * 8)).cast("d")
        rows: list[Any] = [values[at : at + self._size] for at in range(0, len(values), self._size)]
        counters = SharedCounters(0)
        counters.mine, counters.rows, counters.master = rows[index], rows, self._master
        return counters


def _open(size: int, rows: int, descriptor: Any, master: int) -> CounterMemory:
    return CounterMemory(size, rows, descriptor.detach(), master)
