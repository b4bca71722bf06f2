"""YAML text → plain values: expands `${VAR}`, reports errors by their key path.

It favors the author's intent: only `true` and `false` are booleans (YAML 1.2's core schema), a
duplicate key is an error instead of an override, and no tag constructs an object.

Source: YAML 1.2.2, 10.3 (core schema); merge keys as in https://yaml.org/type/merge.html.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gpux.config.messages import KeyPath, fail, show
from gpux.errors import ConfigurationError

# Also the limit of characters once aliases and variables are expanded.
_MAX_BYTES = 2**20
# Keys and values; aliased ones count at each use. PyYAML takes 40 µs for each. Only labels are
# legitimately many: ImageNet has sets of 1,000 and of 21,841.
_MAX_VALUES = 25_000
_MAX_DEPTH = 64

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"


class _Loader(yaml.SafeLoader):
    """Loader for YAML 1.2's core schema plus merge keys, with limits on node count and depth."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, file: Path, text: str) -> None:
        super().__init__(text)
        self._file = file
        self._nodes = 0
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Composes the next node and its children, within the limits."""
        self._nodes += 1
        if self._nodes > _MAX_VALUES:
            fail(self._file, (), f"more than {_MAX_VALUES} values")
        if self._depth == _MAX_DEPTH:
            fail(self._file, (), "nested too deep")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


# By kind: the pattern of a scalar, and its possible first characters ("" if it may be empty).
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
    """Reads a YAML file whose root is a mapping.

    Args:
        file: its path; an empty file is an empty mapping.
        environment: values for `${VAR}`.
        text_keys: scalars under these keys, alone or in a list, are text whatever they look like:
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
    except (ValueError, OverflowError):  # PyYAML passes unchecked values to chr() and int()
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


def _add_missing(values: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Adds the entries of `others` whose keys are missing."""
    for key, value in others.items():
        values.setdefault(key, value)


_SURROGATE = re.compile("[\ud800-\udfff]")


def _join_surrogates(text: str) -> str | None:
    """Joins surrogate pairs into characters: JSON writes an emoji as two escapes.

    Returns None for a lone surrogate. Source: RFC 8259, 7.
    """
    if not _SURROGATE.search(text):
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None


class _Builder:
    """Builds plain values from YAML nodes."""

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
        self._ancestors: list[yaml.Node] = []  # from the root to the node being built

    def build(self, node: yaml.Node, path: KeyPath, *, as_text: bool) -> Any:  # noqa: RET503
        """Builds the value of a node; with `as_text`, a scalar or a list's scalars stay text."""
        self._values += 1
        if self._values > _MAX_VALUES:
            fail(self._file, (), f"more than {_MAX_VALUES} values")
        # Checked again: expanded aliases nest deeper than the composed nodes.
        if len(self._ancestors) == _MAX_DEPTH:
            fail(self._file, (), "nested too deep")
        if node in self._ancestors:
            fail(self._file, path, "the value contains itself")
        self._ancestors.append(node)
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
            self._ancestors.pop()
        fail(self._file, path, f"the tag {show(node.tag)} is not supported")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                _add_missing(merged, self._merged(value_node, path))
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
        """Returns the entries that `<<` merges in; earlier mappings take precedence."""
        value = self.build(node, (*path, "<<"), as_text=False)
        merged: dict[str, Any] = {}
        if value is None:  # a key without a value
            return merged
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, dict):
                fail(self._file, (*path, "<<"), f"expected a mapping, got {show(part)}")
            _add_missing(merged, part)
        return merged

    def _text(self, text: str, path: KeyPath) -> str:
        """Joins the surrogate pairs of a key or scalar, and counts its characters."""
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

    def _scalar(  # noqa: RET503
        self, node: yaml.ScalarNode, path: KeyPath, *, as_text: bool
    ) -> Any:
        raw, tag = self._text(node.value, path), node.tag
        text = self._expand(raw, path)
        if text != raw and node.style is None:  # plain style: resolve the expanded text
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
            if _SURROGATE.search(value):  # how Python represents undecodable bytes
                fail(self._file, path, f"${{{name}}}: the environment variable is not UTF-8")
            self._count(len(value) - len(match[0]))
            return value

        return _VARIABLE.sub(value_of, text)


_VARIABLE = re.compile(
    r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?"
)
