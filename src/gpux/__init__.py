"""GPUX: serves an ONNX model over HTTP, JSON in and JSON out.

`gpux serve PATH` starts the server; `gpux.load(PATH).predict({...})` runs a model from Python.
"""

from typing import Any

from gpux.errors import (
    DISTRIBUTION,
    ClientError,
    GpuxError,
    InferenceError,
    ServiceError,
    StartError,
)
from gpux.model import Model, load

__all__ = [
    "ClientError",
    "GpuxError",
    "InferenceError",
    "Model",
    "ServiceError",
    "StartError",
    "__version__",
    "load",
]

__version__: str


def __getattr__(name: str) -> Any:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # reads the installed metadata, which few need

    return version(DISTRIBUTION)
