"""Finds the shared libraries with custom operators that gpux.yml names."""

import importlib.util
import mmap
from pathlib import Path

# What ONNX Runtime calls in such a library; compiled, a name ends with NUL.
_ENTRY_POINT = b"\0RegisterCustomOps\0"


def find_custom_ops(name: str, folder: Path) -> Path:
    """Finds a library with custom operators.

    Args:
        name: a path, or the name of an installed Python module that contains the library, such as
            `onnxruntime_extensions`, which is not imported.
        folder: of a relative path.

    Raises:
        ValueError: there is no such library, or the module has several.
    """
    path = folder / name
    if path.is_file():
        return path.resolve()
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None:
        raise ValueError(f"no such file: {path}, and no Python module of this name is installed")
    package = [Path(location) for location in spec.submodule_search_locations or ()]
    found = [
        library
        for location in package
        for library in sorted(location.rglob("*.so*"))
        if _is_custom_ops(library)
    ]
    if len(found) != 1:
        count = "several libraries" if found else "no library"
        raise ValueError(f"the Python module {name} has {count} with custom operators")
    return found[0]


def _is_custom_ops(library: Path) -> bool:
    with library.open("rb") as file:
        if library.stat().st_size == 0:  # which cannot be mapped
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(_ENTRY_POINT) >= 0
