"""The servers that are compared: how each is installed, started and called."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from common.client import HOST
from common.report import CannotMeasureError
from common.servers import Server, running, says_ready
from server import environments
from server.environments import Environment

# `before` is another build of ours.
Kind = Literal["ours", "before", "python peer", "peer"]

_HERE = Path(__file__).resolve().parent
_ONE_THREAD = str(_HERE / "one_thread.yml")
_WSGI_THREADS = 8
# Triton's Python stub is built for Debian's Python.
_DEBIANS_PYTHON = "/usr/bin/python3.11"
_KIBAE = "onnxruntime_server"


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
        variables: model → environment variables.
        is_v2: whether it speaks the Open Inference Protocol (V2) instead of {input: value}.
    """

    name: str
    about: str
    kind: Kind
    command: Callable[[Path, Path, int], Sequence[str]]
    install: Callable[[], Environment]
    path: Callable[[Path], str] = lambda _: "/predict"
    variables: Callable[[Path], Mapping[str, str]] = lambda _: {}
    is_v2: bool = False

    @property
    def is_gpux(self) -> bool:
        """Whether it is this project's, of whatever build."""
        return self.kind in ("ours", "before")

    def serve(
        self, environment: Environment, model: Path, body: bytes
    ) -> AbstractContextManager[Server]:
        """Runs it on a free port while the context lasts.

        Args:
            environment: from install().
            model: the model to serve.
            body: it is ready once it responds to this with 200, ours once it also says so.

        Raises:
            CannotMeasureError: it exited, or was not ready in time; with the end of its output.
        """

        def is_ready(server: Server) -> bool:
            # Ours may have several processes, of which one may respond before the others are ready.
            return (not self.is_gpux or says_ready(server)) and _responds(server, body)

        command = partial(self.command, environment.python, model)
        return running(self.name, command, is_ready, self.variables(model), self.path(model))


def _responds(server: Server, body: bytes) -> bool:
    with server.client() as client:
        try:
            client.post(body)
        except CannotMeasureError:
            return False
    return True


def _gpux(
    name: str, about: str, *options: str, kind: Kind = "ours", python: Path = Path(sys.executable)
) -> Contender:
    """`gpux serve` of a build."""

    def command(python: Path, model: Path, port: int) -> Sequence[str]:
        where = ["--host", HOST, "--port", str(port), "--config", _ONE_THREAD]
        return [str(python), "-m", "gpux", "serve", str(model), *where, *options]

    return Contender(name, about, kind, command, lambda: Environment(python))


def _wsgi(name: str, kind: Kind = "ours", python: Path = Path(sys.executable)) -> Contender:
    """`gpux.wsgi:app` of a build behind waitress as its users start it."""

    def command(python: Path, model: Path, port: int) -> Sequence[str]:
        del model
        listen = [f"--listen={HOST}:{port}", f"--threads={_WSGI_THREADS}"]
        return [str(python), "-m", "waitress", *listen, "gpux.wsgi:app"]

    return Contender(
        name,
        f"waitress-serve --threads={_WSGI_THREADS} gpux.wsgi:app",
        kind,
        command,
        lambda: Environment(python),
        variables=lambda model: {"GPUX_MODEL": str(model), "GPUX_CONFIG": _ONE_THREAD},
    )


def other_build(gpux: Path) -> list[Contender]:
    """The servers of another build of ours.

    Args:
        gpux: its program, `bin/gpux` of an environment.

    Raises:
        CannotMeasureError: there is no such program, or no Python beside it.
    """
    python = gpux.absolute().with_name("python")
    if not (gpux.is_file() and python.is_file()):
        raise CannotMeasureError(f"--against {gpux}: no gpux with a python beside it")

    def front(server: str) -> Contender:
        about = f"the other build, gpux serve --server {server}"
        return _gpux(f"before-{server}", about, "--server", server, kind="before", python=python)

    return [front("waitress"), front("granian"), _wsgi("before-wsgi", "before", python)]


def _peer(
    name: str,
    about: str,
    interpreter: str = sys.executable,
    is_v2: bool = False,
    variables: Mapping[str, str] | None = None,
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
        variables=lambda _: variables or {},
        is_v2=is_v2,
    )


def _find_kibae() -> Environment:
    if shutil.which(_KIBAE) is None:
        raise CannotMeasureError(
            f"{_KIBAE} is not on the PATH; it is built from github.com/kibae/onnxruntime-server"
        )
    return Environment(Path(sys.executable))


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


def _known() -> Iterator[Contender]:
    """Ours first, then the most widely used, then the others."""
    yield _gpux("gpux", "gpux serve")
    yield _gpux("gpux-2", "gpux serve --workers 2", "--workers", "2")
    yield _wsgi("gpux-wsgi")
    yield _peer("fastapi", "FastAPI on uvicorn, a plain function in its pool of threads")
    yield _peer("litserve", "LitServe, one API process and one worker process")
    yield _peer("mlserver", "MLServer, a custom runtime without worker processes", is_v2=True)
    yield _peer(
        "ray",
        "Ray Serve, its HAProxy and one replica, optimized for throughput",
        variables={
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            # No telemetry, no tokens, and a stopped process is not dead.
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_health_check_timeout_ms": "600000",
            "RAY_health_check_period_ms": "600000",
        },
    )
    yield _peer(
        "triton",
        "Triton's HTTP front and PyTriton, batches of up to 128",
        interpreter=_DEBIANS_PYTHON,
        is_v2=True,
    )
    yield Contender(
        "kibae",
        "kibae/onnxruntime-server (C++), as it is: its runs use a thread a core",
        "peer",
        _kibae,
        _find_kibae,
        path=lambda model: f"/api/sessions/{model.stem}/1",
    )


CONTENDERS = {contender.name: contender for contender in _known()}
