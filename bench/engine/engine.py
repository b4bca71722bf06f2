"""What the engine costs a request, and what batches are worth under load.

Contenders are processes of their own, which take turns. Responses are checked: in process the first
one, over HTTP those of a client beside the load.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.cases import CASES
from common.load import Load, medians, put_under_load, wrk
from common.report import CannotMeasureError, Figure, Goal, Report, of_group, table
from common.servers import serve_gpux
from common.timing import take_turns
from engine import calls
from engine.cases import BATCHED, CLASSIFIER

_CONNECTIONS = 32
# Rows that run in one batch may be summed in another order than a row alone.
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured.

    Attributes:
        load_rounds, load_seconds: turns of each server under load, and their duration.
        call_rounds, call_seconds: turns of each contender of `call`, and their duration.
        call_starts: how often each of its servers is started.
    """

    load_rounds: int = 5
    load_seconds: float = 3.0
    call_rounds: int = 30
    call_seconds: float = 0.2
    call_starts: int = 10


_QUICK = Pace(2, 1.0, 10, 0.1, 5)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument("--part", action="append", choices=list(_PARTS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="less of everything")
    about = "the interpreter of another installation of gpux, for the part `call`"
    parser.add_argument("--against", type=Path, metavar="PYTHON", help=about)


def measure(options: argparse.Namespace) -> Report:
    """Measures the parts asked for."""
    parts = options.part or list(_PARTS)
    pace = _QUICK if options.quick else Pace()
    if set(parts) != {"call"}:
        wrk()
    before = os.getloadavg()[0]
    figures = [figure for part in parts for figure in _PARTS[part](pace, options.against)]
    cases = [*BATCHED.values(), CLASSIFIER, CASES["conv"], CASES["tokens32"]]
    measured = {figure["case"] for figure in figures}
    return Report(
        benchmark="engine",
        settings={
            "parts": parts,
            "pace": {name: getattr(pace, name) for name in Pace.__slots__},
            "load_average_before": before,
        },
        figures=figures,
        tables=[
            *calls.tables(figures),
            table(
                of_group(figures, "throughput"),
                f"{_CONNECTIONS} clients={{case}} | batching={{batching}} | "
                "requests/s={per_second:.0f} | p50 ms={p50_ms:.2f} | p99 ms={p99_ms:.2f} | "
                "CPU us={cpu_us:.0f} | cores of wrk={wrk_cores:.2f}",
            ),
        ],
        goals=[*(calls.goals(figures) if "call" in parts else ()), *goals(figures)],
        notes=[
            *(f"{case.name}: {case.about}." for case in cases if case.name in measured),
            f"Load average before the run: {before:.1f}.",
        ],
    )


def measure_throughput(pace: Pace, _: Path | None) -> Iterator[Figure]:
    """Many clients: `--batching auto` against `off`."""
    for name, case in BATCHED.items():
        model, body, question = case.prepare()
        check = partial(question.check, tolerance=_TOLERANCE)
        turns: dict[str, Callable[[], Load]] = {}
        with ExitStack() as stack:
            for batching in ("auto", "off"):
                server = stack.enter_context(serve_gpux(name, model, "--batching", batching))
                turns[batching] = partial(
                    put_under_load, server, body, _CONNECTIONS, pace.load_seconds, check
                )
            taken = take_turns([turns], pace.load_rounds)
        for batching, loads in taken.items():
            if any(load.errors for load in loads):
                raise CannotMeasureError(f"{name}, batching {batching}: {loads}")
            about: Figure = {"group": "throughput", "case": name, "batching": batching}
            yield {**about, "connections": _CONNECTIONS, **medians(loads)}


_PARTS: Mapping[str, Callable[[Pace, Path | None], Iterator[Figure]]] = {
    "call": lambda pace, against: calls.measure_calls(
        pace.call_rounds, pace.call_seconds, pace.call_starts, against
    ),
    "throughput": measure_throughput,
}


def goals(figures: Sequence[Figure]) -> Iterator[Goal]:
    """The goals for batches."""
    rates = {
        (figure["case"], figure["batching"]): figure["per_second"]
        for figure in of_group(figures, "throughput")
    }
    for case, limits in (("weights", (2, 4)), ("mlp", (0.97, 1.1)), ("tokens", (0.97, 1.1))):
        if (case, "auto") in rates:
            got = rates[case, "auto"] / rates[case, "off"]
            what = f"{_CONNECTIONS} clients, {case}: requests/s, batching auto over off"
            yield Goal(what, got, *limits)
