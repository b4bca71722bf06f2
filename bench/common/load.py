"""Load on a server by wrk, measured within a window."""

import json
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.processes import cpu_seconds
from common.report import CannotMeasureError
from common.servers import Server

_SCRIPT = Path(__file__).resolve().parent / "load.lua"
_MAX_SECONDS = 600  # wrk's own limit, if it is not stopped
_TIMEOUT_SECONDS = 60
_LINE = "LOAD "
_WARM_UP_SECONDS = 0.3
# For slow responses the window spans a few of them, at least one.
_RESPONSES_IN_WINDOW, _LONG_WINDOW_SECONDS = 4, 6.0
_RESPONSES_IN_LONG_WINDOW, _MAX_WINDOW_SECONDS = 1.5, 20.0


class Window(NamedTuple):
    """What the window saw: bytes read by wrk, CPU times of the server's processes and of wrk."""

    seconds: float
    bytes_read: int
    server_seconds: float
    wrk_seconds: float


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a load.

    Attributes:
        per_second: responses with status 200 per second of the window.
        cpu_us: CPU time of the server's processes for one of them; None without any.
        wrk_cores: the cores that wrk kept busy in the window.
        requests: responses received, also before the window; so all that follows.
        p50_ms, p99_ms: from the request to the end of its response; None with fewer responses than
            connections: those still pending might take much longer.
        errors: responses with another status than 2xx or 3xx, failed connections, responses that
            took longer than a minute.
    """

    per_second: float
    cpu_us: float | None
    wrk_cores: float
    requests: int
    p50_ms: float | None
    p99_ms: float | None
    errors: int


def wrk() -> str:
    """The path of wrk.

    Raises:
        CannotMeasureError: it is not installed; with how to install it.
    """
    found = shutil.which("wrk")
    if found is None:
        raise CannotMeasureError("wrk, which makes the load, is missing: apt-get install wrk")
    return found


def wrk_command(server: Server, body: Path, connections: int) -> list[str]:
    """The command line of wrk that posts a body until it is stopped."""
    return [
        *(wrk(), "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{_MAX_SECONDS}s", "--timeout", f"{_TIMEOUT_SECONDS}s"),
        *("--script", str(_SCRIPT), server.url, "--", str(body)),
    ]


def put_under_load(
    server: Server,
    body: Path,
    connections: int,
    seconds: float,
    check: Callable[[bytes], None],
) -> Load:
    """Posts a body over several connections, each with one request at a time.

    Args:
        server: on the same cores as wrk.
        body: the file with the body.
        connections: their number.
        seconds: of the window; more where a response takes long.
        check: raises MismatchError for a wrong response. It gets those of a second client, which
            sends requests beside the load until the window begins.

    Raises:
        CannotMeasureError: wrk is missing, or failed; the second client got an error.
        MismatchError: from `check`.

    wrk itself counts from its start, with no request in flight, to its end, with one in flight per
    connection: for slow responses that is too few. The window lies in between, and its responses
    are derived from the bytes that wrk has read in it.
    """
    with subprocess.Popen(
        wrk_command(server, body, connections),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:

        def state() -> tuple[float, int, float, float]:
            used = server.processes.cpu_seconds(), cpu_seconds(process.pid)
            return time.perf_counter(), _bytes_read(process), *used

        try:
            lasting = max(seconds, _warm_up(server, body, check))
            before = state()
            time.sleep(lasting)
            span, read, *cpu = (now - then for then, now in zip(before, state(), strict=True))
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    return summarize(output, connections, Window(span, int(read), *cpu))


def _warm_up(server: Server, body: Path, check: Callable[[bytes], None]) -> float:
    """Sends requests beside the load until the caches are warm; returns the least window."""
    question = body.read_bytes()
    end = time.perf_counter() + _WARM_UP_SECONDS
    with server.client() as client:
        while True:
            lasted, text = client.post(question)
            check(text)
            if time.perf_counter() >= end:
                break
    some = min(_RESPONSES_IN_WINDOW * lasted, _LONG_WINDOW_SECONDS)
    return max(some, min(_RESPONSES_IN_LONG_WINDOW * lasted, _MAX_WINDOW_SECONDS))


def summarize(output: str, connections: int, window: Window) -> Load:
    """Combines wrk's output with what was seen in the window.

    Raises:
        CannotMeasureError: wrk printed no result.
    """
    line = next((line for line in output.splitlines() if line.startswith(_LINE)), None)
    if line is None:
        raise CannotMeasureError(f"wrk failed:\n{output.strip()}")
    printed: dict[str, Any] = json.loads(line.removeprefix(_LINE))
    requests, refused = printed["requests"], printed["refused"]
    bytes_each = printed["bytes"] / requests if requests else 0.0
    responses = window.bytes_read / bytes_each * (1 - refused / requests) if bytes_each else 0.0
    is_enough = requests >= connections
    return Load(
        per_second=responses / window.seconds,
        cpu_us=window.server_seconds / responses * 1e6 if responses else None,
        wrk_cores=window.wrk_seconds / window.seconds,
        requests=requests,
        p50_ms=printed["p50_us"] / 1e3 if is_enough else None,
        p99_ms=printed["p99_us"] / 1e3 if is_enough else None,
        errors=refused + printed["failed"],
    )


def medians(loads: Sequence[Load]) -> dict[str, float | None]:
    """The medians of several turns, by attribute; None where there are none."""
    keys = ("per_second", "cpu_us", "wrk_cores", "p50_ms", "p99_ms")
    found: dict[str, float | None] = {}
    for key in keys:
        values = [value for load in loads if (value := getattr(load, key)) is not None]
        found[key] = statistics.median(values) if values else None
    return found


def _bytes_read(process: subprocess.Popen[str]) -> int:
    for line in Path(f"/proc/{process.pid}/io").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "rchar":
            return int(value)
    raise CannotMeasureError("this system does not count what a process reads")
