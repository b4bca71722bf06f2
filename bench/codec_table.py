"""The tables of `codec`, and the project's goals for it."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from codec_bodies import BOXES, HWC, SEVENTEEN_DIGITS, SHORT_IDS, TABULAR, TOKEN_IDS
from codec_contenders import MACHINE, OURS
from report import table

Figure = dict[str, Any]


def _promise(figure: Figure) -> tuple[float, float] | None:
    """The required and the desired speed-up; None without a goal."""
    match figure["group"], figure["by"]:
        case "decode", "pysimdjson":
            promises = {
                SEVENTEEN_DIGITS: (1.5, 2.5),
                TOKEN_IDS: (2.0, 4.0),
                HWC: (2.5, 4.0),
                BOXES: (2.0, 3.0),
                TABULAR: (2.0, 3.0),
                SHORT_IDS: (2.0, 3.0),
            }
            return promises.get(figure["body"])
        case "decode", "orjson + numpy":
            return 3.0, 6.0
        case "encode", "orjson" if figure["type"] == "float32":
            return 1.5, 3.0
        case "decode, threads" | "encode, threads", "gpux" if figure["threads"] == 2:
            return 1.8, 1.95
    return None


def tables(figures: Sequence[Figure]) -> str:
    """All tables, the goals last."""
    parts = [
        _in_one_thread(group, [figure for figure in figures if figure["group"] == group])
        for group in ("decode", "encode")
    ]
    threaded = [figure for figure in figures if "threads" in figure]
    return "\n\n".join([*parts, _in_threads(threaded), _promised(figures)])


def _in_one_thread(group: str, figures: Sequence[Figure]) -> str:
    rows = [
        [
            figure["body"],
            figure["type"],
            figure["by"],
            f"{figure['median_ns']:.2f}",
            f"{figure['best_ns']:.2f}",
            f"{figure['median_gb_s']:.2f}",
            f"{figure['best_gb_s']:.2f}",
            "" if figure["by"] == OURS else f"{figure['ratio_median']:.2f}x",
            "" if figure["by"] == OURS else f"{figure['ratio_best']:.2f}x",
            f"DIFFERS {figure['differs']}" if figure["differs"] else "equal",
        ]
        for figure in figures
    ]
    titles = ["type", "by", "ns/number", "best", "GB/s", "best", "gpux is", "of best", "bits"]
    return table([group, *titles], _without_repeats(rows, 2))


def _in_threads(figures: Iterable[Figure]) -> str:
    rows = []
    for (group, body, by), entries in groupby(
        figures, lambda figure: (figure["group"], figure["body"], figure["by"])
    ):
        numbers = list(entries)
        rows.append(
            [
                group,
                body,
                by,
                *(f"{figure['median_gb_s']:.2f}" for figure in numbers),
                *(f"{figure['ratio_median']:.2f}x" for figure in numbers[1:]),
                *(f"{figure['ratio_best']:.2f}x" for figure in numbers[1:]),
            ]
        )
    titles = ["", "body", "by", "1: GB/s", "2: GB/s", "4: GB/s", "2 over 1", "4 over 1"]
    return table([*titles, "2, of best", "4, of best"], _without_repeats(rows, 2))


def _promised(figures: Sequence[Figure]) -> str:
    gains = {
        (figure["group"], figure["body"], figure["threads"]): figure["ratio_median"]
        for figure in figures
        if figure["by"] == MACHINE
    }
    rows = []
    for figure in figures:
        promise = _promise(figure)
        if promise is None:
            continue
        least, aim = promise
        got = figure["ratio_median"]
        machine = gains.get((figure["group"], figure["body"], figure.get("threads")))
        rows.append(
            [
                figure["group"],
                figure["body"],
                f"1 thread ({MACHINE}: {machine:.2f}x)" if machine else figure["by"],
                f"{got:.2f}x",
                f"{figure['ratio_best']:.2f}x",
                f"≥ {least:g}x",
                f"≥ {aim:g}x",
                _verdict(got, least, aim, machine),
            ]
        )
    titles = ["promised", "body", "against", "got", "of best", "must", "aim", ""]
    return table(titles, _without_repeats(rows, 1))


def _verdict(got: float, least: float, aim: float, machine: float | None) -> str:
    if got >= least:
        return "aim reached" if got >= aim else "reached"
    return "cannot tell: no free core" if machine and machine < least else "MISSED"


def _without_repeats(rows: Sequence[Sequence[str]], columns: int) -> list[list[str]]:
    """Blanks leading columns that repeat the row above."""
    shown = []
    above: Sequence[str] = [""] * columns
    for row in rows:
        same = next((i for i in range(columns) if row[i] != above[i]), columns)
        shown.append([*[""] * same, *row[same:]])
        above = row
    return shown
