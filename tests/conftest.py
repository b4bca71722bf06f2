"""Fixtures: models as files, servers that many tests share, threads that take turns eagerly."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import models
import pytest
from hypothesis import HealthCheck, settings
from servers import ServerProcess, serve

# A slow or busy machine is no failure.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a model of models.py, by its name."""
    folder = tmp_path_factory.mktemp("models")

    def find(name: str) -> Path:
        file = folder / f"{name}.onnx"
        return file if file.exists() else models.write(name, folder)

    return find


@pytest.fixture(scope="session")
def server_for() -> Iterator[Callable[[Path], ServerProcess]]:
    """A running server for a model's file; the same one for all tests of the session."""
    running: dict[Path, ServerProcess] = {}

    def find(path: Path) -> ServerProcess:
        if path not in running:
            running[path] = serve(path)
        return running[path]

    yield find
    codes = {path.name: server.end() for path, server in running.items()}
    logs = {path.name: server.stderr.text for path, server in running.items()}
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


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
