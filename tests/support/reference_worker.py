"""ONNX Runtime's Python module in a process of its own, for reference.py.

Reads requests from stdin and writes replies to stdout, each as its length (8 bytes, little-endian)
and MessagePack. A process that serves models never imports the module: two copies of ONNX Runtime
would share its global state.
"""

import ctypes
import math
import sys
from functools import cache
from typing import IO, Any

import msgspec

_BFLOAT16 = 16  # TensorProto.DataType


class Array(msgspec.Struct, tag_field="kind", frozen=True):
    """A tensor.

    Attributes:
        type: NumPy's name of the element type; `bfloat16` and `string` besides.
        shape: with all axes.
        data: the elements in C order, little-endian; of strings, empty.
        texts: the strings in C order.
    """

    type: str
    shape: tuple[int, ...]
    data: bytes = b""
    texts: tuple[str, ...] = ()


class Items(msgspec.Struct, tag_field="kind", frozen=True):
    """A sequence."""

    items: tuple["Array | Items | Map", ...]


class Map(msgspec.Struct, tag_field="kind", frozen=True):
    """A map to floats, in ONNX Runtime's order."""

    entries: tuple[tuple[int | str, float], ...]


Value = Array | Items | Map


class Declared(msgspec.Struct, frozen=True):
    """An input or output as a session describes it: `type` is like `seq(tensor(float))`."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


class Call(msgspec.Struct, frozen=True):
    """A request: load a model and, unless `feeds` is None, run it on these arrays by name."""

    model: str
    feeds: dict[str, Array] | None


class Reply(msgspec.Struct, frozen=True):
    """The outcome of a call.

    Attributes:
        error: ONNX Runtime's message; None on success.
        inputs, outputs: as declared, once the model was loaded.
        values: the outputs, in the order of `outputs`.
    """

    error: str | None = None
    inputs: tuple[Declared, ...] = ()
    outputs: tuple[Declared, ...] = ()
    values: tuple[Value, ...] = ()


def read_frame(stream: IO[bytes]) -> bytes:
    """Reads one message; empty at the end of the stream."""
    size = int.from_bytes(stream.read(8), "little")
    return stream.read(size)


def write_frame(stream: IO[bytes], message: bytes) -> None:
    """Writes one message."""
    stream.write(len(message).to_bytes(8, "little") + message)
    stream.flush()


@cache
def _session(model: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _answer(call: Call) -> Reply:
    try:
        session = _session(call.model)
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        return Reply(str(error))
    inputs, outputs = (
        tuple(Declared(node.name, node.type, tuple(node.shape or ())) for node in nodes)
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    if call.feeds is None:
        return Reply(None, inputs, outputs)
    try:
        values = _run(session, call.feeds, outputs)
    except Exception as error:
        return Reply(str(error), inputs, outputs)
    return Reply(None, inputs, outputs, values)


def _run(session: Any, feeds: dict[str, Array], outputs: tuple[Declared, ...]) -> tuple[Value, ...]:
    names = [output.name for output in outputs]
    given = {name: _from_array(array) for name, array in feeds.items()}
    if any(output.type == "tensor(bfloat16)" for output in outputs):
        values = {name: _to_ortvalue(value) for name, value in given.items()}
        return tuple(map(_read_ortvalue, session.run_with_ort_values(names, values)))
    return tuple(map(_to_value, session.run(names, given)))


def _from_array(array: Array) -> Any:
    """What `session.run` takes: a NumPy array, or an OrtValue of a type that NumPy lacks."""
    import numpy
    import onnxruntime

    if array.type == "string":
        strings = numpy.empty(len(array.texts), object)
        strings[:] = array.texts
        return strings.reshape(array.shape)
    if array.type == "bfloat16":
        bits = numpy.frombuffer(array.data, numpy.uint16).reshape(array.shape)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)
    return numpy.frombuffer(array.data, array.type).reshape(array.shape)


def _to_ortvalue(value: Any) -> Any:
    import onnxruntime

    if isinstance(value, onnxruntime.OrtValue):
        return value
    return onnxruntime.OrtValue.ortvalue_from_numpy(value)


def _read_ortvalue(value: Any) -> Array:
    """A tensor from its memory: `OrtValue.numpy()` fails for bfloat16."""
    if value.element_type() != _BFLOAT16:
        return _to_array(value.numpy())
    shape = tuple(value.shape())
    nbytes = 2 * math.prod(shape)
    data = ctypes.string_at(value.data_ptr(), nbytes) if nbytes else b""
    return Array("bfloat16", shape, data)


def _to_value(value: Any) -> Value:
    import numpy

    if isinstance(value, list):
        return Items(tuple(map(_to_value, value)))
    if isinstance(value, dict):
        return Map(tuple(value.items()))
    # A sequence of scalars holds NumPy's scalars, or strings.
    return _to_array(numpy.asarray(value, object if isinstance(value, str) else None))


def _to_array(array: Any) -> Array:
    if array.dtype.kind == "O":
        return Array("string", array.shape, texts=tuple(array.ravel().tolist()))
    return Array(array.dtype.name, array.shape, array.tobytes())


def main() -> None:
    """Answers calls until stdin ends."""
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while message := read_frame(stdin):
        call = msgspec.msgpack.decode(message, type=Call)
        write_frame(stdout, msgspec.msgpack.encode(_answer(call)))


if __name__ == "__main__":
    main()
