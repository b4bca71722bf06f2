"""bench/run.py engine, stages and scale: parsing, fits, verdicts, charts, and a real server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cases import CASES
from engine_cases import with_run_threads
from engine_table import DIRECT, promises, tables
from fit import fit_power_law
from line import Line, server_timing
from overload import Overload, overload, read_log
from served import serving
from stages import Taken, _stages_way, _whole_way, checks_of, figures_of

from gpux.config.settings import read_settings
from gpux.execution.session import create_session
from gpux.model import Model
from gpux.serving.engine import Engine
from tests.support.fake_gpu import FakeSession, FakeStream

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def made_cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cases")


# An overload.


def an_overload() -> Overload:
    """Two seconds of warm-up, a window of two seconds, and the results of eight requests."""
    first = 1_700_000_000_000_000
    log = [
        (0, 200, 1_500_000),  # sent and answered before the window
        (500_000, 200, 1_600_000),  # answered within the window
        (2_000_000, 503, 1_000),
        (2_500_000, 503, 3_000),
        (3_000_000, 200, 500_000),
        (3_500_000, -1, 10_000),
        (3_900_000, 200, 200_000),  # answered after the window
        (4_000_000, 503, 50_000),
    ]
    text = "".join(f"{first + sent}\t{status}\t{lasted}\n" for sent, status, lasted in log)
    return Overload(read_log(text), 2, 4, 0.1)


def test_what_is_sent_and_what_is_answered_count_by_their_own_time() -> None:
    found = an_overload()
    assert found.sent_per_second == 5 / 2
    assert found.ended_per_second(200) == 2 / 2
    assert found.ended_per_second(503) == 2 / 2
    assert found.seconds_of(503) == [0.001, 0.003]
    assert found.statuses() == {200: 4, 503: 3, -1: 1}


# Server-Timing.


def test_server_timing_is_read() -> None:
    text = b"HTTP/1.1 200 OK\r\nserver-timing: read;dur=0.5, run;dur=2, cached, total;dur=3\r\nX: y"
    assert server_timing(text) == {"read": 0.0005, "run": 0.002}
    assert server_timing(b"HTTP/1.1 200 OK\r\nX: y") == {}


# Fits.


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, -2.0])
def test_a_power_law_is_found_again(exponent: float) -> None:
    xs = [1.0, 4.0, 16.0, 256.0]
    law = fit_power_law(xs, [3.0 * x**exponent for x in xs])
    assert law.exponent == pytest.approx(exponent, abs=1e-12)
    assert law.factor == pytest.approx(3.0)
    assert law.r2 == pytest.approx(1.0)
    assert law.at(100.0) == pytest.approx(3.0 * 100.0**exponent)


def test_what_is_no_power_law_is_seen() -> None:
    law = fit_power_law([1, 2, 4, 8], [1, 100, 1, 100])
    assert law.r2 < 0.5


# Promises for the engine.


def engine_figures(over: float, auto: float, p99_ms: float, share: float) -> list[dict[str, Any]]:
    return [
        {"group": "latency", "by": DIRECT, "gpux_over": over, "gpux_over_best": over},
        *(
            {
                "group": "throughput",
                "case": case,
                "batching": batching,
                "per_second": rate,
                "best_per_second": rate,
            }
            for case in ("weights", "mlp", "tokens")
            for batching, rate in (("auto", auto), ("off", 100.0))
        ),
        {
            "group": "overload",
            "refused_p99_ms": p99_ms,
            "refused_best_ms": p99_ms,
            "share_of_capacity": share,
            "sent_per_second": 400.0,
            "capacity_per_second": 40.0,
        },
    ]


@pytest.mark.parametrize(
    ("figures", "verdicts"),
    [
        ((1.01, 400.0, 10.0, 0.98), ["aim reached"] * 6),
        (
            (1.05, 200.0, 50.0, 0.9),
            ["reached", "reached", "aim reached", "aim reached", "reached", "reached"],
        ),
        ((1.051, 97.0, 51.0, 0.89), ["MISSED", "MISSED", "reached", "reached", "MISSED", "MISSED"]),
    ],
)
def test_the_engine_is_judged(figures: Sequence[float], verdicts: Sequence[str]) -> None:
    judged = promises(engine_figures(*figures))
    found = [promise.row()[-1] for promise in judged if promise.got is not None]
    assert found == verdicts


def test_what_was_not_measured_is_not_judged() -> None:
    assert {promise.row()[-1] for promise in promises([])} == {"not measured"}


# The table of splits.


def test_each_way_stands_beside_the_best_one() -> None:
    def figure(runs: int, connections: int, per_second: float, p50_ms: float) -> dict[str, Any]:
        return {
            "group": "split",
            "case": "mlp",
            "batching": "off",
            "runs": runs,
            "run_threads": 2,
            "is_default": runs == 2,
            "connections": connections,
            "per_second": per_second,
            "p50_ms": p50_ms,
            "p99_ms": 7.0,
        }

    one = [figure(1, 1, 900, 1.0), figure(1, 32, 500, 9.0)]
    two = [figure(2, 1, 400, 2.0), figure(2, 32, 1000, 9.0)]
    text = tables([*one, *two])
    rows = [line.split("  ") for line in text.splitlines()[2:4]]
    assert [[cell.strip() for cell in row if cell.strip()] for row in rows] == [
        ["mlp", "off", "1 x 2", "1.00 (1.00x)", "500 (0.50x)", "7.0"],
        ["mlp", "off", "2 x 2, default", "2.00 (2.00x)", "1000 (1.00x)", "7.0"],
    ]


# Stages.


def taken(reported_us: int = 30, whole_us: int = 100) -> Taken:
    """Two requests of 5 + 20 + 0 + 40 + 10 us by the local clock."""
    found = Taken()
    laps = {"read": 5, "decode": 20, "  bind": 10, "  session": 20, "  fetch": 10, "encode": 10}
    for _ in range(2):
        for name, us in {**laps, "whole": whole_us, "session.run": 15}.items():
            found.laps.taken_ns.setdefault(name, []).append(us * 1000)
        stages = {"read": 5e-6, "decode": 20e-6, "queue": 0.0, "run": 40e-6, "encode": 10e-6}
        found.engine.add(whole_us / 1e6, stages)
        found.http.add(500e-6, {**stages, "decode": reported_us / 1e6, "total": 1.0})
    return found


def test_stages_add_up() -> None:
    medians = {figure["stage"]: figure["median_us"] for figure in figures_of(taken())}
    assert medians == pytest.approx(
        {
            "read": 5,
            "decode": 20,
            "queue": 0,
            "run": 40,
            "  bind": 10,
            "  session": 20,
            "  fetch": 10,
            "encode": 10,
            "sum": 75,
            "whole": 100,
            "HTTP": 500,
            "session.run": 15,
        }
    )


def test_what_agrees_passes() -> None:
    checks = checks_of(taken(whole_us=90))
    assert len(checks) == 7
    assert all(checks.values())


@pytest.mark.parametrize(
    ("off", "failed"),
    [
        (taken, "and leave 25.0 us of it, at most 20"),
        (lambda: taken(whole_us=70), "the engine's stages lie within each request"),
        (
            lambda: taken(reported_us=130, whole_us=90),
            "Server-Timing's decode is +110.0 us off, at most 100",
        ),
        (
            lambda: taken(reported_us=900, whole_us=90),
            "Server-Timing lies within each request over HTTP",
        ),
    ],
)
def test_what_does_not_agree_fails(off: Any, failed: str) -> None:
    assert checks_of(off())[failed] is False


def test_a_gpus_stages_are_taken_too(made_cases: Path) -> None:
    file, body_file = CASES["mlp"].write(made_cases)
    settings = read_settings({}, {"model": str(file)})
    model = Model(FakeSession(create_session(settings), FakeStream()), settings)
    texts: list[bytes] = []
    found = Taken()
    body = body_file.read_bytes()
    _stages_way(model, body, texts.append)(found)
    _whole_way(Engine(model), body, texts.append)(found)
    assert list(found.laps.taken_ns) == ["read", "decode", "run", "encode", "whole"]
    assert list(found.engine.stages[0]) == ["read", "decode", "queue", "run", "encode"]
    assert texts[0] == texts[1]


# The chart.


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_chart_is_drawn(suffix: str, tmp_path: Path) -> None:
    from scale_chart import draw

    def point(group: str, x: Any, **more: Any) -> dict[str, Any]:
        return {"group": group, "x": x, "seconds": 0.01, "memory_bytes": 2**20, **more}

    def fit(part: str, what: str) -> dict[str, Any]:
        law = {"from_x": 1024, "to_x": 4096, "exponent": 1.0, "factor": 1e-5, "r2": 1.0}
        return {"group": "fit", "part": part, "what": what, **law}

    figures = [
        *(point("body", x) for x in (1024, 4096)),
        fit("body", "seconds"),
        fit("body", "memory_bytes"),
        *(point("workers", "waitress", case=case, per_second=9.0) for case in ("mlp", "layers")),
    ]
    file = tmp_path / f"chart{suffix}"
    draw(figures, "a machine", file)
    begin = file.read_bytes()[:100]
    assert begin.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


# A real server, briefly.


@pytest.mark.parametrize("engine", [None, "direct", "runs=1"])
def test_a_server_is_put_under_load(engine: str | None, made_cases: Path) -> None:
    model, body = CASES["mlp"].write(made_cases)
    responses: list[bytes] = []
    with serving("gpux", with_run_threads(model, 1), engine=engine) as served:
        line = Line("gpux", served.port, body.read_bytes())
        _, header, response = line.ask()
        line.close()
        timed = set(server_timing(header))
        assert timed >= ({"read"} if engine == "direct" else {"read", "decode", "run", "encode"})
        assert ("run" in timed) == (engine != "direct")
        load = served.fill(body, 4, 0.5, responses.append)
        assert 0 < load.p50_seconds <= load.p99_seconds
        assert set(responses) == {response}
        if engine is None:
            served.forget_peak()
            assert 2**20 < served.resident_bytes() <= served.peak_bytes()
            result = overload(served.url, body, 20, 1, 1)
            assert set(result.statuses()) == {200}
