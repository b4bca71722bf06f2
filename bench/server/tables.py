"""The tables, the goals and the chart of `server`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from common.cases import CASES
from common.chart import Bar, Panel, draw
from common.report import Figure, Goal, find, machine, of_group, table

RAW = "model alone"
GOAL_CONNECTIONS = 8
MANY_CONNECTIONS = (64, 256)

# must and aim: requests per second, of the other build's better front end.
_RATE_GOALS = {
    "mlp": (4.0, 5.5),
    "tokens": (3.0, 4.3),
    "tokens32": (1.6, 2.3),
    "image": (1.35, 1.55),
    "wide": (1.3, 1.6),
    "conv": (1.05, 1.2),
}
# must, of a peer's.
_PEER_GOALS = {
    ("mlp", "fastapi"): 8.0,
    ("tokens", "fastapi"): 6.6,
    ("mlp", "kibae"): 1.4,
    ("tokens", "kibae"): 1.5,
}
_WSGI_GOALS = {"mlp": (1.3, 2.0), "image": (1.2, 2.0)}
_FRONTS = ("before-waitress", "before-granian")


def tables(figures: Sequence[Figure]) -> list[str]:
    """The survey, everything, and what texts do to other requests."""
    measured = of_group(figures, "load")
    connections = shown_connections(measured)
    survey: dict[str, Figure] = {figure["case"]: {"case": figure["case"]} for figure in measured}
    for figure in [*measured, *of_group(figures, "alone")]:
        if figure["connections"] in (connections, None):
            survey[figure["case"]][figure["server"]] = rate(figure["per_second"])
    servers = [*dict.fromkeys(figure["server"] for figure in measured), RAW]
    columns = [f"{name}={{{name}}}" for name in servers]
    return [
        table(
            list(survey.values()),
            " | ".join([f"requests/s, {connections} connections={{case}}", *columns]),
        ),
        table(
            [_remarked(figure, measured) for figure in measured],
            "case={case} | connections={connections} | server={server} | "
            "requests/s={per_second:,.0f} | of the best peer={of_best_peer:.2f}x | "
            "p50 ms={p50_ms:.2f} | p99 ms={p99_ms:.2f} | CPU us={cpu_us:,.0f} | "
            "errors={errors:,} | peak MiB={peak_mib:.0f} | ={remark}",
        ),
        table(
            of_group(figures, "beside"),
            "ids beside long texts={server} | alone: p99 ms={alone_p99_ms:.2f} | "
            "beside: p99 ms={beside_p99_ms:.2f} | ratio={ratio:.2f}x",
        ),
    ]


def shown_connections(figures: Sequence[Figure]) -> int:
    """The number of connections of the survey: that of the goals if it was measured."""
    measured = {figure["connections"] for figure in of_group(figures, "load")}
    return max({GOAL_CONNECTIONS} & measured or measured, default=GOAL_CONNECTIONS)


def rate(value: float | None) -> str:
    """Formats requests per second with its significant digits."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _remarked(figure: Figure, figures: Sequence[Figure]) -> Figure:
    remark = "other last bits" if figure["has_other_last_bits"] else ""
    peer = best_peer(figures, figure["case"], figure["connections"])
    value = figure["per_second"]
    return {
        **figure,
        "remark": "WRONG" if figure["differs"] else remark,
        "of_best_peer": value / peer if peer and value is not None else None,
    }


def best_peer(figures: Sequence[Figure], case: str, connections: int) -> float | None:
    """Requests per second of the fastest server that is not ours."""
    rates = [
        figure["per_second"]
        for figure in figures
        if (figure.get("case"), figure.get("connections")) == (case, connections)
        and "peer" in figure["kind"]
        and figure["per_second"]
    ]
    return max(rates, default=None)


def goals(figures: Sequence[Figure], *, is_against: bool) -> Iterator[Goal]:
    """The goals for the measured cases.

    Args:
        figures: all results.
        is_against: whether another build was asked for; without, nothing is said of it.
    """

    def get(case: str, server: str, connections: int, key: str) -> float | None:
        return find(figures, key, case=case, server=server, connections=connections)

    cases = {figure.get("case") for figure in figures}

    def of_before(
        what: str, case: str, key: str, limits: tuple[float, float], connections: int = 8
    ) -> Goal:
        is_least = key == "per_second"
        best: Callable[[list[float]], float] = max if is_least else min
        before = [value for name in _FRONTS if (value := get(case, name, connections, key))]
        got = _ratio(get(case, "gpux", connections, key), best(before) if before else None)
        return Goal(f"{what}, of the other build", got, *limits, is_least=is_least)

    for case, limits in _RATE_GOALS.items():
        if is_against and case in cases:
            yield of_before(f"{case}: requests/s", case, "per_second", limits)
        for (peer_case, peer), must in _PEER_GOALS.items():
            theirs = get(case, peer, GOAL_CONNECTIONS, "per_second")
            if peer_case == case and theirs:
                ours = get(case, "gpux", GOAL_CONNECTIONS, "per_second")
                yield Goal(f"{case}: requests/s, of {peer}", _ratio(ours, theirs), must)
    if is_against and "mlp" in cases:
        yield of_before("mlp: CPU time of a request", "mlp", "cpu_us", (0.25, 0.2))
        yield of_before("mlp: p50 at one connection", "mlp", "p50_ms", (0.4, 0.25), 1)
    if is_against and "image" in cases:
        yield of_before("image: peak memory", "image", "peak_mib", (0.8, 0.6))
    eight = get("mlp", "gpux", GOAL_CONNECTIONS, "per_second")
    for connections, must in zip(MANY_CONNECTIONS, (0.8, 0.7), strict=True):
        many = get("mlp", "gpux", connections, "per_second")
        if many is not None:
            what = f"mlp: requests/s at {connections} connections, of {GOAL_CONNECTIONS}"
            yield Goal(what, _ratio(many, eight), must, 0.95)
    for case, limits in _WSGI_GOALS.items():
        ours, before = (
            get(case, name, GOAL_CONNECTIONS, "per_second") for name in ("gpux-wsgi", "before-wsgi")
        )
        if is_against and case in cases:
            what = f"{case}: requests/s under waitress-serve, of the other build"
            yield Goal(what, _ratio(ours, before), *limits)
    for figure in of_group(figures, "beside"):
        if figure["server"] == "gpux":
            what = "ids beside tokenizing of long texts: p99, of alone"
            yield Goal(what, figure["ratio"], 3.0, 1.5, is_least=False)


def _ratio(value: float | None, of: float | None) -> float | None:
    return value / of if value is not None and of else None


def draw_chart(figures: Sequence[Figure], rounds: int, file: Path) -> None:
    """Draws requests per second: a panel for each case, a bar for each server."""
    connections = shown_connections(figures)
    panels = []
    for case in dict.fromkeys(figure["case"] for figure in figures if figure["group"] == "load"):
        shown = [figure for figure in figures if figure.get("case") == case]
        peer = best_peer(figures, case, connections)
        bars = []
        for figure in shown:
            if figure["connections"] == connections:
                is_ours, value = figure["kind"] == "ours", figure["per_second"]
                ahead = f"   {value / peer:.1f}x" if is_ours and peer and value else ""
                bars.append(Bar(figure["server"], value, rate(value) + ahead, is_ours))
        alone = next(each["per_second"] for each in shown if each["server"] == RAW)
        about = f"{CASES[case].about}\nmodel alone: {rate(alone)}"
        panels.append(Panel(case, about, bars))
    host = machine()
    caption = (
        f"{host['cpu']}, {host['cores']} cores, the load generator (wrk) on the same ones; one "
        f"ONNX Runtime thread a run. Median of {rounds} rounds in turns.\n"
        "1.0x: the fastest server of the panel that is not ours. Model alone: runs per second of "
        "session.run on one core, without a server."
    )
    title = f"Requests per second, {connections} connections (longer is better)"
    draw(panels, title, caption, file)
