"""The requests, responses and errors of the API page. Its programs are in tests/clients."""

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
    response = server.request("POST", "/predict", body, JSON_HEADERS)
    assert response.headers["Content-Type"] == "application/json"
    return response


def test_sentiment_analysis(server: Serve, model_file: Callable[[str], Path]) -> None:
    response = post(server("sentiment"), CURL_SENTIMENT)
    feeds = {name: numpy.array([value]) for name, value in json.loads(CURL_SENTIMENT).items()}
    assert response.status == 200
    assert list(response.json) == ["logits"]
    assert len(response.json["logits"]) == 2
    assert same_bits([response.json["logits"]], run(model_file("sentiment"), feeds)["logits"])


def test_image_classification(server: Serve, model_file: Callable[[str], Path]) -> None:
    pixels = numpy.random.default_rng(1).random((1, 3, 8, 8), numpy.float32)
    response = post(server("image"), json.dumps({"image": pixels.tolist()}))
    assert response.status == 200
    assert list(response.json) == ["probabilities"]
    assert len(response.json["probabilities"]) == 10
    expected = run(model_file("image"), {"image": pixels})["probabilities"]
    assert same_bits([response.json["probabilities"]], expected)


def test_text_input(server: Serve) -> None:
    response = post(server("text"), CURL_TEXT)
    assert response.status == 200
    assert response.json == {"sentiment": [pytest.approx(0.05), pytest.approx(0.95)]}


def test_missing_input(server: Serve) -> None:
    response = post(server("sentiment"), '{\n  "attention_mask": [1, 1, 1]\n}')
    assert response.status == 400
    assert response.json == {"detail": "Missing required input: 'input_ids'"}


def test_invalid_input_type(server: Serve) -> None:
    response = post(server("sentiment"), '{\n  "input_ids": "not an array"\n}')
    assert response.status == 400
    assert response.json == {"detail": "Invalid input type for 'input_ids': expected array"}


def test_inference_failure(server: Serve) -> None:
    response = post(server("table"), '{"ids": [4]}')
    assert response.status == 500
    assert response.detail.startswith("Inference failed: ")
    assert len(response.detail) > len("Inference failed: ")


def test_batch_request(server: Serve) -> None:
    texts = ["I love this product!", "This is terrible", "item3"]
    response = post(server("text"), json.dumps({"text": texts}))
    assert response.status == 200
    assert list(response.json) == ["sentiment"]
    expected = [[0.05, 0.95], [0.875, 0.125], [0.5, 0.5]]
    assert response.json["sentiment"] == [pytest.approx(row) for row in expected]
