"""Values in gpux.yml: environment variables, versions, and anchors."""

import json

import pytest

import gpux
from tests.support.servers import Described, FolderFor, serve

VARIABLES = r"""
name: ${MODEL}-${MISSING:-x}
version: ${VERSION}
description: 'a $${MODEL} b ${QUOTE} ${NESTED} $MODEL $'
metadata:
  list: ["${MODEL}", {deep: '${MODEL}'}]
  whole: ${NUMBER}
  part: ${NUMBER}0
  text: "${NUMBER}"
  truth: ${TRUTH:-true}
  nothing: ${EMPTY}
  filled: ${EMPTY:-full}
  fallback: ${MISSING:-}
  brace: "${MISSING:-a{b}"
  yaml: ${YAML}
  block: |
    ${MODEL} $${x}
  ${MODEL}: a key
serving:
  threads: ${MISSING:-}${THREADS:-3}
"""


def test_variables_stand_for_values(folder_for: FolderFor) -> None:
    variables = {
        "MODEL": "m",
        "VERSION": "2.10",
        "NUMBER": "12",
        "EMPTY": "",
        "QUOTE": "'\"",
        "NESTED": "${MODEL}",
        "YAML": "[a: b, *c # d",
        "THREADS": "2",
    }
    with serve(folder_for("matrix", VARIABLES), **variables) as server:
        info = server.request("GET", "/info").json
        assert info["name"] == "m-x"
        assert info["version"] == "2.10"
        assert info["description"] == "a ${MODEL} b '\" ${MODEL} $MODEL $"
        metadata = info["metadata"]
    expected = {
        "list": ["m", {"deep": "m"}],
        "whole": 12,
        "part": 120,
        "text": "12",
        "truth": True,
        "nothing": None,
        "filled": "full",
        "fallback": None,
        "brace": "a{b",
        "yaml": "[a: b, *c # d",
        "block": "m ${x}\n",
        "${MODEL}": "a key",
    }
    assert {key: metadata[key] for key in expected} == expected


@pytest.mark.parametrize("version", ["1.10", "'1.10'", "1", "1.0", "2024-05-06", "true", "0x10"])
def test_a_version_is_text_as_it_stands(folder_for: FolderFor, version: str) -> None:
    text = f"version: {version}\nname: 5\ndescription: 1.0\ninputs: {{x: {{labels: [1, no]}}}}"
    info = gpux.load(folder_for("matrix", text)).describe()
    assert info["version"] == version.strip("'")
    assert (info["name"], info["description"]) == ("5", "1.0")
    assert info["inputs"][0]["labels"] == ["1", "no"]


def test_the_mark_and_the_ends_of_lines_do_not_matter(folder_for: FolderFor) -> None:
    info = gpux.load(folder_for("matrix", "\ufeffname: é\r\nversion: 1.10\r\n")).describe()
    assert (info["name"], info["version"]) == ("é", "1.10")


ANCHORS = """
metadata:
  softmax: &softmax {activation: softmax, description: Of two}
  float: &float {type: float32, description: A number}
outputs:
  a: {<<: *softmax, from: logits}
  b: {<<: [*float, *softmax], from: logits, description: Mine}
  c: &c {from: logits}
  d: *c
"""


def test_anchors_and_merge_keys(folder_for: FolderFor) -> None:
    info = gpux.load(folder_for("described", ANCHORS)).describe()
    pairs = [(output.get("activation"), output["description"]) for output in info["outputs"]]
    assert pairs == [("softmax", "Of two"), ("softmax", "Mine"), (None, None), (None, None)]
    assert info["metadata"]["float"] == {"type": "float32", "description": "A number"}


def test_info_is_json_whatever_the_file_says(described: Described) -> None:
    text = r'metadata: {d: 0xffffffffffffffffff, "e\n": "\ud83d\ude00\0", f: [[[{}]]], 5: ~, ~: 5}'
    response = described("matrix", text).request("GET", "/info")
    assert response.status == 200
    assert response.json["metadata"]["5"] is None
    assert response.json["metadata"]["e\n"] == "😀\0"
    json.loads(response.body, parse_constant=lambda constant: pytest.fail(constant))
