"""The tables of `gpu`, and the project's goals for it."""

from collections.abc import Mapping, Sequence

from gpu_measures import ENGINE, ENGINE_GRAPH
from gpu_steps import Figure
from gpu_worker import FAILED
from promises import Promise, promise_table
from report import table

_MIB = 2**20
_MAX_DETAIL = 120


def _promises(figures: Sequence[Figure]) -> list[Promise]:
    copies = [figure for figure in figures if figure["group"] == "copy"]
    promises = [
        Promise(
            f"host to device, {_size(figure['bytes'])}: of a bare copy",
            figure["ratio_median"],
            figure["ratio_best"],
            *(0.85, 0.97),
            is_least=True,
        )
        for figure in copies
    ] or [Promise("host to device: of a bare copy", None, None, 0.85, 0.97, is_least=True)]
    raw = _latency(figures, "resnet50", 8, ENGINE)
    promises.append(
        Promise(
            "resnet50, batch 8: p50 over ONNX Runtime alone",
            raw.get("over_raw_p50"),
            raw.get("over_raw_best"),
            *(1.15, 1.05),
        )
    )
    plain = _latency(figures, "mlp", 1, ENGINE_GRAPH)
    promises.append(
        Promise(
            "mlp, batch 1: p50 with a graph over without",
            plain.get("over_plain_p50"),
            plain.get("over_plain_best"),
            *(0.6, 0.4),
        )
    )
    memory: Figure = next((each for each in figures if each["group"] == "memory"), {})
    grown = memory.get("grown_bytes")
    many = f" after {memory['requests']:,} requests" if memory else ""
    promises.append(
        Promise(
            f"device memory{many}, above the first",
            None if grown is None else grown / _MIB,
            None,
            *(64, 0),
            unit=" MiB",
        )
    )
    return promises


def _latency(figures: Sequence[Figure], model: str, batch: int, by: str) -> Figure:
    wanted = {"group": "latency", "model": model, "batch": batch, "by": by}
    return next((figure for figure in figures if wanted.items() <= figure.items()), {})


def tables(steps: Sequence[Mapping[str, object]], figures: Sequence[Figure]) -> str:
    """All tables: the steps, the measurements, and last the goals."""
    groups = (
        ("copy", _copies),
        ("latency", _latencies),
        ("http", _requests),
    )
    parts = [_steps(steps)]
    for group, show in groups:
        found = [figure for figure in figures if figure["group"] == group]
        if found:
            parts.append(show(found))
    parts.append(promise_table(_promises(figures)))
    return "\n\n".join(parts)


def _steps(steps: Sequence[Mapping[str, object]]) -> str:
    rows = [
        [str(step["end"]), str(step["status"]), f"{step['seconds']:.1f}", _cut(str(step["detail"]))]
        for step in steps
    ]
    return table(["step", "", "s", "what was done, or why not"], rows)


def _copies(figures: Sequence[Figure]) -> str:
    rows = [
        [
            _size(figure["bytes"]),
            *(f"{figure[f'{way}_us']:.1f}" for way in ("path", "frame", "bare")),
            *(f"{figure[f'{way}_gb_s']:.2f}" for way in ("path", "frame", "bare")),
            f"{figure['ratio_median']:.2f}x",
            f"{figure['ratio_best']:.2f}x",
        ]
        for figure in figures
    ]
    ways = ["copy_in", "with frame", "bare"]
    titles = [*(f"{way} us" for way in ways), *(f"{way} GB/s" for way in ways)]
    return table(["host to device", *titles, "of bare", "of best"], rows)


def _latencies(figures: Sequence[Figure]) -> str:
    rows = []
    for figure in figures:
        rows.append(
            [
                figure["model"],
                str(figure["batch"]),
                figure["by"],
                f"{figure['p50_us']:.0f}",
                f"{figure['p99_us']:.0f}",
                f"{figure['best_us']:.0f}",
                str(figure["requests"]),
                _times(figure["over_raw_p50"]),
                _times(figure["over_raw_best"]),
                _times(figure["over_plain_p50"]),
            ]
        )
    titles = ["batch", "by", "p50 us", "p99 us", "best us", "requests", "over ONNX Runtime"]
    return table(["model", *titles, "of best", "over no graph"], rows)


def _requests(figures: Sequence[Figure]) -> str:
    rows = [
        [
            figure["model"],
            str(figure["connections"]),
            f"{figure['requests_per_second']:.0f}",
            f"{figure['p50_ms']:.2f}",
            f"{figure['p99_ms']:.2f}",
            f"{figure['body_bytes']:,}",
        ]
        for figure in figures
    ]
    titles = ["connections", "requests/s", "p50 ms", "p99 ms", "bytes of JSON"]
    return table(["HTTP", *titles], rows)


def _cut(detail: str) -> str:
    """Truncates a detail; the JSON has all of it."""
    return detail if len(detail) <= _MAX_DETAIL else detail[: _MAX_DETAIL - 1] + "…"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _size(nbytes: int) -> str:
    return f"{nbytes // _MIB} MiB" if nbytes >= _MIB else f"{nbytes // 2**10} KiB"


def failed_steps(steps: Sequence[Mapping[str, object]]) -> list[str]:
    """The names of the steps that failed."""
    return [str(step["end"]) for step in steps if step["status"] == FAILED]
