"""gpux inspect: a table of what a model takes, and an example body that works."""

import json
from collections.abc import Callable
from pathlib import Path

import models
import pytest
from servers import JSON_HEADERS, ServerProcess, run_gpux

Find = Callable[[str], Path]
FolderFor = Callable[[str, str], Path]
ServerFor = Callable[[Path], ServerProcess]
Inspect = Callable[..., tuple[int, str, str]]

EXAMPLES = Path(__file__).parents[2] / "examples"
OPTIONAL = "inputs: {x: {shape: [batch, 2]}, rate: {default: 5}}"
LOADABLE = [name for name in models.BUILDERS if not name.startswith("takes_")]


@pytest.fixture
def inspect(command: Inspect) -> Inspect:
    """`gpux inspect`."""
    return lambda *arguments: command("inspect", *arguments)


def examples(said: str) -> list[tuple[str, str]]:
    """The bodies that are shown, with what they were answered; both may be cut."""
    lines = said.splitlines()
    starts = [line for line in lines if line.startswith(("One item ", "A batch ", "Example   {"))]
    return [(line[10:], lines[lines.index(line) + 1].removeprefix(" " * 10)) for line in starts]


def table(said: str) -> list[list[str]]:
    """The lines on inputs and outputs, by their columns."""
    rows = [line for line in said.splitlines() if line.startswith(("Input ", "Output "))]
    return [line.split() for line in rows]


# Examples that work.


def check_examples(inspect: Inspect, server: ServerProcess, path: Path) -> None:
    code, said, errors = inspect(path)
    assert (code, errors) == (0, "")
    shown = examples(said)
    code, body, errors = inspect(path, "--example")
    assert (code, errors) == (0, "")
    assert len(body.splitlines()) == 1
    answer = server.post(body)
    assert answer.status == 200, answer
    # What was shown is what is sent and answered, or both ends of it.
    for line, whole in zip(shown[0], (body.rstrip("\n"), answer.body.decode()), strict=True):
        first, _, last = line.partition(" … ")
        assert line == whole if not last else whole.startswith(first) and whole.endswith(last)
    for shown_body, shown_answer in shown[1:]:
        if "…" not in shown_body:
            batch = server.post(shown_body)
            assert batch.status == 200
            assert "…" in shown_answer or batch.body.decode() == shown_answer


@pytest.mark.parametrize("name", LOADABLE)
def test_the_example_of_each_model_works(
    inspect: Inspect, model_file: Find, server: Callable[[str], ServerProcess], name: str
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
        ("matrix", "inputs: {x: {default: [1, 2]}}", {}),
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
    described: Callable[[str, str], ServerProcess],
    model: str,
    text: str,
    body: object,
) -> None:
    check_examples(inspect, described(model, text), folder_for(model, text))
    if body is not None:
        assert json.loads(inspect(folder_for(model, text), "--example")[1]) == body


def test_a_body_has_no_optional_inputs(inspect: Inspect, folder_for: FolderFor) -> None:
    body = json.loads(inspect(folder_for("optional", OPTIONAL), "--example")[1])
    assert "rate" not in body
    assert body["mask"] == [1, 1]


@pytest.mark.parametrize(("model", "titles"), [("matrix", 2), ("single", 1), ("opened", 1)])
def test_a_batch_is_shown_where_there_is_one(
    inspect: Inspect, model_file: Find, model: str, titles: int
) -> None:
    assert len(examples(inspect(model_file(model))[1])) == titles


def test_long_bodies_are_cut_but_not_in_the_example(inspect: Inspect, model_file: Find) -> None:
    said = inspect(model_file("photos"))[1]
    assert [" … " in body for body, _ in examples(said)] == [True, True]
    assert max(map(len, said.splitlines())) < 500
    assert len(json.loads(inspect(model_file("photos"), "--example")[1])["image"]) == 3


def test_the_example_can_be_piped(model_file: Find, server: Callable[[str], ServerProcess]) -> None:
    done = run_gpux("inspect", str(model_file("photo")), "--example")
    assert (done.returncode, done.stderr) == (0, "")
    answer = server("photo").request("POST", "/predict", done.stdout, JSON_HEADERS)
    assert answer.status == 200


# A terminal that has not every character. Only a process of its own has one.


def test_any_terminal_will_do(tmp_path: Path) -> None:
    variables = {"PYTHONIOENCODING": "ascii"}
    folder = models.write_folder(tmp_path / "größe", "photos", "name: größe 😀")
    done = run_gpux("inspect", str(folder), variables=variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(r"Model     gr\xf6\xdfe \U0001f600 (")
    assert r" \u2026 " in done.stdout
    (folder / "gpux.yml").write_text("größe: 1")
    done = run_gpux("inspect", str(folder), variables=variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert r"gr\xf6\xdfe/gpux.yml: gr\xf6\xdfe: unknown key" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "utf-16", "utf-8"])
def test_json_is_utf_8_whatever_the_terminal_has(model_file: Find, encoding: str) -> None:
    words, variables = str(model_file("words")), {"PYTHONIOENCODING": encoding}
    done = run_gpux("run", words, "--input", '{"word": "größe 😀"}', variables=variables)
    assert (done.returncode, done.stdout) == (0, '{"same":"größe 😀"}\n')
    done = run_gpux("inspect", words, "--example", variables=variables)
    assert (done.returncode, list(json.loads(done.stdout))) == (0, ["word"])


# A model that takes multiples of three only, which nothing tells.


@pytest.fixture(scope="module")
def threes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("threes")
    model = models.reshaped({"x": ("batch", "n")}, {"y": ("rows", 3)})
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def test_where_no_example_is_found_it_says_so(inspect: Inspect, threes: Path) -> None:
    code, said, errors = inspect(threes)
    assert (code, errors) == (0, "")
    assert examples(said) == []
    assert "inputs.NAME.shape" in said.splitlines()[-1]
    code, said, errors = inspect(threes, "--example")
    assert (code, said) == (2, "")
    assert errors.startswith("gpux: ")
    assert len(errors.splitlines()) == 1


def test_gpux_yml_tells_what_the_model_does_not(
    inspect: Inspect, threes: Path, tmp_path: Path
) -> None:
    described = tmp_path / "sizes.yml"
    described.write_text("inputs: {x: {shape: [null, 6]}}")
    code, said, _ = inspect(threes, "--example", "--config", described)
    assert (code, json.loads(said)) == (0, {"x": [0.5] * 6})


# The table.


def test_the_table(inspect: Inspect, model_file: Find) -> None:
    code, said, errors = inspect(model_file("sentiment"), "--provider", "cpu")
    assert (code, errors) == (0, "")
    lines = said.splitlines()
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
    said = inspect(model_file(model))[1]
    rows = [line for line in said.splitlines() if line.startswith("Input ")]
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
    said = inspect(folder_for("described", text))[1]
    assert said.startswith("Model     mine (")
    rows = {row[1]: " ".join(row) for row in table(said)}
    assert rows["rate"].endswith("; optional")
    assert rows["ids"].startswith("Input ids int64 [batch, 4] batched: one item ([4])")
    assert rows["mask"].startswith("Input mask int64 [batch, 4] fixed: ")
    assert rows["state"].startswith("Input state float32 [2, None, 4] batched: ")
    outputs = [row for row in rows.values() if row.startswith("Output ")]
    assert outputs == ["Output p float32 [batch, 2]", "Output same_ids int64 [batch, 4]"]


def test_the_table_shows_what_is_no_tensor(inspect: Inspect, model_file: Find) -> None:
    assert "seq(map(int64,tensor(float)))" in inspect(model_file("zipmap"))[1]
