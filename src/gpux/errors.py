"""The family of errors: whose fault it is, where it is, and which HTTP status says so.

GpuxError
├── StartError                       nothing was started; the command ends with exit code 2
│   ├── ConfigurationError           an option, an environment variable, gpux.yml
│   ├── RuntimeMissingError          no usable ONNX Runtime, or two of them
│   └── ModelError                   a file that is no model, or a model that cannot be served
├── ClientError                      the request is wrong and nothing was run           4xx
│   ├── InvalidJSONError             the body is not JSON                               400
│   ├── InvalidBodyError             JSON, but not an object of inputs                  400
│   ├── InputError                   one input is at fault: `.name`                     400
│   │   ├── MissingInputError
│   │   ├── UnknownInputError
│   │   ├── DuplicateInputError      its name stands twice
│   │   ├── InvalidTypeError         the value as a whole
│   │   ├── InvalidValueError        one element: `.path`
│   │   ├── InvalidShapeError        its lists: `.path`
│   │   └── EmptyBatchError
│   ├── DisagreementError            inputs that do not fit each other                  400
│   ├── ClashingInputsError          a text, and what is made from it                   400
│   ├── InvalidHeaderError           a header of ours has a value that cannot be used   400
│   ├── ClientGoneError              its connection closed before anything was run      499
│   ├── BodyTooLargeError            413
│   └── UnsupportedMediaTypeError    415
└── ServiceError                     the request may be right                           5xx
    ├── InferenceError               ONNX Runtime failed: `__cause__` is for the log    500
    ├── UnavailableError             not taking requests now: `.retry_after_seconds`    503
    └── DeadlineError                it took too long                                   504

str(error) is what the client reads. Each class that concerns a request has `status`, the HTTP
status.
"""

import difflib
from collections.abc import Iterable, Sequence
from importlib.metadata import requires

# The name on the package index, where `gpux` is another project's.
DISTRIBUTION = "gpux-server"

# A name sent by a client is quoted in the answer, so its length is bounded.
_MAX_QUOTED_NAME = 100


class GpuxError(Exception):
    """Everything that this package raises on purpose."""


class StartError(GpuxError):
    """The server cannot start, for a reason that its user can mend."""


class ConfigurationError(StartError):
    """An option, an environment variable or gpux.yml has a value that cannot be used."""


class RuntimeMissingError(StartError):
    """ONNX Runtime is not installed, or installed twice."""


class ModelError(StartError):
    """The model cannot be loaded or served."""


class ClientError(GpuxError):
    """The request is wrong; nothing of it was run."""

    status = 400


class InvalidJSONError(ClientError):
    """The body is not JSON.

    Args:
        byte: position of the first byte that cannot be, from 0.
        problem: what is wrong there.
    """

    def __init__(self, byte: int, problem: str) -> None:
        super().__init__(f"Invalid JSON at byte {byte}: {problem}")
        self.byte = byte


class InvalidBodyError(ClientError):
    """The body is JSON, but not an object."""

    def __init__(self) -> None:
        super().__init__("Request body must be a JSON object of input names to values")


class InputError(ClientError):
    """One input is at fault.

    Args:
        name: the input's name, as the model or the client has it.
        detail: the whole message.
    """

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


class MissingInputError(InputError):
    """The model needs an input that the request does not have."""

    def __init__(self, name: str) -> None:
        super().__init__(name, f"Missing required input: {_quote(name)}")


class UnknownInputError(InputError):
    """The request has an input that the model does not have.

    Args:
        name: the name in the request.
        known: the names of the model's inputs.
    """

    def __init__(self, name: str, known: Sequence[str]) -> None:
        close = difflib.get_close_matches(name[:_MAX_QUOTED_NAME], known, n=1)
        if close:
            hint = f"did you mean {_quote(close[0])}?"
        else:
            hint = f"the model's inputs are {', '.join(map(_quote, known))}"
        super().__init__(name, f"Unknown input: {_quote(name)}; {hint}")


class DuplicateInputError(InputError):
    """The request has an input twice."""

    def __init__(self, name: str) -> None:
        super().__init__(name, f"Duplicate input: {_quote(name)}")


class InvalidTypeError(InputError):
    """A value as a whole has the wrong JSON type.

    Args:
        name: the input.
        expected: `array`, `number`, `string` or `boolean`.
    """

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(name, f"Invalid input type for {_quote(name)}: expected {expected}")


class InvalidValueError(InputError):
    """An element inside a value cannot be taken.

    Args:
        name: the input.
        path: the index in each list around the element, outermost first.
        problem: what is wrong with it.
    """

    def __init__(self, name: str, path: Sequence[int], problem: str) -> None:
        super().__init__(name, f"Invalid value for {_quote(name)}{_at(path)}: {problem}")
        self.path = tuple(path)


class InvalidShapeError(InputError):
    """The lists of a value do not make the tensor that the model declares.

    Args:
        name: the input.
        path: the index in each list around the list at fault; empty for the value as a whole.
        problem: what was expected and what came.
    """

    def __init__(self, name: str, path: Sequence[int], problem: str) -> None:
        super().__init__(name, f"Invalid shape for {_quote(name)}{_at(path)}: {problem}")
        self.path = tuple(path)


class EmptyBatchError(InputError):
    """A batch without rows."""

    def __init__(self, name: str) -> None:
        super().__init__(name, f"Invalid shape for {_quote(name)}: the batch is empty")


class DisagreementError(ClientError):
    """Two inputs give different sizes to one axis.

    Args:
        axis: the axis' name.
        first, second: an input's name and the size it gives.
    """

    def __init__(self, axis: str, first: tuple[str, int], second: tuple[str, int]) -> None:
        super().__init__(
            f"Inputs disagree on {_quote(axis)}: {_quote(first[0])} has {first[1]}, "
            f"{_quote(second[0])} has {second[1]}"
        )


class ClashingInputsError(ClientError):
    """A text was sent, and what is made from it as well.

    Args:
        text, made: the two inputs.
    """

    def __init__(self, text: str, made: str) -> None:
        super().__init__(
            f"{_quote(text)} and {_quote(made)} cannot be sent together: "
            f"{made} is made from the text"
        )


class InvalidHeaderError(ClientError):
    """A header that the server knows has a value that cannot be used."""


class ClientGoneError(ClientError):
    """Its connection closed before anything was run. The status, nginx's, is for the log alone."""

    status = 499

    def __init__(self) -> None:
        super().__init__("The client has closed the connection")


class BodyTooLargeError(ClientError):
    """The body is over the limit, in bytes."""

    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"Request body is larger than the limit of {limit_bytes} bytes")


class UnsupportedMediaTypeError(ClientError):
    """The body is not declared as plain JSON."""

    status = 415


class ServiceError(GpuxError):
    """The server could not answer a request that may be right."""

    status = 500


class InferenceError(ServiceError):
    """ONNX Runtime failed while it ran the model.

    Args:
        reason: what the client may read; no paths of the server.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"Inference failed: {reason}")


class UnavailableError(ServiceError):
    """The server takes no requests now.

    Args:
        reason: why.
        retry_after_seconds: when it is worth trying again.
    """

    status = 503

    def __init__(self, reason: str, retry_after_seconds: int = 1) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class DeadlineError(ServiceError):
    """The answer was not there at its deadline."""

    status = 504

    def __init__(self, limit_seconds: float) -> None:
        noun = "second" if limit_seconds == 1 else "seconds"
        super().__init__(f"The request took longer than the limit of {limit_seconds:g} {noun}")


def _quote(name: str) -> str:
    if len(name) > _MAX_QUOTED_NAME:
        name = name[:_MAX_QUOTED_NAME] + "…"
    return f"'{name}'"


def _at(path: Iterable[int]) -> str:
    indices = "".join(f"[{index}]" for index in path)
    return f" at {indices}" if indices else ""


def install_command(extra: str) -> str:
    """The pip command that installs what an extra of this package needs.

    It names the extra's own requirements and not the extra, so that it works however this package
    was installed: from a clone, from a wheel or from an index.
    """
    marker = f'extra == "{extra}"'
    needed = [
        text.partition(";")[0].strip()
        for text in requires(DISTRIBUTION) or ()
        if marker in text.replace("'", '"')
    ]
    return f"pip install {' '.join(map(repr, needed))}"
