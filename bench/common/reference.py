"""ONNX Runtime alone, what results and times are compared with; in a process of its own."""

import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy

from common.answers import Array
from common.reference_worker import read_message, write_message
from common.report import CannotMeasureError

_WORKER = Path(__file__).with_name("reference_worker.py")


class Reference(AbstractContextManager["Reference"]):
    """A model in a process that has only ONNX Runtime's Python module. For one thread.

    Args:
        file: the model.
        provider: `cpu` or `cuda`.
        threads: of one run.
        graphs: whether bound runs are captured as CUDA graphs.

    Raises:
        CannotMeasureError: ONNX Runtime is missing, or cannot load the model.
    """

    def __init__(
        self, file: Path, provider: str = "cpu", *, threads: int = 1, graphs: bool = False
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        loading = {"file": str(file), "provider": provider, "threads": threads, "graphs": graphs}
        try:
            self._types: dict[str, str] = self._call("load", loading)[0]["types"]
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Runs the model on arrays or nested lists by name; returns the outputs."""
        return self._call("run", {}, self._arrays(inputs))[1]

    def repeat(self, seconds: float) -> list[float]:
        """Repeats the last run() for about this long, on one core; returns the seconds of each."""
        taken: list[float] = self._call("repeat", {"seconds": seconds})[0]["seconds"]
        return taken

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Array]) -> int:
        """Copies inputs to the device and binds them once, with memory for outputs like these.

        Returns:
            The number for run_bound().
        """
        arrays = self._arrays(inputs) | {f"/{name}": array for name, array in outputs.items()}
        values = {"inputs": list(inputs), "outputs": list(outputs)}
        number: int = self._call("bind", values, arrays)[0]["number"]
        return number

    def run_bound(self, number: int) -> tuple[float, dict[str, Array]]:
        """Runs what was bound; returns the seconds of the run alone, and copies of the outputs."""
        values, outputs = self._call("run_bound", {"number": number})
        return values["seconds"], outputs

    def _arrays(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        return {name: numpy.asarray(value, self._types[name]) for name, value in inputs.items()}

    def _call(
        self, command: str, values: Mapping[str, Any], arrays: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            write_message(self._process.stdin, {"command": command, **values}, arrays)
            reply = read_message(self._process.stdout)
        except BrokenPipeError:
            reply = None
        if reply is None:
            raise CannotMeasureError(f"ONNX Runtime's process ended with {self._process.wait()}")
        if "error" in reply[0]:
            raise CannotMeasureError(f"ONNX Runtime alone: {reply[0]['error']}")
        return reply


def run_alone(file: Path, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """Runs a model once on the CPU."""
    with Reference(file) as reference:
        return reference.run(inputs)
