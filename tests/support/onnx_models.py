"""Small ONNX models, each for one rule of the contract.

Opset 17 and IR version 8 where the types allow it, so that older runtimes load them, too.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

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
_node = helper.make_node


def write(name: str, folder: Path) -> Path:
    """Writes a model by its name. Returns its file."""
    file = folder / f"{name}.onnx"
    file.write_bytes(BUILDERS[name]().SerializeToString())
    return file


def write_folder(folder: Path, name: str, gpux_yml: str | bytes | None = None) -> Path:
    """Writes a model folder to serve.

    Args:
        folder: created if missing.
        name: of the model.
        gpux_yml: contents of that file, if any.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write(name, folder).rename(folder / "model.onnx")
    if gpux_yml is not None:
        text = gpux_yml.encode() if isinstance(gpux_yml, str) else gpux_yml
        (folder / "gpux.yml").write_bytes(text)
    return folder


def _tensor(name: str, type_code: int, dims: Dims) -> ValueInfoProto:
    """A tensor's value info; None for `dims` is no shape, None in it an unnamed axis."""
    return helper.make_tensor_value_info(name, type_code, dims)


def _tensors(type_code: int, **dims: Dims) -> list[ValueInfoProto]:
    """The value info of tensors of one type; shapes by name."""
    return [_tensor(name, type_code, shape) for name, shape in dims.items()]


def _constant(name: str, values: object, dtype: str = "float32") -> TensorProto:
    return numpy_helper.from_array(numpy.array(values, dtype), name)


def _integers(**values: object) -> list[TensorProto]:
    return [_constant(name, value, "int64") for name, value in values.items()]


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
    """A model that returns its inputs: (input, output, type, dims) each."""
    return _model(
        [_node("Identity", [name], [output]) for name, output, _, _ in tensors],
        [_tensor(name, type_code, dims) for name, _, type_code, dims in tensors],
        [_tensor(output, type_code, dims) for _, output, type_code, dims in tensors],
    )


def _on_rows(
    *nodes: NodeProto, columns: int | str = "n", constants: Sequence[TensorProto] = ()
) -> ModelProto:
    """A model from `x` to `y`, both float32 [batch, columns]."""
    dims = ["batch", columns]
    return _model(nodes, _tensors(_FLOAT, x=dims), _tensors(_FLOAT, y=dims), constants)


def sentiment() -> ModelProto:
    """Token ids and their mask → two logits per row, which depend on all of them."""
    return _model(
        [
            _node("Mul", ["input_ids", "attention_mask"], ["kept"]),
            _node("Cast", ["kept"], ["numbers"], to=_FLOAT),
            _node("ReduceMean", ["numbers"], ["mean"], axes=[1], keepdims=1),
            _node("Gemm", ["mean", "weights", "bias"], ["logits"]),
        ],
        _tensors(_INT64, input_ids=["batch", "seq"], attention_mask=["batch", "seq"]),
        _tensors(_FLOAT, logits=["batch", 2]),
        [_constant("weights", [[0.0003, -0.0007]]), _constant("bias", [0.1, 0.9])],
    )


def _classifier(leading: int | str, size: int) -> ModelProto:
    rng = numpy.random.default_rng(0)
    return _model(
        [
            _node("GlobalAveragePool", ["image"], ["pooled"]),
            _node("Flatten", ["pooled"], ["colours"]),
            _node("MatMul", ["colours", "weights"], ["scores"]),
            _node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        _tensors(_FLOAT, image=[leading, 3, size, size]),
        _tensors(_FLOAT, probabilities=[leading, 10]),
        [_constant("weights", rng.normal(size=(3, 10)))],
    )


def image() -> ModelProto:
    """One image per request: `[1, 3, 8, 8]`."""
    return _classifier(1, 8)


def photo() -> ModelProto:
    """One image per request, of the usual size: `[1, 3, 224, 224]`."""
    return _classifier(1, 224)


def photos() -> ModelProto:
    """A batch of images: `[batch, 3, 224, 224]`."""
    return _classifier("batch", 224)


def text() -> ModelProto:
    """Text → [negative, positive], from a table of three texts."""
    known = {"I love this product!": 0.95, "I love GPUX!": 0.875, "This is terrible": 0.125}
    return _model(
        [
            _node(
                "LabelEncoder",
                ["text"],
                ["positive"],
                domain="ai.onnx.ml",
                keys_strings=list(known),
                values_floats=list(known.values()),
                default_float=0.5,
            ),
            _node("Gemm", ["positive", "signs", "offsets"], ["sentiment"]),
        ],
        _tensors(_STRING, text=["batch", 1]),
        _tensors(_FLOAT, sentiment=["batch", 2]),
        [_constant("signs", [[-1, 1]]), _constant("offsets", [1, 0])],
    )


def numbers() -> ModelProto:
    """An input of each numeric type, and an output that returns it."""
    return _identity(
        *(
            (name, f"{name}_out", type_code, [f"{name}_rows", f"{name}_columns"])
            for name, type_code in NUMBER_TYPES.items()
        )
    )


def mixed() -> ModelProto:
    """`numbers` and a string, which IOBinding does not support; bfloat16 is returned as float32."""
    model = _without_bfloat16(numbers())
    model.graph.node.append(_node("Identity", ["text"], ["text_out"]))
    model.graph.input.append(_tensor("text", _STRING, ["text_rows"]))
    model.graph.output.append(_tensor("text_out", _STRING, ["text_rows"]))
    return model


def _without_bfloat16(model: ModelProto) -> ModelProto:
    """The same with `bfloat16_out` as float32: with strings, bfloat16 cannot be returned."""
    for node in model.graph.node:
        if node.input[0] == "bfloat16":
            node.CopyFrom(_node("Cast", node.input, node.output, to=_FLOAT))
    for output in model.graph.output:
        if output.name == "bfloat16_out":
            output.type.tensor_type.elem_type = _FLOAT
    return model


def strings() -> ModelProto:
    """Strings, returned unchanged."""
    return _identity(("texts", "same", _STRING, ["batch", "n"]))


def words() -> ModelProto:
    """Strings, one per item, returned unchanged."""
    return _identity(("word", "same", _STRING, ["batch"]))


def string() -> ModelProto:
    """A string without a batch axis."""
    return _identity(("word", "same", _STRING, []))


def items() -> ModelProto:
    """Inputs whose items are scalars."""
    return _identity(
        ("a", "a_out", _FLOAT, ["batch"]),
        ("b", "b_out", _INT64, ["batch", 1]),
        ("c", "c_out", _BOOL, ["batch", 1]),
    )


def matrix() -> ModelProto:
    """One batched input with two dynamic axes."""
    return _identity(("x", "y", _FLOAT, ["batch", "n"]))


def cube() -> ModelProto:
    """One batched input with three dynamic axes."""
    return _identity(("x", "y", _INT64, ["batch", "n", "m"]))


def fixed() -> ModelProto:
    """A fixed leading axis that is not the batch axis."""
    return _identity(("x", "y", _FLOAT, [2, 3]))


def single() -> ModelProto:
    """An input for a single item, with outputs whose leading axis is 1, 2 and missing."""
    return _model(
        [
            _node("Identity", ["x"], ["same"]),
            _node("Concat", ["x", "x"], ["twice"], axis=0),
            _node("ReduceSum", ["x"], ["sum"], keepdims=0),
        ],
        _tensors(_FLOAT, x=[1, 3]),
        _tensors(_FLOAT, same=[1, 3], twice=[2, 3], sum=[]),
    )


def opened() -> ModelProto:
    """A declared scalar and an undeclared shape: ONNX Runtime reports both alike."""
    return _identity(("scalar", "scalar_out", _INT64, []), ("free", "free_out", _FLOAT, None))


def unnamed() -> ModelProto:
    """Two batched inputs whose axes have no names."""
    return _identity(("a", "a_out", _FLOAT, [None, 2]), ("b", "b_out", _FLOAT, [None]))


def described() -> ModelProto:
    """Inputs of all kinds, returned unchanged: gpux.yml can configure much of them."""
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
    """One input that determines the sizes, and inputs that can be optional."""
    pair: Dims = ["batch", 2]
    model = _identity(
        ("x", "x_out", _FLOAT, ["batch", "n"]),
        ("mask", "mask_out", _INT64, ["batch", "n"]),
        *((name, f"{name}_out", code, pair) for name, code in NUMBER_TYPES.items()),
        ("string", "string_out", _STRING, pair),
        ("state", "state_out", _FLOAT, [2, 3]),
        ("rate", "rate_out", _INT64, []),
    )
    return _without_bfloat16(model)


def quotients() -> ModelProto:
    """Quotients, including infinities and NaN, in each float type."""
    casts = {name: NUMBER_TYPES[name] for name in ("float32", "float16", "bfloat16")}
    return _model(
        [
            _node("Div", ["a", "b"], ["float64"]),
            *(_node("Cast", ["float64"], [name], to=code) for name, code in casts.items()),
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
            _node("NonZero", ["x"], ["columns"]),
            _node("Transpose", ["columns"], ["places"]),
            _node("Identity", ["x"], ["same"]),
        ],
        _tensors(_FLOAT, x=["batch", "n"]),
        [_tensor("places", _INT64, ["num_detections", 2]), _tensor("same", _FLOAT, ["batch", "n"])],
    )


def boxes() -> ModelProto:
    """Selects boxes by their scores: their count is known only after the run."""
    return _model(
        [_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["selected"])],
        _tensors(_FLOAT, boxes=[1, "n", 4], scores=[1, 1, "n"]),
        _tensors(_INT64, selected=["found", 3]),
        [_constant("most", [100], "int64"), _constant("overlap", [0.5]), _constant("least", [0.1])],
    )


def normalized() -> ModelProto:
    """Subtracts the batch's mean from each row: a row's result depends on the other rows."""
    return _on_rows(
        _node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        _node("Sub", ["x", "mean"], ["y"]),
    )


def brightest() -> ModelProto:
    """Divides by the maximum of the whole batch."""
    return _on_rows(
        _node("ReduceMax", ["x"], ["most"], keepdims=0), _node("Div", ["x", "most"], ["y"])
    )


def distinct() -> ModelProto:
    """Returns each distinct row once, although its axis names promise as many rows as sent."""
    return _on_rows(_node("Unique", ["x"], ["y"], axis=0, sorted=0), columns=2)


def quantized() -> ModelProto:
    """Quantizes its rows by their common range, like dynamically quantized models."""
    return _on_rows(
        _node("DynamicQuantizeLinear", ["x"], ["whole", "scale", "zero"], name="range"),
        _node("DequantizeLinear", ["whole", "scale", "zero"], ["y"]),
        columns=3,
    )


def unequal() -> ModelProto:
    """Adds two inputs, of which one may have a single row that is added to all of the other."""
    return _model(
        [_node("Add", ["x", "y"], ["z"])],
        _tensors(_FLOAT, x=["a", 2], y=["b", 2]),
        _tensors(_FLOAT, z=["a", 2]),
    )


def doubled() -> ModelProto:
    """Returns its rows twice, although its axis names promise as many as sent."""
    return _model(
        [_node("Concat", ["x", "x"], ["twice"], axis=0), _node("Neg", ["x"], ["negative"])],
        _tensors(_FLOAT, x=["batch", "n"]),
        _tensors(_FLOAT, twice=["batch", "n"], negative=["batch", "n"]),
    )


def masked() -> ModelProto:
    """Keeps the ids that the mask selects: each row in two shapes, and its sum."""
    return _model(
        [
            _node("Mul", ["ids", "mask"], ["kept"]),
            _node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=0),
            _node("Unsqueeze", ["kept", "last"], ["column"]),
            _node("Mul", ["column", "factors"], ["states"]),
        ],
        _tensors(_INT64, ids=["batch", "seq"], mask=["batch", "seq"]),
        _tensors(_INT64, states=["batch", "seq", 3], kept=["batch", "seq"], sum=["batch"]),
        _integers(axis=[1], last=[2], factors=[1, 2, -1]),
    )


def crossed() -> ModelProto:
    """Pairwise sums of two rows, and the first row plus a number of an input of fixed size."""
    return _model(
        [
            _node("Unsqueeze", ["a", "third"], ["column"]),
            _node("Unsqueeze", ["b", "second"], ["line"]),
            _node("Add", ["column", "line"], ["sums"]),
            _node("Slice", ["fixed", "zero", "one", "second"], ["first"]),
            _node("Add", ["a", "first"], ["moved"]),
        ],
        _tensors(_FLOAT, a=["batch", "n"], b=["batch", "m"], fixed=["batch", 2]),
        _tensors(_FLOAT, sums=["batch", "n", "m"], moved=["batch", "n"]),
        _integers(zero=[0], one=[1], second=[1], third=[2]),
    )


def labelled() -> ModelProto:
    """A word for each id."""
    node = _node(
        "LabelEncoder",
        ["ids"],
        ["words"],
        domain="ai.onnx.ml",
        keys_int64s=[0, 1, 2],
        values_strings=["none", "one", "two"],
        default_string="many",
    )
    return _model(
        [node], _tensors(_INT64, ids=["batch", "seq"]), _tensors(_STRING, words=["batch", "seq"])
    )


def highest() -> ModelProto:
    """The maximum of a row, padding included."""
    return _model(
        [_node("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0)],
        _tensors(_FLOAT, x=["batch", "n"]),
        _tensors(_FLOAT, y=["batch"]),
    )


def positioned() -> ModelProto:
    """Adds its index to each number, for up to 40 numbers."""
    return _on_rows(
        _node("Shape", ["x"], ["size"], start=1, end=2),
        _node("Slice", ["places", "zero", "size"], ["there"]),
        _node("Add", ["x", "there"], ["y"]),
        constants=[_constant("places", numpy.arange(40)), _constant("zero", [0], "int64")],
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
            _node("Reciprocal", ["x"], ["inverse"]),
            *(
                _node("ZipMap", [source], [f"{source}_{kind}"], domain="ai.onnx.ml", **keys)
                for source in ("x", "inverse")
                for kind, keys in labels.items()
            ),
        ],
        _tensors(_FLOAT, x=["batch", 2]),
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
        [_node("SplitToSequence", [name], [f"{name}s"], axis=0, keepdims=0) for name in types],
        [_tensor(name, type_code, ["batch"]) for name, type_code in types.items()],
        [_sequence(f"{name}s", type_code) for name, type_code in types.items()],
    )


def sequences() -> ModelProto:
    """Sequences of tensors and a tensor, from a batched input: one element per row."""
    return _model(
        [
            _node("SplitToSequence", ["x"], ["rows"], axis=0, keepdims=0),
            _node("Cast", ["x"], ["whole"], to=_INT64),
            _node("SequenceConstruct", ["whole", "whole"], ["twice"]),
            _node("Identity", ["x"], ["same"]),
        ],
        _tensors(_FLOAT, x=["batch", "n"]),
        [
            _sequence("rows", _FLOAT),
            _sequence("twice", _INT64),
            _tensor("same", _FLOAT, ["batch", "n"]),
        ],
    )


def table() -> ModelProto:
    """Looks up ids in a table of four rows: any other id fails at run time."""
    return _model(
        [_node("Gather", ["rows", "ids"], ["embedding"], name="/look/up")],
        _tensors(_INT64, ids=["batch", "seq"]),
        _tensors(_FLOAT, embedding=["batch", "seq", 2]),
        [_constant("rows", [[0, 1], [2, 3], [4, 5], [6, 7]])],
    )


def catalogue() -> ModelProto:
    """`table` with ids that start at 100: generated ids fail at run time.

    Not in BUILDERS, for whose models a valid request can be generated.
    """
    model = table()
    model.graph.node.insert(0, _node("Sub", ["ids", "first"], ["places"]))
    model.graph.node[1].input[1] = "places"
    model.graph.initializer.append(_constant("first", 100, "int64"))
    return model


def sevens() -> ModelProto:
    """Reshapes numbers to rows of seven: a count that is no multiple of seven fails at run time."""
    return _model(
        [_node("Reshape", ["x", "shape"], ["y"])],
        _tensors(_FLOAT, x=["batch", "n"]),
        _tensors(_FLOAT, y=["rows", 7]),
        _integers(shape=[-1, 7]),
    )


def alias() -> ModelProto:
    """An output that is the input itself, and one that is computed."""
    return _model(
        [_node("Add", ["x", "x"], ["doubled"])],
        _tensors(_FLOAT, x=["batch", "n"]),
        _tensors(_FLOAT, doubled=["batch", "n"], x=["batch", "n"]),
    )


def constant() -> ModelProto:
    """An output that is a constant of the model, and one that is that constant renamed."""
    return _model(
        [_node("Identity", ["weights"], ["renamed"]), _node("Neg", ["x"], ["y"])],
        _tensors(_FLOAT, x=["batch", 2]),
        _tensors(_FLOAT, weights=[2], renamed=[2], y=["batch", 2]),
        [_constant("weights", [1.5, 2.5])],
    )


def nonfinite() -> ModelProto:
    """Infinities and NaN from zeros."""
    return _model(
        [_node("Reciprocal", ["x"], ["reciprocal"]), _node("Div", ["x", "x"], ["quotient"])],
        _tensors(_FLOAT, x=["batch", "n"]),
        _tensors(_FLOAT, reciprocal=["batch", "n"], quotient=["batch", "n"]),
    )


def repeat() -> ModelProto:
    """A short request with a long response: `count` ones."""
    return _model(
        [_node("Expand", ["one", "count"], ["ones"])],
        _tensors(_INT64, count=[1]),
        _tensors(_FLOAT, ones=["n"]),
        [_constant("one", [1])],
    )


def slow() -> ModelProto:
    """Runs for as long as requested: `steps` products of two matrices."""
    square = [128, 128]
    body = helper.make_graph(
        [
            _node("Identity", ["go_on"], ["go_on_out"]),
            _node("MatMul", ["state", "turn"], ["state_out"]),
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
            _node("Loop", ["steps", "", "turn"], ["last"], body=body),
            _node("ReduceSum", ["last"], ["sum"], keepdims=0),
        ],
        _tensors(_INT64, steps=[]),
        _tensors(_FLOAT, sum=[]),
        [_constant("turn", numpy.eye(128))],
    )


def slow_to_load() -> ModelProto:
    """A row plus a constant, which ONNX Runtime computes by matrix products at load time."""
    products = [f"product_{number}" for number in range(300)]
    return _model(
        [
            _node("ConstantOfShape", ["size"], ["zeros"]),
            *(
                _node("MatMul", [before, "zeros"], [product])
                for before, product in pairwise(["zeros", *products])
            ),
            _node("Add", ["x", products[-1]], ["y"]),
        ],
        _tensors(_FLOAT, x=[1, 1536]),
        _tensors(_FLOAT, y=[1536, 1536]),
        _integers(size=[1536, 1536]),
    )


def slow_words() -> ModelProto:
    """`slow` and a string, which IOBinding does not support."""
    model = slow()
    model.graph.node.append(_node("Identity", ["word"], ["same"]))
    model.graph.input.append(_tensor("word", _STRING, []))
    model.graph.output.append(_tensor("same", _STRING, []))
    return model


def reshaped(
    inputs: Mapping[str, Dims], outputs: Mapping[str, Sequence[int | str | None]]
) -> ModelProto:
    """float32 inputs, and outputs that are the first input in other shapes.

    Each input also has an output `NAME_shape`: its shape in the run, and two more numbers, so that
    it does not look like a batch of one.

    Args:
        inputs: axes by name.
        outputs: axes by name. Of several dynamic axes, those that the first input has at the same
            index have its sizes; another one takes the rest.
    """
    first, dims = next(iter(inputs.items()))
    nodes = [_node("Size", [first], ["size"])]
    constants = _integers(nothing=0, more=[-1, -1])
    for name, output in outputs.items():
        if not output:
            nodes.append(_node("ReduceSum", [first], [name], keepdims=0))
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
        # Opaque to ONNX Runtime, which would otherwise infer the real shape.
        nodes += [
            _node("Mul", ["size", "nothing"], [f"{name}_zero"]),
            _node("Add", [f"{name}_sizes", f"{name}_zero"], [f"{name}_wanted"]),
            _node("Reshape", [first, f"{name}_wanted"], [name]),
        ]
    for name in inputs:
        nodes += [
            _node("Shape", [name], [f"{name}_axes"]),
            _node("Concat", [f"{name}_axes", "more"], [f"{name}_shape"], axis=0),
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
    """A model of one input, from which an operator computes a number."""
    return _model(
        [_node(operator, ["x"], ["y"], **attributes)],
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
    model = _takes(helper.make_value_info("x", optional), "OptionalHasElement")
    model.graph.output[0].type.tensor_type.elem_type = _BOOL
    return model


def takes_map() -> ModelProto:
    """An input that is a map."""
    entry = helper.make_map_type_proto(_INT64, helper.make_tensor_type_proto(_FLOAT, []))
    node = _node("CastMap", ["x"], ["y"], domain="ai.onnx.ml", map_form="DENSE")
    return _model([node], [helper.make_value_info("x", entry)], _tensors(_FLOAT, y=[1, None]))


def takes_float8() -> ModelProto:
    """An input of float8."""
    return _takes(_tensor("x", TensorProto.FLOAT8E4M3FN, [2]), "Cast", to=_FLOAT)


def takes_int4() -> ModelProto:
    """An input of int4."""
    return _takes(_tensor("x", TensorProto.INT4, [2]), "Cast", to=_FLOAT)


def takes_complex() -> ModelProto:
    """An input of complex64."""
    return _identity(("x", "y", TensorProto.COMPLEX64, [2]))


_BUILDERS = (
    sentiment, image, photo, photos, text, numbers, mixed, strings, words, string, items,
    matrix, cube, fixed, single, opened, unnamed, described, optional, quotients, detector,
    boxes, brightest, distinct, quantized, unequal, doubled, normalized, masked, crossed,
    labelled, highest, positioned, zipmap, scalars, sequences, table, sevens, alias, constant,
    nonfinite, repeat, slow, slow_to_load, slow_words, takes_sequence, takes_optional,
    takes_map, takes_float8, takes_int4, takes_complex,
)  # fmt: skip
BUILDERS: dict[str, Callable[[], ModelProto]] = {builder.__name__: builder for builder in _BUILDERS}
