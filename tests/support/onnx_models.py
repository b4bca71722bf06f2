"""Small ONNX models, each made for one rule of the contract.

Opset 17 and IR version 8 wherever the types allow it, so that older runtimes load them as well.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
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

Dims = Sequence[int | str | None] | None

NUMBER_TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
}

_FLOAT, _INT64, _STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
_BOOL = TensorProto.BOOL


def write(name: str, folder: Path) -> Path:
    """Writes the model of that name; answers its file."""
    file = folder / f"{name}.onnx"
    file.write_bytes(BUILDERS[name]().SerializeToString())
    return file


def write_folder(folder: Path, name: str, described: str | bytes | None = None) -> Path:
    """Writes a folder to serve.

    Args:
        folder: is made if it is not there.
        name: of the model.
        described: its gpux.yml, if it has one.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write(name, folder).rename(folder / "model.onnx")
    if described is not None:
        text = described.encode() if isinstance(described, str) else described
        (folder / "gpux.yml").write_bytes(text)
    return folder


def _tensor(name: str, type_code: int, dims: Dims) -> ValueInfoProto:
    """A tensor's declaration; None for `dims` declares no shape, None in it an unnamed axis."""
    return helper.make_tensor_value_info(name, type_code, dims)


def _constant(name: str, values: object, dtype: str = "float32") -> TensorProto:
    return numpy_helper.from_array(numpy.array(values, dtype), name)


def _model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Sequence[TensorProto] = (),
    *,
    opset: int = 17,
    ir_version: int = 8,
) -> ModelProto:
    graph = helper.make_graph(nodes, "test", inputs, outputs, list(constants))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def _identity(*tensors: tuple[str, str, int, Dims]) -> ModelProto:
    """A model that answers its inputs: (input, output, type, dims) each."""
    return _model(
        [helper.make_node("Identity", [name], [answer]) for name, answer, _, _ in tensors],
        [_tensor(name, type_code, dims) for name, _, type_code, dims in tensors],
        [_tensor(answer, type_code, dims) for _, answer, type_code, dims in tensors],
    )


def sentiment() -> ModelProto:
    """Token ids and their mask → two logits a row, which depend on all of them."""
    return _model(
        [
            helper.make_node("Mul", ["input_ids", "attention_mask"], ["kept"]),
            helper.make_node("Cast", ["kept"], ["numbers"], to=_FLOAT),
            helper.make_node("ReduceMean", ["numbers"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("Gemm", ["mean", "weights", "bias"], ["logits"]),
        ],
        [
            _tensor("input_ids", _INT64, ["batch", "seq"]),
            _tensor("attention_mask", _INT64, ["batch", "seq"]),
        ],
        [_tensor("logits", _FLOAT, ["batch", 2])],
        [_constant("weights", [[0.0003, -0.0007]]), _constant("bias", [0.1, 0.9])],
    )


def _classifier(leading: int | str, size: int) -> ModelProto:
    rng = numpy.random.default_rng(0)
    return _model(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["colours"]),
            helper.make_node("MatMul", ["colours", "weights"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        [_tensor("image", _FLOAT, [leading, 3, size, size])],
        [_tensor("probabilities", _FLOAT, [leading, 10])],
        [_constant("weights", rng.normal(size=(3, 10)))],
    )


def image() -> ModelProto:
    """One image a request: `[1, 3, 8, 8]`."""
    return _classifier(1, 8)


def photo() -> ModelProto:
    """One image a request, of the usual size: `[1, 3, 224, 224]`."""
    return _classifier(1, 224)


def photos() -> ModelProto:
    """A batch of images: `[batch, 3, 224, 224]`."""
    return _classifier("batch", 224)


def text() -> ModelProto:
    """Text → [negative, positive], by a table of three texts."""
    known = {"I love this product!": 0.95, "I love GPUX!": 0.875, "This is terrible": 0.125}
    return _model(
        [
            helper.make_node(
                "LabelEncoder",
                ["text"],
                ["positive"],
                domain="ai.onnx.ml",
                keys_strings=list(known),
                values_floats=list(known.values()),
                default_float=0.5,
            ),
            helper.make_node("Gemm", ["positive", "signs", "offsets"], ["sentiment"]),
        ],
        [_tensor("text", _STRING, ["batch", 1])],
        [_tensor("sentiment", _FLOAT, ["batch", 2])],
        [_constant("signs", [[-1, 1]]), _constant("offsets", [1, 0])],
    )


def numbers() -> ModelProto:
    """An input of each type with numbers, and an output that answers it."""
    return _identity(
        *(
            (name, f"{name}_out", type_code, [f"{name}_rows", f"{name}_columns"])
            for name, type_code in NUMBER_TYPES.items()
        )
    )


def mixed() -> ModelProto:
    """`numbers` beside a string, which IOBinding does not know; bfloat16 is answered as float32."""
    made = _without_bfloat16(numbers())
    made.graph.node.append(helper.make_node("Identity", ["text"], ["text_out"]))
    made.graph.input.append(_tensor("text", _STRING, ["text_rows"]))
    made.graph.output.append(_tensor("text_out", _STRING, ["text_rows"]))
    return made


def _without_bfloat16(made: ModelProto) -> ModelProto:
    """The same with `bfloat16_out` as float32: beside strings no bfloat16 can be handed out."""
    for node in made.graph.node:
        if node.input[0] == "bfloat16":
            node.CopyFrom(helper.make_node("Cast", node.input, node.output, to=_FLOAT))
    for output in made.graph.output:
        if output.name == "bfloat16_out":
            output.type.tensor_type.elem_type = _FLOAT
    return made


def strings() -> ModelProto:
    """Strings, answered as they came."""
    return _identity(("texts", "same", _STRING, ["batch", "n"]))


def words() -> ModelProto:
    """Strings that are items, answered as they came."""
    return _identity(("word", "same", _STRING, ["batch"]))


def string() -> ModelProto:
    """A string without a batch."""
    return _identity(("word", "same", _STRING, []))


def items() -> ModelProto:
    """Inputs whose items are bare values."""
    return _identity(
        ("a", "a_out", _FLOAT, ["batch"]),
        ("b", "b_out", _INT64, ["batch", 1]),
        ("c", "c_out", _BOOL, ["batch", 1]),
    )


def matrix() -> ModelProto:
    """One batched input of two dynamic axes."""
    return _identity(("x", "y", _FLOAT, ["batch", "n"]))


def cube() -> ModelProto:
    """One batched input of three dynamic axes."""
    return _identity(("x", "y", _INT64, ["batch", "n", "m"]))


def fixed() -> ModelProto:
    """A fixed leading axis that is no batch."""
    return _identity(("x", "y", _FLOAT, [2, 3]))


def single() -> ModelProto:
    """A single input, with outputs whose leading axis is 1, fixed at another size, and none."""
    return _model(
        [
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Concat", ["x", "x"], ["twice"], axis=0),
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        ],
        [_tensor("x", _FLOAT, [1, 3])],
        [
            _tensor("same", _FLOAT, [1, 3]),
            _tensor("twice", _FLOAT, [2, 3]),
            _tensor("sum", _FLOAT, []),
        ],
    )


def opened() -> ModelProto:
    """A declared scalar and a shape that is not declared: ONNX Runtime reports both alike."""
    return _identity(("scalar", "scalar_out", _INT64, []), ("free", "free_out", _FLOAT, None))


def unnamed() -> ModelProto:
    """Two batched inputs whose axes have no names."""
    return _identity(("a", "a_out", _FLOAT, [None, 2]), ("b", "b_out", _FLOAT, [None]))


def described() -> ModelProto:
    """Inputs of all kinds, answered as they came: there is much to say of them in gpux.yml."""
    return _identity(
        ("ids", "same_ids", _INT64, ["batch", "seq"]),
        ("mask", "same_mask", _INT64, ["batch", "seq"]),
        ("image", "same_image", _FLOAT, ["batch", 3, None]),
        ("word", "same_word", _STRING, ["batch", 1]),
        ("flag", "same_flag", _BOOL, ["batch"]),
        ("state", "same_state", _FLOAT, [2, None, 4]),
        ("rate", "same_rate", _INT64, []),
        ("weight", "weights", _FLOAT, ["batch"]),
        ("points", "logits", _FLOAT, ["batch", 2]),
    )


def optional() -> ModelProto:
    """One input that gives the sizes, beside inputs that can do without a value of their own."""
    pair: Dims = ["batch", 2]
    made = _identity(
        ("x", "x_out", _FLOAT, ["batch", "n"]),
        ("mask", "mask_out", _INT64, ["batch", "n"]),
        *((name, f"{name}_out", code, pair) for name, code in NUMBER_TYPES.items()),
        ("string", "string_out", _STRING, pair),
        ("state", "state_out", _FLOAT, [2, 3]),
        ("rate", "rate_out", _INT64, []),
    )
    return _without_bfloat16(made)


def quotients() -> ModelProto:
    """Divides numbers, which makes infinities and NaN as well, and answers in each float type."""
    casts = {name: NUMBER_TYPES[name] for name in ("float32", "float16", "bfloat16")}
    return _model(
        [
            helper.make_node("Div", ["a", "b"], ["float64"]),
            *(
                helper.make_node("Cast", ["float64"], [name], to=code)
                for name, code in casts.items()
            ),
        ],
        [_tensor(name, TensorProto.DOUBLE, ["batch", "n"]) for name in "ab"],
        [
            _tensor(name, code, ["batch", "n"])
            for name, code in {"float64": TensorProto.DOUBLE, **casts}.items()
        ],
    )


def detector() -> ModelProto:
    """A batched input, and an output whose leading axis is dynamic but not the batch."""
    return _model(
        [
            helper.make_node("NonZero", ["x"], ["columns"]),
            helper.make_node("Transpose", ["columns"], ["places"]),
            helper.make_node("Identity", ["x"], ["same"]),
        ],
        [_tensor("x", _FLOAT, ["batch", "n"])],
        [
            _tensor("places", _INT64, ["num_detections", 2]),
            _tensor("same", _FLOAT, ["batch", "n"]),
        ],
    )


def boxes() -> ModelProto:
    """Picks boxes by their scores: how many there are, only the run can tell."""
    return _model(
        [
            helper.make_node(
                "NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["selected"]
            )
        ],
        [_tensor("boxes", _FLOAT, [1, "n", 4]), _tensor("scores", _FLOAT, [1, 1, "n"])],
        [_tensor("selected", _INT64, ["found", 3])],
        [_constant("most", [100], "int64"), _constant("overlap", [0.5]), _constant("least", [0.1])],
    )


def normalized() -> ModelProto:
    """Takes the batch's mean from each row: a row's answer depends on its company."""
    return _model(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [_tensor("x", _FLOAT, ["batch", "n"])],
        [_tensor("y", _FLOAT, ["batch", "n"])],
    )


def brightest() -> ModelProto:
    """Divides by the largest number of the whole batch."""
    return _model(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Div", ["x", "most"], ["y"]),
        ],
        [_tensor("x", _FLOAT, ["batch", "n"])],
        [_tensor("y", _FLOAT, ["batch", "n"])],
    )


def distinct() -> ModelProto:
    """Answers each row once, although its names promise as many as it was given."""
    return _model(
        [helper.make_node("Unique", ["x"], ["y"], axis=0, sorted=0)],
        [_tensor("x", _FLOAT, ["batch", 2])],
        [_tensor("y", _FLOAT, ["batch", 2])],
    )


def quantized() -> ModelProto:
    """Quantizes its rows by their common range, as models made by dynamic quantization do."""
    return _model(
        [
            helper.make_node(
                "DynamicQuantizeLinear", ["x"], ["whole", "scale", "zero"], name="range"
            ),
            helper.make_node("DequantizeLinear", ["whole", "scale", "zero"], ["y"]),
        ],
        [_tensor("x", _FLOAT, ["batch", 3])],
        [_tensor("y", _FLOAT, ["batch", 3])],
    )


def unequal() -> ModelProto:
    """Adds rows of which one input may have fewer, for all rows of the other."""
    return _model(
        [helper.make_node("Add", ["x", "y"], ["z"])],
        [_tensor("x", _FLOAT, ["a", 2]), _tensor("y", _FLOAT, ["b", 2])],
        [_tensor("z", _FLOAT, ["a", 2])],
    )


def doubled() -> ModelProto:
    """Answers its rows twice, although its names promise as many as it was given."""
    return _model(
        [
            helper.make_node("Concat", ["x", "x"], ["twice"], axis=0),
            helper.make_node("Neg", ["x"], ["negative"]),
        ],
        [_tensor("x", _FLOAT, ["batch", "n"])],
        [_tensor("twice", _FLOAT, ["batch", "n"]), _tensor("negative", _FLOAT, ["batch", "n"])],
    )


def masked() -> ModelProto:
    """Keeps the ids that the mask lets pass: a row, in two shapes, and their sum."""
    return _model(
        [
            helper.make_node("Mul", ["ids", "mask"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=0),
            helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
            helper.make_node("Mul", ["column", "factors"], ["states"]),
        ],
        [_tensor("ids", _INT64, ["batch", "seq"]), _tensor("mask", _INT64, ["batch", "seq"])],
        [
            _tensor("states", _INT64, ["batch", "seq", 3]),
            _tensor("kept", _INT64, ["batch", "seq"]),
            _tensor("sum", _INT64, ["batch"]),
        ],
        [
            _constant("axis", [1], "int64"),
            _constant("last", [2], "int64"),
            _constant("factors", [1, 2, -1], "int64"),
        ],
    )


def crossed() -> ModelProto:
    """Adds each number of one row to each of another, and something of fixed size to the first."""
    return _model(
        [
            helper.make_node("Unsqueeze", ["a", "third"], ["column"]),
            helper.make_node("Unsqueeze", ["b", "second"], ["line"]),
            helper.make_node("Add", ["column", "line"], ["sums"]),
            helper.make_node("Slice", ["fixed", "zero", "one", "second"], ["first"]),
            helper.make_node("Add", ["a", "first"], ["moved"]),
        ],
        [
            _tensor("a", _FLOAT, ["batch", "n"]),
            _tensor("b", _FLOAT, ["batch", "m"]),
            _tensor("fixed", _FLOAT, ["batch", 2]),
        ],
        [_tensor("sums", _FLOAT, ["batch", "n", "m"]), _tensor("moved", _FLOAT, ["batch", "n"])],
        [
            _constant("zero", [0], "int64"),
            _constant("one", [1], "int64"),
            _constant("second", [1], "int64"),
            _constant("third", [2], "int64"),
        ],
    )


def labelled() -> ModelProto:
    """A word for each id."""
    node = helper.make_node(
        "LabelEncoder",
        ["ids"],
        ["words"],
        domain="ai.onnx.ml",
        keys_int64s=[0, 1, 2],
        values_strings=["none", "one", "two"],
        default_string="many",
    )
    return _model(
        [node],
        [_tensor("ids", _INT64, ["batch", "seq"])],
        [_tensor("words", _STRING, ["batch", "seq"])],
    )


def highest() -> ModelProto:
    """The largest number of a row, its padding too."""
    return _model(
        [helper.make_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)],
        [_tensor("x", _FLOAT, ["batch", "n"])],
        [_tensor("y", _FLOAT, ["batch"])],
    )


def positioned() -> ModelProto:
    """Adds its place to each number; it knows 40 places."""
    return _model(
        [
            helper.make_node("Shape", ["x"], ["size"], start=1, end=2),
            helper.make_node("Slice", ["places", "zero", "size"], ["there"]),
            helper.make_node("Add", ["x", "there"], ["y"]),
        ],
        [_tensor("x", _FLOAT, ["batch", "n"])],
        [_tensor("y", _FLOAT, ["batch", "n"])],
        [_constant("places", numpy.arange(40)), _constant("zero", [0], "int64")],
    )


def zipmap() -> ModelProto:
    """Numbers as sequences of maps, keyed by integers and by strings, and the inverse of each."""

    def maps(name: str, key: int) -> ValueInfoProto:
        entry = helper.make_map_type_proto(key, helper.make_tensor_type_proto(_FLOAT, []))
        return helper.make_value_info(name, helper.make_sequence_type_proto(entry))

    labels: dict[str, dict[str, Any]] = {
        "by_id": {"classlabels_int64s": [-1, 7]},
        "by_name": {"classlabels_strings": ["no", 'yes "é"']},
    }
    return _model(
        [
            helper.make_node("Reciprocal", ["x"], ["inverse"]),
            *(
                helper.make_node(
                    "ZipMap", [source], [f"{source}_{kind}"], domain="ai.onnx.ml", **keys
                )
                for source in ("x", "inverse")
                for kind, keys in labels.items()
            ),
        ],
        [_tensor("x", _FLOAT, ["batch", 2])],
        [
            maps(f"{source}_{kind}", key)
            for source in ("x", "inverse")
            for kind, key in (("by_id", _INT64), ("by_name", _STRING))
        ],
    )


def _sequence(name: str, type_code: int) -> ValueInfoProto:
    element = helper.make_tensor_type_proto(type_code, None)
    return helper.make_value_info(name, helper.make_sequence_type_proto(element))


def scalars() -> ModelProto:
    """Sequences of scalars of several types: one element for each item."""
    types = {"float": _FLOAT, "double": TensorProto.DOUBLE, "long": _INT64, "word": _STRING}
    return _model(
        [
            helper.make_node("SplitToSequence", [name], [f"{name}s"], axis=0, keepdims=0)
            for name in types
        ],
        [_tensor(name, type_code, ["batch"]) for name, type_code in types.items()],
        [_sequence(f"{name}s", type_code) for name, type_code in types.items()],
    )


def sequences() -> ModelProto:
    """Sequences of tensors beside a tensor, from a batched input: one element a row."""
    return _model(
        [
            helper.make_node("SplitToSequence", ["x"], ["rows"], axis=0, keepdims=0),
            helper.make_node("Cast", ["x"], ["whole"], to=_INT64),
            helper.make_node("SequenceConstruct", ["whole", "whole"], ["twice"]),
            helper.make_node("Identity", ["x"], ["same"]),
        ],
        [_tensor("x", _FLOAT, ["batch", "n"])],
        [
            _sequence("rows", _FLOAT),
            _sequence("twice", _INT64),
            _tensor("same", _FLOAT, ["batch", "n"]),
        ],
    )


def table() -> ModelProto:
    """Looks ids up in a table of four rows: any other id fails while the model runs."""
    return _model(
        [helper.make_node("Gather", ["rows", "ids"], ["embedding"], name="/look/up")],
        [_tensor("ids", _INT64, ["batch", "seq"])],
        [_tensor("embedding", _FLOAT, ["batch", "seq", 2])],
        [_constant("rows", [[0, 1], [2, 3], [4, 5], [6, 7]])],
    )


def catalogue() -> ModelProto:
    """`table`, whose four ids begin with 100: those that are made up fail while the model runs.

    It is none of BUILDERS, for whose models a request can be found.
    """
    made = table()
    made.graph.node.insert(0, helper.make_node("Sub", ["ids", "first"], ["places"]))
    made.graph.node[1].input[1] = "places"
    made.graph.initializer.append(_constant("first", 100, "int64"))
    return made


def sevens() -> ModelProto:
    """Rows of seven numbers out of any: what is no multiple of seven fails while the model runs."""
    return _model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [_tensor("x", _FLOAT, ["batch", "n"])],
        [_tensor("y", _FLOAT, ["rows", 7])],
        [_constant("shape", [-1, 7], "int64")],
    )


def alias() -> ModelProto:
    """An output that is the input itself, beside one that is computed."""
    return _model(
        [helper.make_node("Add", ["x", "x"], ["doubled"])],
        [_tensor("x", _FLOAT, ["batch", "n"])],
        [_tensor("doubled", _FLOAT, ["batch", "n"]), _tensor("x", _FLOAT, ["batch", "n"])],
    )


def constant() -> ModelProto:
    """An output that is a constant of the model, and one that is that constant renamed."""
    return _model(
        [
            helper.make_node("Identity", ["weights"], ["renamed"]),
            helper.make_node("Neg", ["x"], ["y"]),
        ],
        [_tensor("x", _FLOAT, ["batch", 2])],
        [
            _tensor("weights", _FLOAT, [2]),
            _tensor("renamed", _FLOAT, [2]),
            _tensor("y", _FLOAT, ["batch", 2]),
        ],
        [_constant("weights", [1.5, 2.5])],
    )


def nonfinite() -> ModelProto:
    """Makes infinities and NaN out of zeros."""
    return _model(
        [
            helper.make_node("Reciprocal", ["x"], ["reciprocal"]),
            helper.make_node("Div", ["x", "x"], ["quotient"]),
        ],
        [_tensor("x", _FLOAT, ["batch", "n"])],
        [
            _tensor("reciprocal", _FLOAT, ["batch", "n"]),
            _tensor("quotient", _FLOAT, ["batch", "n"]),
        ],
    )


def repeat() -> ModelProto:
    """A short request with a long answer: `count` ones."""
    return _model(
        [helper.make_node("Expand", ["one", "count"], ["ones"])],
        [_tensor("count", _INT64, [1])],
        [_tensor("ones", _FLOAT, ["n"])],
        [_constant("one", [1])],
    )


def slow() -> ModelProto:
    """Takes as long as it is told: `steps` products of two matrices."""
    square = [128, 128]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("MatMul", ["state", "turn"], ["state_out"]),
        ],
        "body",
        [
            _tensor("step", _INT64, []),
            _tensor("go_on", _BOOL, []),
            _tensor("state", _FLOAT, square),
        ],
        [_tensor("go_on_out", _BOOL, []), _tensor("state_out", _FLOAT, square)],
    )
    return _model(
        [
            helper.make_node("Loop", ["steps", "", "turn"], ["last"], body=body),
            helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
        ],
        [_tensor("steps", _INT64, [])],
        [_tensor("sum", _FLOAT, [])],
        [_constant("turn", numpy.eye(128))],
    )


def slow_to_load() -> ModelProto:
    """A row and a constant, for which ONNX Runtime multiplies matrices while it loads the model."""
    products = [f"product_{number}" for number in range(300)]
    return _model(
        [
            helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
            *(
                helper.make_node("MatMul", [before, "zeros"], [product])
                for before, product in pairwise(["zeros", *products])
            ),
            helper.make_node("Add", ["x", products[-1]], ["y"]),
        ],
        [_tensor("x", _FLOAT, [1, 1536])],
        [_tensor("y", _FLOAT, [1536, 1536])],
        [_constant("size", [1536, 1536], "int64")],
    )


def slow_words() -> ModelProto:
    """`slow`, beside a string, which IOBinding does not know."""
    made = slow()
    made.graph.node.append(helper.make_node("Identity", ["word"], ["same"]))
    made.graph.input.append(_tensor("word", _STRING, []))
    made.graph.output.append(_tensor("same", _STRING, []))
    return made


def reshaped(
    inputs: Mapping[str, Dims], outputs: Mapping[str, Sequence[int | str | None]]
) -> ModelProto:
    """Inputs of float32, and outputs that are the first of them in other shapes.

    For each input there is also an output `NAME_shape`: the axes that the model saw, and two more
    numbers, so that it looks like no batch of one.

    Args:
        inputs: their axes.
        outputs: their axes. Of several dynamic ones those that the input has, at the same place,
            have its sizes; another one has all that is left.
    """
    first, dims = next(iter(inputs.items()))
    nodes = [helper.make_node("Size", [first], ["size"])]
    constants = [_constant("nothing", 0, "int64"), _constant("more", [-1, -1], "int64")]
    for name, output in outputs.items():
        if not output:
            nodes.append(helper.make_node("ReduceSum", [first], [name], keepdims=0))
            continue
        is_only_dynamic = sum(not isinstance(dim, int) for dim in output) == 1
        # 0 copies the input's size, and -1 takes the rest.
        sizes = [
            dim
            if isinstance(dim, int)
            else 0
            if dim in (dims or ()) and not is_only_dynamic
            else -1
            for dim in output
        ]
        constants.append(_constant(f"{name}_sizes", sizes, "int64"))
        # In a way that ONNX Runtime cannot see through, or else it would know better.
        nodes += [
            helper.make_node("Mul", ["size", "nothing"], [f"{name}_zero"]),
            helper.make_node("Add", [f"{name}_sizes", f"{name}_zero"], [f"{name}_wanted"]),
            helper.make_node("Reshape", [first, f"{name}_wanted"], [name]),
        ]
    for name in inputs:
        nodes += [
            helper.make_node("Shape", [name], [f"{name}_axes"]),
            helper.make_node("Concat", [f"{name}_axes", "more"], [f"{name}_shape"], axis=0),
        ]
    return _model(
        nodes,
        [_tensor(name, _FLOAT, dims) for name, dims in inputs.items()],
        [
            *(_tensor(name, _FLOAT, dims) for name, dims in outputs.items()),
            *(_tensor(f"{name}_shape", _INT64, ["axes"]) for name in inputs),
        ],
        constants,
    )


def _takes(value: ValueInfoProto, operator: str, **attributes: Any) -> ModelProto:
    """A model of one input, of which an operator makes a number."""
    return _model(
        [helper.make_node(operator, ["x"], ["y"], **attributes)],
        [value],
        [_tensor("y", _INT64 if operator != "Cast" else _FLOAT, None)],
        opset=21,
        ir_version=10,
    )


def takes_sequence() -> ModelProto:
    """An input that is a sequence."""
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(_FLOAT, None))
    return _takes(helper.make_value_info("x", sequence), "SequenceLength")


def takes_optional() -> ModelProto:
    """An input that is optional."""
    optional = TypeProto()
    optional.optional_type.elem_type.CopyFrom(helper.make_tensor_type_proto(_FLOAT, [2]))
    made = _takes(helper.make_value_info("x", optional), "OptionalHasElement")
    made.graph.output[0].type.tensor_type.elem_type = _BOOL
    return made


def takes_map() -> ModelProto:
    """An input that is a map."""
    entry = helper.make_map_type_proto(_INT64, helper.make_tensor_type_proto(_FLOAT, []))
    node = helper.make_node("CastMap", ["x"], ["y"], domain="ai.onnx.ml", map_form="DENSE")
    return _model([node], [helper.make_value_info("x", entry)], [_tensor("y", _FLOAT, [1, None])])


def takes_float8() -> ModelProto:
    """An input of float8."""
    return _takes(_tensor("x", TensorProto.FLOAT8E4M3FN, [2]), "Cast", to=_FLOAT)


def takes_int4() -> ModelProto:
    """An input of int4."""
    return _takes(_tensor("x", TensorProto.INT4, [2]), "Cast", to=_FLOAT)


def takes_complex() -> ModelProto:
    """An input of complex64."""
    return _identity(("x", "y", TensorProto.COMPLEX64, [2]))


BUILDERS: dict[str, Callable[[], ModelProto]] = {
    builder.__name__: builder
    for builder in (
        sentiment,
        image,
        photo,
        photos,
        text,
        numbers,
        mixed,
        strings,
        words,
        string,
        items,
        matrix,
        cube,
        fixed,
        single,
        opened,
        unnamed,
        described,
        optional,
        quotients,
        detector,
        boxes,
        brightest,
        distinct,
        quantized,
        unequal,
        doubled,
        normalized,
        masked,
        crossed,
        labelled,
        highest,
        positioned,
        zipmap,
        scalars,
        sequences,
        table,
        sevens,
        alias,
        constant,
        nonfinite,
        repeat,
        slow,
        slow_to_load,
        slow_words,
        takes_sequence,
        takes_optional,
        takes_map,
        takes_float8,
        takes_int4,
        takes_complex,
    )
}
