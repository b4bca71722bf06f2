"""schema and yaml: any gpux.yml is read, or rejected with a one-line error."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gpux.config.schema import (
    InputConfig,
    ModelConfig,
    Origins,
    OutputConfig,
    convert_text,
    read_config,
)
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
    "runtime": [
        *("provider", "device", "threads", "gpu_memory_limit", "provider_options"),
        *("session_options", "free_dimensions", "custom_ops"),
    ],
    "serving": [
        "host",
        "port",
        "threads",
        "max_body",
        "timeout",
        "cors_origins",
        "padding",
        "buckets",
    ],
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


def read(folder: Path, text: str | bytes, **variables: str) -> ModelConfig:
    file = folder / "gpux.yml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config(file, variables)


def reject(folder: Path, text: str | bytes, **variables: str) -> str:
    """The error message for a file, without the path that it begins with."""
    with pytest.raises(ConfigurationError) as caught:
        read(folder, text, **variables)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert line.startswith(f"{folder / 'gpux.yml'}: ")
    return line.removeprefix(f"{folder / 'gpux.yml'}: ")


def read_or_reject(folder: Path, text: str | bytes) -> None:
    message = ""
    try:
        read(folder, text)
    except ConfigurationError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
    assert len(message) < 1000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=documents)
def test_any_document_is_read_or_refused(tmp_path: Path, document: Any) -> None:
    read_or_reject(tmp_path, yaml.safe_dump(document, allow_unicode=True))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=50)
    | st.text(alphabet="ab:{}[]-,&*!'\"\\ \n\t#|>%@`?~$", max_size=40)
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: str | bytes) -> None:
    read_or_reject(tmp_path, content)


@pytest.mark.parametrize("levels", [100, 100_000])
def test_depth_is_bounded(tmp_path: Path, levels: int) -> None:
    assert reject(tmp_path, "metadata: " + "[" * levels + "]" * levels) == "nested too deep"


def test_size_is_bounded(tmp_path: Path) -> None:
    assert "expected at most 1048576 bytes" in reject(tmp_path, b"#" * 2**20 + b"\n")
    # Reading stops at the limit: this file is endless.
    with pytest.raises(ConfigurationError, match=r"^/dev/zero: expected at most 1048576 bytes"):
        read_config(Path("/dev/zero"), {})


@pytest.mark.parametrize(
    "text",
    [
        f"metadata: [{'1,' * 500_000}]",
        f"metadata: [{'{},' * 300_000}]",
        "metadata:\n  - &a [1]\n" + "  - *a\n" * 140_000,
        # Half of the values in one mapping, and as many merged into it.
        f"metadata:\n  a: &a {{{','.join(f'k{number}: 1' for number in range(6000))}}}\n"
        f"  c: {{<<: *a, {'<<: {}, ' * 6000}}}",
    ],
    ids=["list", "maps", "aliases", "merges"],
)
def test_many_values_end_soon(tmp_path: Path, text: str) -> None:
    before = time.process_time()
    read_or_reject(tmp_path, text)
    assert time.process_time() - before < 10  # takes 1 to 2 s


@pytest.mark.parametrize(
    "text",
    [
        # Half a megabyte, a thousand times over.
        f'metadata: [&a "{"x" * 500_000}"{", *a" * 1000}]',
        f"metadata: [&a {{? '{'k' * 500_000}' : 1}}{', *a' * 1000}]",
        f'metadata: "{"${X}" * 20}"',
        "metadata:\n" + "  - ${X}\n" * 20,
    ],
    ids=["alias", "alias of a key", "variables", "a variable each"],
)
def test_what_is_written_out_is_bounded(tmp_path: Path, text: str) -> None:
    message = reject(tmp_path, text, X="x" * 100_000)
    assert message.startswith("more than 1048576 characters, ")


def test_aliases_are_counted_as_often_as_they_stand(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    assert reject(tmp_path, "metadata:\n  " + "\n  ".join(lines)) == "more than 25000 values"


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
    message = reject(tmp_path, f"metadata:\n  a: {text}\n", A="1")
    assert message.startswith("metadata.a: ")
    assert "expected ${NAME} or ${NAME:-default}" in message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("${A:-${B:-x}}", "${A:-${B:-x}"),
        ("${B:-${A}}", "${B:-${A}"),
        ("'a ${B:-$${A}} b'", "${B:-$${A}"),
    ],
)
def test_a_default_has_no_variable_in_it(tmp_path: Path, text: str, shown: str) -> None:
    message = reject(tmp_path, f"metadata:\n  a: {text}\n", A="1")
    assert message == f"metadata.a: '{shown}': a default has no ${{ in it"


# Surrogates: JSON escapes a character above U+FFFF as a pair, and Python maps non-UTF-8 bytes of
# the environment to lone ones.


def test_surrogate_pairs_are_one_character(tmp_path: Path) -> None:
    document = {"name": "a 😀", "metadata": {"😀": ["😀\U0010ffff", {"x": "x😀"}]}}
    content = read(tmp_path, json.dumps(document)).content
    assert (content.name, content.metadata) == (document["name"], document["metadata"])


def test_a_key_that_stands_twice_may_be_written_in_two_ways(tmp_path: Path) -> None:
    message = reject(tmp_path, 'metadata: {"\\ud83d\\ude00": 1, 😀: 2}')
    assert message == "metadata.'😀': the key stands here twice"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (r'name: "\ud800"', "name"),
        (r'description: "a\udc00b"', "description"),
        (r'version: "\ude00\ud83d"', "version"),
        (r'metadata: [1, {a: "\ud83d\ud83d\ude00"}]', "metadata[1].a"),
        (r'metadata: {b: {"\ud800": 1}}', r"metadata.b.'\ud800'"),
        (r'"\udfff": 1', r"'\udfff'"),
        (r'inputs: {"x\ud800": {}}', r"inputs.'x\ud800'"),
        (r'inputs: [{name: x, "\ud800": 1}]', r"inputs[0].'\ud800'"),
        (r'outputs: {y: {labels: [a, "\ud800"]}}', "outputs.y.labels[1]"),
        (r'model: {source: "\ud800"}', "model.source"),
        (r'serving: {host: "\ud800"}', "serving.host"),
        (r'runtime: {provider_options: {a: "\ud800"}}', "runtime.provider_options.a"),
        (r'preprocessing: {pad_token: "\ud800"}', "preprocessing.pad_token"),
        (r'preprocessing: {tokenizer: "\ud800"}', "preprocessing.tokenizer"),
        (r'metadata: {a: "\ud83d${X}"}', "metadata.a"),
    ],
)
def test_a_lone_surrogate_is_refused(tmp_path: Path, text: str, place: str) -> None:
    message = reject(tmp_path, text, X="\ude00")
    assert message == f"{place}: the text has a lone surrogate"


def test_a_variable_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    error = reject(tmp_path, "metadata: {a: 'x${X}'}", X=b"a\xff".decode(errors="surrogateescape"))
    assert error == "metadata.a: ${X}: the environment variable is not UTF-8"


# Keys without a value.


@pytest.mark.parametrize("null", ["", "null", "~"])
def test_a_key_without_a_value_is_as_good_as_none(tmp_path: Path, null: str) -> None:
    shown = f" {null}".rstrip()
    sections = {name: [key for key in known if key != "name"] for name, known in keys.items()}
    sections["runtime"].append("graph_optimization")
    lines = [f"{key}:{shown}" for key in ("name", "version", "description", "metadata", "<<")]
    for name in ("runtime", "serving", "preprocessing", "model"):
        lines += [f"{name}:", *(f"  {key}:{shown}" for key in (*sections[name], "<<"))]
    given = [key for key in sections["inputs"] if key != "default"]
    lines += ["inputs:", "  - name: x", *(f"    {key}:{shown}" for key in (*given, "<<"))]
    lines += ["outputs:", "  y:", *(f"    {key}:{shown}" for key in sections["outputs"])]
    config = read(tmp_path, "\n".join(lines))
    assert replace(config.content, inputs={}, outputs=None) == ModelConfig().content
    assert (config.inputs, config.outputs) == ({"x": InputConfig()}, {"y": OutputConfig()})
    config = read(tmp_path, "\n".join(f"{name}:{shown}" for name in keys))
    assert config == ModelConfig(tmp_path / "gpux.yml")


def test_an_option_without_a_value_is_as_good_as_none(tmp_path: Path) -> None:
    config = read(tmp_path, "runtime: {provider_options: {a: , b: 1}}")
    assert config.content.runtime.provider_options == {"b": 1}


def test_null_stays_where_anything_may_stand(tmp_path: Path) -> None:
    config = read(tmp_path, "metadata: {a: , b: {c: }}\ninputs: {x: {default: }}")
    assert config.content.metadata == {"a": None, "b": {"c": None}}
    assert config.inputs["x"].default is None  # rejected later, by its input


def test_an_unknown_key_is_unknown_without_a_value_too(tmp_path: Path) -> None:
    assert reject(tmp_path, "nmae:").startswith("nmae: unknown key; ")
    assert reject(tmp_path, "serving: {prot: }").startswith("serving.prot: unknown key; ")


# Text in the file that looks like part of msgspec's error message.


@pytest.mark.parametrize("foreign", ["x` - at `$.zzz", "` - at `$[0]", "x` - at `key in $", "$.a"])
def test_no_message_is_read_for_what_the_file_says(tmp_path: Path, foreign: str) -> None:
    for text, place, problem in (
        ('{"%s": 1}', "", "unknown key; expected name, version"),
        ('serving: {"%s": 1}', "serving.", "unknown key; expected host, port"),
        ('inputs: {y: {"%s": 1}}', "inputs.y.", "unknown key; expected type, shape"),
    ):
        message = reject(tmp_path, text % foreign)
        assert message.startswith(f"{place}{foreign!r}: {problem}")
    for text, place in (
        ('runtime: {provider: "%s"}', "runtime.provider"),
        ('outputs: {y: {activation: "%s"}}', "outputs.y.activation"),
        ('serving: {cors_origins: ["%s"]}', "serving.cors_origins[0]"),
        ('runtime: {provider_options: {a: 1, b: ["%s"]}}', "runtime.provider_options.b"),
    ):
        assert reject(tmp_path, text % foreign).startswith(f"{place}: expected ")
    message = reject(tmp_path, f'runtime: {{provider_options: {{a: 1, "{foreign}": []}}}}')
    assert message.startswith(f"runtime.provider_options.{foreign!r}: expected text, a number")


# Origins: only the spelling that a browser sends is accepted.


@pytest.mark.parametrize(
    "origin",
    [
        *("*", "https://app.example", "http://localhost:3000"),
        *("https://xn--mnchen-3ya.example:8443", "http://127.0.0.1:8080", "http://[::1]:8080"),
        *("http://[2001:db8::1]", "https://a_b.example", "https://app.example:80"),
        *("http://app.example:443", "chrome-extension://abcdefghijklmnop", "capacitor://localhost"),
    ],
)
def test_origins(tmp_path: Path, origin: str) -> None:
    config = read(tmp_path, f'serving: {{cors_origins: ["{origin}"]}}')
    assert config.content.serving.cors_origins == (origin,)
    assert convert_text(origin, Origins, "--cors-origins") == (origin,)


@pytest.mark.parametrize(
    "origin",
    [
        *("https://App.example", "HTTPS://app.example", "https://*.example", "https://*"),
        *("https://münchen.example", "https://app.example:443", "http://app.example:80"),
        *("https://app.example:", "https://app.example:08443", "https://app.example:65536"),
        *("https://app.example:80a", "https://app.example/", "https://app.example\n"),
        *("https://app.example?a", "https://me@app.example", "https://a b.example", "https://"),
        *("https:app.example", "app.example", "http://127.1", "http://127.0.0.01"),
        *("http://[0:0::1]", "http://[::1", "http://::1", "http://[zz]", ""),
    ],
)
def test_what_no_browser_sends_is_no_origin(tmp_path: Path, origin: str) -> None:
    problem = (
        "expected '*' or an origin such as https://app.example: lower case, ASCII, without a path "
        f"or a default port, got {origin!r}"
    )
    message = reject(tmp_path, f"serving: {{cors_origins: [{json.dumps(origin)}]}}")
    assert message == f"serving.cors_origins[0]: {problem}"
    if origin == origin.strip():
        with pytest.raises(ConfigurationError) as caught:
            convert_text(f"https://a.example, {origin}", Origins, "GPUX_CORS_ORIGINS")
        assert str(caught.value) == f"GPUX_CORS_ORIGINS: {problem}"


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
    assert reject(tmp_path, "metadata: {<<: 5}") == "metadata.<<: expected a mapping, got 5"
