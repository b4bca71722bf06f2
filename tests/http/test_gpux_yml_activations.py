"""Activations in gpux.yml, compared with their definitions computed in float64."""

from typing import Any

import ml_dtypes
import numpy
import pytest

from tests.support import oracle, ort
from tests.support.servers import Described, FolderFor

ACTIVATIONS = ("softmax", "sigmoid", "normalize")
TYPES = {
    "float64": numpy.float64,
    "float32": numpy.float32,
    "float16": numpy.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
ACTIVATED = "outputs:\n" + "".join(
    f"  {activation}_{name}: {{from: {name}, activation: {activation}}}\n"
    for name in TYPES
    for activation in ACTIVATIONS
)
INF, NAN = float("inf"), float("nan")
ROWS = [
    [0.0, 0.0, 0.0],
    [-0.0, 0.0, -0.0],
    [1.0, 2.0, 3.0],
    [0.1, -0.7, 12.5],
    [1000.0, 1001.0, -1000.0],
    [-1000.0, -1001.0, -999.0],
    [65504.0, 65504.0, -65504.0],
    [3e38, -3e38, 1e38],
    [1e300, 1e300, -1e308],
    [1e-300, 2e-300, -3e-310],
    [1e-40, 1e-45, 6e-8],
    [INF, 0.0, 1.0],
    [-INF, 0.0, 1.0],
    [INF, INF, -INF],
    [-INF, -INF, -INF],
    [NAN, 0.0, 1.0],
    [NAN, INF, -INF],
    [80.0, -80.0, 700.0],
]


def steps(values: Any) -> Any:
    """Floats as integers: their signed distance from zero in representable values."""
    bits = values.view(f"i{values.dtype.itemsize}").astype(object)
    lowest = -(2 ** (8 * values.dtype.itemsize - 1))
    return numpy.where(bits < 0, lowest - bits, bits)


def as_quotients(rows: Any) -> dict[str, Any]:
    """Dividends and divisors for these values: JSON has neither infinities nor NaN."""
    special = ~numpy.isfinite(rows)
    dividends = numpy.where(special, numpy.sign(numpy.nan_to_num(rows, nan=0.0)), rows)
    return {"a": dividends.tolist(), "b": numpy.where(special, 0.0, 1.0).tolist()}


def check_activations(described: Described, folder_for: FolderFor, rows: Any) -> None:
    model = folder_for("quotients", ACTIVATED) / "model.onnx"
    body = as_quotients(rows)
    result = described("quotients", ACTIVATED).predict(body)
    feeds = {name: numpy.array(value) for name, value in body.items()}
    names = [name for name in TYPES if name != "bfloat16"]
    raw = ort.run(model, feeds, names)
    raw["bfloat16"] = ort.run_bfloat16(
        model, feeds, "bfloat16", numpy.zeros(rows.shape, ml_dtypes.bfloat16)
    )
    assert list(result) == [f"{activation}_{name}" for name in TYPES for activation in ACTIVATIONS]
    for name, dtype in TYPES.items():
        for activation in ACTIVATIONS:
            expected = oracle.activate(activation, raw[name])
            # numpy reads None as NaN; the response has no more digits than its type needs.
            received = numpy.array(result[f"{activation}_{name}"], numpy.float64).astype(dtype)
            finite = numpy.isfinite(expected.astype(numpy.float64))
            assert (numpy.isfinite(received.astype(numpy.float64)) == finite).all(), activation
            # In float64 the oracle rounds as well, and may round sums and exponentials differently.
            tolerance = 32 if name == "float64" else 1
            distance = abs(steps(received[finite]) - steps(expected[finite]))
            assert distance.size == 0 or distance.max() <= tolerance, (activation, name)


def test_activations_of_all_there_is(described: Described, folder_for: FolderFor) -> None:
    check_activations(described, folder_for, numpy.array(ROWS))


@pytest.mark.parametrize(("rows", "size"), [(50, 2), (3, 1000), (20, 1), (2, 0)])
def test_activations_of_any_numbers(
    described: Described, folder_for: FolderFor, rows: int, size: int
) -> None:
    numbers = numpy.random.default_rng(rows).normal(scale=8, size=(rows, size))
    check_activations(described, folder_for, numbers)


def test_an_activation_of_one_item_is_that_of_its_row(described: Described) -> None:
    server = described("quotients", ACTIVATED)
    batch = server.predict({"a": [[1, 2, 3], [4, 5, 7]], "b": [[1] * 3] * 2})
    item = server.predict({"a": [4, 5, 7], "b": [1] * 3})
    assert item == {name: rows[1] for name, rows in batch.items()}


def test_an_activation_leaves_the_other_answers_alone(described: Described) -> None:
    """An output may alias the input's memory, and appear in the response twice."""
    text = "outputs: {p: {from: x, activation: softmax}, x: , doubled: , n: {from: x, activation: "
    server = described("alias", text + "normalize}}")
    assert server.predict({"x": [0, 0]}) == {
        "p": [0.5, 0.5],
        "x": [0.0, 0.0],
        "doubled": [0.0, 0.0],
        "n": [0.0, 0.0],
    }
    assert server.predict({"x": [[3, 4]]})["n"] == [[0.6, 0.8]]


def test_a_sigmoid_needs_no_axis_beside_the_batch(described: Described) -> None:
    text = "outputs: {p: {from: a_out, activation: sigmoid}}"
    server = described("items", text)
    assert server.predict({"a": 0, "b": 1, "c": True}) == {"p": 0.5}
    assert server.predict({"a": [0, 0], "b": [1, 2], "c": [True, False]}) == {"p": [0.5, 0.5]}
