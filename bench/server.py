"""A request through the whole server, beside the same model behind other servers.

All servers run at once, each alone in its turn: one client, one connection that is kept open, one
request after the other. Every answer is compared with a plain `session.run`.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy
from answers import check_bits, check_text
from cases import CASES, FOLDER, Case
from contenders import CONTENDERS, DEFAULT_THREADS, Client, install, started
from report import Report, table
from timing import Durations, count

from gpux.runtime import load_runtime
from gpux.tensor import BY_ONNX

_WARM_UP_REQUESTS = 3  # of every turn: after the others', caches and clocks are theirs
_OURS = "gpux"
_RAW = "session.run"

# Does one request; answers its seconds and raises if the answer was wrong.
_Ask = Callable[[], float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    peers = [name for name in CONTENDERS if name != _OURS]
    parser.add_argument("--peer", action="append", choices=peers, help="default: all")
    parser.add_argument("--rounds", type=count, default=5, help="turns of each server (default 5)")
    parser.add_argument(
        "--requests", type=count, default=20, help="requests timed in each turn (default 20)"
    )


def measure(options: argparse.Namespace) -> Report:
    """Measures every case on every server."""
    servers = [_OURS, *(options.peer or [name for name in CONTENDERS if name != _OURS])]
    installed = {name: install(CONTENDERS[name]) for name in servers}
    figures: list[dict[str, Any]] = []
    for case in [CASES[name] for name in options.case or CASES]:
        pythons = {name: python for name, (python, _) in installed.items()}
        figures += _measure_case(case, pythons, options)
    rows = [
        [
            figure["case"],
            figure["server"],
            f"{figure['median_ms']:.2f}",
            f"{figure['best_ms']:.2f}",
            f"{figure['p99_ms']:.2f}",
            f"{figure['ratio_median']:.2f}x" if figure["ratio_median"] else "",
            f"{figure['ratio_best']:.2f}x" if figure["ratio_best"] else "",
            f"≥ {figure['goal']:.0f}x" if figure["goal"] else "",
            figure["run_threads"],
        ]
        for figure in figures
    ]
    titles = [
        "case",
        "server",
        "median ms",
        "best ms",
        "p99 ms",
        "ratio",
        "of best",
        "goal",
        "threads",
    ]
    abouts = [
        *(f"{name}: {CASES[name].about}." for name in options.case or CASES),
        *(f"{name}: {CONTENDERS[name].about}." for name in servers),
        f"{_RAW}: the model alone, in this process, with ONNX Runtime's defaults.",
    ]
    return Report(
        benchmark="server",
        settings={"rounds": options.rounds, "requests_per_round": options.requests},
        figures=figures,
        table=table(titles, rows),
        notes=[
            *abouts,
            "ratio, of best: its time over gpux's, of the median and of the fastest request.",
            "threads: of one run of the model.",
            "All answers were equal to session.run's bit for bit.",
        ],
        versions={name: text.split() for name, (_, text) in installed.items() if text},
    )


def _measure_case(
    case: Case, pythons: Mapping[str, Path], options: argparse.Namespace
) -> Sequence[dict[str, Any]]:
    """One line of figures for each server, and one for the model alone."""
    model, body_file = case.write(FOLDER)
    body = body_file.read_bytes()
    run = _raw_run(model, body)
    expected = run()
    with ExitStack() as stack:
        asks: dict[str, _Ask] = {}
        for name, python in pythons.items():
            port = stack.enter_context(started(CONTENDERS[name], python, model))
            client = Client(name, port)
            stack.callback(client.close)
            asks[name] = _server_ask(f"{name}, case {case.name}", client, body, expected)
        asks[_RAW] = _raw_ask(f"{_RAW}, case {case.name}", run, expected)
        seconds: dict[str, list[float]] = {name: [] for name in asks}
        names = list(asks)
        for number in range(options.rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                for _ in range(_WARM_UP_REQUESTS):
                    asks[name]()
                seconds[name] += [asks[name]() for _ in range(options.requests)]
    durations = {name: Durations(values) for name, values in seconds.items()}
    ours = durations[_OURS]
    peers = [name for name in pythons if name != _OURS]
    return [
        {
            "case": case.name,
            "server": name,
            "body_bytes": len(body),
            "best_ms": taken.best * 1e3,
            "median_ms": taken.median * 1e3,
            "p99_ms": taken.p99 * 1e3,
            "ratio_best": taken.best / ours.best if name in peers else None,
            "ratio_median": taken.median / ours.median if name in peers else None,
            "goal": case.goal if name in peers[:1] else None,
            "run_threads": CONTENDERS[name].run_threads if name in CONTENDERS else DEFAULT_THREADS,
        }
        for name, taken in durations.items()
    ]


def _server_ask(what: str, client: Client, body: bytes, expected: Mapping[str, Any]) -> _Ask:
    def ask() -> float:
        seconds, answer = client.post(body)
        check_text(what, answer, expected)
        return seconds

    return ask


def _raw_ask(what: str, run: Callable[[], dict[str, Any]], expected: Mapping[str, Any]) -> _Ask:
    def ask() -> float:
        start = time.perf_counter()
        outputs = run()
        seconds = time.perf_counter() - start
        for name, output in outputs.items():
            check_bits(what, output, expected[name])
        return seconds

    return ask


def _raw_run(model: Path, body: bytes) -> Callable[[], dict[str, Any]]:
    """The model alone, on arrays that json and NumPy make of the body."""
    runtime = load_runtime()
    session = runtime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    values = json.loads(body)
    feeds = {
        node.name: numpy.asarray(values[node.name], BY_ONNX[node.type].numpy)
        for node in session.get_inputs()
    }
    names = [node.name for node in session.get_outputs()]
    return lambda: dict(zip(names, session.run(names, feeds), strict=True))
