"""How time and memory grow with the body, the batch, the connections and the worker processes.

Each point has a server of its own, as memory is measured per server; all servers of a series run
side by side and take turns. A power law is fitted to each series.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from cases import CASES, FOLDER
from engine_cases import LAYERS, prepare, run_alone
from fit import fit_power_law
from gpu_answers import Question, body_of
from line import Line
from load import wrk
from onnx import ModelProto, TensorProto, helper
from report import CannotMeasureError, Report, machine, table
from served import Served, serving

from gpux.config.settings import cores

_WARM_UP_REQUESTS = 2
_PAGE_BYTES = 4096
_MIB = 2**20
# "0.123456, "
_NUMBER_BYTES = 10
# At smaller points the fixed cost of a request hides that of a byte or a row.
_FITTED_POINTS = 5
_WORKER_CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured.

    Attributes:
        body_bytes, rows, connections: the points.
        rounds: turns of each point.
        turn_seconds: approximate duration of a turn, of at least one request.
    """

    body_bytes: Sequence[int] = tuple(2**10 * 4**power for power in range(9))
    rows: Sequence[int] = tuple(2**power for power in range(9))
    connections: Sequence[int] = tuple(2**power for power in range(9))
    rounds: int = 5
    turn_seconds: float = 1.0


_QUICK = Pace(
    body_bytes=tuple(2**10 * 8**power for power in range(6)),
    rows=(1, 4, 16, 64, 256),
    connections=(1, 4, 16, 64, 256),
    rounds=2,
    turn_seconds=0.2,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument("--part", action="append", choices=list(_PARTS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="fewer points, shorter turns")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a chart (.png or .svg)")


def measure(options: argparse.Namespace) -> Report:
    """Measures all parts, and draws the chart."""
    draw = None if options.chart is None else _drawing()
    report = measure_parts(options.part or list(_PARTS), _QUICK if options.quick else Pace())
    if draw is not None:
        draw(report.figures, _caption(), options.chart)
    return report


def _drawing() -> Callable[[Sequence[Mapping[str, Any]], str, Path], None]:
    try:
        from scale_chart import draw
    except ImportError as error:
        raise CannotMeasureError("--chart needs matplotlib: pip install matplotlib") from error
    return draw


def _caption() -> str:
    here = machine()
    packages = here["packages"]
    shown = ("gpux", "onnxruntime", "waitress")
    versions = ", ".join(f"{name} {packages[name]}" for name in shown if name in packages)
    return (
        f"{here['cpu']}, {here['cores']} cores, load generator beside the server; "
        f"{here['python']}; {versions}. "
        f"Wide lines: a power law through the {_FITTED_POINTS} largest points."
    )


def measure_parts(parts: Sequence[str], pace: Pace) -> Report:
    """Measures these parts."""
    wrk()
    before = os.getloadavg()[0]
    figures: list[dict[str, Any]] = []
    notes: list[str] = []
    for part in parts:
        points = list(_PARTS[part](pace))
        fits = [fit for fit in _fits(part, points) if fit]
        figures += [*points, *fits]
    if "workers" in parts and not _has_granian():
        notes.append("gpux serve has no other server here: workers are those of waitress, one.")
    return Report(
        benchmark="scale",
        settings={
            "parts": list(parts),
            "pace": {name: getattr(pace, name) for name in Pace.__slots__},
            "load_average_before": before,
        },
        figures=figures,
        table=_tables(figures),
        notes=[
            *(_ABOUT[part] for part in parts),
            f"x^e: a power law through the {_FITTED_POINTS} largest points; 1 is linear, 0 flat.",
            "Memory: the most that the server had in RAM, above what it had before the first "
            "request.",
            *notes,
            f"Load average before the run: {before:.1f}.",
        ],
    )


_ABOUT = {
    "body": "body: one row of numbers, of which the model takes the mean; one client.",
    "batch": f"batch: rows in one request; {LAYERS.about}; one client.",
    "connections": "connections: wrk, each with one small request (mlp) at a time.",
    "workers": f"workers: {_WORKER_CONNECTIONS} connections, a small model and one of arithmetic.",
}


# One client, larger and larger requests.


def _measure_body(pace: Pace) -> Iterator[dict[str, Any]]:
    model = FOLDER / "mean.onnx"
    FOLDER.mkdir(parents=True, exist_ok=True)
    model.write_bytes(_mean().SerializeToString())
    questions = {nbytes: _numbers(nbytes) for nbytes in pace.body_bytes}
    yield from _measure_growing("body", model, questions, pace)


def _measure_batch(pace: Pace) -> Iterator[dict[str, Any]]:
    model, _, _ = prepare(LAYERS)
    chance = numpy.random.default_rng(1)
    questions = {}
    for rows in pace.rows:
        inputs = {"x": chance.standard_normal((rows, 64)).astype(numpy.float32)}
        expected = run_alone(model, inputs)
        questions[rows] = Question(f"{rows} rows", body_of(inputs), expected, 1e-4)
    yield from _measure_growing("batch", model, questions, pace)


def _measure_growing(
    part: str, model: Path, questions: Mapping[int, Question], pace: Pace
) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        servers: dict[int, Served] = {}
        lines: dict[int, Line] = {}
        idle: dict[int, int] = {}
        for x, question in questions.items():
            name = f"{part} {x}"
            servers[x] = stack.enter_context(serving(name, model))
            lines[x] = Line(name, servers[x].port, question.body)
            stack.callback(lines[x].close)
            idle[x] = servers[x].resident_bytes()
            servers[x].forget_peak()

        def turn(x: int) -> list[float]:
            taken: list[float] = []
            end = time.perf_counter() + pace.turn_seconds
            while len(taken) <= _WARM_UP_REQUESTS or time.perf_counter() < end:
                seconds, _, answer = lines[x].ask()
                questions[x].check(answer)
                taken.append(seconds)
            return taken[_WARM_UP_REQUESTS:]

        for x, taken in _take_turns(questions, turn, pace.rounds).items():
            seconds = [each for lasted in taken for each in lasted]
            yield {
                "group": part,
                "x": x,
                "body_bytes": len(questions[x].body),
                "requests": len(seconds),
                "seconds": statistics.median(seconds),
                "best_seconds": min(seconds),
                "memory_bytes": max(_PAGE_BYTES, servers[x].peak_bytes() - idle[x]),
                "idle_bytes": idle[x],
            }


def _mean() -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1])],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _numbers(nbytes: int) -> Question:
    """A body of at most about `nbytes` bytes: numbers with six decimals."""
    chance = numpy.random.default_rng(1)
    count = max(1, (nbytes - len('{"x": [[]]}')) // _NUMBER_BYTES)
    millionths = chance.integers(0, 10**6, count)
    numbers = ", ".join([f"0.{each:06}" for each in millionths.tolist()])
    mean = numpy.array([[(millionths / 1e6).mean()]], numpy.float32)
    return Question(f"{nbytes} bytes", b'{"x": [[%b]]}' % numbers.encode(), {"y": mean}, 1e-4)


# Many clients.


def _measure_connections(pace: Pace) -> Iterator[dict[str, Any]]:
    model, body, question = prepare(CASES["mlp"])
    with ExitStack() as stack:
        servers: dict[int, Served] = {}
        idle: dict[int, int] = {}
        for x in pace.connections:
            servers[x] = stack.enter_context(serving(f"{x} connections", model))
            idle[x] = servers[x].resident_bytes()
            servers[x].forget_peak()

        def turn(x: int) -> Any:
            return servers[x].fill(body, x, pace.turn_seconds, question.check)

        for x, loads in _take_turns(pace.connections, turn, pace.rounds).items():
            yield {
                "group": "connections",
                "x": x,
                "per_second": statistics.median(load.per_second for load in loads),
                "seconds": statistics.median(load.p50_seconds for load in loads),
                "p99_seconds": statistics.median(load.p99_seconds for load in loads),
                "memory_bytes": max(_PAGE_BYTES, servers[x].peak_bytes() - idle[x]),
                "idle_bytes": idle[x],
                "generator_cores": statistics.median(load.generator_cores for load in loads),
            }


def _measure_workers(pace: Pace) -> Iterator[dict[str, Any]]:
    ways: dict[str, list[str]] = {"waitress": []}
    if _has_granian():
        ways |= {
            f"granian, {workers}": ["--server", "granian", "--workers", str(workers)]
            for workers in sorted({1, cores()})
        }
    for case in (CASES["mlp"], LAYERS):
        model, body, question = prepare(case)
        with ExitStack() as stack:
            servers = {
                name: stack.enter_context(serving(name, model, *options))
                for name, options in ways.items()
            }

            def turn(
                name: str,
                servers: Mapping[str, Served] = servers,
                body: Path = body,
                check: Callable[[bytes], None] = question.check,
            ) -> Any:
                return servers[name].fill(body, _WORKER_CONNECTIONS, pace.turn_seconds, check)

            for name, loads in _take_turns(ways, turn, pace.rounds).items():
                yield {
                    "group": "workers",
                    "x": name,
                    "case": case.name,
                    "per_second": statistics.median(load.per_second for load in loads),
                    "seconds": statistics.median(load.p50_seconds for load in loads),
                    "p99_seconds": statistics.median(load.p99_seconds for load in loads),
                    "memory_bytes": servers[name].peak_bytes(),
                    "generator_cores": statistics.median(load.generator_cores for load in loads),
                }


def _has_granian() -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "gpux", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    return "--workers" in done.stdout


def _take_turns(points: Any, turn: Callable[[Any], Any], rounds: int) -> dict[Any, list[Any]]:
    """Each point has one turn per round, in random order."""
    order = list(points)
    taken: dict[Any, list[Any]] = {x: [] for x in order}
    chance = random.Random(0)
    for _ in range(rounds):
        for x in chance.sample(order, len(order)):
            taken[x].append(turn(x))
    return {x: taken[x] for x in points}


_PARTS: Mapping[str, Callable[[Pace], Iterator[dict[str, Any]]]] = {
    "body": _measure_body,
    "batch": _measure_batch,
    "connections": _measure_connections,
    "workers": _measure_workers,
}
_FITTED = {
    "body": ("seconds", "memory_bytes"),
    "batch": ("seconds", "memory_bytes"),
    "connections": ("per_second", "seconds", "memory_bytes"),
    "workers": (),
}


def _fits(part: str, points: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Fits a power law to each growing quantity."""
    fitted = points[-_FITTED_POINTS:]
    for what in _FITTED[part]:
        law = fit_power_law([each["x"] for each in fitted], [each[what] for each in fitted])
        yield {
            "group": "fit",
            "part": part,
            "what": what,
            "from_x": fitted[0]["x"],
            "to_x": fitted[-1]["x"],
            "exponent": law.exponent,
            "factor": law.factor,
            "r2": law.r2,
        }


# Tables.


def _tables(figures: Sequence[dict[str, Any]]) -> str:
    shown = {"body": _growing, "batch": _growing, "connections": _connections, "workers": _workers}
    parts = []
    for part, show in shown.items():
        points = [figure for figure in figures if figure["group"] == part]
        if points:
            parts.append(show(part, points))
    rows = [
        [
            f"{figure['part']}: {_WHAT[figure['what']]}",
            f"{figure['exponent']:.2f}",
            f"{figure['r2']:.3f}",
            f"{_count_text(figure['from_x'])} to {_count_text(figure['to_x'])}",
        ]
        for figure in figures
        if figure["group"] == "fit"
    ]
    if rows:
        parts.append(table(["grows as x^e", "e", "R2", "from x to x"], rows))
    return "\n\n".join(parts)


_WHAT = {"seconds": "time", "memory_bytes": "memory", "per_second": "requests/s"}


def _growing(part: str, points: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            _count_text(point["x"]),
            f"{point['seconds'] * 1e3:.2f}",
            f"{point['best_seconds'] * 1e3:.2f}",
            f"{point['seconds'] / point['body_bytes'] * 1e9:.2f}",
            f"{point['memory_bytes'] / _MIB:.1f}",
            str(point["requests"]),
        ]
        for point in points
    ]
    titles = ["p50 ms", "best ms", "ns/byte", "memory MiB", "requests"]
    return table(["bytes of body" if part == "body" else "rows", *titles], rows)


def _connections(part: str, points: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            str(point["x"]),
            f"{point['per_second']:.0f}",
            f"{point['seconds'] * 1e3:.2f}",
            f"{point['p99_seconds'] * 1e3:.2f}",
            f"{point['memory_bytes'] / _MIB:.1f}",
            f"{point['generator_cores']:.2f}",
        ]
        for point in points
    ]
    titles = ["requests/s", "p50 ms", "p99 ms", "memory MiB", "cores of wrk"]
    return table([part, *titles], rows)


def _workers(part: str, points: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            point["case"],
            point["x"],
            f"{point['per_second']:.0f}",
            f"{point['seconds'] * 1e3:.2f}",
            f"{point['p99_seconds'] * 1e3:.2f}",
            f"{point['memory_bytes'] / _MIB:.0f}",
            f"{point['generator_cores']:.2f}",
        ]
        for point in points
    ]
    titles = ["server", "requests/s", "p50 ms", "p99 ms", "all memory MiB", "cores of wrk"]
    return table([part, *titles], rows)


def _count_text(count: int) -> str:
    return f"{count:,}"
