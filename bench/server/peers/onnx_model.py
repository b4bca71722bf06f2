"""Runs the model for every peer written in Python, with the same code for all of them."""

from typing import Any

import numpy
import onnxruntime

TYPES = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}


class OnnxModel:
    """A model on the CPU, one thread per run."""

    def __init__(self, file: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {node.name: TYPES[node.type] for node in self.session.get_inputs()}
        self.outputs = [node.name for node in self.session.get_outputs()]

    def predict(self, values: dict[str, Any]) -> dict[str, Any]:
        """Nested lists by input → nested lists by output."""
        feeds = {name: numpy.asarray(values[name], dtype) for name, dtype in self.inputs.items()}
        return {name: answer.tolist() for name, answer in self.run(feeds).items()}

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Arrays by input → arrays by output."""
        answers = self.session.run(self.outputs, feeds)
        return dict(zip(self.outputs, answers, strict=True))
