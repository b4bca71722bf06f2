"""Train the sentiment example: one string in, the probabilities of [negative, positive] out.

scikit-learn learns from the scored words of the VADER lexicon; the ONNX graph is then written node
by node, text handling included, so that a server needs nothing but ONNX Runtime to answer raw text.
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
# Bounds on memory: the Tokenizer pads each word to the longest one, each text to the one of most
# words. A longer word counts as two, the words after the last one not at all.
WORD, MAX_WORDS = "[a-z]{1,24}", 1000
# What the Tokenizer puts around each word when its attribute `mark` is set.
WORD_START, WORD_END = "\x02", "\x03"

# (text, index of the class that must score above the bound)
MUST_HOLD = [("I love this product!", 1), ("This is terrible", 0)]
BOUND = 0.8
LARGEST_GAP = 1e-5
SHOWN = ["What a great day", "The food was disgusting and cold", "I am not happy", "", "你好 🎉"]


def load_lexicon() -> tuple[list[str], NDArray[np.float64]]:
    """Return the lexicon's plain words and their mean scores, -4 (negative) to 4 (positive).

    Emoticons, numbers and phrases are left out: the graph sees runs of the letters a to z only.
    """
    text = (files("vaderSentiment") / "vader_lexicon.txt").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    scores = {word: float(score) for word, score, *_ in rows if re.fullmatch(WORD, word)}
    words = sorted(scores)
    return words, np.array([scores[word] for word in words])


def words_only(text: str) -> str:
    """Do what the graph's StringNormalizer, first Tokenizer and Slice do."""
    return " ".join(re.findall(WORD, text.lower())[:MAX_WORDS])


def fit(words: list[str], scores: NDArray[np.float64]) -> Pipeline:
    """Fit n-grams and a linear model; strongly scored words weigh more.

    The lexicon has no neutral words, and a model that never saw "this" or "were" gives them a side
    by chance. So each stop word that has no score is added once to either class. Without an
    intercept, text with no known n-gram scores exactly [0.5, 0.5]; the small tolerance takes the
    solver to the one optimum, so that other machines find the same weights.
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
    """Return the share of words whose side is told right by models that did not see them."""
    texts, classes = np.array(words), scores > 0
    right = 0
    for seen, unseen in StratifiedKFold(5, shuffle=True, random_state=0).split(texts, classes):
        model = fit(texts[seen].tolist(), scores[seen])
        right += int((model.predict(texts[unseen]) == classes[unseen]).sum())
    return right / len(words)


def vocabulary(vectorizer: TfidfVectorizer, columns: list[int]) -> dict[str, Any]:
    """Return TfIdfVectorizer's attributes for these columns, whose n-grams must not get shorter.

    Each n-gram is spelled out in characters; scikit-learn has a space on either side of a word
    where the Tokenizer has its two marks. The n-gram at place i counts for output i: for any other
    order, releases of ONNX Runtime disagree about which weight belongs to which n-gram.
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
        # where in the pool the 1-grams, 2-grams, ... begin
        "ngram_counts": [sum(len(g) for g in ngrams if len(g) <= n) for n in range(MAX_GRAM)],
        "ngram_indexes": list(range(len(ngrams))),
        "weights": vectorizer.idf_[columns].tolist(),
    }


def to_onnx(model: Pipeline) -> ModelProto:
    """Write the fitted pipeline as an ONNX model.

    By hand because skl2onnx has no char_wb. Two Tokenizers (words, then characters with a mark on
    either side of a word) give the same n-grams, blind to punctuation, line breaks and padding.
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
        # C.UTF-8 is there on slim systems too; the default locale, en_US.UTF-8, often is not.
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
    # Opset 18 dates from 2022: older runtimes load the model too.
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
    """Return [texts, 2] probabilities, one run a text: thousands of dense rows are a lot of memory.

    Strings reach ONNX Runtime as an object array.
    """
    inputs = [{"text": np.array([[text]], dtype=object)} for text in texts]
    return np.concatenate([session.run(["sentiment"], values)[0] for values in inputs])


def main() -> None:
    """Train, write, check; the exit status is 1 if the model does not do what the README says."""
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
