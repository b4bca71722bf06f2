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
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to time.

    Attributes:
        name: in tables.
        call: the function to time.
        check: raises MismatchError for a wrong result of `call`; called outside the timing,
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


def take_turns(groups: Sequence[Mapping[_K, Callable[[], _T]]], rounds: int) -> dict[_K, list[_T]]:
    """Gives each turn once per round.

    Args:
        groups: of turns. In each round the groups keep their order, and the turns of a group have a
            random one, which differs from round to round.
        rounds: the number of rounds.

    Returns:
        By key, what the turns returned, one for each round.
    """
    taken: dict[_K, list[_T]] = {key: [] for turns in groups for key in turns}
    chance = random.Random(0)
    for _ in range(rounds):
        for turns in groups:
            for key in chance.sample(list(turns), len(turns)):
                taken[key].append(turns[key]())
    return taken


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

    turns = {contender.name: turn(contender) for contender in contenders}
    return {name: Durations(seconds) for name, seconds in take_turns([turns], rounds).items()}


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


@contextmanager
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
