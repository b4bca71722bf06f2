"""The models that `engine` puts under load, beside those of `server`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from cases import CASES, FOLDER, Case
from gpu_answers import Question
from onnx import ModelProto, TensorProto, helper, numpy_helper
from python_runtime import load_runtime

from gpux.tensors.signature import BY_ONNX

_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
# Rows that run in one batch may be summed in another order than a row alone.
_TOLERANCE = 1e-4


def _weights(random: numpy.random.Generator) -> ModelProto:
    """Four dense layers of 1024: 16 MiB of weights are read for one row, and for 32."""
    nodes, constants, tensor = [], [], "x"
    for layer in range(4):
        weight = random.standard_normal((1024, 1024)).astype(numpy.float32) / 32
        constants.append(numpy_helper.from_array(weight, f"w{layer}"))
        answer = "y" if layer == 3 else f"g{layer}"
        nodes.append(helper.make_node("Gemm", [tensor, f"w{layer}"], [answer]))
        tensor = answer
        if layer < 3:
            tensor = f"r{layer}"
            nodes.append(helper.make_node("Relu", [answer], [tensor]))
    graph = helper.make_graph(
        nodes,
        "weights",
        [helper.make_tensor_value_info("x", _FLOAT, ["batch", 1024])],
        [helper.make_tensor_value_info("y", _FLOAT, ["batch", 1024])],
        constants,
    )
    return _model(graph)


def _layers(random: numpy.random.Generator) -> ModelProto:
    """An image made from 64 numbers, and three convolutions of it: mostly arithmetic."""
    constants = {
        "w": random.standard_normal((64, 8 * 32 * 32)) / 8,
        "shape": numpy.array([-1, 8, 32, 32]),
        **{
            f"c{layer}": random.standard_normal((32, 8 if layer == 0 else 32, 3, 3)) / 16
            for layer in range(3)
        },
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["r0"]),
    ]
    for layer in range(3):
        nodes += [
            helper.make_node("Conv", [f"r{layer}", f"c{layer}"], [f"a{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"a{layer}"], [f"r{layer + 1}"]),
        ]
    nodes += [
        helper.make_node("GlobalAveragePool", ["r3"], ["means"]),
        helper.make_node("Flatten", ["means"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", _FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", _FLOAT, ["batch", 32])],
        [
            numpy_helper.from_array(
                value if value.dtype == numpy.int64 else value.astype(numpy.float32), name
            )
            for name, value in constants.items()
        ],
    )
    return _model(graph)


def _slow(random: numpy.random.Generator) -> ModelProto:
    """`steps` products of two small matrices: keeps one core busy for as long as requested."""
    del random
    square = [32, 32]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("MatMul", ["state", "turn"], ["state_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", _INT64, []),
            helper.make_tensor_value_info("go_on", _BOOL, []),
            helper.make_tensor_value_info("state", _FLOAT, square),
        ],
        [
            helper.make_tensor_value_info("go_on_out", _BOOL, []),
            helper.make_tensor_value_info("state_out", _FLOAT, square),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["steps", "", "turn"], ["last"], body=body),
            helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
        ],
        "slow",
        [helper.make_tensor_value_info("steps", _INT64, [])],
        [helper.make_tensor_value_info("sum", _FLOAT, [])],
        [numpy_helper.from_array(numpy.eye(32, dtype=numpy.float32), "turn")],
    )
    return _model(graph)


def _model(graph: Any) -> ModelProto:
    # Versions supported by every ONNX Runtime since 1.20.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


WEIGHTS = Case(
    "weights",
    "1024 floats in and out, four dense layers of 1024: bound by 16 MiB of weights",
    _weights,
    lambda random: {"x": random.standard_normal((1, 1024)).round(4)},
)
LAYERS = Case(
    "layers",
    "64 floats in, 32 out, three convolutions: bound by arithmetic",
    _layers,
    lambda random: {"x": random.standard_normal((1, 64)).round(4)},
)
SLOW = Case("slow", "one number in and out, a loop on one core", _slow, lambda _: {})
ENGINE_CASES = {case.name: case for case in (CASES["mlp"], CASES["tokens"], WEIGHTS, LAYERS)}


def prepare(case: Case) -> tuple[Path, Path, Question]:
    """A case's files, and its expected response, that of session.run, within a tolerance."""
    model, body_file = case.write(FOLDER)
    body = body_file.read_bytes()
    question = Question(case.name, body, run_alone(model, json.loads(body)), _TOLERANCE)
    return model, body_file, question


def with_run_threads(model: Path, threads: int) -> Path:
    """Writes a gpux.yml that sets the threads of one run of a model."""
    file = model.with_name(f"{model.stem}-{threads}.yml")
    # JSON is a subset of YAML.
    file.write_text(json.dumps({"model": {"source": model.name}, "runtime": {"threads": threads}}))
    return file


def run_alone(model: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    session = load_runtime().InferenceSession(str(model), providers=["CPUExecutionProvider"])
    feeds = {
        node.name: numpy.asarray(values[node.name], BY_ONNX[node.type].numpy)
        for node in session.get_inputs()
    }
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
