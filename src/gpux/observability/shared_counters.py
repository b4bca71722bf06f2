"""Counters shared by several processes: each process writes its own row and reads all rows.

A row outlives the process that wrote it, and the replacement process continues it: no count is
lost, even if a process is killed. The values are doubles aligned to eight bytes, which processors
load and store atomically.
"""

import mmap
import os
from collections.abc import Sequence
from typing import TypeAlias

CounterRow: TypeAlias = "memoryview[float]"  # not to be subscripted before Python 3.14


class SharedCounters:
    """The rows of values, as seen by a process that writes one of them.

    Attributes:
        mine: the row that this process writes.
        rows: all rows.
        master: id of the process that started the writers; None for a single process.
    """

    def __init__(self, size: int) -> None:
        """Creates counters of this process alone."""
        self.mine: CounterRow = memoryview(bytearray(8 * size)).cast("d")
        self.rows: Sequence[CounterRow] = [self.mine]
        self.master: int | None = None

    def sums(self) -> list[float]:
        """Returns the sum of each value over all rows."""
        return [sum(column) for column in zip(*self.rows, strict=True)]


class CounterMemory:
    """Shared memory of SharedCounters, which forked processes inherit.

    Created by the process that starts the writers, before it forks the first. It is freed with the
    last process that has it.

    Args:
        size: number of values in a row.
        rows: number of processes that write.
    """

    def __init__(self, size: int, rows: int) -> None:
        values = memoryview(mmap.mmap(-1, size * rows * 8)).cast("d")
        self._rows: list[CounterRow] = [
            values[at : at + size] for at in range(0, size * rows, size)
        ]
        self._master = os.getpid()

    def counters(self, index: int) -> SharedCounters:
        """Returns the counters of the process that writes the row of this index."""
        counters = SharedCounters(0)
        counters.mine, counters.rows = self._rows[index], self._rows
        counters.master = self._master
        return counters
