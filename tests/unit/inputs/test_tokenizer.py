"""tokenizer: how tokenizer.json and gpux.yml determine a model's inputs for a text."""

import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
from onnx import TensorProto, helper

import gpux
from gpux import ClientError, StartError
from tests.support.bert_models import (
    ECHOED,
    INPUTS,
    Variant,
    edit_tokenizer,
    remove_pad_token,
    write_echo,
    write_folder,
)
from tests.support.text_corpus import (
    PAIRS,
    REJECTED,
    TEN_THOUSAND_WORDS,
    TEXTS,
    echo,
    echo_one,
    encode,
)

# 2, 3, 4, 30, 300 and over 10,000 tokens, special tokens included.
LENGTHS = ["", "a", "a b", "word " * 28, "love " * 300, TEN_THOUSAND_WORDS]


def predict(folder: Path, **inputs: object) -> dict[str, Any]:
    """The outputs, as lists."""
    outputs = gpux.load(folder).predict(inputs)
    return {name: array.tolist() for name, array in outputs.items()}


def check(folder: Path, **expected: Any) -> None:
    """Compares a model's inputs for texts and pairs, singly and batched, with the reference."""
    model = gpux.load(folder)

    def run(**inputs: object) -> dict[str, Any]:
        return {name: array.tolist() for name, array in model.predict(inputs).items()}

    for text, pair in zip(LENGTHS, reversed(LENGTHS), strict=True):
        assert run(text=text) == echo_one(encode(folder, [text], **expected))
        both = echo_one(encode(folder, [text], [pair], **expected))
        assert run(text=text, text_pair=pair) == both
    assert run(text=LENGTHS) == echo(encode(folder, LENGTHS, **expected))
    both = echo(encode(folder, LENGTHS, LENGTHS[::-1], **expected))
    assert run(text=LENGTHS, text_pair=LENGTHS[::-1]) == both


# Settings of the tokenizer, of gpux.yml and of the model.


@pytest.mark.parametrize(
    "sections",
    [
        {"truncation": {"max_length": 5}},
        {"truncation": {"max_length": 1000}},
        {"truncation": {"direction": "Left"}},
        {"truncation": {"max_length": 40, "stride": 20}},
        {"truncation": None},
        {"padding": {"direction": "Left"}},
        {"padding": {"pad_to_multiple_of": 8}},
        {"padding": {"pad_to_multiple_of": 50, "direction": "Left"}},
        {"padding": {"pad_id": 103, "pad_type_id": 1, "pad_token": "[MASK]"}},
        {"padding": {"strategy": "BatchLongest"}},
        {"padding": {"strategy": {"Fixed": 7}}, "truncation": {"max_length": 20}},
        {"normalizer": None},
        {"post_processor": None},
    ],
    ids=str,
)
def test_the_tokenizers_own_settings(tmp_path: Path, sections: dict[str, Any]) -> None:
    edit_tokenizer(write_echo(tmp_path), **sections)
    check(tmp_path)


@pytest.mark.parametrize(
    ("gpux_yml", "max_length"),
    [
        ("preprocessing: {max_length: 6}", 6),
        ("preprocessing: {max_length: 300}", 300),
        ("inputs: {text: {max_length: 7}}", 7),
        ("inputs: [{name: text, max_length: 200}]", 200),
        ("preprocessing: {tokenizer: tokenizer.json}", None),
    ],
)
def test_a_length_of_gpux_yml(tmp_path: Path, gpux_yml: str, max_length: int | None) -> None:
    check(write_echo(tmp_path, gpux_yml), max_length=max_length)


@pytest.mark.parametrize("strategy", ["OnlyFirst", "OnlySecond"])
def test_any_strategy_cuts_the_longer_text(tmp_path: Path, strategy: str) -> None:
    # In the library these two fail if the text that they name is missing or short.
    edit_tokenizer(write_echo(tmp_path / "other"), truncation={"strategy": strategy})
    write_echo(tmp_path / "same")
    for inputs in ({"text": LENGTHS}, {"text": LENGTHS, "text_pair": LENGTHS[::-1]}):
        assert predict(tmp_path / "other", **inputs) == predict(tmp_path / "same", **inputs)


def test_a_shorter_length_than_the_tokenizers_stride(tmp_path: Path) -> None:
    write_echo(tmp_path, "preprocessing: {max_length: 20}")
    edit_tokenizer(tmp_path, truncation={"max_length": 384, "stride": 128})
    check(tmp_path, max_length=20)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (Variant(sequence=8), {"size": 8}),
        (Variant(sequence=600), {"size": 600}),
        (Variant(id_type="int32"), {}),
        (Variant(inputs=INPUTS[:2]), {}),
        (Variant(inputs=INPUTS[:1]), {}),
        (Variant(inputs=INPUTS[::-1]), {}),
    ],
    ids=str,
)
def test_the_models_own_shape(tmp_path: Path, variant: Variant, expected: dict[str, Any]) -> None:
    model = gpux.load(write_echo(tmp_path, **variant))
    encoded = encode(tmp_path, LENGTHS, LENGTHS[::-1], **expected)
    outputs = model.predict({"text": LENGTHS, "text_pair": LENGTHS[::-1]})
    assert list(outputs) == [ECHOED[name] for name in variant.get("inputs", INPUTS)]
    for name in variant.get("inputs", INPUTS):
        array = outputs[ECHOED[name]]
        assert array.dtype == variant.get("id_type", "int64")
        assert array.tolist() == encoded[name].tolist()


def test_a_length_that_gpux_yml_fixes(tmp_path: Path) -> None:
    check(write_echo(tmp_path, "inputs: {input_ids: {shape: [batch, 8]}}"), size=8)


DIFFER = "; if these axes differ, name them in gpux.yml"


def test_the_batch_has_the_models_name(tmp_path: Path) -> None:
    write_echo(tmp_path, batch="N")
    detail = "Inputs disagree on 'N': 'text' has 2, 'text_pair' has 1"
    detail += "; if these axes differ, name them in gpux.yml"
    with pytest.raises(ClientError, match=f"^{detail}$"):
        predict(tmp_path, text=["a", "b"], text_pair=["c"])


def test_a_tokenizer_of_another_name(tmp_path: Path) -> None:
    folder = write_echo(tmp_path / "model", "preprocessing: {tokenizer: ../words/bert.json}")
    (tmp_path / "words").mkdir()
    (folder / "tokenizer.json").rename(tmp_path / "words" / "bert.json")
    write_echo(tmp_path / "reference")
    assert predict(folder, text=TEXTS[:9]) == echo(encode(tmp_path / "reference", TEXTS[:9]))


def test_a_batch_of_a_fixed_size(tmp_path: Path) -> None:
    write_echo(tmp_path, batch=2)
    assert predict(tmp_path, text=TEXTS[3:5]) == echo(encode(tmp_path, TEXTS[3:5]))
    with pytest.raises(ClientError, match=r"^Invalid shape for 'text': expected \[2\], got \[1\]$"):
        predict(tmp_path, text=["one"])


# Without a pad token.


def test_nothing_to_pad_with(tmp_path: Path) -> None:
    remove_pad_token(write_echo(tmp_path))
    expected = encode(tmp_path, ["two words"])
    assert predict(tmp_path, text="two words") == echo_one(expected)
    same = ["two words", "more words"]
    assert predict(tmp_path, text=same) == echo(encode(tmp_path, same))
    with pytest.raises(ClientError, match=r"^Invalid shape for 'text': .*\bpad\b"):
        predict(tmp_path, text=["two words", "no more words"])


def test_nothing_to_pad_with_to_a_fixed_length(tmp_path: Path) -> None:
    remove_pad_token(write_echo(tmp_path, sequence=4))
    for text in ("two words", "three more words"):
        assert predict(tmp_path, text=text) == echo_one(encode(tmp_path, [text], size=4))
    for texts in ("one", ["one", "two"]):
        with pytest.raises(ClientError, match=r"^Invalid shape for 'text': .*\bpad\b"):
            predict(tmp_path, text=texts)


def test_a_pad_token_of_gpux_yml(tmp_path: Path) -> None:
    remove_pad_token(write_echo(tmp_path / "without", 'preprocessing: {pad_token: "[MASK]"}'))
    edit_tokenizer(write_echo(tmp_path / "with"), padding={"pad_id": 103})
    assert predict(tmp_path / "without", text=LENGTHS) == echo(encode(tmp_path / "with", LENGTHS))


def test_a_pad_token_that_has_no_section(tmp_path: Path) -> None:
    edit_tokenizer(write_echo(tmp_path), padding=None)
    check(tmp_path)  # [PAD] is 0


# Invalid configs, and bounds.


@pytest.mark.parametrize(
    ("gpux_yml", "expected"),
    [
        ("preprocessing: {tokenizer: other.json}", "preprocessing.tokenizer: no such file: "),
        ("preprocessing: {tokenizer: []}", "preprocessing.tokenizer: expected "),
        ("preprocessing: {max_length: 0}", "preprocessing.max_length: expected "),
        ("preprocessing: {max_length: 2}", "preprocessing.max_length: expected more than the 2 "),
        ("inputs: {text: {max_length: 2}}", "inputs.text.max_length: expected more than the 2 "),
        ("inputs: {text_pair: {max_length: 9}}", "inputs.text_pair.max_length: it is given for "),
        ("preprocessing: {pad_token: '[NOTHING]'}", "preprocessing.pad_token: "),
        ("preprocessing: {padding: true}", "preprocessing.padding: unknown key; "),
        ("inputs: {txt: {max_length: 3}}", "inputs.txt: the model has no such input; "),
    ],
)
def test_gpux_yml_that_cannot_be(tmp_path: Path, gpux_yml: str, expected: str) -> None:
    write_echo(tmp_path, gpux_yml)
    with pytest.raises(StartError) as caught:
        gpux.load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'gpux.yml'}: {expected}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("max_length", [0, 2])
def test_a_tokenizers_own_length_that_leaves_no_room(tmp_path: Path, max_length: int) -> None:
    # The library truncates nothing if the special tokens alone are too many.
    edit_tokenizer(write_echo(tmp_path), truncation={"max_length": max_length})
    with pytest.raises(StartError, match=r"tokenizer\.json: .*max_length"):
        gpux.load(tmp_path)


def test_no_room_for_a_pair(tmp_path: Path) -> None:
    write_echo(tmp_path, "preprocessing: {max_length: 3}")
    assert len(predict(tmp_path, text="a b")["ids"]) == 3
    with pytest.raises(ClientError, match=r"^Invalid shape for 'text_pair': there is no room for"):
        predict(tmp_path, text="a", text_pair="b")


def test_a_pair_may_be_required(tmp_path: Path) -> None:
    write_echo(tmp_path, "inputs: {text_pair: {required: true}}")
    assert predict(tmp_path, text="a", text_pair="b")
    with pytest.raises(ClientError, match=r"^Missing required input: 'text_pair'$"):
        predict(tmp_path, text="a")


@pytest.mark.parametrize(
    ("value", "place"),
    [("x" * (2**20 + 1), ""), (["a", "x" * (2**20 + 1)], " at [1]"), (["x" * 2**21], " at [0]")],
    ids=["one", "many", "list of one"],
)
def test_the_length_of_a_text_is_bounded(
    echoing: gpux.Model, value: str | list[str], place: str
) -> None:
    detail = f"Invalid value for 'text'{place}: expected at most 1048576 characters, got "
    with pytest.raises(ClientError, match=f"^{re.escape(detail)}"):
        echoing.predict({"text": value})


def test_many_long_texts_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    """Together they exceed what is encoded at once; each still gets its own row."""
    texts = [f"w{number} " * 60_000 for number in range(7)]
    write_echo(tmp_path)
    assert predict(tmp_path, text=texts) == echo(encode(tmp_path, texts))


# Padding multiplies the number of texts by the length of the longest.


def test_what_padding_makes_is_bounded(tmp_path: Path) -> None:
    model = gpux.load(write_echo(tmp_path, "preprocessing: {max_length: 8192}"))
    texts = ["a"] * 2000 + ["love " * 9000]
    tracemalloc.start()
    with pytest.raises(ClientError) as caught:
        model.predict({"text": texts})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    problem = "padded to 8192 tokens each, 2001 texts are too many for one request: 682 fit"
    assert str(caught.value) == f"Invalid shape for 'text': {problem}"
    assert peak < 50e6  # instead of 393 MB
    # The short ones alone fit, and so does the long one.
    assert model.predict({"text": texts[:-1]})["ids"].shape == (2000, 3)
    assert model.predict({"text": texts[-1]})["ids"].shape == (8192,)


@pytest.mark.parametrize(
    ("variant", "rows"),
    [
        (Variant(inputs=INPUTS[:1]), 2048),
        (Variant(inputs=INPUTS[:2]), 1024),
        (Variant(sequence=8192), 682),
    ],
    ids=str,
)
def test_as_many_texts_as_fit(tmp_path: Path, variant: Variant, rows: int) -> None:
    """The limit covers all inputs made from the texts."""
    write_echo(tmp_path, "preprocessing: {max_length: 8192}", **variant)
    model = gpux.load(tmp_path)
    texts = ["love " * 9000] + ["a"] * (rows - 1)
    ids = model.predict({"text": texts})["ids"]
    assert ids.shape == (rows, 8192)
    assert (ids[1:, :3] == ids[1, :3]).all()
    assert not ids[1:, 3:].any()
    with pytest.raises(ClientError, match=rf", {rows + 1} texts are too many .*: {rows} fit$"):
        model.predict({"text": [*texts, "a"]})


def test_lengths_that_are_multiples_count_as_such(tmp_path: Path) -> None:
    edit_tokenizer(write_echo(tmp_path), padding={"pad_to_multiple_of": 2**20})
    assert predict(tmp_path, text=["a", "b c"])["mask"][0][:4] == [1, 1, 1, 0]
    with pytest.raises(ClientError, match=r"padded to 1048576 tokens each, 6 texts .*: 5 fit$"):
        predict(tmp_path, text=["a"] * 6)


def test_a_tokenizer_for_a_model_without_ids(
    model_file: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = write_echo(tmp_path)
    (folder / "model.onnx").write_bytes(model_file("matrix").read_bytes())
    assert predict(folder, x=[1, 2]) == {"y": [1, 2]}
    with pytest.raises(ClientError, match=r"^Unknown input: 'text'; "):
        predict(folder, text="a")
    (folder / "gpux.yml").write_text("preprocessing: {tokenizer: tokenizer.json}")
    with pytest.raises(StartError, match=r"gpux\.yml: preprocessing\.tokenizer: .*input_ids"):
        gpux.load(folder)


# From Python.


@pytest.mark.parametrize("texts", [("a", "b c"), numpy.array(["a", "b c"], object)], ids=type)
def test_batches_as_python_has_them(tmp_path: Path, texts: Any) -> None:
    write_echo(tmp_path)
    assert predict(tmp_path, text=texts) == echo(encode(tmp_path, ["a", "b c"]))


@pytest.mark.parametrize(("body", "detail"), REJECTED, ids=lambda value: ascii(value)[:60])
def test_refused(echoing: gpux.Model, body: dict[str, Any], detail: str) -> None:
    with pytest.raises(ClientError, match=f"^{re.escape(detail)}$"):
        echoing.predict(body)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"text": "\ud800"}, "'text'"),
        ({"text": ["a", "b\udc00"]}, "'text' at [1]"),
        ({"text": "a", "text_pair": ["\udfff"]}, "'text_pair' at [0]"),
    ],
    ids=ascii,
)
def test_lone_surrogates(echoing: gpux.Model, body: dict[str, Any], place: str) -> None:
    detail = f"Invalid value for {place}: the string has a lone surrogate"
    with pytest.raises(ClientError, match=f"^{re.escape(detail)}$"):
        echoing.predict(body)


@pytest.fixture(scope="module")
def echoing(tmp_path_factory: pytest.TempPathFactory) -> gpux.Model:
    return gpux.load(write_echo(tmp_path_factory.mktemp("echo")))


def test_a_text_answers_as_its_ids_do(tmp_path: Path) -> None:
    model = gpux.load(write_folder(tmp_path, described=False))
    for texts, pairs in ((TEXTS, None), (TEXTS, PAIRS)):
        inputs = {"text": texts} | ({"text_pair": pairs} if pairs else {})
        logits = model.predict(inputs)["logits"]
        ids = encode(tmp_path, texts, pairs)
        assert logits.tobytes() == model.predict(ids)["logits"].tobytes()


def test_answers_keep_their_values(tmp_path: Path) -> None:
    """An echo returns its input's memory, which the next request must not overwrite."""
    model = gpux.load(write_echo(tmp_path))
    first = model.predict({"text": "first"})
    model.predict({"text": "again"})
    expected = echo_one(encode(tmp_path, ["first"]))
    assert {name: array.tolist() for name, array in first.items()} == expected


def test_texts_beside_another_input(tmp_path: Path) -> None:
    file = write_echo(tmp_path) / "model.onnx"
    model = onnx.load(file)
    for name, values in (("features", model.graph.input), ("same", model.graph.output)):
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]))
    model.graph.node.append(helper.make_node("Identity", ["features"], ["same"]))
    onnx.save(model, file)
    features = [[1.0, 2.0], [3.0, 4.0]]
    expected = echo(encode(tmp_path, TEXTS[3:5]))
    outputs = predict(tmp_path, text=TEXTS[3:5], features=features)
    assert outputs == expected | {"same": features}
    one = predict(tmp_path, text=TEXTS[3], features=features[0])
    assert one == echo_one(encode(tmp_path, TEXTS[3:4])) | {"same": features[0]}
    for inputs, detail in (
        ({"text": "a"}, "Missing required input: 'features'"),
        (
            {"text": ["a", "b", "c"], "features": features},
            "Inputs disagree on 'batch': 'text' has 3, 'features' has 2" + DIFFER,
        ),
        (
            {"features": features, "text": "a"},
            "Inputs disagree on 'batch': 'text' has 1, 'features' has 2" + DIFFER,
        ),
    ):
        with pytest.raises(ClientError, match=f"^{re.escape(detail)}$"):
            predict(tmp_path, **inputs)
