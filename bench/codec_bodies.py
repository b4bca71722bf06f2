"""The bodies that `codec` decodes and the tensors that it encodes, the same on every machine."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy

Array = numpy.ndarray[Any, Any]

SEVENTEEN_DIGITS = "image, 17 digits"
TOKEN_IDS = "token ids 32x512"


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


def _shortest(values: Array) -> Array:
    """Float64s whose shortest text is that of the nearest float32."""
    return values.astype("float32").astype(str).astype("float64")
