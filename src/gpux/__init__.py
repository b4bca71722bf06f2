"""GPUX: serves an ONNX model over HTTP, JSON in and JSON out.

`gpux serve PATH` starts the server; `gpux.load(PATH).predict({...})` runs a model from Python.
"""

from gpux.errors import ClientError, GpuxError, InferenceError, ServiceError, StartError
from gpux.model import Model, load

__version__ = "0.1.0"

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
