"""The chart of `scale`: time above, memory below, a column for each series."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from fit import PowerLaw
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

_INK, _MUTED, _FAINT, _LINE, _FIT = "#1f2933", "#61707f", "#d5dae0", "#1f6feb", "#e4572e"
_BARS = ("#1f6feb", "#8db8f7")
_MIB = 2**20
_STYLE: Any = {
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_TITLES = {
    "body": ("Body size", "bytes of JSON, one request at a time"),
    "batch": ("Batch", "rows in a request, one at a time"),
    "connections": ("Connections", "small requests, all connections busy"),
    "workers": ("Workers", "32 connections"),
}


def draw(figures: Sequence[Mapping[str, Any]], caption: str, file: Path) -> None:
    """Draws the chart.

    Args:
        figures: the measurements of `scale`.
        caption: the text below the panels.
        file: .png or .svg.
    """
    parts = [part for part in _TITLES if any(each["group"] == part for each in figures)]
    with matplotlib.rc_context(_STYLE):
        chart = Figure(figsize=(3.7 * len(parts), 6.6), layout="constrained")
        grid: Any = chart.subplots(2, len(parts), squeeze=False)
        for column, part in enumerate(parts):
            points = [each for each in figures if each["group"] == part]
            above, below = grid[0][column], grid[1][column]
            title, about = _TITLES[part]
            above.set_title(f"{title}\n", pad=2)
            above.text(0, 1.02, about, transform=above.transAxes, color=_MUTED)
            if part == "workers":
                _bars(above, points, "per_second", "requests/s", lambda value: f"{value:,.0f}")
                _bars(below, points, "memory_bytes", "MiB of all processes", _mib_text)
                continue
            fits = {
                each["what"]: each
                for each in figures
                if each["group"] == "fit" and each["part"] == part
            }
            what = "per_second" if part == "connections" else "seconds"
            tell: Callable[[float], str] = _seconds_text
            if part == "connections":
                tell = _plain_text
            _line(above, points, what, fits[what], tell)
            above.set_ylabel("requests/s" if part == "connections" else "time of a request (p50)")
            _line(below, points, "memory_bytes", fits["memory_bytes"], _bytes_text, is_bytes=True)
            below.set_ylabel("memory above an idle server's")
            for axes in (above, below):
                _scale_x(axes, points, _bytes_text if part == "body" else _plain_text)
        chart.supxlabel(caption, x=0.01, ha="left", fontsize=8, color=_MUTED)
        chart.savefig(file, dpi=150)


def _line(
    axes: Axes,
    points: Sequence[Mapping[str, Any]],
    what: str,
    fit: Mapping[str, Any],
    tell: Callable[[float], str],
    *,
    is_bytes: bool = False,
) -> None:
    xs = [point["x"] for point in points]
    ys = [point[what] for point in points]
    law = PowerLaw(fit["exponent"], fit["factor"], fit["r2"])
    fitted = [x for x in xs if x >= fit["from_x"]]
    axes.plot(
        fitted,
        [law.at(x) for x in fitted],
        color=_FIT,
        linewidth=5,
        alpha=0.35,
        solid_capstyle="round",
        label=f"$x^{{{law.exponent:.2f}}}$, R² {law.r2:.3f}",
    )
    axes.plot(xs, ys, color=_LINE, marker="o", markersize=4.5, linewidth=1.4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    low, high = min(ys), max(ys)
    # A flat line stays flat: a decade at least.
    if high < 10 * low:
        middle = (low * high) ** 0.5
        low, high = middle / 10**0.5, middle * 10**0.5
    axes.set_ylim(low / 1.6, high * 1.6)
    axes.yaxis.set_major_locator(FixedLocator(_ticks(*axes.get_ylim(), is_bytes=is_bytes)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tell(value)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.tick_params(length=0)
    axes.legend(frameon=False, loc="upper left", handlelength=1.2)


def _ticks(low: float, high: float, *, is_bytes: bool) -> list[float]:
    """Round numbers on a logarithmic axis: powers of ten, or of two for bytes, seven at most."""
    if is_bytes:
        powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
        step = -(-len(powers) // 7)
        return [2.0**power for power in powers if power % step == 0]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if high < 100 * low else (1,)
    every = [digit * 10.0**decade for decade in decades for digit in digits]
    return [value for value in every if low <= value <= high]


def _scale_x(axes: Axes, points: Sequence[Mapping[str, Any]], tell: Callable[[float], str]) -> None:
    xs = [point["x"] for point in points]
    axes.xaxis.set_major_locator(FixedLocator(xs[:: 2 if len(xs) > 6 else 1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tell(value)))


def _bars(
    axes: Axes,
    points: Sequence[Mapping[str, Any]],
    what: str,
    label: str,
    tell: Callable[[float], str],
) -> None:
    """A group of bars for each server, a bar for each model."""
    servers = list(dict.fromkeys(point["x"] for point in points))
    cases = list(dict.fromkeys(point["case"] for point in points))
    width = 0.8 / len(cases)
    for place, case in enumerate(cases):
        values = [point[what] for point in points if point["case"] == case]
        at = [number + (place - (len(cases) - 1) / 2) * width for number in range(len(servers))]
        bars = axes.bar(at, values, 0.92 * width, color=_BARS[place % len(_BARS)], label=case)
        axes.bar_label(bars, [tell(value) for value in values], padding=2, fontsize=8)
    axes.set_xticks(range(len(servers)), servers)
    axes.set_xlim(-0.6, max(len(servers), 3) - 0.4)
    axes.set_ylabel(label)
    axes.set_ylim(0, 1.3 * max(point[what] for point in points))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    axes.legend(frameon=False, loc="upper left", ncols=len(cases), handlelength=1.2)


def _seconds_text(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds * 1e6:g} µs"


def _bytes_text(nbytes: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", _MIB), ("KiB", 2**10)):
        if nbytes >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes:.3g} B"


def _mib_text(nbytes: float) -> str:
    return f"{nbytes / _MIB:.0f}"


def _plain_text(value: float) -> str:
    return f"{value:,.0f}"
