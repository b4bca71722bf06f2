"""encoder: outputs of every kind as JSON."""

import json
from typing import Any

import numpy
import pytest

from gpux.serving.encoder import encode
from gpux.tensors.memory import StringTensor
from gpux.tensors.outputs import NonTensor


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (StringTensor((2, 1), ["a", 'b"\n\0é']), '[["a"],["b\\"\\n\\u0000é"]]'),
        (StringTensor((), ["a"]), '"a"'),
        (StringTensor((0, 2), []), "[]"),
        (StringTensor((2, 0), []), "[[],[]]"),
        (NonTensor([{1: 0.1, 2: float("nan")}], "float32"), '[{"1":0.1,"2":null}]'),
        (NonTensor([{"a": 0.1}], "float64"), '[{"a":0.1}]'),
        (NonTensor({"k": 1}, "float32"), '{"k":1}'),
        (NonTensor([], "float32"), "[]"),
        (NonTensor([numpy.array([[0.1]], "float32")], "float32"), "[[[0.1]]]"),
        (NonTensor([numpy.array([[1, 2], [3, 4]], "int64").T], "float32"), "[[[1,3],[2,4]]]"),
        (NonTensor([numpy.array(["x", "y"], object)], "float32"), '[["x","y"]]'),
        (NonTensor(["é", "b"], "float32"), '["é","b"]'),
    ],
)
def test_what_is_no_tensor_of_numbers_is_written_too(
    value: StringTensor | NonTensor, text: str
) -> None:
    # A float32 in a Python float is written with float32 precision: 0.1, not 0.10000000149.
    if isinstance(value, NonTensor) and value.float_type == "float32":
        value = NonTensor(_widen_floats(value.value), "float32")
    assert encode({"out": value}).decode() == f'{{"out":{text}}}'


def _widen_floats(value: Any) -> Any:
    """Floats as ONNX Runtime returns float32: widened to float64."""
    if isinstance(value, float):
        return float(numpy.float32(value))
    if isinstance(value, dict):
        return {key: _widen_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_widen_floats(item) for item in value]
    return value


def test_names_are_escaped() -> None:
    value = StringTensor((), ["v"])
    assert json.loads(encode({'a"b\né': value})) == {'a"b\né': "v"}
