"""ONNX Runtime's Python module in a process of its own, for reference.py.

A process of gpux never imports that module: two copies of the library take the one CUDA bridge from
each other. Messages on stdin and stdout: a line of JSON, and the bytes of the arrays that it lists.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

import numpy

Array = numpy.ndarray[Any, Any]

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_TYPES = {"float": "float32", "double": "float64"}


def write_message(
    stream: IO[bytes], values: Mapping[str, Any], arrays: Mapping[str, Array] | None = None
) -> None:
    """Writes JSON values and arrays by name."""
    contiguous = {name: numpy.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    described = [(name, array.dtype.name, array.shape) for name, array in contiguous.items()]
    stream.write(json.dumps({**values, "arrays": described}).encode() + b"\n")
    for array in contiguous.values():
        stream.write(array.tobytes())
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """Reads a message: values and arrays; None at the end of the stream."""
    line = stream.readline()
    if not line:
        return None
    values: dict[str, Any] = json.loads(line)
    arrays = {}
    for name, dtype, shape in values.pop("arrays"):
        empty = numpy.empty(shape, dtype)
        arrays[name] = numpy.frombuffer(stream.read(empty.nbytes), dtype).reshape(shape)
    return values, arrays


class _Model:
    """A session, and the requests that are bound to it."""

    def __init__(self, file: str, provider: str, threads: int, graphs: bool) -> None:
        import onnxruntime

        self._runtime: Any = onnxruntime
        self._device, self._graphs = provider, graphs
        providers: list[Any] = [_CPU]
        if provider == "cuda":
            if hasattr(onnxruntime, "preload_dlls"):
                onnxruntime.preload_dlls()  # cuBLAS and cuDNN, if installed by pip
            cuda = {
                "device_id": "0",
                "enable_cuda_graph": str(int(graphs)),
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "HEURISTIC",
                "use_tf32": "0",
            }
            providers.insert(0, (_CUDA, cuda))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        for pool in ("intra", "inter"):
            options.add_session_config_entry(f"session.{pool}_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(file, options, providers=providers)
        self._session.disable_fallback()
        if provider == "cuda" and self._session.get_providers()[0] != _CUDA:
            raise RuntimeError("ONNX Runtime could not use CUDA")
        self._outputs = [node.name for node in self._session.get_outputs()]
        self._feeds: dict[str, Array] = {}
        self._bound: list[tuple[Any, Any]] = []

    def types(self) -> dict[str, str]:
        """NumPy's name of each input's element type."""
        found = {}
        for node in self._session.get_inputs():
            name = node.type.removeprefix("tensor(").removesuffix(")")
            found[node.name] = _TYPES.get(name, name)
        return found

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        self._feeds = feeds
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))

    def repeat(self, seconds: float) -> list[float]:
        """Repeats the last run on one core; returns the seconds of each."""
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(allowed)})
        taken: list[float] = []
        end = time.perf_counter() + seconds
        while not taken or time.perf_counter() < end:
            start = time.perf_counter()
            self._session.run(self._outputs, self._feeds)
            taken.append(time.perf_counter() - start)
        os.sched_setaffinity(0, allowed)
        return taken

    def bind(self, inputs: dict[str, Array], outputs: dict[str, Array]) -> int:
        """Binds inputs, and memory for outputs like these, on the device; returns their number."""
        value_of = self._runtime.OrtValue
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, value_of.ortvalue_from_numpy(array, self._device, 0))
        for name, array in outputs.items():
            memory = value_of.ortvalue_from_shape_and_type(
                array.shape, array.dtype, self._device, 0
            )
            binding.bind_ortvalue_output(name, memory)
        options = self._runtime.RunOptions()
        graph = len(self._bound) if self._graphs else -1
        options.add_run_config_entry("gpu_graph_id", str(graph))
        self._bound.append((binding, options))
        return len(self._bound) - 1

    def run_bound(self, number: int) -> tuple[float, dict[str, Array]]:
        """Runs bound inputs; returns the seconds until the device has finished, and the outputs."""
        binding, options = self._bound[number]
        start = time.perf_counter()
        self._session.run_with_iobinding(binding, options)
        seconds = time.perf_counter() - start
        return seconds, dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))


def main() -> None:
    """Follows commands until stdin ends."""
    stdin, stdout = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes to stderr
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    model: Any = None
    while message := read_message(stdin):
        values, arrays = message
        command = values.pop("command")
        outputs: dict[str, Array] = {}
        reply: dict[str, Any] = {}
        try:
            if command == "load":
                model = _Model(**values)
                reply = {"types": model.types()}
            elif command == "run":
                outputs = model.run(arrays)
            elif command == "repeat":
                reply = {"seconds": model.repeat(values["seconds"])}
            elif command == "bind":
                inputs = {name: arrays[name] for name in values["inputs"]}
                like = {name: arrays[f"/{name}"] for name in values["outputs"]}
                reply = {"number": model.bind(inputs, like)}
            else:
                seconds, outputs = model.run_bound(values["number"])
                reply = {"seconds": seconds}
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            reply, outputs = {"error": f"{type(error).__name__}: {error}"}, {}
        write_message(stdout, reply, outputs)


if __name__ == "__main__":
    main()
