"""Tests that need a GPU. Without one, all are skipped with the reason."""

import json
import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gpux._engine import available_providers
from gpux.config.settings import Settings
from gpux.errors import RuntimeMissingError
from gpux.execution.gpu import GpuExecution
from gpux.execution.runtime import load_runtime
from gpux.model import Model, load_model
from gpux.tensors.cuda import CudaStream, load_cupy

HERE = Path(__file__).parent


@cache
def missing() -> str | None:
    """Why this machine cannot run these tests; None if it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            runtime = load_cupy().cuda.runtime
            load_runtime()
            providers = available_providers()
        except RuntimeMissingError as error:
            return str(error)
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            return f"no NVIDIA driver with a GPU: {error}"
    if not count:
        return "the driver knows no GPU"
    if "CUDAExecutionProvider" not in providers:
        return "this ONNX Runtime was built without CUDA"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips these tests without a GPU; else allows the warnings of other libraries in them."""
    reason = None
    for item in items:
        if item.path.is_relative_to(HERE):
            reason = reason or missing()
            if reason:
                item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture
def stream() -> CudaStream:
    """A stream on the first GPU, adopted by this thread."""
    created = CudaStream(0)
    created.adopt()
    return created


@pytest.fixture
def on_gpu(model_file: Callable[[str], Path]) -> Iterator[Callable[..., Model]]:
    """Loads a model, by name or file, on the first GPU."""
    loaded: list[Model] = []

    def find(name: str | Path, **settings: Any) -> Model:
        file = model_file(name) if isinstance(name, str) else name
        model = load_model(Settings(model=file, provider="cuda", **settings))
        loaded.append(model)
        return model

    yield find
    for model in loaded:
        assert isinstance(model.execution, GpuExecution)
        model.execution.close()
        # Every request has returned its pinned blocks, even after failures.
        assert model.pool.used_bytes == 0


@pytest.fixture
def alike() -> Callable[[bytes, bytes], bool]:
    """Whether two JSON responses are equal up to float rounding on different processors."""
    return lambda actual, expected: _alike(json.loads(actual), json.loads(expected))


def _alike(value: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(value, int | float):
        return math.isclose(value, expected, rel_tol=1e-3, abs_tol=1e-5)
    if type(value) is not type(expected):
        return False
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(_alike, value, expected))
    if isinstance(expected, dict):
        return list(value) == list(expected) and all(map(_alike, value.values(), expected.values()))
    return bool(value == expected)
