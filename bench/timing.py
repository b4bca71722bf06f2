"""Timing in turns: what disturbs the machine disturbs all contenders.

A figure is only ever read beside the others of its run.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Contender:
    """Something to time.

    Attributes:
        name: shown in tables.
        call: what is timed.
        check: raises answers.MismatchError if what `call` returned is wrong; called outside the
            timing, on the last result of every round.
    """

    name: str
    call: Callable[[], Any]
    check: Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Durations:
    """The durations of one contender.

    Attributes:
        seconds: of one call; one for each round, or for each call where those are timed singly.
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
        """The 99th percentile by nearest rank, in seconds: of fewer than 100, the longest."""
        ordered = sorted(self.seconds)
        return ordered[-(len(ordered) // 100) - 1]


def count(text: str) -> int:
    """Reads how many rounds or requests a command line asks for: one at least."""
    if not text.isascii() or not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def race(
    contenders: Sequence[Contender], rounds: int, round_seconds: float
) -> dict[str, Durations]:
    """Times contenders in turns.

    Args:
        contenders: with different names.
        rounds: how many turns each has; a new one begins each round.
        round_seconds: about how long a turn lasts: a call is repeated until then.

    Returns:
        By name, seconds of one call, one for each round.

    Raises:
        MismatchError: a result was wrong.

    The garbage collector is off while a turn is timed.
    """
    calls = {contender.name: _calibrate(contender, round_seconds) for contender in contenders}
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        first = number % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            seconds[contender.name].append(_time_turn(contender, calls[contender.name]))
    return {name: Durations(values) for name, values in seconds.items()}


def _calibrate(contender: Contender, round_seconds: float) -> int:
    """How many calls fill a turn. The first ones, which find everything cold, are not counted."""
    calls = 1
    while True:
        seconds = _time_turn(contender, calls) * calls
        if seconds >= round_seconds / 4 or calls >= 2**20:
            return max(1, round(calls * round_seconds / seconds))
        calls *= 4


def _time_turn(contender: Contender, calls: int) -> float:
    call = contender.call
    result = None
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
        seconds = time.perf_counter() - start
    finally:
        gc.enable()
    contender.check(result)
    return seconds / calls
