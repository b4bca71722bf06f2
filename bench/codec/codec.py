"""JSON text and Python values to tensors and back, beside other libraries.

A decoder turns the whole body of a request into a tensor, an encoder a tensor into the whole
response. Every result is compared bit for bit with NumPy's float(text) → float64 → type.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from codec.bodies import (
    BOXES,
    HWC,
    SEVENTEEN_DIGITS,
    SHORT_IDS,
    TABULAR,
    TOKEN_IDS,
    Body,
    bodies,
)
from codec.contenders import (
    FROM_ARRAY,
    FROM_LIST,
    NUMPY,
    OURS,
    PACKAGES,
    decoders,
    encoders,
    installed,
    walkers,
)
from common.answers import MismatchError
from common.report import Figure, Goal, Report, table
from common.timing import Contender, count, on_one_core, race

# must and aim, of pysimdjson's time.
_DECODE_GOALS = {
    SEVENTEEN_DIGITS: (1.5, 2.5),
    TOKEN_IDS: (2.0, 4.0),
    HWC: (2.5, 4.0),
    BOXES: (2.0, 3.0),
    TABULAR: (2.0, 3.0),
    SHORT_IDS: (2.0, 3.0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument("--rounds", type=count, default=15, help="turns of each (default 15)")
    parser.add_argument("--round-ms", type=float, default=30, help="of each turn (default 30)")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 5 ms")


def measure(options: argparse.Namespace) -> Report:
    """Measures all bodies."""
    pace = (3, 5e-3) if options.quick else (options.rounds, options.round_ms / 1e3)
    return measure_bodies(list(bodies()), *pace)


def measure_bodies(measured: Sequence[Body], rounds: int, round_seconds: float) -> Report:
    """Measures these bodies with the installed libraries.

    Args:
        measured: the bodies.
        rounds: turns of each contender.
        round_seconds: about how long a turn lasts.
    """
    load = os.getloadavg()[0]
    libraries = installed()
    groups: dict[str, Callable[[Body], list[Contender]]] = {
        "decode": lambda body: decoders(body, libraries),
        "encode": lambda body: encoders(body, libraries),
        FROM_LIST: partial(walkers, FROM_LIST),
        FROM_ARRAY: partial(walkers, FROM_ARRAY),
    }
    figures: list[Figure] = []
    with on_one_core():
        for group, make in groups.items():
            for body in measured:
                figures += _measure(group, body, make(body), rounds, round_seconds)
    missing = [package for module, package in PACKAGES.items() if module not in libraries]
    differing = sum(bool(figure["differs"]) for figure in figures)
    return Report(
        benchmark="codec",
        settings={"rounds": rounds, "round_ms": round_seconds * 1e3, "not_installed": missing},
        figures=figures,
        tables=[
            table(
                figures,
                "={group} | body={body} | type={type} | by={by} | ns/number={median_ns:.2f} | "
                "best={best_ns:.2f} | GB/s={median_gb_s:.2f} | best={best_gb_s:.2f} | "
                "gpux is={ratio_median:.2f}x | of best={ratio_best:.2f}x | bits={bits}",
            )
        ],
        goals=list(_goals(figures)),
        notes=[
            f"Medians of {rounds} rounds, and the best one. GB/s of JSON text, each its own.",
            "gpux is: the other's time over gpux's. One thread, kept on one core.",
            f"{differing} results differed: see the tables."
            if differing
            else "All results were equal bit for bit to float(text) → float64 → type.",
            *(f"{package} is not installed: left out." for package in missing),
            f"Load average before the run: {load:.1f}.",
        ],
    )


def _measure(
    group: str, body: Body, contenders: Sequence[Contender], rounds: int, round_seconds: float
) -> Iterator[Figure]:
    differs: dict[str, str] = {}
    durations = race(_tolerated(contenders, differs), rounds, round_seconds)
    made = body.answer if group == "encode" else body.tensor
    ours = durations[OURS]
    for contender in contenders:
        name, taken = contender.name, durations[contender.name]
        figure: Figure = {"group": group, "body": body.name, "type": made.dtype.name, "by": name}
        figure |= {"numbers": made.size, "differs": differs.get(name, "")}
        figure["bits"] = f"DIFFERS {differs[name]}" if name in differs else "equal"
        for key, seconds, our_seconds in (
            ("median", taken.median, ours.median),
            ("best", taken.best, ours.best),
        ):
            figure[f"{key}_ns"] = seconds / made.size * 1e9
            if group in ("decode", "encode"):
                text = body.text if group == "decode" else contender.call()
                figure[f"{key}_gb_s"] = len(text) / seconds / 1e9
            if name != OURS:
                figure[f"ratio_{key}"] = seconds / our_seconds
        yield figure


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


def _goals(figures: Sequence[Figure]) -> Iterator[Goal]:
    for figure in figures:
        group, body, by, got = (figure.get(key) for key in ("group", "body", "by", "ratio_median"))
        what = f"{group}, {body}, of {by}"
        if (group, by) == ("decode", "pysimdjson") and body in _DECODE_GOALS:
            yield Goal(what, got, *_DECODE_GOALS[body])
        elif (group, by) == ("decode", "orjson + numpy"):
            yield Goal(what, got, 3.0, 6.0)
        elif (group, by, figure.get("type")) == ("encode", "orjson", "float32"):
            yield Goal(what, got, 1.5, 3.0)
        elif (group, body, by) == (FROM_LIST, SEVENTEEN_DIGITS, NUMPY):
            yield Goal(what, got, 8.0)
