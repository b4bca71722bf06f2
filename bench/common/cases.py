"""Benchmark cases: small generated models with one request each, the same on every machine."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy
from onnx import ModelProto, TensorProto, checker

from common.answers import Array, Question
from common.net import INT64, Net
from common.reference import run_alone

FOLDER = Path(__file__).resolve().parents[1] / ".cases"

VOCABULARY = 30_522  # BERT's

Random = numpy.random.Generator


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
    model: Callable[[], ModelProto]
    inputs: Callable[[Random], Mapping[str, Array]]

    def request(self) -> Mapping[str, Array]:
        """The inputs of the request."""
        return self.inputs(numpy.random.default_rng(1))

    def body(self) -> bytes:
        """The request, as Python's json writes it."""
        values = {name: array.tolist() for name, array in self.request().items()}
        return json.dumps(values).encode()

    def v2_body(self) -> bytes:
        """The same in the Open Inference Protocol (V2), with flat data as its clients write it."""
        tensors = [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": "INT64" if array.dtype == numpy.int64 else "FP32",
                "data": array.ravel().tolist(),
            }
            for name, array in self.request().items()
        ]
        # The response echoes the id; a fixed one keeps its text identical.
        return json.dumps({"id": "1", "inputs": tensors}).encode()

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Writes NAME.onnx and NAME.json; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        model_file, body_file = folder / f"{self.name}.onnx", folder / f"{self.name}.json"
        model = self.model()
        checker.check_model(model)
        model_file.write_bytes(model.SerializeToString())
        body_file.write_bytes(self.body())
        return model_file, body_file

    def prepare(self) -> tuple[Path, Path, Question]:
        """Writes the files; returns their paths, and the request with its expected response."""
        model, body_file = self.write(FOLDER)
        expected = run_alone(model, self.request())
        return model, body_file, Question(self.name, body_file.read_bytes(), expected)


def _mlp() -> ModelProto:
    net = Net()
    hidden = net.add("Gemm", "x", net.normal((4, 16)), net.normal((16,)))
    net.add("Gemm", net.add("Relu", hidden), net.normal((16, 3)), net.normal((3,)), name="y")
    return net.model({"x": ["batch", 4]}, {"y": ["batch", 3]})


def _classify(net: Net, features: str, channels: int) -> ModelProto:
    """Ends an image model: the mean of each channel, and one layer."""
    means = net.add("Flatten", net.add("GlobalAveragePool", features))
    net.add("Gemm", means, net.normal((channels, 10)), net.normal((10,)), name="scores")
    return net.model({"image": ["batch", 3, 224, 224]}, {"scores": ["batch", 10]})


def _image() -> ModelProto:
    return _classify(Net(), "image", 3)


def _conv() -> ModelProto:
    """Four 3x3 convolutions, the first three of stride 2, then pooling and a classifier."""
    net = Net()
    x = "image"
    for layer, (before, after) in enumerate(pairwise([3, 16, 32, 32, 64])):
        weights = net.normal((after, before, 3, 3), 1 / (3 * before**0.5))
        strides = [2, 2] if layer < 3 else [1, 1]
        x = net.add("Relu", net.add("Conv", x, weights, pads=[1] * 4, strides=strides))
    return _classify(net, x, 64)


def _wide() -> ModelProto:
    net = Net()
    net.add("Mul", "x", net.normal((20_000,)), name="y")
    return net.model({"x": ["batch", 20_000]}, {"y": ["batch", 20_000]})


def _tokens() -> ModelProto:
    """The masked mean of the token embeddings, and a classifier."""
    net = Net()
    last, middle = net.constant([-1], "int64"), net.constant([1], "int64")
    embedded = net.add("Gather", net.normal((VOCABULARY, 64)), "input_ids")
    mask = net.add("Cast", "attention_mask", to=TensorProto.FLOAT)
    masks = net.add("Unsqueeze", mask, last)
    sums = net.add("ReduceSum", net.add("Mul", embedded, masks), middle, keepdims=0)
    means = net.add("Div", sums, net.add("ReduceSum", masks, middle, keepdims=0))
    net.add("Gemm", means, net.normal((64, 2)), net.normal((2,)), name="logits")
    ids = ["batch", "tokens"]
    return net.model({"input_ids": ids, "attention_mask": ids}, {"logits": ["batch", 2]}, INT64)


def _texts(number: int) -> Callable[[Random], Mapping[str, Array]]:
    """Requests of `number` texts, the last quarter of each padded."""

    def inputs(random: Random) -> Mapping[str, Array]:
        mask = numpy.ones((number, 128), numpy.int64)
        mask[:, 96:] = 0
        ids = random.integers(1, VOCABULARY, mask.shape) * mask
        return {"input_ids": ids, "attention_mask": mask}

    return inputs


def _picture(random: Random) -> Mapping[str, Array]:
    return {"image": random.random((1, 3, 224, 224))}


_ALL = (
    Case(
        "mlp",
        "4 floats in, 3 out, two small layers",
        _mlp,
        lambda random: {"x": random.standard_normal((1, 4))},
    ),
    Case("tokens", "1x128 token ids and mask, 2 floats out", _tokens, _texts(1)),
    Case("tokens32", "32x128 token ids and masks, 32x2 floats out", _tokens, _texts(32)),
    Case("image", "3x224x224 floats in 3 MB of JSON, 10 out, a cheap model", _image, _picture),
    Case(
        "wide",
        "20,000 floats in and out, one multiplication each",
        _wide,
        lambda random: {"x": random.random((1, 20_000))},
    ),
    Case("conv", "the same image through four convolutions", _conv, _picture),
)
CASES = {case.name: case for case in _ALL}
