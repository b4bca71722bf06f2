"""Runs ort_slots.cpp: python tests/core/ort_slots.py EXECUTABLE [LIBRARY]

The library is the installed one's, unless one is named. Also checks that no slot is left untested.
"""

import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

ROOT = Path(__file__).parents[2]
CORE = ROOT / "src" / "_fastpath"
_OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]


def _tensor(name: str, code: int, *dims: int | str) -> Any:
    return helper.make_tensor_value_info(name, code, dims)


def _sequence(name: str, element: Any) -> Any:
    return helper.make_value_info(name, helper.make_sequence_type_proto(element))


def everything() -> ModelProto:
    """Tensors, strings, sequences, maps, an overridable initializer and all metadata."""
    floats = helper.make_tensor_type_proto(TensorProto.FLOAT, ["rows", 2])
    scalar = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "k"], ["y"]),
            helper.make_node("Identity", ["s"], ["t"]),
            helper.make_node("SequenceConstruct", ["x", "x"], ["pair"]),
            helper.make_node(
                *("ZipMap", ["x"], ["maps"], "the node"),
                domain="ai.onnx.ml",
                classlabels_strings=["no", "yes"],
            ),
        ],
        "the graph",
        [
            _tensor("x", TensorProto.FLOAT, "rows", 2),
            _tensor("s", TensorProto.STRING, "texts"),
            _tensor("k", TensorProto.FLOAT, 2),
        ],
        [
            _tensor("y", TensorProto.FLOAT, "rows", 2),
            _tensor("t", TensorProto.STRING, "texts"),
            _sequence("pair", floats),
            _sequence("maps", helper.make_map_type_proto(TensorProto.STRING, scalar)),
        ],
        [helper.make_tensor("k", TensorProto.FLOAT, [2], [10, 20])],
        doc_string="the graph's description",
    )
    model = helper.make_model(
        graph,
        ir_version=8,
        opset_imports=_OPSETS,
        producer_name="the producer",
        domain="the domain",
        doc_string="the description",
        model_version=7,
    )
    helper.set_model_props(model, {"a": "1", "b": "2"})
    return model


def optional() -> ModelProto:
    """An optional input."""
    floats = helper.make_tensor_type_proto(TensorProto.FLOAT, ["rows"])
    graph = helper.make_graph(
        [helper.make_node("OptionalHasElement", ["x"], ["y"])],
        "g",
        [helper.make_value_info("x", helper.make_optional_type_proto(floats))],
        [_tensor("y", TensorProto.BOOL)],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=_OPSETS)


def multiples() -> ModelProto:
    """x twice and three times: tensors of numbers only, which can be bound."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["y"]),
            helper.make_node("Add", ["x", "y"], ["z"]),
        ],
        "g",
        [_tensor("x", TensorProto.FLOAT, "rows", 2)],
        [_tensor(name, TensorProto.FLOAT, "rows", 2) for name in "yz"],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=_OPSETS)


def untested() -> set[str]:
    """The slots that neither the core's classes nor the test use."""
    declared = set(re.findall(r"(\w+)\{\d+\}", (CORE / "ort.hpp").read_text()))
    sources = [CORE / f"{name}.cpp" for name in ("ort", "session", "binding")]
    sources += [CORE / "ort.hpp", Path(__file__).with_suffix(".cpp")]
    used = {name for source in sources for name in re.findall(r"slots::(\w+)", source.read_text())}
    return declared - used


def main(executable: str, library: str | None = None) -> int:
    if library is None:
        spec = importlib.util.find_spec("onnxruntime")
        assert spec is not None
        assert spec.origin is not None
        (found,) = (Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*")
        library = str(found)
    if untested():
        print("no test of", *sorted(untested()))
        return 1
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for build in (everything, optional, multiples):
            files.append(Path(folder) / f"{build.__name__}.onnx")
            onnx.save(build(), files[-1])
        done = subprocess.run(
            [executable, library, *files],
            env={"ORT_DISABLE_TELEMETRY": "1"},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    # ONNX Runtime writes nothing of its own although many of the calls fail, but for older versions
    # why they have no CUDA provider (and a line that ends its colour).
    written = [line for line in done.stderr.splitlines() if "provider_bridge_ort" not in line]
    written = [line for line in written if line != "\x1b[m"]
    print(*written, sep="\n", end="")
    return done.returncode or bool(written)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
