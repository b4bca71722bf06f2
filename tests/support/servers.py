"""Servers as real processes, and clients that show what goes over the wire."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Protocol, Self

from prometheus_client.parser import text_string_to_metric_families

# Far more than anything here takes: what waits so long has failed.
PATIENCE_SECONDS = 30.0

JSON_HEADERS = {"Content-Type": "application/json"}


def environment(**variables: str) -> dict[str, str]:
    """The environment for a subprocess: this one's without GPUX_*, and `variables` over it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GPUX_")}
    # A crash leaves its stack on stderr.
    return {**inherited, "PYTHONFAULTHANDLER": "1", **variables}


def run_gpux(
    *arguments: str, body: bytes | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end.

    Args:
        arguments: of `gpux`.
        body: its standard input.
        variables: of its environment.
    """
    done = subprocess.run(
        [sys.executable, "-m", "gpux", *arguments],
        input=body,
        stdin=subprocess.DEVNULL if body is None else None,
        capture_output=True,
        env=environment(**(variables or {})),
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Returns once a state of another process holds, of which no event tells."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.01)


class Output:
    """What a process writes to one of its streams, read as it comes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()  # guards the two fields above
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._stream:
            with self._changed:
                self._lines.append(line.decode(errors="replace"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        """All that was read so far."""
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, pattern: str) -> re.Match[str] | None:
        """The first match of a pattern; None if the stream ended without one."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, "".join(self._lines))

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, PATIENCE_SECONDS)
            return found()

    def close(self) -> None:
        """Waits for the stream's end; the process must have ended."""
        self._reader.join(PATIENCE_SECONDS)
        self._stream.close()


@dataclass(frozen=True)
class Response:
    """An answer as it came."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """The message of an error, which is its whole body."""
        value = self.json
        assert list(value) == ["detail"], value
        assert isinstance(value["detail"], str)
        return value["detail"]


class ServerProcess:
    """A server in a process of its own, ready once this returns.

    Args:
        command: what to run.
        ready: a pattern in what it writes, whose group is the port; or the port, for one that is
            wanted as soon as it listens.
        variables: of its environment.
        stream: where it writes that.
    """

    def __init__(
        self,
        command: Sequence[str],
        ready: str | int,
        variables: Mapping[str, str],
        stream: Literal["stdout", "stderr"] = "stdout",
    ) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**variables),
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout = Output(self.process.stdout)
        self.stderr = Output(self.process.stderr)
        if isinstance(ready, int):
            self.port = ready
            wait_until(self.listens, "the server listens")
            return
        said = (self.stdout if stream == "stdout" else self.stderr).wait_for(ready)
        if said is None:
            self.kill()
            raise AssertionError(f"{command} did not start:\n{self.stderr.text}")
        self.port = int(said[1])

    @property
    def url(self) -> str:
        """Of /predict."""
        return f"http://localhost:{self.port}/predict"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None and self.process.poll() is None:
            code = self.end()
            assert code == 0, (code, self.stderr.text)
        else:
            self.kill()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Asks the process to end; answers its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """Ends the process without asking."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Waits for the process' end; answers its exit code."""
        try:
            code = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.stdout.close()
            self.stderr.close()
        return code

    def request(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
    ) -> Response:
        """One request over a connection of its own."""
        connection = http.client.HTTPConnection(host, self.port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            data = body.encode() if isinstance(body, str) else body
            connection.request(method, path, data, dict(headers or {}))
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())

    def post(self, body: object) -> Response:
        """POST /predict with a body as bytes or text, or with a value to be written as JSON."""
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.request("POST", "/predict", data, JSON_HEADERS)

    def predict(self, body: object) -> dict[str, Any]:
        """The answer's value; fails where it is an error."""
        answer = self.post(body)
        assert answer.status == 200, answer
        assert isinstance(answer.json, dict)
        return answer.json

    def listens(self) -> bool:
        """Whether it takes connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionError:
            return False
        return True

    # What the system knows of the process (Linux), and of the workers that it has started.

    def workers(self) -> list[int]:
        """Its worker processes, the oldest first."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [
            int(child)
            for child in children.read_text().split()
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def _system(self, name: str) -> Path:
        return Path(f"/proc/{self.process.pid}") / name

    def threads(self) -> int:
        """How many threads it has."""
        return len(list(self._system("task").iterdir()))

    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return len(list(self._system("fd").iterdir()))

    def resident_bytes(self) -> int:
        """How much memory it occupies."""
        found = re.search(r"VmRSS:\s*(\d+) kB", self._system("status").read_text())
        assert found
        return int(found[1]) * 1024

    def cpu_seconds(self) -> float:
        """How long it has computed, in all its threads and workers."""
        ticks = 0
        for process in (self.process.pid, *self.workers()):
            # Behind the name, which ends with the last parenthesis: fields 14 and 15 of the line.
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def serve(path: Path, *options: str, **variables: str) -> ServerProcess:
    """`gpux serve PATH` on a free port."""
    return ServerProcess(
        [sys.executable, "-m", "gpux", "serve", str(path), "--port", "0", *options],
        r"Serving   http://\S+:(\d+)/predict",
        variables,
    )


def start(path: Path, *options: str) -> ServerProcess:
    """`gpux serve PATH` as soon as it listens, which may be long before it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gpux", "serve", str(path), "--port", str(port), *options]
    return ServerProcess(command, port, {})


def figure(server: ServerProcess, name: str, **labels: str) -> float:
    """A sample of /metrics; 0 if it is not there yet."""
    text = server.request("GET", "/metrics").body.decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0.0


class Listening(Protocol):
    """Whatever a client may connect to."""

    port: int


class Client:
    """A connection on which the test decides about each byte.

    Args:
        server: where to connect to.
    """

    def __init__(self, server: Listening) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS)
        self.stream = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves."""
        self.stream.close()
        self.socket.close()

    def reset(self) -> None:
        """Leaves without a goodbye: the server gets a reset instead of the stream's end."""
        linger = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def send(self, *parts: bytes) -> None:
        """Sends bytes as they are."""
        self.socket.sendall(b"".join(parts))

    def read(self) -> Response:
        """The next answer, `100 Continue` included."""
        line = self.stream.readline()
        assert line.startswith(b"HTTP/1."), line
        status = int(line.split()[1])
        headers = http.client.parse_headers(self.stream)
        body = self.stream.read(int(headers.get("Content-Length", "0")))
        return Response(status, headers, body)

    def at_end(self) -> bool:
        """Waits for what comes next; true if it is the end of the connection."""
        try:
            return self.stream.read(1) == b""
        except ConnectionResetError:
            return True


def head(length: int | None = None, *lines: str, path: str = "/predict") -> bytes:
    """The head of a POST with JSON: `length` is declared unless it is None, and `lines` follow."""
    declared = [] if length is None else [f"Content-Length: {length}"]
    first = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "".join(f"{line}\r\n" for line in (*first, *declared, *lines, "")).encode()


def post(body: bytes) -> bytes:
    """A whole POST /predict."""
    return head(len(body)) + body
