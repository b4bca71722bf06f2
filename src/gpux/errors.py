"""The exception hierarchy: whose fault an error is, where it is, and its HTTP status.

GpuxError
├── StartError                       nothing was started; the command exits with code 2
│   ├── ConfigurationError           an option, an environment variable, gpux.yml
│   ├── RuntimeMissingError          no usable ONNX Runtime, or two of them
│   └── ModelError                   not a model file, or a model that cannot be served
├── ClientError                      the request is invalid; nothing was run            4xx
│   ├── InvalidJSONError             the body is not JSON                               400
│   ├── InvalidBodyError             JSON, but not an object of inputs                  400
│   ├── InputError                   one input is invalid: `.name`                      400
│   │   ├── MissingInputError
│   │   ├── UnknownInputError
│   │   ├── DuplicateInputError      its name occurs twice
│   │   ├── InvalidTypeError         the value as a whole
│   │   ├── InvalidValueError        one element: `.path`
│   │   ├── InvalidShapeError        its lists: `.path`
│   │   └── EmptyBatchError
│   ├── DisagreementError            inputs with contradictory sizes                    400
│   ├── ClashingInputsError          a text, and an input made from it                  400
│   ├── InvalidHeaderError           a header that the server reads is invalid          400
│   ├── ClientGoneError              the connection closed before anything was run      499
│   ├── BodyTooLargeError            413
│   └── UnsupportedMediaTypeError    415
└── ServiceError                     the request may be valid                           5xx
    ├── InferenceError               ONNX Runtime failed: `__cause__` is for the log    500
    ├── UnavailableError             not accepting requests: `.retry_after_seconds`     503
    └── DeadlineError                it took too long                                   504

str(error) is the message for the client. Classes that concern a request have `status`, the HTTP
status.
"""

import difflib
from collections.abc import Iterable, Sequence

# The name on the package index, where `gpux` belongs to another project.
DISTRIBUTION = "gpux-server"

# A name sent by a client is quoted in the response, so its length is bounded.
_MAX_QUOTED_NAME = 100


class GpuxError(Exception):
    """Base class of every error that this package raises deliberately."""


class StartError(GpuxError):
    """The server cannot start, for a reason that its user can fix."""


class ConfigurationError(StartError):
    """An option, an environment variable or gpux.yml has an invalid value."""


class RuntimeMissingError(StartError):
    """ONNX Runtime is not installed, or installed twice."""


class ModelError(StartError):
    """The model cannot be loaded or served."""


class ClientError(GpuxError):
    """The request is invalid; none of it was run."""

    status = 400


class InvalidJSONError(ClientError):
    """The body is not JSON.

    Args:
        byte: offset of the first invalid byte, from 0.
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
    """One input is invalid.

    Args:
        name: the input's name, as in the model or the request.
        detail: the whole message.
    """

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(detail)
        self.name = name


class MissingInputError(InputError):
    """The request lacks a required input."""

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
    """The request contains an input twice."""

    def __init__(self, name: str) -> None:
        super().__init__(name, f"Duplicate input: {_quote(name)}")


class InvalidTypeError(InputError):
    """A value as a whole has the wrong JSON type.

    Args:
        name: the input.
        expected: `array`, `number`, `string` or `boolean`.
        got: its type, where that is told: null.
    """

    def __init__(self, name: str, expected: str, got: str | None = None) -> None:
        problem = f"expected {expected}" + (f", got {got}" if got else "")
        super().__init__(name, f"Invalid input type for {_quote(name)}: {problem}")


class InvalidValueError(InputError):
    """An element of a value is invalid.

    Args:
        name: the input.
        path: the index in each list around the element, outermost first.
        problem: what is wrong with it.
    """

    def __init__(self, name: str, path: Sequence[int], problem: str) -> None:
        super().__init__(name, f"Invalid value for {_quote(name)}{_at(path)}: {problem}")
        self.path = tuple(path)


class InvalidShapeError(InputError):
    """The nested lists of a value do not form a tensor of the declared shape.

    Args:
        name: the input.
        path: the index in each list around the invalid list; empty for the value as a whole.
        problem: what was expected and what was found.
    """

    def __init__(self, name: str, path: Sequence[int], problem: str) -> None:
        super().__init__(name, f"Invalid shape for {_quote(name)}{_at(path)}: {problem}")
        self.path = tuple(path)


class EmptyBatchError(InputError):
    """A batch without rows."""

    def __init__(self, name: str) -> None:
        super().__init__(name, f"Invalid shape for {_quote(name)}: the batch is empty")


class DisagreementError(ClientError):
    """Two inputs have different sizes along one axis.

    Args:
        axis: the name of the axis.
        first, second: the name of an input, and its size along the axis.
    """

    def __init__(self, axis: str, first: tuple[str, int], second: tuple[str, int]) -> None:
        super().__init__(
            f"Inputs disagree on {_quote(axis)}: {_quote(first[0])} has {first[1]}, "
            f"{_quote(second[0])} has {second[1]}; if these axes differ, name them in gpux.yml"
        )


class ClashingInputsError(ClientError):
    """A text was sent together with an input that is made from it.

    Args:
        text, made: the names of the two inputs.
    """

    def __init__(self, text: str, made: str) -> None:
        super().__init__(
            f"{_quote(text)} and {_quote(made)} cannot be sent together: "
            f"{made} is made from the text"
        )


class InvalidHeaderError(ClientError):
    """A header that the server reads has an invalid value."""


class ClientGoneError(ClientError):
    """The connection closed before anything was run. The status, nginx's, is only for the log."""

    status = 499

    def __init__(self) -> None:
        super().__init__("The client has closed the connection")


class BodyTooLargeError(ClientError):
    """The body exceeds the limit, in bytes."""

    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"Request body is larger than the limit of {limit_bytes} bytes")


class UnsupportedMediaTypeError(ClientError):
    """The body is not declared as plain JSON."""

    status = 415


class ServiceError(GpuxError):
    """The server failed to process a request that may be valid."""

    status = 500


class InferenceError(ServiceError):
    """ONNX Runtime failed while running the model.

    Args:
        reason: for the client, without paths of the server.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"Inference failed: {reason}")


class UnavailableError(ServiceError):
    """The server is not accepting requests.

    Args:
        reason: why.
        retry_after_seconds: when a retry is worthwhile.
    """

    status = 503

    def __init__(self, reason: str, retry_after_seconds: int = 1) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class DeadlineError(ServiceError):
    """The response was not ready by its deadline."""

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
    """Returns the pip command that installs the requirements of an extra of this package.

    It names the requirements and not the extra, so that it works however this package was
    installed: from a clone, from a wheel or from an index.
    """
    from importlib.metadata import requires  # slow to import, and rarely needed

    marker = f'extra == "{extra}"'
    requirements = [
        text.partition(";")[0].strip()
        for text in requires(DISTRIBUTION) or ()
        if marker in text.replace("'", '"')
    ]
    return f"pip install {' '.join(map(repr, requirements))}"
