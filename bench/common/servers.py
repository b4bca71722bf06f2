"""Servers in processes of their own; `gpux serve` among them."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.client import HOST, Client
from common.processes import ProcessTree
from common.report import CannotMeasureError

_START_SECONDS = 120.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        name: for errors.
        port: its TCP port on HOST.
        processes: its process and all descendants.
        path: the path of the inference route.
    """

    name: str
    port: int
    processes: ProcessTree
    path: str = "/predict"

    @property
    def url(self) -> str:
        """The URL of the inference route."""
        return f"http://{HOST}:{self.port}{self.path}"

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client, whose connection lasts as long as the context."""
        with contextlib.closing(Client(self.name, self.port, self.path)) as client:
            yield client


@contextmanager
def running(
    name: str,
    command: Callable[[int], Sequence[str]],
    is_ready: Callable[[Server], bool],
    variables: Mapping[str, str] | None = None,
    path: str = "/predict",
    poll_seconds: float = _POLL_SECONDS,
) -> Iterator[Server]:
    """Runs a server on a free port while the context lasts.

    Args:
        name: for errors.
        command: port → the command line.
        is_ready: asked until it is true.
        variables: environment variables.
        path: the path of the inference route.
        poll_seconds: between two questions.

    Raises:
        CannotMeasureError: it exited, or was not ready in time; with the end of its output.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command(port),
            env={**os.environ, **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        server = Server(name, port, ProcessTree(process), path)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while (has_ended := process.poll() is not None) or not is_ready(server):
                if has_ended or time.monotonic() > deadline:
                    log.seek(0)
                    output = log.read()[-4000:].decode(errors="replace").strip()
                    raise CannotMeasureError(f"{name} did not start:\n{output}")
                time.sleep(poll_seconds)
            yield server
        finally:
            server.processes.end()


def says_ready(server: Server) -> bool:
    """Whether a server of ours reports ready."""
    url = f"http://{HOST}:{server.port}/health/ready"
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def serve_gpux(
    name: str,
    model: Path,
    *options: str,
    program: Sequence[str] = (sys.executable, "-m", "gpux"),
    poll_seconds: float = _POLL_SECONDS,
) -> Iterator[Server]:
    """Runs `gpux serve MODEL` on a free port while the context lasts.

    Args:
        name: for errors.
        model: the MODEL argument.
        options: further options of `gpux serve`.
        program: the `gpux` to run.
        poll_seconds: how often it is asked whether it is ready.
    """

    def command(port: int) -> Sequence[str]:
        where = ["--host", HOST, "--port", str(port)]
        return [*program, "serve", str(model), *where, *options]

    with running(name, command, says_ready, poll_seconds=poll_seconds) as server:
        yield server
