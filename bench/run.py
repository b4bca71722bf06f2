"""The benchmarks' command line, `bench/run.py COMMAND`; bench/README.md describes them.

Every benchmark checks the results that it times. Exit codes: 0 success; 1 a wrong result, or
another failed check; 2 nothing could be measured; 3 `gpu` found no usable GPU.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from codec import codec
from common.answers import MismatchError
from common.cases import CASES, FOLDER
from common.report import CannotMeasureError, Report
from engine import engine
from gpu import gpu
from gpu.backend import NoGpuError
from gpux.errors import GpuxError
from server import server


class Benchmark(Protocol):
    """The interface of a command's module. Its docstring's first line is the help."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Adds the command's own options."""

    def measure(self, options: argparse.Namespace, /) -> Report:
        """Runs the benchmark and checks its results."""


BENCHMARKS: dict[str, Benchmark] = {
    "codec": codec,
    "server": server,
    "engine": engine,
    "gpu": gpu,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "cases":
        for case in CASES.values():
            print(*case.write(FOLDER))
        return 0
    try:
        report = BENCHMARKS[options.command].measure(options)
    except MismatchError as error:
        print(f"WRONG ANSWER: {error}", file=sys.stderr)
        return 1
    except (CannotMeasureError, GpuxError) as error:
        print(f"{options.command}: {error}", file=sys.stderr)
        return 3 if isinstance(error, NoGpuError) else 2
    print(report.text())
    if options.json is not None:
        report.write_json(options.json)
    return 1 if report.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench/run.py", description="Measures GPUX.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, benchmark in BENCHMARKS.items():
        about = (benchmark.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        command = commands.add_parser(name, help=about, description=about)
        benchmark.add_arguments(command)
        command.add_argument(
            "--json", type=Path, metavar="FILE", help="write all figures to this file"
        )
    commands.add_parser("cases", help="write the models and requests of `server` to bench/.cases")
    return parser


if __name__ == "__main__":
    # Unwinds, so that running servers are ended, as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
