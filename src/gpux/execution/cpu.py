"""Runs the tensors of one request through a session on the CPU, in the caller's thread.

gpu.py does the same on a GPU, with the same outputs and errors.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy

from gpux.errors import InferenceError
from gpux.execution.deadline import Deadline
from gpux.execution.session import Session, reason_of
from gpux.tensors.memory import Block, StringTensor, Tensor
from gpux.tensors.outputs import NonTensor, Output, tensor_of
from gpux.tensors.request import Request
from gpux.tensors.signature import BY_NAME, NonTensorSpec, Signature, TensorSpec, names

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Runner:
    """ONNX Runtime objects of one run; never shared by concurrent runs.

    Attributes:
        binding: the IOBinding; None for a model that cannot be bound.
        options: the RunOptions, through which the run can be terminated.
    """

    binding: Any
    options: Any


class CpuExecution:
    """Runs requests on the CPU. Thread-safe.

    Args:
        session: the model's session.
        signature: the model's inputs and the requested outputs.

    Attributes:
        runs_until_warm: runs of one set of shapes until one is as fast as all later ones.
    """

    runs_until_warm = 1

    def __init__(self, session: Session, signature: Signature) -> None:
        self._session = session
        self._signature = signature
        self._output_names = names(signature.outputs)
        # No lock: list.pop and list.append are atomic.
        self._idle_runners: list[Runner] = []

    def run(self, request: Request, deadline: Deadline | None = None) -> list[Output]:
        """Returns the outputs of a request, in the order of the signature.

        Args:
            request: must not be released while an output is in use: ONNX Runtime returns the
                input's own memory for a graph output that is also a graph input.
            deadline: when to terminate the run; None for no limit.

        Raises:
            DeadlineError: the run was terminated.
            InferenceError: ONNX Runtime failed; its message is the reason.

        Releases the GIL while ONNX Runtime works.
        """
        try:
            runner = self._idle_runners.pop()
        except IndexError:
            runner = self.create_runner()

        def work() -> list[Output]:
            if runner.binding is None:
                return run_arrays(self._session, self._signature, request, runner.options)
            self.bind(runner, request)
            self.execute(runner)
            return self.fetch(runner)

        outputs, was_stopped = run_watched(work, runner.options, deadline)
        # Terminated just too late: the outputs are valid, but the RunOptions must not be reused.
        if not was_stopped and not self._session.outputs_alias_binding:
            self._idle_runners.append(runner)
        return outputs

    def create_runner(self) -> Runner:
        """Creates the state that bind(), execute() and fetch() need, for one run at a time."""
        binding = self._session.create_binding() if self._signature.is_numeric else None
        return Runner(binding, self._session.create_options())

    def bind(self, runner: Runner, request: Request) -> None:
        """Binds a request's tensors by address: they must stay valid until fetch() returns."""
        binding = runner.binding
        for name, tensor in request.tensors.items():
            assert isinstance(tensor, Tensor)
            binding.bind_input(name, "cpu", 0, tensor.type.code, tensor.shape, tensor.address)
        # Rebound for each run: otherwise ONNX Runtime would overwrite the previous outputs.
        for name in self._output_names:
            binding.bind_output(name)

    def execute(self, runner: Runner) -> None:
        """Runs the bound tensors, without the GIL."""
        self._session.run(runner.binding, runner.options)

    def fetch(self, runner: Runner) -> list[Output]:
        """Returns the run's outputs, in the order of the signature, and clears the binding."""
        tensors = [tensor_of(value) for value in runner.binding.get_outputs()]
        # Keep no pointer into the request's blocks.
        runner.binding.clear_binding_inputs()
        if self._session.outputs_alias_binding:
            return [replace(tensor, owner=(tensor.owner, runner.binding)) for tensor in tensors]
        runner.binding.clear_binding_outputs()
        return list(tensors)

    def uncaptured(self) -> contextlib.AbstractContextManager[None]:
        """Context for trial runs, whose shapes are not counted; no effect on the CPU."""
        return contextlib.nullcontext()

    def describe(self) -> dict[str, Any]:
        """The /info fields of the execution: none on the CPU."""
        return {}


def run_watched(work: Callable[[], _T], options: Any, deadline: Deadline | None) -> tuple[_T, bool]:
    """Runs `work`, and terminates it at its deadline.

    Args:
        work: runs the model with these options.
        options: the RunOptions; must not be reused once the run was terminated.
        deadline: None for no limit.

    Returns:
        The result of `work`, and whether it was terminated just too late to fail.

    Raises:
        DeadlineError: the run was terminated.
        InferenceError: `work` failed; its message is the reason.
    """
    token = deadline.watchdog.begin(options, deadline.at_seconds) if deadline else 0
    try:
        result = work()
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        if deadline and deadline.watchdog.end(token):
            raise deadline.error() from error
        raise InferenceError(reason_of(error)) from error
    return result, deadline is not None and deadline.watchdog.end(token)


def run_arrays(
    session: Session, signature: Signature, request: Request, options: Any
) -> list[Output]:
    """Runs a model with strings, sequences or maps, which cannot be bound.

    Args:
        session: the model's session.
        signature: the model's inputs and the requested outputs.
        request: its tensors are in host memory.
        options: RunOptions of a synchronous run.
    """
    feeds = {name: _feed(session, tensor) for name, tensor in request.tensors.items()}
    values = session.run_arrays(names(signature.outputs), feeds, options)
    return [
        _from_runtime(spec, value) for spec, value in zip(signature.outputs, values, strict=True)
    ]


def _feed(session: Session, tensor: Tensor | StringTensor) -> Any:
    """A tensor as Session.run_arrays() accepts it; copied only if NumPy lacks the type."""
    if isinstance(tensor, StringTensor):
        # An array of objects: NumPy's own string types truncate at NUL, and ONNX Runtime reads past
        # their elements.
        array = numpy.empty(len(tensor.values), object)
        array[:] = tensor.values
        return array.reshape(tensor.shape)
    assert isinstance(tensor.owner, Block)
    if tensor.type.numpy is None:
        bits = tensor.owner.array(BY_NAME["uint16"], tensor.shape)
        return session.value_from_bits(bits, tensor.type.code)
    return tensor.owner.array(tensor.type, tensor.shape)


def _from_runtime(spec: TensorSpec | NonTensorSpec, value: Any) -> Output:
    """Converts an output of Session.run_arrays()."""
    if isinstance(spec, NonTensorSpec):
        return NonTensor(value, "float32" if "tensor(float)" in spec.onnx else "float64")
    array = numpy.asarray(value, order="C")
    if spec.type.word == "string":
        return StringTensor(array.shape, array.ravel().tolist())
    return Tensor(spec.type, array.shape, array.ctypes.data, array)
