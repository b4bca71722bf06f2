"""CUDA graphs on a real GPU: captures, replays, and models that cannot be captured."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
from onnx import TensorProto, helper

from gpux.errors import ConfigurationError
from gpux.model import Model

Load = Callable[..., Model]


def graphs(model: Model) -> Any:
    return model.describe()["cuda_graph"]


@pytest.mark.parametrize("name", ["sentiment", "photos", "matrix"])
def test_replays_answer_bit_for_bit_what_plain_runs_do(name: str, on_gpu: Load) -> None:
    model = on_gpu(name)
    random = numpy.random.default_rng(2)
    shapes = {"sentiment": (2, 9), "photos": (2, 3, 224, 224), "matrix": (4, 5)}

    def values() -> dict[str, Any]:
        return {
            spec.name: random.integers(0, 2, shapes[name])
            if spec.type.name == "int64"
            else random.random(shapes[name], numpy.float32)
            for spec in model.signature.inputs
        }

    requests = [values() for _ in range(3)]
    plain = [model.predict(inputs) for inputs in requests]
    assert graphs(model)["captured"] == 0
    for _ in range(4):
        for inputs, expected in zip(requests, plain, strict=True):
            for output, array in model.predict(inputs).items():
                assert array.tobytes() == expected[output].tobytes()
    assert graphs(model)["reason"] is None
    assert graphs(model)["captured"] == 1
    assert graphs(model)["replays"] == 11


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_changing_values_of_one_shape(mode: str, on_gpu: Load) -> None:
    model = on_gpu("matrix", cuda_graph=mode)
    for number in range(20):
        values = numpy.random.default_rng(number).random((3, 5), numpy.float32)
        assert (model.predict({"x": values})["y"] == values).all()
    assert graphs(model)["captured"] == (mode != "off")


def test_graphs_have_a_bound(on_gpu: Load) -> None:
    model = on_gpu("matrix", cuda_graph="on")
    for _ in range(3):
        for rows in range(1, 13):
            values = numpy.random.default_rng(rows).random((rows, 3), numpy.float32)
            assert (model.predict({"x": values})["y"] == values).all()
    assert graphs(model)["captured"] == graphs(model)["most"] == 8


def test_a_capture_costs_nobody_else_an_answer(on_gpu: Load) -> None:
    model = on_gpu("sentiment", cuda_graph="on")
    with ThreadPoolExecutor(16) as callers:

        def predict(number: int) -> Any:
            ids = numpy.full((number % 12 + 1, 3), number % 7)
            return model.predict({"input_ids": ids, "attention_mask": ids * 0 + 1})["logits"]

        outputs = list(callers.map(predict, range(800)))
    for number, logits in enumerate(outputs):
        assert logits.shape == (number % 12 + 1, 2)
        mean = numpy.float32(number % 7)
        expected = [mean * 0.0003 + 0.1, mean * -0.0007 + 0.9]
        assert numpy.allclose(logits, expected, atol=1e-6)
    assert graphs(model)["reason"] is None
    assert graphs(model)["captured"] == 8


def test_control_flow_cannot_be_captured(on_gpu: Load) -> None:
    model = on_gpu("slow")
    for _ in range(6):
        assert model.predict({"steps": 1})["sum"] == 128.0
    assert "control flow" in graphs(model)["reason"]
    assert graphs(model)["captured"] == 0
    with pytest.raises(ConfigurationError, match=r"cuda_graph is on, but .*control flow"):
        on_gpu("slow", cuda_graph="on")


def write(file: Path, node: Any, inputs: list[Any], output: Any) -> Path:
    graph = helper.make_graph([node], "test", inputs, [output])
    imports = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    file.write_bytes(model.SerializeToString())
    return file


def floats(name: str, dims: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def test_nodes_on_the_cpu_cannot_be_captured(on_gpu: Load, tmp_path: Path) -> None:
    node = helper.make_node("Unique", ["x"], ["y"], sorted=1)
    file = write(tmp_path / "unique.onnx", node, [floats("x", ["n"])], floats("y", ["found"]))
    model = on_gpu(file)
    for _ in range(6):
        assert model.predict({"x": [3.0, 1.0, 3.0]})["y"].tolist() == [1.0, 3.0]
    assert graphs(model)["reason"] is not None
    assert model.placement is not None
    assert any("Unique" in node_name for node_name in model.placement["cpu"])
    with pytest.raises(ConfigurationError, match="cuda_graph is on, but"):
        on_gpu(file, cuda_graph="on")


def test_inputs_that_the_host_reads_are_never_stale(on_gpu: Load, tmp_path: Path) -> None:
    """CUDA's Clip reads its limits on the host: a graph would replay those of its capture."""
    node = helper.make_node("Clip", ["x", "low", "high"], ["y"])
    inputs = [floats("x", ["batch", "n"]), floats("low", []), floats("high", [])]
    file = write(tmp_path / "clip.onnx", node, inputs, floats("y", ["batch", "n"]))
    model = on_gpu(file)
    x = numpy.random.default_rng(0).standard_normal((3, 4), numpy.float32)
    for number in range(12):
        low, high = -0.125 * number, 0.25 * number
        output = model.predict({"x": x, "low": low, "high": high})["y"]
        assert (output == numpy.clip(x, numpy.float32(low), numpy.float32(high))).all()
