"""ONNX Runtime, through its C API: src/_fastpath/engine.pyx."""

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any, Protocol, final

from gpux._fastpath import Body, InputSpec, InputTable, Pool
from gpux.tensors.signature import ElementType

__all__ = [
    "Binding",
    "Declared",
    "InlinePolicy",
    "Outputs",
    "Pipeline",
    "Request",
    "RequestCounts",
    "Responder",
    "ResponseText",
    "RunOptions",
    "Session",
    "SessionOptions",
    "ThreadPool",
    "Value",
    "Work",
    "available_providers",
    "load_library",
    "runtime_version",
]

def load_library(path: str | PathLike[str]) -> None:
    """Loads ONNX Runtime for the process; does nothing if it is loaded. Not thread-safe."""

def runtime_version() -> str:
    """The version of the loaded library, as `1.30.0`; empty if none is loaded."""

def available_providers() -> list[str]:
    """The execution providers that the library was built with, by ONNX Runtime's names."""

@final
class SessionOptions:
    """The options of one or more sessions. Not thread-safe."""

    def __init__(self, threads: int, optimization: int) -> None: ...
    def add_config_entry(self, name: str, value: str) -> None: ...
    def override_dimension(self, name: str, size: int) -> None: ...
    def register_custom_ops(self, path: str | PathLike[str]) -> None: ...
    def append_cuda(self, provider_options: dict[str, str]) -> None: ...

@final
class Declared:
    """An input, an output, or an initializer that a caller may override. Immutable."""

    @property
    def name(self) -> str: ...
    @property
    def onnx(self) -> str: ...
    @property
    def dims(self) -> tuple[int | str | None, ...]: ...

@final
class Session:
    """A model that ONNX Runtime has loaded. Any number of threads may run it at once."""

    def __init__(self, path: str | PathLike[str], options: SessionOptions) -> None: ...
    @property
    def inputs(self) -> list[Declared]: ...
    @property
    def outputs(self) -> list[Declared]: ...
    @property
    def initializers(self) -> list[Declared]: ...
    def metadata(self) -> dict[str, Any]: ...
    def assignments(self) -> list[tuple[str, str, str, str]] | None: ...
    def input_memory(self) -> list[str] | None: ...
    def run(self, binding: Binding, options: RunOptions) -> None: ...

@final
class RunOptions:
    """The options of a run, through which any thread may terminate it."""

    def __init__(self, entries: dict[str, str]) -> None: ...
    @property
    def entries(self) -> dict[str, str]: ...
    def watch(self, deadline: float) -> None: ...
    def unwatch(self) -> bool: ...

@final
class Binding:
    """What is bound to a session for its next run: an IOBinding. Not thread-safe."""

    def __init__(self, session: Session) -> None: ...
    def bind_input(
        self,
        name: str,
        device: str,
        index: int,
        type_code: int,
        shape: Iterable[int],
        address: int,
    ) -> None: ...
    def bind_output(
        self,
        name: str,
        device: str = "cpu",
        index: int = 0,
        type_code: int | None = None,
        shape: Iterable[int] = (),
        address: int = 0,
    ) -> None: ...
    def get_outputs(self) -> list[Value]: ...
    def clear_binding_inputs(self) -> None: ...
    def clear_binding_outputs(self) -> None: ...

@final
class Value:
    """A tensor that ONNX Runtime returned. Owns its memory, unless that was bound. Immutable."""

    def element_type(self) -> int: ...
    def shape(self) -> tuple[int, ...]: ...
    def data_ptr(self) -> int: ...

class _Content(Protocol):
    @property
    def address(self) -> int: ...
    @property
    def device(self) -> tuple[int, int]: ...

class _Tensor(Protocol):
    @property
    def type(self) -> ElementType: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def address(self) -> int: ...

class _Stages(Protocol):
    decode: float | None
    run: float | None
    encode: float | None
    rows: int | None

class InlinePolicy:
    """What is known of the runs of one model, by size. Changed under the GIL, by any thread."""

    def __init__(
        self, *, run_seconds: float, budget_seconds: float, threads: int, first_proof: int
    ) -> None: ...
    def allows(self, size: int) -> bool:
        """Whether a request of this size runs inline."""

    def note_inline(self, size: int, seconds: float, cpu_seconds: float) -> None:
        """Records that an inline request has just run."""

    def note_elsewhere(self, size: int, cpu_seconds: float, requests: int = 1) -> None:
        """Records a run in another thread."""

class RequestCounts:
    """Counts requests: by status, and in a histogram of each of their durations."""

    def __init__(
        self,
        row: memoryview[float],
        *,
        statuses_at: int,
        durations_at: int,
        bounds: Sequence[float],
        stages: int,
        rows_at: int,
        row_bounds: Sequence[float],
    ) -> None: ...
    def count(
        self,
        status: int,
        seconds: float,
        stage_seconds: tuple[float | None, ...],
        rows: int | None = None,
    ) -> None:
        """Counts a request."""

class Responder:
    """Responds to known requests in one call, from the bytes that came to those that go out."""

    @property
    def is_batched(self) -> bool: ...
    @is_batched.setter
    def is_batched(self, value: bool) -> None: ...
    def __init__(
        self,
        pipeline: Pipeline,
        policy: InlinePolicy,
        counts: RequestCounts,
        start: Callable[[int], bytes],
        rest: bytes,
        is_batched: bool,
    ) -> None: ...
    def remember(self, before: bytes, after: bytes, timeout_seconds: float) -> None:
        """Makes a request known."""

    def respond(self, received: bytearray, nbytes: int) -> bytes | None:
        """Responds to a request, if it is known."""

class Request:
    """The inputs of one run. Owns its memory, or keeps what it borrows alive."""

    @property
    def unbatched(self) -> bool: ...
    @property
    def rows(self) -> int: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def borrows(self) -> bool: ...
    def __contains__(self, name: str) -> bool: ...
    def form(self, name: str) -> tuple[tuple[int, ...], bool, bool]:
        """The form in which an input was given: (shape, as_items, as_one_item)."""

    def strings(self, name: str, errors: str = "replace") -> list[str]:
        """The elements of a string input, in C order."""

    def content(self, name: str) -> tuple[int, object, tuple[int, int]]:
        """The elements of an input of numbers: (address, owner, device)."""

    def batch_key(self) -> tuple[tuple[int, ...], ...] | None:
        """Requests with equal keys fit into one batch; None if this one must run alone."""

    def put(
        self,
        name: str,
        content: _Content | list[str],
        shape: tuple[int, ...],
        as_items: bool = False,
        as_one_item: bool = False,
    ) -> None:
        """Gives an input its tensor."""

    def drop(self, name: str) -> None:
        """Takes an input away: others have been made from it."""

    def decide_unbatched(self) -> None:
        """Decides, by the inputs that are given so far, whether the request is one item."""

    def check_agreement(self, sent_as: dict[str, str] | None = None) -> None:
        """Checks that the shapes of different inputs agree."""

class Outputs:
    """The outputs of one request. Immutable."""

    @property
    def run_seconds(self) -> float: ...
    @property
    def shapes(self) -> list[tuple[int, ...] | None]: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def part(
        self,
        first: int,
        rows: int,
        shapes: Sequence[tuple[int, ...] | None] | None = None,
        is_left: bool = False,
    ) -> Outputs:
        """The part of a batch's outputs that belongs to one of its requests."""

    def encode(self, unbatched: bool) -> bytes:
        """The response, as JSON in UTF-8."""

    def is_close(self, index: int, other: Outputs, relative: float, absolute: float) -> bool:
        """Whether an output agrees with that of another run."""

    def is_informative(self, index: int) -> bool:
        """Whether a tensor has a finite number, or any element that is not a float."""

    def tensor(self, index: int) -> tuple[int, tuple[int, ...], int]:
        """An output of numbers: (type code, shape, address)."""

    def value(self, index: int) -> Any:
        """An output as Python values, copied."""

class Pipeline:
    """The way of a request through one model. Thread-safe."""

    @property
    def pool(self) -> Pool: ...
    @property
    def specs(self) -> tuple[InputSpec, ...]: ...
    def __init__(
        self,
        session: Session | None,
        table: InputTable,
        rules: list[tuple[int, bool, bool, bool, str | None, list[tuple[int, str]]]],
        outputs: list[str],
        responses: Sequence[tuple[str, int, str | None, int]],
        pool: Pool,
    ) -> None: ...
    def decode(self, body: bytes | Body) -> tuple[Request, bool]:
        """Reads a request body."""

    def respond(self, body: bytes | Body, deadline: float, stages: _Stages) -> bytes | Request:
        """Responds to a body: reads it, runs the model on the host, and writes the response."""

    def run(self, request: Request, deadline: float) -> Outputs:
        """Runs a complete request on the host's memory, without the GIL."""

    def outputs(self, tensors: Sequence[_Tensor], run_seconds: float) -> Outputs:
        """The outputs of a run elsewhere."""

    def respond_work(self, body: bytes | Body, deadline: float) -> Work:
        """Work that responds to a body."""

    def decode_work(self, body: bytes | Body) -> Work:
        """Work that reads a body."""

    def run_work(
        self,
        requests: list[Request],
        deadline: float,
        padded: dict[str, tuple[tuple[int, ...], bytes]] | None = None,
        is_left: bool = False,
    ) -> Work:
        """Work that runs requests together."""

    def encode_work(self, outputs: Outputs, unbatched: bool) -> Work:
        """Work that writes a response."""

    def request(self) -> Request:
        """A request that gives no input yet."""

    def gather(
        self,
        requests: list[Request],
        padded: dict[str, tuple[tuple[int, ...], bytes]] | None = None,
        is_left: bool = False,
    ) -> Request:
        """Concatenates requests along the batch axis, in their order."""

class ResponseText:
    """A response that is too long to be copied. A read-only buffer; owns its memory."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Work:
    """One step of a request, to be executed by any thread."""

    @property
    def done(self) -> Callable[[Work], object] | None: ...
    @done.setter
    def done(self, value: Callable[[Work], object] | None) -> None: ...
    @property
    def cpu_seconds(self) -> float: ...
    @property
    def decode_seconds(self) -> float: ...
    @property
    def run_seconds(self) -> float: ...
    @property
    def encode_seconds(self) -> float: ...
    @property
    def rows(self) -> int: ...
    def execute(self) -> None:
        """Executes it in the calling thread, without the GIL."""

    def stop(self) -> None:
        """Stops its run, now or as soon as it begins."""

    def request(self) -> tuple[Request, bool]:
        """The result of decoding."""

    def outputs(self) -> Outputs:
        """The result of a run."""

    def response(self) -> bytes | ResponseText | Request:
        """The result of responding or encoding."""

class ThreadPool:
    """Native threads that execute work, for one event loop."""

    def __init__(self, threads: int) -> None: ...
    def fileno(self) -> int:
        """A descriptor that is readable while completed() has something new."""

    def submit(self, work: Work) -> None:
        """Has work executed, in the order of the calls."""

    def completed(self) -> list[Work]:
        """The work that has been completed since the last call."""

    def close(self) -> None:
        """Ends the threads, once the work that they have begun is done."""
