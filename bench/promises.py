"""The project's goals, beside the measured values."""

from collections.abc import Sequence
from dataclasses import dataclass

from report import table

NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Promise:
    """A goal and the measured value.

    Attributes:
        what: a description.
        got: the measured value; None if not measured.
        best: the same for the fastest times, if known.
        must, aim: the required and the desired value.
        is_least: whether these are lower bounds, not upper ones.
        unit: the suffix of the numbers.
    """

    what: str
    got: float | None
    best: float | None
    must: float
    aim: float
    is_least: bool = False
    unit: str = "x"

    def row(self) -> list[str]:
        """Its row of the table."""
        sign = "≥" if self.is_least else "≤"
        limits = [f"{sign} {self.must:g}{self.unit}", f"{sign} {self.aim:g}{self.unit}"]
        if self.got is None:
            return [self.what, "", "", *limits, NOT_MEASURED]
        best = "" if self.best is None else f"{self.best:.2f}{self.unit}"
        return [self.what, f"{self.got:.2f}{self.unit}", best, *limits, self._verdict(self.got)]

    def _verdict(self, got: float) -> str:
        if self._reaches(got, self.aim):
            return "aim reached"
        return "reached" if self._reaches(got, self.must) else "MISSED"

    def _reaches(self, got: float, limit: float) -> bool:
        return got >= limit if self.is_least else got <= limit


def promise_table(promises: Sequence[Promise]) -> str:
    """The table of all goals."""
    rows = [promise.row() for promise in promises]
    return table(["promised", "got", "of best", "must", "aim", ""], rows)
