"""What a serving process imports: libraries that it does not need cost time and memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SERVE = """
import sys
from pathlib import Path

import gpux.cli.main
from gpux.config.settings import Settings
from gpux.model import load_model
from gpux.serving.engine import Engine
from gpux.serving.warmup import warm_up

settings = Settings(model=Path(sys.argv[1]), provider="cpu")
engine = Engine(load_model(settings), settings)
warm_up(engine, None)
engine.model.respond(b'{"x": [[1, 2]]}')
assert engine.batching.limits is not None, engine.batching.reason
print(*sorted(set(sys.argv[2:]) & set(sys.modules)))
"""
NOT_NEEDED = ("importlib.metadata", "numpy", "onnxruntime", "opentelemetry", "prometheus_client")


def test_a_server_of_numbers_imports_little(model_file: Callable[[str], Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(model_file("matrix")), *NOT_NEEDED],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
