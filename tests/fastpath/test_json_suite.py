"""JSONTestSuite: each document as the value of an input and as the body."""

import pytest

from tests.support.decode_cases import Syntax, an_input, check
from tests.support.json_test_suite import NAMES, document, needed

pytestmark = needed

INPUTS = [
    an_input("float32"),
    an_input("float64", "n"),
    an_input("int64", "n", "m"),
    an_input("uint8"),
    an_input("bool"),
    an_input("string"),
    an_input("string", "n"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_document_as_the_value_of_an_input(name: str) -> None:
    # check() fails on any exception but a ClientError.
    for one in INPUTS:
        for spaces in (b"", b" " * 100):
            outcome = check(b'{"x":' + document(name) + b"}" + spaces, one)
            if name.startswith("y_"):
                assert not isinstance(outcome, Syntax)
            if name.startswith("n_"):
                assert not isinstance(outcome, list)


@pytest.mark.parametrize("name", NAMES)
def test_a_document_as_the_body(name: str) -> None:
    outcome = check(document(name), an_input("string", name="a"))
    if name.startswith("y_"):
        assert not isinstance(outcome, Syntax)
    if name.startswith("n_"):
        assert not isinstance(outcome, list)


def test_the_suite_is_whole() -> None:
    assert [sum(name.startswith(kind) for name in NAMES) for kind in ("y_", "n_", "i_")] == [
        95,
        188,
        35,
    ]


def test_what_is_right_is_taken_as_well() -> None:
    """More than 60 of the documents that must be accepted fit one of the inputs."""
    accepted = {
        name
        for name in NAMES
        for one in INPUTS
        if isinstance(check(b'{"x":' + document(name) + b"}", one), list)
    }
    assert len({name for name in accepted if name.startswith("y_")}) > 60
    assert not {name for name in accepted if name.startswith("n_")}
