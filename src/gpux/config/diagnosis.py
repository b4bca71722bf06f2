"""Where a value does not match its msgspec type, and what was expected there, in words."""

import difflib
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Struct, UnsetType

from gpux.config.values import decode
from gpux.config.yaml import KeyPath, show


def _children(value: Any, kind: Any) -> Iterator[tuple[str | int, Any, Any]] | None:
    """What is in a value: keys or indexes, values and their types; no type for unknown keys.

    None for a value that is not looked into.
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
    """A value without its keys that have none, which are as good as none.

    Where anything may stand, null may: in `metadata`, and as a `default`, which takes it ill.
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
    """The first place below a value where it is not of its type, and what is wrong there.

    msgspec says so as well, but in a text that quotes what it was given.
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
    """The types of a section's keys."""
    (section,) = parts(kind)
    return {entry.encode_name: entry.type for entry in msgspec.structs.fields(section)}


def parts(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a type, without notes and without what stands for "not given"."""
    if typing.get_origin(kind) is Annotated:
        return parts(typing.get_args(kind)[0])
    if not isinstance(kind, types.UnionType) and typing.get_origin(kind) is not typing.Union:
        return () if kind in (types.NoneType, UnsetType) else (kind,)
    return tuple(part for alternative in typing.get_args(kind) for part in parts(alternative))


_WORDS = {str: "text", bool: "true or false", int: "an integer", float: "a number"}


def describe(kind: Any) -> str:
    """What a type takes, in words."""
    if typing.get_origin(kind) is Annotated:
        for note in typing.get_args(kind)[1:]:
            if note.description:
                return str(note.description)
        return describe(typing.get_args(kind)[0])
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        others = [part for part in arguments if part not in (types.NoneType, UnsetType)]
        return " or ".join(describe(part) for part in others)
    if origin is Literal:
        return " or ".join([", ".join(arguments[:-1]), arguments[-1]])
    if origin in (list, tuple):
        return f"a list of {describe(arguments[0])}" if arguments[0] is not Any else "a list"
    return _WORDS.get(kind, "a mapping of keys to values")
