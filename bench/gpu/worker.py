"""Runs a step of `gpu` in a process of its own, for whose rest an error of CUDA persists.

By hand, from bench/: `python -m gpu.worker [--quick] STEP`. It prints a line of JSON per figure.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common.report import Figure
from gpu.backend import CudaBackend
from gpu.measures import FULL, QUICK, STEPS

_BENCH = Path(__file__).resolve().parents[1]


def command(step: str, *, quick: bool) -> list[str]:
    """The command line of a worker."""
    return [sys.executable, "-m", "gpu.worker", *(["--quick"] if quick else []), step]


def run_worker(step: str, arguments: Sequence[str], patience_seconds: float) -> Iterator[Figure]:
    """Runs a worker; yields its figures, and last whether the step passed.

    Args:
        step: its name.
        arguments: the command line.
        patience_seconds: after which it is killed, with all that it has started.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        arguments, cwd=_BENCH, stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    why = None
    try:
        output, _ = process.communicate(timeout=patience_seconds)
    except subprocess.TimeoutExpired:
        why = f"took longer than {patience_seconds:.0f} s"
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    for line in output.splitlines():
        figure = json.loads(line)
        if figure["group"] == "error":
            why = figure["text"]
        else:
            yield figure
    if why is None and process.returncode < 0:
        why = f"the process crashed: {signal.Signals(-process.returncode).name}"
    elif why is None and process.returncode:
        why = f"the process ended with exit code {process.returncode}"
    end: Figure = {"group": "step", "step": step, "seconds": time.monotonic() - begin}
    yield {**end, "status": "FAILED" if why else "passed", "detail": why or ""}


def print_figures(figures: Callable[[], Iterator[Figure]], write: Callable[[str], object]) -> int:
    """Writes figures as lines, and an error as the last one; returns the exit code."""
    try:
        for figure in figures():
            write(json.dumps(figure) + "\n")
    except Exception as error:
        text = " ".join(str(error).split())
        write(json.dumps({"group": "error", "text": f"{type(error).__name__}: {text}"}) + "\n")
        return 1
    return 0


def main() -> int:
    """Runs a worker's command line."""
    parser = argparse.ArgumentParser(description="Runs a step of `bench/run.py gpu`.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("step", choices=list(STEPS), metavar="STEP")
    options = parser.parse_args()
    # Output of libraries goes to stderr; stdout carries only figures.
    figures = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    pace = QUICK if options.quick else FULL
    return print_figures(lambda: STEPS[options.step](CudaBackend(), pace), figures.write)


if __name__ == "__main__":
    sys.exit(main())
