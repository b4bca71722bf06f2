"""Runs the steps of `gpu` in a worker process, isolated from each other's failures.

An error of CUDA persists for the rest of the process, and a crash ends it. So after a step that
failed, crashed or took too long a new process continues with the next one. A worker writes one line
of JSON per event: step started, measurement, step finished.

By hand: `bench/gpu_worker.py [--quick] STEP...`.
"""

import argparse
import contextlib
import faulthandler
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from gpu_backend import Backend, CudaBackend
from gpu_checks import CHECKS
from gpu_measures import MEASURES
from gpu_steps import FULL, QUICK, Bench, Figure, LeftOutError, Pace, Step, failure_of

# A parsed line: {"begin": step}, {"figure": …}, {"end": step, "status": …, "detail": …}, or, from
# the parent process, {"gone": why}.
Message = Mapping[str, Any]

PASSED, FAILED, LEFT_OUT = "passed", "FAILED", "left out"
STEPS = {step.name: step for step in (*CHECKS, *MEASURES)}

# Allowance beyond a step's own estimate: the start of Python, CUDA and ONNX Runtime; slow machines.
_START_SECONDS = 60.0
_SLOWNESS = 3.0
# A step that started in time may end this much after the deadline.
_GRACE_SECONDS = 20.0


def run_steps(
    backend: Backend,
    steps: Sequence[Step],
    pace: Pace,
    deadline: float,
    send: Callable[[Message], None],
) -> None:
    """Runs steps until one fails.

    Args:
        backend: the device.
        steps: in order.
        pace: how much to do.
        deadline: by time.monotonic(); steps that would not end before it are skipped.
        send: accepts each message.
    """

    def report(figure: Figure) -> None:
        send({"figure": figure})

    for step in steps:
        begun = time.monotonic()
        if begun + step.seconds(pace) > deadline:
            send(_end(step.name, LEFT_OUT, "no time was left", 0.0))
            continue
        send({"begin": step.name})
        try:
            status, detail = PASSED, step.run(Bench(backend, pace, report))
        except LeftOutError as error:
            status, detail = LEFT_OUT, failure_of(error)
        except Exception as error:
            traceback.print_exc()
            status, detail = FAILED, failure_of(error)
            kind = type(error).__name__
            send({**_end(step.name, status, detail, time.monotonic() - begun), "kind": kind})
            return
        send(_end(step.name, status, detail, time.monotonic() - begun))


def _end(step: str, status: str, detail: str, seconds: float) -> dict[str, Any]:
    return {"end": step, "status": status, "detail": detail, "seconds": round(seconds, 2)}


def supervise(
    names: Sequence[str], launch: Callable[[Sequence[str]], Iterator[Message]]
) -> Iterator[Message]:
    """Runs every step, with as many workers as that takes.

    Args:
        names: the steps.
        launch: starts a worker for steps; yields its messages, and last why it ended.

    Returns:
        The messages, with one `end` for each step.
    """
    left = list(names)
    while left:
        running, why, before = left[0], "the process ended without a word", len(left)
        for message in launch(left):
            if "gone" in message:
                why = message["gone"]
                continue
            if "begin" in message:
                running = message["begin"]
            if "end" in message:
                left.remove(message["end"])
            yield message
        if running in left:
            # The worker crashed or was killed in this step, or before it could start.
            left.remove(running)
            yield _end(running, FAILED, why, 0.0)
        assert len(left) < before


def worker(
    arguments: Sequence[str],
    names: Sequence[str],
    limits: Callable[[str], float],
    deadline: float,
) -> Iterator[Message]:
    """Runs a worker; yields its messages, and last why it ended.

    Args:
        arguments: the command line, without the steps.
        names: the steps.
        limits: step → seconds after which it is killed; "" is the time before the first one starts.
        deadline: by time.monotonic(), for all steps.
    """
    process = subprocess.Popen(
        [*arguments, *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,  # so that killing the group also ends its servers
    )
    assert process.stdout is not None
    lines: queue.Queue[bytes | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    running, limit = "", limits("")
    why = None
    until = time.monotonic() + limit
    try:
        while True:
            wait_seconds = min(until, deadline + _GRACE_SECONDS) - time.monotonic()
            try:
                line = lines.get(timeout=max(wait_seconds, 0.0))
            except queue.Empty:
                is_late = time.monotonic() >= until
                why = f"took longer than {limit:.0f} s" if is_late else "no time was left"
                break
            if line is None:
                break
            message = json.loads(line)
            yield message
            if "begin" in message:
                running = message["begin"]
                limit = limits(running)
                until = time.monotonic() + limit
    finally:
        if why is not None or process.poll() is None:
            _end_gently(process, at_once=why is not None)
        reader.join(10)
        process.stdout.close()
    yield {"gone": why or _exit_text(process.wait())}


def _read(stream: IO[bytes], lines: "queue.Queue[bytes | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _end_gently(process: "subprocess.Popen[bytes]", *, at_once: bool) -> None:
    """Ends a worker and all that it has started. Unless `at_once`, first lets it exit by itself."""
    if not at_once:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            pass
        else:
            return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _exit_text(code: int) -> str:
    if code < 0:
        return f"the process crashed: {signal.Signals(-code).name}"
    return f"the process ended with exit code {code}"


def command(*, quick: bool, deadline: float) -> list[str]:
    """A worker's command line, without steps."""
    script = Path(__file__).resolve()
    options = ["--deadline", str(deadline), *(["--quick"] if quick else [])]
    return [sys.executable, str(script), *options]


def limit_of(name: str, pace: Pace) -> float:
    """Seconds after which a step is killed."""
    step = STEPS.get(name)
    return _START_SECONDS + (_SLOWNESS * step.seconds(pace) if step else 0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a worker's command line."""
    parser = argparse.ArgumentParser(description="Runs steps of `bench/run.py gpu`.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--deadline", type=float, default=float("inf"))
    parser.add_argument("steps", nargs="+", choices=list(STEPS), metavar="STEP")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    # Output of libraries goes to stderr; stdout carries only messages.
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    steps = [STEPS[name] for name in options.steps]
    run_steps(
        CudaBackend(),
        steps,
        QUICK if options.quick else FULL,
        options.deadline,
        lambda message: print(json.dumps(message), file=messages, flush=True),
    )


if __name__ == "__main__":
    main()
