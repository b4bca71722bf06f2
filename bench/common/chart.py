"""Charts: panels of bars, on a transparent ground in colours that any page shows."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.report import CannotMeasureError

_OURS, _OTHER, _TEXT = "#3b82c4", "#9aa1aa", "#808890"
_PANEL_INCHES, _BAR_INCHES, _COLUMNS = 4.0, 0.27, 3
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",  # text as text
    "svg.hashsalt": "gpux",  # reproducible files
    "savefig.transparent": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _TEXT
    ),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar: its name, its length (None if not measured), its text, and whether it is ours."""

    name: str
    value: float | None
    text: str
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of a chart: what stands above it, and its bars from top to bottom."""

    title: str
    about: str
    bars: Sequence[Bar]


def check_charts() -> None:
    """Raises CannotMeasureError if charts cannot be drawn; to be called before measuring."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CannotMeasureError("a chart needs matplotlib: pip install matplotlib")


def draw(panels: Sequence[Panel], title: str, caption: str, file: Path) -> None:
    """Draws a chart.

    Args:
        panels: in rows.
        title: above them.
        caption: below them.
        file: .svg or .png.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    height = 0.85 + _BAR_INCHES * max(len(panel.bars) for panel in panels)
    with matplotlib.rc_context(_STYLE):
        size = (_PANEL_INCHES * columns, 1.1 + height * rows)
        canvas = Figure(figsize=size, layout="constrained")
        grid: Any = canvas.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            axes.set_title(panel.title, loc="left", pad=28, fontweight="bold")
            axes.text(0, 1.03, panel.about, transform=axes.transAxes, fontsize=7.5)
            _draw_bars(axes, panel)
        canvas.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
        canvas.supxlabel(caption, x=0.01, ha="left", fontsize=7.5)
        metadata: Any = {"Date": None} if file.suffix == ".svg" else None
        canvas.savefig(file, dpi=150, metadata=metadata)


def _draw_bars(axes: Any, panel: Panel) -> None:
    values = [bar.value or 0.0 for bar in panel.bars]
    longest = max(values, default=0.0) or 1.0
    places = range(len(values))
    colours = [_OURS if bar.is_ours else _OTHER for bar in panel.bars]
    axes.barh(places, values, height=0.72, color=colours)
    axes.set_yticks(places, [bar.name for bar in panel.bars])
    axes.invert_yaxis()
    for place, (bar, label) in enumerate(zip(panel.bars, axes.get_yticklabels(), strict=True)):
        weight = "bold" if bar.is_ours else "normal"
        label.set_fontweight(weight)
        end = values[place] + longest * 0.015
        axes.text(end, place, bar.text, va="center", fontweight=weight)
    axes.set_xlim(0, longest * 1.35)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)
