"""The requests, responses and errors of the API page. Its programs are in tests/clients."""

import json
from typing import Any

import numpy
import pytest

from tests.support.ort import run, same_bits
from tests.support.servers import Find, Serve, ServerProcess

CURL_SENTIMENT = """{
    "input_ids": [101, 1045, 2293, 2023, 102],
    "attention_mask": [1, 1, 1, 1, 1]
  }"""
CURL_TEXT = """{"text": "I love this product!"}"""


def predict(server: ServerProcess, body: str) -> Any:
    response = server.post(body)
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    return response.json


def test_sentiment_analysis(server: Serve, model_file: Find) -> None:
    result = predict(server("sentiment"), CURL_SENTIMENT)
    feeds = {name: numpy.array([value]) for name, value in json.loads(CURL_SENTIMENT).items()}
    assert list(result) == ["logits"]
    assert len(result["logits"]) == 2
    assert same_bits([result["logits"]], run(model_file("sentiment"), feeds)["logits"])


def test_image_classification(server: Serve, model_file: Find) -> None:
    pixels = numpy.random.default_rng(1).random((1, 3, 8, 8), numpy.float32)
    result = predict(server("image"), json.dumps({"image": pixels.tolist()}))
    assert list(result) == ["probabilities"]
    assert len(result["probabilities"]) == 10
    expected = run(model_file("image"), {"image": pixels})["probabilities"]
    assert same_bits([result["probabilities"]], expected)


def test_text_input(server: Serve) -> None:
    result = predict(server("text"), CURL_TEXT)
    assert result == {"sentiment": [pytest.approx(0.05), pytest.approx(0.95)]}


def test_missing_input(server: Serve) -> None:
    response = server("sentiment").post('{\n  "attention_mask": [1, 1, 1]\n}')
    assert response.error(400) == "Missing required input: 'input_ids'"


def test_invalid_input_type(server: Serve) -> None:
    response = server("sentiment").post('{\n  "input_ids": "not an array"\n}')
    assert response.error(400) == "Invalid input type for 'input_ids': expected array"


def test_inference_failure(server: Serve) -> None:
    detail = server("table").post('{"ids": [4]}').error(500)
    assert detail.startswith("Inference failed: ")
    assert len(detail) > len("Inference failed: ")


def test_batch_request(server: Serve) -> None:
    texts = ["I love this product!", "This is terrible", "item3"]
    result = predict(server("text"), json.dumps({"text": texts}))
    assert list(result) == ["sentiment"]
    expected = [[0.05, 0.95], [0.875, 0.125], [0.5, 0.5]]
    assert result["sentiment"] == [pytest.approx(row) for row in expected]
