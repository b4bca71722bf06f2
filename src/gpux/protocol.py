"""Bytes ↔ tensors: the body of a request and of its answer. Does no I/O."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy

from gpux._fastpath import encode as encode_members
from gpux.errors import InvalidHeaderError, UnsupportedMediaTypeError
from gpux.execution import Output
from gpux.inputs import InputReader, Request
from gpux.memory import StringTensor, Tensor
from gpux.model import Answer
from gpux.tensor import BY_NAME

MEDIA_TYPE = "application/json"


def check_headers(content_type: str | None, content_encoding: str | None) -> None:
    """Checks that a body is declared as plain JSON in UTF-8.

    Args:
        content_type: the header's value, None where it is missing.
        content_encoding: the same.

    Raises:
        UnsupportedMediaTypeError: names what was declared.

    Source: RFC 9110, 8.3 (Content-Type) and 8.4 (Content-Encoding).
    """
    if content_encoding is not None:
        raise UnsupportedMediaTypeError(
            f"Content-Encoding {_cut(content_encoding)} is not supported: send plain JSON"
        )
    if content_type == MEDIA_TYPE:  # almost every request
        return
    if content_type is None:
        raise UnsupportedMediaTypeError(f"Content-Type must be {MEDIA_TYPE}, got none")
    media_type, *parameters = content_type.split(";")
    if media_type.strip().lower() != MEDIA_TYPE:
        raise UnsupportedMediaTypeError(
            f"Content-Type must be {MEDIA_TYPE}, got {_cut(content_type)}"
        )
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in ("utf-8", "utf8"):
            raise UnsupportedMediaTypeError(f"The charset must be utf-8, got {_cut(content_type)}")


def read_timeout(header: str | None) -> float | None:
    """What a client is ready to wait, in seconds, by its `X-Request-Timeout`.

    Raises:
        InvalidHeaderError: it is no number above 0.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidHeaderError(f"X-Request-Timeout must be seconds above 0, got {_cut(header)}")
    return seconds


def decode(body: bytes, inputs: InputReader) -> Request:
    """The tensors of a request.

    Args:
        body: any bytes.
        inputs: of the model that the request is for.

    Raises:
        ClientError: and nothing else, whatever the bytes are (but for MemoryError, and
            InferenceError where a tokenizer fails).
    """
    return inputs.decode(body)


def encode(answer: Answer) -> bytes:
    """An answer as one JSON object, in UTF-8.

    Args:
        answer: by output name; its tensors must be alive.
    """
    return encode_members([_member(name, value) for name, value in answer.items()])


def _member(
    name: str, value: Output
) -> tuple[bytes, bytes] | tuple[bytes, int, tuple[int, ...], int]:
    if isinstance(value, Tensor):
        return _key(name), value.type.code, value.shape, value.address
    if isinstance(value, StringTensor):
        return _key(name), _json(_nest(value.values, value.shape))
    return _key(name), _text(value.value, value.float_type)


@lru_cache(maxsize=1024)
def _key(name: str) -> bytes:
    return _json(name)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _nest(values: Sequence[Any], shape: Sequence[int]) -> Any:
    """A flat sequence in C order as nested lists."""
    if not shape:
        return values[0]
    if len(shape) == 1:
        return values
    stride = len(values) // shape[0] if shape[0] else 0
    return [_nest(values[i * stride : (i + 1) * stride], shape[1:]) for i in range(shape[0])]


def _text(value: object, float_type: str) -> bytes:
    """A sequence or a map, as ONNX Runtime gives it, as JSON.

    Args:
        value: nested lists, dicts, strings, numbers and arrays.
        float_type: the type that a Python float in it has in the model.
    """
    if isinstance(value, Mapping):
        members = (_json(str(key)) + b":" + _text(item, float_type) for key, item in value.items())
        return b"{" + b",".join(members) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(_text(item, float_type) for item in value) + b"]"
    if isinstance(value, float):
        return _array_text(numpy.asarray(value, float_type))
    if isinstance(value, numpy.ndarray | numpy.generic):
        return _array_text(numpy.asarray(value, order="C"))
    return _json(value)


def _array_text(array: numpy.ndarray[Any, Any]) -> bytes:
    if array.dtype == object:
        return _json(array.tolist())
    code = BY_NAME[array.dtype.name].code
    member = encode_members([(b"", code, array.shape, array.ctypes.data)])
    return member[len(b"{:") : -len(b"}")]


def _cut(header: str) -> str:
    """A header's value for a message, of bounded length."""
    return repr(header if len(header) <= 100 else header[:100] + "…")
