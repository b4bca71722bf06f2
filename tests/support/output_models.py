"""Models whose outputs are of every kind that ONNX Runtime's operators can produce.

All take `x`, float32 [batch, n]. No operator of ONNX Runtime returns a map by
itself, or a sequence in a sequence.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy
from onnx import (
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from tests.support.onnx_models import NUMBER_TYPES

_node = helper.make_node
_X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "n"])
STRINGS = ["", "a\0b", "\0", "é 😀", 'quote " and \\', "\u2028\x7f\x1f", "x" * 5000]


def _model(
    nodes: Sequence[NodeProto],
    outputs: Sequence[ValueInfoProto],
    constants: Sequence[TensorProto] = (),
    inputs: Sequence[ValueInfoProto] = (_X,),
    opset: int = 17,
) -> ModelProto:
    graph = helper.make_graph(nodes, "outputs", inputs, outputs, list(constants))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10 if opset > 17 else 8)


def _tensor(name: str, code: int, dims: Sequence[int | str | None] | None = None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, code, dims)


def _sequence(name: str, code: int) -> ValueInfoProto:
    element = helper.make_tensor_type_proto(code, None)
    return helper.make_value_info(name, helper.make_sequence_type_proto(element))


def _maps(name: str, key: int) -> ValueInfoProto:
    entry = helper.make_map_type_proto(key, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    return helper.make_value_info(name, helper.make_sequence_type_proto(entry))


def tensors() -> ModelProto:
    """`x` in each element type but bfloat16, with and without elements, and strings.

    `none_T` has no rows, `hollow_T` rows of nothing, `one_T` no axes.
    """
    types = {name: code for name, code in NUMBER_TYPES.items() if name != "bfloat16"}
    types["string"] = TensorProto.STRING
    nodes, outputs = [], []
    for name, code in types.items():
        nodes += [
            _node("Cast", ["x"], [f"all_{name}"], to=code),
            _node("Slice", [f"all_{name}", "zero", "zero", "zero"], [f"none_{name}"]),
            _node("Slice", [f"all_{name}", "zero", "zero", "one"], [f"hollow_{name}"]),
            _node("Cast", ["first"], [f"one_{name}"], to=code),
        ]
        outputs += [
            _tensor(f"all_{name}", code, ["batch", "n"]),
            _tensor(f"none_{name}", code, ["none", "n"]),
            _tensor(f"hollow_{name}", code, ["batch", "none"]),
            _tensor(f"one_{name}", code, []),
        ]
    nodes.insert(0, _node("ReduceMax", ["x"], ["first"], keepdims=0))
    return _model(nodes, outputs, [_integers("zero", [0]), _integers("one", [1])])


def _integers(name: str, values: Sequence[int]) -> TensorProto:
    return numpy_helper.from_array(numpy.array(values, "int64"), name)


def bfloats() -> ModelProto:
    """The same of bfloat16, for which ONNX Runtime needs a model without strings."""
    code = TensorProto.BFLOAT16
    return _model(
        [
            _node("Cast", ["x"], ["all"], to=code),
            _node("Slice", ["x", "zero", "zero", "zero"], ["no_rows"]),
            _node("Cast", ["no_rows"], ["none"], to=code),
            _node("ReduceMax", ["x"], ["first"], keepdims=0),
            _node("Cast", ["first"], ["one"], to=code),
        ],
        [
            _tensor("all", code, ["batch", "n"]),
            _tensor("none", code, ["none", "n"]),
            _tensor("one", code, []),
        ],
        [_integers("zero", [0])],
    )


def strings() -> ModelProto:
    """Strings of all kinds, as many rows of them as `x` has, and a scalar."""
    # Not by helper.make_tensor, which loses a NUL at the end.
    table = TensorProto(name="texts", data_type=TensorProto.STRING, dims=[len(STRINGS)])
    table.string_data.extend(text.encode() for text in STRINGS)
    return _model(
        [
            _node("Shape", ["x"], ["rows"], start=0, end=1),
            _node("Concat", ["rows", "count"], ["shape"], axis=0),
            _node("Expand", ["texts", "shape"], ["all"]),
            _node("Gather", ["texts", "first"], ["one"]),
            _node("Slice", ["texts", "zero", "zero"], ["none"]),
        ],
        [
            _tensor("all", TensorProto.STRING, ["batch", len(STRINGS)]),
            _tensor("one", TensorProto.STRING, []),
            _tensor("none", TensorProto.STRING, ["none"]),
        ],
        [
            table,
            _integers("count", [len(STRINGS)]),
            _integers("zero", [0]),
            numpy_helper.from_array(numpy.array(1), "first"),
        ],
    )


def sequences() -> ModelProto:
    """Sequences of tensors of each type: of the same, of none, of an empty one, of scalars."""
    types = {name: code for name, code in NUMBER_TYPES.items() if name != "bfloat16"}
    types["string"] = TensorProto.STRING
    nodes = [
        _node("Slice", ["x", "zero", "zero", "zero"], ["empty"]),
        _node("ReduceMax", ["x"], ["first"], keepdims=0),
    ]
    outputs = []
    for name, code in types.items():
        parts = {"all": "x", "nothing": "empty", "scalar": "first"}
        nodes += [
            _node("Cast", [source], [f"{part}_{name}"], to=code) for part, source in parts.items()
        ]
        nodes += [
            _node("SequenceConstruct", [f"{part}_{name}" for part in parts], [f"mixed_{name}"]),
            _node("SequenceEmpty", [], [f"empty_{name}"], dtype=code),
        ]
        outputs += [_sequence(f"mixed_{name}", code), _sequence(f"empty_{name}", code)]
    nodes.append(_node("SplitToSequence", ["x"], ["rows"], axis=0, keepdims=1))
    outputs.append(_sequence("rows", TensorProto.FLOAT))
    return _model(nodes, outputs, [_integers("zero", [0])])


def maps() -> ModelProto:
    """Sequences of maps, whose keys are unsorted integers or strings of all kinds."""
    numbers, texts = [7, -1, 2**62, 0, -(2**63)], STRINGS[:5]
    return _model(
        [
            _node("Slice", ["x", "zero", "five", "one"], ["scores"]),
            _node("Reciprocal", ["scores"], ["inverse"]),
            _zip_map("scores", "by_number", classlabels_int64s=numbers),
            _zip_map("inverse", "by_text", classlabels_strings=texts),
        ],
        [_maps("by_number", TensorProto.INT64), _maps("by_text", TensorProto.STRING)],
        [_integers("zero", [0]), _integers("one", [1]), _integers("five", [5])],
    )


def _zip_map(source: str, output: str, **labels: Any) -> NodeProto:
    return _node("ZipMap", [source], [output], domain="ai.onnx.ml", **labels)


def classifier(labels: str = "string") -> ModelProto:
    """A classifier as skl2onnx writes it: a label, and a sequence of maps to probabilities.

    Args:
        labels: `string` or `int64`.
    """
    names: Any = ["setosa", "versicolor", "virginica"] if labels == "string" else [1, 5, -9]
    attribute = "classlabels_strings" if labels == "string" else "classlabels_ints"
    key = "classlabels_strings" if labels == "string" else "classlabels_int64s"
    code = TensorProto.STRING if labels == "string" else TensorProto.INT64
    rng = numpy.random.default_rng(0)
    return _model(
        [
            _node(
                "LinearClassifier",
                ["x"],
                ["label", "scores"],
                domain="ai.onnx.ml",
                coefficients=rng.normal(size=12).tolist(),
                intercepts=[0.1, -0.2, 0.3],
                multi_class=1,
                post_transform="SOFTMAX",
                **{attribute: names},
            ),
            _zip_map("scores", "output_probability", **{key: names}),
            _node("Identity", ["label"], ["output_label"]),
        ],
        [_tensor("output_label", code, ["batch"]), _maps("output_probability", code)],
        inputs=[_tensor("x", TensorProto.FLOAT, ["batch", 4])],
    )


def numbered_classifier() -> ModelProto:
    """The same with integers as labels."""
    return classifier("int64")


def named() -> ModelProto:
    """Outputs with names that JSON must escape, and many of them."""
    odd = ['a"b\\c', "é 😀", "line\nbreak", "/slash/", " ", "nul\x01", "__proto__"]
    every = [*odd, *(f"y{number}" for number in range(200))]
    return _model(
        [_node("Neg", ["x"], [name]) for name in every],
        [_tensor(name, TensorProto.FLOAT, ["batch", "n"]) for name in every],
    )


def refused(kind: str) -> ModelProto:
    """A model with an output that JSON cannot express.

    Args:
        kind: `optional`, `sparse_tensor`, `float8e4m3fn`, `int4` or `complex64`.
    """
    if kind == "optional":
        optional = TypeProto()
        optional.optional_type.elem_type.CopyFrom(
            helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", "n"])
        )
        node = _node("Optional", ["x"], ["y"])
        return _model([node], [helper.make_value_info("y", optional)], opset=21)
    if kind == "sparse_tensor":
        sparse = helper.make_sparse_tensor_value_info("y", TensorProto.FLOAT, ["batch", "n"])
        return _model([_node("Neg", ["x"], ["y"])], [sparse])
    code = {
        "float8e4m3fn": TensorProto.FLOAT8E4M3FN,
        "int4": TensorProto.INT4,
        "complex64": TensorProto.COMPLEX64,
    }[kind]
    output = _tensor("y", code, ["batch", "n"])
    if kind == "int4":  # which the Cast of ONNX Runtime 1.22 does not know
        scale = numpy_helper.from_array(numpy.array(1, "float32"), "scale")
        zero = helper.make_tensor("zero", code, [], [0])
        node = _node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
        return _model([node], [output], [scale, zero], opset=21)
    return _model([_node("Cast", ["x"], ["y"], to=code)], [output], opset=21)


def sparse_constant() -> ModelProto:
    """An output that is declared as a tensor, but whose value is sparse: ONNX Runtime's mistake."""
    info = helper.make_sparse_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    model = _model([_node("Neg", ["x"], ["z"])], [info])
    values = numpy_helper.from_array(numpy.array([1.5], "float32"), "y")
    sparse = model.graph.sparse_initializer.add(dims=[2, 3], values=values)
    sparse.indices.CopyFrom(_integers("indices", [1]))
    return model


BUILDERS: dict[str, Callable[[], ModelProto]] = {
    builder.__name__: builder
    for builder in (
        tensors, bfloats, strings, sequences, maps, classifier, numbered_classifier, named,
    )
}  # fmt: skip
