"""The models of `gpu`: three of real sizes with random weights, and small ones for one check each.

All are generated here, the same on every machine, and cached in files.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
from cases import FOLDER
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = numpy.ndarray[Any, Any]
Dims = Sequence[int | str]

_FLOAT, _INT64, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A model, and requests for it.

    Attributes:
        name: in tables.
        about: a description.
        build: builds the model.
        inputs: (random, rows) → a request of that many rows, with all axes.
    """

    name: str
    about: str
    build: Callable[[], ModelProto]
    inputs: Callable[[numpy.random.Generator, int], Mapping[str, Array]]

    def file(self) -> Path:
        """The model's file, written unless it exists."""
        return written(self.name, self.build)


def written(name: str, build: Callable[[], ModelProto]) -> Path:
    """The file of a model, built unless this version of this module has built it before."""
    version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:10]
    file = FOLDER / "gpu" / version / f"{name}.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".part")
        unfinished.write_bytes(build().SerializeToString())
        unfinished.rename(file)
    return file


def real_models(*, small: bool = False) -> dict[str, GpuModel]:
    """The models of real sizes, by name.

    Args:
        small: with few and narrow layers, for tests.
    """
    side = 32 if small else 224
    words, length = (50, 8) if small else (30522, 128)
    ending = "-small" if small else ""

    def images(random: numpy.random.Generator, rows: int) -> dict[str, Array]:
        noise = random.random((rows, 3, side, side), numpy.float32)
        # A colour of its own for each: the last layers cannot tell plain noise apart.
        return {"image": noise + random.standard_normal((rows, 3, 1, 1), numpy.float32)}

    def tokens(random: numpy.random.Generator, rows: int) -> dict[str, Array]:
        mask = numpy.arange(length) < random.integers(length // 2, length + 1, (rows, 1))
        return {
            "input_ids": random.integers(0, words, (rows, length)),
            "attention_mask": mask.astype(numpy.int64),
        }

    models = (
        GpuModel(
            f"mlp{ending}",
            "a tiny model: 16 floats, eight layers of 128, 10 floats",
            _mlp,
            lambda random, rows: {"x": random.standard_normal((rows, 16), numpy.float32)},
        ),
        GpuModel(
            f"resnet50{ending}",
            "the layers of ResNet-50 (25.6 M parameters), images of 3x224x224",
            lambda: resnet((1, 1, 1, 1), 8) if small else resnet(),
            images,
        ),
        GpuModel(
            f"bert{ending}",
            "the layers of BERT-base (109 M parameters), 128 tokens",
            lambda: bert(1, 32, 2, words, length) if small else bert(),
            tokens,
        ),
    )
    return dict(zip(("mlp", "resnet50", "bert"), models, strict=True))


class _Net:
    """A graph builder; its weights come from one seeded generator."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.random = numpy.random.default_rng(0)

    def constant(self, values: object, dtype: str = "float32") -> str:
        """Adds a constant; returns its name, as do all methods that add something."""
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(numpy.asarray(values, dtype), name))
        return name

    def normal(self, shape: Sequence[int], deviation: float) -> str:
        """Adds a constant of normal deviates."""
        return self.constant(self.random.standard_normal(shape, numpy.float32) * deviation)

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Adds a node; returns its output's name."""
        output = name or f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(
                operator, inputs, [output], f"/{operator}_{len(self.nodes)}", **attributes
            )
        )
        return output

    def dense(self, x: str, inputs: int, outputs: int, name: str = "") -> str:
        """Adds a dense layer over the last axis, as exporters write it."""
        product = self.add("MatMul", x, self.normal((inputs, outputs), inputs**-0.5))
        return self.add("Add", product, self.normal((outputs,), 0.02), name=name)

    def model(
        self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
    ) -> ModelProto:
        """The finished model."""
        return _model(self.nodes, inputs, outputs, self.weights)


def _model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Sequence[TensorProto] = (),
) -> ModelProto:
    graph = helper.make_graph(list(nodes), "gpu", inputs, outputs, list(constants))
    # Versions supported by every ONNX Runtime since 1.20.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _tensor(name: str, type_code: int, dims: Dims) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, type_code, dims)


def _floats(name: str, *dims: int | str) -> ValueInfoProto:
    return _tensor(name, _FLOAT, dims)


def _mlp() -> ModelProto:
    net = _Net()
    x = "x"
    for inputs, outputs in pairwise((16, *[128] * 8)):
        x = net.add("Relu", net.dense(x, inputs, outputs))
    net.dense(x, 128, 10, name="y")
    return net.model([_floats("x", "batch", 16)], [_floats("y", "batch", 10)])


def resnet(blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64) -> ModelProto:
    """ResNet with bottleneck blocks; by default ResNet-50 v1.5.

    Args:
        blocks: the number of blocks per stage.
        width: the channels of the stem.

    Source: He et al., "Deep Residual Learning for Image Recognition" (2015), table 1.
    """
    net = _Net()

    def conv(x: str, inputs: int, outputs: int, size: int, stride: int = 1, gain: float = 1) -> str:
        kernel = net.normal((outputs, inputs, size, size), math.sqrt(2 / (inputs * size**2)))
        pads = [size // 2] * 4
        x = net.add("Conv", x, kernel, kernel_shape=[size] * 2, strides=[stride] * 2, pads=pads)
        scale, bias = net.constant([gain] * outputs), net.normal((outputs,), 0.1)
        mean, variance = net.normal((outputs,), 0.1), net.constant([1.0] * outputs)
        return net.add("BatchNormalization", x, scale, bias, mean, variance)

    x = net.add("Relu", conv("image", 3, width, 7, 2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = width
    for stage, count in enumerate(blocks):
        inner = width << stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            y = net.add("Relu", conv(x, inputs, inner, 1))
            y = net.add("Relu", conv(y, inner, inner, 3, stride))
            y = conv(y, inner, 4 * inner, 1, gain=0.3)
            same = x if block else conv(x, inputs, 4 * inner, 1, stride)
            x = net.add("Relu", net.add("Add", y, same))
            inputs = 4 * inner
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    weights, bias = net.normal((inputs, 1000), inputs**-0.5), net.normal((1000,), 0.02)
    net.add("Gemm", x, weights, bias, name="scores")
    return net.model(
        [_floats("image", "batch", 3, "height", "width")], [_floats("scores", "batch", 1000)]
    )


def bert(
    layers: int = 12, hidden: int = 768, heads: int = 12, words: int = 30522, length: int = 128
) -> ModelProto:
    """A transformer encoder with a classifier; by default of BERT-base's size.

    Args:
        layers: the number of layers.
        hidden: the width of each layer.
        heads: the attention heads per layer.
        words: the size of the vocabulary.
        length: the number of tokens, the same in all texts.

    Source: Devlin et al., "BERT" (2018).
    """
    net = _Net()
    part = hidden // heads

    def normalize(x: str) -> str:
        scale, bias = net.constant([1.0] * hidden), net.normal((hidden,), 0.02)
        return net.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)

    def gelu(x: str) -> str:
        erf = net.add("Erf", net.add("Div", x, net.constant(math.sqrt(2))))
        product = net.add("Mul", x, net.add("Add", erf, net.constant(1)))
        return net.add("Mul", product, net.constant(0.5))

    def split(x: str, *order: int) -> str:
        parts = net.add("Reshape", x, net.constant([0, 0, heads, part], "int64"))
        return net.add("Transpose", parts, perm=order)

    words_seen = net.add("Gather", net.normal((words, hidden), 1.0), "input_ids")
    positions = net.normal((1, length, hidden), 0.5)  # plus that of the single token type
    x = normalize(net.add("Add", words_seen, positions))
    mask = net.add("Unsqueeze", "attention_mask", net.constant([1, 2], "int64"))
    hides = net.add("Sub", net.constant(1), net.add("Cast", mask, to=_FLOAT))
    hides = net.add("Mul", hides, net.constant(-10000))
    for _ in range(layers):
        query, key = (
            split(net.dense(x, hidden, hidden), *order) for order in ((0, 2, 1, 3), (0, 2, 3, 1))
        )
        value = split(net.dense(x, hidden, hidden), 0, 2, 1, 3)
        fits = net.add("Div", net.add("MatMul", query, key), net.constant(math.sqrt(part)))
        weights = net.add("Softmax", net.add("Add", fits, hides), axis=-1)
        seen = net.add("Transpose", net.add("MatMul", weights, value), perm=[0, 2, 1, 3])
        seen = net.add("Reshape", seen, net.constant([0, 0, hidden], "int64"))
        x = normalize(net.add("Add", net.dense(seen, hidden, hidden), x))
        inner = gelu(net.dense(x, hidden, 4 * hidden))
        x = normalize(net.add("Add", net.dense(inner, 4 * hidden, hidden), x))
    first = net.add("Gather", x, net.constant(0, "int64"), axis=1)
    net.dense(net.add("Tanh", net.dense(first, hidden, hidden)), hidden, 2, name="logits")
    ids = [_tensor(name, _INT64, ["batch", length]) for name in ("input_ids", "attention_mask")]
    return net.model(ids, [_floats("logits", "batch", 2)])


# Small models.


def typed(type_code: int) -> ModelProto:
    """One type: outputs `same` and `moved` (transposed) only move elements, `computed` computes.

    Args:
        type_code: the element type, a TensorProto.DataType.
    """
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Transpose", ["x"], ["moved"]),
    ]
    if type_code == _BOOL:
        nodes.append(helper.make_node("Not", ["x"], ["computed"]))
    elif type_code == TensorProto.BFLOAT16:  # no kernels on the CPU compute with it
        nodes += [
            helper.make_node("Cast", ["x"], ["wide"], to=_FLOAT),
            helper.make_node("Tanh", ["wide"], ["wide_computed"]),
            helper.make_node("Cast", ["wide_computed"], ["computed"], to=type_code),
        ]
    elif type_code in (_FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
        nodes.append(helper.make_node("Softmax", ["x"], ["computed"], axis=-1))
    else:
        nodes.append(helper.make_node("Mul", ["x", "x"], ["computed"]))
    return _model(
        nodes,
        [_tensor("x", type_code, ["rows", "columns"])],
        [
            _tensor("same", type_code, ["rows", "columns"]),
            _tensor("moved", type_code, ["columns", "rows"]),
            _tensor("computed", type_code, ["rows", "columns"]),
        ],
    )


def copied() -> ModelProto:
    """Returns its floats unchanged."""
    return _model(
        [helper.make_node("Identity", ["x"], ["y"])], [_floats("x", "n")], [_floats("y", "n")]
    )


def convolved() -> ModelProto:
    """Images of any size: a convolution, then the mean of each channel."""
    net = _Net()
    kernel = net.normal((8, 3, 3, 3), 0.2)
    x = net.add("Relu", net.add("Conv", "image", kernel, pads=[1] * 4))
    net.add("Flatten", net.add("GlobalAveragePool", x), name="means")
    return net.model(
        [_floats("image", "batch", 3, "height", "width")], [_floats("means", "batch", 8)]
    )


def boxes() -> ModelProto:
    """Selects boxes by score: a dynamic output shape, known only after the run."""
    net = _Net()
    limits = (net.constant([100], "int64"), net.constant([0.5]), net.constant([0.1]))
    net.add("NonMaxSuppression", "boxes", "scores", *limits, name="selected")
    return net.model(
        [_floats("boxes", 1, "n", 4), _floats("scores", 1, 1, "n")],
        [_tensor("selected", _INT64, ["found", 3])],
    )


def doubled() -> ModelProto:
    """Returns its rows twice, although its axis names promise the same number."""
    net = _Net()
    net.add("Concat", "x", "x", name="twice", axis=0)
    net.add("Neg", "x", name="negative")
    dims = ("batch", "n")
    return net.model([_floats("x", *dims)], [_floats("twice", *dims), _floats("negative", *dims)])


def distinct() -> ModelProto:
    """The sorted distinct numbers, an operation that ONNX Runtime has on the CPU only."""
    net = _Net()
    net.add("Neg", net.add("Unique", "x", sorted=1), name="y")
    return net.model([_floats("x", "n")], [_floats("y", "found")])


def looped() -> ModelProto:
    """Doubles numbers `steps` times, in a loop, which no CUDA graph can capture."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("Add", ["state", "state"], ["state_out"]),
        ],
        "body",
        [_tensor("step", _INT64, []), _tensor("go_on", _BOOL, []), _floats("state", "batch", "n")],
        [_tensor("go_on_out", _BOOL, []), _floats("state_out", "batch", "n")],
    )
    return _model(
        [helper.make_node("Loop", ["steps", "", "x"], ["y"], body=body)],
        [_tensor("steps", _INT64, []), _floats("x", "batch", "n")],
        [_floats("y", "batch", "n")],
    )


def clipped() -> ModelProto:
    """Clips numbers to limits that CUDA's kernel reads on the host."""
    net = _Net()
    net.add("Clip", "x", "low", "high", name="y")
    limits = [_floats(name) for name in ("low", "high")]
    return net.model([_floats("x", "batch", "n"), *limits], [_floats("y", "batch", "n")])


def repeated() -> ModelProto:
    """A short request that takes much memory: the sum of `count` ones, all materialized."""
    net = _Net()
    ones = net.add("Expand", net.constant([1]), "count")
    # The Concat forces them to be materialized.
    both = net.add("Concat", ones, net.constant([1]), axis=0)
    net.add("ReduceSum", both, name="sum", keepdims=0)
    return net.model([_tensor("count", _INT64, [1])], [_floats("sum")])


def all_models() -> Iterator[ModelProto]:
    """Every model, for tests; those of real sizes are small."""
    yield from (model.build() for model in real_models(small=True).values())
    small = (copied, convolved, boxes, doubled, distinct, looped, clipped, repeated)
    yield from (build() for build in small)
