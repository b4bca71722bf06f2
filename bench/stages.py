"""Where the time of one request goes: each stage, the whole engine, the bare model beside it.

Everything happens in one process and one thread, without a socket. The model's plain
`session.run`, in a session of its own with the same options, gives the answer that every stage is
held to.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy
from answers import MismatchError, check_bits, check_text
from report import CannotMeasureError, Report, table
from timing import Durations, count

from gpux import protocol
from gpux.app import read_body
from gpux.engine import Engine
from gpux.execution import HostExecution
from gpux.memory import Block, StringTensor
from gpux.model import Answer, Model, load
from gpux.runtime import load_runtime
from gpux.tensor import TensorSpec, names

# The whole, its stages and the model alone take turns. The first requests of a turn, which find the
# caches full of the others' data, are not counted.
_TURN_REQUESTS = 50
_WARM_UP_REQUESTS = 5

# In the order in which a request meets them.
_ABOUT = {
    "read": "the body, from the server's stream into bytes",
    "decode": "JSON text to tensors",
    "bind": "tensors to the session, by pointer",
    "run": "the model",
    "fetch": "the outputs from the binding",
    "encode": "tensors to JSON text",
    "sum": "of the stages above",
    "whole": "read and engine.predict, timed as one",
    "session.run": "the same arrays through plain ONNX Runtime",
}
# Not stages.
_BESIDE = ("sum", "whole", "session.run")


class Laps:
    """Durations by name, in nanoseconds, taken one after the other."""

    def __init__(self) -> None:
        self.taken_ns: dict[str, list[int]] = {}
        self._last_ns = 0

    def start(self) -> None:
        """The next lap starts here."""
        self._last_ns = time.perf_counter_ns()

    def take(self, name: str) -> None:
        """The present lap ends here, and the next one starts."""
        now_ns = time.perf_counter_ns()
        self.taken_ns.setdefault(name, []).append(now_ns - self._last_ns)
        self._last_ns = time.perf_counter_ns()


# Does one request and takes its laps; raises MismatchError if the answer was wrong.
_Way = Callable[[Laps], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument("model", metavar="MODEL", help="an .onnx file, or a folder with model.onnx")
    parser.add_argument(
        "--body", type=Path, required=True, metavar="FILE", help="a file with the request body"
    )
    parser.add_argument(
        "--requests", type=count, default=1000, help="requests to time (default 1000)"
    )


def measure(options: argparse.Namespace) -> Report:
    """Measures one request again and again."""
    try:
        body = options.body.read_bytes()
    except OSError as error:
        raise CannotMeasureError(f"--body {options.body}: {error.strerror}") from error
    model = load(options.model, "cpu")
    specs = (*model.signature.inputs, *model.signature.outputs)
    if any(isinstance(spec, TensorSpec) and spec.type.name == "bfloat16" for spec in specs):
        raise CannotMeasureError("plain session.run knows no bfloat16: nothing to compare with")
    run = _raw_run(model, body)
    expected = run()
    ways = (
        _stages_way(model, body, expected),
        _whole_way(Engine(model), body, expected),
        _raw_way(run, expected),
    )
    laps = Laps()
    left = options.requests
    while left > 0:
        turn = min(left, _TURN_REQUESTS)
        for way in ways:
            for _ in range(_WARM_UP_REQUESTS):
                way(Laps())
            for _ in range(turn):
                way(laps)
        left -= turn
    return _report(options, model, body, laps)


def _stages_way(model: Model, body: bytes, expected: Mapping[str, Any]) -> _Way:
    """A request stage by stage."""
    check = _same_text_check("the stages", expected)
    outputs = names(model.signature.outputs)
    execution = model.execution
    assert isinstance(execution, HostExecution)
    runner = execution.create_runner()

    def way(laps: Laps) -> None:
        environment = _environment(body)
        laps.start()
        received = read_body(environment, len(body), len(body))
        laps.take("read")
        request = protocol.decode(received, model.inputs)
        laps.take("decode")
        try:
            answer: Answer
            if model.signature.is_numeric:
                execution.bind(runner, request)
                laps.take("bind")
                execution.execute(runner)
                laps.take("run")
                answer = dict(zip(outputs, execution.fetch(runner), strict=True))
                laps.take("fetch")
            else:  # strings, sequences and maps: through session.run, all in one
                answer = model.run(request)
                laps.take("run")
            text = protocol.encode(answer)
            laps.take("encode")
        finally:
            request.release()
        check(text)

    return way


def _whole_way(engine: Engine, body: bytes, expected: Mapping[str, Any]) -> _Way:
    """A request as the server does it, once the body is there."""
    check = _same_text_check("engine.predict", expected)

    def way(laps: Laps) -> None:
        environment = _environment(body)
        laps.start()
        text = engine.predict(read_body(environment, len(body), len(body)))
        laps.take("whole")
        check(text)

    return way


def _raw_way(run: Callable[[], dict[str, Any]], expected: Mapping[str, Any]) -> _Way:
    """The model as a user of ONNX Runtime has it."""

    def way(laps: Laps) -> None:
        laps.start()
        outputs = run()
        laps.take("session.run")
        for name, output in outputs.items():
            if isinstance(output, numpy.ndarray) and output.dtype != object:
                check_bits("session.run", output, expected[name])
            elif not numpy.array_equal(output, expected[name]):
                raise MismatchError(f"session.run: output {name!r} differs from run to run")

    return way


def _environment(body: bytes) -> dict[str, Any]:
    """What waitress hands over: the body in a stream that it has written and rewound."""
    stream = BytesIO()
    stream.write(body)
    stream.seek(0)
    return {"wsgi.input": stream}


def _same_text_check(what: str, expected: Mapping[str, Any]) -> Callable[[bytes], None]:
    """Checks the first text number by number; the later ones need only be the same text."""
    right: bytes | None = None

    def check(text: bytes) -> None:
        nonlocal right
        if text != right:
            check_text(what, text, expected)
            right = text

    return check


def _raw_run(model: Model, body: bytes) -> Callable[[], dict[str, Any]]:
    """The model alone, in a session of its own with the options of gpux.model."""
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = runtime.InferenceSession(
        os.fspath(model.file), options, providers=["CPUExecutionProvider"]
    )
    outputs = names(model.signature.outputs)
    feeds = _feeds(model, body)
    return lambda: dict(zip(outputs, session.run(outputs, feeds), strict=True))


def _feeds(model: Model, body: bytes) -> dict[str, Any]:
    """The arrays that the request stands for, in memory of their own; NumPy must agree."""
    request = protocol.decode(body, model.inputs)
    values = json.loads(body)
    feeds: dict[str, Any] = {}
    for name, tensor in request.tensors.items():
        if isinstance(tensor, StringTensor):
            feeds[name] = numpy.array(tensor.values, object).reshape(tensor.shape)
            continue
        assert isinstance(tensor.owner, Block)
        feeds[name] = tensor.owner.array(tensor.type, tensor.shape).copy()
        plain = numpy.asarray(values[name], tensor.type.numpy)
        check_bits(f"input {name!r}", feeds[name].ravel(), plain.ravel())
    request.release()
    return feeds


def _report(options: argparse.Namespace, model: Model, body: bytes, laps: Laps) -> Report:
    taken = {
        name: Durations([lap_ns / 1e9 for lap_ns in laps_ns])
        for name, laps_ns in laps.taken_ns.items()
    }
    stages = [durations.seconds for name, durations in taken.items() if name not in _BESIDE]
    taken["sum"] = Durations([sum(seconds) for seconds in zip(*stages, strict=True)])
    whole = taken["whole"].median
    figures: list[dict[str, Any]] = [
        {
            "stage": name,
            "best_us": taken[name].best * 1e6,
            "median_us": taken[name].median * 1e6,
            "p99_us": taken[name].p99 * 1e6,
            "share_of_whole": taken[name].median / whole,
        }
        for name in _ABOUT
        if name in taken
    ]
    rows = [
        [
            figure["stage"],
            f"{figure['median_us']:.1f}",
            f"{figure['p99_us']:.1f}",
            f"{figure['share_of_whole']:.1%}",
            _ABOUT[figure["stage"]],
        ]
        for figure in figures
    ]
    return Report(
        benchmark="stages",
        settings={"model": model.name, "body_bytes": len(body), "requests": options.requests},
        figures=figures,
        table=table(["stage", "median us", "p99 us", "of whole", ""], rows),
        notes=[
            f"A body of {len(body):,} bytes, {options.requests} requests. All answers were equal "
            "to session.run's bit for bit.",
        ],
    )
