"""Train the sentiment example: one string in, the probabilities of [negative, positive] out.

scikit-learn is trained on the scored words of the VADER lexicon. The ONNX graph is then built node
by node, text handling included, so that a server needs only ONNX Runtime to accept raw text.
"""

from __future__ import annotations

import argparse
import re
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper
from onnx.helper import make_node
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline

MIN_GRAM, MAX_GRAM = 3, 5
# Bounds on memory: the Tokenizer pads each word to the longest one, and each text to the one with
# the most words. A longer word is split; words beyond MAX_WORDS are ignored.
WORD, MAX_WORDS = "[a-z]{1,24}", 1000
# The Tokenizer's marks around each word, if its attribute `mark` is set.
WORD_START, WORD_END = "\x02", "\x03"

# (text, index of the class that must score above the bound)
MUST_HOLD = [("I love this product!", 1), ("This is terrible", 0)]
BOUND = 0.8
LARGEST_GAP = 1e-5
SHOWN = ["What a great day", "The food was disgusting and cold", "I am not happy", "", "你好 🎉"]


def load_lexicon() -> tuple[list[str], NDArray[np.float64]]:
    """Return the lexicon's plain words and their mean scores, -4 (negative) to 4 (positive).

    Without emoticons, numbers and phrases: the graph sees only runs of the letters a to z.
    """
    text = (files("vaderSentiment") / "vader_lexicon.txt").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    scores = {word: float(score) for word, score, *_ in rows if re.fullmatch(WORD, word)}
    words = sorted(scores)
    return words, np.array([scores[word] for word in words])


def words_only(text: str) -> str:
    """Mirror the graph's StringNormalizer, first Tokenizer and Slice."""
    return " ".join(re.findall(WORD, text.lower())[:MAX_WORDS])


def fit(words: list[str], scores: NDArray[np.float64]) -> Pipeline:
    """Fit n-grams and a linear model, weighting words by the magnitude of their scores.

    The lexicon has no neutral words, and a model that never saw "this" or "were" classifies them
    by chance. So each stop word without a score is added once to each class. Without an intercept,
    text with no known n-gram scores exactly [0.5, 0.5]. The small tolerance takes the solver to the
    unique optimum, so that other machines find the same weights.
    """
    neutral = sorted(ENGLISH_STOP_WORDS.difference(words))
    classes = np.concatenate([scores > 0, [False] * len(neutral), [True] * len(neutral)])
    weights = np.concatenate([np.abs(scores), np.ones(2 * len(neutral))])
    ngrams = TfidfVectorizer(
        analyzer="char_wb",
        preprocessor=words_only,
        ngram_range=(MIN_GRAM, MAX_GRAM),
        min_df=2,
    )
    linear = LogisticRegression(
        C=50.0, class_weight="balanced", fit_intercept=False, tol=1e-8, max_iter=2000
    )
    model = Pipeline([("ngrams", ngrams), ("linear", linear)])
    return model.fit([*words, *neutral, *neutral], classes, linear__sample_weight=weights)


def held_out_accuracy(words: list[str], scores: NDArray[np.float64]) -> float:
    """Return the accuracy on held-out words, by five-fold cross-validation."""
    texts, classes = np.array(words), scores > 0
    right = 0
    for seen, unseen in StratifiedKFold(5, shuffle=True, random_state=0).split(texts, classes):
        model = fit(texts[seen].tolist(), scores[seen])
        right += int((model.predict(texts[unseen]) == classes[unseen]).sum())
    return right / len(words)


def vocabulary(vectorizer: TfidfVectorizer, columns: list[int]) -> dict[str, Any]:
    """Return TfIdfVectorizer's attributes for these columns, sorted by ascending n-gram length.

    Each n-gram is spelled out in characters; where scikit-learn has a space on either side of a
    word, the Tokenizer has its two marks. N-gram i maps to output i: for any other order, releases
    of ONNX Runtime disagree about which weight belongs to which n-gram.
    """
    ngrams = vectorizer.get_feature_names_out()[columns].tolist()
    pool: list[str] = []
    for ngram in ngrams:
        first = WORD_START if ngram[0] == " " else ngram[0]
        last = WORD_END if ngram[-1] == " " else ngram[-1]
        pool += [first, *ngram[1:-1], last]
    return {
        "mode": "TFIDF",
        "min_gram_length": MIN_GRAM,
        "max_gram_length": MAX_GRAM,
        "max_skip_count": 0,
        "pool_strings": pool,
        # offsets in the pool at which the 1-grams, 2-grams, ... begin
        "ngram_counts": [sum(len(g) for g in ngrams if len(g) <= n) for n in range(MAX_GRAM)],
        "ngram_indexes": list(range(len(ngrams))),
        "weights": vectorizer.idf_[columns].tolist(),
    }


def to_onnx(model: Pipeline) -> ModelProto:
    """Convert the fitted pipeline to an ONNX model.

    By hand, because skl2onnx has no char_wb. Two Tokenizers (words, then characters with a mark on
    either side of a word) yield the same n-grams, ignoring punctuation, line breaks and padding.
    """
    names = model["ngrams"].get_feature_names_out()
    columns = sorted(range(len(names)), key=lambda column: len(names[column]))
    # Softmax over [-z/2, z/2] is [1 - sigmoid(z), sigmoid(z)].
    half = model["linear"].coef_[0, columns] / 2

    def tokenizer(source: str, target: str, pattern: str, mark: int) -> NodeProto:
        how: dict[str, Any] = {"tokenexp": pattern, "mark": mark, "mincharnum": 1, "pad_value": ""}
        return make_node("Tokenizer", [source], [target], domain="com.microsoft", **how)

    nodes = [
        make_node("Reshape", ["text", "one_axis"], ["texts"]),
        # Slim systems have C.UTF-8, but often not the default locale, en_US.UTF-8.
        make_node(
            "StringNormalizer", ["texts"], ["lowered"], case_change_action="LOWER", locale="C.UTF-8"
        ),
        tokenizer("lowered", "words", WORD, mark=0),
        make_node("Slice", ["words", "first_word", "end", "words_axis"], ["first_words"]),
        tokenizer("first_words", "characters", "[a-z]", mark=1),
        make_node("Flatten", ["characters"], ["row"], axis=1),
        make_node("TfIdfVectorizer", ["row"], ["tfidf"], **vocabulary(model["ngrams"], columns)),
        make_node("LpNormalization", ["tfidf"], ["features"], axis=1, p=2),
        make_node("MatMul", ["features", "weights"], ["logits"]),
        make_node("Softmax", ["logits"], ["sentiment"], axis=1),
    ]
    indexes = {"one_axis": [-1], "first_word": [0], "end": [MAX_WORDS], "words_axis": [1]}
    arrays = {name: np.array(values, np.int64) for name, values in indexes.items()}
    arrays |= {"weights": np.stack([-half, half], axis=1).astype(np.float32)}
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    inputs = [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch", 1])]
    outputs = [helper.make_tensor_value_info("sentiment", TensorProto.FLOAT, ["batch", 2])]
    # Opset 18 (2022): older runtimes load the model too.
    exported = helper.make_model(
        helper.make_graph(nodes, "sentiment", inputs, outputs, constants),
        producer_name="gpux-examples",
        model_version=1,
        doc_string="Sentiment of a short English text: probabilities of [negative, positive].",
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)],
        ir_version=8,
    )
    helper.set_model_props(exported, {"labels": "negative,positive", "lexicon": "VADER (MIT)"})
    checker.check_model(exported)
    return exported


def score(session: onnxruntime.InferenceSession, texts: list[str]) -> NDArray[np.float32]:
    """Return float32 probabilities [texts, 2]; one run per text bounds the memory for dense rows.

    ONNX Runtime takes strings as an object array.
    """
    inputs = [{"text": np.array([[text]], dtype=object)} for text in texts]
    return np.concatenate([session.run(["sentiment"], values)[0] for values in inputs])


def main() -> None:
    """Train, write and check the model; exit with 1 if it does not match the README."""
    parser = argparse.ArgumentParser(description="Train the sentiment example.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("model.onnx"))
    output: Path = parser.parse_args().output
    words, scores = load_lexicon()
    print(f"accuracy on held-out words: {held_out_accuracy(words, scores):.3f} of {len(words)}")
    model = fit(words, scores)
    output.write_bytes(to_onnx(model).SerializeToString(deterministic=True))
    print(f"{output.name}: {output.stat().st_size:,} bytes")
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    texts = [text for text, _ in MUST_HOLD] + SHOWN
    gap = np.abs(score(session, texts + words) - model.predict_proba(texts + words)).max()
    print(f"largest difference between ONNX and scikit-learn: {gap:.1e}")
    for text, (negative, positive) in zip(texts, score(session, texts), strict=True):
        print(f"  negative {negative:.3f}  positive {positive:.3f}  {text!a}")

    missed = [text for text, side in MUST_HOLD if score(session, [text])[0, side] <= BOUND]
    if missed or gap > LARGEST_GAP:
        sys.exit(f"not what the README says: not sure enough of {missed}, or far from scikit-learn")


if __name__ == "__main__":
    main()
