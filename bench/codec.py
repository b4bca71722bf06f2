"""JSON text to tensors and back, beside other libraries, in one thread and in several.

A decoder turns the whole body of a request into a tensor; an encoder turns a tensor into the whole
response. Every result is compared bit for bit with NumPy's float(text) → float64 → type.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from answers import MismatchError
from codec_bodies import SEVENTEEN_DIGITS, TOKEN_IDS, Body, bodies
from codec_contenders import (
    MACHINE,
    OURS,
    PACKAGES,
    Libraries,
    decoders,
    encoders,
    installed,
    machine,
)
from codec_table import Figure, tables
from report import Report
from timing import Contender, Durations, count, on_one_core, race, race_threads

_GROUPS = {"decode": decoders, "encode": encoders}
_THREADS = (1, 2, 4)
_THREADED_BODIES = (SEVENTEEN_DIGITS, TOKEN_IDS)
_THREADED = (OURS, "orjson + numpy", "pysimdjson", "orjson")
# Some threads wait at the start and end of a turn, so turns with threads are longer by this factor.
_THREADS_TURN = 4


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: turns of each contender.
        round_seconds: about how long a turn lasts.
    """

    rounds: int
    round_seconds: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument(
        "--rounds", type=count, default=15, help="turns of each contender (default 15)"
    )
    parser.add_argument(
        "--round-ms", type=float, default=30, help="about how long a turn lasts (default 30)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="3 rounds of 5 ms: seconds instead of minutes"
    )


def measure(options: argparse.Namespace) -> Report:
    """Measures all bodies."""
    pace = Pace(3, 5e-3) if options.quick else Pace(options.rounds, options.round_ms / 1e3)
    return measure_bodies(list(bodies()), pace)


def measure_bodies(measured: Sequence[Body], pace: Pace) -> Report:
    """Measures these bodies with the installed libraries."""
    load = os.getloadavg()[0]
    libraries = installed()
    figures: list[Figure] = []
    with on_one_core():
        for group in _GROUPS:
            for body in measured:
                figures += _measure_one_thread(group, body, libraries, pace)
    for group in _GROUPS:
        for body in measured:
            if body.name in _THREADED_BODIES:
                figures += _measure_threads(group, body, libraries, pace)
    missing = [package for module, package in PACKAGES.items() if module not in libraries]
    differing = sum(bool(figure["differs"]) for figure in figures)
    return Report(
        benchmark="codec",
        settings={
            "rounds": pace.rounds,
            "round_ms": pace.round_seconds * 1e3,
            "threads_round_ms": pace.round_seconds * _THREADS_TURN * 1e3,
            "load_average_before": load,
            "not_installed": missing,
        },
        figures=figures,
        table=tables(figures),
        notes=[
            f"Medians of {pace.rounds} rounds, and the best one. GB/s of JSON text, each its own.",
            "Decode and encode: one thread, kept on one core. Threads: on all "
            f"{len(os.sched_getaffinity(0))} cores, GB/s of all together.",
            "gpux is: the other's time over gpux's.",
            f"{differing} results differed from float(text) → float64 → type: see the tables."
            if differing
            else "All results were equal bit for bit to float(text) → float64 → type.",
            *(f"{package} is not installed: left out." for package in missing),
            f"Load average before the run: {load:.1f}.",
        ],
    )


def _measure_one_thread(
    group: str, body: Body, libraries: Libraries, pace: Pace
) -> Iterator[Figure]:
    differs: dict[str, str] = {}
    contenders = _tolerated(_GROUPS[group](body, libraries), differs)
    durations = race(contenders, pace.rounds, pace.round_seconds)
    ours = durations[OURS]
    for contender in contenders:
        theirs = durations[contender.name]
        yield {
            **_figure(group, body, contender, theirs, differs),
            "ratio_median": theirs.median / ours.median,
            "ratio_best": theirs.best / ours.best,
        }


def _measure_threads(group: str, body: Body, libraries: Libraries, pace: Pace) -> Iterator[Figure]:
    differs: dict[str, str] = {}
    threaded = [each for each in _GROUPS[group](body, libraries) if each.name in _THREADED]
    contenders = _tolerated([*threaded, machine(body)], differs)
    turn_seconds = pace.round_seconds * _THREADS_TURN
    durations = race_threads(contenders, _THREADS, pace.rounds, turn_seconds)
    for contender in contenders:
        one = durations[contender.name, 1]
        for threads in _THREADS:
            several = durations[contender.name, threads]
            yield {
                **_figure(f"{group}, threads", body, contender, several, differs),
                "threads": threads,
                "ratio_median": one.median / several.median,
                "ratio_best": one.best / several.best,
            }


def _tolerated(contenders: Sequence[Contender], differs: dict[str, str]) -> list[Contender]:
    """Wrong results of peers are recorded in `differs`; ours end the run."""

    def tolerate(contender: Contender) -> Contender:
        def check(result: Any) -> None:
            try:
                contender.check(result)
            except MismatchError as error:
                differs[contender.name] = str(error)

        return contender if contender.name == OURS else replace(contender, check=check)

    return [tolerate(contender) for contender in contenders]


def _figure(
    group: str, body: Body, contender: Contender, taken: Durations, differs: dict[str, str]
) -> Figure:
    """The keys common to all figures."""
    numbers = body.tensor.size
    is_decode = "decode" in group
    reads = is_decode or contender.name == MACHINE
    text_bytes = len(body.text if reads else contender.call())
    return {
        "group": group,
        "body": body.name,
        "type": (body.tensor if is_decode else body.answer).dtype.name,
        "by": contender.name,
        "numbers": numbers,
        "text_bytes": text_bytes,
        "median_ns": taken.median / numbers * 1e9,
        "best_ns": taken.best / numbers * 1e9,
        "median_gb_s": text_bytes / taken.median / 1e9,
        "best_gb_s": text_bytes / taken.best / 1e9,
        "differs": differs.get(contender.name, ""),
    }
