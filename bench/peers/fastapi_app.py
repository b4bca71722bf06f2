"""A model behind FastAPI, as a user would write it: `MODEL=FILE uvicorn fastapi_app:app`."""

import os
from typing import Any

import numpy
import onnxruntime
from fastapi import FastAPI

TYPES = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64}

session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
inputs = {node.name: TYPES[node.type] for node in session.get_inputs()}
outputs = [node.name for node in session.get_outputs()]


def predict(body: dict[str, Any]) -> dict[str, Any]:
    feeds = {name: numpy.asarray(body[name], dtype) for name, dtype in inputs.items()}
    answers = session.run(outputs, feeds)
    return {name: answer.tolist() for name, answer in zip(outputs, answers, strict=True)}


app = FastAPI()
app.add_api_route("/predict", predict, methods=["POST"])
