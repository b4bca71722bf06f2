"""Whole servers under load, beside the same model behind other servers.

All are started, but only the one whose turn it is runs; the others are stopped. Responses are
compared with a plain `session.run`, before and under the load of each turn.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import server_chart
from answers import MismatchError, check_text, check_v2_text
from cases import CASES, FOLDER, Case
from contenders import CONTENDERS, Client, Contender, Server, serving
from environments import Environment
from load import Load, put_under_load, wrk
from python_runtime import load_runtime
from report import CannotMeasureError, Report
from server_table import RAW, Figure, tables
from timing import Durations, count, on_one_core

from gpux.tensors.signature import BY_ONNX

_RESULTS = Path(__file__).resolve().parent / "results" / "server"
_CONNECTIONS = (1, 8, 32, 64)
_FEW = ("gpux", "gpux-granian", "fastapi")
# Ray sometimes fails to start right after the machine was busy.
_START_TRIES = 2
_WARM_UP_SECONDS = 0.3
# For slow responses the window spans a few of them, at least one.
_ANSWERS_IN_WINDOW, _LONG_WINDOW_SECONDS = 4, 6.0
_ANSWERS_IN_LONG_WINDOW = 1.5
_PATIENCE_SECONDS = 20.0

# When rows of several requests run in one batch, products may be summed in another order.
_ROUNDING = 1e-5

# (response text, by how much it may differ) → None; raises MismatchError.
_Check = Callable[[bytes, float], None]
_Run = Callable[[], dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument(
        "--all",
        action="store_true",
        help="every server, and the results to bench/results/server.txt, .json and .svg",
    )
    parser.add_argument("--case", nargs="+", choices=list(CASES), help="default: all")
    parser.add_argument(
        "--server",
        nargs="+",
        choices=list(CONTENDERS),
        help=f"default: {' '.join(_FEW)}",
    )
    parser.add_argument(
        "--connections", nargs="+", type=count, default=_CONNECTIONS, help="default: 1 8 32 64"
    )
    parser.add_argument("--rounds", type=count, default=3, help="turns of each server (default 3)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="measured in each turn, more where an answer takes long (default 1)",
    )
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a chart, .svg or .png")


def measure(options: argparse.Namespace) -> Report:
    """Measures every case on every server."""
    wrk()
    begin = time.monotonic()
    asked = options.server or (CONTENDERS if options.all else _FEW)
    missing: dict[str, str] = {}
    environments = _install([name for name in CONTENDERS if name in asked], missing)
    pace = _Pace(options.rounds, options.seconds, sorted(set(options.connections)))
    if options.all or options.chart:
        server_chart.check()
    figures: list[Figure] = []
    for name in options.case or CASES:
        figures += _measure_case(CASES[name], environments, pace, missing)
        report = _report(figures, environments, pace, missing, time.monotonic() - begin)
        if options.all:  # after each case, so that an interrupted run loses none
            report.write_json(_RESULTS.with_suffix(".json"))
            _RESULTS.with_suffix(".txt").write_text(report.text() + "\n")
            server_chart.draw(report, _RESULTS.with_suffix(".svg"))
    if options.chart:
        server_chart.draw(report, options.chart)
    return report


def _install(names: Sequence[str], missing: dict[str, str]) -> dict[str, Environment]:
    """Installs servers; those that fail are recorded in `missing` with the reason."""
    found = {}
    for name in names:
        try:
            found[name] = CONTENDERS[name].install()
        except CannotMeasureError as error:
            missing[name] = str(error)
    return found


@dataclass(frozen=True, slots=True)
class _Pace:
    """How much is measured.

    Attributes:
        rounds: turns of each server per number of connections.
        seconds: the minimum duration of a window.
        connections: the numbers of connections, ascending.
    """

    rounds: int
    seconds: float
    connections: Sequence[int]


def _report(
    figures: Sequence[Figure],
    environments: Mapping[str, Environment],
    pace: _Pace,
    missing: Mapping[str, str],
    seconds: float,
) -> Report:
    cases = dict.fromkeys(figure["case"] for figure in figures)
    return Report(
        benchmark="server",
        settings={
            "rounds": pace.rounds,
            "window_seconds": pace.seconds,
            "not_measured": dict(missing),
            "took_seconds": round(seconds),
        },
        figures=list(figures),
        table=tables(figures),
        notes=[
            *(f"{name}: {CASES[name].about}." for name in cases),
            *(f"{name}: {CONTENDERS[name].about}." for name in environments),
            f"{RAW}: the model alone, one thread on one core.",
            f"Medians of {pace.rounds} rounds; peak memory after the first. One ONNX Runtime "
            "thread a run unless said otherwise.",
            *(f"NOT MEASURED: {name}: {_brief(reason)}" for name, reason in missing.items()),
            *_about_answers(figures),
        ],
        versions={name: each.packages for name, each in environments.items() if each.packages},
    )


@dataclass(slots=True)
class _Cell:
    """The results of one server for one case and number of connections.

    Attributes:
        loads: one per round.
        peak_bytes: peak memory since the server started, after the first round's turn. As a round
            goes from few connections to many, it is due to this number of connections.
        problem: why there are no further loads.
    """

    loads: list[Load] = field(default_factory=list)
    peak_bytes: int = 0
    problem: str = ""


class _Contestant:
    """A running server, for one case."""

    def __init__(self, contender: Contender, server: Server, body: Path, check: _Check) -> None:
        self.contender = contender
        self.differs = ""
        self.has_other_last_bits = False
        self._server = server
        self._body = body
        self._text = body.read_bytes()
        self._check = check
        self._right: bytes | None = None
        with closing(self._client()) as client:
            self._ask(client)
        server.processes.freeze()

    def turn(self, connections: int, seconds: float) -> tuple[Load, int]:
        """Runs one turn; returns the load and the peak memory after it."""

        def warm_up() -> float:
            """Sends requests beside the load until one is done and the caches are warm."""
            begin = time.perf_counter()
            with closing(self._client()) as client:
                lasted = self._ask(client)
                while time.perf_counter() - begin < _WARM_UP_SECONDS:
                    lasted = self._ask(client)
            some = min(_ANSWERS_IN_WINDOW * lasted, _LONG_WINDOW_SECONDS)
            return max(seconds, some, min(_ANSWERS_IN_LONG_WINDOW * lasted, _PATIENCE_SECONDS))

        processes = self._server.processes
        processes.resume()
        try:
            load = put_under_load(self._server.url, self._body, connections, warm_up)
            processes.wait_until_idle(_PATIENCE_SECONDS)
            return load, processes.peak_bytes()
        finally:
            processes.freeze()

    def _client(self) -> Client:
        return Client(self.contender.name, self._server.port, self._server.path)

    def _ask(self, client: Client) -> float:
        """Sends a request; returns its seconds. A peer's wrong response is noted, ours raises."""
        lasted, text = client.post(self._text)
        if text == self._right:
            return lasted
        is_first = self._right is None
        try:
            self._check(text, 0.0)
            self._right = text
        except MismatchError as error:
            self._check_again(text, is_first, error)
        return lasted

    def _check_again(self, text: bytes, is_alone: bool, error: MismatchError) -> None:
        """Records last bits that differ as they may in a batch; all else is wrong."""
        try:
            if is_alone:
                raise error
            self._check(text, _ROUNDING)
            self.has_other_last_bits = True
        except MismatchError as wrong:
            if self.contender.kind == "ours":
                raise
            self.differs = str(wrong)


def _measure_case(
    case: Case,
    environments: Mapping[str, Environment],
    pace: _Pace,
    missing: dict[str, str],
) -> list[Figure]:
    """Measures one row per server and number of connections, and one for the model alone."""
    model, body = case.write(FOLDER)
    v2_body = body.with_suffix(".v2.json")
    v2_body.write_bytes(case.v2_body())
    run = _raw_run(model, body.read_bytes())
    expected = run()
    raw: list[float] = []
    with ExitStack() as stack:
        contestants: dict[str, _Contestant] = {}
        for name, environment in environments.items():
            contender = CONTENDERS[name]
            file = v2_body if contender.is_v2 else body
            check = _check(f"{name}, case {case.name}", contender, expected)
            _tell(f"{case.name}: {name} starts")
            try:
                server = _start(stack, contender, environment, model, file)
                contestants[name] = _Contestant(contender, server, file, check)
            except CannotMeasureError as error:
                missing[f"{name}, {case.name}"] = str(error)
        if not contestants:
            raise CannotMeasureError(f"case {case.name}: no server could be started: {missing}")
        cells = {(name, number): _Cell() for number in pace.connections for name in contestants}
        chance = random.Random(0)
        for number_of_round in range(pace.rounds):
            raw += _time(run, pace.seconds / 2)
            for connections in pace.connections:
                _tell(f"{case.name}: round {number_of_round + 1}, {connections} connections")
                names = list(contestants)
                chance.shuffle(names)
                for name in names:
                    _take_turn(contestants[name], cells[name, connections], connections, pace)
    alone = Durations(raw)
    return [
        *(
            _figure(case, contestants[name], connections, cell)
            for (name, connections), cell in cells.items()
        ),
        {
            "case": case.name,
            "server": RAW,
            "kind": "limit",
            "connections": None,
            "requests_per_second": 1 / alone.median,
            "p50_ms": alone.median * 1e3,
            "p99_ms": alone.p99 * 1e3,
        },
    ]


def _start(
    stack: ExitStack, contender: Contender, environment: Environment, model: Path, body: Path
) -> Server:
    """Runs a server until the stack is closed."""
    for _ in range(_START_TRIES - 1):
        with suppress(CannotMeasureError):
            return stack.enter_context(serving(contender, environment, model, body.read_bytes()))
    return stack.enter_context(serving(contender, environment, model, body.read_bytes()))


def _take_turn(contestant: _Contestant, cell: _Cell, connections: int, pace: _Pace) -> None:
    if cell.problem:
        return
    try:
        load, peak_bytes = contestant.turn(connections, pace.seconds)
    except CannotMeasureError as error:
        cell.problem = str(error)
        return
    if not cell.loads:
        cell.peak_bytes = peak_bytes
    cell.loads.append(load)


def _figure(case: Case, contestant: _Contestant, connections: int, cell: _Cell) -> Figure:
    rates = [load.per_second for load in cell.loads]
    return {
        "case": case.name,
        "server": contestant.contender.name,
        "kind": contestant.contender.kind,
        "connections": connections,
        "requests_per_second": statistics.median(rates) if rates else None,
        "requests_per_second_of_rounds": rates,
        "p50_ms": _median([load.p50_ms for load in cell.loads]),
        "p99_ms": _median([load.p99_ms for load in cell.loads]),
        "requests": sum(load.requests for load in cell.loads),
        "errors": sum(load.errors for load in cell.loads),
        "refused": sum(load.refused for load in cell.loads),
        "socket_errors": sum(load.socket_errors for load in cell.loads),
        "timeouts": sum(load.timeouts for load in cell.loads),
        "peak_mib": cell.peak_bytes / 2**20,
        "differs": contestant.differs,
        "has_other_last_bits": contestant.has_other_last_bits,
        "problem": cell.problem,
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _about_answers(figures: Sequence[Figure]) -> list[str]:
    wrong = {
        (figure["server"], figure["case"]): figure["differs"]
        for figure in figures
        if figure.get("differs")
    }
    failed = [
        f"{figure['server']}, {figure['case']}, {figure['connections']} connections: "
        f"{figure['problem']}"
        for figure in figures
        if figure.get("problem")
    ]
    rounded = {
        f"{figure['server']} ({figure['case']})"
        for figure in figures
        if figure.get("has_other_last_bits")
    }
    return [
        *failed,
        *(f"WRONG: {text}" for text in wrong.values()),
        *(
            [f"Other last bits in batches, within {_ROUNDING:g}: {', '.join(sorted(rounded))}."]
            if rounded
            else []
        ),
        f"All {'other ' if rounded or wrong else ''}answers looked at, first ones and some under "
        "each load, were equal to session.run's bit for bit.",
    ]


def _brief(reason: str) -> str:
    """The first and last line of a reason; the JSON has all of it."""
    first, *others = reason.splitlines()
    return f"{first} {others[-1]}" if others else first


def _check(what: str, contender: Contender, expected: Mapping[str, Any]) -> _Check:
    check = check_v2_text if contender.is_v2 else check_text
    return lambda text, rounding: check(what, text, expected, rounding)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _raw_run(model: Path, body: bytes) -> _Run:
    """Runs the model alone, on arrays decoded by json and NumPy."""
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(
        os.fspath(model), options, providers=["CPUExecutionProvider"]
    )
    values = json.loads(body)
    feeds = {
        node.name: numpy.asarray(values[node.name], BY_ONNX[node.type].numpy)
        for node in session.get_inputs()
    }
    names = [node.name for node in session.get_outputs()]
    return lambda: dict(zip(names, session.run(names, feeds), strict=True))


def _time(run: _Run, seconds: float) -> list[float]:
    """Repeats a run for `seconds` on one core; returns the seconds of each."""
    taken: list[float] = []
    with on_one_core():
        end = time.perf_counter() + seconds
        while not taken or time.perf_counter() < end:
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return taken
