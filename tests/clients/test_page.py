"""The programs are those of the API page, character for character."""

from pathlib import Path

import pytest

from tests.support import client_programs

PAGE = Path(__file__).parents[3] / "shared" / "spec" / "predict-api.txt"


@pytest.mark.skipif(not PAGE.exists(), reason="the API page is not beside the repository")
@pytest.mark.parametrize(
    "name", ["PYTHON", "CONNECTION_POOLING", "ERROR_HANDLING", "FETCH", "AXIOS", "GO"]
)
def test_a_program_stands_on_the_page(name: str) -> None:
    assert getattr(client_programs, name) in PAGE.read_text()
