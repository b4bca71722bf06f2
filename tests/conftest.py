"""Fixtures: models as files, servers that many tests share, threads that take turns eagerly."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import gpux.serving.scheduler
from gpux.cli.main import main
from tests.support import onnx_models
from tests.support.servers import PATIENCE_SECONDS, ServerProcess, serve

# A slow or busy machine is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a model of models.py, by its name."""
    folder = tmp_path_factory.mktemp("models")

    def find(name: str) -> Path:
        file = folder / f"{name}.onnx"
        return file if file.exists() else onnx_models.write(name, folder)

    return find


@pytest.fixture(scope="session")
def folder_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The folder of a model of models.py, by its name and its gpux.yml."""
    made: dict[tuple[str, str], Path] = {}

    def find(name: str, described: str) -> Path:
        if (name, described) not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name, described] = onnx_models.write_folder(folder, name, described)
        return made[name, described]

    return find


@pytest.fixture(scope="session")
def server_for() -> Iterator[Callable[..., ServerProcess]]:
    """A running server for a model's file and options; the same one for all tests."""
    running: dict[tuple[Path | str, ...], ServerProcess] = {}

    def find(path: Path, *options: str) -> ServerProcess:
        key: tuple[Path | str, ...] = (path, *options)
        if key not in running:
            running[key] = serve(path, *options)
        return running[key]

    yield find
    for server in running.values():  # so that they end beside each other
        server.process.send_signal(signal.SIGTERM)
    codes = {" ".join(map(str, key)): server.wait() for key, server in running.items()}
    logs = {" ".join(map(str, key)): server.stderr.text for key, server in running.items()}
    # Whatever the tests sent, nothing crashed and nothing ended where no one expected it.
    assert set(codes.values()) <= {0}, (codes, logs)
    bugs = [name for name, log in logs.items() if "Traceback" in log or "uncaptured" in log]
    assert bugs == [], logs


@pytest.fixture(scope="session")
def server(
    model_file: Callable[[str], Path], server_for: Callable[[Path], ServerProcess]
) -> Callable[[str], ServerProcess]:
    """A running server for a model of models.py, by its name; shared by all tests."""
    return lambda name: server_for(model_file(name))


@pytest.fixture(scope="session")
def described(
    folder_for: Callable[[str, str], Path], server_for: Callable[[Path], ServerProcess]
) -> Callable[[str, str], ServerProcess]:
    """A running server for a model of models.py with a gpux.yml; shared by all tests."""
    return lambda name, text: server_for(folder_for(name, text))


@pytest.fixture
def command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """The command line in this process, which starts no other: its exit code and what it writes."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    level = logging.getLogger("gpux").level
    for name in os.environ:
        if name.startswith("GPUX_"):
            monkeypatch.delenv(name)

    def give_up(*_: object) -> None:
        raise AssertionError("the command does not end")

    def run(*arguments: str | Path, variables: Mapping[str, str] | None = None) -> Any:
        # A server that should have been refused would serve.
        signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, 2 * PATIENCE_SECONDS)
        try:
            with monkeypatch.context() as changed:
                for name, value in (variables or {}).items():
                    changed.setenv(name, value)
                code: object = main(list(map(str, arguments)))
        except SystemExit as ended:  # of argparse
            code = ended.code
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        said = capfd.readouterr()
        return code, said.out, said.err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.getLogger("gpux").setLevel(level)


@pytest.fixture(scope="module")
def no_short_runs() -> Iterator[None]:
    """Each run waits for the others, so that there are batches of models that take microseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpux.serving.scheduler, "_SHORT_SECONDS", 0.0)
        yield


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
