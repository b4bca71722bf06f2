"""The contenders of `codec`: our decoder and encoder as the server calls them, and other libraries.

Each decoder turns the whole body into a contiguous array of the input's type and shape.
"""

import hashlib
import importlib
import json
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy
from answers import check_bits
from codec_bodies import Body
from timing import Contender

from gpux._engine import Request
from gpux._fastpath import Pool
from gpux.config.schema import ModelConfig
from gpux.inputs.model_io import merge_config
from gpux.inputs.pipeline import create_pipeline
from gpux.tensors.memory import Tensor
from gpux.tensors.outputs import encode as encode_response
from gpux.tensors.request import tensors_of
from gpux.tensors.signature import BY_NAME, Signature, TensorSpec

Array = numpy.ndarray[Any, Any]
Libraries = Mapping[str, ModuleType]

OURS = "gpux"
MACHINE = "sha256, no GIL"
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


def machine(body: Body) -> Contender:
    """The gain that threads can have on this machine: work without the GIL, over the same bytes."""
    text = body.text
    expected = hashlib.sha256(text).digest()

    def check(digest: bytes) -> None:
        assert digest == expected

    return Contender(MACHINE, lambda: hashlib.sha256(text).digest(), check)


def _our_decoder(body: Body) -> Contender:
    element, text = BY_NAME[body.type], body.text
    spec = TensorSpec("x", element, ("batch", *body.tensor.shape[1:]))
    pipeline = create_pipeline(merge_config(Signature((spec,), ()), ModelConfig()), Pool())

    def check(decoded: tuple[Request, bool]) -> None:
        request, is_complete = decoded
        assert is_complete
        array = numpy.asarray(tensors_of(request, [spec])["x"])
        check_bits(f"gpux, decode, {body.name}", array, body.tensor)
        array.view(numpy.uint8)[...] = _STALE

    return Contender(OURS, lambda: pipeline.decode(text), check)


def _simdjson_decode(
    simdjson: ModuleType, text: bytes, shape: tuple[int, ...], dtype: str
) -> Callable[[], Array]:
    """Uses pysimdjson at its best: one reused parser per thread; the shape is known in advance."""

    class Kept(threading.local):
        def __init__(self) -> None:
            self.parser = simdjson.Parser()

    kept = Kept()
    of_type, wide = ("d", "float64") if dtype.startswith("float") else ("i", "int64")

    def decode() -> Array:
        buffer = kept.parser.parse(text)["x"].as_buffer(of_type=of_type)
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
