"""How the tensors of one request go through a session: here on the CPU, in the caller's thread.

executor.py has the other way, through a GPU. Both answer the same, and fail alike.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy

from gpux.errors import InferenceError
from gpux.execution.deadline import Deadline
from gpux.execution.session import Session, reason_of
from gpux.tensors.memory import Block, StringTensor, Tensor
from gpux.tensors.outputs import Other, Output, tensor_of
from gpux.tensors.request import Request
from gpux.tensors.signature import BY_NAME, OtherSpec, Signature, TensorSpec, names

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Runner:
    """What one run needs of ONNX Runtime, and no other run at the same time.

    Attributes:
        binding: of inputs and outputs; None for a model that cannot be bound.
        options: by which the run can be stopped.
    """

    binding: Any
    options: Any


class CpuExecution:
    """Runs requests on the CPU. Any number of threads may use it at once.

    Args:
        session: the model's.
        signature: its inputs, and the outputs that are wanted.

    Attributes:
        runs_until_warm: of one set of shapes, of which the last one is as fast as those to come.
    """

    runs_until_warm = 1

    def __init__(self, session: Session, signature: Signature) -> None:
        self._session = session
        self._signature = signature
        self._output_names = names(signature.outputs)
        # Runners that no run uses. list.pop and list.append are atomic.
        self._idle_runners: list[Runner] = []

    def run(self, request: Request, deadline: Deadline | None = None) -> list[Output]:
        """The outputs of a request, in the order of the signature.

        Args:
            request: must not be released while an output is used: ONNX Runtime hands out an input's
                own memory where an output of the graph is one of its inputs.
            deadline: at which the run is stopped.

        Raises:
            DeadlineError: it was stopped.
            InferenceError: ONNX Runtime failed; its own words are the cause.

        The GIL is released while ONNX Runtime works.
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

        outputs, was_stopped = watched(work, runner.options, deadline)
        # One that was stopped in its last moment has its answer, but may not be used again.
        if not was_stopped:
            self._idle_runners.append(runner)
        return outputs

    def create_runner(self) -> Runner:
        """What bind(), execute() and fetch() need, for one run at a time."""
        binding = self._session.create_binding() if self._signature.is_numeric else None
        return Runner(binding, self._session.create_options())

    def bind(self, runner: Runner, request: Request) -> None:
        """Binds a request's tensors, by pointer: they must stay until fetch() has returned."""
        binding = runner.binding
        for name, tensor in request.tensors.items():
            assert isinstance(tensor, Tensor)
            binding.bind_input(name, "cpu", 0, tensor.type.code, tensor.shape, tensor.address)
        # Bound afresh each time: ONNX Runtime would write the next answer over the last one
        # otherwise.
        for name in self._output_names:
            binding.bind_output(name)

    def execute(self, runner: Runner) -> None:
        """Runs what is bound, without the GIL."""
        self._session.run(runner.binding, runner.options)

    def fetch(self, runner: Runner) -> list[Output]:
        """The outputs of a run, in the order of the signature; nothing stays bound."""
        outputs: list[Output] = [tensor_of(value) for value in runner.binding.get_outputs()]
        # No pointer into the request's blocks survives it.
        runner.binding.clear_binding_inputs()
        runner.binding.clear_binding_outputs()
        return outputs

    def uncaptured(self) -> contextlib.AbstractContextManager[None]:
        """While it is entered runs are for trial: nothing is learned from their shapes."""
        return contextlib.nullcontext()

    def describe(self) -> dict[str, Any]:
        """What /info says of it: nothing, as there is nothing to choose."""
        return {}


def watched(work: Callable[[], _T], options: Any, deadline: Deadline | None) -> tuple[_T, bool]:
    """Does the work of a run, which is stopped at its deadline.

    Args:
        work: runs the model with these options.
        options: the RunOptions. Where the run was stopped they are spoilt.
        deadline: None for none.

    Returns:
        What `work` returned, and whether it was stopped all the same, in its last moment.

    Raises:
        DeadlineError: it was stopped.
        InferenceError: it failed; its own words are the cause.
    """
    token = deadline.watchdog.begin(options, deadline.at_seconds) if deadline else 0
    try:
        done = work()
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        if deadline and deadline.watchdog.end(token):
            raise deadline.error() from error
        raise InferenceError(reason_of(error)) from error
    return done, deadline is not None and deadline.watchdog.end(token)


def run_arrays(
    session: Session, signature: Signature, request: Request, options: Any
) -> list[Output]:
    """Runs a model with strings, sequences or maps, which cannot be bound.

    Args:
        session: the model's.
        signature: its inputs, and the outputs that are wanted.
        request: its tensors lie on the host.
        options: of a run that is complete when it returns.
    """
    feeds = {name: _feed(session, tensor) for name, tensor in request.tensors.items()}
    values = session.run_arrays(names(signature.outputs), feeds, options)
    return [
        _from_runtime(spec, value) for spec, value in zip(signature.outputs, values, strict=True)
    ]


def _feed(session: Session, tensor: Tensor | StringTensor) -> Any:
    """What session.run takes for a tensor; copied only where NumPy lacks the type."""
    if isinstance(tensor, StringTensor):
        # Of objects: NumPy's own string types cut at NUL, and ONNX Runtime reads past their
        # elements.
        array = numpy.empty(len(tensor.values), object)
        array[:] = tensor.values
        return array.reshape(tensor.shape)
    assert isinstance(tensor.owner, Block)
    if tensor.type.numpy is None:
        bits = tensor.owner.array(BY_NAME["uint16"], tensor.shape)
        return session.value_of_bits(bits, tensor.type.code)
    return tensor.owner.array(tensor.type, tensor.shape)


def _from_runtime(spec: TensorSpec | OtherSpec, value: Any) -> Output:
    """An output of session.run."""
    if isinstance(spec, OtherSpec):
        return Other(value, "float32" if "tensor(float)" in spec.onnx else "float64")
    array = numpy.asarray(value, order="C")
    if spec.type.word == "string":
        return StringTensor(array.shape, array.ravel().tolist())
    return Tensor(spec.type, array.shape, array.ctypes.data, array)
