"""The report of a benchmark: tables and goals for people, JSON for programs, the machine."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

# One row of results, with units in the names of the keys.
Figure = dict[str, Any]

# The packages that the results depend on, besides the machine.
_PACKAGES = (
    *("gpux", "numpy", "onnxruntime", "falcon", "uvloop", "httptools", "waitress", "granian"),
    *("orjson", "msgspec", "pysimdjson"),
)


class CannotMeasureError(Exception):
    """Something that a benchmark needs is missing; named in the message."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a measured value has to be.

    Attributes:
        what: a description.
        got: the measured value; None if not measured.
        must, aim: the required and the desired value; no aim if None.
        is_least: whether these are lower bounds, not upper ones.
        unit: the suffix of the numbers.
    """

    what: str
    got: float | None
    must: float
    aim: float | None = None
    is_least: bool = True
    unit: str = "x"

    @property
    def verdict(self) -> str:
        """Whether the goal is reached, in words."""
        if self.got is None:
            return "not measured"
        if self.aim is not None and self._reaches(self.aim):
            return "aim reached"
        return "reached" if self._reaches(self.must) else "MISSED"

    def _reaches(self, limit: float) -> bool:
        assert self.got is not None
        return self.got >= limit if self.is_least else self.got <= limit

    def figure(self) -> Figure:
        """Its row of results."""
        about = {"group": "goal", "sign": "≥" if self.is_least else "≤", "verdict": self.verdict}
        return {**about, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one benchmark.

    Attributes:
        benchmark: the benchmark's name.
        settings: its options.
        figures: all results.
        tables: the same as text.
        goals: of the benchmark, shown after the tables.
        notes: lines under the tables.
        versions: package versions of the other environments.
        failed: the names of the checks that failed.
    """

    benchmark: str
    settings: Mapping[str, Any]
    figures: Sequence[Figure]
    tables: Sequence[str]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()
    versions: Mapping[str, Any] = field(default_factory=dict)
    failed: Sequence[str] = ()

    def text(self) -> str:
        """The report as text."""
        host = machine()
        packages = ", ".join(f"{name} {version}" for name, version in host["packages"].items())
        goals = table(
            [goal.figure() for goal in self.goals],
            "goal={what} | got={got:.2f}{unit} | must={sign} {must:g}{unit} | "
            "aim={sign} {aim:g}{unit} | ={verdict}",
        )
        parts = [
            f"{host['cpu']}, {host['cores']} cores; {host['python']}; {packages}",
            *filter(None, [*self.tables, goals]),
            "\n".join(self.notes),
        ]
        return "\n\n".join(filter(None, parts))

    def write_json(self, file: Path) -> None:
        """Writes all measurements and the machine that they were made on."""
        content = {
            "benchmark": self.benchmark,
            "machine": machine(),
            "versions": self.versions,
            "settings": self.settings,
            "notes": self.notes,
            "figures": [*self.figures, *(goal.figure() for goal in self.goals)],
        }
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def table(figures: Sequence[Figure], columns: str) -> str:
    """Formats results as aligned columns; empty without results.

    Args:
        figures: the rows.
        columns: `title=template | …`, with str.format templates over the keys of a row. A cell is
            blank where one of its keys is missing or None.

    The first column and those of words are aligned to the left, numbers to the right. Leading
    columns whose templates have no format are keys: blank where they repeat the row above.
    """
    if not figures:
        return ""
    titles, templates = zip(*(column.split("=", 1) for column in columns.split(" | ")), strict=True)
    keys = next((at for at, each in enumerate(templates) if at and ":" in each), len(templates))
    rows = [[_cell(template, figure) for template in templates] for figure in figures]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    is_right = [
        index > 0 and all(not row[index] or row[index][0] in "0123456789≥≤+-" for row in rows)
        for index in range(len(titles))
    ]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_right, strict=True)
        ).rstrip()
        for row in (titles, *_without_repeats(rows, keys))
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def of_group(figures: Iterable[Figure], group: str) -> list[Figure]:
    """The results of one group."""
    return [figure for figure in figures if figure["group"] == group]


def find(figures: Iterable[Figure], key: str, **wanted: object) -> float | None:
    """A value of the first result that has all these; None without it."""
    found = (figure for figure in figures if wanted.items() <= figure.items())
    value: float | None = next(found, {}).get(key)
    return value


def _cell(template: str, figure: Figure) -> str:
    keys = [key for _, key, _, _ in Formatter().parse(template) if key]
    if any(figure.get(key) is None for key in keys):
        return ""
    return template.format_map(figure)


def _without_repeats(rows: Sequence[list[str]], keys: int) -> list[list[str]]:
    """Blanks leading keys that repeat the row above, but for the last one."""
    shown = []
    above = [""] * keys
    for row in rows:
        same = next((index for index in range(keys) if row[index] != above[index]), 0)
        shown.append([*[""] * min(same, keys - 1), *row[min(same, keys - 1) :]])
        above = row
    return shown


def machine() -> dict[str, Any]:
    """The machine, without its name: CPU, usable cores, OS, Python, versions."""
    versions = {each.name: each.version for each in importlib.metadata.distributions()}
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {each: versions[each] for each in _PACKAGES if each in versions},
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
