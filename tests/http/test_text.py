"""Texts over HTTP: the model's inputs, the responses, and what is rejected."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest

from tests.support.bert_models import (
    INPUTS,
    embed_slowly,
    read_minilm,
    write_echo,
    write_folder,
    write_minilm,
)
from tests.support.ort import run, same_bits
from tests.support.servers import Serve, ServerFor, failed_start, serve
from tests.support.text_corpus import (
    PAIRS,
    REJECTED,
    TEN_THOUSAND_WORDS,
    TEXTS,
    echo,
    echo_one,
    encode,
)

SENTIMENT = Path(__file__).parents[2] / "examples" / "sentiment"


@pytest.fixture(scope="module")
def echoing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_echo(tmp_path_factory.mktemp("echo"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("classifier"))


def lists(feeds: dict[str, Any]) -> dict[str, Any]:
    """Arrays as the lists of a request body."""
    return {name: array.tolist() for name, array in feeds.items()}


# The model's inputs.


def test_each_text_alone(server_for: ServerFor, echoing: Path) -> None:
    predict = server_for(echoing).predict
    for text in TEXTS:
        assert predict({"text": text}) == echo_one(encode(echoing, [text])), ascii(text[:80])


def test_all_texts_as_one_batch(server_for: ServerFor, echoing: Path) -> None:
    assert server_for(echoing).predict({"text": TEXTS}) == echo(encode(echoing, TEXTS))


def test_each_pair_alone(server_for: ServerFor, echoing: Path) -> None:
    predict = server_for(echoing).predict
    for text, pair in zip(TEXTS, PAIRS, strict=True):
        expected = echo_one(encode(echoing, [text], [pair]))
        assert predict({"text": text, "text_pair": pair}) == expected, ascii((text[:80], pair[:80]))


def test_all_pairs_as_one_batch(server_for: ServerFor, echoing: Path) -> None:
    result = server_for(echoing).predict({"text_pair": PAIRS, "text": TEXTS})
    assert result == echo(encode(echoing, TEXTS, PAIRS))


def test_texts_of_any_length(server_for: ServerFor, tmp_path: Path) -> None:
    folder = write_echo(tmp_path / "long", "preprocessing: {max_length: 50000}")
    predict = server_for(folder).predict
    expected = encode(folder, [TEN_THOUSAND_WORDS], max_length=50_000)
    assert expected["input_ids"].shape[1] > 10_000
    assert predict({"text": TEN_THOUSAND_WORDS}) == echo_one(expected)
    texts = ["short", TEN_THOUSAND_WORDS, ""]
    assert predict({"text": texts}) == echo(encode(folder, texts, max_length=50_000))


def test_a_long_text_among_short_ones(server_for: ServerFor, echoing: Path) -> None:
    texts = ["short", TEN_THOUSAND_WORDS, ""]
    result = server_for(echoing).predict({"text": texts})
    assert [sum(mask) for mask in result["mask"]] == [3, 128, 2]
    assert result == echo(encode(echoing, texts))


def test_a_pair_of_long_texts_takes_little_memory(echoing: Path) -> None:
    # The tokenizer would keep all overflow: each rest of one text with each rest of the other.
    with serve(echoing) as server:
        result = server.predict({"text": TEN_THOUSAND_WORDS, "text_pair": TEN_THOUSAND_WORDS})
        status = Path(f"/proc/{server.process.pid}/status").read_text()
    peak = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert peak
    assert int(peak[1]) < 600_000
    beginning = TEN_THOUSAND_WORDS[:2000]
    assert result == echo_one(encode(echoing, [beginning], [beginning]))


def test_texts_at_once_get_their_own_answers(server_for: ServerFor, echoing: Path) -> None:
    server = server_for(echoing)
    batches = [TEXTS[start : start + 1 + start % 7] for start in range(len(TEXTS))]
    expected = [echo(encode(echoing, texts)) for texts in batches]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda texts: server.predict({"text": texts}), batches))
    assert results == expected


# Responses.


def test_a_text_answers_as_its_ids_do(server_for: ServerFor, classifier: Path) -> None:
    predict = server_for(classifier).predict
    for text in TEXTS:
        ids = {name: rows[0] for name, rows in lists(encode(classifier, [text])).items()}
        assert predict({"text": text}) == predict(ids), ascii(text[:80])
    assert predict({"text": TEXTS}) == predict(lists(encode(classifier, TEXTS)))
    pairs = predict({"text": TEXTS, "text_pair": PAIRS})
    assert pairs == predict(lists(encode(classifier, TEXTS, PAIRS)))


def test_ids_without_their_types(server_for: ServerFor, classifier: Path) -> None:
    predict = server_for(classifier).predict
    texts = TEXTS[:9]  # single texts are all of type 0
    for feeds in (encode(classifier, texts), encode(classifier, texts[4:5])):
        body = lists(feeds)
        del body["token_type_ids"]
        assert predict(body) == predict(lists(feeds))
        first = {name: rows[0][:2] for name, rows in body.items()}
        assert predict(first) == predict(first | {"token_type_ids": [0, 0]})


def test_the_answer_is_the_softmax_of_the_logits(server_for: ServerFor, classifier: Path) -> None:
    result = server_for(classifier).predict({"text": TEXTS})
    logits = run(classifier / "model.onnx", encode(classifier, TEXTS))["logits"].astype(float)
    powers = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    assert list(result) == ["sentiment"]
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert numpy.allclose(result["sentiment"], expected, rtol=1e-6, atol=0)


def test_padding_changes_no_answer(server_for: ServerFor, classifier: Path) -> None:
    predict = server_for(classifier).predict
    alone = [predict({"text": text})["sentiment"] for text in TEXTS]
    assert numpy.allclose(predict({"text": TEXTS})["sentiment"], alone, rtol=0, atol=1e-5)
    assert numpy.ptp(alone, axis=0).min() > 0.9  # the model distinguishes the texts


@pytest.mark.parametrize(
    ("body", "is_batch"),
    [
        ({"text": "a"}, False),
        ({"text": ["a"]}, True),
        ({"text": "a", "text_pair": "b"}, False),
        ({"text": ["a"], "text_pair": ["b"]}, True),
        ({"text": "a", "text_pair": ["b"]}, True),
        ({"text": ["a"], "text_pair": "b"}, True),
    ],
)
def test_an_item_is_answered_as_one(
    server_for: ServerFor, classifier: Path, body: dict[str, Any], is_batch: bool
) -> None:
    one = {name: value if isinstance(value, str) else value[0] for name, value in body.items()}
    result = server_for(classifier).predict(one)["sentiment"]
    assert numpy.shape(result) == (2,)
    assert server_for(classifier).predict(body)["sentiment"] == ([result] if is_batch else result)


# Rejected requests.


@pytest.mark.parametrize(("body", "detail"), REJECTED, ids=lambda value: ascii(value)[:60])
def test_refused(server_for: ServerFor, echoing: Path, body: dict[str, Any], detail: str) -> None:
    assert server_for(echoing).post(body).error(400) == detail


@pytest.mark.parametrize("text", ["\ud800", "a\udc00", "\udc00\ud800"], ids=ascii)
def test_lone_surrogates(server_for: ServerFor, echoing: Path, text: str) -> None:
    for body in ({"text": text}, {"text": ["a", text]}, {"text": "a", "text_pair": text}):
        assert server_for(echoing).post(body).status == 400


@pytest.mark.parametrize("name", INPUTS)
def test_a_second_text_beside_ids(server_for: ServerFor, echoing: Path, name: str) -> None:
    assert server_for(echoing).post({"text_pair": "a", name: [1]}).status == 400


# Axes fixed by the model.


def test_a_fixed_length(server_for: ServerFor, tmp_path: Path) -> None:
    folder = write_echo(tmp_path / "fixed-length", sequence=8)
    predict = server_for(folder).predict
    for text in TEXTS:
        assert predict({"text": text}) == echo_one(encode(folder, [text], size=8)), ascii(text[:80])
    assert predict({"text": TEXTS}) == echo(encode(folder, TEXTS, size=8))
    # The oracle, the plain tokenizer, would take far too long for the longest ones.
    pairs = [pair for pair in zip(TEXTS, PAIRS, strict=True) if len("".join(pair)) < 1000]
    texts, others = map(list, zip(*pairs, strict=True))
    result = predict({"text": texts, "text_pair": others})
    assert result == echo(encode(folder, texts, others, size=8))


def test_one_text_a_request(server_for: ServerFor, tmp_path: Path) -> None:
    folder = write_echo(tmp_path / "one", batch=1)
    server = server_for(folder)
    expected = echo_one(encode(folder, ["one text"]))
    assert server.predict({"text": "one text"}) == expected
    assert server.predict({"text": ["one text"]}) == expected
    for body, name, got in (
        ({"text": ["a", "b"]}, "text", "[2]"),
        ({"text": "a", "text_pair": ["b", "c"]}, "text_pair", "[2]"),
        ({"text": []}, "text", "[0]"),
    ):
        detail = f"Invalid shape for '{name}': expected [1], got {got}"
        assert server.post(body).error(400) == detail


# /info


def test_info(server_for: ServerFor, tmp_path: Path) -> None:
    described = write_echo(
        tmp_path / "described",
        "inputs: {text: {description: An English sentence, max_length: 7}, input_ids: }",
    )
    inputs = server_for(described).request("GET", "/info").json["inputs"]
    assert [spec["name"] for spec in inputs] == ["text", "text_pair", *INPUTS]
    assert [spec["required"] for spec in inputs] == [True, False, False, False, False]
    text, pair, ids, *_ = inputs
    assert (text["description"], text["max_length"]) == ("An English sentence", 7)
    for spec in (text, pair):
        assert (spec["type"], spec["shape"], spec["kind"]) == ("string", ["batch"], "batched")
    assert (ids["type"], ids["shape"]) == ("int64", ["batch", "sequence"])


# Without the package, or with a file that it cannot read.


@pytest.fixture
def without_tokenizers(tmp_path: Path) -> dict[str, str]:
    """Environment variables that make the package look uninstalled."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "tokenizers.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'tokenizers'\", name='tokenizers')\n"
    )
    return {"PYTHONPATH": str(folder)}


def test_without_tokenizers_ids_are_served(
    echoing: Path, without_tokenizers: dict[str, str]
) -> None:
    with serve(echoing, **without_tokenizers) as server:
        feeds = encode(echoing, ["some text"])
        assert server.predict(lists(feeds)) == echo(feeds)
        assert server.post({"text": "a"}).detail.startswith("Unknown input: 'text'; ")
        assert server.post({}).detail == "Missing required input: 'input_ids'"
        inputs = server.request("GET", "/info").json["inputs"]
        found = [(spec["name"], spec["required"]) for spec in inputs]
        assert found == [(name, True) for name in INPUTS]
    (warning,) = server.stderr.text.splitlines()
    assert "tokenizer.json" in warning
    assert "pip install 'tokenizers>=0.20'" in warning


def check_refused_start(folder: Path, *expected: str, **variables: str) -> None:
    line = failed_start("serve", str(folder), "--port", "0", variables=variables)
    assert line.startswith(f"gpux: {folder}")
    for part in expected:
        assert part in line


def test_a_tokenizer_that_is_asked_for_needs_the_package(
    tmp_path: Path, without_tokenizers: dict[str, str]
) -> None:
    folder = write_echo(tmp_path / "asked", "preprocessing: {tokenizer: tokenizer.json}")
    check_refused_start(
        folder, "gpux.yml: preprocessing.tokenizer: ", "tokenizers>=0.20", **without_tokenizers
    )


@pytest.mark.parametrize("content", ["", "{", "{}", '{"version": "1.0"}', "[]", "\0"])
def test_a_broken_tokenizer(tmp_path: Path, content: str) -> None:
    folder = write_echo(tmp_path / "broken")
    (folder / "tokenizer.json").write_text(content)
    check_refused_start(folder, "tokenizer.json: ")


# A real model: all-MiniLM-L6-v2.

PARAPHRASES = [
    ("A man is eating food.", "Someone is having a meal."),
    ("The weather is lovely today.", "It is beautifully sunny outside."),
    ("How do I reset my password?", "I forgot my login credentials and want new ones."),
    ("The stock market fell sharply.", "Share prices dropped a lot."),
    ("A child plays the piano.", "A little girl is performing music on a keyboard."),
]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_minilm(tmp_path_factory.mktemp("minilm"))


def test_paraphrases_are_closer_than_strangers(server_for: ServerFor, minilm: Path) -> None:
    first, second = (
        numpy.array(server_for(minilm).predict({"text": texts})["embedding"])
        for texts in zip(*PARAPHRASES, strict=True)
    )
    assert first.shape == (5, 384)
    assert numpy.allclose(numpy.linalg.norm([first, second], axis=2), 1, atol=1e-5)
    cosines = first @ second.T
    strangers = cosines[~numpy.eye(5, dtype=bool)]
    assert cosines.diagonal().min() > strangers.max() + 0.1


def test_embeddings_are_those_of_a_slow_forward_pass(server_for: ServerFor, minilm: Path) -> None:
    predict = server_for(minilm).predict
    texts = [text for pair in PARAPHRASES for text in pair] + ["", "你好 😀", "[CLS]\0"]
    expected = embed_slowly(read_minilm(), 12, encode(minilm, texts))
    assert numpy.allclose(predict({"text": texts})["embedding"], expected, rtol=0, atol=1e-5)
    for text, row in zip(texts, expected, strict=True):
        assert numpy.allclose(predict({"text": text})["embedding"], row, rtol=0, atol=1e-5)


def test_an_embedding_of_ten_thousand_words(server_for: ServerFor, minilm: Path) -> None:
    ids = {name: rows[0] for name, rows in lists(encode(minilm, [TEN_THOUSAND_WORDS])).items()}
    predict = server_for(minilm).predict
    assert predict({"text": TEN_THOUSAND_WORDS}) == predict(ids)


# Models with string inputs, of shape [N] and [N, 1].


def test_texts_as_strings(server: Serve) -> None:
    predict = server("words").predict
    assert predict({"word": TEXTS}) == {"same": TEXTS}
    for text in TEXTS:
        assert predict({"word": text}) == {"same": text}


def test_texts_as_rows_of_one_string(server: Serve) -> None:
    predict = server("text").predict
    known = {"I love this product!": [0.05, 0.95], "This is terrible": [0.875, 0.125]}
    rows = [known.get(text, [0.5, 0.5]) for text in TEXTS]
    assert predict({"text": TEXTS})["sentiment"] == [pytest.approx(row) for row in rows]
    assert predict({"text": [[text] for text in TEXTS]}) == predict({"text": TEXTS})


def test_the_sentiment_example(server_for: ServerFor) -> None:
    predict = server_for(SENTIMENT).predict
    texts = numpy.array([[text] for text in TEXTS], object)
    expected = run(SENTIMENT / "model.onnx", {"text": texts})["sentiment"]
    assert same_bits(predict({"text": TEXTS})["sentiment"], expected)
    for text, row in zip(TEXTS, expected, strict=True):
        assert same_bits(predict({"text": text})["sentiment"], row), json.dumps(text[:80])
