"""Whether what was timed is right: bits against bits, JSON against the model's own outputs."""

import json
from collections.abc import Mapping
from typing import Any

import numpy

Array = numpy.ndarray[Any, Any]


class MismatchError(Exception):
    """Something that was timed gave another answer than it should have."""


def check_bits(what: str, got: Array, expected: Array) -> None:
    """Checks that two arrays are the same in type, shape and every bit.

    Args:
        what: named in the error.
        got: what was timed.
        expected: what it should be.

    Raises:
        MismatchError: says where they differ first.
    """
    if got.dtype != expected.dtype or got.shape != expected.shape:
        raise MismatchError(
            f"{what}: {got.dtype} {list(got.shape)} instead of "
            f"{expected.dtype} {list(expected.shape)}"
        )
    if got.tobytes() == expected.tobytes():
        return
    bits = f"u{got.itemsize}"
    differs = numpy.ravel(got).view(bits) != numpy.ravel(expected).view(bits)
    place = int(numpy.flatnonzero(differs)[0])
    raise MismatchError(
        f"{what}: {numpy.count_nonzero(differs)} of {got.size} elements differ, the first is "
        f"number {place}: {got.ravel()[place]!r} instead of {expected.ravel()[place]!r}"
    )


def check_text(what: str, text: bytes, expected: Mapping[str, Any], rounding: float = 0.0) -> None:
    """Checks an answer's JSON text against the outputs of a plain session.run.

    Args:
        what: named in the error.
        text: an object of output name → value.
        expected: by output name, in the model's order, as ONNX Runtime gives them.
        rounding: the share of its largest number by which a float of a tensor may differ, as it
            may where rows of several requests ran together.

    Raises:
        MismatchError: an output is missing, or differs in as little as one bit. An answer without
            the leading axis of 1 is the same, as is null for a number that is not finite.
    """
    _check_values(what, json.loads(text), expected, rounding)


def check_v2_text(
    what: str, text: bytes, expected: Mapping[str, Any], rounding: float = 0.0
) -> None:
    """The same for an answer of the Open Inference Protocol (V2), whose data may be flat."""
    values = {
        output["name"]: numpy.array(output["data"]).reshape(output["shape"]).tolist()
        for output in json.loads(text)["outputs"]
    }
    _check_values(what, values, expected, rounding)


def _check_values(
    what: str, values: Mapping[str, Any], expected: Mapping[str, Any], rounding: float
) -> None:
    if list(values) != list(expected):
        raise MismatchError(f"{what}: outputs {list(values)} instead of {list(expected)}")
    for name, raw in expected.items():
        place = f"{what}, output {name!r}"
        if rounding and isinstance(raw, numpy.ndarray) and raw.dtype.kind == "f":
            _check_close(place, values[name], raw, rounding)
        else:
            _check_value(place, values[name], raw)


def _check_close(what: str, value: Any, raw: Array, rounding: float) -> None:
    got = numpy.asarray(value, raw.dtype).reshape(raw.shape)
    limit = rounding * float(numpy.abs(raw).max(initial=0.0))
    worst = float(numpy.abs(got - raw).max(initial=0.0))
    if not worst <= limit:  # nor is NaN
        raise MismatchError(f"{what}: differs by {worst:.3g}, more than {limit:.3g}")


def _check_value(what: str, value: Any, raw: Any) -> None:
    if isinstance(raw, list):
        items = value if isinstance(value, list) and len(value) == len(raw) else [value]
        if len(items) != len(raw):
            raise MismatchError(f"{what}: {len(items)} items instead of {len(raw)}")
        for item, raw_item in zip(items, raw, strict=True):
            _check_value(what, item, raw_item)
    elif isinstance(raw, Mapping):
        if not isinstance(value, dict) or list(value) != [str(key) for key in raw]:
            raise MismatchError(f"{what}: other keys than {list(raw)}")
        for item, raw_item in zip(value.values(), raw.values(), strict=True):
            _check_value(what, item, raw_item)
    elif isinstance(raw, float):
        # A float32 of a map reaches Python as a float, but its text need only name the float32.
        is_float32 = float(numpy.float32(raw)) == raw
        if value != raw and not (is_float32 and numpy.float32(value) == numpy.float32(raw)):
            raise MismatchError(f"{what}: {value!r} instead of {raw!r}")
    elif isinstance(raw, numpy.ndarray):
        _check_array(what, value, raw)
    elif value != raw:
        raise MismatchError(f"{what}: {value!r} instead of {raw!r}")


def _check_array(what: str, value: Any, raw: Array) -> None:
    if raw.dtype.kind != "f":
        listed = raw.tolist()
        if value != listed and [value] != listed:
            raise MismatchError(f"{what}: the values differ")
        return
    got = numpy.asarray(value, raw.dtype)  # null becomes NaN
    if got.shape == raw.shape[1:] and raw.shape[0] == 1:
        got = got[None]
    check_bits(what, got, numpy.where(numpy.isfinite(raw), raw, got.dtype.type("nan")))
