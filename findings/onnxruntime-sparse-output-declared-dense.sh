#!/usr/bin/env bash
# ONNX Runtime 1.32.0: what a session says of an output that is a sparse initializer of the graph.
#
# The model declares the output as sparse_tensor(float), its value is a sparse_initializer, and ONNX's checker accepts it.
# One expects get_outputs() to say `sparse_tensor(float)`, as it does of an input or of a node's sparse output. It says
# `tensor(float)`, and run() returns a SparseTensor, which has no array interface: who trusts the declared type reads
# memory that is laid out otherwise. The kind of the value itself (GetValueType in the C API) is right.
#
# Output seen, onnxruntime 1.32.0, onnx 1.23.2, CPython 3.11:
#   in the model: sparse_tensor_type
#   get_outputs: tensor(float) [2, 3]
#   run: SparseTensor
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet "onnxruntime==1.32.0" "onnx==1.23.2"

seen=$(env/bin/python - <<'PYTHON'
import numpy
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper

output = helper.make_sparse_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
graph = helper.make_graph(
    [helper.make_node("Neg", ["x"], ["z"])],
    "sparse",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
    [output],
)
values = numpy_helper.from_array(numpy.array([1.5], numpy.float32), "y")
sparse = graph.sparse_initializer.add(dims=[2, 3], values=values)
sparse.indices.CopyFrom(numpy_helper.from_array(numpy.array([1]), "indices"))
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model)
print("in the model:", model.graph.output[0].type.WhichOneof("value"))
session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=["CPUExecutionProvider"]
)
(declared,) = session.get_outputs()
print("get_outputs:", declared.type, declared.shape)
(value,) = session.run(None, {"x": numpy.ones(1, numpy.float32)})
print("run:", type(value).__name__)
PYTHON
)
echo "$seen"
[[ $seen == *"sparse_tensor_type"*"get_outputs: tensor(float) [2, 3]"*"run: SparseTensor"* ]] || {
	echo "ONNX Runtime's behaviour has changed"
	exit 1
}
