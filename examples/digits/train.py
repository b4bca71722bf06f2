"""Train the digits example: 8x8 grey images in, the digit and ten probabilities out.

scikit-learn trains a small neural network. The ONNX graph is then built node by node, so that it
accepts images with their two axes and has a named batch axis.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper
from onnx.helper import make_node, make_tensor_value_info
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

# Pixels range from 0 to 16, a power of two: scaling the weights instead is exact.
PIXEL_MAX = 16.0
LOWEST_ACCURACY = 0.97
LARGEST_GAP = 1e-5
SHOWN = 5


def fit(images: NDArray[np.float64], labels: NDArray[np.int64]) -> MLPClassifier:
    """Fit a network with one hidden layer to float64 images [n, 8, 8] and int64 labels [n]."""
    network = MLPClassifier((128,), alpha=0.1, max_iter=500, random_state=0)
    return network.fit(images.reshape(-1, 64) / PIXEL_MAX, labels)


def to_onnx(network: MLPClassifier) -> ModelProto:
    """Convert the fitted network to an ONNX model."""
    hidden, final = network.coefs_
    values = {
        "hidden_weights": hidden / PIXEL_MAX,
        "hidden_bias": network.intercepts_[0],
        "final_weights": final,
        "final_bias": network.intercepts_[1],
    }
    nodes = [
        make_node("Flatten", ["image"], ["pixels"], axis=1),
        make_node("Gemm", ["pixels", "hidden_weights", "hidden_bias"], ["hidden_sums"]),
        make_node("Relu", ["hidden_sums"], ["hidden"]),
        make_node("Gemm", ["hidden", "final_weights", "final_bias"], ["logits"]),
        make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8, 8])],
        [
            make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
        ],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in values.items()],
    )
    # Opset 18 (2022): older runtimes load the model too.
    exported = helper.make_model(
        graph,
        producer_name="gpux-examples",
        model_version=1,
        doc_string="Handwritten digit of an 8x8 grey image, pixels 0 (paper) to 16 (ink).",
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    checker.check_model(exported)
    return exported


def main() -> None:
    """Train, write and check the model; exit with 1 if it does not match the README."""
    parser = argparse.ArgumentParser(description="Train the digits example.")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("model.onnx"))
    output: Path = parser.parse_args().output
    digits = load_digits()
    seen, images, seen_labels, labels = train_test_split(
        digits.images, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    network = fit(seen, seen_labels)
    output.write_bytes(to_onnx(network).SerializeToString(deterministic=True))
    print(f"{output.name}: {output.stat().st_size:,} bytes")

    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    answers, probabilities = session.run(None, {"image": images.astype(np.float32)})
    accuracy = float((answers == labels).mean())
    expected = network.predict_proba(images.reshape(-1, 64) / PIXEL_MAX)
    gap = float(np.abs(probabilities - expected).max())
    print(f"accuracy on held-out images: {accuracy:.3f} of {len(labels)}")
    print(f"largest difference between ONNX and scikit-learn: {gap:.1e}")
    for label, answer, row in zip(labels[:SHOWN], answers, probabilities, strict=False):
        print(f"  a {label}: answer {answer}, probability {row[answer]:.3f}")

    if accuracy < LOWEST_ACCURACY or gap > LARGEST_GAP:
        sys.exit("not what the README says: too few right, or far from scikit-learn")


if __name__ == "__main__":
    main()
