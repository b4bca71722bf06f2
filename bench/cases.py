"""Benchmark cases: small generated models with one request each, the same on every machine."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

Array = numpy.ndarray[Any, Any]

FOLDER = Path(__file__).resolve().parent / ".cases"

_VOCABULARY = 30_522  # BERT's


@dataclass(frozen=True, slots=True)
class Case:
    """A model and a request.

    Attributes:
        name: on the command line and in tables.
        about: a description of the request.
        model: builds the model. The first axis of all inputs and outputs is the batch axis.
        inputs: builds the request, with all axes. Floats are float64, hence written with 17
            digits, as a naive client writes them.
    """

    name: str
    about: str
    model: Callable[[numpy.random.Generator], ModelProto]
    inputs: Callable[[numpy.random.Generator], Mapping[str, Array]]

    def body(self) -> bytes:
        """The request, as Python's json writes it."""
        inputs = self._request()
        return json.dumps({name: array.tolist() for name, array in inputs.items()}).encode()

    def v2_body(self) -> bytes:
        """The same in the Open Inference Protocol (V2), with flat data as its clients write it."""
        tensors = [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": "INT64" if array.dtype == numpy.int64 else "FP32",
                "data": array.ravel().tolist(),
            }
            for name, array in self._request().items()
        ]
        # The response echoes the id; a fixed one keeps its text identical.
        return json.dumps({"id": "1", "inputs": tensors}).encode()

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Writes NAME.onnx and NAME.json; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        model_file, body_file = folder / f"{self.name}.onnx", folder / f"{self.name}.json"
        model = self.model(numpy.random.default_rng(0))
        checker.check_model(model)
        model_file.write_bytes(model.SerializeToString())
        body_file.write_bytes(self.body())
        return model_file, body_file

    def _request(self) -> Mapping[str, Array]:
        return self.inputs(numpy.random.default_rng(1))


def _graph(
    name: str,
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, Array],
    input_type: int = TensorProto.FLOAT,
) -> ModelProto:
    """A model with float32 outputs; the shapes of inputs and outputs are those of one item."""
    graph = helper.make_graph(
        list(nodes),
        name,
        [_declare(tensor, shape, input_type) for tensor, shape in inputs.items()],
        [_declare(tensor, shape) for tensor, shape in outputs.items()],
        [
            numpy_helper.from_array(
                array.astype(numpy.float32) if array.dtype.kind == "f" else array, weight
            )
            for weight, array in weights.items()
        ],
    )
    # Versions supported by every ONNX Runtime since 1.20.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _declare(name: str, shape: Sequence[int | str], element: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, element, ["batch", *shape])


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


def _wide(random: numpy.random.Generator) -> ModelProto:
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    return _graph("wide", nodes, {"x": [20_000]}, {"y": [20_000]}, {"scale": random.random(20_000)})


def _conv(random: numpy.random.Generator) -> ModelProto:
    """Four 3x3 convolutions, the first three of stride 2, then pooling and a classifier."""
    nodes, weights = [], {}
    tensor = "image"
    channels = [3, 16, 32, 32, 64]
    for layer, (before, after) in enumerate(pairwise(channels)):
        stride = 2 if layer < 3 else 1
        weights[f"w{layer}"] = random.standard_normal((after, before, 3, 3)) / (3 * before**0.5)
        nodes += [
            helper.make_node(
                "Conv",
                [tensor, f"w{layer}"],
                [f"c{layer}"],
                pads=[1, 1, 1, 1],
                strides=[stride, stride],
            ),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]),
        ]
        tensor = f"r{layer}"
    nodes += [
        helper.make_node("GlobalAveragePool", [tensor], ["means"]),
        helper.make_node("Flatten", ["means"], ["features"]),
        helper.make_node("Gemm", ["features", "weights", "bias"], ["scores"]),
    ]
    weights |= {"weights": random.standard_normal((64, 10)), "bias": random.standard_normal(10)}
    return _graph("conv", nodes, {"image": [3, 224, 224]}, {"scores": [10]}, weights)


def _tokens(random: numpy.random.Generator) -> ModelProto:
    """The masked mean of the token embeddings, and a classifier."""
    nodes = [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["masks"]),
        helper.make_node("Mul", ["embedded", "masks"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["sums"], keepdims=0),
        helper.make_node("ReduceSum", ["masks", "middle"], ["counts"], keepdims=0),
        helper.make_node("Div", ["sums", "counts"], ["means"]),
        helper.make_node("Gemm", ["means", "weights", "bias"], ["logits"]),
    ]
    weights = {
        "embeddings": random.standard_normal((_VOCABULARY, 64)),
        "weights": random.standard_normal((64, 2)),
        "bias": random.standard_normal(2),
        "last": numpy.array([-1]),
        "middle": numpy.array([1]),
    }
    inputs: dict[str, Sequence[int | str]] = {
        "input_ids": ["tokens"],
        "attention_mask": ["tokens"],
    }
    return _graph("tokens", nodes, inputs, {"logits": [2]}, weights, TensorProto.INT64)


def _texts(number: int) -> Callable[[numpy.random.Generator], Mapping[str, Array]]:
    """Requests of `number` texts, the last quarter of each padded."""

    def inputs(random: numpy.random.Generator) -> Mapping[str, Array]:
        mask = numpy.ones((number, 128), numpy.int64)
        mask[:, 96:] = 0
        return {
            "input_ids": random.integers(1, _VOCABULARY, mask.shape) * mask,
            "attention_mask": mask,
        }

    return inputs


def _picture(random: numpy.random.Generator) -> Mapping[str, Array]:
    return {"image": random.random((1, 3, 224, 224))}


CASES = {
    case.name: case
    for case in (
        Case(
            "mlp",
            "4 floats in, 3 out, two small layers",
            _mlp,
            lambda random: {"x": random.standard_normal((1, 4))},
        ),
        Case("tokens", "1x128 token ids and mask, 2 floats out", _tokens, _texts(1)),
        Case("tokens32", "32x128 token ids and masks, 32x2 floats out", _tokens, _texts(32)),
        Case(
            "image",
            "3x224x224 floats in 3 MB of JSON, 10 out, a cheap model",
            _image,
            _picture,
        ),
        Case(
            "wide",
            "20,000 floats in and out, one multiplication each",
            _wide,
            lambda random: {"x": random.random((1, 20_000))},
        ),
        Case("conv", "the same image through four convolutions", _conv, _picture),
    )
}
