"""Opens the CUDA libraries to which ONNX Runtime's CUDA provider is linked.

The provider has no search path of its own, but the loader does not search again for what is open.
"""

import ctypes
import importlib.util
import re
from pathlib import Path

# In the order of their dependencies.
_LIBRARIES = ("cudart", "cublasLt", "cublas", "curand", "cufft", "cudnn")
_SONAME = re.compile(rb"lib(\w+)\.so\.[0-9]+")
# The provider has hundreds of megabytes, but the names of the libraries that it needs come first.
_HEAD_BYTES = 2**24


def open_cuda_libraries(provider: Path) -> None:
    """Opens each library from NVIDIA's wheels, or else where the loader finds it.

    What cannot be opened is left out: the provider's own failure says so.

    Args:
        provider: libonnxruntime_providers_cuda.so, which decides their versions.
    """
    needed = _needed(provider)
    for name in _LIBRARIES:
        soname = needed.get(name)
        path = _find(soname or f"lib{name}.so.[0-9]*") or soname
        if path is not None:
            try:
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
            except OSError:
                continue


def _needed(provider: Path) -> dict[str, str]:
    """The libraries that the provider names, as `libcublas.so.13` by `cublas`."""
    try:
        with provider.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return {}
    return {found[1].decode(): found[0].decode() for found in _SONAME.finditer(head)}


def _find(pattern: str) -> Path | None:
    """A library in NVIDIA's wheels, whose parts all install into the namespace `nvidia`."""
    spec = importlib.util.find_spec("nvidia")
    folders = (spec and spec.submodule_search_locations) or ()
    found = [path for folder in folders for path in Path(folder).glob(f"*/lib/{pattern}")]
    return max(found, default=None)
