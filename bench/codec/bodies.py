"""The bodies that `codec` decodes and the tensors that it encodes, the same on every machine."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy

Array = numpy.ndarray[Any, Any]

SEVENTEEN_DIGITS = "image, 17 digits"
TOKEN_IDS = "token ids 32x512"
# Lists of a few numbers.
HWC = "image, channels last"
BOXES = "boxes [N, 4]"
TABULAR = "tabular rows [N, 8]"
SHORT_IDS = "ids in rows of 3"


@dataclass(frozen=True, slots=True)
class Body:
    """A request with one input, `x`.

    Attributes:
        name: in tables.
        text: the request, as Python's json writes it.
        tensor: the expected result of decoding: each number converted by NumPy to float64, then to
            the input's type. Its first axis is the batch axis.
        answer: the tensor to encode, with the numbers of `text`.
    """

    name: str
    text: bytes
    tensor: Array
    answer: Array

    @property
    def type(self) -> str:
        """The input's type."""
        return str(self.tensor.dtype)


def make(name: str, values: Array, input_type: str, answer_type: str) -> Body:
    """The body with these float64 or int64 values."""
    text = json.dumps({"x": values.tolist()}).encode()
    read = numpy.asarray(json.loads(text)["x"], values.dtype)
    return Body(name, text, read.astype(input_type), read.astype(answer_type))


def bodies() -> Iterator[Body]:
    """Yields all bodies, one at a time."""
    random = numpy.random.default_rng(0)
    image = random.random((1, 3, 224, 224))
    yield make(SEVENTEEN_DIGITS, image, "float32", "float64")
    yield make("image, float32", _shortest(image), "float32", "float32")
    yield make("image, 4 decimals", numpy.round(image, 4), "float32", "float32")
    # Like a transformer's embeddings: signed, of all magnitudes, occasionally with an exponent.
    deviates = random.standard_normal((1, 196, 768))
    yield make("normal deviates", _shortest(deviates), "float32", "float32")
    yield make(TOKEN_IDS, random.integers(0, 30_522, (32, 512)), "int64", "int64")
    yield make(HWC, _shortest(random.random((1, 224, 224, 3))), "float32", "float32")
    yield make(BOXES, numpy.round(random.random((8192, 4)) * 640, 2), "float32", "float32")
    yield make(TABULAR, _tabular(random), "float32", "float32")
    yield make(SHORT_IDS, random.integers(0, 30_522, (8192, 3)), "int64", "int64")


def _tabular(random: numpy.random.Generator) -> Array:
    """Rows of eight features of different magnitudes, like those of California's housing prices."""
    columns = [
        numpy.round(random.gamma(4.0, 1.0, 4096), 4),
        random.integers(1, 53, 4096).astype("float64"),
        numpy.round(random.gamma(9.0, 0.6, 4096), 8),
        numpy.round(random.normal(1.1, 0.1, 4096), 8),
        random.integers(3, 3000, 4096).astype("float64"),
        numpy.round(random.gamma(9.0, 0.33, 4096), 8),
        numpy.round(random.uniform(32.5, 42.0, 4096), 2),
        numpy.round(random.uniform(-124.4, -114.3, 4096), 2),
    ]
    return numpy.stack(columns, axis=1)


def _shortest(values: Array) -> Array:
    """Float64s whose shortest text is that of the nearest float32."""
    return values.astype("float32").astype(str).astype("float64")
