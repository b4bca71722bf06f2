"""The path through an NVIDIA GPU: first whether it answers right, then how fast it is.

Steps run in a worker process that can be replaced (gpu_worker.py), so that a failing step hides no
other. Measurements are written after each step.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpu_answers import FEW_LAYERS_TOLERANCE, MODEL_TOLERANCE, TOLERANCES
from gpu_backend import NoGpuError, find_gpu
from gpu_checks import SESSION
from gpu_steps import FULL, QUICK, Figure, Pace
from gpu_table import failed_steps, tables
from gpu_worker import FAILED, STEPS, Message, command, limit_of, supervise, worker
from report import CheckedReport
from timing import count

_RESULTS = Path(__file__).resolve().parent / "results"
_SECONDS, _QUICK_SECONDS = 540, 240
# If the first session fails with one of these, the GPU is unusable.
_UNUSABLE = ("ConfigurationError", "RuntimeMissingError")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument(
        "--quick", action="store_true", help="less of everything: two minutes instead of six"
    )
    parser.add_argument(
        "--seconds",
        type=count,
        metavar="N",
        help="end within N seconds, and leave out what does not fit "
        f"(default {_SECONDS}, with --quick {_QUICK_SECONDS})",
    )
    parser.add_argument(
        "--results",
        action="store_true",
        help="write the table and the figures to bench/results/gpu-NAME.txt and .json as well",
    )
    parser.add_argument(
        "--step",
        action="append",
        choices=list(STEPS),
        metavar="STEP",
        help=f"only these: {', '.join(STEPS)}",
    )


def measure(options: argparse.Namespace) -> CheckedReport:
    """Runs all steps, on the first GPU."""
    gpu = find_gpu()
    pace = QUICK if options.quick else FULL
    seconds = options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS)
    deadline = time.monotonic() + seconds
    print(f"{gpu['gpu']}: at most {seconds} s", file=sys.stderr)
    launch = partial(
        worker,
        command(quick=options.quick, deadline=deadline),
        limits=lambda name: limit_of(name, pace),
        deadline=deadline,
    )
    outputs = [options.json] if options.json is not None else []
    results = _RESULTS / f"gpu-{file_name(gpu['gpu'])}"
    if options.results:
        outputs.append(results.with_suffix(".json"))
    settings = {"quick": options.quick, "seconds": seconds}
    run = Run(gpu, settings, pace, outputs)
    report = run.do(options.step or list(STEPS), launch)
    if options.results:
        results.with_suffix(".txt").write_text(report.text() + "\n")
    return report


def file_name(gpu: str) -> str:
    """A GPU's name in a form for file names: `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


class Run:
    """A run of the steps, with the results so far.

    Args:
        gpu: the device and the software installed for it.
        settings: the options of the command.
        pace: how much is done.
        outputs: files to which all measurements are written after each step.
    """

    def __init__(
        self,
        gpu: Mapping[str, Any],
        settings: Mapping[str, Any],
        pace: Pace,
        outputs: Sequence[Path] = (),
    ) -> None:
        self._gpu = gpu
        self._settings = settings
        self._pace = pace
        self._outputs = outputs
        self._steps: list[Message] = []
        self._figures: list[Figure] = []

    def do(
        self, names: Sequence[str], launch: Callable[[Sequence[str]], Iterator[Message]]
    ) -> CheckedReport:
        """Runs steps, and reports the outcome of each on stderr.

        Raises:
            NoGpuError: no session could be created.
        """
        for message in supervise(names, launch):
            if "figure" in message:
                self._figures.append(message["figure"])
            if "end" in message:
                self._steps.append(message)
                print(
                    f"{message['end']:<28} {message['status']:<9} {message['seconds']:6.1f} s  "
                    f"{message['detail']}",
                    file=sys.stderr,
                )
                is_first = message["end"] == SESSION and message["status"] == FAILED
                if is_first and message.get("kind") in _UNUSABLE:
                    raise NoGpuError(str(message["detail"]).partition(": ")[2])
            if "begin" not in message:
                report = self.report()
                for file in self._outputs:
                    report.write_json(file)
        return self.report()

    def report(self) -> CheckedReport:
        """The report of all steps so far."""
        checks = [step for step in self._steps if STEPS[step["end"]].kind == "check"]
        failed = failed_steps(self._steps)
        tolerances = ", ".join(f"{name} {share:g}" for name, share in TOLERANCES.items())
        return CheckedReport(
            benchmark="gpu",
            settings={
                **self._settings,
                "pace": {key: getattr(self._pace, key) for key in self._pace.__slots__},
                "tolerances": {
                    **TOLERANCES,
                    "few layers": FEW_LAYERS_TOLERANCE,
                    "whole models": MODEL_TOLERANCE,
                },
            },
            figures=[
                *({"group": STEPS[step["end"]].kind, **step} for step in self._steps),
                *self._figures,
            ],
            table=tables(self._steps, self._figures),
            notes=[
                f"{self._gpu['gpu']}, driver for CUDA {self._gpu['driver_cuda']}, CuPy "
                f"{self._gpu['cupy']}, onnxruntime {self._gpu['onnxruntime']}.",
                f"{len(checks)} checks. Integers, booleans and what is only moved: equal bit for "
                f"bit to the CPU's. Floats: within a share of the largest number: {tolerances}; "
                f"few layers {FEW_LAYERS_TOLERANCE:g}, whole models {MODEL_TOLERANCE:g}. "
                "TF32 is off.",
                "HTTP: the clients are Python's http.client, in one process.",
                f"FAILED: {', '.join(failed)}." if failed else "Nothing failed.",
            ],
            versions={"gpu": self._gpu},
            failed=failed,
        )
