"""YAML text → plain values: `${VAR}` expanded, mistakes placed by their key path.

What a person means is what counts: only `true` and `false` are booleans (YAML 1.2's core schema), a
key that stands twice is refused instead of half forgotten, and no tag makes an object.

Source: YAML 1.2.2, 10.3 (core schema); merge keys as in https://yaml.org/type/merge.html.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import yaml

from gpux.errors import ConfigurationError

# Keys and indexes from the top of the document.
KeyPath = tuple[str | int, ...]

# Also characters, once aliases and variables are written out.
_MAX_BYTES = 2**20
# Keys and values; those behind an alias count as often as they are used. PyYAML takes 40 µs for
# each. Labels are what there may be many of: ImageNet has sets of 1,000 and of 21,841.
_MAX_VALUES = 25_000
_MAX_DEPTH = 64
_MAX_SHOWN = 60
_MAX_PROBLEM = 300

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"


class _Loader(yaml.SafeLoader):
    """Knows the scalars of YAML 1.2's core schema, and merge keys; stops at what is too much."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, file: Path, text: str) -> None:
        super().__init__(text)
        self._file = file
        self._nodes = 0
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node with all that is in it."""
        self._nodes += 1
        if self._nodes > _MAX_VALUES:
            fail(self._file, (), f"more than {_MAX_VALUES} values")
        if self._depth == _MAX_DEPTH:
            fail(self._file, (), "nested too deep")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


# By kind: what such a scalar looks like, and what it may begin with ("" where it may be empty).
_SCALARS: dict[str, tuple[str, list[str]]] = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
for _kind, (_pattern, _starts) in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_pattern})$"), _starts)


def read_yaml(
    file: Path, environment: Mapping[str, str], text_keys: frozenset[str]
) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        file: its path; an empty file is an empty mapping.
        environment: what `${VAR}` stands for.
        text_keys: what stands behind these keys, alone or in a list, is text however it looks:
            `version: 1.10` is "1.10".

    Raises:
        ConfigurationError: one line with the file, the key path (or the line) and what is wrong.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror or error}") from error
    if len(content) > _MAX_BYTES:
        fail(file, (), f"expected at most {_MAX_BYTES} bytes, got more")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail(file, (), f"not UTF-8 at byte {error.start}")
    try:
        loader = _Loader(file, text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        fail(file, (), f"line {line}: not YAML: {error.reason}")
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        fail(file, (), f"{where}not YAML: {error.problem or error.context}")
    except (ValueError, OverflowError):  # what PyYAML hands to chr() and int() unseen
        where = f"line {loader.line + 1}, column {loader.column + 1}"
        fail(file, (), f"{where}: not YAML: found a number that is out of range")
    if node is None:
        return {}
    value = _Builder(file, loader, environment, text_keys).build(node, (), as_text=False)
    if value is None:
        return {}
    if not isinstance(value, dict):
        fail(file, (), f"expected a mapping of keys to values, got {show(value)}")
    return value


def fail(file: Path | None, path: KeyPath, problem: str) -> NoReturn:
    """Raises the one line that says where a file is wrong, and how."""
    places = [str(file)] if file else []
    if path:
        places.append(format_path(path))
    # Names and values may hold anything: the line stays one, and of bounded length.
    line = "".join(
        character if character.isprintable() else repr(character)[1:-1]
        for character in " ".join(problem.split())
    )
    if len(line) > _MAX_PROBLEM:
        line = line[:_MAX_PROBLEM] + "…"
    raise ConfigurationError(f"{': '.join(places)}: {line}")


def format_path(path: KeyPath) -> str:
    """A key path as people write it: `inputs.image.shape[1]`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
            continue
        shown = key if re.fullmatch(r"[\w:/<-]+", key) else repr(key)
        text += ("." if text else "") + _cut(shown)
    return text


def show(value: object) -> str:
    """A value for a message, of bounded length, as it would stand in YAML."""
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
    return _cut(repr(value))


def _fill_up(values: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Adds those of the others whose keys are not there yet."""
    for key, value in others.items():
        values.setdefault(key, value)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _join_surrogates(text: str) -> str | None:
    """The characters that surrogate pairs stand for: JSON writes an emoji as two escapes.

    None where one half stands alone. Source: RFC 8259, 7.
    """
    if not _SURROGATE.search(text):
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


class _Builder:
    """Makes values of YAML's nodes."""

    def __init__(
        self,
        file: Path,
        loader: Any,
        environment: Mapping[str, str],
        text_keys: frozenset[str],
    ) -> None:
        self._file = file
        self._loader = loader
        self._environment = environment
        self._text_keys = text_keys
        self._values = 0
        self._characters = 0
        self._open: list[yaml.Node] = []  # from the top to the node that is being built

    def build(self, node: yaml.Node, path: KeyPath, *, as_text: bool) -> Any:
        """The value of a node; scalars and those in a list are text if `as_text`."""
        self._values += 1
        if self._values > _MAX_VALUES:
            fail(self._file, (), f"more than {_MAX_VALUES} values")
        # Again, as aliases deepen what was composed.
        if len(self._open) == _MAX_DEPTH:
            fail(self._file, (), "nested too deep")
        if node in self._open:
            fail(self._file, path, "the value contains itself")
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return [
                    self.build(item, (*path, index), as_text=as_text)
                    for index, item in enumerate(node.value)
                ]
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, path, as_text=as_text)
        finally:
            self._open.pop()
        fail(self._file, path, f"the tag {show(node.tag)} is not supported")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                _fill_up(merged, self._merged(value_node, path))
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                fail(self._file, path, "expected keys that are text, got one that is not")
            key = self._text(key_node.value, (*path, key_node.value))
            if key in own:
                fail(self._file, (*path, key), "the key stands here twice")
            as_text = key in self._text_keys
            own[key] = self.build(value_node, (*path, key), as_text=as_text)
        return {**merged, **own}

    def _merged(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        """What `<<` brings in: of several mappings the first has the say."""
        value = self.build(node, (*path, "<<"), as_text=False)
        merged: dict[str, Any] = {}
        if value is None:  # a key without a value
            return merged
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, dict):
                fail(self._file, (*path, "<<"), f"expected a mapping, got {show(part)}")
            _fill_up(merged, part)
        return merged

    def _text(self, text: str, path: KeyPath) -> str:
        """A key or a scalar as it stands, its surrogate pairs joined."""
        self._count(len(text))
        joined = _join_surrogates(text)
        if joined is None:
            fail(self._file, path, "the text has a lone surrogate")
        return joined

    def _count(self, characters: int) -> None:
        self._characters += characters
        if self._characters > _MAX_BYTES:
            problem = f"more than {_MAX_BYTES} characters, with aliases and variables written out"
            fail(self._file, (), problem)

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath, *, as_text: bool) -> Any:
        written, tag = self._text(node.value, path), node.tag
        text = self._expand(written, path)
        if text != written and node.style is None:  # plain: read as if it had stood there
            tag = self._loader.resolve(yaml.ScalarNode, text, (True, False))
        kind = tag.removeprefix(_TAG)
        if kind == "null":
            return None
        if kind in ("str", "merge") or (as_text and kind in ("bool", "int", "float")):
            return text
        if kind in ("bool", "int", "float") and not re.fullmatch(_SCALARS[kind][0], text):
            fail(self._file, path, f"expected {kind}, got {show(text)}")  # an explicit tag
        try:
            if kind == "bool":
                return text.lower() == "true"
            if kind == "int":
                return int(text, 0 if text[1:2] in ("o", "x") else 10)
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            fail(self._file, path, "expected a number of fewer digits")
        fail(self._file, path, f"the tag {show(tag)} is not supported")

    def _expand(self, text: str, path: KeyPath) -> str:
        def value_of(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            name, default = match["name"], match["default"]
            if name is None:
                problem = f"{show(text)}: expected ${{NAME}} or ${{NAME:-default}}"
                fail(self._file, path, f"{problem}; a literal ${{ is written $${{")
            if default is not None and "${" in default:
                fail(self._file, path, f"{show(match[0])}: a default has no ${{ in it")
            value = self._environment.get(name)
            if default is not None:
                value = value or default
            if value is None:
                problem = f"${{{name}}}: the environment variable is not set"
                fail(self._file, path, f"{problem} and no default is given (${{{name}:-default}})")
            if _SURROGATE.search(value):  # as Python has bytes that cannot be decoded
                fail(self._file, path, f"${{{name}}}: the environment variable is not UTF-8")
            self._count(len(value) - len(match[0]))
            return value

        return _VARIABLE.sub(value_of, text)


_VARIABLE = re.compile(
    r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?"
)
