"""Locates where a value violates its msgspec type, and describes in words what was expected."""

import difflib
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct, UnsetType

from gpux.config.messages import KeyPath, show
from gpux.config.values import decode


def _children(value: Any, kind: Any) -> Iterator[tuple[str | int, Any, Any]] | None:
    """Iterates over a container: (key or index, item, item's type), with None for unknown keys.

    Returns None if `kind` describes no container of the value's type.
    """
    for part in parts(kind):
        arguments = typing.get_args(part)
        if isinstance(value, dict) and isinstance(part, type) and issubclass(part, Struct):
            known = _fields(part)
            return ((key, item, known.get(key)) for key, item in value.items())
        if isinstance(value, dict) and typing.get_origin(part) is dict:
            return ((key, item, arguments[1]) for key, item in value.items())
        if isinstance(value, list) and typing.get_origin(part) in (list, tuple):
            return ((index, item, arguments[0]) for index, item in enumerate(value))
    return None


def without_nulls(value: Any, kind: Any) -> Any:
    """Drops keys whose value is null: they are equivalent to absent keys.

    Null is kept where any value is allowed: in `metadata`, and in `default`, where it is an error.
    """
    children = _children(value, kind) if isinstance(value, dict) else None
    if children is None:
        return value
    return {
        key: without_nulls(item, inner)
        for key, item, inner in children
        if item is not None or inner is None or Any in parts(inner)
    }


def find_fault(value: Any, kind: Any) -> tuple[KeyPath, str] | None:
    """Returns the key path of the first type error in a value, and its message; None if valid.

    msgspec reports it too, but in a message that quotes the input.
    """
    for key, item, inner in _children(value, kind) or ():
        if inner is None:
            known = list(_fields(kind))
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"expected {', '.join(known)}"
            return (key,), f"unknown key; {hint}"
        fault = find_fault(item, inner)
        if fault:
            return (key, *fault[0]), fault[1]
    try:
        msgspec.convert(value, kind, dec_hook=decode)
    except msgspec.ValidationError:
        return (), f"expected {describe(kind)}, got {show(value)}"
    return None


def _fields(kind: Any) -> dict[str, Any]:
    """Maps a section's keys to their types."""
    (section,) = parts(kind)
    return {entry.encode_name: entry.type for entry in msgspec.structs.fields(section)}


def parts(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone; without annotations, None and UnsetType."""
    if typing.get_origin(kind) is Annotated:
        return parts(typing.get_args(kind)[0])
    if not isinstance(kind, types.UnionType) and typing.get_origin(kind) is not typing.Union:
        return () if kind in (types.NoneType, UnsetType) else (kind,)
    return tuple(part for member in typing.get_args(kind) for part in parts(member))


_WORDS = {str: "text", bool: "true or false", int: "an integer", float: "a number"}


def describe(kind: Any) -> str:
    """Describes in words which values a type accepts."""
    if typing.get_origin(kind) is Annotated:
        for meta in typing.get_args(kind)[1:]:
            if meta.description:
                return str(meta.description)
        return describe(typing.get_args(kind)[0])
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        members = [part for part in arguments if part not in (types.NoneType, UnsetType)]
        return " or ".join(describe(part) for part in members)
    if origin is Literal:
        return " or ".join([", ".join(arguments[:-1]), arguments[-1]])
    if origin in (list, tuple):
        return f"a list of {describe(arguments[0])}" if arguments[0] is not Any else "a list"
    return _WORDS.get(kind, "a mapping of keys to values")
