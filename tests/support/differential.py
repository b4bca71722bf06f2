"""Compares gpux with ONNX Runtime's Python module, request by request."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import gpux
from gpux.errors import InferenceError
from gpux.model import Model
from tests.support.reference import (
    Reference,
    as_served,
    from_python,
    reason_of,
    response_text,
    same,
    shaped_like,
)
from tests.support.reference_worker import Array

# The oracle, which writes numbers as fractions, takes a second for 20,000 of them.
_MOST_WRITTEN = 2000


class Compared:
    """A model loaded by gpux and by the reference.

    Args:
        reference: running.
        path: the model, or its folder.
    """

    def __init__(self, reference: Reference, path: Path) -> None:
        self.model: Model = gpux.load(path, "cpu")
        self.file = self.model.file
        self._reference = reference
        declared = reference.load(self.file)
        assert declared.error is None
        self.inputs = declared.inputs

    def check(self, feeds: Mapping[str, Any]) -> bool:
        """Asserts that a request has the same outcome: bits, names, or the reason of its failure.

        Args:
            feeds: arrays with all axes, by input.

        Returns:
            Whether it succeeded.
        """
        expected = self._reference.run(self.file, feeds)
        body = json.dumps({name: to_json(array) for name, array in feeds.items()}).encode()
        if expected.error is not None:
            message = f"Inference failed: {reason_of(expected.error)}"
            for run in (lambda: self.model.predict(feeds), lambda: self.model.respond(body)):
                with pytest.raises(InferenceError) as caught:
                    run()
                assert str(caught.value) == message
            return False
        outputs = self.model.predict(feeds)
        names = [output.name for output in expected.outputs]
        assert list(outputs) == names
        served = {name: from_python(value) for name, value in outputs.items()}
        values = dict(zip(names, expected.values, strict=True))
        for name in names:
            assert same(served[name], as_served(values[name])), name
        if sum(_size(value) for value in values.values()) <= _MOST_WRITTEN:
            shaped = {name: shaped_like(values[name], served[name]) for name in names}
            assert self.model.respond(body).decode() == response_text(shaped)
        return True


def to_json(array: Any) -> Any:
    """An array as nested lists that JSON can hold."""
    return (array if array.dtype.kind != "V" else array.astype("float64")).tolist()


def _size(value: object) -> int:
    return math.prod(value.shape) if isinstance(value, Array) else 100
