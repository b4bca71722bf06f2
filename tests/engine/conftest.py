"""Fixtures of the tests that compare the engine with ONNX Runtime's Python module."""

from collections.abc import Iterator

import pytest

from tests.support.reference import Reference


@pytest.fixture(scope="session")
def reference() -> Iterator[Reference]:
    """ONNX Runtime's Python module, in a process of its own."""
    with Reference() as running:
        yield running
