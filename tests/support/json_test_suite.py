"""The documents of JSONTestSuite, where they are: beside the repository, in shared/data.

Source: N. Seriot, Parsing JSON is a Minefield; github.com/nst/JSONTestSuite. What a parser must
accept is called y_, what it must refuse n_, and what is up to it i_.
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
