"""Checks of timed results: arrays bit for bit, JSON against the model's own outputs."""

import json
from collections.abc import Mapping
from typing import Any

import numpy

Array = numpy.ndarray[Any, Any]


class MismatchError(Exception):
    """A timed call returned a wrong result."""


def check_bits(what: str, got: Array, expected: Array) -> None:
    """Checks that two arrays are equal in type, shape and every bit.

    Args:
        what: the name for the error.
        got: the timed result.
        expected: the right one.

    Raises:
        MismatchError: with the first difference.
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
    index = int(numpy.flatnonzero(differs)[0])
    raise MismatchError(
        f"{what}: {numpy.count_nonzero(differs)} of {got.size} elements differ, the first is "
        f"number {index}: {got.ravel()[index]!r} instead of {expected.ravel()[index]!r}"
    )


def check_text(what: str, text: bytes, expected: Mapping[str, Any], rounding: float = 0.0) -> None:
    """Checks a response's JSON text against the outputs of a plain session.run.

    Args:
        what: the name for the error.
        text: an object of output name → value.
        expected: by output name, in the model's order, as returned by ONNX Runtime.
        rounding: by how much the floats of a tensor may differ, as a share of its largest number:
            the rows of several requests may have run in one batch.

    Raises:
        MismatchError: an output is missing, or differs in a single bit. A missing leading axis of 1
            and null for a number that is not finite count as equal.
    """
    _check_values(what, json.loads(text), expected, rounding)


def check_v2_text(
    what: str, text: bytes, expected: Mapping[str, Any], rounding: float = 0.0
) -> None:
    """The same for a response of the Open Inference Protocol (V2), whose data may be flat."""
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
        where = f"{what}, output {name!r}"
        if rounding and isinstance(raw, numpy.ndarray) and raw.dtype.kind == "f":
            _check_close(where, values[name], raw, rounding)
        else:
            _check_value(where, values[name], raw)


def _check_close(what: str, value: Any, raw: Array, rounding: float) -> None:
    got = numpy.asarray(value, raw.dtype).reshape(raw.shape)
    limit = rounding * float(numpy.abs(raw).max(initial=0.0))
    worst = float(numpy.abs(got - raw).max(initial=0.0))
    if not worst <= limit:  # also true of NaN
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
