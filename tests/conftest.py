"""Fixtures: model files, servers shared by many tests, eager thread switches."""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from gpux._engine import available_providers
from gpux.cli.main import main
from gpux.execution.runtime import load_runtime
from tests.support import onnx_models
from tests.support.servers import (
    PATIENCE_SECONDS,
    Command,
    Described,
    Failure,
    Find,
    FolderFor,
    Serve,
    ServerFor,
    ServerProcess,
    serve,
    start_error,
)

# A slow or busy machine fails no test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Find:
    """Finds the file of a model of onnx_models.py by its name."""
    folder = tmp_path_factory.mktemp("models")

    def find(name: str) -> Path:
        file = folder / f"{name}.onnx"
        return file if file.exists() else onnx_models.write(name, folder)

    return find


@pytest.fixture(scope="session")
def folder_for(tmp_path_factory: pytest.TempPathFactory) -> FolderFor:
    """Finds the folder of a model of onnx_models.py by its name and gpux.yml."""
    folders: dict[tuple[str, str], Path] = {}

    def find(name: str, gpux_yml: str) -> Path:
        if (name, gpux_yml) not in folders:
            folder = tmp_path_factory.mktemp(name)
            folders[name, gpux_yml] = onnx_models.write_folder(folder, name, gpux_yml)
        return folders[name, gpux_yml]

    return find


@pytest.fixture(scope="session")
def server_for() -> Iterator[ServerFor]:
    """Finds a running server for a model's path and options, shared by all tests."""
    running: dict[tuple[Path | str, ...], ServerProcess] = {}

    def find(path: Path, *options: str) -> ServerProcess:
        key: tuple[Path | str, ...] = (path, *options)
        if key not in running:
            running[key] = serve(path, *options)
        return running[key]

    yield find
    for server in running.values():  # so that they shut down concurrently
        server.process.send_signal(signal.SIGTERM)
    codes = {" ".join(map(str, key)): server.wait() for key, server in running.items()}
    logs = {" ".join(map(str, key)): server.stderr.text for key, server in running.items()}
    # Whatever the tests sent, no server crashed or ended unexpectedly.
    assert set(codes.values()) <= {0}, (codes, logs)
    bugs = [name for name, log in logs.items() if "Traceback" in log or "uncaptured" in log]
    assert bugs == [], logs


@pytest.fixture(scope="session")
def server(model_file: Find, server_for: ServerFor) -> Serve:
    """Finds a running server for a model of onnx_models.py by its name; shared by all tests."""
    return lambda name: server_for(model_file(name))


@pytest.fixture(scope="session")
def described(folder_for: FolderFor, server_for: ServerFor) -> Described:
    """Finds a running server for a model and its gpux.yml; shared by all tests."""
    return lambda name, text: server_for(folder_for(name, text))


@pytest.fixture
def command(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    """Runs the command line in this process. Returns exit code, stdout and stderr."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    handlers = {number: signal.getsignal(number) for number in numbers}
    level = logging.getLogger("gpux").level
    for name in os.environ:
        if name.startswith("GPUX_"):
            monkeypatch.delenv(name)

    def time_out(*_: object) -> None:
        raise AssertionError("the command does not end")

    def run(*arguments: str | Path, variables: Mapping[str, str] | None = None) -> Any:
        # A server that wrongly accepts its config would run forever.
        signal.signal(signal.SIGALRM, time_out)
        signal.setitimer(signal.ITIMER_REAL, 2 * PATIENCE_SECONDS)
        try:
            with monkeypatch.context() as patch:
                for name, value in (variables or {}).items():
                    patch.setenv(name, value)
                code: object = main(list(map(str, arguments)))
        except SystemExit as ended:  # from argparse
            code = ended.code
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    logging.getLogger("gpux").setLevel(level)


@pytest.fixture
def failure(command: Command) -> Failure:
    """Runs a command that fails to start; returns its one-line error message."""
    return lambda *arguments, **variables: start_error(*command(*arguments, variables=variables))


@pytest.fixture
def without_cuda() -> None:
    """Skips a test of commands that would succeed with CUDA."""
    load_runtime()
    if "CUDAExecutionProvider" in available_providers():
        pytest.skip("this ONNX Runtime has CUDA")


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Switches threads as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
