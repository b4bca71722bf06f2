"""Outputs of every kind, as JSON and as Python values: strings, sequences and maps natively."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from gpux.model import Model, load

Find = Callable[[str], Path]


def saved(folder: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> Model:
    graph = helper.make_graph(nodes, "outputs", inputs, outputs)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model: ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return load(file, "cpu")


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Returns strings of any shape."""
    value = helper.make_tensor_value_info
    return saved(
        tmp_path_factory.mktemp("echo"),
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", TensorProto.STRING, None)],
        [value("y", TensorProto.STRING, None)],
    )


def answered(model: Model, **values: object) -> str:
    """The text of the response to Python values."""
    request = model.inputs.collect(values)
    return model.execution.run(request).encode(request.unbatched).decode()


def text_of(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "",
        [["a"], ['b"\n\0é']],
        ["".join(map(chr, range(0x20))), '"\\/', "\x7f\x80\u07ff\u0800\uffff\U00010000\U0010ffff"],
        ["\u2028\u2029", "😀" * 1000, "x" * 100_000, "\0" * 5000],
        [[["a", "b"], ["c", "d"]], [["e", "f"], ["g", "h"]]],
        [],
        [[], []],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_strings_are_written_as_json_writes_them(echo: Model, value: object) -> None:
    assert answered(echo, x=value) == f'{{"y":{text_of(value)}}}'
    assert echo.predict({"x": value})["y"].tolist() == value


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=6))
def test_any_strings_are_written_as_json_writes_them(echo: Model, value: list[str]) -> None:
    assert answered(echo, x=value) == f'{{"y":{text_of(value)}}}'


def test_strings_that_are_not_utf8_have_replacement_characters(tmp_path: Path) -> None:
    """As Python decodes them; the strings of a model may be anything."""
    strings = [
        b"\xff",
        b"a\xc3",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x98",
        b"\xe2\x82b",
        b"\xc0\xaf",
        b"ok",
    ]
    constant = numpy_helper.from_array(numpy.array(strings, object), "value")
    value = helper.make_tensor_value_info
    model = saved(
        tmp_path,
        [
            helper.make_node("Constant", [], ["c"], value=constant),
            helper.make_node("Gather", ["c", "i"], ["y"]),
        ],
        [value("i", TensorProto.INT64, ["n"])],
        [value("y", TensorProto.STRING, ["n"])],
    )
    expected = [one.decode("utf-8", "replace") for one in strings]
    indexes = list(range(len(strings)))
    assert json.loads(answered(model, i=indexes)) == {"y": expected}
    assert model.predict({"i": indexes})["y"].tolist() == expected


def test_a_sequence_of_maps(model_file: Find) -> None:
    """Its keys are strings in JSON; a float32 is written with its own precision."""
    model = load(model_file("zipmap"), "cpu")
    (name,) = [spec.name for spec in model.signature.inputs]
    values = numpy.random.default_rng(0).random((3, *_fixed(model)), numpy.float32)
    response = json.loads(answered(model, **{name: values}))
    python = model.predict({name: values})
    for key, value in python.items():
        if isinstance(value, list):
            assert [{str(k): v for k, v in one.items()} for one in response[key]] == response[key]
            for one, other in zip(value, response[key], strict=True):
                assert {str(k): numpy.float32(v) for k, v in one.items()} == {
                    k: numpy.float32(v) for k, v in other.items()
                }


def _fixed(model: Model) -> list[int]:
    (spec,) = model.signature.inputs
    return [dim for dim in spec.dims[1:] if isinstance(dim, int)]


def test_sequences_of_tensors(model_file: Find) -> None:
    model = load(model_file("sequences"), "cpu")
    values = {spec.name: _ones(spec) for spec in model.signature.inputs}
    response = json.loads(answered(model, **values))
    python = model.predict(values)
    assert list(response) == list(python)
    for name, value in python.items():
        tolist = [one.tolist() if hasattr(one, "tolist") else one for one in value]
        assert response[name] == tolist


def _ones(spec: Any) -> Any:
    shape = [dim if isinstance(dim, int) else 2 for dim in spec.dims]
    is_text = spec.type.word == "string"
    return numpy.full(shape, "a").tolist() if is_text else numpy.ones(shape, spec.type.numpy)


def test_names_are_escaped(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    model = saved(
        tmp_path,
        [helper.make_node("Identity", ["x"], ['a"b\né'])],
        [value("x", TensorProto.STRING, None)],
        [value('a"b\né', TensorProto.STRING, None)],
    )
    assert json.loads(answered(model, x="v")) == {'a"b\né': "v"}
