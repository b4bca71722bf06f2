"""The tables of `engine`, and the project's goals for it."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from promises import Promise, promise_table
from report import table

Figure = dict[str, Any]

# The contenders of `latency`.
GPUX, SAME, DIRECT = "gpux", "gpux once more", "the model called directly"
# Those of `call`, besides gpux.
AGAINST, BARE = "the other build", "the C API alone"


def tables(figures: Sequence[Figure]) -> str:
    """All tables, the goals last."""
    groups = {
        "call": _call,
        "call threads": _call_threads,
        "native threads": _native_threads,
        "start": _start,
        "latency": _latency,
        "throughput": _throughput,
        "overload": _overload,
        "split": _split,
        "threads": _threads,
    }
    parts = []
    for group, show in groups.items():
        found = [figure for figure in figures if figure["group"] == group]
        if found:
            parts.append(show(found))
    return "\n\n".join([*parts, promise_table(promises(figures))])


def promises(figures: Sequence[Figure]) -> list[Promise]:
    """The goals for the engine, beside the measured values."""
    direct = _find(figures, group="latency", by=DIRECT)
    made = [
        Promise(
            "1 client, mlp: p50 above that of the same app calling the model",
            _percent(direct.get("gpux_over")),
            _percent(direct.get("gpux_over_best")),
            *(5, 1),
            unit=" %",
        )
    ]
    for case, must, aim in (("weights", 2, 4), ("mlp", 0.97, 1.1), ("tokens", 0.97, 1.1)):
        auto = _find(figures, group="throughput", case=case, batching="auto")
        off = _find(figures, group="throughput", case=case, batching="off")
        made.append(
            Promise(
                f"32 clients, {case}: requests/s, batching auto over off",
                auto["per_second"] / off["per_second"] if auto and off else None,
                auto["best_per_second"] / off["best_per_second"] if auto and off else None,
                *(must, aim),
                is_least=True,
            )
        )
    over = _find(figures, group="overload")
    times = over["sent_per_second"] / over["capacity_per_second"] if over else 10
    return [
        *made,
        Promise(
            f"{times:.0f}x too many: a refusal (503), p99",
            over.get("refused_p99_ms"),
            over.get("refused_best_ms"),
            *(50, 10),
            unit=" ms",
        ),
        Promise(
            f"{times:.0f}x too many: answered with 200, of the capacity",
            over.get("share_of_capacity"),
            None,
            *(0.9, 0.98),
            is_least=True,
        ),
        *_call_promises(figures),
    ]


def _call_promises(figures: Sequence[Figure]) -> list[Promise]:
    """The goals for one request in process, and for the start."""
    made = []
    for case, by, must, aim in (
        ("mlp", AGAINST, 0.25, 0.125),
        ("mlp", BARE, 3, 2),
        ("sentiment", AGAINST, 0.5, 0.333),
        ("classifier", AGAINST, 0.5, 0.25),
    ):
        call = _find(figures, group="call", case=case, by=by)
        what = f"engine.predict, {case}: CPU time, of {by}"
        made.append(Promise(what, call.get("gpux_over"), call.get("gpux_over_best"), must, aim))
    for case in ("conv", "tokens32"):
        native = _find(figures, group="native threads", case=case)
        made.append(
            Promise(
                f"two native threads over one, {case}: of what two processes reach",
                native.get("of_processes"),
                native.get("of_processes_best"),
                *(0.9, 0.97),
                is_least=True,
            )
        )
    two = _find(figures, group="call threads", by=GPUX)
    start = _find(figures, group="start", by=AGAINST)
    return [
        *made,
        Promise(
            "two Python threads over one, mlp: requests/s",
            two.get("two_over_one"),
            two.get("two_over_one_best"),
            *(0.95, 0.95),
            is_least=True,
        ),
        Promise(
            f"gpux serve, mlp: exec to ready, of {AGAINST}",
            start.get("gpux_over"),
            start.get("gpux_over_best"),
            *(0.7, 0.5),
        ),
        Promise(
            f"resident memory then, of {AGAINST}",
            start.get("gpux_over_resident"),
            None,
            *(0.85, 0.7),
        ),
    ]


def _find(figures: Sequence[Figure], **wanted: object) -> Figure:
    return next((figure for figure in figures if wanted.items() <= figure.items()), {})


def _percent(ratio: float | None) -> float | None:
    return None if ratio is None else round((ratio - 1) * 100, 6)


def _call(figures: Sequence[Figure]) -> str:
    rows = [
        [
            figure["case"],
            figure["by"],
            f"{figure['cpu_us']:.1f}",
            f"{figure['best_cpu_us']:.1f}",
            f"{figure['gpux_over']:.3f}x",
            f"{figure['gpux_over_best']:.3f}x",
        ]
        for figure in figures
    ]
    titles = ["engine.predict", "by", "CPU us", "best", "gpux over it", "of best"]
    return table(titles, rows)


def _call_threads(figures: Sequence[Figure]) -> str:
    rows = [
        [
            figure["case"],
            figure["by"],
            f"{figure['one_per_second']:.0f}",
            f"{figure['two_per_second']:.0f}",
            f"{figure['two_over_one']:.2f}x",
            f"{figure['two_over_one_best']:.2f}x",
        ]
        for figure in figures
    ]
    titles = ["Python threads", "by", "one: requests/s", "two", "two over one", "of best"]
    return table(titles, rows)


def _native_threads(figures: Sequence[Figure]) -> str:
    rows = [
        [
            figure["case"],
            f"{figure['one_per_second']:.0f}",
            f"{figure['threads_over_one']:.2f}x",
            f"{figure['processes_over_one']:.2f}x",
            f"{figure['of_processes']:.2f}",
            f"{figure['of_processes_best']:.2f}",
        ]
        for figure in figures
    ]
    titles = ["native threads", "one: requests/s", "two", "two processes", "of these", "of best"]
    return table(titles, rows)


def _start(figures: Sequence[Figure]) -> str:
    rows = [
        [
            figure["case"],
            figure["by"],
            f"{figure['seconds'] * 1e3:.0f}",
            f"{figure['best_seconds'] * 1e3:.0f}",
            f"{figure['gpux_over']:.2f}x",
            f"{figure['resident_bytes'] / 2**20:.1f}",
            f"{figure['gpux_over_resident']:.2f}x",
        ]
        for figure in figures
    ]
    titles = ["gpux serve", "by", "ready ms", "best", "gpux over it", "resident MiB", "over it"]
    return table(titles, rows)


def _latency(figures: Sequence[Figure]) -> str:
    rows = []
    for figure in figures:
        middle = figure["gpux_over_quartiles"]
        rows.append(
            [
                figure["by"],
                f"{figure['p50_us']:.0f}",
                f"{figure['p99_us']:.0f}",
                f"{figure['best_us']:.0f}",
                f"{figure['requests']:,}",
                "" if middle is None else f"{_percent(figure['gpux_over']):+.1f} %",
                ""
                if middle is None
                else f"{_percent(middle[0]):+.1f} to {_percent(middle[1]):+.1f} %",
            ]
        )
    titles = ["p50 us", "p99 us", "best us", "requests", "gpux above it", "half the rounds"]
    return table(["1 client, mlp", *titles], rows)


def _throughput(figures: Sequence[Figure]) -> str:
    rows = [
        [
            figure["case"],
            figure["batching"],
            f"{figure['per_second']:.0f}",
            f"{figure['best_per_second']:.0f}",
            f"{figure['p50_ms']:.2f}",
            f"{figure['p99_ms']:.2f}",
            f"{figure['generator_cores']:.2f}",
        ]
        for figure in figures
    ]
    titles = ["batching", "requests/s", "best", "p50 ms", "p99 ms", "cores of wrk"]
    return table(["32 clients", *titles], rows)


def _overload(figures: Sequence[Figure]) -> str:
    rows = [
        [
            f"{figure['sent_per_second']:.0f}",
            f"{figure['capacity_per_second']:.1f}",
            f"{figure['answered_per_second']:.1f}",
            f"{figure['share_of_capacity']:.3f}",
            f"{_share_without_generator(figure):.3f}",
            f"{figure['refused_per_second']:.0f}",
            f"{figure['refused_p50_ms']:.1f}",
            f"{figure['refused_p99_ms']:.1f}",
            f"{figure['generator_cores']:.2f}",
        ]
        for figure in figures
    ]
    titles = [
        *("capacity/s", "200/s", "of capacity", "less the generator's cores"),
        *("503/s", "p50 ms", "p99 ms", "cores of h2load"),
    ]
    return table(["too many, sent/s", *titles], rows)


def _share_without_generator(figure: Figure) -> float:
    """The share of the capacity that remains without the cores used by the generator."""
    left: float = 1 - figure["generator_cores"] / figure["cores"]
    return float(figure["share_of_capacity"]) / left


def _split(figures: Sequence[Figure]) -> str:
    return _by_connections(
        figures,
        ["batching", "runs x threads of each"],
        lambda figure: (figure["batching"], _runs_text(figure)),
    )


def _runs_text(figure: Figure) -> str:
    default = ", default" if figure["is_default"] else ""
    return f"{figure['runs']} x {figure['run_threads']}{default}"


def _threads(figures: Sequence[Figure]) -> str:
    return _by_connections(figures, ["--threads"], lambda figure: (str(figure["threads"]),))


def _by_connections(figures: Sequence[Figure], titles: Sequence[str], key: Any) -> str:
    """One row per variant, with its values at each number of clients side by side."""
    connections = sorted({figure["connections"] for figure in figures})
    best = _best(figures)
    rows = []
    for (case, *way), entries in groupby(figures, lambda figure: (figure["case"], *key(figure))):
        at = {figure["connections"]: figure for figure in entries}
        rows.append(
            [
                case,
                *way,
                f"{at[1]['p50_ms']:.2f} ({at[1]['p50_ms'] / best[case, 1]:.2f}x)",
                *(
                    f"{at[n]['per_second']:.0f} ({at[n]['per_second'] / best[case, n]:.2f}x)"
                    for n in connections[1:]
                ),
                f"{at[connections[-1]]['p99_ms']:.1f}",
            ]
        )
    shown = [
        "1 client: p50 ms",
        *(f"{n}: requests/s" for n in connections[1:]),
        f"{connections[-1]}: p99 ms",
    ]
    return table(["of the best: x", *titles, *shown], rows)


def _best(figures: Sequence[Figure]) -> Mapping[tuple[str, int], float]:
    """By case and clients: the lowest p50 of one client, the most requests/s of several."""
    best: dict[tuple[str, int], float] = {}
    for figure in figures:
        key = figure["case"], figure["connections"]
        if figure["connections"] == 1:
            best[key] = min(best.get(key, float("inf")), figure["p50_ms"])
        else:
            best[key] = max(best.get(key, 0.0), figure["per_second"])
    return best
