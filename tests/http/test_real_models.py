"""Third-party models and the examples: responses equal session.run bit for bit.

The packages magika and silero-vad are installed only for their model files, without their
dependencies, so they are never imported.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.support.ort import run, same_bits
from tests.support.packaged_models import find_in_package
from tests.support.servers import ServerFor, ServerProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
LOVE, TERROR = "I love this product!", "This is terrible"
DIGITS, SENTIMENT = EXAMPLES / "digits", EXAMPLES / "sentiment"

# The 2 in examples/digits/README.md.
TWO = [
    [0, 0, 7, 16, 14, 3, 0, 0],
    [0, 0, 9, 14, 11, 15, 0, 0],
    [0, 0, 1, 5, 0, 15, 5, 0],
    [0, 0, 0, 0, 0, 16, 5, 0],
    [0, 0, 0, 0, 3, 16, 4, 0],
    [0, 0, 0, 1, 12, 14, 1, 0],
    [0, 0, 5, 12, 16, 16, 14, 1],
    [0, 0, 8, 16, 14, 10, 13, 3],
]


def check(server: ServerProcess, model: Path, feeds: Mapping[str, Any]) -> None:
    """Sends arrays with all their axes and compares the response."""
    result = server.predict({name: array.tolist() for name, array in feeds.items()})
    expected = run(model, feeds)
    assert list(result) == list(expected)
    for name, array in expected.items():
        assert same_bits(result[name], array), name


# magika: `bytes` int32 [N, 2048] → `target_label` float32 [N, 214]


@pytest.fixture(scope="module")
def magika() -> Path:
    return find_in_package("magika", "model.onnx")


def beginnings_and_ends(*contents: bytes) -> Any:
    """The model's input for files: 1,024 bytes from each end, padded with 256."""
    rows = numpy.full((len(contents), 2048), 256, numpy.int32)
    for row, content in zip(rows, contents, strict=True):
        first, last = content[:1024], content[-1024:]
        row[: len(first)] = list(first)
        row[2048 - len(last) :] = list(last)
    return rows


def test_magika(server_for: ServerFor, magika: Path) -> None:
    source = Path(__file__).read_bytes()
    rows = beginnings_and_ends(source, magika.read_bytes(), b"{}", b"")
    check(server_for(magika), magika, {"bytes": rows})


def test_magika_of_one_file(server_for: ServerFor, magika: Path) -> None:
    rows = beginnings_and_ends(Path(__file__).read_bytes())
    expected = run(magika, {"bytes": rows})["target_label"]
    predict = server_for(magika).predict
    # The output's leading axis has another name than the input's, so it is not a batch axis.
    for value in (rows[0], rows):
        assert same_bits(predict({"bytes": value.tolist()})["target_label"], expected)


def test_magika_refuses_another_length(server_for: ServerFor, magika: Path) -> None:
    detail = server_for(magika).post({"bytes": [0] * 2047}).error(400)
    assert detail.startswith("Invalid shape for 'bytes': expected [")
    assert detail.endswith(", 2048], got [2047]")


# silero-vad: `input` float32 [N, S], `state` float32 [2, N, 128], `sr` int64 of any shape


@pytest.fixture(scope="module")
def silero() -> Path:
    return find_in_package("silero-vad", "silero_vad.onnx")


def sound(rows: int, samples: int, seed: int) -> Any:
    """A tone with noise."""
    noise = numpy.random.default_rng(seed).normal(0, 0.1, (rows, samples))
    return (noise + numpy.sin(numpy.arange(samples) / 7)).astype(numpy.float32)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("rate", "samples"), [(16000, 512), (8000, 256)])
def test_silero(server_for: ServerFor, silero: Path, rows: int, rate: int, samples: int) -> None:
    state = numpy.zeros((2, rows, 128), numpy.float32)
    for step in range(4):
        feeds = {
            "input": sound(rows, samples, step),
            "state": state,
            "sr": numpy.array(rate, numpy.int64),
        }
        check(server_for(silero), silero, feeds)
        # The next request sends the state of this response.
        state = run(silero, feeds)["stateN"]
    assert state.any()


def test_silero_of_one_item(server_for: ServerFor, silero: Path) -> None:
    samples = sound(1, 512, 9)
    state = numpy.zeros((2, 1, 128), numpy.float32)
    expected = run(silero, {"input": samples, "state": state, "sr": numpy.array(16000)})
    body = {"input": samples[0].tolist(), "state": state.tolist(), "sr": 16000}
    result = server_for(silero).predict(body)
    assert same_bits(result["output"], expected["output"][0])
    # The state's leading axis is fixed at 2, so it is not a batch axis.
    assert same_bits(result["stateN"], expected["stateN"])


# The examples.


def test_digits(server_for: ServerFor) -> None:
    server, model = server_for(DIGITS), DIGITS / "model.onnx"
    check(server, model, {"image": numpy.array([TWO], numpy.float32)})
    images = numpy.random.default_rng(1).integers(0, 17, (50, 8, 8)).astype(numpy.float32)
    check(server, model, {"image": images})


def test_digits_reads_a_two(server_for: ServerFor) -> None:
    result = server_for(DIGITS).predict({"image": TWO})
    assert result["label"] == 2
    assert len(result["probabilities"]) == 10
    assert max(result["probabilities"]) == result["probabilities"][2]


def test_sentiment(server_for: ServerFor) -> None:
    texts = [LOVE, TERROR, "I LOVE THIS PRODUCT!", "", "é 😀\n\0 fine"]
    array = numpy.array([[text] for text in texts], object)
    check(server_for(SENTIMENT), SENTIMENT / "model.onnx", {"text": array})


def test_sentiment_tells_love_from_terror(server_for: ServerFor) -> None:
    predict = server_for(SENTIMENT).predict
    love, terror = (predict({"text": text})["sentiment"] for text in (LOVE, TERROR))
    assert love[1] > 0.8
    assert terror[0] > 0.8
    assert predict({"text": "THIS IS TERRIBLE"}) == predict({"text": "this is terrible"})
    assert predict({"text": [LOVE, TERROR]})["sentiment"] == [love, terror]


@pytest.mark.parametrize(("example", "limit"), [(DIGITS, 200_000), (SENTIMENT, 1_000_000)])
def test_examples_are_small(example: Path, limit: int) -> None:
    assert (example / "model.onnx").stat().st_size < limit
