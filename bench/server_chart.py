"""The chart of `server`: requests per second by server, one panel per case."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cases import CASES
from report import CannotMeasureError, Report, machine
from server_table import RAW, best_peer, rate, shown_connections

_COLOURS = {"ours": "#1b6ca8", "python peer": "#b9bec5", "peer": "#8d949d"}
_INK, _FAINT = "#222222", "#6b7280"
_COLUMNS = 3
_BAR_INCHES = 0.27


def check() -> None:
    """Raises CannotMeasureError if charts cannot be drawn; to be called before measuring."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CannotMeasureError("a chart needs matplotlib: pip install matplotlib")


def draw(report: Report, file: Path) -> None:
    """Draws a report's chart to a file, .svg or .png by its name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figures = report.figures
    connections = shown_connections(figures)
    cases = list(dict.fromkeys(figure["case"] for figure in figures))
    servers = list(dict.fromkeys(figure["server"] for figure in figures if figure["connections"]))
    columns = min(_COLUMNS, len(cases))
    rows = -(-len(cases) // columns)
    style: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.size": 9,
        "svg.fonttype": "none",  # text as text
        "svg.hashsalt": "gpux",  # reproducible files
    }
    with pyplot.rc_context(style):
        panel_inches = 0.85 + _BAR_INCHES * len(servers)
        canvas, axes = pyplot.subplots(
            rows,
            columns,
            figsize=(4.0 * columns, 1.1 + panel_inches * rows),
            squeeze=False,
            layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1),
        )
        for axis, case in zip(axes.flat, cases, strict=False):
            _panel(axis, case, figures, connections)
        for axis in axes.flat[len(cases) :]:
            axis.set_visible(False)
        canvas.suptitle(
            f"Requests per second, {connections} connections (longer is better)",
            x=0.01,
            ha="left",
            fontsize=13,
            fontweight="bold",
            color=_INK,
        )
        canvas.supxlabel(_caption(report), x=0.01, ha="left", fontsize=7.5, color=_FAINT)
        canvas.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else None)
        pyplot.close(canvas)


def _panel(axis: Any, case: str, figures: Sequence[Mapping[str, Any]], connections: int) -> None:
    """Draws one case: a bar per server, in order of listing."""
    shown = [
        figure
        for figure in figures
        if figure["case"] == case and figure["connections"] == connections
    ]
    values = [figure["requests_per_second"] or 0.0 for figure in shown]
    places = range(len(shown))
    axis.barh(places, values, height=0.72, color=[_COLOURS[figure["kind"]] for figure in shown])
    axis.set_yticks(places, [figure["server"] for figure in shown])
    axis.invert_yaxis()
    peer = best_peer(figures, case, connections)
    longest = max(values, default=0.0) or 1.0
    for place, (figure, value) in enumerate(zip(shown, values, strict=True)):
        is_ours = figure["kind"] == "ours"
        text = rate(figure["requests_per_second"])
        if is_ours and peer is not None:
            text += f"   {value / peer['requests_per_second']:.1f}x"
        axis.text(
            value + longest * 0.015,
            place,
            text,
            va="center",
            color=_INK,
            fontweight="bold" if is_ours else "normal",
        )
    for label, figure in zip(axis.get_yticklabels(), shown, strict=True):
        if figure["kind"] == "ours":
            label.set_fontweight("bold")
    alone = next(
        figure["requests_per_second"]
        for figure in figures
        if figure["case"] == case and figure["server"] == RAW
    )
    axis.set_title(case, loc="left", pad=26, fontweight="bold", color=_INK)
    axis.text(
        0,
        1.01,
        f"{CASES[case].about}\nmodel alone: {rate(alone)}",
        transform=axis.transAxes,
        fontsize=7.5,
        color=_FAINT,
    )
    axis.set_xlim(0, longest * 1.32)
    axis.set_xticks([])
    axis.tick_params(axis="y", length=0, colors=_INK)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.spines["left"].set_color("#d0d4d9")


def _caption(report: Report) -> str:
    """The caption: the machine, and what the bars mean."""
    here = machine()
    return (
        f"{here['cpu']}, {here['cores']} cores, the load generator (wrk) on the same ones. One "
        "ONNX Runtime thread a run. "
        f"Median of {report.settings['rounds']} rounds in turns. 1.0x: the fastest other server of "
        "the panel.\nModel alone: runs per second of session.run on one core, without a server."
    )
