"""Compares the instruction counts of decoding and encoding with the baseline in counts.json.

    counts.py DRIVER [--write]

DRIVER is counts.cpp, compiled like the wheel. It runs under callgrind, which counts the core alone:
the instructions in DRIVER and its calls into libraries (memcpy, malloc, from_chars), but not the
instructions there, which differ between processors. The counts are therefore the same on every
machine with the same compiler. Each compiler has its own baseline; without one, the counts are only
shown. Exit codes: 0; 1 if a count is more than 3 % above the baseline, or the cases differ; 2 if
counting failed.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BASELINE = Path(__file__).with_suffix(".json")
MAX_RATIO = 1.03
_CALLGRIND = (
    *("valgrind", "--tool=callgrind", "--quiet", "--collect-atstart=no"),
    *("--compress-strings=no", "--compress-pos=no"),
)


@dataclass(frozen=True, slots=True)
class Count:
    """The cost of one case.

    Attributes:
        instructions: in the core.
        calls: from the core into libraries.
    """

    instructions: int
    calls: int


# By case.
Counts = Mapping[str, Count]


class CannotCountError(Exception):
    """Counting failed; the message says why."""


def read_dump(lines: Iterable[str], object_file: str) -> tuple[str, Count]:
    """Sums one object file's counts in a callgrind dump.

    Args:
        lines: the dump, with uncompressed names and positions.
        object_file: its name in the dump.

    Returns:
        The name that the program gave the dump, and the count.

    Source: Valgrind's manual, "Callgrind Format Specification".
    """
    name = ""
    inside = False
    called_object: str | None = None  # of the next call, if not the caller's own
    costs_are_calls = False
    instructions = calls = 0
    for line in lines:
        key, is_pair, value = line.rstrip("\n").partition("=")
        if line.startswith("desc: Trigger: Client Request: "):
            name = line.rstrip("\n").partition("Client Request: ")[2]
        elif is_pair and key == "ob":
            inside = value == object_file
        elif is_pair and key == "cob":
            called_object = value
        elif is_pair and key == "calls":
            if inside and called_object not in (None, object_file):
                calls += int(value.split()[0])
            called_object = None
            costs_are_calls = True  # on the next line
        elif re.match(r"[+*\-\d]", line):
            if inside and not costs_are_calls:
                instructions += int(line.split()[1])
            costs_are_calls = False
    return name, Count(instructions, calls)


def count(driver: Path) -> tuple[str, Counts]:
    """Runs the driver under callgrind.

    Returns:
        The driver's compiler, and the counts.

    Raises:
        CannotCountError: valgrind is missing, or the driver failed.
    """
    if shutil.which("valgrind") is None:
        raise CannotCountError("valgrind is not installed: apt-get install valgrind")
    driver = driver.resolve()
    with tempfile.TemporaryDirectory() as folder:
        dumps = Path(folder) / "dump"
        command = [*_CALLGRIND, f"--callgrind-out-file={dumps}", str(driver)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotCountError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
        counts = {}
        # The dumps are numbered, except the one at exit.
        for file in sorted(Path(folder).glob("dump.*"), key=lambda file: int(file.suffix[1:])):
            with file.open() as lines:
                name, counts[name] = read_dump(lines, str(driver))
    return done.stdout.partition("\n")[0], counts


def compare(counts: Counts, baseline: Counts | None) -> tuple[list[str], bool]:
    """Returns a table of counts against the baseline, and whether all hold it.

    Args:
        counts: the counts of this run.
        baseline: None if this compiler has none.
    """
    rows = [["", "instructions", "of baseline", "calls", "of baseline", ""]]
    holds = True
    for name, got in counts.items():
        was = (baseline or {}).get(name)
        verdict = ""
        if was is not None:
            if _exceeds(got.instructions, was.instructions) or _exceeds(got.calls, was.calls):
                verdict = "MORE"
            elif _exceeds(was.instructions, got.instructions) or _exceeds(was.calls, got.calls):
                verdict = "fewer: make counts-baseline"
        elif baseline is not None:
            verdict = "NEW: make counts-baseline"
        holds &= not verdict.isupper() and not verdict.startswith("NEW")
        instructions = _cells(got.instructions, was.instructions if was else None)
        calls = _cells(got.calls, was.calls if was else None)
        rows.append([name, *instructions, *calls, verdict])
    for name in baseline or {}:
        if name not in counts:
            # Its instruction set is missing on this processor.
            rows.append([name, "", "", "", "", "not counted here"])
    return _align(rows), holds


def _exceeds(count: int, other: int) -> bool:
    return count > MAX_RATIO * other


def _cells(count: int, of: int | None) -> list[str]:
    return [f"{count:,}", f"{count / of:.1%}" if of else ""]


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if 0 < column < len(row) - 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def read_baselines(file: Path) -> dict[str, dict[str, Count]]:
    """Reads the stored counts, by compiler and case."""
    return {
        compiler: {name: Count(*pair) for name, pair in cases.items()}
        for compiler, cases in json.loads(file.read_text()).items()
    }


def write_baselines(file: Path, baselines: Mapping[str, Counts]) -> None:
    """Stores counts, one case per line for readable diffs."""
    compilers = []
    for compiler, cases in sorted(baselines.items()):
        lines = [
            f"  {json.dumps(name)}: [{kept.instructions}, {kept.calls}]"
            for name, kept in cases.items()
        ]
        compilers.append(f" {json.dumps(compiler)}: {{\n" + ",\n".join(lines) + "\n }")
    file.write_text("{\n" + ",\n".join(compilers) + "\n}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Counts the instructions of the core.")
    parser.add_argument("driver", type=Path, help="counts.cpp, compiled")
    parser.add_argument("--write", action="store_true", help="keep the counts as the baseline")
    options = parser.parse_args(arguments)
    try:
        compiler, counts = count(options.driver)
    except CannotCountError as error:
        print(f"counts: {error}", file=sys.stderr)
        return 2
    baselines: dict[str, Counts] = dict(read_baselines(BASELINE)) if BASELINE.exists() else {}
    lines, holds = compare(counts, baselines.get(compiler))
    print("\n".join(lines))
    if options.write:
        write_baselines(BASELINE, {**baselines, compiler: counts})
        print(f"Kept as the baseline of {compiler}")
        return 0
    if compiler not in baselines:
        print(f"Counts: there is no baseline of {compiler}, so nothing is judged")
        return 0
    print(f"Counts: {'all hold' if holds else 'NOT all hold'} the baseline of {compiler}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
