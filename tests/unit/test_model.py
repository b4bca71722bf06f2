"""model: the Python API, and error reasons without paths."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
from onnx import TensorProto, helper

import gpux
from gpux.errors import (
    ClientError,
    ConfigurationError,
    InferenceError,
    ModelError,
)
from gpux.execution.session import reason_of
from gpux.model import load
from tests.support.onnx_models import NUMBER_TYPES
from tests.support.ort import run

Find = Callable[[str], Path]


def test_lists_tuples_and_arrays_answer_alike(model_file: Find) -> None:
    model = load(model_file("matrix"))
    rows = [[1.5, -2.0], [0.25, 8.0]]
    expected = run(model_file("matrix"), {"x": numpy.array(rows, "float32")})["y"]
    for value in (rows, tuple(map(tuple, rows)), numpy.array(rows), numpy.array(rows, "float32")):
        output = model.predict({"x": value})["y"]
        assert output.dtype == numpy.float32
        assert output.tobytes() == expected.tobytes()


def test_one_item_answers_without_the_batch_axis(model_file: Find) -> None:
    output = load(model_file("matrix")).predict({"x": [1.5, -2.0]})["y"]
    assert output.tolist() == [1.5, -2.0]


def test_text_is_answered_as_an_array_of_objects(model_file: Find) -> None:
    output = load(model_file("strings")).predict({"texts": ["é", "a\0b", ""]})["same"]
    assert output.dtype == object
    assert output.tolist() == ["é", "a\0b", ""]


def test_bfloat16_is_answered_as_float32(model_file: Find) -> None:
    values = {name: [1] for name in NUMBER_TYPES} | {"bfloat16": [3.140625]}
    output = load(model_file("numbers")).predict(values)["bfloat16_out"]
    assert output.dtype == numpy.float32
    assert output.tolist() == [3.140625]


def test_an_output_that_is_an_input_keeps_its_values(model_file: Find) -> None:
    """ONNX Runtime returns the input's own memory, which the next request overwrites."""
    model = load(model_file("alias"))
    first = model.predict({"x": [[1.0, 2.0]]})
    model.predict({"x": [[7.0, 8.0]]})
    assert first["x"].tolist() == [[1.0, 2.0]]
    assert first["doubled"].tolist() == [[2.0, 4.0]]


def test_wrong_values_raise_what_the_client_of_the_server_reads(model_file: Find) -> None:
    model = load(model_file("matrix"))
    with pytest.raises(ClientError, match=r"^Missing required input: 'x'$"):
        model.predict({})
    with pytest.raises(ClientError, match=r"^Invalid value for 'x' at \[0\]\[1\]: expected number"):
        model.predict({"x": [[1, "2"]]})


def test_a_run_that_fails_says_why_without_paths(model_file: Find) -> None:
    model = load(model_file("table"))
    name = model.signature.inputs[0].name
    with pytest.raises(InferenceError, match=r"^Inference failed: .*out of data bounds") as caught:
        model.predict({name: [10**6]})
    assert caught.value.__cause__ is not None
    # The session is still usable after the failed run.
    assert model.predict({name: [0]})


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while "
            "running Gather node. Name:'/look/up' Status Message: idx=50 must be within [-4,3]",
            "Non-zero status code returned while running Gather node. Name:'/look/up' "
            "Status Message: idx=50 must be within [-4,3]",
        ),
        (
            "Status Message: /src/core/reshape_helper.h:91 "
            "onnx::Helper::Helper(const onnx::Shape&, onnx::Vector&, bool) size == requested "
            "was false.\nInput shape:{2,3}\n",
            "Status Message: size == requested was false. Input shape:{2,3}",
        ),
        (
            "[ONNXRuntimeError] : 1 : FAIL : /src/core/bfc_arena.cc:360 void* "
            "onnx::Arena::Allocate(size_t, bool, onnx::Stream*) Failed to allocate 3 (of 2)",
            "Failed to allocate 3 (of 2)",
        ),
        (
            "Status Message: [ONNXRuntimeError] : 1 : FAIL : matmul_helper.h:59 Dimension mismatch",
            "Status Message: Dimension mismatch",
        ),
        ("cannot read /home/me/model.bin at 3/4", "cannot read (path) at 3/4"),
        ("x" * 1000, "x" * 500 + "…"),
    ],
)
def test_reasons_are_one_short_line_without_places_on_the_server(said: str, reason: str) -> None:
    assert reason_of(RuntimeError(said)) == reason


def test_threads_get_their_own_answers(model_file: Find) -> None:
    model = load(model_file("matrix"))

    def predict_rows(number: int) -> None:
        for turn in range(200):
            row = [float(number), float(turn)]
            assert model.predict({"x": [row]})["y"].tolist() == [row]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(predict_rows, range(8)))


@pytest.mark.parametrize(("axes", "fits"), [(32, True), (33, False)])
def test_a_tensor_of_too_many_axes_is_refused_at_load(
    tmp_path: Path, axes: int, fits: bool
) -> None:
    value = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *[1] * (axes - 1)])
        for name in "xy"
    ]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    file = tmp_path / "deep.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    if fits:
        output = load(file).predict({"x": numpy.ones((1,) * axes)})["y"]
        assert output.shape == (1,) * axes
        assert output.item() == -1.0
    else:
        with pytest.raises(ModelError, match="'x' has 33 axes, more than 32"):
            load(file)


def test_blocks_come_back_after_success_and_failure(model_file: Find) -> None:
    model = load(model_file("table"))
    name = model.signature.inputs[0].name
    pool = model.inputs._pool
    model.predict({name: [0]})
    idle = pool.idle_bytes
    assert idle > 0
    for value in ([1], [10**6], ["x"]):
        with contextlib.suppress(gpux.GpuxError):
            model.predict({name: value})
        assert pool.idle_bytes == idle


def test_the_description_has_what_the_model_says(model_file: Find) -> None:
    file = model_file("matrix")
    description = load(file).describe()
    assert description["name"] == "matrix"
    assert description["version"] is None, "the model states none"
    assert description["size"] == file.stat().st_size
    assert description["inputs"] == [
        {
            "name": "x",
            "type": "float32",
            "shape": ["batch", "n"],
            "kind": "batched",
            "required": True,
            "description": None,
            "labels": None,
        }
    ]


def test_an_unknown_provider_is_refused(model_file: Find) -> None:
    with pytest.raises(ConfigurationError, match="auto, cpu or cuda, got 'gpu'"):
        load(model_file("matrix"), provider="gpu")


def test_what_is_no_model_is_refused_with_its_path(tmp_path: Path) -> None:
    for file, content in (("a.onnx", b""), ("b.onnx", b"no model")):
        (tmp_path / file).write_bytes(content)
        with pytest.raises(ModelError, match=rf"{file}: "):
            load(tmp_path / file)
    with pytest.raises(ModelError, match=r"the folder has no model\.onnx"):
        load(tmp_path)
    with pytest.raises(ModelError, match="no such file or folder"):
        load(tmp_path / "c.onnx")
