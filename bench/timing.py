"""Interleaved timing: a disturbance of the machine affects all contenders.

A time is comparable only with the others of its run.
"""

import argparse
import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier
from typing import Any, TypeVar

_K = TypeVar("_K", bound=Hashable)

# A thread that waits this long for the others of its turn waits for one that has failed.
_GATE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to time.

    Attributes:
        name: in tables.
        call: the function to time.
        check: raises answers.MismatchError for a wrong result of `call`; called outside the timing,
            on the last result of every round.
    """

    name: str
    call: Callable[[], Any]
    check: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Durations:
    """The durations of one contender.

    Attributes:
        seconds: of one call, averaged per round, or of each single call.
    """

    seconds: Sequence[float]

    @property
    def best(self) -> float:
        """The shortest, in seconds."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """The 99th percentile by nearest rank, in seconds; the longest of fewer than 100."""
        ordered = sorted(self.seconds)
        return ordered[-(len(ordered) // 100) - 1]


def count(text: str) -> int:
    """Parses a number of rounds or requests from the command line: at least 1."""
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


@contextmanager
def on_one_core() -> Iterator[None]:
    """Pins this thread to one core while the context lasts, to keep its caches."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def race(
    contenders: Sequence[Contender], rounds: int, round_seconds: float
) -> dict[str, Durations]:
    """Times contenders in turns, in this thread.

    Args:
        contenders: with different names.
        rounds: the number of turns of each; every round has its own random order.
        round_seconds: approximate duration of a turn, in which a call is repeated.

    Returns:
        By name, seconds of one call, one for each round.

    Raises:
        MismatchError: a result was wrong.

    The garbage collector is off while a turn is timed. The first call of a turn, which finds the
    caches full of the others' data, is not counted.
    """

    def turn(contender: Contender) -> Callable[[], float]:
        calls = _calibrate(contender, round_seconds)
        return lambda: _time_turn(contender, calls)

    return _take_turns({contender.name: turn(contender) for contender in contenders}, rounds)


def race_threads(
    contenders: Sequence[Contender], threads: Sequence[int], rounds: int, round_seconds: float
) -> dict[tuple[str, int], Durations]:
    """Times contenders in turns, in several threads.

    Args:
        contenders: with different names and thread-safe calls.
        threads: the numbers of threads, each timed separately.
        rounds: as in race().
        round_seconds: approximate duration of a turn with one thread. With more threads it has the
            same number of calls, and each thread takes the next one as soon as it is free.

    Returns:
        By name and number of threads: the time from the first call's start to the last one's end,
        in seconds, divided by the calls.

    Raises:
        MismatchError: a result was wrong.
    """
    with ThreadPoolExecutor(max(threads)) as workers:

        def turn(contender: Contender, number: int, calls: int) -> Callable[[], float]:
            return lambda: _time_threads(workers, contender, number, calls)

        turns: dict[tuple[str, int], Callable[[], float]] = {}
        for contender in contenders:
            calls = max(2 * max(threads), _calibrate(contender, round_seconds))
            turns |= {(contender.name, n): turn(contender, n, calls) for n in threads}
        return _take_turns(turns, rounds)


def _take_turns(turns: Mapping[_K, Callable[[], float]], rounds: int) -> dict[_K, Durations]:
    seconds: dict[_K, list[float]] = {key: [] for key in turns}
    order = list(turns)
    chance = random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for key in order:
            seconds[key].append(turns[key]())
    return {key: Durations(values) for key, values in seconds.items()}


def _calibrate(contender: Contender, round_seconds: float) -> int:
    """The number of calls that fill a turn."""
    calls = 1
    while True:
        seconds = _time_turn(contender, calls) * calls
        if seconds >= round_seconds / 4 or calls >= 2**20:
            return max(1, round(calls * round_seconds / seconds))
        calls *= 4


def _time_turn(contender: Contender, calls: int) -> float:
    call = contender.call
    result = call()
    with _no_collector():
        start = time.perf_counter()
        for _ in range(calls):
            result = None  # freed before the next call, as on a server
            result = call()
        seconds = time.perf_counter() - start
    contender.check(result)
    return seconds / calls


def _time_threads(
    workers: ThreadPoolExecutor, contender: Contender, number: int, calls: int
) -> float:
    call = contender.call
    tickets = iter(range(calls))  # shared: the GIL gives each to one thread
    starts: list[float] = []
    gate = Barrier(number, lambda: starts.append(time.perf_counter()))

    def work() -> tuple[float, Any]:
        result = call()
        gate.wait(_GATE_SECONDS)
        for _ in tickets:
            result = None
            result = call()
        return time.perf_counter(), result

    with _no_collector():
        ends = [task.result() for task in [workers.submit(work) for _ in range(number)]]
    for _, result in ends:
        contender.check(result)
    return (max(end for end, _ in ends) - starts[0]) / calls


@contextmanager
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
