"""What the engine costs a single request, and what it is worth under load.

Servers run as separate processes and take turns over HTTP. Every response to a single request is
checked, and samples of those under load.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calls import measure_calls
from cases import CASES, FOLDER, Case
from engine_cases import ENGINE_CASES, LAYERS, SLOW, WEIGHTS, prepare, with_run_threads
from engine_table import DIRECT, GPUX, SAME, Figure, tables
from line import Line
from load import wrk
from overload import h2load, overload
from report import Report
from served import Filled, Served, serving
from timing import Durations

from gpux.config.settings import Settings, cores
from gpux.model import load

_WARM_UP_REQUESTS = 10
_CONNECTIONS = 32
_SLOW_SECONDS = 0.05
_OVERLOAD = 10
_PATIENCE_SECONDS = 60.0
_SPLIT_CONNECTIONS = (1, 8, 32)
_THREADS = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is measured.

    Attributes:
        starts: how often the servers of `latency` are started: the memory layout differs from
            process to process, and with it the time by a percent or two.
        rounds: rounds of single requests per start.
        requests: requests to each server per round.
        load_rounds: turns of each server under load.
        load_seconds: duration of such a turn.
        split_rounds, split_seconds: the same for the many ways to share the cores.
        overload_seconds: duration at the full rate.
        call_rounds, call_seconds: turns of each contender of `call`, and their duration.
        call_starts: how often each of its servers is started.
    """

    starts: int = 5
    rounds: int = 60
    requests: int = 100
    load_rounds: int = 5
    load_seconds: float = 3.0
    split_rounds: int = 3
    split_seconds: float = 2.0
    overload_seconds: int = 20
    call_rounds: int = 30
    call_seconds: float = 0.2
    call_starts: int = 10


_QUICK = Pace(
    starts=2,
    rounds=10,
    requests=50,
    load_rounds=2,
    load_seconds=1,
    split_rounds=1,
    split_seconds=1,
    overload_seconds=5,
    call_rounds=10,
    call_seconds=0.1,
    call_starts=5,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument(
        "--part", action="append", choices=list(_PARTS), help="default: all, one after the other"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="PYTHON",
        help="the interpreter of another installation of gpux, for the part `call`",
    )


def measure(options: argparse.Namespace) -> Report:
    """Measures all parts."""
    pace = _QUICK if options.quick else Pace()
    return measure_parts(options.part or list(_PARTS), pace, options.against)


def measure_parts(parts: Sequence[str], pace: Pace, against: Path | None = None) -> Report:
    """Measures these parts."""
    if set(parts) != {"call"}:
        wrk()
    if "overload" in parts:
        h2load()
    before = os.getloadavg()[0]
    figures = [figure for part in parts for figure in _PARTS[part](pace, against)]
    cases = {figure["case"] for figure in figures}
    return Report(
        benchmark="engine",
        settings={
            "parts": list(parts),
            "pace": {name: getattr(pace, name) for name in Pace.__slots__},
            "load_average_before": before,
        },
        figures=figures,
        table=tables(figures),
        notes=[
            *(
                f"{case.name}: {case.about}."
                for case in ENGINE_CASES.values()
                if case.name in cases
            ),
            "Generators and servers share the cores; in each table stands what the generator took.",
            f"Load average before the run: {before:.1f}.",
        ],
    )


# Single requests.


def _measure_latency(pace: Pace) -> Iterator[Figure]:
    """One client: the engine against the same app calling the model, and against itself."""
    model, _, question = prepare(CASES["mlp"])
    servers = {GPUX: None, SAME: None, DIRECT: "direct"}
    seconds: dict[str, list[float]] = {name: [] for name in servers}
    ratios: dict[str, list[float]] = {SAME: [], DIRECT: []}
    chance = random.Random(0)
    for _ in range(pace.starts):
        with ExitStack() as stack:
            lines = {}
            for name, engine in servers.items():
                served = stack.enter_context(serving(name, model, engine=engine))
                lines[name] = Line(name, served.port, question.body)
                stack.callback(lines[name].close)

            def turn(line: Line) -> list[float]:
                taken = []
                for _ in range(_WARM_UP_REQUESTS + pace.requests):
                    lasted, _, answer = line.ask()
                    question.check(answer)
                    taken.append(lasted)
                return taken[_WARM_UP_REQUESTS:]

            names = list(lines)
            for _ in range(pace.rounds):
                chance.shuffle(names)
                taken = {name: turn(lines[name]) for name in names}
                medians = {name: statistics.median(values) for name, values in taken.items()}
                for name, values in taken.items():
                    seconds[name] += values
                for name in ratios:
                    ratios[name].append(medians[GPUX] / medians[name])
    for name, values in seconds.items():
        durations = Durations(values)
        against = ratios.get(name)
        yield {
            "group": "latency",
            "case": "mlp",
            "by": name,
            "requests": len(values),
            "p50_us": durations.median * 1e6,
            "p99_us": durations.p99 * 1e6,
            "best_us": durations.best * 1e6,
            # gpux over this one: median and quartiles of the rounds, and the fastest request.
            "gpux_over": against and statistics.median(against),
            "gpux_over_quartiles": against and statistics.quantiles(against, n=4)[::2],
            "gpux_over_best": against and min(seconds[GPUX]) / durations.best,
        }


# Under load.


def _measure_throughput(pace: Pace) -> Iterator[Figure]:
    """32 clients: `--batching auto` against `off`."""
    for name in ("weights", "mlp", "tokens"):
        model, body, question = prepare(ENGINE_CASES[name])
        with ExitStack() as stack:
            servers = {
                batching: stack.enter_context(serving(batching, model, "--batching", batching))
                for batching in ("auto", "off")
            }
            turns = {
                batching: _filler(served, body, _CONNECTIONS, pace.load_seconds, question.check)
                for batching, served in servers.items()
            }
            taken = _take_turns(turns, pace.load_rounds)
        for batching, loads in taken.items():
            yield {
                "group": "throughput",
                "case": name,
                "batching": batching,
                "connections": _CONNECTIONS,
                **_of_loads(loads),
            }


def _measure_overload(pace: Pace) -> Iterator[Figure]:
    """Ten times as many requests as the model can serve."""
    model, body = SLOW.write(FOLDER)[0], FOLDER / "slow.json"
    steps = _steps_for(model, _SLOW_SECONDS)
    body.write_text(json.dumps({"steps": steps}))
    with serving("gpux", model) as served:
        busy = _filler(served, body, 2 * cores(), pace.load_seconds, None)
        busy()
        before = busy()
        waiting = Settings(model=model).max_queue + cores()
        result = overload(
            served.url, body, _OVERLOAD * before.per_second, waiting, pace.overload_seconds
        )
        served.processes.wait_until_idle(_PATIENCE_SECONDS)
        after = busy()
    capacity = (before.per_second + after.per_second) / 2
    refused = Durations(result.seconds_of(503) or [float("nan")])
    answered = Durations(result.seconds_of(200) or [float("nan")])
    share = result.ended_per_second(200) / capacity
    yield {
        "group": "overload",
        "case": SLOW.name,
        "steps": steps,
        "capacity_per_second": capacity,
        "capacity_before_per_second": before.per_second,
        "capacity_after_per_second": after.per_second,
        "sent_per_second": result.sent_per_second,
        "answered_per_second": result.ended_per_second(200),
        "refused_per_second": result.ended_per_second(503),
        "refused_p50_ms": refused.median * 1e3,
        "refused_p99_ms": refused.p99 * 1e3,
        "refused_best_ms": refused.best * 1e3,
        "answered_p50_ms": answered.median * 1e3,
        "statuses": {str(status): count for status, count in result.statuses().items()},
        "share_of_capacity": share,
        "generator_cores": result.generator_cores,
        "cores": cores(),
    }


def _steps_for(model: Path, seconds: float) -> int:
    """The number of steps for a run of this duration on this machine, when idle."""
    loaded = load(model, "cpu")
    steps = 1000
    loaded.predict({"steps": steps})
    for _ in range(4):
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            loaded.predict({"steps": steps})
            taken.append(time.perf_counter() - start)
        steps = max(1, round(steps * seconds / statistics.median(taken)))
    return steps


# How many concurrent runs, of how many threads each.


def _measure_split(pace: Pace) -> Iterator[Figure]:
    """Concurrent runs and the threads of each, with batches and without; then the workers."""
    sizes = sorted({1, cores()})
    for case in (CASES["mlp"], WEIGHTS, LAYERS):
        model = prepare(case)[0]
        splits = {
            (batching, runs, run_threads): serving(
                f"{batching}, {runs} x {run_threads}",
                with_run_threads(model, run_threads),
                *("--batching", batching),
                engine=f"runs={runs}",
            )
            for batching in ("auto", "off")
            for runs in sizes
            for run_threads in sizes
        }
        for (batching, runs, run_threads), of_loads in _measure_ways(case, splits, pace):
            default_runs = 1 if batching == "auto" else cores()
            yield {
                "group": "split",
                "batching": batching,
                "runs": runs,
                "run_threads": run_threads,
                "is_default": (runs, run_threads) == (default_runs, cores()),
                **of_loads,
            }
    for case in (CASES["mlp"], WEIGHTS, LAYERS):
        model = prepare(case)[0]
        workers = {
            threads: serving(f"--threads {threads}", model, "--threads", str(threads))
            for threads in _THREADS
        }
        for threads, of_loads in _measure_ways(case, workers, pace):
            yield {"group": "threads", "threads": threads, **of_loads}


def _measure_ways(
    case: Case, ways: Mapping[Any, AbstractContextManager[Served]], pace: Pace
) -> Iterator[tuple[Any, Figure]]:
    """Loads servers of one model, each with several numbers of clients."""
    _, body, question = prepare(case)
    turns: dict[tuple[Any, int], Callable[[], Filled]] = {}
    with ExitStack() as stack:
        for key, starting in ways.items():
            served = stack.enter_context(starting)
            for connections in _SPLIT_CONNECTIONS:
                turns[key, connections] = _filler(
                    served, body, connections, pace.split_seconds, question.check
                )
        for (key, connections), loads in _take_turns(turns, pace.split_rounds).items():
            yield key, {"case": case.name, "connections": connections, **_of_loads(loads)}


def _filler(
    served: Served,
    body: Path,
    connections: int,
    seconds: float,
    check: Callable[[bytes], None] | None,
) -> Callable[[], Filled]:
    return lambda: served.fill(body, connections, seconds, check)


def _take_turns(turns: Mapping[Any, Callable[[], Filled]], rounds: int) -> dict[Any, list[Filled]]:
    """Each has one turn per round, in random order."""
    taken: dict[Any, list[Filled]] = {key: [] for key in turns}
    order = list(turns)
    chance = random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for key in order:
            taken[key].append(turns[key]())
    return taken


def _measure_calls(pace: Pace, against: Path | None) -> Iterator[Figure]:
    """One request in process, and a start; this build and another one."""
    return measure_calls(pace.call_rounds, pace.call_seconds, pace.call_starts, against)


def _of_loads(loads: Sequence[Filled]) -> dict[str, float]:
    """The medians and the best of several turns."""
    return {
        "per_second": statistics.median(each.per_second for each in loads),
        "best_per_second": max(each.per_second for each in loads),
        "p50_ms": statistics.median(each.p50_seconds for each in loads) * 1e3,
        "best_p50_ms": min(each.p50_seconds for each in loads) * 1e3,
        "p99_ms": statistics.median(each.p99_seconds for each in loads) * 1e3,
        "generator_cores": statistics.median(each.generator_cores for each in loads),
    }


_PARTS: Mapping[str, Callable[[Pace, Path | None], Iterator[Figure]]] = {
    "call": _measure_calls,
    "latency": lambda pace, _: _measure_latency(pace),
    "throughput": lambda pace, _: _measure_throughput(pace),
    "overload": lambda pace, _: _measure_overload(pace),
    "split": lambda pace, _: _measure_split(pace),
}
