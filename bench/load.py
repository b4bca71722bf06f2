"""Load on a server by wrk, measured within a window."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import CannotMeasureError

_SCRIPT = Path(__file__).resolve().parent / "load.lua"
_MAX_SECONDS = 600  # wrk's own limit, if it is not stopped
_TIMEOUT_SECONDS = 60
_LINE = "LOAD "


@dataclass(frozen=True, slots=True)
class Load:
    """The result of a load.

    Attributes:
        per_second: responses with status 200 per second of the window.
        requests: responses received, also before the window; so all that follows.
        p50_ms, p99_ms: from the request to the end of its response; None with fewer responses than
            connections: those still pending might take much longer.
        refused: responses with another status than 2xx or 3xx.
        socket_errors: connections that failed.
        timeouts: responses that took longer than a minute.
    """

    per_second: float
    requests: int
    p50_ms: float | None
    p99_ms: float | None
    refused: int
    socket_errors: int
    timeouts: int

    @property
    def errors(self) -> int:
        """The number of failures of any kind."""
        return self.refused + self.socket_errors + self.timeouts


def wrk() -> str:
    """The path of wrk.

    Raises:
        CannotMeasureError: it is not installed; with how to install it.
    """
    found = shutil.which("wrk")
    if found is None:
        raise CannotMeasureError("wrk, which makes the load, is missing: apt-get install wrk")
    return found


def put_under_load(url: str, body: Path, connections: int, warm_up: Callable[[], float]) -> Load:
    """Posts a body over several connections, each with one request at a time.

    Args:
        url: an http URL.
        body: the file with the body.
        connections: their number.
        warm_up: called under load; returns the duration in seconds of the window that follows.

    Raises:
        CannotMeasureError: wrk is missing, or failed.

    wrk itself counts from its start, with no request in flight, to its end, with one in flight per
    connection: for slow responses that is too few. The window lies in between, and its responses
    are derived from the bytes that wrk has read in it.
    """
    command = [
        *(wrk(), "--threads", "1", "--connections", str(connections)),
        *("--duration", f"{_MAX_SECONDS}s", "--timeout", f"{_TIMEOUT_SECONDS}s"),
        *("--script", str(_SCRIPT), url, "--", str(body)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        seconds = warm_up()
        start, read_before = time.perf_counter(), _bytes_read(process)
        time.sleep(seconds)
        window_seconds = time.perf_counter() - start
        window_bytes = _bytes_read(process) - read_before
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    return summarize(output, connections, window_bytes, window_seconds)


def summarize(output: str, connections: int, window_bytes: int, window_seconds: float) -> Load:
    """Combines wrk's output with what it read in the window.

    Raises:
        CannotMeasureError: wrk printed no result.
    """
    line = next((line for line in output.splitlines() if line.startswith(_LINE)), None)
    if line is None:
        raise CannotMeasureError(f"wrk failed:\n{output.strip()}")
    said: dict[str, Any] = json.loads(line.removeprefix(_LINE))
    requests, refused = said["requests"], said["refused"]
    answers = window_bytes * (requests - refused) / said["bytes"] if said["bytes"] else 0.0
    is_enough = requests >= connections
    return Load(
        per_second=answers / window_seconds,
        requests=requests,
        p50_ms=said["p50_us"] / 1e3 if is_enough else None,
        p99_ms=said["p99_us"] / 1e3 if is_enough else None,
        refused=refused,
        socket_errors=said["socket_errors"],
        timeouts=said["timeouts"],
    )


def _bytes_read(process: subprocess.Popen[str]) -> int:
    for line in Path(f"/proc/{process.pid}/io").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == "rchar":
            return int(value)
    raise CannotMeasureError("this system does not count what a process reads")
