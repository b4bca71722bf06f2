"""The servers that are compared: how each is installed, started and called."""

import contextlib
import http.client
import importlib.util
import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import environments
from environments import Environment
from processes import ProcessTree, started
from report import CannotMeasureError

Kind = Literal["ours", "python peer", "peer"]

HOST = "127.0.0.1"
_HERE = Path(__file__).resolve().parent
_ONE_THREAD = _HERE / "one_thread.yml"
# Triton's Python stub is built for Debian's Python.
_DEBIANS_PYTHON = "/usr/bin/python3.11"
_KIBAE = "onnxruntime_server"
_START_SECONDS = 120.0
_ANSWER_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A server of a model.

    Attributes:
        name: on the command line and in tables.
        about: its components.
        kind: ours, or which sort of peer.
        command: (python of its environment, model, port) → the command line.
        install: makes its environment; raises CannotMeasureError if that fails.
        path: model → the path of the inference route.
        is_v2: whether it speaks the Open Inference Protocol (V2) instead of {input: value}.
        variables: environment variables.
    """

    name: str
    about: str
    kind: Kind
    command: Callable[[Path, Path, int], Sequence[str]]
    install: Callable[[], Environment]
    path: Callable[[Path], str] = lambda _: "/predict"
    is_v2: bool = False
    variables: Sequence[tuple[str, str]] = ()


def serve_command(python: Path, model: Path, port: int, *options: str) -> Sequence[str]:
    """The command line of `gpux serve` with further options."""
    where = ["--host", HOST, "--port", str(port)]
    return [str(python), "-m", "gpux", "serve", str(model), *where, *options]


def _ours(name: str, about: str, workers: int = 0) -> Contender:
    """`gpux serve` on waitress, or on granian with this many workers."""
    options = ["--server", "granian", "--workers", str(workers)] if workers else []

    def command(python: Path, model: Path, port: int) -> Sequence[str]:
        return serve_command(python, model, port, "--config", str(_ONE_THREAD), *options)

    return Contender(name, about, "ours", command, partial(_find_ours, with_granian=workers > 0))


def _find_ours(with_granian: bool) -> Environment:
    if with_granian and importlib.util.find_spec("granian") is None:
        raise CannotMeasureError("granian is not installed: pip install '.[granian]'")
    return environments.OURS


def _peer(
    name: str,
    about: str,
    interpreter: str = sys.executable,
    is_v2: bool = False,
    variables: Sequence[tuple[str, str]] = (),
) -> Contender:
    """A peer whose server is peers/NAME_server.py and whose packages are in peers/NAME.txt."""

    def command(python: Path, model: Path, port: int) -> Sequence[str]:
        return [str(python), str(_HERE / "peers" / f"{name}_server.py"), str(model), str(port)]

    return Contender(
        name,
        about,
        "python peer",
        command,
        lambda: environments.install(name, interpreter),
        path=lambda _: "/v2/models/model/infer" if is_v2 else "/predict",
        is_v2=is_v2,
        variables=variables,
    )


def _find_kibae() -> Environment:
    if shutil.which(_KIBAE) is None:
        raise CannotMeasureError(
            f"{_KIBAE} is not on the PATH; it is built from github.com/kibae/onnxruntime-server"
        )
    return environments.OURS


def _kibae(python: Path, model: Path, port: int) -> Sequence[str]:
    del python
    # It expects models at FOLDER/NAME/VERSION/model.onnx.
    folder = model.parent / "kibae"
    copy = folder / model.stem / "1" / "model.onnx"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, copy)
    quiet = ["--log-level", "error", "--access-log-file", "/dev/null"]
    prepare = ["--model-dir", str(folder), "--prepare-model", f"{model.stem}:1"]
    return [_KIBAE, "--http-port", str(port), *prepare, *quiet]


# Ours first, then the most widely used, then the others.
CONTENDERS = {
    contender.name: contender
    for contender in (
        _ours("gpux", "gpux serve, on waitress"),
        _ours("gpux-granian", "gpux serve, on granian, one worker", workers=1),
        _ours("gpux-granian-2", "gpux serve, on granian, two workers", workers=2),
        _peer("fastapi", "FastAPI on uvicorn, a plain function in its pool of threads"),
        _peer("litserve", "LitServe, one API process and one worker process"),
        _peer("mlserver", "MLServer, a custom runtime without worker processes", is_v2=True),
        _peer(
            "ray",
            "Ray Serve, the HTTP proxy and one replica",
            # No telemetry, no tokens, and a stopped process is not dead.
            variables=[
                ("RAY_USAGE_STATS_ENABLED", "0"),
                ("RAY_AUTH_MODE", "disabled"),
                ("RAY_health_check_timeout_ms", "600000"),
                ("RAY_health_check_period_ms", "600000"),
            ],
        ),
        _peer(
            "triton",
            "Triton's HTTP front and PyTriton, batches of up to 128",
            interpreter=_DEBIANS_PYTHON,
            is_v2=True,
        ),
        Contender(
            "kibae",
            "kibae/onnxruntime-server (C++), as it is: its runs use a thread a core",
            "peer",
            _kibae,
            _find_kibae,
            path=lambda model: f"/api/sessions/{model.stem}/1",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server.

    Attributes:
        port: its TCP port.
        path: the path of the inference route.
        processes: its process and all descendants.
    """

    port: int
    path: str
    processes: ProcessTree

    @property
    def url(self) -> str:
        """The URL of the inference route."""
        return f"http://{HOST}:{self.port}{self.path}"


@contextlib.contextmanager
def serving(
    contender: Contender, environment: Environment, model: Path, body: bytes | None = None
) -> Iterator[Server]:
    """Runs a server on a free port while the context lasts.

    Args:
        contender: the server to run.
        environment: its environment.
        model: the model to serve.
        body: a server is ready once it responds to this with 200, ours only once it also reports
            ready. None, for ours only, skips that request.

    Raises:
        CannotMeasureError: it exited, or was not ready in time; with the end of its output.
    """
    port = free_port()
    path = contender.path(model)

    def is_ready() -> bool:
        # Ours may have several processes, of which one may respond before the others are ready.
        has_said_so = contender.kind != "ours" or says_ready(port)
        return has_said_so and (body is None or _answers(port, path, body))

    with started(
        contender.command(environment.python, model, port),
        dict(contender.variables),
        is_ready,
        _START_SECONDS,
    ) as processes:
        yield Server(port, path, processes)


def free_port() -> int:
    """An unused port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def says_ready(port: int) -> bool:
    """Whether our server on this port reports ready."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _answers(port: int, path: str, body: bytes) -> bool:
    with contextlib.closing(Client("", port, path)) as client:
        try:
            client.post(body)
        except CannotMeasureError:
            return False
    return True


class Client:
    """A client with one keep-alive connection."""

    def __init__(self, name: str, port: int, path: str = "/predict") -> None:
        self._name = name
        self._path = path
        self._connection = http.client.HTTPConnection(HOST, port, timeout=_ANSWER_SECONDS)

    def post(self, body: bytes) -> tuple[float, bytes]:
        """Posts a body.

        Returns:
            Seconds from before the first byte sent to after the last byte read, and the body.

        Raises:
            CannotMeasureError: the status is not 200, or there is no response.
        """
        start = time.perf_counter()
        try:
            self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CannotMeasureError(f"{self._name} did not answer: {error}") from error
        seconds = time.perf_counter() - start
        if response.status != 200:
            raise CannotMeasureError(f"{self._name} answered {response.status}: {answer[:500]!r}")
        return seconds, answer

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()
