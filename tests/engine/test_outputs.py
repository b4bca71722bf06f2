"""Outputs of every kind: their bits, and their text in the response, against the reference."""

from pathlib import Path

import numpy
import pytest
from onnx import ModelProto

import gpux
from gpux.errors import InferenceError, ModelError
from tests.support import output_models
from tests.support.differential import Compared
from tests.support.output_models import STRINGS
from tests.support.reference import Reference

# Zero, negative zero, numbers with and without fraction, infinities by division.
X = numpy.array([[0.0, 1.0, 0.1, 100.0, 2.5], [7.0, 1e-3, -0.0, 3.0, 16.0]], "float32")


def compared(reference: Reference, folder: Path, name: str) -> Compared:
    file = folder / f"{name}.onnx"
    file.write_bytes(output_models.BUILDERS[name]().SerializeToString())
    return Compared(reference, file)


@pytest.mark.parametrize("name", output_models.BUILDERS)
def test_outputs_are_the_references(reference: Reference, tmp_path: Path, name: str) -> None:
    model = compared(reference, tmp_path, name)
    columns = 4 if "classifier" in name else 5
    for rows in (X[:1, :columns], X[:, :columns], numpy.tile(X, (20, 1))[:, :columns]):
        assert model.check({"x": rows})


def test_tensors_without_elements_keep_their_shape(reference: Reference, tmp_path: Path) -> None:
    outputs = compared(reference, tmp_path, "tensors").model.predict({"x": X})
    assert outputs["none_float32"].shape == (0, 5)
    assert outputs["hollow_string"].shape == (2, 0)
    assert outputs["one_int8"].shape == ()


def test_strings_are_whole(reference: Reference, tmp_path: Path) -> None:
    outputs = compared(reference, tmp_path, "strings").model.predict({"x": X})
    assert outputs["all"].tolist() == [STRINGS, STRINGS]
    assert outputs["one"].item() == "a\0b"


def test_sequences_hold_what_they_were_made_of(reference: Reference, tmp_path: Path) -> None:
    outputs = compared(reference, tmp_path, "sequences").model.predict({"x": X})
    assert [numpy.shape(item) for item in outputs["mixed_int64"]] == [(2, 5), (0, 5), ()]
    assert outputs["empty_string"] == []


def test_maps_are_keyed_by_integers_and_strings(reference: Reference, tmp_path: Path) -> None:
    model = compared(reference, tmp_path, "maps")
    by_number = model.model.predict({"x": X})["by_number"]
    assert by_number[0] == pytest.approx(
        {-(2**63): 2.5, -1: 1.0, 0: 100.0, 7: 0.0, 2**62: 0.1}, abs=1e-7
    )
    assert b'"by_text":[{"":null,' in model.model.respond(b'{"x":[[0,1,0.1,100,2.5]]}')


def test_a_classifier_answers_label_and_probabilities(reference: Reference, tmp_path: Path) -> None:
    outputs = compared(reference, tmp_path, "classifier").model.predict({"x": X[:, :4]})
    for label, probabilities in zip(
        outputs["output_label"], outputs["output_probability"], strict=True
    ):
        assert max(probabilities, key=probabilities.__getitem__) == label
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-6)


def test_what_json_cannot_express_is_refused_at_load(tmp_path: Path) -> None:
    for kind, type_name in {
        "optional": "optional(tensor(float))",
        "float8e4m3fn": "tensor(float8e4m3fn)",
        "int4": "tensor(int4)",
    }.items():
        expected = f"output 'y' has type {type_name}, which cannot be answered as JSON"
        assert refusal(tmp_path, output_models.refused(kind)) == expected


@pytest.mark.parametrize("kind", ["sparse_tensor", "complex64"])
def test_what_onnx_runtime_refuses_first_has_its_reason(tmp_path: Path, kind: str) -> None:
    assert kind in refusal(tmp_path, output_models.refused(kind))


def refusal(folder: Path, model: ModelProto) -> str:
    """Why a model is not loaded."""
    file = folder / "model.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError) as caught:
        gpux.load(file, "cpu")
    return str(caught.value).removeprefix(f"{file}: ")


def test_a_sparse_value_in_place_of_a_tensor_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(output_models.sparse_constant().SerializeToString())
    with pytest.raises((ModelError, InferenceError)):
        gpux.load(file, "cpu").predict({"x": X})
