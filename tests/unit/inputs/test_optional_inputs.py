"""Initializers that a caller may override: which become inputs, and what they do not decide."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
from onnx import TensorProto, helper, numpy_helper

import gpux
from gpux.errors import ClientError, ConfigurationError
from gpux.model import Model
from gpux.serving.batch import batch_key


def write(folder: Path, constants: Mapping[str, Any]) -> Path:
    """A model that adds all constants, which are inputs with initializers, to `x`."""
    tensors = {name: numpy.asarray(value, numpy.float32) for name, value in constants.items()}
    nodes, sum_of = [], "x"
    for number, name in enumerate(tensors):
        target = "y" if number == len(tensors) - 1 else f"sum{number}"
        nodes.append(helper.make_node("Add", [sum_of, name], [target]))
        sum_of = target
    declared = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2]),
        *(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, tensor.shape)
            for name, tensor in tensors.items()
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "sum",
        declared,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return file


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Adds a scalar of 0.5 and a row of [1, 2]."""
    return gpux.load(write(tmp_path, {"offset": 0.5, "row": [[1.0, 2.0]]}))


def answer(model: Model, **inputs: Any) -> Any:
    return json.loads(model.respond(json.dumps(inputs).encode()))["y"]


def test_the_models_value_stands_for_one_that_is_left_out(model: Model) -> None:
    assert answer(model, x=[[1, 1]]) == [[2.5, 3.5]]
    assert answer(model, x=[[1, 1]], offset=0) == [[2.0, 3.0]]
    assert answer(model, x=[[1, 1]], row=[[0, 0]], offset=0) == [[1.0, 1.0]]


def test_from_python(model: Model) -> None:
    assert model.predict({"x": [[1, 1]], "offset": 4})["y"].tolist() == [[6.0, 7.0]]


def test_they_decide_neither_the_kind_nor_the_structure(model: Model) -> None:
    assert answer(model, x=[1, 1], row=[[0, 0]]) == [1.5, 1.5]  # one item
    assert answer(model, x=[[1, 1], [2, 2]], row=[[0, 0]]) == [[1.5, 1.5], [2.5, 2.5]]


def test_a_value_has_all_axes(model: Model) -> None:
    with pytest.raises(
        ClientError, match=r"^Invalid shape for 'row': expected \[1, 2\], got \[2\]"
    ):
        answer(model, x=[[1, 1]], row=[0, 0])


def test_a_request_that_overrides_one_runs_alone(model: Model) -> None:
    request = model.inputs.collect({"x": [[1, 1]]})
    assert batch_key(request, model.signature) is not None
    request = model.inputs.collect({"x": [[1, 1]], "offset": 1})
    assert batch_key(request, model.signature) is None
    assert request.rows == 1


def test_info_has_them(model: Model) -> None:
    info = model.describe()
    assert [(entry["name"], entry["required"]) for entry in info["inputs"]] == [
        ("x", True),
        ("offset", False),
        ("row", False),
    ]
    assert info["overridable_initializers"] == 2


@pytest.mark.parametrize(
    "constants",
    [{f"c{number}": 0.0 for number in range(17)}, {"c0": [[0.0, 0.0]] * 2049}],
    ids=["many", "large"],
)
def test_of_many_or_large_ones_only_those_in_gpux_yml(
    tmp_path: Path, constants: Mapping[str, Any]
) -> None:
    file = write(tmp_path, constants)
    model = gpux.load(file)
    assert [entry.name for entry in model.io.inputs] == ["x"]
    assert model.describe()["overridable_initializers"] == len(constants)
    with pytest.raises(ClientError, match="Unknown input: 'c0'"):
        model.predict({"x": [[1, 1]], "c0": constants["c0"]})
    (tmp_path / "gpux.yml").write_text("inputs: {c0: {description: a constant}}")
    assert [entry.name for entry in gpux.load(file).io.inputs] == ["x", "c0"]


def test_a_default_of_gpux_yml_is_used_instead_of_the_models(tmp_path: Path) -> None:
    file = write(tmp_path, {"offset": 0.5})
    (tmp_path / "gpux.yml").write_text("inputs: {offset: {default: 2}}")
    assert answer(gpux.load(file), x=[[1, 1]]) == [[3.0, 3.0]]


def test_gpux_yml_may_require_one(tmp_path: Path) -> None:
    file = write(tmp_path, {"offset": 0.5})
    (tmp_path / "gpux.yml").write_text("inputs: {offset: {required: true}}")
    with pytest.raises(ClientError, match="Missing required input: 'offset'"):
        answer(gpux.load(file), x=[[1, 1]])


def test_it_has_no_batch_axis(tmp_path: Path) -> None:
    file = write(tmp_path, {"row": [[1.0, 2.0]]})
    (tmp_path / "gpux.yml").write_text("inputs: {row: {batched: true}}")
    with pytest.raises(ConfigurationError, match="an initializer of the model, which has no batch"):
        gpux.load(file)
