"""Invalid gpux.yml files: one line says where and what was expected, and nothing starts.

The tables hold (content, key path or line in the file, words in the rest of the message). Most go
through the Python API, whose error is the command's message; a sample through the command.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import gpux
from gpux.serving.engine import Engine
from tests.support import onnx_models
from tests.support.servers import WAITRESS_SERVE, failed_start, run_program

Broken = tuple[str, str, Sequence[str]]

# Not YAML, or not a mapping of plain values.
SYNTAX: list[Broken] = [
    ("name: [a, b", "line 1, column 12", ["not YAML"]),
    ("name: 'a", "line 1, column 9", ["not YAML"]),
    ("name: a\nserving:\n\tport: 1", "line 3, column 1", ["not YAML"]),
    ("serving:\n  port: 1\n threads: 2", "line 3, column 2", ["not YAML"]),
    ("name: a: b", "line 1, column 8", ["not YAML"]),
    ("name: @a", "line 1, column 7", ["not YAML"]),
    ("{name: a]", "line 1, column 9", ["not YAML"]),
    ("name: *nothing", "line 1, column 7", ["not YAML", "nothing"]),
    ("name: a\n---\nname: b", "line 2, column 1", ["not YAML"]),
    ("name: a\0b", "line 1", ["not YAML"]),
    ("name: a\n\n# \x07", "line 3", ["not YAML"]),
    ('a: 1\nname: "\\U00110000"', "line 2, column 10", ["not YAML", "out of range"]),
    ('name: "\\UFFFFFFFF"', "line 1, column 10", ["not YAML", "out of range"]),
    (f"%YAML 1.{'1' * 5000}\n---\nname: a", "line 1, column 9", ["not YAML", "out of range"]),
    ("- a", "", ["expected a mapping", "got a list"]),
    ("text", "", ["expected a mapping", "got 'text'"]),
    ("5", "", ["expected a mapping", "got 5"]),
    ("[1]: 2", "", ["expected keys that are text"]),
    ("serving: {? {a: b} : 1}", "serving", ["expected keys that are text"]),
    ("name: a\nname: b", "name", ["twice"]),
    ("serving: {port: 1, threads: 2, port: 3}", "serving.port", ["twice"]),
    ("inputs: {ids: {}, ids: {}}", "inputs.ids", ["twice"]),
    # Tags from which other loaders construct objects.
    ("name: !!python/object/apply:os.system [true]", "name", ["tag", "python/object"]),
    ("name: !!python/name:os.system", "name", ["tag", "python/name"]),
    ("metadata: {a: !!binary aGVsbG8=}", "metadata.a", ["tag", "binary"]),
    ("metadata: !!set {a}", "metadata", ["tag", "set"]),
    ("metadata: [!mine a]", "metadata[0]", ["tag", "!mine"]),
    ("metadata: {a: !!int x}", "metadata.a", ["expected int", "'x'"]),
    ("metadata: {a: !!bool yes}", "metadata.a", ["expected bool", "'yes'"]),
    # Strings that are not valid Unicode.
    (r'metadata: {a: "\ud800"}', "metadata.a", ["lone surrogate"]),
    (r'inputs: {"\udc00": {}}', r"inputs.'\udc00'", ["lone surrogate"]),
    (r'preprocessing: {pad_token: "\ud800"}', "preprocessing.pad_token", ["lone surrogate"]),
    # Values that /info could not return: JSON has no NaN or infinity.
    ("metadata: {a: .nan}", "metadata", [".nan"]),
    ("metadata: {a: [1, -.inf]}", "metadata", [".inf"]),
    ("metadata: {a: {b: 1e999}}", "metadata", [".inf"]),
    # Aliases.
    ("metadata: &a {b: [1, *a]}", "metadata.b[1]", ["contains itself"]),
    ("metadata: &a\n  <<: *a", "metadata.<<", ["contains itself"]),
    ("outputs: {<<: 5}", "outputs.<<", ["expected a mapping", "5"]),
    # Variables.
    ("name: ${", "name", ["${NAME}", "${NAME:-default}"]),
    ("name: ${}", "name", ["${NAME}"]),
    ("name: a ${A B} c", "name", ["${NAME}"]),
    ("name: '${A:?b}'", "name", ["${NAME}"]),
    ("name: ${A:-${B:-x}}", "name", ["${A:-${B:-x}", "a default has no ${"]),
    ("name: ${NO_SUCH_VARIABLE}", "name", ["${NO_SUCH_VARIABLE}", "not set", ":-default}"]),
    ("metadata: [a, {b: 'x${NOT_SET}'}]", "metadata[1].b", ["${NOT_SET}", "not set"]),
    ("serving: {port: '${NOT_SET:-8080}'}", "serving.port", ["expected an integer", "'8080'"]),
    ("serving: {port: '${NOT_SET:-http}'}", "serving.port", ["expected an integer", "'http'"]),
]

UNKNOWN_KEYS: list[Broken] = [
    ("nmae: x", "nmae", ["unknown key", "did you mean 'name'?"]),
    ("model: {sorce: x.onnx}", "model.sorce", ["unknown key", "did you mean 'source'?"]),
    ("inputs: {ids: {tpye: int64}}", "inputs.ids.tpye", ["unknown key", "'type'"]),
    ("inputs: [flag, {name: ids, tpye: int64}]", "inputs[1].tpye", ["unknown key", "'type'"]),
    ("outputs: {logits: {form: logits}}", "outputs.logits.form", ["unknown key", "'from'"]),
    ("outputs: {logits: {required: true}}", "outputs.logits.required", ["unknown key"]),
    ("runtime: {provder: cpu}", "runtime.provder", ["unknown key", "'provider'"]),
    ("serving: {prot: 1}", "serving.prot", ["unknown key; did you mean 'port'?"]),
    ("serving: {zzz: 1}", "serving.zzz", ["unknown key; expected host, port, threads"]),
    ("preprocessing: {tokeniser: x}", "preprocessing.tokeniser", ["unknown key", "'tokenizer'"]),
    ("serving: {'a b.c': 1}", "serving.'a b.c'", ["unknown key"]),
    ('"x` - at `$.zzz": 1', "'x` - at `$.zzz'", ["unknown key; expected name"]),
    ('serving: {"x` - at `$.zzz": 1}', "serving.'x` - at `$.zzz'", ["unknown key; expected host"]),
    ("nmae:", "nmae", ["unknown key", "did you mean 'name'?"]),
]

TYPES: list[Broken] = [
    ("name: [a]", "name", ["expected a name", "a list"]),
    ("name: ''", "name", ["expected a name", "''"]),
    ("version: {a: b}", "version", ["expected text", "a mapping"]),
    ("description: [a]", "description", ["expected text"]),
    ("model: model.onnx", "model", ["expected a mapping", "'model.onnx'"]),
    ("metadata: 5", "metadata", ["expected a mapping", "5"]),
    ("inputs: 5", "inputs", ["expected a list", "mapping", "5"]),
    ("inputs: {ids: 5}", "inputs.ids", ["expected a mapping", "5"]),
    ("inputs: [5]", "inputs[0]", ["expected a name", "5"]),
    ("inputs: [{type: int64}]", "inputs[0].name", ["expected the input's name", "null"]),
    ("inputs: [{name: [a]}]", "inputs[0].name", ["expected the input's name", "a list"]),
    ("inputs: [ids, {name: ids}]", "inputs[1]", ["'ids'", "twice"]),
    ("inputs: {ids: {type: [a]}}", "inputs.ids.type", ["expected text"]),
    ("inputs: {ids: {shape: batch}}", "inputs.ids.shape", ["expected a list", "'batch'"]),
    ("inputs: {ids: {shape: [batch, -2]}}", "inputs.ids.shape[1]", ["-2"]),
    ("inputs: [{name: ids, shape: [1.5, n]}]", "inputs[0].shape[0]", ["1.5"]),
    ("inputs: {ids: {required: yes}}", "inputs.ids.required", ["true or false", "'yes'"]),
    ("inputs: {ids: {batched: 1}}", "inputs.ids.batched", ["true or false", "1"]),
    ("inputs: {ids: {labels: a}}", "inputs.ids.labels", ["expected a list", "'a'"]),
    ("inputs: {ids: {labels: [a, [b]]}}", "inputs.ids.labels[1]", ["expected text"]),
    ("inputs: {word: {max_length: 0}}", "inputs.word.max_length", ["an integer from 1", "0"]),
    ("inputs: {word: {max_length: '5'}}", "inputs.word.max_length", ["an integer", "'5'"]),
    ("outputs: logits", "outputs", ["expected a list", "'logits'"]),
    ("outputs: []", "outputs", ["expected", "at least one"]),
    ("outputs: [logits, logits]", "outputs[1]", ["'logits'", "twice"]),
    ("outputs: {a: {from: [b]}}", "outputs.a.from", ["expected", "a list"]),
    ("outputs: {logits: {activation: relu}}", "outputs.logits.activation", ["softmax", "'relu'"]),
    ("runtime: []", "runtime", ["expected a mapping", "a list"]),
    ("runtime: {provider: gpu}", "runtime.provider", ["auto, cpu or cuda", "'gpu'"]),
    ("runtime: {device: -1}", "runtime.device", ["an integer from 0", "-1"]),
    ("runtime: {threads: 0}", "runtime.threads", ["an integer from 1", "0"]),
    ("runtime: {gpu_memory_limit: much}", "runtime.gpu_memory_limit", ["a size", "'much'"]),
    ("runtime: {graph_optimization: max}", "runtime.graph_optimization", ["basic", "'max'"]),
    ("runtime: {provider_options: [a]}", "runtime.provider_options", ["expected a mapping"]),
    ("runtime: {provider_options: {a: [1]}}", "runtime.provider_options.a", ["number", "a list"]),
    ("runtime: {session_options: {a: [1]}}", "runtime.session_options.a", ["number", "a list"]),
    (
        "runtime: {session_options: {session.intra_op.allow_spinning: 1}}",
        "runtime.session_options.'session.intra_op.allow_spinning'",
        ["threads never spin"],
    ),
    (
        "runtime: {session_options: {session.inter_op.allow_spinning: 1}}",
        "runtime.session_options.'session.inter_op.allow_spinning'",
        ["threads never spin"],
    ),
    (
        "runtime: {session_options: {session.record_ep_graph_assignment_info: 0}}",
        "runtime.session_options.'session.record_ep_graph_assignment_info'",
        ["always recorded"],
    ),
    (
        "runtime: {session_options: {session.set_denormal_as_zero: 1}}",
        "runtime.session_options.'session.set_denormal_as_zero'",
        ["the whole process"],
    ),
    ("runtime: {free_dimensions: {n: 0}}", "runtime.free_dimensions.n", ["from 1", "0"]),
    ("runtime: {free_dimensions: {nowhere: 8}}", "runtime.free_dimensions.nowhere", ["no input"]),
    ("runtime: {custom_ops: ops.so}", "runtime.custom_ops", ["a list", "'ops.so'"]),
    ("runtime: {custom_ops: [ops.so]}", "runtime.custom_ops[0]", ["no such file", "ops.so"]),
    ("runtime: {custom_ops: [json]}", "runtime.custom_ops[0]", ["json", "no library"]),
    ("runtime: {custom_ops: [gpux.yml]}", "runtime.custom_ops[0]", ["gpux.yml"]),
    ("serving: {host: [a]}", "serving.host", ["expected a host", "a list"]),
    ("serving: {host: ''}", "serving.host", ["expected a host", "''"]),
    ("serving: {port: 70000}", "serving.port", ["expected an integer from 0 to 65535, got 70000"]),
    ("serving: {port: -1}", "serving.port", ["expected an integer from 0 to 65535, got -1"]),
    ("serving: {port: http}", "serving.port", ["expected an integer", "'http'"]),
    ("serving: {port: '80'}", "serving.port", ["expected an integer", "'80'"]),
    ("serving: {port: 80.5}", "serving.port", ["expected an integer", "80.5"]),
    ("serving: {port: true}", "serving.port", ["expected an integer", "true"]),
    ("serving: {threads: 0}", "serving.threads", ["expected an integer from 1 to 1024, got 0"]),
    ("serving: {threads: 1025}", "serving.threads", ["expected an integer from 1 to 1024"]),
    ("serving: {max_body: 0}", "serving.max_body", ["expected a size such as", "0"]),
    ("serving: {max_body: -1}", "serving.max_body", ["expected a size", "-1"]),
    ("serving: {max_body: 1.5}", "serving.max_body", ["expected a size", "1.5"]),
    ("serving: {max_body: 64XB}", "serving.max_body", ["expected a size", "'64XB'"]),
    ("serving: {max_body: true}", "serving.max_body", ["expected a size", "true"]),
    ("serving: {timeout: 0}", "serving.timeout", ["expected", "above 0", "0"]),
    ("serving: {timeout: -0.5}", "serving.timeout", ["expected", "above 0", "-0.5"]),
    ("serving: {timeout: .nan}", "serving.timeout", ["expected", "above 0", "nan"]),
    ("serving: {timeout: .inf}", "serving.timeout", ["expected", "inf"]),
    ("serving: {timeout: soon}", "serving.timeout", ["expected", "'soon'"]),
    ("serving: {cors_origins: app.example}", "serving.cors_origins", ["https://", "'app.example'"]),
    (
        "serving: {cors_origins: ['https://a.example', 'https://b.example/']}",
        "serving.cors_origins[1]",
        ["without a path", "'https://b.example/'"],
    ),
    ("serving: {cors_origins: [5]}", "serving.cors_origins[0]", ["https://", "5"]),
    (
        "serving: {cors_origins: ['https://a.example:443']}",
        "serving.cors_origins[0]",
        ["default port", "'https://a.example:443'"],
    ),
    ("serving: {padding: 0}", "serving.padding", ["expected a mapping", "0"]),
    ("serving: {padding: {ids: a}}", "serving.padding.ids", ["a number, true or false", "'a'"]),
    ("serving: {buckets: 16}", "serving.buckets", ["a list of sizes from 1 on", "16"]),
    ("serving: {buckets: []}", "serving.buckets", ["a list of sizes from 1 on"]),
    ("serving: {buckets: [16, 0]}", "serving.buckets[1]", ["a size from 1 on", "0"]),
    ("serving: {buckets: [16, 8]}", "serving.buckets", ["larger than the one before", "[16, 8]"]),
    ("serving: {buckets: [8, 8]}", "serving.buckets", ["larger than the one before", "[8, 8]"]),
    ("serving: {cors_origins: {}}", "serving.cors_origins", ["expected", "a mapping"]),
    ("preprocessing: {max_length: 0}", "preprocessing.max_length", ["an integer from 1", "0"]),
    ("preprocessing: {tokenizer: [a]}", "preprocessing.tokenizer", ["expected", "a list"]),
]

# Entries that contradict the model `described`.
MODEL: list[Broken] = [
    ("inputs: {imgae: {}}", "inputs.imgae", ["no such input; did you mean 'image'?"]),
    ("inputs: [zzz]", "inputs[0]", ["no such input; its inputs are 'ids', 'mask', 'image'"]),
    ("inputs: {text: {}}", "inputs.text", ["no such input"]),
    ("outputs: {logit: {}}", "outputs.logit", ["no output 'logit'; did you mean 'logits'?"]),
    (
        "outputs: {a: {from: zzz}}",
        "outputs.a.from",
        ["no output 'zzz'; its outputs are 'same_ids'"],
    ),
    ("outputs: [logits, a]", "outputs[1]", ["no output 'a'"]),
    (
        "inputs: {ids: {type: int32}}",
        "inputs.ids.type",
        ["expected int64, as the model", "'int32'"],
    ),
    ("inputs: {ids: {type: int}}", "inputs.ids.type", ["expected int64", "'int'"]),
    ("inputs: [{name: word, type: text}]", "inputs[0].type", ["expected string", "'text'"]),
    (
        "outputs: {logits: {type: float16}}",
        "outputs.logits.type",
        ["expected float32", "'float16'"],
    ),
    # Shapes of another rank, with another size, with another axis name.
    ("inputs: {ids: {shape: [batch]}}", "inputs.ids.shape", ["expected [batch, seq]", "[batch]"]),
    (
        "inputs: {image: {shape: [batch, 4, null]}}",
        "inputs.image.shape",
        ["expected [batch, 3, None], as the model declares it", "[batch, 4, null]"],
    ),
    ("inputs: {ids: {shape: [n, seq]}}", "inputs.ids.shape", ["expected [batch, seq]", "[n, seq]"]),
    ("inputs: {image: {shape: [batch, 3, '']}}", "inputs.image.shape[2]", ["''"]),
    ("inputs: {state: {shape: [batch, 1, 4]}}", "inputs.state.shape", ["expected [2, None, 4]"]),
    (
        "inputs: {ids: {shape: [batch, 8]}, mask: {shape: [batch, 9]}}",
        "inputs.mask.shape[1]",
        ["8", "'seq'", "9"],
    ),
    ("outputs: {a: {from: logits, shape: [batch, 3]}}", "outputs.a.shape", ["[batch, 2]"]),
    ("outputs: {logits: {shape: [2]}}", "outputs.logits.shape", ["expected [batch, 2]", "[2]"]),
    (
        f"inputs: {{rate: {{shape: [{'1, ' * 33}]}}}}",
        "inputs.rate.shape",
        ["expected at most 32 axes, got 33"],
    ),
    (
        f"outputs: [{{name: same_rate, shape: [{'1, ' * 33}]}}]",
        "outputs[0].shape",
        ["expected at most 32 axes, got 33"],
    ),
    # The batch axis.
    ("inputs: {rate: {batched: true}}", "inputs.rate.batched", ["no axes"]),
    ("outputs: {same_rate: {batched: true}}", "outputs.same_rate.batched", ["no axes"]),
    # Defaults.
    ("inputs: {ids: {required: false}}", "inputs.ids.required", ["needs a `default`"]),
    ("inputs: {ids: {required: true, default: 0}}", "inputs.ids.default", ["required"]),
    ("inputs: {ids: {default: a}}", "inputs.ids.default", ["number"]),
    ("inputs: {ids: {default: true}}", "inputs.ids.default", ["number"]),
    ("inputs: {ids: {default: null}}", "inputs.ids.default", ["number"]),
    ("inputs: {ids: {default: 1.5}}", "inputs.ids.default", ["1.5 is not an integer"]),
    (f"inputs: {{ids: {{default: {2**63}}}}}", "inputs.ids.default", ["out of range for int64"]),
    ("inputs: {points: {default: 1e39}}", "inputs.points.default", ["out of range for float32"]),
    ("inputs: {points: {default: .nan}}", "inputs.points.default", ["not a finite number"]),
    ("inputs: {flag: {default: 2}}", "inputs.flag.default", ["out of range for bool"]),
    ("inputs: {word: {default: 5}}", "inputs.word.default", ["string"]),
    ("inputs: {word: {default: {a: b}}}", "inputs.word.default", ["string"]),
    (
        "inputs: {rate: {default: [[1], [2, 3]]}}",
        "inputs.rate.default",
        ["expected 1 value, got 2"],
    ),
    ("inputs: {points: {default: [1, 2, 3]}}", "inputs.points.default", ["[batch, 2]"]),
    ("inputs: {points: {default: [[1, 2], [3, 4]]}}", "inputs.points.default", ["one item"]),
    ("inputs: {word: {default: abcd, max_length: 3}}", "inputs.word.default", ["at most 3"]),
    ("inputs: [{name: points, default: [[1, x]]}]", "inputs[0].default", ["number", "string"]),
    # An unknown size: no other input has the axis, or it has no name.
    ("inputs: {image: {default: 0.5}}", "inputs.image.default", ["[batch, 3, None]"]),
    ("inputs: {state: {default: 0.5}}", "inputs.state.default", ["[2, None, 4]"]),
    ("inputs: {ids: {default: 0}, mask: {default: 1}}", "inputs.ids.default", ["[batch, seq]"]),
    # Activations and labels.
    (
        "outputs: {same_ids: {activation: softmax}}",
        "outputs.same_ids.activation",
        ["softmax", "floats", "'same_ids' is int64"],
    ),
    ("outputs: {same_word: {activation: sigmoid}}", "outputs.same_word.activation", ["string"]),
    ("outputs: {same_flag: {activation: sigmoid}}", "outputs.same_flag.activation", ["bool"]),
    ("outputs: {weights: {activation: softmax}}", "outputs.weights.activation", ["[batch]"]),
    ("outputs: {weights: {activation: normalize}}", "outputs.weights.activation", ["[batch]"]),
    ("outputs: {logits: {labels: [a]}}", "outputs.logits.labels", ["expected 2 labels", "got 1"]),
    ("outputs: [{name: logits, labels: []}]", "outputs[0].labels", ["expected 2 labels", "got 0"]),
    ("inputs: {points: {labels: [a, b, c]}}", "inputs.points.labels", ["expected 2 labels"]),
    # Padding.
    ("serving: {buckets: [8]}", "serving.buckets", ["serving.padding does not say"]),
    ("serving: {padding: {idz: 0}}", "serving.padding.idz", ["no such input", "'ids', 'mask'"]),
    ("serving: {padding: {ids: 1.5}}", "serving.padding.ids", ["1.5 is not an integer"]),
    ("serving: {padding: {ids: true}}", "serving.padding.ids", ["expected number"]),
    (f"serving: {{padding: {{ids: {2**63}}}}}", "serving.padding.ids", ["out of range for int64"]),
    ("serving: {padding: {word: 0}}", "serving.padding.word", ["only numbers", "string"]),
    ("serving: {padding: {state: 0}}", "serving.padding.state", ["lead with a batch axis"]),
    ("serving: {padding: {points: 0}}", "serving.padding.points", ["one shape, [batch, 2]"]),
    (
        "serving: {padding: {image: 0}}",
        "serving.padding.image",
        ["axis 2 of 'image' has no name", "inputs.image.shape"],
    ),
    (
        "serving: {padding: {ids: 0}}",
        "serving.padding",
        ["'mask' has the axis 'seq' as well, and no value for it"],
    ),
    (
        "serving: {padding: {ids: 0, mask: 0}}",
        "serving.padding",
        ["axis 2 of output 'same_image' has no name", "where to cut it"],
    ),
    # NaN.
    ("inputs: {ids: {missing: nan}}", "inputs.ids.missing", ["only floats", "int64"]),
    ("inputs: {points: {missing: nan, default: 1}}", "inputs.points.missing", ["`default`"]),
    ("inputs: {points: {missing: nan, required: true}}", "inputs.points.missing", ["`required"]),
    # Texts.
    ("inputs: {ids: {max_length: 5}}", "inputs.ids.max_length", ["'ids' is int64"]),
    ("inputs: {rate: {max_length: 5}}", "inputs.rate.max_length", ["'rate' is int64"]),
    ("preprocessing: {tokenizer: other.json}", "preprocessing.tokenizer", ["input_ids"]),
    # Files, relative to the folder of gpux.yml.
    ("model: {source: no/such.onnx}", "model.source", ["no such file", "no/such.onnx"]),
    ("model: {source: .}", "model.source", ["no such file"]),
    ("model: {source: /no/such.onnx}", "model.source", ["no such file: /no/such.onnx"]),
    ("preprocessing: {tokenizer: no.json}", "preprocessing.tokenizer", ["no such file", "no.json"]),
    ("preprocessing: {tokenizer: .}", "preprocessing.tokenizer", ["no such file"]),
]

# Entries that contradict the model `sentiment` with a tokenizer.
TEXT: list[Broken] = [
    (
        "inputs: {text: {max_length: 8}}\npreprocessing: {max_length: 8}",
        "inputs.text.max_length",
        ["preprocessing"],
    ),
    ("inputs: {text: {default: a}}", "inputs.text.default", []),
    ("inputs: {text: {batched: false}}", "inputs.text.batched", []),
    ("inputs: {text: {required: false}}", "inputs.text.required", ["no default"]),
    ("inputs: {text: {type: int64}}", "inputs.text.type", ["string"]),
    ("inputs: {texts: {}}", "inputs.texts", ["no such input; did you mean 'text'?"]),
    ("inputs: {input_ids: {max_length: 8}}", "inputs.input_ids.max_length", ["int64"]),
]

ALL = [*SYNTAX, *UNKNOWN_KEYS, *TYPES, *MODEL]

_TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model of the tables, and a tokenizer that the model cannot use."""
    path = onnx_models.write_folder(tmp_path_factory.mktemp("described"), "described")
    # Not under the name that is found automatically.
    (path / "other.json").write_text(json.dumps(_TOKENIZER))
    return path


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text model and its tokenizer."""
    path = onnx_models.write_folder(tmp_path_factory.mktemp("texts"), "sentiment")
    (path / "tokenizer.json").write_text(json.dumps(_TOKENIZER))
    return path


def check(message: str, file: Path, place: str, words: Sequence[str]) -> None:
    """Checks that a short, printable line names the file, the position and what was expected."""
    start = f"{file}: {place}: " if place else f"{file}: "
    assert message.startswith(start)
    rest = message.removeprefix(start)
    assert [word for word in words if word not in rest] == [], message
    assert len(message.splitlines()) == 1
    assert len(rest) < 500
    assert all(character.isprintable() for character in message)


def problem(folder: Path, content: str | bytes) -> str:
    """The error message for a gpux.yml, when its model is loaded and about to be served."""
    data = content.encode() if isinstance(content, str) else content
    (folder / "gpux.yml").write_bytes(data)
    with pytest.raises(gpux.StartError) as caught:
        Engine(gpux.load(folder))
    return str(caught.value)


def check_read_or_refused(folder: Path, content: str) -> None:
    file = folder / "gpux.yml"
    file.write_text(content)
    try:
        gpux.load(folder)
    except gpux.StartError as error:
        check(str(error), file, "", [])


def name_of(part: object) -> str:
    return repr(part)[:60]


@pytest.mark.parametrize(("content", "place", "words"), ALL, ids=name_of)
def test_a_broken_file_is_refused(
    folder: Path, content: str, place: str, words: Sequence[str]
) -> None:
    check(problem(folder, content), folder / "gpux.yml", place, words)


@pytest.mark.parametrize(("content", "place", "words"), TEXT, ids=name_of)
def test_a_broken_file_about_texts_is_refused(
    text_folder: Path, content: str, place: str, words: Sequence[str]
) -> None:
    pytest.importorskip("tokenizers")
    check(problem(text_folder, content), text_folder / "gpux.yml", place, words)


# Through the command.

COMMANDS = [("serve", "--port", "0"), ("run", "--input", "{}"), ("inspect",)]


@pytest.mark.parametrize(("content", "place", "words"), ALL[::14], ids=name_of)
def test_the_command_says_so_in_one_line_and_ends(
    folder: Path, content: str, place: str, words: Sequence[str]
) -> None:
    (folder / "gpux.yml").write_text(content)
    line = failed_start("inspect", str(folder))
    check(line.removeprefix("gpux: "), folder / "gpux.yml", place, words)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_command_starts_anything(folder: Path, command: Sequence[str]) -> None:
    (folder / "gpux.yml").write_text("serving: {prot: 1}")
    line = f"gpux: {folder / 'gpux.yml'}: serving.prot: unknown key; did you mean 'port'?"
    assert failed_start(command[0], str(folder), *command[1:]) == line


def test_waitress_ends_with_the_same_line(folder: Path) -> None:
    (folder / "gpux.yml").write_text("serving: {prot: 1}")
    done = run_program(*WAITRESS_SERVE, variables={"GPUX_MODEL": str(folder)})
    assert done.returncode != 0
    line = f"gpux: {folder / 'gpux.yml'}: serving.prot: unknown key; did you mean 'port'?"
    assert line in done.stderr.splitlines()
    assert "Traceback" not in done.stderr


# Not UTF-8, or too much of it.


@pytest.mark.parametrize(
    ("content", "byte"),
    [(b"name: \xff", 6), ("name: a".encode("utf-16"), 0), (b"\xc3", 0)],
    ids=repr,
)
def test_what_is_not_utf_8_is_refused(folder: Path, content: bytes, byte: int) -> None:
    check(problem(folder, content), folder / "gpux.yml", "", [f"not UTF-8 at byte {byte}"])


# Twenty mappings, each of which merges the one before nine times.
MERGES = "metadata:\n  a0: &a0 {x: y}\n" + "".join(
    f"  a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}\n"
    for level in range(1, 20)
)


@pytest.mark.parametrize(
    "content",
    [
        MERGES,
        f"metadata: {'{a: ' * 100_000}",
        f"metadata: {'[' * 5_000}{']' * 5_000}",
        f"metadata: {'[' * 300}{']' * 300}",
        f"metadata: {'[' * 90}{']' * 90}",
        "metadata:\n" + "".join(f"{' ' * depth}-\n" for depth in range(1, 1000)),
        "name: a\n" * 10_000,
        "? " * 10_000,
        f"metadata: [{'a, ' * 101_000}]",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_what_would_take_for_ever_is_refused_or_read(folder: Path, content: str) -> None:
    """In bounded time and memory. Nesting too deep for the YAML parser is reported."""
    check_read_or_refused(folder, content)


@pytest.mark.parametrize(
    "content",
    [
        f"{'k' * 5000}: 1",
        f"serving: {{port: {'9' * 5000}}}",
        f"serving: {{port: {'9' * 500}}}",
        f"serving: {{port: 0x{'f' * 500}}}",
        f"serving: {{host: [{'a' * 5000}]}}",
        f"serving: {{timeout: {'a' * 5000}}}",
        f"inputs: {{ids: {{type: {'i' * 5000}}}}}",
        f"inputs: {{ids: {{shape: [{'9' * 5000}]}}}}",
        f"inputs: {{ids: {{shape: [{'batch, ' * 5000}]}}}}",
        f"inputs: {{ids: {{shape: [batch, {'9' * 100}]}}}}",
        f"inputs: {{{'i' * 5000}: {{}}}}",
        f"inputs: {{points: {{default: [{'a' * 5000}]}}}}",
        f"outputs: {{a: {{from: {'o' * 5000}}}}}",
        f"model: {{source: {'m' * 200}}}",
        f"model: {{source: {'m' * 5000}}}",
        f"preprocessing: {{tokenizer: {'m' * 5000}}}",
        f"name: ${{{'A' * 5000}}}",
        f"name: !{'t' * 5000} a",
        f"name: *{'a' * 5000}",
        '"a\\nb\\e[2J\\u2028": 1',
        'serving: {"a\\nb": 1}',
        'serving: {host: ["a\\nb\\e[2J"]}',
        'runtime: {provider: "a\\r\\nb\\e[2J"}',
        'inputs: {"a\\nb\\u202e": {}}',
        'inputs: {ids: {type: "a\\nb\\e[2J"}}',
        'inputs: {ids: {shape: ["a\\nb\\e[2J"]}}',
        'outputs: {logits: {from: "a\\nb\\e[2J"}}',
        'model: {source: "a\\nb\\e[2J\\0"}',
        'model: {source: "a\\0"}',
        'preprocessing: {tokenizer: "a\\0"}',
        'name: "${a\\nb}"',
    ],
    ids=name_of,
)
def test_a_line_is_bounded_whatever_it_quotes(folder: Path, content: str) -> None:
    check(problem(folder, content), folder / "gpux.yml", "", [])


def test_a_model_s_long_names_are_cut(tmp_path: Path) -> None:
    """Names in the model are as untrusted as those in the file."""
    model = onnx_models.reshaped({"x" * 3000 + "\n\x1b": ("batch", 3)}, {"y" * 3000: ("batch", 3)})
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    for content in ("inputs: {zzz: {}}", "outputs: {zzz: {}}"):
        check(problem(tmp_path, content), tmp_path / "gpux.yml", content.split(":")[0] + ".zzz", [])


# Random mutations.

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 0.5, 2**70, 1e300, float("nan"), float("inf")),
    *("", "x", "1", "${", "${X:-1}", "ids", "logits", "\0", "a" * 100, "a\nb"),
    *([], {}, [[]], [{}], [None], ["x"], {"x": None}, {"": 1}, {"name": "ids"}, [1, "a", None]),
]
VALID: dict[str, Any] = {
    "name": "n",
    "version": "1.10",
    "model": {"source": "model.onnx"},
    "inputs": [
        {"name": "ids", "type": "int64", "shape": ["batch", None], "description": "d"},
        {"name": "points", "default": [0.5, 1], "labels": ["a", "b"], "required": False},
        {"name": "word", "max_length": 3, "default": "a"},
        {"name": "state", "batched": False},
        {"name": "rate", "default": 1},
    ],
    "outputs": {
        "p": {"from": "logits", "activation": "softmax", "labels": ["a", "b"], "batched": True},
        "same_ids": {"type": "int64", "shape": ["batch", "seq"]},
    },
    "runtime": {
        "provider": "cpu",
        "threads": 1,
        "graph_optimization": "basic",
        "session_options": {"session.disable_prepacking": 1},
    },
    "serving": {"port": 0, "max_body": "1MiB", "timeout": 1, "cors_origins": ["https://a.b"]},
    "preprocessing": {"max_length": 5},
    "metadata": {"a": [1, {"b": 2}]},
}


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A valid file with one or two mutations."""
    tree = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 2))):
        node: Any = tree
        while True:
            if not isinstance(node, dict | list) or not node:
                break
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = draw(st.sampled_from(keys))
            change = draw(st.sampled_from(["deeper", "deeper", "value", "key", "gone"]))
            if change == "value":
                node[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
            elif change == "gone":
                del node[key]
            elif change == "key" and isinstance(node, dict):
                node[draw(st.sampled_from(["x", "", "name", "type", "<<", "ids", key + "s"]))] = (
                    node.pop(key)
                )
            else:
                node = node[key]
                continue
            break
    text: str = yaml.safe_dump(tree, default_flow_style=draw(st.booleans()), sort_keys=False)
    return text


@settings(max_examples=300)
@given(damaged())
def test_a_damaged_file_is_read_or_refused(folder: Path, content: str) -> None:
    check_read_or_refused(folder, content)


def test_the_message_has_the_path_as_it_was_given(folder: Path, tmp_path: Path) -> None:
    """Messages keep the path of the command line, so that editors can jump there."""
    file = tmp_path / "other name.yml"
    file.write_text("nmae: a")
    line = failed_start("inspect", str(folder), "--config", str(file))
    assert line.startswith(f"gpux: {file}: nmae: ")
