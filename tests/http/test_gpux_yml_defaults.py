"""Defaults in gpux.yml: values of inputs that a request omits."""

from typing import Any

import pytest

import gpux
from tests.support.servers import Described, FolderFor, same_json

OPTIONAL = """
inputs:
  mask: {default: 1}
  float32: {default: 0.1}
  float64: {default: [0.1, -0.0]}
  float16: {default: 0.1}
  bfloat16: {default: [1.5, 3.140625]}
  int8: {default: [-128, 127]}
  int16: {default: -1}
  int32: {default: 1.0}
  int64: {default: 9223372036854775807, required: false}
  uint8: {default: [255, 0]}
  uint16: {default: 1}
  uint32: {default: [[1, 2]]}
  uint64: {default: 18446744073709551615}
  bool: {default: [true, 0]}
  string: {default: [é, "null"]}
  state: {default: [[1, 2, 3], [4, 5, 6]]}
  rate: {default: 16000}
"""
# One row of each default.
FILLED = {
    "float32": [0.1, 0.1],
    "float64": [0.1, -0.0],
    "float16": [0.1, 0.1],
    "bfloat16": [1.5, 3.140625],
    "int8": [-128, 127],
    "int16": [-1, -1],
    "int32": [1, 1],
    "int64": [2**63 - 1] * 2,
    "uint8": [255, 0],
    "uint16": [1, 1],
    "uint32": [1, 2],
    "uint64": [2**64 - 1] * 2,
    "bool": [True, False],
    "string": ["é", "null"],
}
STATE = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def check_filled(described: Described, x: object, rows: dict[str, Any]) -> None:
    """Checks the response to `x` alone, of which these are the batched inputs."""
    expected = {**rows, "state": STATE, "rate": 16000}
    result = described("optional", OPTIONAL).predict({"x": x})
    assert same_json(result, {f"{name}_out": value for name, value in expected.items()})


ROW = {"x": [0.5, 2.0, 3.0], "mask": [1, 1, 1], **FILLED}


def test_defaults_fill_one_item(described: Described) -> None:
    check_filled(described, [0.5, 2, 3], ROW)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_defaults_fill_each_row_of_a_batch(described: Described, rows: int) -> None:
    repeated = {name: [row] * rows for name, row in ROW.items()}
    check_filled(described, [[0.5, 2, 3]] * rows, repeated)


def test_a_default_has_the_sizes_of_the_others(described: Described) -> None:
    server = described("optional", OPTIONAL)
    assert server.predict({"x": []})["mask_out"] == []
    assert server.predict({"x": [[], []]})["mask_out"] == [[], []]
    assert server.predict({"x": [[1]] * 3})["mask_out"] == [[1]] * 3


def test_what_is_sent_goes_over_the_default(described: Described) -> None:
    server = described("optional", OPTIONAL)
    sent: dict[str, Any] = {
        "x": [[1.0], [2.0]],
        "mask": [[0], [0]],
        "int8": [[5, 6], [7, 8]],
        "string": [["a", "b"], ["c", "d"]],
        "state": [[0.0] * 3] * 2,
        "rate": 8000,
    }
    result = server.predict(sent)
    rest = {name: [row] * 2 for name, row in FILLED.items() if name not in sent}
    assert {name: result[f"{name}_out"] for name in {**sent, **rest}} == {**sent, **rest}


def test_a_default_does_not_hide_what_is_wrong(described: Described) -> None:
    server = described("optional", OPTIONAL)
    for body, message in (
        ({}, "Missing required input: 'x'"),
        ({"rate": 1}, "Missing required input: 'x'"),
        ({"x": [1], "int8": 300}, "Invalid input type for 'int8': expected array"),
        ({"x": [1], "int8": None}, "Invalid input type for 'int8': expected array"),
        ({"x": [1], "int8": [1, 300]}, "Invalid value for 'int8' at [1]: 300 is out of range"),
        ({"x": [[1], [2]], "int8": [1, 2]}, "Inputs disagree on 'batch': 'x' has 2, 'int8' has 1"),
        ({"x": [1, 2], "mask": [1]}, "Inputs disagree on 'n': 'x' has 2, 'mask' has 1"),
    ):
        assert server.post(body).error(400).startswith(message)


def test_requests_with_defaults_do_not_share_memory(described: Described) -> None:
    """The response is encoded from the input's buffer, which the next request reuses."""
    server = described("optional", OPTIONAL)
    for rows in (3, 1, 2, 5):
        sent = server.predict({"x": [[1]] * rows, "int8": [[rows, rows]] * rows})
        assert sent["int8_out"] == [[rows, rows]] * rows
        assert server.predict({"x": [[1]] * rows})["int8_out"] == [FILLED["int8"]] * rows


def test_a_default_whose_size_does_not_fit_the_request_is_refused(described: Described) -> None:
    server = described("optional", "inputs: {mask: {default: [1, 1, 1]}}")
    rest = {name: [row] for name, row in FILLED.items()} | {"state": STATE, "rate": 1}
    assert server.predict({"x": [[1, 2, 3]], **rest})["mask_out"] == [[1, 1, 1]]
    assert "'n'" in server.post({"x": [[1, 2]], **rest}).error(400)


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        ("fixed", "inputs: {x: {default: 0.5}}", {"y": [[0.5] * 3] * 2}),
        ("fixed", "inputs: {x: {default: [[1, 2, 3], [4, 5, 6]]}}", {"y": STATE}),
        ("single", "inputs: {x: {default: 2}}", {"same": [2.0] * 3}),
        ("single", "inputs: {x: {default: [1, 2, 3]}}", {"same": [1.0, 2.0, 3.0]}),
        ("single", "inputs: {x: {default: [[1, 2, 3]]}}", {"same": [1.0, 2.0, 3.0]}),
        ("string", "inputs: {word: {default: a}}", {"same": "a"}),
        ("string", "inputs: {word: {default: [[a], [b]]}}", {"same": [["a"], ["b"]]}),
        (
            "opened",
            "inputs: {scalar: {default: 5}, free: {default: [[1], [2]]}}",
            {"scalar_out": 5, "free_out": [[1.0], [2.0]]},
        ),
        # An empty request is not an item.
        ("matrix", "inputs: {x: {default: [1, 2]}}", {"y": [[1.0, 2.0]]}),
    ],
)
def test_a_request_may_give_nothing(
    folder_for: FolderFor, model: str, text: str, expected: dict[str, Any]
) -> None:
    result = gpux.load(folder_for(model, text)).predict({})
    assert same_json({name: result[name].tolist() for name in expected}, expected)


def test_one_value_is_an_item_where_items_are_bare_values(folder_for: FolderFor) -> None:
    model = gpux.load(folder_for("items", "inputs: {b: {default: 5}, c: {default: [true]}}"))
    one = {name: value.tolist() for name, value in model.predict({"a": 1.5}).items()}
    assert one == {"a_out": 1.5, "b_out": [5], "c_out": [True]}
    two = {name: value.tolist() for name, value in model.predict({"a": [1, 2]}).items()}
    assert two == {"a_out": [1.0, 2.0], "b_out": [[5], [5]], "c_out": [[True], [True]]}
