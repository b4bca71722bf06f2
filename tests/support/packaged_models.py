"""Model files of packages that are installed only for these files and never imported."""

import importlib.metadata
import os
from pathlib import Path

import pytest


def find_in_package(distribution: str, name: str) -> Path:
    """A file of an installed package; without the package, skips the test, or fails on CI."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{distribution} is not installed; `make test` installs it")
    found = [Path(str(file.locate())) for file in files if file.name == name]
    assert len(found) == 1, found
    return found[0]
