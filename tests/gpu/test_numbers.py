"""What a real GPU computes is what the CPU does, within the rounding of each type."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from gpux.model import Model, load
from gpux.tensors.signature import ELEMENT_TYPES, ElementType

Load = Callable[..., Model]

# A share of the largest number of a tensor, after one operation; for float16 and bfloat16 a few
# units in the last place. Integers and booleans are equal.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 4e-3, "bfloat16": 1.6e-2}
# In float32, after a convolution and a mean.
FEW_LAYERS_TOLERANCE = 1e-4


def write(file: Path, nodes: Sequence[NodeProto], inputs: Any, outputs: Any, *weights: Any) -> Path:
    graph = helper.make_graph(list(nodes), "test", inputs, outputs, list(weights))
    imports = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    file.write_bytes(model.SerializeToString())
    return file


def typed(file: Path, element: ElementType) -> Path:
    """Outputs `same` and `moved` (transposed) only move elements, `computed` computes."""
    code = element.code
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Transpose", ["x"], ["moved"]),
    ]
    if element.name == "bool":
        nodes.append(helper.make_node("Not", ["x"], ["computed"]))
    elif element.name == "bfloat16":  # no kernels on the CPU compute with it
        nodes += [
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Tanh", ["wide"], ["wide_computed"]),
            helper.make_node("Cast", ["wide_computed"], ["computed"], to=code),
        ]
    elif element.name.startswith("float"):
        nodes.append(helper.make_node("Softmax", ["x"], ["computed"], axis=-1))
    else:
        nodes.append(helper.make_node("Mul", ["x", "x"], ["computed"]))
    shapes = {"same": "rc", "moved": "cr", "computed": "rc"}
    return write(
        file,
        nodes,
        [helper.make_tensor_value_info("x", code, ["r", "c"])],
        [helper.make_tensor_value_info(name, code, list(dims)) for name, dims in shapes.items()],
    )


def assert_close(got: Any, expected: Any, tolerance: float) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if not tolerance:
        assert got.tobytes() == expected.tobytes()
        return
    wide, exact = got.astype("float64"), expected.astype("float64")
    assert numpy.abs(wide - exact).max() <= tolerance * numpy.abs(exact).max()


@pytest.mark.parametrize("element", [each for each in ELEMENT_TYPES if each.nbytes], ids=str)
def test_each_type_is_moved_exactly_and_computed_closely(
    element: ElementType, on_gpu: Load, tmp_path: Path
) -> None:
    file = typed(tmp_path / "typed.onnx", element)
    random, shape = numpy.random.default_rng(7), (33, 20)
    if element.name == "bool":
        x: Any = random.random(shape) < 0.5
    elif "int" in element.name:
        x = random.integers(0 if element.name[0] == "u" else -11, 12, shape, element.numpy)
    else:
        x = random.standard_normal(shape, numpy.float32).astype(element.numpy or "float32")
    tolerance = TOLERANCES.get(element.name, 0.0)
    cpu, model = load(file, "cpu"), on_gpu(file)
    expected = cpu.predict({"x": x})
    for _ in range(6):  # the last ones are replays
        got = model.predict({"x": x})
        assert got["same"].tobytes() == expected["same"].tobytes()
        assert got["moved"].tobytes() == expected["moved"].tobytes()
        assert_close(got["computed"], expected["computed"], tolerance)
    body = json.dumps({"x": x.tolist()}).encode()
    response, text = (json.loads(each.respond(body)) for each in (model, cpu))
    assert response["same"] == text["same"]
    assert response["moved"] == text["moved"]
    computed, like = (numpy.asarray(each["computed"]) for each in (response, text))
    assert_close(computed, like, tolerance)


def test_images_of_a_new_size_with_each_request(on_gpu: Load, tmp_path: Path) -> None:
    random = numpy.random.default_rng(7)
    kernel = random.standard_normal((8, 3, 3, 3), numpy.float32) * numpy.float32(0.2)
    file = write(
        tmp_path / "convolved.onnx",
        [
            helper.make_node("Conv", ["image", "kernel"], ["features"], pads=[1] * 4),
            helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["means"]),
        ],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "h", "w"])],
        [helper.make_tensor_value_info("means", TensorProto.FLOAT, ["batch", 8])],
        numpy_helper.from_array(kernel, "kernel"),
    )
    cpu, model = load(file, "cpu"), on_gpu(file)
    for number in range(40):
        rows, height, width = (int(size) for size in random.integers(1, 9, 3))
        shape = (rows, 3, 8 * height, 8 * width + number % 3)
        image = random.random(shape, numpy.float32)
        expected = cpu.predict({"image": image})["means"]
        for _ in range(1 + 5 * (number % 8 == 0)):  # some sizes recur, and are captured
            got = model.predict({"image": image})["means"]
            assert_close(got, expected, FEW_LAYERS_TOLERANCE)
