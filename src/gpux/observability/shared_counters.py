"""Counters shared by several processes: each process writes its own row and reads all rows.

A row outlives the process that wrote it, and the replacement process continues it: no count is
lost, even if a process is killed. The values are doubles aligned to eight bytes, which processors
load and store atomically.
"""

import mmap
import os
from collections.abc import MutableSequence, Sequence
from multiprocessing.reduction import DupFd
from typing import Any

CounterRow = MutableSequence[float]


class SharedCounters:
    """The rows of values, as seen by a process that writes one of them.

    Attributes:
        mine: the row that this process writes.
        rows: all rows.
        master: id of the process that started the writers; None for a single process.
    """

    def __init__(self, size: int) -> None:
        """Creates counters of this process alone: a list of floats, cheaper than shared memory."""
        self.mine: CounterRow = [0.0] * size
        self.rows: Sequence[CounterRow] = [self.mine]
        self.master: int | None = None

    def sums(self) -> list[float]:
        """Returns the sum of each value over all rows."""
        return [sum(column) for column in zip(*self.rows, strict=True)]


class CounterMemory:
    """Shared memory of SharedCounters, owned jointly by all processes that have it open.

    Passed to a new process (multiprocessing's "spawn") as an argument.

    Args:
        size: number of values in a row.
        rows: number of processes that write.
        descriptor: of existing memory.
        master: id of the process that created it.
    """

    def __init__(
        self, size: int, rows: int, descriptor: int | None = None, master: int | None = None
    ) -> None:
        self._size = size
        self._rows = rows
        self._master = master or os.getpid()
        if descriptor is None:
            descriptor = os.memfd_create("gpux-counters")  # freed with the last process that has it
            os.ftruncate(descriptor, size * rows * 8)
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        """For multiprocessing, which duplicates the descriptor into the new process."""
        return _open, (self._size, self._rows, DupFd(self._descriptor), self._master)

    def counters(self, index: int) -> SharedCounters:
        """Maps the memory, for the process that writes the row of this index."""
        values = memoryview(mmap.mmap(self._descriptor, self._size * self._rows * 8)).cast("d")
        rows: list[Any] = [values[at : at + self._size] for at in range(0, len(values), self._size)]
        counters = SharedCounters(0)
        counters.mine, counters.rows, counters.master = rows[index], rows, self._master
        return counters


def _open(size: int, rows: int, descriptor: Any, master: int) -> CounterMemory:
    return CounterMemory(size, rows, descriptor.detach(), master)
