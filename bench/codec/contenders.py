"""The contenders of `codec`: our functions as the server calls them, and other libraries.

Each decoder turns the whole body into a contiguous array of the input's type and shape.
"""

import importlib
import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy

from codec.bodies import Body
from common.answers import check_bits
from common.timing import Contender
from gpux._engine import Request
from gpux._fastpath import Block, InputSpec, Pool, walk
from gpux.config.schema import ModelConfig
from gpux.inputs.model_io import merge_config
from gpux.inputs.pipeline import create_pipeline
from gpux.tensors.memory import Tensor, array_of
from gpux.tensors.outputs import encode as encode_response
from gpux.tensors.request import tensors_of
from gpux.tensors.signature import BY_NAME, Signature, TensorSpec

Array = numpy.ndarray[Any, Any]
Libraries = Mapping[str, ModuleType]

OURS, NUMPY = "gpux", "numpy.array"
FROM_LIST, FROM_ARRAY = "list to tensor", "array to tensor"
# Package by module name.
PACKAGES = {"orjson": "orjson", "msgspec": "msgspec", "simdjson": "pysimdjson"}

# Overwrites a checked block, so that numbers that are not written the next time are detected.
_STALE = 0xA5


def installed() -> Libraries:
    """The installed libraries by module name."""
    found = {}
    for module in PACKAGES:
        try:
            found[module] = importlib.import_module(module)
        except ImportError:
            continue
    return found


def decoders(body: Body, libraries: Libraries) -> list[Contender]:
    """The decoders, body → tensor; ours first."""
    text, shape, dtype = body.text, body.tensor.shape, body.type

    def check(array: Array) -> None:
        check_bits(f"decode, {body.name}", array, body.tensor)

    def by(name: str, call: Callable[[], Array]) -> Contender:
        return Contender(name, call, check)

    contenders = [
        _our_decoder(body),
        by("json + numpy", lambda: numpy.asarray(json.loads(text)["x"], dtype)),
    ]
    if orjson := libraries.get("orjson"):
        loads = orjson.loads
        contenders.append(by("orjson + numpy", lambda: numpy.asarray(loads(text)["x"], dtype)))
    if msgspec := libraries.get("msgspec"):
        decode = msgspec.json.Decoder().decode
        contenders.append(by("msgspec + numpy", lambda: numpy.asarray(decode(text)["x"], dtype)))
    if simdjson := libraries.get("simdjson"):
        contenders.append(by("pysimdjson", _simdjson_decode(simdjson, text, shape, dtype)))
    return contenders


def encoders(body: Body, libraries: Libraries) -> list[Contender]:
    """The encoders, tensor → response; ours first."""
    array = body.answer

    def by(name: str, call: Callable[[], bytes]) -> Contender:
        return Contender(name, call, _text_check(body))

    answer = {"y": Tensor(BY_NAME[array.dtype.name], array.shape, array.ctypes.data, array)}
    contenders = [
        by(OURS, lambda: encode_response(answer)),
        by("json", lambda: json.dumps({"y": array.tolist()}).encode()),
    ]
    if orjson := libraries.get("orjson"):
        dumps, option = orjson.dumps, orjson.OPT_SERIALIZE_NUMPY
        contenders.append(by("orjson", lambda: dumps({"y": array}, option=option)))
    if msgspec := libraries.get("msgspec"):
        encode = msgspec.json.Encoder().encode
        contenders.append(by("msgspec", lambda: encode({"y": array.tolist()})))
    return contenders


def walkers(group: str, body: Body) -> list[Contender]:
    """The ways from Python's values, a list or an array of float64, to a tensor; ours first."""
    given: Any = json.loads(body.text)["x"]
    if group == FROM_ARRAY:
        given = numpy.asarray(given)
    spec = InputSpec(_spec(body))
    pool = Pool()

    def ours() -> Block:
        block, *_ = walk(spec, given, pool)
        assert isinstance(block, Block)
        return block

    def check_block(block: Block) -> None:
        array = array_of(block, BY_NAME[body.type], body.tensor.shape)
        check_bits(f"gpux, {group}", array, body.tensor)

    def check_array(array: Array) -> None:
        check_bits(f"NumPy, {group}", array, body.tensor)

    return [
        Contender(OURS, ours, check_block),
        Contender(NUMPY, lambda: numpy.array(given, body.type, order="C"), check_array),
    ]


def _our_decoder(body: Body) -> Contender:
    text, spec = body.text, _spec(body)
    pipeline = create_pipeline(merge_config(Signature((spec,), ()), ModelConfig()), Pool())

    def check(decoded: tuple[Request, bool]) -> None:
        request, is_complete = decoded
        assert is_complete
        array = numpy.asarray(tensors_of(request, [spec])["x"])
        check_bits(f"gpux, decode, {body.name}", array, body.tensor)
        array.view(numpy.uint8)[...] = _STALE

    return Contender(OURS, lambda: pipeline.decode(text), check)


def _spec(body: Body) -> TensorSpec:
    return TensorSpec("x", BY_NAME[body.type], ("batch", *body.tensor.shape[1:]))


def _simdjson_decode(
    simdjson: ModuleType, text: bytes, shape: tuple[int, ...], dtype: str
) -> Callable[[], Array]:
    """Uses pysimdjson at its best: one reused parser; the shape is known in advance."""
    parser = simdjson.Parser()
    of_type, wide = ("d", "float64") if dtype.startswith("float") else ("i", "int64")

    def decode() -> Array:
        buffer = parser.parse(text)["x"].as_buffer(of_type=of_type)
        return numpy.frombuffer(buffer, wide).astype(dtype, copy=False).reshape(shape)

    return decode


def _text_check(body: Body) -> Callable[[bytes], None]:
    """Checks the first text number by number; later ones need only be identical."""
    expected = body.answer
    wide = "float64" if expected.dtype.kind == "f" else "int64"
    right: bytes | None = None

    def check(text: bytes) -> None:
        nonlocal right
        if text != right:
            read = numpy.asarray(json.loads(text)["y"], wide)
            check_bits(f"encode, {body.name}", read.astype(expected.dtype), expected)
            right = text

    return check
