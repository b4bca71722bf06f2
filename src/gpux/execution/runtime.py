"""Finds ONNX Runtime's library in its installed wheel, and loads it.

The Python module `onnxruntime` is never imported: it would be a second copy of ONNX Runtime in the
process, and takes longer to import than a small model to load.
"""

import importlib.util
import os
from pathlib import Path

from gpux import _engine
from gpux.errors import RuntimeMissingError, install_command

# Distributions of ONNX Runtime: all install the same module, and overwrite each other's files.
_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
    "onnxruntime-directml",
)


def load_runtime() -> None:
    """Loads ONNX Runtime, unless it is loaded.

    Raises:
        RuntimeMissingError: none is installed, more than one, or one that cannot be used.
    """
    if _engine.runtime_version():
        return
    library = find_library()
    # ONNX Runtime starts to send telemetry unless this is set when it is loaded.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        _engine.load_library(library)
    except RuntimeError as error:
        raise RuntimeMissingError(f"ONNX Runtime cannot be used: {error}") from error


def find_library() -> Path:
    """Returns the path of ONNX Runtime's library.

    Raises:
        RuntimeMissingError: none is installed, more than one, or one without a library.
    """
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:  # without an origin: a folder that pip left behind
        raise RuntimeMissingError(
            f"ONNX Runtime is not installed: {install_command('cpu')}, "
            f"or {install_command('cuda')} for an NVIDIA GPU"
        )
    package = Path(spec.origin).parent
    installed = [name for name in _DISTRIBUTIONS if _is_installed(name, package.parent)]
    if len(installed) > 1:
        raise RuntimeMissingError(
            f"{' and '.join(installed)} are both installed and overwrite each other's files; "
            f"remove them (pip uninstall {' '.join(installed)}), then install one: "
            f"{install_command('cpu')}, or {install_command('cuda')}"
        )
    folder = package / "capi"
    libraries = sorted(folder.glob("libonnxruntime.so.*"))
    if not libraries:
        raise RuntimeMissingError(
            f"ONNX Runtime cannot be used: {folder} has no libonnxruntime.so, as version 1.22 and "
            f"later have; install one: {install_command('cpu')}, or {install_command('cuda')}"
        )
    return libraries[-1]


def _is_installed(distribution: str, folder: Path) -> bool:
    """Whether a folder holds the metadata of a distribution.

    importlib.metadata would tell as well; importing it takes longer than loading a small model.
    Source: "Recording installed projects" of the Python packaging specifications.
    """
    return any(folder.glob(f"{distribution.replace('-', '_')}-*.dist-info"))
