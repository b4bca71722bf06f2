"""Shape rules of the contract, row by row: the model's tensors, and how its outputs are nested.

Declarations are written as in the contract: `x [batch, 3]; y [None, 1] batched: false`. `[]`
declares no axes; what follows the axes is written to gpux.yml.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest

import gpux
from tests.support import onnx_models

Predict = Callable[[str, str, Any], dict[str, Any]]


def parse(text: str) -> dict[str, tuple[list[int | str | None], str]]:
    """Parses declarations: by name, the axes and the entry of gpux.yml."""
    declarations = {}
    for part in filter(None, text.split("; ")):
        match = re.fullmatch(r"(\w+) \[(.*?)\](?: (.+))?", part)
        assert match, part
        dims: list[int | str | None] = [
            int(dim) if dim.isdecimal() else None if dim == "None" else dim
            for dim in filter(None, match[2].split(", "))
        ]
        declarations[match[1]] = (dims, match[3] or "")
    return declarations


def section(key: str, entries: Mapping[str, tuple[object, str]]) -> str:
    """A line of gpux.yml."""
    return f"{key}: {{{', '.join(f'{name}: {{{text}}}' for name, (_, text) in entries.items())}}}\n"


@pytest.fixture(scope="module")
def predict(tmp_path_factory: pytest.TempPathFactory) -> Predict:
    """Runs a model made from declared inputs and outputs; each is loaded once."""
    loaded: dict[tuple[str, str], gpux.Model] = {}

    def run(inputs: str, outputs: str, values: Any) -> dict[str, Any]:
        if (inputs, outputs) not in loaded:
            declared, answered = parse(inputs), parse(outputs)
            model = onnx_models.reshaped(
                {name: dims or None for name, (dims, _) in declared.items()},
                {name: dims for name, (dims, _) in answered.items()},
            )
            folder = tmp_path_factory.mktemp("model")
            (folder / "model.onnx").write_bytes(model.SerializeToString())
            if any(text for _, text in (declared | answered).values()):
                shapes = parse("; ".join(f"{name}_shape []" for name in declared))
                gpux_yml = section("inputs", declared) + section("outputs", answered | shapes)
                (folder / "gpux.yml").write_text(gpux_yml)
            loaded[inputs, outputs] = gpux.load(folder)
        return loaded[inputs, outputs].predict(values)

    return run


def nested(*sizes: int) -> Any:
    """Nested lists of ones with the given shape."""
    return [nested(*sizes[1:]) for _ in range(sizes[0])] if sizes else 1


def shown(name: str, sizes: Any) -> str:
    return f"{name} {[int(size) for size in sizes]}"


IMAGES = "x [batch, 3, 4]", "y [batch, 3, 4]"
IMAGE = "x [1, 3, 4]", "y [1, 3, 4]"
TEXTS = "ids [batch, seq]; mask [batch, seq]", "y [batch, seq]"
VALUES = "x [batch]", "y [batch]"
CHANNELS_LAST = "expected [1, 3, 4, 2], got [1, 4, 2, 3]: the same sizes in another order"
COLUMN = "x [batch, 1]", "y [batch, 1]"
PAST = "x [batch, 2, past, 4]", "y [batch, 2, past, 4]"
PAIR = "a [None, 2]; b [None]", "y [None, 2]"


@pytest.mark.parametrize(
    ("declared", "values", "seen", "answered"),
    [
        # batched: all axes are a batch, one less is one item; the outputs follow.
        (IMAGES, {"x": nested(2, 3, 4)}, "x [2, 3, 4]", "y [2, 3, 4]"),
        (IMAGES, {"x": nested(1, 3, 4)}, "x [1, 3, 4]", "y [1, 3, 4]"),
        (IMAGES, {"x": nested(3, 4)}, "x [1, 3, 4]", "y [3, 4]"),
        (TEXTS, {"ids": nested(3, 2), "mask": nested(3, 2)}, "ids [3, 2]; mask [3, 2]", "y [3, 2]"),
        (TEXTS, {"ids": [1, 2], "mask": [1, 1]}, "ids [1, 2]; mask [1, 2]", "y [2]"),
        (TEXTS, {"ids": [[1, 2]], "mask": [[1, 1]]}, "ids [1, 2]; mask [1, 2]", "y [1, 2]"),
        # One of several inputs with all axes makes a batch of one.
        (TEXTS, {"ids": [1, 2], "mask": [[1, 1]]}, "ids [1, 2]; mask [1, 2]", "y [1, 2]"),
        # single: an item, or a list of one; the output is that of the item.
        (IMAGE, {"x": nested(3, 4)}, "x [1, 3, 4]", "y [3, 4]"),
        (IMAGE, {"x": nested(1, 3, 4)}, "x [1, 3, 4]", "y [3, 4]"),
        (("x [1]", "y [1]"), {"x": 5}, "x [1]", "y []"),
        (("x [1]", "y [1]"), {"x": [5]}, "x [1]", "y []"),
        (("x [1, n]", "y [1, n]"), {"x": [5, 6]}, "x [1, 2]", "y [2]"),
        # fixed: all axes, always.
        (("x [2, 3]", "y [2, 3]"), {"x": nested(2, 3)}, "x [2, 3]", "y [2, 3]"),
        (("x [2, n]", "y [2, n]"), {"x": nested(2, 1)}, "x [2, 1]", "y [2, 1]"),
        (("x [2]", "y [1, 2]"), {"x": nested(2)}, "x [2]", "y [1, 2]"),
        # open: a bare value or any nesting, unchanged.
        (("x []", "y []"), {"x": 16000}, "x []", "y []"),
        (("x []", "y []"), {"x": [16000]}, "x [1]", "y []"),
        (("x []", "y [rest]"), {"x": nested(2, 1, 3)}, "x [2, 1, 3]", "y [6]"),
        (("x []", "y [1, rest]"), {"x": [1, 1]}, "x [2]", "y [1, 2]"),
        (("x []", "y [rest]"), {"x": nested(*[1] * 32)}, f"x {[1] * 32}", "y [1]"),
        # Items as bare values.
        (VALUES, {"x": 5}, "x [1]", "y []"),
        (VALUES, {"x": [5]}, "x [1]", "y [1]"),
        (VALUES, {"x": [5, 6]}, "x [2]", "y [2]"),
        (COLUMN, {"x": 5}, "x [1, 1]", "y [1]"),
        (COLUMN, {"x": [5]}, "x [1, 1]", "y [1, 1]"),
        (COLUMN, {"x": [5, 6]}, "x [2, 1]", "y [2, 1]"),
        (COLUMN, {"x": [[5], [6]]}, "x [2, 1]", "y [2, 1]"),
        (("x [None, 1]", "y [None, 1]"), {"x": [5, 6]}, "x [2, 1]", "y [2, 1]"),
        # Zero sizes: a dynamic axis other than the batch may be empty.
        (("x [batch, n]", "y [batch, n]"), {"x": []}, "x [1, 0]", "y [0]"),
        (("x [batch, n]", "y [batch, n]"), {"x": [[], []]}, "x [2, 0]", "y [2, 0]"),
        (("x [2, n]", "y [2, n]"), {"x": [[], []]}, "x [2, 0]", "y [2, 0]"),
        (("x []", "y [rest]"), {"x": []}, "x [0]", "y [0]"),
        # Below an empty list, an open input has no axes: only it and the lists around it count.
        (("x []", "y [rest]"), {"x": [[], []]}, "x [2, 0]", "y [0]"),
        (("x []", "y [rest]"), {"x": [[[]]]}, "x [1, 1, 0]", "y [0]"),
        (("x [batch, n]", "y [batch, n]"), {"x": [[]]}, "x [1, 0]", "y [1, 0]"),
        (("x [batch, n, m]", "y [batch, n, m]"), {"x": [[]]}, "x [1, 1, 0]", "y [1, 0]"),
        (("x [batch, n, m]", "y [batch, n, m]"), {"x": [[[]]]}, "x [1, 1, 0]", "y [1, 1, 0]"),
        (("x [1, n]", "y [1, n]"), {"x": []}, "x [1, 0]", "y [0]"),
        # Others take the declared sizes.
        (PAST, {"x": [[[], []]]}, "x [1, 2, 0, 4]", "y [1, 2, 0, 4]"),
        (PAST, {"x": [[], []]}, "x [1, 2, 0, 4]", "y [2, 0, 4]"),
        (("x [batch, n, 4]", "y [batch, n, 4]"), {"x": [[]]}, "x [1, 0, 4]", "y [1, 0, 4]"),
        (("x [batch, n, 4]", "y [batch, n, 4]"), {"x": []}, "x [1, 0, 4]", "y [0, 4]"),
        # Outputs without the batch axis keep all axes, whatever their sizes.
        (("x [batch, 6]", "y [found, 6]"), {"x": nested(6)}, "x [1, 6]", "y [1, 6]"),
        (("x [batch, 6]", "y [found, 3]"), {"x": nested(6)}, "x [1, 6]", "y [2, 3]"),
        (("x [batch, 6]", "y [1, 6]"), {"x": nested(6)}, "x [1, 6]", "y [1, 6]"),
        (("x [batch, 6]", "y [6]"), {"x": nested(6)}, "x [1, 6]", "y [6]"),
        (("x [batch, 6]", "y []"), {"x": nested(6)}, "x [1, 6]", "y []"),
        (("x [batch, 6]", "y [None, 6]"), {"x": nested(6)}, "x [1, 6]", "y [1, 6]"),
        (("x [None, 6]", "y [batch, 6]"), {"x": nested(6)}, "x [1, 6]", "y [1, 6]"),
        (("x [None, 6]", "y [None, 3]"), {"x": nested(6)}, "x [1, 6]", "y [2, 3]"),
        (("x [batch, 6]", "y [batch, 3]"), {"x": nested(6)}, "x [1, 6]", "y [2, 3]"),
        (("x [2, 3]", "y [None, 6]"), {"x": nested(2, 3)}, "x [2, 3]", "y [1, 6]"),
        (("x [None, 6]", "y [None, 6]"), {"x": nested(6)}, "x [1, 6]", "y [6]"),
        # With and without the batch axis, in one response.
        (
            ("x [batch, 6]", "y [batch, 6]; z [found, 2]"),
            {"x": nested(6)},
            "x [1, 6]",
            "y [6]; z [3, 2]",
        ),
        # A model of single inputs: a leading output axis declared as 1 is dropped, others are not.
        (
            ("x [1, 6]", "y [1, 6]; z [found, 6]; s []; r [6]"),
            {"x": [nested(6)]},
            "x [1, 6]",
            "y [6]; z [1, 6]; s []; r [6]",
        ),
        # Inputs of several kinds: only batched ones matter.
        (
            ("x [batch, 2]; rate []; state [2, 1]", "y [batch, 2]"),
            {"x": [1, 2], "rate": 5, "state": [[1], [2]]},
            "x [1, 2]; rate []; state [2, 1]",
            "y [2]",
        ),
        (
            ("x [batch, 2]; one [1, 2]", "y [batch, 2]"),
            {"x": [[1, 2]], "one": [1, 2]},
            "x [1, 2]; one [1, 2]",
            "y [1, 2]",
        ),
        # Beside a batched input, a single one drops no axis.
        (
            ("x [batch, 2]; one [1, 2]", "y [batch, 2]; z [1, 2]"),
            {"x": [1, 2], "one": [1, 2]},
            "x [1, 2]; one [1, 2]",
            "y [2]; z [1, 2]",
        ),
        # A batched input that is omitted does not matter either.
        (
            ("x [batch, 2]; m [batch] default: 1", "y [batch, 2]"),
            {"x": [1, 2]},
            "x [1, 2]; m [1]",
            "y [2]",
        ),
        (
            ("x [batch, 2]; m [batch] default: 1", "y [batch, 2]"),
            {"x": nested(3, 2)},
            "x [3, 2]; m [3]",
            "y [3, 2]",
        ),
        (
            ("x [batch, 2] default: [1, 2]; m [2]", "y [batch, 2]"),
            {"m": [1, 2]},
            "x [1, 2]; m [2]",
            "y [1, 2]",
        ),
        # Unnamed batch axes.
        (PAIR, {"a": [1, 2], "b": 3}, "a [1, 2]; b [1]", "y [2]"),
        (PAIR, {"a": [1, 2], "b": [3]}, "a [1, 2]; b [1]", "y [1, 2]"),
        # With all axes given the model decides; this one accepts it.
        (PAIR, {"a": [[1, 2]], "b": [3, 4]}, "a [1, 2]; b [2]", "y [1, 2]"),
        # gpux.yml overrides what is a batch.
        (
            ("x [layers, 2] batched: false", "y [layers, 2]"),
            {"x": [[1, 2]]},
            "x [1, 2]",
            "y [1, 2]",
        ),
        (
            ("x [layers, 2] batched: false; z [None, 2]", "y [layers, 2]"),
            {"x": [[1, 2]] * 3, "z": [1, 2]},
            "x [3, 2]; z [1, 2]",
            "y [3, 2]",
        ),
        (("x [1, 2] batched: false", "y [1, 2]"), {"x": [[1, 2]]}, "x [1, 2]", "y [1, 2]"),
        (("x [batch, 2]", "y [batch, 2] batched: false"), {"x": [1, 2]}, "x [1, 2]", "y [1, 2]"),
        (("x [batch, 2]", "y [rows, 2] batched: true"), {"x": [1, 2]}, "x [1, 2]", "y [2]"),
        (("x [batch, 2]", "y [rows, 2] batched: true"), {"x": [[1, 2]]}, "x [1, 2]", "y [1, 2]"),
        (("x [batch, 2]", "y [rows, 1] batched: true"), {"x": [1, 2]}, "x [1, 2]", "y [2, 1]"),
        (("x [1, 2] batched: true", "y [1, 2]"), {"x": [1, 2]}, "x [1, 2]", "y [2]"),
        (("x [1, 2] batched: true", "y [1, 2]"), {"x": [[1, 2]]}, "x [1, 2]", "y [1, 2]"),
        (("x [2, 1] batched: true", "y [2, 1]"), {"x": [5, 6]}, "x [2, 1]", "y [2, 1]"),
        (("x [1, 2]", "y [rows, 2] batched: true"), {"x": [[1, 2]]}, "x [1, 2]", "y [2]"),
        (("x [1, 2]", "y [1, 2] batched: false"), {"x": [1, 2]}, "x [1, 2]", "y [1, 2]"),
    ],
    ids=lambda part: " → ".join(part) if isinstance(part, tuple) else str(part)[:40],
)
def test_a_value_becomes_a_tensor_and_the_answer_has_its_axes(
    predict: Predict, declared: tuple[str, str], values: Any, seen: str, answered: str
) -> None:
    outputs = predict(*declared, values)
    axes = [
        shown(name.removesuffix("_shape"), value[:-2])
        for name, value in outputs.items()
        if name.endswith("_shape")
    ]
    assert "; ".join(axes) == seen
    rest = [shown(name, v.shape) for name, v in outputs.items() if not name.endswith("_shape")]
    assert "; ".join(rest) == answered


@pytest.mark.parametrize(
    ("declared", "values", "problem"),
    [
        (IMAGES, {"x": nested(3)}, "expected [batch, 3, 4], got [3]"),
        (IMAGES, {"x": nested(2, 4)}, "expected [batch, 3, 4], got [2, 4]"),
        (IMAGES, {"x": nested(1, 1, 3, 4)}, "expected [batch, 3, 4], got more than 3 axes"),
        (IMAGE, {"x": nested(2, 3, 4)}, "expected [1, 3, 4], got [2, 3, 4]"),
        (("x [2, 3]", "y [2, 3]"), {"x": nested(3)}, "expected [2, 3], got [3]"),
        (
            ("x []", "y []"),
            {"x": nested(*[1] * 33)},
            "expected at most 32 axes, got more than 32 axes",
        ),
        (("x [2, 3]", "y [2, 3]"), {"x": nested(1, 2, 3)}, "expected [2, 3], got more than 2 axes"),
        (("x [2, 3]", "y [2, 3]"), {"x": nested(1, 3)}, "expected [2, 3], got [1, 3]"),
        (IMAGE, {"x": nested(4)}, "expected [1, 3, 4], got [4]"),
        (VALUES, {"x": [[5]]}, "expected [batch], got more than 1 axis"),
        (("x [1, 3, 4, 2]", "y [1, 3, 4, 2]"), {"x": nested(1, 4, 2, 3)}, CHANNELS_LAST),
        (PAST, {"x": []}, "expected [batch, 2, past, 4], got [0]"),
        (VALUES, {"x": []}, "the batch is empty"),
        (COLUMN, {"x": []}, "the batch is empty"),
        (COLUMN, {"x": [[]]}, "expected [batch, 1], got [1, 0]"),
        (COLUMN, {"x": [[5, 6]]}, "expected [batch, 1], got [1, 2]"),
        (IMAGES, {"x": []}, "the batch is empty"),
        (IMAGES, {"x": numpy.zeros((0, 3, 4))}, "the batch is empty"),
        (("x [batch, n, m]", "y [batch, n, m]"), {"x": []}, "expected [batch, n, m], got [0]"),
        (
            TEXTS,
            {"ids": [[1], [2]], "mask": [[1]] * 3},
            "disagree on 'batch': 'ids' has 2, 'mask' has 3",
        ),
        (TEXTS, {"mask": [1], "ids": [1, 2]}, "disagree on 'seq': 'ids' has 2, 'mask' has 1"),
        (
            TEXTS,
            {"ids": [[1, 2], [3, 4]], "mask": [1, 1]},
            "disagree on 'batch': 'ids' has 2, 'mask' has 1",
        ),
        (
            ("a [batch, n]; b [n]", "y [batch, n]"),
            {"a": [[1, 2], [3, 4]], "b": [1, 2, 3]},
            "disagree on 'n': 'a' has 2, 'b' has 3",
        ),
        (PAIR, {"a": [1, 2], "b": [3, 4]}, "disagree on 'batch': 'a' has 1, 'b' has 2"),
        # `batched` in gpux.yml.
        (
            ("x [layers, 2] batched: false", "y [layers, 2]"),
            {"x": [1, 2]},
            "expected [layers, 2], got [2]",
        ),
        (("x [1, 2] batched: false", "y [1, 2]"), {"x": [1, 2]}, "expected [1, 2], got [2]"),
        (("x [2, 3] batched: true", "y [2, 3]"), {"x": [1, 2, 3]}, "expected [2, 3], got [3]"),
    ],
    ids=lambda part: " → ".join(part) if isinstance(part, tuple) else str(part)[:40],
)
def test_what_fits_no_tensor_is_refused(
    predict: Predict, declared: tuple[str, str], values: Any, problem: str
) -> None:
    with pytest.raises(gpux.ClientError) as caught:
        predict(*declared, values)
    if problem.startswith("disagree"):
        problem = f"Inputs {problem}; if these axes differ, name them in gpux.yml"
    else:
        problem = f"Invalid shape for 'x': {problem}"
    assert str(caught.value) == problem


# Not in the models above: bare items of other types, and outputs without axes.


@pytest.mark.parametrize(
    ("model", "values", "answered"),
    [
        ("words", {"word": "a"}, {"same": "a"}),
        ("words", {"word": ["a"]}, {"same": ["a"]}),
        ("words", {"word": ["a", "b"]}, {"same": ["a", "b"]}),
        ("text", {"text": "a"}, {"sentiment": [0.5, 0.5]}),
        ("text", {"text": ["a"]}, {"sentiment": [[0.5, 0.5]]}),
        ("text", {"text": [["a"], ["b"]]}, {"sentiment": [[0.5, 0.5]] * 2}),
        ("items", {"a": 1, "b": 2, "c": True}, {"a_out": 1, "b_out": [2], "c_out": [True]}),
        (
            "items",
            {"a": [1], "b": [2], "c": [True]},
            {"a_out": [1], "b_out": [[2]], "c_out": [[True]]},
        ),
        ("string", {"word": "a"}, {"same": "a"}),
        ("string", {"word": [["a"]]}, {"same": [["a"]]}),
        # A sequence of one is unwrapped only if one item was sent.
        ("sequences", {"x": [1, 2]}, {"rows": [1, 2], "twice": [[[1, 2]]] * 2, "same": [1, 2]}),
        (
            "sequences",
            {"x": [[1, 2]]},
            {"rows": [[1, 2]], "twice": [[[1, 2]]] * 2, "same": [[1, 2]]},
        ),
        ("zipmap", {"x": [1, 2]}, {"x_by_id": {-1: 1, 7: 2}}),
        ("zipmap", {"x": [[1, 2]]}, {"x_by_id": [{-1: 1, 7: 2}]}),
    ],
)
def test_items_and_sequences(
    model_file: Callable[[str], Path],
    model: str,
    values: Mapping[str, Any],
    answered: dict[str, Any],
) -> None:
    outputs = gpux.load(model_file(model)).predict(values)
    assert {name: plain(outputs[name]) for name in answered} == answered


def plain(value: Any) -> Any:
    """An output as lists."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, numpy.ndarray) else value
