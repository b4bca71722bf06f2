"""Servers in real processes, and clients that control every byte on the wire."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Protocol, Self

from prometheus_client.parser import text_string_to_metric_families

# Far more than anything in the tests takes: a wait this long is a failure.
PATIENCE_SECONDS = 30.0

JSON_HEADERS = {"Content-Type": "application/json"}

# Bodies for the model `slow`: a moment, about a second, and longer than any test waits.
QUICK = b'{"steps": 1}'
A_WHILE = b'{"steps": 25000}'
ENDLESS = b'{"steps": 100000000}'


def environment(**variables: str) -> dict[str, str]:
    """The environment for a subprocess: the current one without GPUX_*, updated by `variables`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GPUX_")}
    # A crash leaves its stack on stderr.
    return {**inherited, "PYTHONFAULTHANDLER": "1", **variables}


def run_gpux(
    *arguments: str, body: bytes | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `gpux` to completion.

    Args:
        arguments: of `gpux`.
        body: its standard input.
        variables: its environment variables.
    """
    return run_program(sys.executable, "-m", "gpux", *arguments, body=body, variables=variables)


def run_program(
    *command: str, body: bytes | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs any command as `run_gpux` does."""
    done = subprocess.run(
        command,
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


def start_error(code: int, stdout: str, stderr: str) -> str:
    """Checks that a command failed to start; returns its one-line error message."""
    assert (code, stdout) == (2, "")
    (line,) = stderr.splitlines()
    assert stderr == f"{line}\n"
    assert line.startswith("gpux: ")
    return line


def failed_start(*arguments: str, variables: Mapping[str, str] | None = None) -> str:
    """Runs `gpux`, which fails to start; returns its one-line error message."""
    done = run_gpux(*arguments, variables=variables)
    return start_error(done.returncode, done.stdout, done.stderr)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Polls until a condition holds in another process, for which there is no event."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.01)


class Output:
    """The output of a process on one stream, read by a thread as it arrives."""

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
        """Everything read so far."""
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
        """Waits for the end of the stream; the process must have ended."""
        self._reader.join(PATIENCE_SECONDS)
        self._stream.close()


@dataclass(frozen=True)
class Response:
    """A response as received."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        """The message of an error, the only member of its body."""
        value = self.json
        assert list(value) == ["detail"], value
        assert isinstance(value["detail"], str)
        return value["detail"]

    def error(self, status: int) -> str:
        """Checks that this is an error with this status; returns its message."""
        assert self.status == status, self
        assert self.headers["Content-Type"] == "application/json"
        return self.detail


def same_json(actual: object, expected: object) -> bool:
    """Whether values and types are equal: `1` is not `1.0`, and `[]` is not `[[]]`."""
    return json.dumps(actual) == json.dumps(expected)


class ServerProcess:
    """A server in its own process, ready after construction.

    Args:
        command: what to run.
        ready: a pattern in its output, whose group is the port; or the port, to wait only until it
            listens.
        variables: its environment variables.
        stream: on which the pattern appears.
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
        match = (self.stdout if stream == "stdout" else self.stderr).wait_for(ready)
        if match is None:
            self.kill()
            raise AssertionError(f"{command} did not start:\n{self.stderr.text}")
        self.port = int(match[1])

    @property
    def url(self) -> str:
        """The URL of /predict."""
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
        """Sends a signal and waits for the process. Returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """Kills the process and waits for it."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Waits for the process. Returns its exit code."""
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
        """Sends one request over a new connection."""
        connection = http.client.HTTPConnection(host, self.port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            data = body.encode() if isinstance(body, str) else body
            connection.request(method, path, data, dict(headers or {}))
            response = connection.getresponse()
            return Response(response.status, response.headers, response.read())

    def post(
        self, body: object, headers: Mapping[str, str] | None = None, host: str = "127.0.0.1"
    ) -> Response:
        """POST /predict with a body as bytes or text, or with a value to encode as JSON.

        Args:
            body: of the request.
            headers: beside its Content-Type.
            host: to connect to.
        """
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.request("POST", "/predict", data, {**JSON_HEADERS, **(headers or {})}, host)

    def exchange(self, *parts: bytes) -> Response:
        """Sends bytes as they are over a new connection; returns the response."""
        with Client(self) as client:
            return client.exchange(*parts)

    def predict(self, body: object) -> dict[str, Any]:
        """The value of the response to `post`; fails on any status but 200."""
        response = self.post(body)
        assert response.status == 200, response
        assert isinstance(response.json, dict)
        return response.json

    def listens(self) -> bool:
        """Whether it accepts connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionError:
            return False
        return True

    # The kernel's data on the process and its workers (Linux).

    def workers(self) -> list[int]:
        """The process ids of its workers, oldest first."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(child) for child in children.read_text().split()]

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self.process.pid}") / name

    def threads(self, prefix: str = "") -> int:
        """The number of its threads whose name begins so."""
        names = [task / "comm" for task in self._proc("task").iterdir()]
        return sum(name.read_text().startswith(prefix) for name in names)

    def descriptors(self) -> int:
        """The number of its open files and sockets."""
        return len(list(self._proc("fd").iterdir()))

    def resident_bytes(self) -> int:
        """Its resident memory."""
        found = re.search(r"VmRSS:\s*(\d+) kB", self._proc("status").read_text())
        assert found
        return int(found[1]) * 1024

    def cpu_seconds(self) -> float:
        """The CPU time of all its threads and workers."""
        ticks = 0
        for process in (self.process.pid, *self.workers()):
            # Fields 14 and 15, counted after the name, which ends with the last parenthesis.
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


def serve(path: Path, *options: str, **variables: str) -> ServerProcess:
    """Starts `gpux serve PATH` on a free port."""
    return ServerProcess(
        [sys.executable, "-m", "gpux", "serve", str(path), "--port", "0", *options],
        r"Serving   http://\S+:(\d+)/predict",
        variables,
    )


# Types of the fixtures of conftest.py.
Find = Callable[[str], Path]
Serve = Callable[[str], ServerProcess]
ServerFor = Callable[..., ServerProcess]
FolderFor = Callable[[str, str], Path]
Described = Callable[[str, str], ServerProcess]
Command = Callable[..., tuple[int, str, str]]
Failure = Callable[..., str]

# The app under another server.
WAITRESS_SERVE = [str(Path(sys.executable).with_name("waitress-serve"))]
WAITRESS_SERVE += ["--listen=127.0.0.1:0", "gpux.wsgi:app"]


def serve_asgi(variables: Mapping[str, str]) -> ServerProcess:
    """Starts `uvicorn gpux.asgi:app` on a free port; its shutdown is not under test."""
    command = [sys.executable, "-m", "uvicorn", "--port", "0", "--no-access-log", "gpux.asgi:app"]
    return ServerProcess(command, r"running on http://\S+:(\d+)", variables, "stderr")


def serve_wsgi(variables: Mapping[str, str]) -> ServerProcess:
    """Starts `waitress-serve gpux.wsgi:app` on a free port; its shutdown is not under test."""
    return ServerProcess(WAITRESS_SERVE, r"[Ss]erving on http://\S+:(\d+)", variables, "stderr")


def free_port() -> int:
    """A free TCP port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def start(path: Path, *options: str) -> ServerProcess:
    """Starts `gpux serve PATH`; returns once it listens, which may be long before it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "gpux", "serve", str(path), "--port", str(port), *options]
    return ServerProcess(command, port, {})


def metric(server: ServerProcess, name: str, **labels: str) -> float:
    """The value of a sample of /metrics; 0 if absent."""
    text = server.request("GET", "/metrics").body.decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0.0


def in_flight(server: ServerProcess) -> float:
    """The number of requests that a server has."""
    return metric(server, "gpux_in_flight_requests")


class HasPort(Protocol):
    """Anything that a client can connect to."""

    port: int


class Client:
    """A connection on which the test controls every byte.

    Args:
        server: to connect to.
    """

    def __init__(self, server: HasPort) -> None:
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
        """Closes the connection."""
        self.stream.close()
        self.socket.close()

    def reset(self) -> None:
        """Closes the connection with a reset (RST) instead of a FIN."""
        linger = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close()

    def send(self, *parts: bytes) -> None:
        """Sends bytes as they are."""
        self.socket.sendall(b"".join(parts))

    def read(self) -> Response:
        """The next response, `100 Continue` included."""
        line = self.stream.readline()
        assert line.startswith(b"HTTP/1."), line
        status = int(line.split()[1])
        headers = http.client.parse_headers(self.stream)
        body = self.stream.read(int(headers.get("Content-Length", "0")))
        return Response(status, headers, body)

    def exchange(self, *parts: bytes) -> Response:
        """Sends bytes as they are; returns the next response."""
        self.send(*parts)
        return self.read()

    def at_end(self) -> bool:
        """Waits for the next byte or the end of the connection; true if it is the end."""
        try:
            return self.stream.read(1) == b""
        except ConnectionResetError:
            return True


@contextlib.contextmanager
def connect(server: HasPort, count: int) -> Iterator[list[Client]]:
    """A number of connections."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Client(server)) for _ in range(count)]


def start_run(server: ServerProcess, client: Client, request: bytes) -> None:
    """Sends a request; returns once the model is running."""
    computed = server.cpu_seconds()
    client.send(request)
    wait_until(lambda: server.cpu_seconds() > computed + 0.05, "the model runs")


def head(length: int | None = None, *lines: str, path: str = "/predict") -> bytes:
    """The header section of a POST of JSON, with Content-Length unless None, and more `lines`."""
    content_length = [] if length is None else [f"Content-Length: {length}"]
    first = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "".join(f"{line}\r\n" for line in (*first, *content_length, *lines, "")).encode()


def post(body: bytes) -> bytes:
    """A complete POST /predict."""
    return head(len(body)) + body
