"""The documents of JSONTestSuite, if present next to the repository in shared/data.

Source: N. Seriot, Parsing JSON is a Minefield; github.com/nst/JSONTestSuite. A parser must accept
y_*, must reject n_*, and may do either with i_*.
"""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "json-test-suite" / "test_parsing"
NAMES = sorted(file.name for file in FOLDER.iterdir()) if FOLDER.exists() else []

needed = pytest.mark.skipif(
    not NAMES,
    reason="NOT TESTED: JSONTestSuite, as shared/data/json-test-suite is not beside the repository",
)


def document(name: str) -> bytes:
    return (FOLDER / name).read_bytes()
