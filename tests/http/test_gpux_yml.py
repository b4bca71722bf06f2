"""gpux.yml: entries about the model, its inputs and its outputs, over a real socket."""

from typing import Any

import numpy
import pytest

import gpux
from tests.support.servers import Described, FolderFor, same_json

# How the model is presented.

EVERYTHING = """
name: everything
version: 1.10
description: Says what it gets
inputs:
  points:
    description: Two numbers
    labels: [across, 2]
    type: float32
    shape: [batch, 2]
  rate: {default: 16000, required: false}
  ids: {shape: [null, 4]}
  image: {shape: [null, 3, width]}
  word: {max_length: 3, description: "At most three letters"}
  mask:
  state: {batched: false}
outputs:
  probabilities:
    from: logits
    activation: softmax
    labels: [no, yes]
    description: Of yes and no
    type: float32
    shape: [batch, 2]
  raw: {from: logits}
  same_word:
  same_rate: {}
metadata:
  author: me
  tags: [a, 1, 1.5, true, null]
  nested: {a: {}}
"""
BODY = {
    "ids": [1, 2, 3, 4],
    "mask": [1, 1, 1, 1],
    "image": [[1], [2], [3]],
    "word": "abc",
    "flag": True,
    "state": [[[0.5] * 4]] * 2,
    "weight": 0.5,
    "points": [0, 0],
}
EXPECTED = {
    "probabilities": [0.5, 0.5],
    "raw": [0.0, 0.0],
    "same_word": ["abc"],
    "same_rate": 16000,
}


def test_info_and_health_tell_what_the_file_says(described: Described) -> None:
    server = described("described", EVERYTHING)
    assert server.request("GET", "/health").json == {"status": "healthy", "model": "everything"}
    info = server.request("GET", "/info").json
    assert info["name"] == "everything"
    assert info["version"] == "1.10"
    assert info["description"] == "Says what it gets"
    metadata = {key: info["metadata"][key] for key in ("author", "tags", "nested")}
    assert metadata == {"author": "me", "tags": ["a", 1, 1.5, True, None], "nested": {"a": {}}}


def test_info_has_the_inputs_in_the_model_s_order(described: Described) -> None:
    info = described("described", EVERYTHING).request("GET", "/info").json
    plain = {"kind": "batched", "required": True, "description": None, "labels": None}
    word = {"description": "At most three letters", "max_length": 3}
    rate = {"kind": "open", "required": False, "default": 16000}
    points = {"description": "Two numbers", "labels": ["across", "2"]}
    assert info["inputs"] == [
        {**plain, "name": "ids", "type": "int64", "shape": ["batch", 4]},
        {**plain, "name": "mask", "type": "int64", "shape": ["batch", 4]},
        {**plain, "name": "image", "type": "float32", "shape": ["batch", 3, "width"]},
        {**plain, "name": "word", "type": "string", "shape": ["batch", 1], **word},
        {**plain, "name": "flag", "type": "bool", "shape": ["batch"]},
        {**plain, "name": "state", "type": "float32", "shape": [2, None, 4], "kind": "fixed"},
        {**plain, "name": "rate", "type": "int64", "shape": [], **rate},
        {**plain, "name": "weight", "type": "float32", "shape": ["batch"]},
        {**plain, "name": "points", "type": "float32", "shape": ["batch", 2], **points},
    ]


def test_info_has_the_outputs_in_the_file_s_order(described: Described) -> None:
    info = described("described", EVERYTHING).request("GET", "/info").json
    nothing = {"description": None, "labels": None}
    logits = {"type": "float32", "shape": ["batch", 2], "from": "logits"}
    assert info["outputs"] == [
        {
            "name": "probabilities",
            **logits,
            "activation": "softmax",
            "description": "Of yes and no",
            "labels": ["no", "yes"],
        },
        {"name": "raw", **logits, **nothing},
        {"name": "same_word", "type": "string", "shape": ["batch", 1], **nothing},
        {"name": "same_rate", "type": "int64", "shape": [], **nothing},
    ]


def test_outputs_are_selected_ordered_and_renamed(described: Described) -> None:
    result = described("described", EVERYTHING).predict(BODY)
    assert list(result.items()) == list(EXPECTED.items())


def test_the_python_interface_answers_alike(folder_for: FolderFor) -> None:
    result = gpux.load(folder_for("described", EVERYTHING)).predict(BODY)
    assert {name: value.tolist() for name, value in result.items()} == EXPECTED


AS_THE_MODEL_HAS_THEM = {"a_out": 0.5, "b_out": [2], "c_out": [True]}
TWICE = {"one": 0.5, "c_out": [True], "two": 0.5}


@pytest.mark.parametrize(
    ("outputs", "answered"),
    [
        ("outputs: [b_out, a_out]", {"b_out": [2], "a_out": 0.5}),
        ("outputs: {b_out: , a_out: {}}", {"b_out": [2], "a_out": 0.5}),
        ("outputs: [{name: one, from: a_out}, c_out, {name: two, from: a_out}]", TWICE),
        ("outputs: {one: {from: a_out}, c_out: {}, two: {from: a_out}}", TWICE),
        ("outputs: {a_out: {from: b_out}, b_out: {from: a_out}}", {"a_out": [2], "b_out": 0.5}),
        ("outputs: null", AS_THE_MODEL_HAS_THEM),
        ("inputs: []", AS_THE_MODEL_HAS_THEM),
        ("inputs: [c, b]", AS_THE_MODEL_HAS_THEM),
        ("", AS_THE_MODEL_HAS_THEM),
        ("# nothing\n---\n", AS_THE_MODEL_HAS_THEM),
    ],
)
def test_a_list_is_as_good_as_a_map(
    folder_for: FolderFor, outputs: str, answered: dict[str, Any]
) -> None:
    result = gpux.load(folder_for("items", outputs)).predict({"a": 0.5, "b": 2, "c": True})
    assert [(name, value.tolist()) for name, value in result.items()] == list(answered.items())


# Shapes narrowed by the file.


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ids": [1, 2, 3]}, "Invalid shape for 'ids': expected [batch, 4], got [3]"),
        # Fixing an axis for one input fixes it for every input that has it.
        ({"mask": [1] * 5}, "Invalid shape for 'mask': expected [batch, 4], got [5]"),
        (
            {"image": [[1], [2]]},
            "Invalid shape for 'image': expected [batch, 3, width], got [2, 1]",
        ),
        ({"word": "abcd"}, "Invalid value for 'word': expected at most 3 characters, got 4"),
        ({"rate": "a"}, "Invalid input type for 'rate': expected number"),
    ],
)
def test_requests_must_fit_what_the_file_says(
    described: Described, changed: dict[str, Any], message: str
) -> None:
    assert described("described", EVERYTHING).post({**BODY, **changed}).error(400) == message


def test_missing_and_unknown_inputs_stay_wrong(described: Described) -> None:
    server = described("described", EVERYTHING)
    unmasked = {name: value for name, value in BODY.items() if name != "mask"}
    assert server.post(unmasked).detail == "Missing required input: 'mask'"
    assert server.post({**BODY, "rates": 1}).detail.startswith("Unknown input: 'rates'; did you")


def test_axes_that_the_file_names_must_agree(folder_for: FolderFor) -> None:
    model = gpux.load(folder_for("unnamed", "inputs: {a: {shape: [n, 2]}, b: {shape: [n]}}"))
    with pytest.raises(gpux.ClientError) as caught:
        model.predict({"a": [[1, 2], [3, 4]], "b": [1, 2, 3]})
    assert str(caught.value) == (
        "Inputs disagree on 'n': 'a' has 2, 'b' has 3; if these axes differ, name them in gpux.yml"
    )


def test_an_axis_that_the_file_fixes_may_be_the_batch(described: Described) -> None:
    one = described("matrix", "inputs: {x: {shape: [1, 3]}}")
    assert one.predict({"x": [1, 2, 3]}) == {"y": [1.0, 2.0, 3.0]}
    assert one.predict({"x": [[1, 2, 3]]}) == {"y": [1.0, 2.0, 3.0]}
    assert one.post({"x": [[1, 2, 3]] * 2}).status == 400
    info = one.request("GET", "/info").json
    assert [info["inputs"][0]["shape"], info["inputs"][0]["kind"]] == [[1, 3], "single"]
    assert info["outputs"][0]["shape"] == [1, 3]


# Text lengths.


@pytest.mark.parametrize(
    ("model", "text", "place", "got"),
    [
        ("text", "abcdef", "", 6),
        ("text", ["abcde", "abcdef"], " at [1]", 6),
        ("text", [["abcde"], ["abcdef"]], " at [1][0]", 6),
        ("text", "😀" * 6, "", 6),
        ("strings", ["a", "é" * 10], " at [1]", 10),
        ("strings", [["a", "b"], ["c", "abcdef"]], " at [1][1]", 6),
        ("string", "abcdef", "", 6),
        ("string", [["abcdef"]], " at [0][0]", 6),
    ],
)
def test_a_text_that_is_too_long_is_refused_where_it_stands(
    described: Described, model: str, text: object, place: str, got: int
) -> None:
    name = {"text": "text", "strings": "texts", "string": "word"}[model]
    server = described(model, f"inputs: {{{name}: {{max_length: 5}}}}")
    message = f"Invalid value for '{name}'{place}: expected at most 5 characters, got {got}"
    assert server.post({name: text}).error(400) == message


def test_a_text_may_be_as_long_as_the_file_says(described: Described) -> None:
    server = described("strings", "inputs: {texts: {max_length: 5}}")
    assert server.predict({"texts": ["😀" * 5, "", "\0abcd"]}) == {"same": ["😀" * 5, "", "\0abcd"]}


# The batch axis.


@pytest.mark.parametrize(
    ("model", "text", "body", "expected"),
    [
        ("matrix", "inputs: {x: {batched: false}}", {"x": [[1, 2]]}, {"y": [[1.0, 2.0]]}),
        ("matrix", "inputs: {x: {batched: false}}", {"x": [1, 2]}, "expected [batch, n], got [2]"),
        ("matrix", "outputs: {y: {batched: false}}", {"x": [1, 2]}, {"y": [[1.0, 2.0]]}),
        ("matrix", "outputs: {y: {batched: true}}", {"x": [1, 2]}, {"y": [1.0, 2.0]}),
        ("matrix", "outputs: {y: {batched: true}}", {"x": [[1, 2]]}, {"y": [[1.0, 2.0]]}),
        (
            "detector",
            "outputs: {places: {batched: true}, same: {batched: false}}",
            {"x": [0, 3]},
            {"places": [0, 1], "same": [[0.0, 3.0]]},
        ),
        ("fixed", "inputs: {x: {batched: true}}", {"x": [[1] * 3] * 2}, {"y": [[1.0] * 3] * 2}),
        ("fixed", "inputs: {x: {batched: true}}", {"x": [1] * 3}, "expected [2, 3], got [3]"),
        (
            "single",
            "inputs: {x: {batched: true}}",
            {"x": [[1] * 3]},
            {"same": [[1.0] * 3], "twice": [[1.0] * 3] * 2, "sum": 3.0},
        ),
        (
            "single",
            "inputs: {x: {batched: true}}",
            {"x": [1] * 3},
            {"same": [1.0] * 3, "twice": [[1.0] * 3] * 2, "sum": 3.0},
        ),
        ("single", "outputs: {same: {batched: false}}", {"x": [1] * 3}, {"same": [[1.0] * 3]}),
        # The leading axis of a recurrent model's state is its layers.
        (
            "unnamed",
            "inputs: {b: {batched: false}}",
            {"a": [1, 2], "b": [5, 6, 7]},
            {"a_out": [1.0, 2.0], "b_out": [5.0, 6.0, 7.0]},
        ),
        ("unnamed", "", {"a": [1, 2], "b": [5, 6, 7]}, "Inputs disagree on 'batch'"),
        # One model output may appear twice in the response.
        (
            "matrix",
            "outputs: {a: {from: y, batched: false}, b: {from: y}}",
            {"x": [1, 2]},
            {"a": [[1.0, 2.0]], "b": [1.0, 2.0]},
        ),
        # Where the model declares no shape, the file's applies.
        (
            "opened",
            "inputs: {free: {shape: [batch, 2]}}\noutputs: {free_out: {shape: [batch, 2]}}",
            {"scalar": 1, "free": [1, 2]},
            {"free_out": [1.0, 2.0]},
        ),
        (
            "opened",
            "inputs: {free: {shape: [batch, 2]}}",
            {"scalar": 1, "free": [1, 2, 3]},
            "Invalid shape for 'free': expected [batch, 2], got [3]",
        ),
        # Sequences have no shape of their own.
        ("sequences", "outputs: [rows]", {"x": [1, 2]}, {"rows": [1.0, 2.0]}),
        ("sequences", "outputs: [same]", {"x": [1, 2]}, {"same": [1.0, 2.0]}),
    ],
)
def test_the_file_says_what_is_a_batch(
    folder_for: FolderFor, model: str, text: str, body: Any, expected: object
) -> None:
    loaded = gpux.load(folder_for(model, text))
    if isinstance(expected, str):
        with pytest.raises(gpux.ClientError) as caught:
            loaded.predict(body)
        assert expected in str(caught.value)
        return
    result = {name: numpy.asarray(value).tolist() for name, value in loaded.predict(body).items()}
    assert same_json(result, expected)
