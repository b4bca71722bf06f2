"""ONNX Runtime as its Python module, which gpux never imports: what results are compared with."""

import os
from typing import Any

from gpux.errors import RuntimeMissingError


def load_runtime() -> Any:
    """Imports and returns the onnxruntime module.

    Raises:
        RuntimeMissingError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissingError(f"ONNX Runtime cannot be imported: {error}") from error
    return onnxruntime
