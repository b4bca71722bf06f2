"""Encodes a model's outputs as the JSON body of a response. Does no I/O."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy

from gpux._fastpath import encode as encode_members
from gpux.tensors.memory import StringTensor, Tensor
from gpux.tensors.outputs import Output, OutputValues
from gpux.tensors.signature import BY_NAME


def encode(outputs: OutputValues) -> bytes:
    """Encodes outputs as one JSON object, in UTF-8.

    Args:
        outputs: by name; their memory must be valid until this returns.
    """
    return encode_members([_member(name, value) for name, value in outputs.items()])


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
    """Nests a flat sequence in C order into lists of the given shape."""
    if not shape:
        return values[0]
    if len(shape) == 1:
        return values
    stride = len(values) // shape[0] if shape[0] else 0
    return [_nest(values[i * stride : (i + 1) * stride], shape[1:]) for i in range(shape[0])]


def _text(value: object, float_type: str) -> bytes:
    """Encodes a sequence or a map from ONNX Runtime as JSON.

    Args:
        value: nested lists, dicts, strings, numbers and arrays.
        float_type: the model's type for Python floats in it.
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
