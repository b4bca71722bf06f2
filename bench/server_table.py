"""The tables of `server`, and the project's goals for it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from report import table

Figure = Mapping[str, Any]

RAW = "session.run"
PROMISED_CONNECTIONS = 8
_WAITRESS, _GRANIAN = "gpux", "gpux-granian"


@dataclass(frozen=True, slots=True)
class Promise:
    """A goal for a server's requests per second, as a multiple of the best peer's.

    Attributes:
        case: the case.
        server: our server.
        least: the required multiple.
        aim: the desired multiple, or None.
        is_strict: whether it must exceed `least`.
        is_of_python: whether only peers in Python count.
    """

    case: str
    server: str
    least: float
    aim: float | None
    is_strict: bool = False
    is_of_python: bool = False


PROMISES = [
    *(
        Promise(case, server, least, aim)
        for case, waitress, granian, aim in (
            ("image", 7.0, 9.0, 12.0),
            ("wide", 3.0, 5.0, 8.0),
            ("conv", 4.5, 5.0, 6.0),
            ("tokens32", 1.5, 2.5, 4.0),
        )
        for server, least in ((_WAITRESS, waitress), (_GRANIAN, granian))
    ),
    *(
        promise
        for case in ("tokens", "mlp")
        for promise in (
            Promise(case, _WAITRESS, 1.8, None, is_of_python=True),
            Promise(case, _GRANIAN, 1.0, 1.5, is_strict=True),
        )
    ),
]


def tables(figures: Sequence[Figure]) -> str:
    """All tables: the survey, the goals, everything."""
    connections = shown_connections(figures)
    parts = [_survey(figures, connections)]
    promised = _promised(figures)
    if promised:
        parts.append(promised)
    return "\n\n".join([*parts, _everything(figures)])


def shown_connections(figures: Sequence[Figure]) -> int:
    """The number of connections of the survey: that of the goals if it was measured."""
    measured = {figure["connections"] for figure in figures if figure["connections"]}
    return PROMISED_CONNECTIONS if PROMISED_CONNECTIONS in measured else max(measured)


def best_peer(
    figures: Sequence[Figure], case: str, connections: int, is_of_python: bool = False
) -> Figure | None:
    """The fastest peer of a row; None if none was measured."""
    kinds = ("python peer",) if is_of_python else ("python peer", "peer")
    peers = [
        figure
        for figure in figures
        if figure["case"] == case
        and figure["connections"] == connections
        and figure["kind"] in kinds
        and figure["requests_per_second"]
    ]
    return max(peers, key=lambda figure: float(figure["requests_per_second"]), default=None)


def verdict(got: float, promise: Promise) -> str:
    """The verdict on a ratio."""
    is_kept = got > promise.least if promise.is_strict else got >= promise.least
    if not is_kept:
        return "MISSED"
    return "aim reached" if promise.aim is not None and got >= promise.aim else "reached"


def rate(value: float | None) -> str:
    """Formats requests per second with its significant digits."""
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _survey(figures: Sequence[Figure], connections: int) -> str:
    servers = list(dict.fromkeys(figure["server"] for figure in figures if figure["connections"]))
    found = {
        (figure["case"], figure["server"]): figure["requests_per_second"]
        for figure in figures
        if figure["connections"] in (connections, None)
    }
    cases = dict.fromkeys(figure["case"] for figure in figures)
    rows = [[case, *(rate(found.get((case, each))) for each in (*servers, RAW))] for case in cases]
    return table([f"requests/s, {connections} connections", *servers, f"({RAW})"], rows)


def _promised(figures: Sequence[Figure]) -> str:
    rows = [*_promised_rates(figures), *_promised_memory(figures)]
    titles = ["promised", "server", "against the best", "got", "must", "aim", ""]
    return table(titles, rows) if rows else ""


def _promised_rates(figures: Sequence[Figure]) -> Iterator[list[str]]:
    for promise in PROMISES:
        ours = _find(figures, promise.case, promise.server)
        peer = best_peer(figures, promise.case, PROMISED_CONNECTIONS, promise.is_of_python)
        if ours is None or peer is None:
            continue
        got = (ours["requests_per_second"] or 0.0) / peer["requests_per_second"]
        yield [
            promise.case,
            promise.server,
            f"{'in Python' if promise.is_of_python else 'of all'}: {peer['server']}",
            f"{got:.2f}x",
            f"{'>' if promise.is_strict else '≥'} {promise.least:g}x",
            "" if promise.aim is None else f"≥ {promise.aim:g}x",
            verdict(got, promise),
        ]


def _promised_memory(figures: Sequence[Figure]) -> Iterator[list[str]]:
    theirs = _find(figures, "image", "fastapi")
    for server in (_WAITRESS, _GRANIAN):
        ours = _find(figures, "image", server)
        if ours and theirs and ours["peak_mib"] and theirs["peak_mib"]:
            got = ours["peak_mib"] / theirs["peak_mib"]
            yield [
                *("image, peak memory", server, "fastapi", f"{got:.2f}x", "≤ 1x", ""),
                "reached" if got <= 1 else "MISSED",
            ]


def _find(figures: Sequence[Figure], case: str, server: str) -> Figure | None:
    """A server's row at the number of connections of the goals."""
    return next(
        (
            figure
            for figure in figures
            if (figure["case"], figure["server"], figure["connections"])
            == (case, server, PROMISED_CONNECTIONS)
        ),
        None,
    )


def _everything(figures: Sequence[Figure]) -> str:
    rows = []
    above = ("", "")
    for figure in figures:
        if figure["connections"] is None:
            continue
        peer = best_peer(figures, figure["case"], figure["connections"])
        value = figure["requests_per_second"]
        place = (figure["case"], str(figure["connections"]))
        rows.append(
            [
                "" if place[0] == above[0] else place[0],
                "" if place == above else place[1],
                figure["server"],
                rate(value),
                f"{value / peer['requests_per_second']:.2f}x" if peer and value else "",
                _milliseconds(figure["p50_ms"]),
                _milliseconds(figure["p99_ms"]),
                f"{figure['errors']:,}",
                f"{figure['peak_mib']:.0f}",
                _remark(figure),
            ]
        )
        above = place
    titles = ["connections", "server", "requests/s", "of the best peer", "p50 ms", "p99 ms"]
    return table(["case", *titles, "errors", "peak MiB", ""], rows)


def _remark(figure: Figure) -> str:
    if figure["differs"]:
        return "WRONG"
    return "other last bits" if figure["has_other_last_bits"] else ""


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"
