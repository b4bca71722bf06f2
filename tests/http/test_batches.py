"""Request values to tensors, and the axes of the response: items, batches, and neither."""

import json
from typing import Any

import numpy
import pytest

from tests.support.ort import run, same_bits
from tests.support.servers import Find, Serve, same_json


@pytest.mark.parametrize(
    ("model", "request_", "expected"),
    [
        # [batch, n]
        ("matrix", {"x": [1, 2]}, {"y": [1.0, 2.0]}),
        ("matrix", {"x": [[1, 2]]}, {"y": [[1.0, 2.0]]}),
        ("matrix", {"x": [[1, 2], [3, 4]]}, {"y": [[1.0, 2.0], [3.0, 4.0]]}),
        ("matrix", {"x": [[1], [2], [3]]}, {"y": [[1.0], [2.0], [3.0]]}),
        # Sizes of zero: the model runs, unless the axis is the batch axis.
        ("matrix", {"x": []}, {"y": []}),
        ("matrix", {"x": [[]]}, {"y": [[]]}),
        ("matrix", {"x": [[], []]}, {"y": [[], []]}),
        # [batch, n, m]
        ("cube", {"x": [[1, 2]]}, {"y": [[1, 2]]}),
        ("cube", {"x": [[[1, 2]]]}, {"y": [[[1, 2]]]}),
        ("cube", {"x": [[]]}, {"y": [[]]}),
        ("cube", {"x": [[], []]}, {"y": [[], []]}),
        ("cube", {"x": [[[]]]}, {"y": [[[]]]}),
        ("cube", {"x": [[[], []], [[], []]]}, {"y": [[[], []], [[], []]]}),
        # [batch] and [batch, 1]: an item is a bare value, and a flat list is a list of items.
        ("items", {"a": 1.5, "b": 2, "c": True}, {"a_out": 1.5, "b_out": [2], "c_out": [True]}),
        (
            "items",
            {"a": [1.5], "b": [2], "c": [True]},
            {"a_out": [1.5], "b_out": [[2]], "c_out": [[True]]},
        ),
        (
            "items",
            {"a": [1, 2], "b": [3, 4], "c": [True, False]},
            {"a_out": [1.0, 2.0], "b_out": [[3], [4]], "c_out": [[True], [False]]},
        ),
        (
            "items",
            {"a": [1, 2], "b": [[3], [4]], "c": [[1], [0]]},
            {"a_out": [1.0, 2.0], "b_out": [[3], [4]], "c_out": [[True], [False]]},
        ),
        # The request is one item only if every batched input is one.
        (
            "items",
            {"a": [1], "b": 2, "c": True},
            {"a_out": [1.0], "b_out": [[2]], "c_out": [[True]]},
        ),
        ("strings", {"texts": ["a", "b"]}, {"same": ["a", "b"]}),
        ("strings", {"texts": [["a", "b"]]}, {"same": [["a", "b"]]}),
        ("strings", {"texts": [["a"], ["b"]]}, {"same": [["a"], ["b"]]}),
        ("strings", {"texts": []}, {"same": []}),
        ("strings", {"texts": [[], []]}, {"same": [[], []]}),
        ("string", {"word": "a"}, {"same": "a"}),
        ("string", {"word": ["a"]}, {"same": ["a"]}),
        ("string", {"word": [["a"], ["b"]]}, {"same": [["a"], ["b"]]}),
        # A fixed leading axis is not a batch axis.
        ("fixed", {"x": [[1, 2, 3], [4, 5, 6]]}, {"y": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]}),
        # A `single` input: outputs that declare the leading 1 lose it, however the value is nested.
        (
            "single",
            {"x": [1, 2, 3]},
            {"same": [1.0, 2.0, 3.0], "twice": [[1.0, 2.0, 3.0]] * 2, "sum": 6.0},
        ),
        (
            "single",
            {"x": [[1, 2, 3]]},
            {"same": [1.0, 2.0, 3.0], "twice": [[1.0, 2.0, 3.0]] * 2, "sum": 6.0},
        ),
        # Open inputs accept any nesting, and no axis is added.
        ("opened", {"scalar": 16000, "free": 0.5}, {"scalar_out": 16000, "free_out": 0.5}),
        (
            "opened",
            {"scalar": [5], "free": [[1], [2]]},
            {"scalar_out": [5], "free_out": [[1.0], [2.0]]},
        ),
        ("opened", {"scalar": [[]], "free": []}, {"scalar_out": [[]], "free_out": []}),
        # An unnamed leading axis of size 1 is the batch axis of one item.
        ("unnamed", {"a": [1, 2], "b": 3}, {"a_out": [1.0, 2.0], "b_out": 3.0}),
        ("unnamed", {"a": [1, 2], "b": [3]}, {"a_out": [[1.0, 2.0]], "b_out": [3.0]}),
        ("unnamed", {"a": [[1, 2]], "b": [3]}, {"a_out": [[1.0, 2.0]], "b_out": [3.0]}),
        # A detector's leading output axis is not the batch axis, whatever its size.
        ("detector", {"x": [0, 3, 0]}, {"places": [[0, 1]], "same": [0.0, 3.0, 0.0]}),
        ("detector", {"x": [0, 3, 4]}, {"places": [[0, 1], [0, 2]], "same": [0.0, 3.0, 4.0]}),
        ("detector", {"x": [0, 0]}, {"places": [], "same": [0.0, 0.0]}),
        ("detector", {"x": [[0, 3]]}, {"places": [[0, 1]], "same": [[0.0, 3.0]]}),
        # For one item, a sequence of length 1 is unwrapped.
        (
            "sequences",
            {"x": [1, 2]},
            {"rows": [1.0, 2.0], "twice": [[[1, 2]], [[1, 2]]], "same": [1.0, 2.0]},
        ),
        (
            "sequences",
            {"x": [[1, 2]]},
            {"rows": [[1.0, 2.0]], "twice": [[[1, 2]], [[1, 2]]], "same": [[1.0, 2.0]]},
        ),
        (
            "sequences",
            {"x": [[1], [2]]},
            {"rows": [[1.0], [2.0]], "twice": [[[1], [2]]] * 2, "same": [[1.0], [2.0]]},
        ),
        (
            "scalars",
            {"float": 0.1, "double": 0.1, "long": 2**63 - 1, "word": "\0é"},
            {"floats": 0.1, "doubles": 0.1, "longs": 2**63 - 1, "words": "\0é"},
        ),
        (
            "scalars",
            {"float": [1, 2], "double": [3, 4], "long": [5, 6], "word": ["a", "b"]},
            {"floats": [1.0, 2.0], "doubles": [3.0, 4.0], "longs": [5, 6], "words": ["a", "b"]},
        ),
        # Maps: keys become strings, non-finite values null.
        (
            "zipmap",
            {"x": [0.5, 0]},
            {
                "x_by_id": {"-1": 0.5, "7": 0.0},
                "x_by_name": {"no": 0.5, 'yes "é"': 0.0},
                "inverse_by_id": {"-1": 2.0, "7": None},
                "inverse_by_name": {"no": 2.0, 'yes "é"': None},
            },
        ),
        (
            "zipmap",
            {"x": [[0.5, 0.1]]},
            {
                "x_by_id": [{"-1": 0.5, "7": 0.1}],
                "x_by_name": [{"no": 0.5, 'yes "é"': 0.1}],
                "inverse_by_id": [{"-1": 2.0, "7": 10.0}],
                "inverse_by_name": [{"no": 2.0, 'yes "é"': 10.0}],
            },
        ),
        (
            "zipmap",
            {"x": [[1, 2], [4, 8]]},
            {
                "x_by_id": [{"-1": 1.0, "7": 2.0}, {"-1": 4.0, "7": 8.0}],
                "x_by_name": [{"no": 1.0, 'yes "é"': 2.0}, {"no": 4.0, 'yes "é"': 8.0}],
                "inverse_by_id": [{"-1": 1.0, "7": 0.5}, {"-1": 0.25, "7": 0.125}],
                "inverse_by_name": [{"no": 1.0, 'yes "é"': 0.5}, {"no": 0.25, 'yes "é"': 0.125}],
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:50],
)
def test_nesting(server: Serve, model: str, request_: Any, expected: object) -> None:
    result = server(model).predict(request_)
    assert same_json(result, expected), result


def test_one_text_three_texts_and_a_list_of_one(server: Serve) -> None:
    love, hate = "I love GPUX!", "This is terrible"
    positive, negative = [0.125, 0.875], [0.875, 0.125]
    predict = server("text").predict
    assert predict({"text": love}) == {"sentiment": positive}
    assert predict({"text": [love]}) == {"sentiment": [positive]}
    assert predict({"text": [[love]]}) == {"sentiment": [positive]}
    assert predict({"text": [love, hate, "?"]}) == {"sentiment": [positive, negative, [0.5, 0.5]]}
    assert predict({"text": [[love], [hate]]}) == {"sentiment": [positive, negative]}


def test_items_answer_as_rows_of_the_batch(server: Serve, model_file: Find) -> None:
    rng = numpy.random.default_rng(2)
    ids = rng.integers(0, 30_000, (5, 9))
    mask = rng.integers(0, 2, (5, 9))
    expected = run(model_file("sentiment"), {"input_ids": ids, "attention_mask": mask})["logits"]
    predict = server("sentiment").predict
    batch = predict({"input_ids": ids.tolist(), "attention_mask": mask.tolist()})
    assert same_bits(batch["logits"], expected)
    for i in range(5):
        item = predict({"input_ids": ids[i].tolist(), "attention_mask": mask[i].tolist()})
        assert item["logits"] == batch["logits"][i]
        # Mixed: one of the two inputs has the batch axis, so the request is a batch of one.
        mixed = predict({"input_ids": [ids[i].tolist()], "attention_mask": mask[i].tolist()})
        assert mixed["logits"] == [batch["logits"][i]]


@pytest.mark.parametrize("nesting", [0, 1])
def test_an_image_answers_one_flat_list(server: Serve, model_file: Find, nesting: int) -> None:
    pixels = numpy.random.default_rng(3).random((1, 3, 8, 8), numpy.float32)
    image = pixels.tolist()[0] if nesting == 0 else pixels.tolist()
    result = server("image").predict({"image": image})["probabilities"]
    assert same_bits([result], run(model_file("image"), {"image": pixels})["probabilities"])


def test_images_of_a_batch(server: Serve, model_file: Find) -> None:
    pixels = numpy.random.default_rng(4).random((2, 3, 224, 224), numpy.float32)
    expected = run(model_file("photos"), {"image": pixels})["probabilities"]
    predict = server("photos").predict
    assert same_bits(predict({"image": pixels.tolist()})["probabilities"], expected)
    one = run(model_file("photos"), {"image": pixels[:1]})["probabilities"]
    assert same_bits(predict({"image": pixels[:1].tolist()})["probabilities"], one)
    assert same_bits(predict({"image": pixels[0].tolist()})["probabilities"], one[0])
