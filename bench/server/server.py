"""Whole servers under load, beside the same model behind other servers.

All are started, but only the one whose turn it is runs; the others are stopped. Responses are
compared with a plain `session.run`, before and under the load of each turn.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from common.answers import BATCH_TOLERANCE, MismatchError, Question
from common.cases import CASES, FOLDER, Case
from common.chart import check_charts
from common.load import Load, medians, put_under_load, wrk
from common.reference import Reference
from common.report import CannotMeasureError, Figure, Report, of_group
from common.servers import Server
from common.timing import count, take_turns
from server.beside import measure_beside
from server.contenders import CONTENDERS, Contender, other_build
from server.environments import Environment
from server.tables import GOAL_CONNECTIONS, MANY_CONNECTIONS, RAW, draw_chart, goals, tables

_RESULTS = Path(__file__).resolve().parents[1] / "results" / "server"
_FEW = ("gpux", "gpux-wsgi", "fastapi", "kibae")
_TEXTS = "texts"
_PATIENCE_SECONDS = 20.0

# A server's name, and its number of connections.
_Key = tuple[str, int]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument("--all", action="store_true", help="every server, and bench/results")
    parser.add_argument("--case", nargs="+", choices=[*CASES, _TEXTS], help="default: all")
    few = f"default: {' '.join(_FEW)}"
    parser.add_argument("--server", nargs="+", choices=list(CONTENDERS), help=few)
    parser.add_argument("--against", type=Path, metavar="GPUX", help="bin/gpux of another build")
    usual = "default: 1 8, and 64 256 for mlp"
    parser.add_argument("--connections", nargs="+", type=count, help=usual)
    parser.add_argument("--rounds", type=count, default=3, help="turns of each server (default 3)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn (default 1)")
    parser.add_argument("--quick", action="store_true", help="one round of 0.3 seconds")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a chart, .svg or .png")


def measure(options: argparse.Namespace) -> Report:
    """Measures every case on every server."""
    wrk()
    if options.all or options.chart:
        check_charts()
    run = _Run(options)
    report = run.report()
    for name in options.case or [*CASES, _TEXTS]:
        run.measure(name)
        report = run.report()
        if options.all:  # after each case, so that an interrupted run loses none
            report.write_json(_RESULTS.with_suffix(".json"))
            _RESULTS.with_suffix(".txt").write_text(report.text() + "\n")
    loads = of_group(run.figures, "load")
    charts = [options.chart, _RESULTS.with_suffix(".svg") if options.all else None]
    for file in filter(None, charts if loads else []):
        draw_chart(run.figures, run.rounds, file)
    return report


class _Run:
    """A run of the command, with its results so far.

    Attributes:
        rounds: turns of each server.
        figures: the results.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.rounds: int = 1 if options.quick else options.rounds
        self.figures: list[Figure] = []
        self._seconds: float = 0.3 if options.quick else options.seconds
        self._connections: Sequence[int] = sorted(set(options.connections or []))
        self._is_against = options.against is not None
        self._missing: dict[str, str] = {}
        names = options.server or (CONTENDERS if options.all else _FEW)
        asked = [contender for name, contender in CONTENDERS.items() if name in names]
        if options.against:
            asked += other_build(options.against)
        self._environments: dict[Contender, Environment] = {}
        for contender in asked:
            try:
                self._environments[contender] = contender.install()
            except CannotMeasureError as error:
                self._missing[contender.name] = str(error)

    def measure(self, name: str) -> None:
        """Measures a case."""
        if name == _TEXTS:
            _tell("texts")
            fronts = {each: env for each, env in self._environments.items() if each.is_gpux}
            self.figures += measure_beside(fronts, self.rounds, self._seconds, self._missing)
            return
        many = MANY_CONNECTIONS if name == "mlp" else ()
        connections = self._connections or (1, GOAL_CONNECTIONS, *many)
        self.figures += self._measure_case(CASES[name], connections)

    def report(self) -> Report:
        """The report of all that has been measured."""
        cases = dict.fromkeys(figure["case"] for figure in of_group(self.figures, "load"))
        return Report(
            benchmark="server",
            settings={
                "rounds": self.rounds,
                "window_seconds": self._seconds,
                "not_measured": dict(self._missing),
            },
            figures=self.figures,
            tables=tables(self.figures),
            goals=list(goals(self.figures, is_against=self._is_against)),
            notes=[
                *(f"{name}: {CASES[name].about}." for name in cases),
                *(f"{each.name}: {each.about}." for each in self._environments),
                f"{RAW}: session.run in one thread on one core, without a server.",
                f"Medians of {self.rounds} rounds; peak memory after the first. CPU: of the "
                "server's processes for one request. One ONNX Runtime thread a run unless said "
                "otherwise.",
                *(f"NOT MEASURED: {key}: {_brief(why)}" for key, why in self._missing.items()),
                *_about_responses(self.figures),
            ],
            versions={
                each.name: environment.packages
                for each, environment in self._environments.items()
                if environment.packages
            },
        )

    def _measure_case(self, case: Case, connections: Sequence[int]) -> Iterator[Figure]:
        """A row per server and number of connections, and one for the model alone."""
        model, body = case.write(FOLDER)
        v2_body = body.with_suffix(".v2.json")
        v2_body.write_bytes(case.v2_body())
        with ExitStack() as stack:
            alone = stack.enter_context(Reference(model))
            expected = alone.run(case.request())
            contestants: list[_Contestant] = []
            for contender, environment in self._environments.items():
                file = v2_body if contender.is_v2 else body
                what = f"{contender.name}, case {case.name}"
                question = Question(what, file.read_bytes(), expected, is_v2=contender.is_v2)
                _tell(f"{case.name}: {contender.name} starts")
                try:
                    starting = contender.serve(environment, model, question.body)
                    server = stack.enter_context(starting)
                    contestants.append(_Contestant(contender, server, file, question))
                except CannotMeasureError as error:
                    self._missing[what] = str(error)
            if not contestants:
                raise CannotMeasureError(f"case {case.name}: nothing could start: {self._missing}")
            groups: list[dict[_Key, Callable[[], Load | None]]] = [
                {
                    (contestant.name, number): partial(contestant.turn, number, self._seconds)
                    for contestant in contestants
                }
                for number in connections  # ascending, as the peak memory is due to them
            ]
            raw: list[float] = []
            groups.append({(RAW, 0): lambda: raw.extend(alone.repeat(self._seconds / 2))})
            _tell(f"{case.name}: {self.rounds} rounds")
            taken = take_turns(groups, self.rounds)
        for number in connections:
            for contestant in contestants:
                loads = [load for load in taken[contestant.name, number] if load is not None]
                yield {"case": case.name, **contestant.figure(number, loads)}
        limit: Figure = {"group": "alone", "case": case.name, "server": RAW, "kind": "limit"}
        yield {**limit, "connections": None, "per_second": 1 / statistics.median(raw)}


class _Contestant:
    """A running server, for one case, stopped but for its turns.

    A peer's wrong response is recorded in its figures; ours ends the run.
    """

    def __init__(
        self, contender: Contender, server: Server, body: Path, question: Question
    ) -> None:
        self.name = contender.name
        self._contender = contender
        self._server = server
        self._body = body
        self._question = question
        self._differs = ""
        self._has_other_last_bits = False
        self._peaks: dict[int, int] = {}
        self._problems: dict[int, str] = {}
        with server.client() as client:
            self._check(client.post(question.body)[1], tolerance=0.0)
        server.processes.freeze()

    def turn(self, connections: int, seconds: float) -> Load | None:
        """Runs one turn; None once one with as many connections has failed."""
        if connections in self._problems:
            return None
        processes = self._server.processes
        processes.resume()
        try:
            load = put_under_load(self._server, self._body, connections, seconds, self._check)
            processes.wait_until_idle(_PATIENCE_SECONDS)
            self._peaks.setdefault(connections, processes.peak_bytes())
        except CannotMeasureError as error:
            self._problems[connections] = str(error)
            return None
        finally:
            processes.freeze()
        return load

    def _check(self, text: bytes, tolerance: float = BATCH_TOLERANCE) -> None:
        """Records last bits that differ as they may in a batch; all else is wrong."""
        try:
            self._question.check(text)
        except MismatchError as error:
            try:
                if not tolerance:
                    raise
                self._question.check(text, tolerance)
                self._has_other_last_bits = True
            except MismatchError:
                if self._contender.is_gpux:
                    raise
                self._differs = str(error)

    def figure(self, connections: int, loads: Sequence[Load]) -> Figure:
        """The results with this number of connections."""
        figure: Figure = {"group": "load", "server": self.name, "kind": self._contender.kind}
        figure |= {"connections": connections, **medians(loads)}
        figure |= {key: sum(getattr(each, key) for each in loads) for key in ("requests", "errors")}
        figure |= {"differs": self._differs, "has_other_last_bits": self._has_other_last_bits}
        figure["per_second_of_rounds"] = [load.per_second for load in loads]
        figure["peak_mib"] = self._peaks.get(connections, 0) / 2**20
        return {**figure, "problem": self._problems.get(connections, "")}


def _about_responses(figures: Sequence[Figure]) -> list[str]:
    loads = of_group(figures, "load")

    def named(figure: Figure) -> str:
        return f"{figure['server']} ({figure['case']})"

    wrong = {named(figure): figure["differs"] for figure in loads if figure["differs"]}
    rounded = sorted({named(figure) for figure in loads if figure["has_other_last_bits"]})
    return [
        *(
            f"{named(figure)}, {figure['connections']} connections: {figure['problem']}"
            for figure in loads
            if figure["problem"]
        ),
        *(f"WRONG: {name}: {text}" for name, text in wrong.items()),
        *(
            [f"Other last bits in batches, within {BATCH_TOLERANCE:g}: {', '.join(rounded)}."]
            if rounded
            else []
        ),
        f"All {'other ' if rounded or wrong else ''}responses looked at, first ones and some under "
        "each load, were equal to session.run's bit for bit.",
    ]


def _brief(reason: str) -> str:
    """The first and last line of a reason; the JSON has all of it."""
    first, *others = reason.splitlines()
    return f"{first} {others[-1]}" if others else first


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
