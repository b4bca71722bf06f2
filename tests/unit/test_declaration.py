"""declaration and document: whatever a gpux.yml holds is read, or refused in one line."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpux.declaration import Declaration, read_declaration
from gpux.errors import ConfigurationError

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["softmax", "cuda", "64MiB", "*", "https://a.example", "all"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
keys = {
    "inputs": ["name", "type", "shape", "required", "default", "max_length", "labels", "batched"],
    "outputs": ["name", "from", "activation", "type", "shape", "labels", "batched"],
    "runtime": ["provider", "device", "threads", "gpu_memory_limit", "provider_options"],
    "serving": ["host", "port", "threads", "max_body", "timeout", "cors_origins"],
    "preprocessing": ["tokenizer", "max_length", "pad_token"],
    "model": ["source"],
}


def section(name: str) -> st.SearchStrategy[Any]:
    entry = st.dictionaries(st.sampled_from(keys[name]) | st.text(max_size=3), values, max_size=4)
    if name not in ("inputs", "outputs"):
        return entry | values
    entries = st.dictionaries(st.text(max_size=4), entry | values, max_size=3)
    return entries | st.lists(entry | values, max_size=3)


documents = st.fixed_dictionaries(
    {},
    optional={
        **{name: section(name) for name in keys},
        **dict.fromkeys(("name", "version", "description", "metadata", "other"), values),
    },
)


def read(folder: Path, text: str | bytes, **variables: str) -> Declaration:
    file = folder / "gpux.yml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_declaration(file, variables)


def refused(folder: Path, text: str | bytes, **variables: str) -> str:
    """What is wrong with a file, which its one line names first."""
    with pytest.raises(ConfigurationError) as caught:
        read(folder, text, **variables)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert line.startswith(f"{folder / 'gpux.yml'}: ")
    return line.removeprefix(f"{folder / 'gpux.yml'}: ")


def read_or_refuse(folder: Path, text: str | bytes) -> None:
    said = ""
    try:
        read(folder, text)
    except ConfigurationError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1
    assert len(said) < 1000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents)
def test_any_document_is_read_or_refused(tmp_path: Path, document: Any) -> None:
    read_or_refuse(tmp_path, yaml.safe_dump(document, allow_unicode=True))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=50)
    | st.text(alphabet="ab:{}[]-,&*!'\"\\ \n\t#|>%@`?~$", max_size=40)
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: str | bytes) -> None:
    read_or_refuse(tmp_path, content)


@pytest.mark.parametrize("levels", [100, 100_000])
def test_depth_is_bounded(tmp_path: Path, levels: int) -> None:
    assert refused(tmp_path, "metadata: " + "[" * levels + "]" * levels) == "nested too deep"


def test_size_is_bounded(tmp_path: Path) -> None:
    assert "expected at most 1048576 bytes" in refused(tmp_path, b"#" * 2**20 + b"\n")


def test_aliases_are_counted_as_often_as_they_stand(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert refused(tmp_path, "metadata:\n  " + "\n  ".join(lines)) == "more than 100000 values"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("+5", 5),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    metadata = read(tmp_path, f"metadata: {{a: {text}}}").content.metadata
    assert metadata == {"a": value}
    assert type(metadata["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${N}", 5),
        ("'${N}'", "5"),
        ("${N}0", 50),
        ("a${N}", "a5"),
        ("${M:-x}", "x"),
        ("${M:-}", None),
        ("${E:-x}", "x"),
        ("'${E}'", ""),
        ("$${N}", "${N}"),
        ("$$${N}", "$${N}"),
        ("$N", "$N"),
        ("$", "$"),
        ("${I}", "[1, 2]"),
        ("${N}${N}", 55),
    ],
)
def test_variables(tmp_path: Path, text: str, value: object) -> None:
    read_back = read(tmp_path, f"metadata:\n  a: {text}\n", N="5", E="", I="[1, 2]")
    assert read_back.content.metadata == {"a": value}


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A", "${A:x}", "${A-x}", "${A B}"])
def test_what_is_no_variable_is_refused(tmp_path: Path, text: str) -> None:
    said = refused(tmp_path, f"metadata:\n  a: {text}\n", A="1")
    assert said.startswith("metadata.a: ")
    assert "expected ${NAME} or ${NAME:-default}" in said


def test_merge_keys(tmp_path: Path) -> None:
    text = """
metadata:
  first: &first {a: 1, b: 1}
  second: &second {b: 2, c: 2}
  one: {<<: *first, a: 0}
  both: {<<: [*first, *second]}
"""
    metadata = read(tmp_path, text).content.metadata
    assert metadata["one"] == {"a": 0, "b": 1}
    assert metadata["both"] == {"a": 1, "b": 1, "c": 2}
    assert refused(tmp_path, "metadata: {<<: 5}") == "metadata.<<: expected a mapping, got 5"
