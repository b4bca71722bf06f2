"""The models of `gpu`: two of real sizes with random weights, kept in files."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy
from onnx import ModelProto

from common.answers import Array
from common.cases import FOLDER
from common.net import Net


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A model, and requests for it.

    Attributes:
        name: of its file.
        build: builds the model.
        inputs: (random, rows) → a request of that many rows, with all axes.
    """

    name: str
    build: Callable[[], ModelProto]
    inputs: Callable[[numpy.random.Generator, int], Mapping[str, Array]]

    def file(self) -> Path:
        """The model's file, built unless this version of this module has built it before."""
        version = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:10]
        file = FOLDER / "gpu" / version / f"{self.name}.onnx"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_suffix(".part")
            unfinished.write_bytes(self.build().SerializeToString())
            unfinished.rename(file)
        return file


def real_models(*, small: bool = False) -> dict[str, GpuModel]:
    """The models of real sizes, by name.

    Args:
        small: with few and narrow layers, for tests.
    """
    side = 32 if small else 224

    def images(random: numpy.random.Generator, rows: int) -> dict[str, Array]:
        noise = random.random((rows, 3, side, side), numpy.float32)
        # A colour of its own for each: the last layers cannot tell plain noise apart.
        return {"image": noise + random.standard_normal((rows, 3, 1, 1), numpy.float32)}

    def floats(random: numpy.random.Generator, rows: int) -> dict[str, Array]:
        return {"x": random.standard_normal((rows, 16), numpy.float32)}

    models: dict[str, tuple[Callable[[], ModelProto], Callable[..., Mapping[str, Array]]]] = {
        "mlp": (_mlp, floats),
        "resnet50": (lambda: resnet((1, 1, 1, 1), 8) if small else resnet(), images),
    }
    ending = "-small" if small else ""
    return {name: GpuModel(name + ending, *each) for name, each in models.items()}


def copied() -> GpuModel:
    """Returns its floats unchanged."""

    def build() -> ModelProto:
        net = Net()
        net.add("Identity", "x", name="y")
        return net.model({"x": ["n"]}, {"y": ["n"]})

    return GpuModel("copied", build, lambda random, n: {"x": random.random(n, numpy.float32)})


def _mlp() -> ModelProto:
    net, x = Net(), "x"
    for inputs, outputs in pairwise((16, *[128] * 8)):
        x = net.add("Relu", net.dense(x, inputs, outputs))
    net.dense(x, 128, 10, name="y")
    return net.model({"x": ["batch", 16]}, {"y": ["batch", 10]})


def resnet(blocks: Sequence[int] = (3, 4, 6, 3), width: int = 64) -> ModelProto:
    """ResNet with bottleneck blocks; by default ResNet-50 v1.5.

    Args:
        blocks: the number of blocks per stage.
        width: the channels of the stem.

    Source: He et al., "Deep Residual Learning for Image Recognition" (2015), table 1.
    """
    net = Net()

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
    return net.model({"image": ["batch", 3, "height", "width"]}, {"scores": ["batch", 1000]})
