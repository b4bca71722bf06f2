"""Models inside installed packages, which are there for these files only and are never imported."""

import importlib.metadata
import os
from pathlib import Path

import pytest


def find_in_package(distribution: str, name: str) -> Path:
    """A model's file in an installed package; on CI it must be there."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{distribution} is not installed; `make test` installs it")
    found = [Path(str(file.locate())) for file in files if file.name == name]
    assert len(found) == 1, found
    return found[0]
