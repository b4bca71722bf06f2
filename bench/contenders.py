"""The servers that are compared: how each one is installed, started and stopped."""

import hashlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from report import CannotMeasureError

_HERE = Path(__file__).resolve().parent
_ENVIRONMENTS = _HERE / ".envs"
_HOST = "127.0.0.1"
# What a session has that nobody has set up.
DEFAULT_THREADS = "one a core, spinning"
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that takes POST /predict with {input: value} and answers {output: value}.

    Attributes:
        name: as it is asked for, and shown.
        about: what it is made of.
        run_threads: the threads that one run of the model uses, as the server has it by default.
        command: (python, model, port) → the command line; python is that of its environment.
        variables: model → environment variables, on top of those that are set.
        requirements: what its environment is made from; None for this project's own.
    """

    name: str
    about: str
    run_threads: str
    command: Callable[[Path, Path, int], Sequence[str]]
    variables: Callable[[Path], Mapping[str, str]] = lambda _: {}
    requirements: Path | None = None


def _gpux(python: Path, model: Path, port: int) -> Sequence[str]:
    return [str(python), "-m", "gpux", "serve", str(model), "--host", _HOST, "--port", str(port)]


def _fastapi(python: Path, model: Path, port: int) -> Sequence[str]:
    del model
    where = ["--app-dir", str(_HERE / "peers"), "--host", _HOST, "--port", str(port)]
    # Without a line of log for each request, as `gpux serve` has none.
    return [str(python), "-m", "uvicorn", "fastapi_app:app", *where, "--no-access-log"]


# The first one is what the others are measured against.
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("gpux", "gpux serve, waitress", "one a core, not spinning", _gpux),
        Contender(
            "fastapi",
            "FastAPI, uvicorn[standard]",
            DEFAULT_THREADS,
            _fastapi,
            variables=lambda model: {"MODEL": str(model)},
            requirements=_HERE / "peers" / "fastapi.txt",
        ),
    )
}


def install(contender: Contender) -> tuple[Path, str]:
    """Makes a contender's environment where it is not there yet.

    Returns:
        Its Python, and what is installed in it as `pip freeze` says, empty for this project's own.

    Raises:
        CannotMeasureError: pip failed.
    """
    if contender.requirements is None:
        return Path(sys.executable), ""
    text = contender.requirements.read_text()
    wanted = hashlib.sha256(f"{sys.version}\n{text}".encode()).hexdigest()
    folder = _ENVIRONMENTS / contender.name
    python = folder / "bin" / "python"
    stamp = folder / "installed"  # what the environment was made from, once it is complete
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"Installing the environment of {contender.name} ...", file=sys.stderr)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(contender.requirements)])
        stamp.write_text(wanted)
    return python, _run([str(python), "-m", "pip", "freeze"])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotMeasureError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout


@contextmanager
def started(contender: Contender, python: Path, model: Path) -> Iterator[int]:
    """Runs a server on a free port while the context lasts; gives the port.

    Raises:
        CannotMeasureError: it ended, or does not listen; with the end of its output.
    """
    port = _free_port()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            contender.command(python, model, port),
            env={**os.environ, **contender.variables(model)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            if not _listens(process, port):
                log.seek(0)
                output = log.read()[-4000:].decode(errors="replace").strip()
                raise CannotMeasureError(f"{contender.name} did not start:\n{output}")
            yield port
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((_HOST, port)) == 0:
                return True
        time.sleep(0.05)
    return False


class Client:
    """One connection that is kept open from request to request."""

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self._connection = http.client.HTTPConnection(_HOST, port, timeout=_ANSWER_SECONDS)

    def post(self, body: bytes) -> tuple[float, bytes]:
        """Posts a body to /predict.

        Returns:
            Seconds from before the first byte sent to after the last byte read, and the answer.

        Raises:
            CannotMeasureError: the server answered another status than 200, or none.
        """
        start = time.perf_counter()
        try:
            self._connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
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
