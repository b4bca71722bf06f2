# ruff: noqa: RUF001 - ambiguous characters are part of the tests.
"""Texts of every kind, their expected tokenization, and bodies that are rejected."""

import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy
from tokenizers import Tokenizer

from tests.support.bert_models import ECHOED, INPUTS

TEN_THOUSAND_WORDS = " ".join(f"word{number}" for number in range(10_000))

_WRITTEN = [
    "",
    " ",
    "\t\r\n",
    "a",
    "I love this product!",
    "This is terrible",
    "don't, can't: 3.14159 (1e-5), 0x1F; 50% of $9.99",
    "https://example.org/a/b?c=d&e=%20#f me@example.org",
    '<b>html</b> &amp; {"json": ["\\"]} \\u0041',
    # Letters with diacritics, composed and decomposed.
    "naïve café Ångström señor",
    "nai\u0308ve cafe\u0301 A\u030angstro\u0308m sen\u0303or",
    "Z\u0335\u0322\u0361a\u0336\u0317l\u0334g\u0337o\u0338",
    "\u0301\u0301\u0301",
    "İstanbul ıI ß ẞ ﬁ ＦＵＬＬ 𝕳𝖊𝖑𝖑𝖔 ①",
    # Scripts.
    "你好，世界。今天天气很好",
    "日本語のテキストとカタカナ",
    "안녕하세요 세계",
    "مرحبا بالعالم",
    "السَّلَامُ عَلَيْكُمْ",
    "שלום עולם",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "Ελληνικά και Русский",
    "mixed 中文 with English и ещё عربي",
    # Emoji: alone, with skin tones, flags, joined.
    "😀",
    "great 👍🏽 ❤️ 👍",
    "🇨🇭🇯🇵🏴\U000e0067\U000e0062\U000e007f",
    "👩‍👩‍👧‍👦 🧑🏽‍🚀 🏳️‍🌈",
    "😀" * 200,
    # Characters that text cleaning removes, or keeps.
    "a\0b",
    "\0",
    "\0\0 \0",
    "".join(map(chr, range(0x20))),
    "\x7f\x80\x85\xa0\xad",
    "zero\u200bwidth\u200c\u200d\u2060 \ufeffmark",
    "\u202eright to left\u202c \u2066isolate\u2069",
    "line\u2028paragraph\u2029 em\u2003space\u3000",
    "\ufffd \ufffe \uffff \U0010ffff \ud7ff\ue000",
    # Special tokens, and texts that resemble them.
    "[CLS]",
    "[CLS] I [SEP] [PAD] [MASK] [UNK] x [SEP]",
    "[cls] [ SEP ] [SEP]] ##ing [unused1]",
    "[MASK][MASK]a[MASK]",
    # Words too long for the vocabulary, and texts around the tokenizer's maximum length.
    "x" * 100,
    "x" * 101,
    "unbelievably" * 500,
    "." * 300,
    "你" * 300,
    *(" ".join(["word"] * count) for count in (125, 126, 127, 510, 511)),
    TEN_THOUSAND_WORDS,
]
_PIECES = [
    *"aeiou XYZ .,!?'\"()[]{}<>#@&-_/\\ 0123456789 \0\t\n\x1f\x7f",
    *"éñüßøłčİσςжщяעربעמ你好世界日本語カナ한국어नमस्तेไทย",
    *"\u0300\u0301\u0308\u0327\u064b\u0651\u05b0\u093f\u200b\u200d\ufe0f\u20e3",
    *"😀🎉👩🏽🇨🇭\U00020000\U0001f9d1\ue000",
    *("the ", "love ", " not ", "##s", "[SEP]", "[MASK] ", " tokenizer", "internationalization "),
]


def _draw(count: int) -> list[str]:
    source = random.Random(0)
    return ["".join(source.choices(_PIECES, k=source.randrange(1, 120))) for _ in range(count)]


TEXTS = [*_WRITTEN, *_draw(200 - len(_WRITTEN))]
# The second texts of pairs: different, and of different lengths.
PAIRS = TEXTS[67:] + TEXTS[:67]


def encode(
    folder: Path,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_length: int | None = None,
    size: int | None = None,
) -> dict[str, Any]:
    """The expected inputs of a model for texts: by `tokenizers` for each text, padded by hand.

    Args:
        folder: with a tokenizer.json.
        texts: a batch.
        pairs: the second text of each.
        max_length: in tokens; by default the tokenizer's own, or 512.
        size: of the sequence axis, if it is fixed.

    Returns:
        int64 [batch, sequence] for each of INPUTS.
    """
    tokenizer, truncation, padding = _read_tokenizer(folder / "tokenizer.json")
    longest = max_length or truncation.get("max_length", 512)
    limit = longest if size is None else min(longest, size)
    tokenizer.enable_truncation(**truncation | {"max_length": limit, "stride": 0})
    seconds: Sequence[str | None] = pairs or [None] * len(texts)
    rows = [tokenizer.encode(*row) for row in zip(texts, seconds, strict=True)]
    multiple = padding.get("pad_to_multiple_of") or 1
    width = size or -(-max(map(len, rows)) // multiple) * multiple

    def pad(values: list[int], pad_value: int) -> list[int]:
        fill = [pad_value] * (width - len(values))
        return fill + values if padding.get("direction") == "Left" else values + fill

    arrays = (
        [pad(row.ids, padding.get("pad_id", 0)) for row in rows],
        [pad(row.attention_mask, 0) for row in rows],
        [pad(row.type_ids, padding.get("pad_type_id", 0)) for row in rows],
    )
    return {name: numpy.array(values, "int64") for name, values in zip(INPUTS, arrays, strict=True)}


@cache
def _read_tokenizer(file: Path) -> tuple[Tokenizer, dict[str, Any], dict[str, Any]]:
    """A tokenizer without padding, and its original truncation and padding settings."""
    tokenizer = Tokenizer.from_file(str(file))
    truncation = tokenizer.truncation or {}
    tokenizer.no_padding()
    return tokenizer, truncation, json.loads(file.read_text())["padding"] or {}


def echo(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The response of an echo model, as lists."""
    return {ECHOED[name]: array.tolist() for name, array in feeds.items()}


def echo_one(feeds: Mapping[str, Any]) -> dict[str, Any]:
    """The response of an echo model to one item."""
    return {name: rows[0] for name, rows in echo(feeds).items()}


def _both(text: str, name: str) -> str:
    return f"'{text}' and '{name}' cannot be sent together: {name} is made from the text"


# Bodies and their error messages, for a model with all of INPUTS, [batch, sequence].
REJECTED: list[tuple[dict[str, Any], str]] = [
    ({}, "Missing required input: 'text'"),
    ({"text_pair": "a"}, "Missing required input: 'text'"),
    ({"text_pair": ["a", "b"]}, "Missing required input: 'text'"),
    ({"input_ids": [101]}, "Missing required input: 'attention_mask'"),
    ({"attention_mask": [1]}, "Missing required input: 'input_ids'"),
    ({"token_type_ids": [0], "input_ids": [1]}, "Missing required input: 'attention_mask'"),
    ({"text": "a", "input_ids": [101]}, _both("text", "input_ids")),
    ({"input_ids": [101], "text": "a"}, _both("text", "input_ids")),
    ({"text": "a", "attention_mask": [1]}, _both("text", "attention_mask")),
    ({"token_type_ids": [[0]], "text": ["a"]}, _both("text", "token_type_ids")),
    ({"txt": "a"}, "Unknown input: 'txt'; did you mean 'text'?"),
    ({"text": "a", "text_par": "b"}, "Unknown input: 'text_par'; did you mean 'text_pair'?"),
    ({"inputids": [1]}, "Unknown input: 'inputids'; did you mean 'input_ids'?"),
    (
        {"text": ["a", "b"], "text_pair": ["c", "d", "e"]},
        "Inputs disagree on 'batch': 'text' has 2, 'text_pair' has 3"
        "; if these axes differ, name them in gpux.yml",
    ),
    (
        {"text_pair": ["c"], "text": ["a", "b"]},
        "Inputs disagree on 'batch': 'text' has 2, 'text_pair' has 1"
        "; if these axes differ, name them in gpux.yml",
    ),
    (
        {"text": ["a", "b"], "text_pair": "c"},
        "Inputs disagree on 'batch': 'text' has 2, 'text_pair' has 1"
        "; if these axes differ, name them in gpux.yml",
    ),
    *(
        ({"text": value}, "Invalid input type for 'text': expected string")
        for value in (5, 0.5, True, {}, {"a": "b"})
    ),
    ({"text": None}, "Invalid input type for 'text': expected string, got null"),
    ({"text": "a", "text_pair": 5}, "Invalid input type for 'text_pair': expected string"),
    (
        {"text": "a", "text_pair": None},
        "Invalid input type for 'text_pair': expected string, got null",
    ),
    *(
        ({"text": ["a", value]}, f"Invalid value for 'text' at [1]: expected string, got {got}")
        for value, got in (
            (5, "number"),
            (None, "null"),
            (False, "boolean"),
            ({}, "object"),
            (["b"], "array"),
        )
    ),
    (
        {"text": ["a", "b"], "text_pair": ["c", 1]},
        "Invalid value for 'text_pair' at [1]: expected string, got number",
    ),
    ({"text": []}, "Invalid shape for 'text': the batch is empty"),
    ({"text": "a", "text_pair": []}, "Invalid shape for 'text_pair': the batch is empty"),
    ({"text": [["a"]]}, "Invalid shape for 'text': expected [batch], got more than 1 axis"),
    (
        {"text": [["a", "b"], "c"]},
        "Invalid shape for 'text': expected [batch], got more than 1 axis",
    ),
    # The first error in the body's order is reported.
    ({"text": 5, "input_ids": "no"}, "Invalid input type for 'text': expected string"),
    ({"text_pair": 5}, "Invalid input type for 'text_pair': expected string"),
]
