"""Where the time of one request goes: each stage, the whole engine, the bare model beside it.

Measured in one thread without a socket, by a clock between the stages, and through a whole server,
whose `Server-Timing` must agree. The reference for all results is the model's plain `session.run`,
in a session of its own with the same options.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy
from answers import MismatchError, check_bits, check_text
from gpu_answers import MODEL_TOLERANCE, check_close
from gpu_backend import NoGpuError, find_gpu
from line import Line, server_timing
from python_runtime import load_runtime
from report import CannotMeasureError, CheckedReport, table
from served import serving
from timing import Durations, count

from gpux.config.settings import cores
from gpux.http.app import read_body
from gpux.model import Model, load
from gpux.observability.timings import Stages
from gpux.serving.engine import Engine
from gpux.tensors.request import array_of_input
from gpux.tensors.signature import TensorSpec, names

# The variants take turns. The first requests of a turn, which find the caches full of the others'
# data, are not counted.
_TURN_REQUESTS = 50
_WARM_UP_REQUESTS = 5

# In the order of a request; indented stages are part of the one above.
_ABOUT = {
    "read": "the body, from the server's stream into bytes",
    "decode": "JSON text to tensors",
    "queue": "waiting: for a thread of the server, and for the model",
    "run": "all that the model takes",
    "  bind": "tensors to the session, by pointer",
    "  session": "the run itself",
    "  fetch": "the outputs from the binding",
    "encode": "tensors to JSON text",
    "sum": "of the stages",
    "whole": "read and engine.predict, timed as one",
    "HTTP": "through `gpux serve`, by a client with one connection",
    "session.run": "the same arrays through plain ONNX Runtime",
}
_STAGES = ("read", "decode", "queue", "run", "encode")
_PARTS_OF_RUN = ("  bind", "  session", "  fetch")
# For the medians reported by the server and those measured here. Only the server has a queue.
_COMPARED = ("read", "decode", "run", "encode")
_TOLERANCE_SECONDS, _TOLERANCE_SHARE = 100e-6, 0.5
# For the time between the stages: a whole request minus the stages recorded by the engine.
_BETWEEN_SECONDS, _BETWEEN_SHARE = 20e-6, 0.1
_CLOCK_SECONDS = 1e-6  # Server-Timing has three decimals of a millisecond

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Laps:
    """A lap timer: durations by name, in nanoseconds."""

    def __init__(self) -> None:
        self.taken_ns: dict[str, list[int]] = {}
        self._last_ns = 0

    def start(self) -> None:
        """Starts the first lap."""
        self._last_ns = time.perf_counter_ns()

    def take(self, name: str) -> None:
        """Ends the current lap and starts the next."""
        now_ns = time.perf_counter_ns()
        self.taken_ns.setdefault(name, []).append(now_ns - self._last_ns)
        self._last_ns = time.perf_counter_ns()


@dataclass(slots=True)
class Reported:
    """Stage times reported by a server, and the total time of each request.

    Attributes:
        seconds: per request, by an outer clock.
        stages: per request, seconds by stage.
    """

    seconds: list[float] = field(default_factory=list)
    stages: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, seconds: float, stages: Mapping[str, float]) -> None:
        """Adds one request."""
        self.seconds.append(seconds)
        self.stages.append({name: stages[name] for name in _STAGES if name in stages})

    def median(self, stage: str) -> float | None:
        """The median of a stage, in seconds; None if it was not reported."""
        taken = [stages[stage] for stages in self.stages if stage in stages]
        return statistics.median(taken) if taken else None

    def too_long(self) -> int:
        """The number of requests whose stages add up to more than the request."""
        return sum(
            sum(stages.values()) > whole + len(stages) * _CLOCK_SECONDS
            for whole, stages in zip(self.seconds, self.stages, strict=True)
        )

    def between(self) -> float:
        """The median time outside all stages, in seconds."""
        return statistics.median(
            whole - sum(stages.values())
            for whole, stages in zip(self.seconds, self.stages, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """The durations on one provider.

    Attributes:
        laps: by the clock here.
        engine: recorded by the engine, for the requests of `whole`.
        http: reported by the server.
    """

    laps: Laps = field(default_factory=Laps)
    engine: Reported = field(default_factory=Reported)
    http: Reported = field(default_factory=Reported)


# Runs one request and records its durations; raises MismatchError if the result was wrong.
_Way = Callable[[Taken], None]
# Raises MismatchError if a response's text is wrong.
_Check = Callable[[bytes], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument("model", metavar="MODEL", help="an .onnx file, or a folder with model.onnx")
    parser.add_argument(
        "--body", type=Path, required=True, metavar="FILE", help="a file with the request body"
    )
    parser.add_argument(
        "--provider", choices=list(_PROVIDERS), action="append", help="default: all that there are"
    )
    parser.add_argument(
        "--requests", type=count, default=1000, help="requests to time (default 1000)"
    )


def measure(options: argparse.Namespace) -> CheckedReport:
    """Measures one request repeatedly."""
    try:
        body = options.body.read_bytes()
    except OSError as error:
        raise CannotMeasureError(f"--body {options.body}: {error.strerror}") from error
    providers = options.provider or _find_providers()
    taken = {name: _measure(options.model, body, name, options.requests) for name in providers}
    return _report(options, len(body), taken)


def _find_providers() -> list[str]:
    try:
        find_gpu()
    except NoGpuError:
        return ["cpu"]
    return ["cpu", "cuda"]


def _measure(path: str, body: bytes, provider: str, requests: int) -> Taken:
    model = load(path, provider)
    specs = (*model.signature.inputs, *model.signature.outputs)
    if any(isinstance(spec, TensorSpec) and spec.type.name == "bfloat16" for spec in specs):
        raise CannotMeasureError("plain session.run knows no bfloat16: nothing to compare with")
    run = _raw_run(model, provider, body)
    expected = run()
    taken = Taken()
    with ExitStack() as stack:
        served = stack.enter_context(serving("gpux", Path(path), "--provider", provider))
        line = Line("gpux", served.port, body)
        stack.callback(line.close)
        check = _same_text_check if provider == "cpu" else _close_text_check
        ways = (
            _stages_way(model, body, check("the stages", expected)),
            _whole_way(Engine(model), body, check("engine.predict", expected)),
            _http_way(line, check("gpux serve", expected)),
            _raw_way(run, expected, 0.0 if provider == "cpu" else MODEL_TOLERANCE),
        )
        left = requests
        while left > 0:
            turn = min(left, _TURN_REQUESTS)
            for way in ways:
                for _ in range(_WARM_UP_REQUESTS):
                    way(Taken())
                for _ in range(turn):
                    way(taken)
            left -= turn
    return taken


def _stages_way(model: Model, body: bytes, check: _Check) -> _Way:
    """A request stage by stage."""

    def way(taken: Taken) -> None:
        environment = _environment(body)
        laps = taken.laps
        laps.start()
        received = read_body(environment, len(body), len(body))
        laps.take("read")
        request = model.inputs.decode(received)
        laps.take("decode")
        outputs = model.execution.run(request)
        laps.take("run")
        text = outputs.encode(request.unbatched)
        laps.take("encode")
        check(text)

    return way


def _whole_way(engine: Engine, body: bytes, check: _Check) -> _Way:
    """A request as the server handles it, once the body has arrived."""

    def way(taken: Taken) -> None:
        environment = _environment(body)
        stages = Stages()
        taken.laps.start()
        start = time.perf_counter()
        received = read_body(environment, len(body), len(body))
        stages.read = time.perf_counter() - start
        text = engine.predict(received, stages=stages)
        taken.laps.take("whole")
        check(text)
        taken.engine.add(taken.laps.taken_ns["whole"][-1] / 1e9, dict(stages.reached()))

    return way


def _http_way(line: Line, check: _Check) -> _Way:
    """A request through the server."""

    def way(taken: Taken) -> None:
        seconds, head, text = line.ask()
        check(text)
        taken.http.add(seconds, server_timing(head))

    return way


def _raw_way(
    run: Callable[[], dict[str, Any]], expected: Mapping[str, Any], tolerance: float
) -> _Way:
    """The model through plain ONNX Runtime."""

    def way(taken: Taken) -> None:
        taken.laps.start()
        outputs = run()
        taken.laps.take("session.run")
        for name, output in outputs.items():
            if isinstance(output, numpy.ndarray) and output.dtype != object:
                check_close("session.run", output, expected[name], tolerance)
            elif not numpy.array_equal(output, expected[name]):
                raise MismatchError(f"session.run: output {name!r} differs from run to run")

    return way


def _environment(body: bytes) -> dict[str, Any]:
    """A WSGI environ as from waitress: the body in a stream, written and rewound."""
    stream = BytesIO()
    stream.write(body)
    stream.seek(0)
    return {"wsgi.input": stream}


def _same_text_check(what: str, expected: Mapping[str, Any]) -> _Check:
    """Checks the first text number by number; later ones need only be identical."""
    right: bytes | None = None

    def check(text: bytes) -> None:
        nonlocal right
        if text != right:
            check_text(what, text, expected)
            right = text

    return check


def _close_text_check(what: str, expected: Mapping[str, Any]) -> _Check:
    """Checks numbers within the tolerance for results of a GPU."""

    def check(text: bytes) -> None:
        for name, value in json.loads(text).items():
            like = expected[name]
            got = numpy.asarray(value, like.dtype)
            got = got[None] if got.shape == like.shape[1:] and like.shape[0] == 1 else got
            check_close(f"{what}, output {name!r}", got, like, MODEL_TOLERANCE)

    return check


def _raw_run(model: Model, provider: str, body: bytes) -> Callable[[], dict[str, Any]]:
    """Runs the model alone, in a session of its own with the options of gpux.model."""
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = runtime.InferenceSession(
        os.fspath(model.file), options, providers=[_PROVIDERS[provider]]
    )
    outputs = names(model.signature.outputs)
    feeds = _feeds(model, body)
    return lambda: dict(zip(outputs, session.run(outputs, feeds), strict=True))


def _feeds(model: Model, body: bytes) -> dict[str, Any]:
    """The request's input arrays, in memory of their own; checked against NumPy."""
    request = model.inputs.decode(body)
    values = json.loads(body)
    feeds: dict[str, Any] = {}
    for spec in model.signature.inputs:
        feeds[spec.name] = array_of_input(request, spec)
        if spec.type.numpy:
            plain = numpy.asarray(values[spec.name], spec.type.numpy)
            check_bits(f"input {spec.name!r}", feeds[spec.name].ravel(), plain.ravel())
    return feeds


def _report(
    options: argparse.Namespace, body_bytes: int, taken: Mapping[str, Taken]
) -> CheckedReport:
    figures = [
        {"provider": provider, **figure}
        for provider, each in taken.items()
        for figure in figures_of(each)
    ]
    checks = {
        f"{provider}: {what}": holds
        for provider, each in taken.items()
        for what, holds in checks_of(each).items()
    }
    tables = []
    for provider in taken:
        shown = [figure for figure in figures if figure["provider"] == provider]
        rows = [
            [
                figure["stage"],
                f"{figure['median_us']:.1f}",
                f"{figure['p99_us']:.1f}",
                f"{figure['share_of_whole']:.1%}",
                "" if figure["told_us"] is None else f"{figure['told_us']:.1f}",
                _ABOUT[figure["stage"]],
            ]
            for figure in shown
        ]
        titles = [provider, "median us", "p99 us", "of whole", "Server-Timing us", ""]
        tables.append(table(titles, rows))
    return CheckedReport(
        benchmark="stages",
        settings={
            "model": Path(options.model).name,
            "body_bytes": body_bytes,
            "requests": options.requests,
        },
        figures=figures,
        table="\n\n".join(tables),
        notes=[
            f"A body of {body_bytes:,} bytes, {options.requests} requests each way. All answers "
            "were equal to session.run's: bit for bit on the CPU, within "
            f"{MODEL_TOLERANCE:g} of the largest number on a GPU.",
            "Server-Timing: the median of what the server told of the requests of `HTTP`.",
            *(f"{what}: {'yes' if holds else 'NO'}." for what, holds in checks.items()),
        ],
        failed=[what for what, holds in checks.items() if not holds],
    )


def figures_of(taken: Taken) -> list[dict[str, Any]]:
    """One mapping per row of the table, in the order of a request."""
    seconds = {
        name: [lap_ns / 1e9 for lap_ns in laps_ns] for name, laps_ns in taken.laps.taken_ns.items()
    }
    if _PARTS_OF_RUN[0] in seconds:
        parts = [seconds[part] for part in _PARTS_OF_RUN]
        seconds["run"] = [sum(laps) for laps in zip(*parts, strict=True)]
    seconds["queue"] = [stages.get("queue", 0.0) for stages in taken.engine.stages]
    stages = [seconds[stage] for stage in _STAGES]
    seconds["sum"] = [sum(laps) for laps in zip(*stages, strict=True)]
    seconds["HTTP"] = taken.http.seconds
    whole = statistics.median(seconds["whole"])
    figures = []
    for name in _ABOUT:
        if name in seconds:
            durations = Durations(seconds[name])
            reported = taken.http.median(name)
            figures.append(
                {
                    "stage": name,
                    "best_us": durations.best * 1e6,
                    "median_us": durations.median * 1e6,
                    "p99_us": durations.p99 * 1e6,
                    "share_of_whole": durations.median / whole,
                    "told_us": None if reported is None else reported * 1e6,
                }
            )
    return figures


def checks_of(taken: Taken) -> dict[str, bool]:
    """Whether the times of the engine and the server agree with the clocks here, by description."""
    medians = {figure["stage"]: figure["median_us"] / 1e6 for figure in figures_of(taken)}
    between = taken.engine.between()
    max_between = max(_BETWEEN_SECONDS, _BETWEEN_SHARE * medians["whole"])
    checks = {
        "the engine's stages lie within each request": taken.engine.too_long() == 0,
        f"and leave {between * 1e6:.1f} us of it, at most {max_between * 1e6:.0f}": (
            between <= max_between
        ),
        "Server-Timing lies within each request over HTTP": taken.http.too_long() == 0,
    }
    for stage in _COMPARED:
        reported = taken.http.median(stage)
        limit = max(_TOLERANCE_SECONDS, _TOLERANCE_SHARE * medians[stage])
        if reported is None:
            checks[f"Server-Timing has {stage}"] = False
        else:
            error = reported - medians[stage]
            checks[
                f"Server-Timing's {stage} is {error * 1e6:+.1f} us off, at most {limit * 1e6:.0f}"
            ] = abs(error) <= limit
    return checks
