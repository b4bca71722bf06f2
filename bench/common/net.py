"""Builds small ONNX models, the same on every machine."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Dims = Sequence[int | str]

INT64 = TensorProto.INT64


class Net:
    """A graph in the making. Its weights come from one seeded generator."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self._random = numpy.random.default_rng(0)

    def constant(self, values: object, dtype: str = "float32") -> str:
        """Adds a constant; returns its name, as do all methods that add something."""
        name = f"c{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(numpy.asarray(values, dtype), name))
        return name

    def normal(self, shape: Sequence[int], deviation: float = 1.0) -> str:
        """Adds a constant of normal deviates."""
        return self.constant(self._random.standard_normal(shape, numpy.float32) * deviation)

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Adds a node; returns its output's name, `name` if given."""
        return self.add_all(operator, inputs, [name or f"t{len(self._nodes)}"], **attributes)[0]

    def add_all(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> Sequence[str]:
        """Adds a node with several outputs."""
        name = f"/{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, outputs, name, **attributes))
        return outputs

    def dense(self, x: str, inputs: int, outputs: int, name: str = "") -> str:
        """Adds a dense layer over the last axis, as exporters write it."""
        product = self.add("MatMul", x, self.normal((inputs, outputs), inputs**-0.5))
        return self.add("Add", product, self.normal((outputs,), 0.02), name=name)

    def model(
        self,
        inputs: Mapping[str, Dims],
        outputs: Mapping[str, Dims | ValueInfoProto],
        input_type: int = TensorProto.FLOAT,
    ) -> ModelProto:
        """The finished model.

        Args:
            inputs: shapes by name.
            outputs: shapes of float32 tensors by name, or whole declarations.
            input_type: of all inputs.
        """
        declare, floats = helper.make_tensor_value_info, TensorProto.FLOAT
        given = [declare(name, input_type, dims) for name, dims in inputs.items()]
        made = [
            each if isinstance(each, ValueInfoProto) else declare(name, floats, each)
            for name, each in outputs.items()
        ]
        graph = helper.make_graph(self._nodes, "bench", given, made, self._weights)
        # Versions supported by every ONNX Runtime since 1.20.
        domains = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        return helper.make_model(graph, opset_imports=domains, ir_version=8)
