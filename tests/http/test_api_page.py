"""Every request, response and error of the API page. Its programs are in tests/clients."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from tests.support.ort import run, same_bits
from tests.support.servers import JSON_HEADERS, Response, ServerProcess

Serve = Callable[[str], ServerProcess]

CURL_SENTIMENT = """{
    "input_ids": [101, 1045, 2293, 2023, 102],
    "attention_mask": [1, 1, 1, 1, 1]
  }"""
CURL_TEXT = """{"text": "I love this product!"}"""


def post(server: ServerProcess, body: str) -> Response:
    answer = server.request("POST", "/predict", body, JSON_HEADERS)
    assert answer.headers["Content-Type"] == "application/json"
    return answer


def test_sentiment_analysis(server: Serve, model_file: Callable[[str], Path]) -> None:
    answer = post(server("sentiment"), CURL_SENTIMENT)
    feeds = {name: numpy.array([value]) for name, value in json.loads(CURL_SENTIMENT).items()}
    assert answer.status == 200
    assert list(answer.json) == ["logits"]
    assert len(answer.json["logits"]) == 2
    assert same_bits([answer.json["logits"]], run(model_file("sentiment"), feeds)["logits"])


def test_image_classification(server: Serve, model_file: Callable[[str], Path]) -> None:
    pixels = numpy.random.default_rng(1).random((1, 3, 8, 8), numpy.float32)
    answer = post(server("image"), json.dumps({"image": pixels.tolist()}))
    assert answer.status == 200
    assert list(answer.json) == ["probabilities"]
    assert len(answer.json["probabilities"]) == 10
    expected = run(model_file("image"), {"image": pixels})["probabilities"]
    assert same_bits([answer.json["probabilities"]], expected)


def test_text_input(server: Serve) -> None:
    answer = post(server("text"), CURL_TEXT)
    assert answer.status == 200
    assert answer.json == {"sentiment": [pytest.approx(0.05), pytest.approx(0.95)]}


def test_missing_input(server: Serve) -> None:
    answer = post(server("sentiment"), '{\n  "attention_mask": [1, 1, 1]\n}')
    assert answer.status == 400
    assert answer.json == {"detail": "Missing required input: 'input_ids'"}


def test_invalid_input_type(server: Serve) -> None:
    answer = post(server("sentiment"), '{\n  "input_ids": "not an array"\n}')
    assert answer.status == 400
    assert answer.json == {"detail": "Invalid input type for 'input_ids': expected array"}


def test_inference_failure(server: Serve) -> None:
    answer = post(server("table"), '{"ids": [4]}')
    assert answer.status == 500
    assert answer.detail.startswith("Inference failed: ")
    assert len(answer.detail) > len("Inference failed: ")


def test_batch_request(server: Serve) -> None:
    texts = ["I love this product!", "This is terrible", "item3"]
    answer = post(server("text"), json.dumps({"text": texts}))
    assert answer.status == 200
    assert list(answer.json) == ["sentiment"]
    expected = [[0.05, 0.95], [0.875, 0.125], [0.5, 0.5]]
    assert answer.json["sentiment"] == [pytest.approx(row) for row in expected]
