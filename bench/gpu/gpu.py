"""How fast the path through an NVIDIA GPU is, beside ONNX Runtime alone.

Each step runs in a process of its own, so that a failing one hides no other. Whether a GPU's
results are right is also tested in tests/gpu. Measurements are written after each step.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.answers import MODEL_TOLERANCE
from common.report import Figure, Goal, Report, find, of_group, table
from gpu.backend import find_gpu
from gpu.measures import ENGINE, GRAPH, STEPS
from gpu.worker import command, run_worker

_RESULTS = Path(__file__).resolve().parents[1] / "results"
_STEP_SECONDS = 180.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own options."""
    parser.add_argument("--quick", action="store_true", help="less of everything")
    results = "write bench/results/gpu-NAME.txt and .json as well"
    parser.add_argument("--results", action="store_true", help=results)
    only = f"only these: {', '.join(STEPS)}"
    parser.add_argument("--step", action="append", choices=list(STEPS), metavar="STEP", help=only)


def measure(options: argparse.Namespace) -> Report:
    """Runs all steps, on the first GPU."""
    gpu = find_gpu()
    results = _RESULTS / f"gpu-{file_name(gpu['gpu'])}"
    files = [options.json, results.with_suffix(".json") if options.results else None]
    figures: list[Figure] = []
    report = _report(gpu, figures, quick=options.quick)
    for step in options.step or STEPS:
        figures += run_worker(step, command(step, quick=options.quick), _STEP_SECONDS)
        print(f"{step}: {figures[-1]['status']} {figures[-1]['detail']}", file=sys.stderr)
        report = _report(gpu, figures, quick=options.quick)
        for file in filter(None, files):
            report.write_json(file)
    if options.results:
        results.with_suffix(".txt").write_text(report.text() + "\n")
    return report


def file_name(gpu: str) -> str:
    """A GPU's name in a form for file names: `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def _report(gpu: Figure, figures: Sequence[Figure], *, quick: bool) -> Report:
    steps = of_group(figures, "step")
    failed = [step["step"] for step in steps if step["status"] == "FAILED"]
    return Report(
        benchmark="gpu",
        settings={"quick": quick, "tolerance": MODEL_TOLERANCE},
        figures=figures,
        tables=tables(figures),
        goals=list(goals(figures)),
        notes=[
            f"{gpu['gpu']}, driver for CUDA {gpu['driver_cuda']}, CuPy {gpu['cupy']}.",
            f"Outputs: within {MODEL_TOLERANCE:g} of the largest number of the CPU's. TF32 is off.",
            f"FAILED: {', '.join(failed)}." if failed else "Nothing failed.",
        ],
        versions={"gpu": gpu},
        failed=failed,
    )


def tables(figures: Sequence[Figure]) -> list[str]:
    """The tables of these figures."""
    ways = (("copy_in", "path"), ("bare", "bare"))
    times = [f"{way} us={{{key}_us:.1f}} | GB/s={{{key}_gb_s:.2f}}" for way, key in ways]
    return [
        table(
            of_group(figures, "step"), "step={step} | ={status} | s={seconds:.1f} | ={detail:.120}"
        ),
        table(
            of_group(figures, "copy"),
            " | ".join(["host to device, KiB={kib}", *times, "of bare={of_bare:.2f}x"]),
        ),
        table(
            of_group(figures, "latency"),
            "model={model} | batch={batch} | by={by} | p50 us={p50_us:.0f} | p99 us={p99_us:.0f} | "
            "best us={best_us:.0f} | requests={requests} | over ONNX Runtime={over_alone:.2f}x | "
            "over no graph={over_plain:.2f}x",
        ),
    ]


def goals(figures: Sequence[Figure]) -> Iterator[Goal]:
    """The goals, measured or not."""
    sizes = [figure["kib"] for figure in of_group(figures, "copy")]
    for kib in sizes or ["any number of"]:
        got = find(figures, "of_bare", group="copy", kib=kib)
        yield Goal(f"host to device, {kib} KiB: of a bare copy", got, 0.85, 0.97)
    over = find(figures, "over_alone", model="resnet50", batch=8, by=ENGINE)
    what = "resnet50, batch 8: p50 over ONNX Runtime alone"
    yield Goal(what, over, 1.15, 1.05, is_least=False)
    plain = find(figures, "over_plain", model="mlp", batch=1, by=ENGINE + GRAPH)
    yield Goal("mlp, batch 1: p50 with a graph over without", plain, 0.6, 0.4, is_least=False)
    grown = find(figures, "grown_mib", group="memory")
    what = "device memory after all requests, above the first"
    yield Goal(what, grown, 64, 0, is_least=False, unit=" MiB")
