"""The cases: small models with a request for each, made here, the same on every machine."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

Array = numpy.ndarray[Any, Any]

FOLDER = Path(__file__).resolve().parent / ".cases"


@dataclass(frozen=True, slots=True)
class Case:
    """A model and a request.

    Attributes:
        name: as it is asked for, and shown.
        about: what the request is.
        model: makes the model. All its inputs and outputs lead with the batch axis.
        inputs: makes the request, all axes given. Floats are float64, so that they are written with
            the 17 digits that they have in a client which never thought about it.
        goal: how many times faster than the first peer the server must be; None if nothing is said.
    """

    name: str
    about: str
    model: Callable[[numpy.random.Generator], ModelProto]
    inputs: Callable[[numpy.random.Generator], Mapping[str, Array]]
    goal: float | None = None

    def body(self) -> bytes:
        """The request, as Python's json writes it."""
        inputs = self.inputs(numpy.random.default_rng(1))
        return json.dumps({name: array.tolist() for name, array in inputs.items()}).encode()

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Writes NAME.onnx and NAME.json; answers where they are."""
        folder.mkdir(parents=True, exist_ok=True)
        model_file, body_file = folder / f"{self.name}.onnx", folder / f"{self.name}.json"
        model = self.model(numpy.random.default_rng(0))
        checker.check_model(model)
        model_file.write_bytes(model.SerializeToString())
        body_file.write_bytes(self.body())
        return model_file, body_file


def _graph(
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
    weights: Mapping[str, Array],
) -> ModelProto:
    """A float32 model; the shapes of inputs and outputs are those of one item."""
    graph = helper.make_graph(
        list(nodes),
        name,
        [_declare(tensor, shape) for tensor, shape in inputs.items()],
        [_declare(tensor, shape) for tensor, shape in outputs.items()],
        [
            numpy_helper.from_array(array.astype(numpy.float32), weight)
            for weight, array in weights.items()
        ],
    )
    # Versions that every ONNX Runtime since 1.20 reads.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _declare(name: str, shape: Sequence[int]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def _mlp(random: numpy.random.Generator) -> ModelProto:
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["y"]),
    ]
    weights = {
        "w1": random.standard_normal((4, 16)),
        "b1": random.standard_normal(16),
        "w2": random.standard_normal((16, 3)),
        "b2": random.standard_normal(3),
    }
    return _graph("mlp", nodes, {"x": [4]}, {"y": [3]}, weights)


def _image(random: numpy.random.Generator) -> ModelProto:
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["means"]),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("Gemm", ["features", "weights", "bias"], ["scores"]),
    ]
    weights = {"weights": random.standard_normal((3, 10)), "bias": random.standard_normal(10)}
    return _graph("image", nodes, {"image": [3, 224, 224]}, {"scores": [10]}, weights)


CASES = {
    case.name: case
    for case in (
        Case(
            "mlp",
            "4 floats in, 3 out, two small layers",
            _mlp,
            lambda random: {"x": random.standard_normal((1, 4))},
        ),
        Case(
            "image",
            "an image of 3x224x224 in 3 MB of JSON, 10 floats out, a cheap model",
            _image,
            lambda random: {"image": random.random((1, 3, 224, 224))},
            goal=4,
        ),
    )
}
