"""The reference for the engine: `onnxruntime.InferenceSession` on arrays, in another process."""

import json
import math
import re
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import msgspec
import numpy

from tests.support.oracle import encode_number, encode_tensor
from tests.support.reference_worker import (
    Array,
    Call,
    Declared,
    Items,
    Map,
    Reply,
    Value,
    read_frame,
    write_frame,
)

_ROOT = Path(__file__).parents[2]
_TYPES = {"float": "float32", "double": "float64"}


class Reference:
    """A process that runs models with ONNX Runtime's Python module. Not thread-safe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.reference_worker"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "Reference":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def load(self, model: Path) -> Reply:
        """Loads a model; the reply has its inputs and outputs, or the error."""
        return self._call(Call(str(model), None))

    def run(self, model: Path, feeds: Mapping[str, Any]) -> Reply:
        """Runs a model on arrays: NumPy's, ml_dtypes' bfloat16, and objects for strings."""
        return self._call(Call(str(model), {name: to_array(feeds[name]) for name in feeds}))

    def _call(self, call: Call) -> Reply:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        write_frame(self._process.stdin, msgspec.msgpack.encode(call))
        return msgspec.msgpack.decode(read_frame(self._process.stdout), type=Reply)


def to_array(array: Any) -> Array:
    """A NumPy array as the worker takes and returns it."""
    if array.dtype.kind == "O":
        return Array("string", array.shape, texts=tuple(array.ravel().tolist()))
    return Array(array.dtype.name, array.shape, array.tobytes())


def dtype_of(declared: Declared) -> Any:
    """The dtype of arrays for an input: object for strings."""
    name = declared.type.removeprefix("tensor(").removesuffix(")")
    if name == "string":
        return numpy.dtype(object)
    if name == "bfloat16":
        return numpy.dtype(ml_dtypes.bfloat16)
    return numpy.dtype(_TYPES.get(name, name))


def reason_of(message: str) -> str:
    """What a client may read of an error: one line, without ONNX Runtime's prefixes and sources.

    Without file paths too, and at most 500 characters.
    """
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |^Error in execution: ", "", message)
    # "/build/core/x.cc:123 void* onnxruntime::Class::Function(size_t, bool) "
    text = re.sub(
        r"(?:[A-Za-z]:)?[/\\\w][^\s:]*\.(?:cc|cpp|cu|cuh|h|hpp):\d+ "
        r"(?:[^\n(]*?\w::[^\n(]*\([^\n]*?\)(?: const)? )?",
        "",
        text,
    )
    text = re.sub(r"(?<![\w.])(?<!Name:')(?:[A-Za-z]:)?(?:[/\\][\w.+@~-]+){2,}", "(path)", text)
    text = " ".join(text.split())
    return text if len(text) <= 500 else text[:500] + "…"


# Responses.


def from_python(value: Any) -> Value:
    """A value of `Model.predict` as the reference returns it."""
    if isinstance(value, list):
        return Items(tuple(map(from_python, value)))
    if isinstance(value, dict):
        return Map(tuple(value.items()))
    return to_array(numpy.asarray(value, object if isinstance(value, str) else None))


def as_served(value: Value) -> Value:
    """What `Model.predict` returns for a reference value: bfloat16 as float32."""
    if isinstance(value, Array) and value.type == "bfloat16":
        wide = numpy.frombuffer(value.data, "uint16").astype("uint32") << 16
        return Array("float32", value.shape, wide.tobytes())
    return value


def same(actual: Value, expected: Value) -> bool:
    """Whether two values are equal, bit for bit, NaN included.

    The value served may lack a leading axis of 1, or be the only item of a sequence: which ones
    may is a question for the tests of shapes.
    """
    return _same_bits(actual, expected) or (
        isinstance(expected, Items)
        and len(expected.items) == 1
        and _same_bits(actual, expected.items[0])
    )


def _same_bits(actual: Value, expected: Value) -> bool:
    if isinstance(actual, Array) and isinstance(expected, Array):
        return (
            (actual.type, actual.data, actual.texts)
            == (expected.type, expected.data, expected.texts)
        ) and actual.shape in (expected.shape, expected.shape[1:])
    if isinstance(actual, Items) and isinstance(expected, Items):
        return len(actual.items) == len(expected.items) and all(
            map(_same_bits, actual.items, expected.items)
        )
    if isinstance(actual, Map) and isinstance(expected, Map):
        return _bits_of_entries(actual) == _bits_of_entries(expected)
    return False


def _bits_of_entries(value: Map) -> Sequence[tuple[object, bytes]]:
    return [(key, struct.pack("<d", number)) for key, number in value.entries]


def shaped_like(expected: Value, actual: Value) -> Value:
    """A reference value without the leading axis, or the list, that the value served lacks."""
    if isinstance(expected, Array) and isinstance(actual, Array):
        return msgspec.structs.replace(expected, shape=actual.shape)
    if isinstance(expected, Items) and not _same_bits(actual, expected):
        return expected.items[0]
    return expected


def response_text(values: Mapping[str, Value]) -> str:
    """The response to a request, from the values served."""
    members = (f"{_text(name)}:{value_text(value)}" for name, value in values.items())
    return f"{{{','.join(members)}}}"


def value_text(value: Value) -> str:
    """A value as JSON text. The values of a map are float32, as ZipMap makes them."""
    if isinstance(value, Items):
        return f"[{','.join(map(value_text, value.items))}]"
    if isinstance(value, Map):
        entries = (
            f"{_text(str(key))}:{_element_text(struct.pack('<f', number), 'float32')}"
            for key, number in value.entries
        )
        return f"{{{','.join(entries)}}}"
    if value.type == "string":
        return encode_tensor(value.shape, [_text(text) for text in value.texts])
    width = len(value.data) // max(1, math.prod(value.shape))
    elements = [value.data[at : at + width] for at in range(0, len(value.data), width or 1)]
    return encode_tensor(value.shape, [_element_text(one, value.type) for one in elements])


def _element_text(data: bytes, type_name: str) -> str:
    return encode_number(int.from_bytes(data, "little"), type_name)


def _text(string: str) -> str:
    return json.dumps(string, ensure_ascii=False)
