"""Every request, response and error of the API page, and its Python programs as they stand."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from runtime import run, same_bits
from servers import JSON_HEADERS, PATIENCE_SECONDS, Answer, ServerProcess

Serve = Callable[[str], ServerProcess]

CURL_SENTIMENT = """{
    "input_ids": [101, 1045, 2293, 2023, 102],
    "attention_mask": [1, 1, 1, 1, 1]
  }"""
CURL_TEXT = """{"text": "I love this product!"}"""

PYTHON_CLIENT = """\
import requests
import numpy as np

# Text input
response = requests.post(
    "http://localhost:8080/predict",
    json={"text": "I love GPUX!"}
)
result = response.json()
print(f"Sentiment: {result['sentiment']}")

# Tensor input
response = requests.post(
    "http://localhost:8080/predict",
    json={
        "input_ids": [101, 2054, 2003, 102],
        "attention_mask": [1, 1, 1, 1]
    }
)
print(response.json())
"""

# The page leaves the body open: json={...}.
CONNECTION_POOLING = """\
import requests
from requests.adapters import HTTPAdapter

session = requests.Session()
session.mount('http://', HTTPAdapter(pool_connections=10, pool_maxsize=10))

response = session.post("http://localhost:8080/predict", json={...})
"""

ERROR_HANDLING = """\
try:
    response = requests.post(url, json=data, timeout=10)
    response.raise_for_status()
    result = response.json()
except requests.exceptions.Timeout:
    print("Request timed out")
except requests.exceptions.HTTPError as e:
    print(f"HTTP error: {e.response.json()['detail']}")
"""


def run_program(code: str) -> str:
    """Runs a program in a process of its own; answers what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def post(server: ServerProcess, body: str) -> Answer:
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


def test_python_client_on_one_server(server: Serve) -> None:
    text = server("text")
    printed = run_program(PYTHON_CLIENT.replace("8080", str(text.port))).splitlines()
    assert printed[0] == "Sentiment: [0.125, 0.875]"
    # This server's model takes text only, and says so.
    assert "Unknown input: 'input_ids'" in printed[1]


def test_python_client_on_a_server_for_each_model(server: Serve) -> None:
    text, sentiment = server("text"), server("sentiment")
    code = PYTHON_CLIENT.replace("8080", str(text.port), 1).replace("8080", str(sentiment.port), 1)
    printed = run_program(code).splitlines()
    assert printed[0] == "Sentiment: [0.125, 0.875]"
    logits = sentiment.predict(
        {"input_ids": [101, 2054, 2003, 102], "attention_mask": [1, 1, 1, 1]}
    )
    assert printed[1] == str(logits)


@pytest.mark.parametrize(
    ("model", "body"), [("sentiment", CURL_SENTIMENT), ("text", CURL_TEXT)], ids=["ids", "text"]
)
def test_body_as_javascript_and_go_write_it(server: Serve, model: str, body: str) -> None:
    compact = json.dumps(json.loads(body), separators=(",", ":"))
    for kind in ("application/json", "application/json;charset=utf-8"):
        answer = server(model).request("POST", "/predict", compact, {"Content-Type": kind})
        assert answer.json == post(server(model), body).json


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


def test_connection_pooling(server: Serve) -> None:
    code = CONNECTION_POOLING.replace("8080", str(server("sentiment").port))
    code = code.replace("{...}", CURL_SENTIMENT)
    again = "print(session.post(response.url, data=response.request.body,"
    again += " headers=response.request.headers).json() == response.json())"
    printed = run_program(f"{code}print(response.status_code)\n{again}\nsession.close()")
    assert printed.splitlines() == ["200", "True"]


@pytest.mark.parametrize(
    ("body", "printed"),
    [
        (CURL_SENTIMENT, None),
        ('{"attention_mask": [1]}', "HTTP error: Missing required input: 'input_ids'"),
        (
            '{"input_ids": "not an array"}',
            "HTTP error: Invalid input type for 'input_ids': expected array",
        ),
    ],
    ids=["success", "missing", "type"],
)
def test_error_handling(server: Serve, body: str, printed: str | None) -> None:
    before = f"import requests\nurl, data = {server('sentiment').url!r}, {body}\n"
    after = "else:\n    print(result)\n"
    expected = printed or str(server("sentiment").predict(body))
    assert run_program(before + ERROR_HANDLING + after).strip() == expected
