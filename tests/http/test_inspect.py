"""`gpux inspect`: a table of inputs and outputs, and example bodies that the model accepts."""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import gpux
from gpux.cli.examples import find_examples
from tests.support import onnx_models
from tests.support.bert_models import Variant, remove_pad_token, write_echo
from tests.support.packaged_models import find_in_package
from tests.support.servers import (
    Command,
    Described,
    Failure,
    Find,
    FolderFor,
    Serve,
    ServerFor,
    ServerProcess,
    failed_start,
    run_gpux,
)

Inspect = Callable[..., str]

EXAMPLES = Path(__file__).parents[2] / "examples"
OPTIONAL = "inputs: {x: {shape: [batch, 2]}, rate: {default: 5}}"
LOADABLE = [
    name
    for name in onnx_models.BUILDERS
    if not name.startswith("takes_") and name != "slow_to_load"
]


@pytest.fixture
def inspect(command: Command) -> Inspect:
    """Runs `gpux inspect`, which succeeds; returns what it prints."""

    def run(*arguments: str | Path) -> str:
        code, stdout, stderr = command("inspect", *arguments)
        assert (code, stderr) == (0, "")
        return stdout

    return run


TITLES = "One item", "A batch", "A pair", "By ids", "With all", "Empty", "Example"


def examples(stdout: str) -> dict[str, tuple[str, str]]:
    """The bodies and responses that are shown, by title; both may be shortened."""
    lines = stdout.splitlines()
    return {
        line[:10].rstrip(): (line[10:], response.removeprefix(" " * 10))
        for line, response in itertools.pairwise(lines)
        if line[:10].rstrip() in TITLES and line[10:].startswith("{")
    }


def table(stdout: str) -> list[list[str]]:
    """The lines about inputs and outputs, split into columns."""
    rows = [line for line in stdout.splitlines() if line.startswith(("Input ", "Output "))]
    return [line.split() for line in rows]


# The examples are valid requests.


def is_shortened(text: str, line: str) -> bool:
    """Whether a line is the text, possibly with parts left out."""
    first, *parts = re.split(" … |…", line)
    if not parts:
        return text == line
    at = len(first)
    for part in parts[:-1]:
        at = text.find(part, at) + len(part)
        if at < len(part):
            return False
    return text.startswith(first) and text[at:].endswith(parts[-1])


def check_examples(inspect: Inspect, server: ServerProcess, path: Path) -> None:
    shown = examples(inspect(path))
    full = find_examples(gpux.load(path))
    assert list(shown) == list(full)
    for title, example in full.items():
        response = server.post(example.body)
        assert (response.status, response.body) == (200, example.answer)
        # The lines shown are the body and the response, possibly shortened.
        for line, text in zip(shown[title], (example.body, example.answer), strict=True):
            assert is_shortened(text.decode(), line), line
    # Only a second text that does not fit may be left out.
    sent = {name for example in full.values() for name in json.loads(example.body)}
    unsent = {spec["name"] for spec in server.request("GET", "/info").json["inputs"]} - sent
    assert unsent == set() or (unsent == {"text_pair"} and "A pair" not in full)
    assert inspect(path, "--example") == next(iter(full.values())).body.decode() + "\n"


@pytest.mark.parametrize("name", LOADABLE)
def test_the_example_of_each_model_works(
    inspect: Inspect, model_file: Find, server: Serve, name: str
) -> None:
    check_examples(inspect, server(name), model_file(name))


@pytest.mark.parametrize("name", ["digits", "sentiment"])
def test_the_example_of_each_example_works(
    inspect: Inspect, server_for: ServerFor, name: str
) -> None:
    check_examples(inspect, server_for(EXAMPLES / name), EXAMPLES / name)


@pytest.mark.parametrize(
    ("model", "text", "body"),
    [
        ("optional", OPTIONAL, None),
        ("matrix", "inputs: {x: {shape: [null, 3]}}", {"x": [0.5] * 3}),
        ("matrix", "inputs: {x: {shape: [2, 1]}}", {"x": [[0.5]] * 2}),
        ("matrix", "inputs: {x: {batched: false, shape: [null, 2]}}", None),
        ("matrix", "inputs: {x: {default: [1, 2]}}", {"x": [0.5] * 4}),
        ("items", "inputs: {a: {default: 1}, b: {default: 2}}", {"c": True}),
        ("text", "inputs: {text: {max_length: 5}}", None),
        ("text", "inputs: {text: {max_length: 1}}", None),
        ("strings", "inputs: {texts: {max_length: 3}}", None),
        ("string", "inputs: {word: {max_length: 3}}", None),
        ("fixed", "inputs: {x: {batched: true}}", None),
        ("single", "inputs: {x: {batched: true}}", {"x": [0.5] * 3}),
        ("described", "outputs: {p: {from: logits, activation: softmax}}", None),
    ],
)
def test_the_example_is_what_gpux_yml_asks_for(
    inspect: Inspect,
    folder_for: FolderFor,
    described: Described,
    model: str,
    text: str,
    body: object,
) -> None:
    check_examples(inspect, described(model, text), folder_for(model, text))
    if body is not None:
        assert json.loads(inspect(folder_for(model, text), "--example")) == body


def test_a_body_has_no_optional_inputs(inspect: Inspect, folder_for: FolderFor) -> None:
    body = json.loads(inspect(folder_for("optional", OPTIONAL), "--example"))
    assert "rate" not in body
    assert body["mask"] == [1, 1]


@pytest.mark.parametrize(
    ("model", "titles"),
    [
        ("matrix", ["One item", "A batch"]),
        ("single", ["One item"]),
        ("fixed", ["Example"]),
        ("opened", ["Example"]),
    ],
)
def test_a_batch_is_shown_where_there_is_one(
    inspect: Inspect, model_file: Find, model: str, titles: Sequence[str]
) -> None:
    assert list(examples(inspect(model_file(model)))) == titles


PIXELS = "[[[0.5,0.5,…],[0.5,0.5,…],…],[[0.5,0.5,…],[0.5,0.5,…],…],…]"


def test_long_lists_are_shortened_but_not_in_the_example(
    inspect: Inspect, model_file: Find
) -> None:
    stdout = inspect(model_file("photos"))
    assert examples(stdout)["A batch"][0] == f'{{"image":[{PIXELS},{PIXELS}]}}'
    assert max(map(len, stdout.splitlines())) < 500
    assert len(json.loads(inspect(model_file("photos"), "--example"))["image"]) == 3


def test_what_is_still_too_long_loses_its_middle(inspect: Inspect, folder_for: FolderFor) -> None:
    stdout = inspect(folder_for("mixed", "name: long"))
    body, response = examples(stdout)["A batch"]
    assert body.startswith('{"float32":[[0.5,0.5,…],[0.5,0.5,…]],"float64":')
    assert body.endswith(']],"text":["I love this product!","This is terrible."]}')
    assert " … " in body
    assert " … " in response
    assert max(map(len, stdout.splitlines())) < 500


# Optional inputs.


def test_what_may_be_left_out_is_shown_with_its_default(folder_for: FolderFor) -> None:
    text = """
inputs:
  mask: {default: 1}
  float32: {default: 0.1}
  bfloat16: {default: [1.5, 3.140625]}
  uint32: {default: [[1, 2]]}
  int64: {default: 9223372036854775807}
  string: {default: [é, "null"]}
  state: {default: [[1, 2, 3], [4, 5, 6]]}
  rate: {default: 16000}
"""
    full = find_examples(gpux.load(folder_for("optional", text)))
    assert list(full) == ["One item", "A batch", "With all"]
    one, both = (json.loads(full[title].body) for title in ("One item", "With all"))
    assert one == {name: both[name] for name in one}
    assert {name: value for name, value in both.items() if name not in one} == {
        "mask": [1] * 4,
        "float32": [0.1, 0.1],
        "bfloat16": [1.5, 3.14],
        "uint32": [1, 2],
        "int64": [2**63 - 1] * 2,
        "string": ["é", "null"],
        "state": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
        "rate": 16000,
    }
    assert full["With all"].answer == full["One item"].answer


@pytest.mark.parametrize(
    ("model", "text", "expected"),
    [
        (
            "items",
            "inputs: {a: {default: 0.5}, b: {default: 2}, c: {default: true}}",
            {
                "One item": '{"a":0.5,"b":1,"c":true}',
                "A batch": '{"a":[0.5,0.5],"b":[1,1],"c":[true,true]}',
                "Empty": "{}",
            },
        ),
        (
            "items",
            "inputs: {b: {default: 2}}",
            {
                "One item": '{"a":0.5,"c":true}',
                "A batch": '{"a":[0.5,0.5],"c":[true,true]}',
                "With all": '{"a":0.5,"c":true,"b":2}',
            },
        ),
        (
            "single",
            "inputs: {x: {default: [1, 2, 3]}}",
            {"One item": '{"x":[0.5,0.5,0.5]}', "Empty": "{}"},
        ),
        (
            "opened",
            "inputs: {free: {default: [1, 2]}}",
            {"Example": '{"scalar":1}', "With all": '{"scalar":1,"free":[1.0,2.0]}'},
        ),
        (
            "opened",
            "inputs: {free: {default: 1}, scalar: {default: 2}}",
            {"Example": '{"scalar":1,"free":0.5}', "Empty": "{}"},
        ),
    ],
)
def test_titles_are_true_of_what_may_be_left_out(
    inspect: Inspect, folder_for: FolderFor, model: str, text: str, expected: dict[str, str]
) -> None:
    shown = examples(inspect(folder_for(model, text)))
    assert {title: body for title, (body, _) in shown.items()} == expected


# Texts.

ONE, OTHER = '"I love this product!"', '"This is terrible."'
TEXT, BATCH = f'{{"text":{ONE}}}', f'{{"text":[{ONE},{OTHER}]}}'
TEXT_PAIR = f'{{"text":{ONE},"text_pair":{OTHER}}}'
IDS = '"input_ids":[101,1045,2293,2023,4031,999,102]'
MASK = '"attention_mask":[1,1,1,1,1,1,1]'
NO_TYPES = '"token_type_ids":[0,0,0,0,0,0,0]'


@pytest.mark.parametrize(
    ("variant", "gpux_yml", "expected"),
    [
        (
            Variant(),
            "",
            {
                "One item": TEXT,
                "A batch": BATCH,
                "A pair": TEXT_PAIR,
                "By ids": f"{{{IDS},{MASK},{NO_TYPES}}}",
            },
        ),
        (
            Variant(inputs=["input_ids"]),
            "",
            {"One item": TEXT, "A batch": BATCH, "A pair": TEXT_PAIR, "By ids": f"{{{IDS}}}"},
        ),
        # One text at a time.
        (
            Variant(inputs=["input_ids", "attention_mask"], batch=1),
            "",
            {"One item": TEXT, "A pair": TEXT_PAIR, "By ids": f"{{{IDS},{MASK}}}"},
        ),
        # Exactly two texts.
        (
            Variant(inputs=["input_ids"], batch=2, sequence=5),
            "",
            {
                "Example": BATCH,
                "A pair": f'{{"text":[{ONE},{OTHER}],"text_pair":[{OTHER},{ONE}]}}',
                "By ids": '{"input_ids":[[101,1045,2293,2023,102],[101,2023,2003,6659,102]]}',
            },
        ),
        # No room for a pair.
        (
            Variant(inputs=["input_ids"], sequence=3),
            "",
            {"One item": TEXT, "A batch": BATCH, "By ids": '{"input_ids":[101,1045,102]}'},
        ),
        # Pairs only.
        (
            Variant(inputs=["token_type_ids", "input_ids"]),
            "inputs: {text_pair: {required: true}}\npreprocessing: {max_length: 7}",
            {
                "One item": TEXT_PAIR,
                "A batch": f'{{"text":[{ONE},{OTHER}],"text_pair":[{OTHER},{ONE}]}}',
                "By ids": '{"token_type_ids":[0,0,0,0,1,1,1],'
                '"input_ids":[101,1045,2293,102,2023,2003,102]}',
            },
        ),
    ],
)
def test_texts(
    inspect: Inspect,
    server_for: ServerFor,
    tmp_path: Path,
    variant: Variant,
    gpux_yml: str,
    expected: dict[str, str],
) -> None:
    folder = write_echo(tmp_path / "echo", gpux_yml, **variant)
    check_examples(inspect, server_for(folder), folder)
    shown = examples(inspect(folder))
    assert {title: body for title, (body, _) in shown.items()} == expected
    # The ids are those of the text.
    assert shown["By ids"][1] == next(iter(shown.values()))[1]


def test_texts_that_cannot_be_padded(
    inspect: Inspect, server_for: ServerFor, tmp_path: Path
) -> None:
    remove_pad_token(write_echo(tmp_path / "echo"))
    check_examples(inspect, server_for(tmp_path / "echo"), tmp_path / "echo")
    shown = examples(inspect(tmp_path / "echo"))
    assert shown["A batch"][0] == f'{{"text":[{ONE},{ONE}]}}'


# Third-party models.


@pytest.mark.parametrize(
    ("package", "name", "expected"),
    [
        ("magika", "model.onnx", {"bytes": 2048}),
        ("silero-vad", "silero_vad.onnx", {"input": 224, "state": 2, "sr": None}),
    ],
)
def test_real_models(
    inspect: Inspect, server_for: ServerFor, package: str, name: str, expected: dict[str, Any]
) -> None:
    file = find_in_package(package, name)
    check_examples(inspect, server_for(file), file)
    shown = examples(inspect(file))
    assert list(shown) == ["One item", "A batch"]
    body = json.loads(inspect(file, "--example"))
    sizes = {key: len(value) if isinstance(value, list) else None for key, value in body.items()}
    assert sizes == expected
    assert body.get("sr", 16000) == 16000
    for name in expected:
        assert f'"{name}":' in shown["A batch"][0]


def test_the_example_can_be_piped(model_file: Find, server: Serve) -> None:
    done = run_gpux("inspect", str(model_file("photo")), "--example")
    assert (done.returncode, done.stderr) == (0, "")
    assert server("photo").post(done.stdout).status == 200


# Terminals with limited encodings, which only a subprocess can have.


def test_any_terminal_will_do(tmp_path: Path) -> None:
    variables = {"PYTHONIOENCODING": "ascii"}
    folder = onnx_models.write_folder(tmp_path / "größe", "photos", "name: größe 😀")
    done = run_gpux("inspect", str(folder), variables=variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(r"Model     gr\xf6\xdfe \U0001f600 (")
    assert r"0.5,\u2026]" in done.stdout
    (folder / "gpux.yml").write_text("größe: 1")
    line = failed_start("inspect", str(folder), variables=variables)
    assert r"gr\xf6\xdfe/gpux.yml: gr\xf6\xdfe: unknown key" in line


@pytest.mark.parametrize("encoding", ["ascii", "utf-16", "utf-8"])
def test_json_is_utf_8_whatever_the_terminal_has(model_file: Find, encoding: str) -> None:
    words, variables = str(model_file("words")), {"PYTHONIOENCODING": encoding}
    done = run_gpux("run", words, "--input", '{"word": "größe 😀"}', variables=variables)
    assert (done.returncode, done.stdout) == (0, '{"same":"größe 😀"}\n')
    done = run_gpux("inspect", words, "--example", variables=variables)
    assert (done.returncode, list(json.loads(done.stdout))) == (0, ["word"])


# A model that accepts only multiples of three, which it does not declare.


@pytest.fixture(scope="module")
def threes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("threes")
    model = onnx_models.reshaped({"x": ("batch", "n")}, {"y": ("rows", 3)})
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def test_where_no_example_is_found_it_says_so(
    inspect: Inspect, failure: Failure, threes: Path
) -> None:
    stdout = inspect(threes)
    assert examples(stdout) == {}
    assert "inputs.NAME.shape" in stdout.splitlines()[-1]
    failure("inspect", threes, "--example")


def test_gpux_yml_tells_what_the_model_does_not(
    inspect: Inspect, threes: Path, tmp_path: Path
) -> None:
    described = tmp_path / "sizes.yml"
    described.write_text("inputs: {x: {shape: [null, 6]}}")
    body = json.loads(inspect(threes, "--example", "--config", described))
    assert body == {"x": [0.5] * 6}


# The table.


def test_the_table(inspect: Inspect, model_file: Find) -> None:
    lines = inspect(model_file("sentiment"), "--provider", "cpu").splitlines()
    assert lines[0].startswith(f"Model     sentiment ({model_file('sentiment')}, ")
    assert lines[1].startswith("Provider  cpu (onnxruntime ")
    takes = "[batch, seq]  batched: one item ([seq]), or a list of them"
    assert lines[2:5] == [
        f"Input     input_ids       int64    {takes}",
        f"Input     attention_mask  int64    {takes}",
        "Output    logits          float32  [batch, 2]",
    ]


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("photo", "[1, 3, 224, 224]  single: one item ([3, 224, 224]), with or without its"),
        ("photos", "[batch, 3, 224, 224]  batched: one item ([3, 224, 224]), or a list of them"),
        ("text", "[batch, 1]  batched: one item (string), or a list of them"),
        ("fixed", "[2, 3]  fixed: "),
        ("opened", "any shape  open: "),
    ],
)
def test_the_table_tells_what_may_be_sent(
    inspect: Inspect, model_file: Find, model: str, takes: str
) -> None:
    stdout = inspect(model_file(model))
    rows = [line for line in stdout.splitlines() if line.startswith("Input ")]
    assert rows
    assert [row for row in rows if takes not in row] == []


def test_the_table_has_what_gpux_yml_says(inspect: Inspect, folder_for: FolderFor) -> None:
    text = """
name: mine
inputs:
  rate: {default: 5}
  ids: {shape: [null, 4]}
  state: {batched: true}
  mask: {batched: false}
outputs: {p: {from: logits, activation: softmax}, same_ids: }
"""
    stdout = inspect(folder_for("described", text))
    assert stdout.startswith("Model     mine (")
    rows = {row[1]: " ".join(row) for row in table(stdout)}
    assert rows["rate"].endswith("; optional")
    assert rows["ids"].startswith("Input ids int64 [batch, 4] batched: one item ([4])")
    assert rows["mask"].startswith("Input mask int64 [batch, 4] fixed: ")
    assert rows["state"].startswith("Input state float32 [2, None, 4] batched: ")
    outputs = [row for row in rows.values() if row.startswith("Output ")]
    assert outputs == ["Output p float32 [batch, 2]", "Output same_ids int64 [batch, 4]"]


def test_the_table_shows_what_is_no_tensor(inspect: Inspect, model_file: Find) -> None:
    assert "seq(map(int64,tensor(float)))" in inspect(model_file("zipmap"))
