"""Messages about gpux.yml: where a value stands, what is wrong with it, and how it is shown."""

import re
from pathlib import Path
from typing import NoReturn

from gpux.errors import ConfigurationError

# Keys and indexes from the root of the document.
KeyPath = tuple[str | int, ...]

_MAX_SHOWN = 60
_MAX_PROBLEM = 300


def fail(file: Path | None, path: KeyPath, problem: str) -> NoReturn:
    """Raises a ConfigurationError of one line: the file, the key path and the problem."""
    location = [str(file)] if file else []
    if path:
        location.append(format_path(path))
    # Names and values are arbitrary text: keep the message on one line and its length bounded.
    line = "".join(
        character if character.isprintable() else repr(character)[1:-1]
        for character in " ".join(problem.split())
    )
    if len(line) > _MAX_PROBLEM:
        line = line[:_MAX_PROBLEM] + "…"
    raise ConfigurationError(f"{': '.join(location)}: {line}")


def format_path(path: KeyPath) -> str:
    """Formats a key path: `inputs.image.shape[1]`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
            continue
        shown = key if re.fullmatch(r"[\w:/<-]+", key) else repr(key)
        text += ("." if text else "") + truncate(shown)
    return text


def show(value: object) -> str:
    """Formats a value for a message, as in YAML and of bounded length."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, int) and value.bit_length() > 200:
        return "an integer of more than 60 digits"
    return truncate(repr(value))


def truncate(text: str) -> str:
    """The text at a length that fits into a message."""
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"
