"""The models of `engine`, beside those of `server`."""

import numpy
from onnx import ModelProto, TensorProto, helper

from common.cases import CASES, Case
from common.net import Net

_FLOAT = TensorProto.FLOAT


def _weights() -> ModelProto:
    net, x = Net(), "x"
    for layer in range(4):
        x = net.add("Gemm", x, net.normal((1024, 1024), 1 / 32), name="y" if layer == 3 else "")
        x = net.add("Relu", x) if layer < 3 else x
    return net.model({"x": ["batch", 1024]}, {"y": ["batch", 1024]})


def _classifier() -> ModelProto:
    """As skl2onnx writes it: a label, and a sequence of maps."""
    net, labels = Net(), ["setosa", "versicolor", "virginica"]
    random = numpy.random.default_rng(0)
    _, scores = net.add_all(
        "LinearClassifier",
        ["x"],
        ["output_label", "scores"],
        domain="ai.onnx.ml",
        coefficients=random.standard_normal(12).tolist(),
        intercepts=random.standard_normal(3).tolist(),
        classlabels_strings=labels,
        multi_class=1,
        post_transform="SOFTMAX",
    )
    name = "output_probability"
    net.add("ZipMap", scores, name=name, domain="ai.onnx.ml", classlabels_strings=labels)
    entry = helper.make_map_type_proto(
        TensorProto.STRING, helper.make_tensor_type_proto(_FLOAT, [])
    )
    outputs = {
        "output_label": helper.make_tensor_value_info(
            "output_label", TensorProto.STRING, ["batch"]
        ),
        name: helper.make_value_info(name, helper.make_sequence_type_proto(entry)),
    }
    return net.model({"x": ["batch", 4]}, outputs)


CLASSIFIER = Case(
    "classifier",
    "4 floats in, a label and a sequence of one map out: a linear classifier with ZipMap",
    _classifier,
    lambda random: {"x": random.standard_normal((1, 4))},
)
WEIGHTS = Case(
    "weights",
    "1024 floats in and out, four dense layers of 1024: bound by 16 MiB of weights",
    _weights,
    lambda random: {"x": random.standard_normal((1, 1024)).round(4)},
)
BATCHED = {case.name: case for case in (WEIGHTS, CASES["mlp"], CASES["tokens"])}
