"""The report of a benchmark: JSON for programs, a table for people, the machine."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# The packages that the results depend on, besides the machine.
_PACKAGES = (
    *("gpux", "numpy", "onnxruntime", "falcon", "waitress", "granian"),
    *("orjson", "msgspec", "pysimdjson"),
)


class CannotMeasureError(Exception):
    """Something that a benchmark needs is missing; named in the message."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one benchmark.

    Attributes:
        benchmark: the benchmark's name.
        settings: its options.
        figures: one mapping per row of results, with units in the names of the keys.
        table: the same as text.
        notes: lines under the table.
        versions: package versions of the other environments.
    """

    benchmark: str
    settings: Mapping[str, Any]
    figures: Sequence[Mapping[str, Any]]
    table: str
    notes: Sequence[str] = ()
    versions: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The report as text."""
        here = machine()
        packages = ", ".join(f"{name} {version}" for name, version in here["packages"].items())
        return "\n".join(
            [
                f"{here['cpu']}, {here['cores']} cores; {here['python']}; {packages}",
                "",
                self.table,
                *(["", *self.notes] if self.notes else []),
            ]
        )

    def write_json(self, file: Path) -> None:
        """Writes all measurements and the machine that they were made on."""
        content = {
            "benchmark": self.benchmark,
            "machine": machine(),
            "versions": self.versions,
            "settings": self.settings,
            "notes": self.notes,
            "figures": self.figures,
        }
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


@dataclass(frozen=True, slots=True)
class CheckedReport(Report):
    """A report with checks that may have failed.

    Attributes:
        failed: the names of the checks that failed.
    """

    failed: Sequence[str] = ()


def machine() -> dict[str, Any]:
    """The machine, without its name: CPU, usable cores, OS, Python, versions."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats aligned columns: the first and those of words to the left, numbers to the right."""
    columns = list(zip(titles, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_right = [
        index > 0 and all(not cell or cell[0] in "0123456789≥≤+" for cell in column[1:])
        for index, column in enumerate(columns)
    ]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_right, strict=True)
        ).rstrip()
        for row in (titles, *rows)
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
