"""errors: messages, their bounded length, and the tree in the docstring."""

import re

import pytest

from gpux import errors
from gpux.errors import (
    BodyTooLargeError,
    ClientError,
    DisagreementError,
    EmptyBatchError,
    GpuxError,
    InferenceError,
    InputError,
    InvalidBodyError,
    InvalidJSONError,
    InvalidShapeError,
    InvalidTypeError,
    InvalidValueError,
    MissingInputError,
    ServiceError,
    StartError,
    UnavailableError,
    UnknownInputError,
    UnsupportedMediaTypeError,
)

INPUTS = ["input_ids", "attention_mask"]

# The messages of the contract, verbatim.
MESSAGES: list[tuple[GpuxError, str]] = [
    (InvalidJSONError(17, "expected value"), "Invalid JSON at byte 17: expected value"),
    (InvalidBodyError(), "Request body must be a JSON object of input names to values"),
    (MissingInputError("input_ids"), "Missing required input: 'input_ids'"),
    (UnknownInputError("inputids", INPUTS), "Unknown input: 'inputids'; did you mean 'input_ids'?"),
    (
        UnknownInputError("picture", INPUTS),
        "Unknown input: 'picture'; the model's inputs are 'input_ids', 'attention_mask'",
    ),
    (InvalidTypeError("input_ids", "array"), "Invalid input type for 'input_ids': expected array"),
    (
        InvalidValueError("x", (3, 1), "expected number, got string"),
        "Invalid value for 'x' at [3][1]: expected number, got string",
    ),
    (
        InvalidValueError("x", (3, 1), "300 is out of range for uint8"),
        "Invalid value for 'x' at [3][1]: 300 is out of range for uint8",
    ),
    (
        InvalidValueError("x", (), "300 is out of range for uint8"),
        "Invalid value for 'x': 300 is out of range for uint8",
    ),
    (
        InvalidShapeError("x", (1,), "expected 3 values, got 2"),
        "Invalid shape for 'x' at [1]: expected 3 values, got 2",
    ),
    (
        InvalidShapeError("image", (), "expected [batch, 3, 224, 224], got [1, 3, 224]"),
        "Invalid shape for 'image': expected [batch, 3, 224, 224], got [1, 3, 224]",
    ),
    (EmptyBatchError("text"), "Invalid shape for 'text': the batch is empty"),
    (
        DisagreementError("batch", ("input_ids", 2), ("attention_mask", 3)),
        "Inputs disagree on 'batch': 'input_ids' has 2, 'attention_mask' has 3"
        "; if these axes differ, name them in gpux.yml",
    ),
    (BodyTooLargeError(67108864), "Request body is larger than the limit of 67108864 bytes"),
    (InferenceError("Model execution error"), "Inference failed: Model execution error"),
    (UnavailableError("the model is loading"), "the model is loading"),
]


@pytest.mark.parametrize(("error", "message"), MESSAGES, ids=lambda value: f"{value!s:.40}")
def test_an_error_says_what_the_contract_says(error: GpuxError, message: str) -> None:
    assert str(error) == message
    assert error.args == (message,)


ENDLESS = "n" * 1_000_000


@pytest.mark.parametrize(
    "error",
    [
        MissingInputError(ENDLESS),
        UnknownInputError(ENDLESS, ["input_ids"]),
        UnknownInputError("input_ids" + ENDLESS, ["input_ids"]),
        UnknownInputError("x", [ENDLESS]),
        InvalidTypeError(ENDLESS, "array"),
        InvalidValueError(ENDLESS, (1, 2), "expected number, got string"),
        InvalidShapeError(ENDLESS, (1, 2), "expected 3 values, got 2"),
        InvalidShapeError("x", range(32), "expected 3 values, got 2"),
        EmptyBatchError(ENDLESS),
        DisagreementError(ENDLESS, (ENDLESS, 2), (ENDLESS, 3)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_long_name_is_cut_where_it_is_quoted(error: ClientError) -> None:
    assert len(str(error)) < 500


def test_a_name_is_quoted_whole_up_to_100_characters() -> None:
    assert str(MissingInputError("n" * 100)) == f"Missing required input: '{'n' * 100}'"
    assert str(MissingInputError("n" * 101)) == f"Missing required input: '{'n' * 100}…'"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("imput_ids", "did you mean 'input_ids'?"),
        ("input-ids", "did you mean 'input_ids'?"),
        ("attention_masks", "did you mean 'attention_mask'?"),
        ("zzz", "the model's inputs are 'input_ids', 'attention_mask'"),
        ("", "the model's inputs are 'input_ids', 'attention_mask'"),
    ],
)
def test_an_unknown_input_is_told_what_there_is(name: str, hint: str) -> None:
    assert str(UnknownInputError(name, INPUTS)) == f"Unknown input: '{name}'; {hint}"


def test_an_error_of_an_input_knows_its_name_and_place() -> None:
    long_name = "n" * 200
    for error in (
        MissingInputError(long_name),
        UnknownInputError(long_name, ["x"]),
        InvalidTypeError(long_name, "array"),
        InvalidValueError(long_name, [3, 1], "?"),
        InvalidShapeError(long_name, [3, 1], "?"),
        EmptyBatchError(long_name),
    ):
        assert isinstance(error, InputError)
        assert error.name == long_name
        if isinstance(error, InvalidValueError | InvalidShapeError):
            assert error.path == (3, 1)


def test_other_errors_know_what_their_handlers_need() -> None:
    assert InvalidJSONError(17, "?").byte == 17
    assert UnavailableError("?").retry_after_seconds >= 1
    assert UnavailableError("?", retry_after_seconds=7).retry_after_seconds == 7


@pytest.mark.parametrize(
    ("error", "status"),
    [
        *((ClientError, 400), (InvalidJSONError, 400), (InvalidBodyError, 400)),
        *((MissingInputError, 400), (UnknownInputError, 400), (InvalidTypeError, 400)),
        *((InvalidValueError, 400), (InvalidShapeError, 400), (EmptyBatchError, 400)),
        (DisagreementError, 400),
        (BodyTooLargeError, 413),
        (UnsupportedMediaTypeError, 415),
        (ServiceError, 500),
        (InferenceError, 500),
        (UnavailableError, 503),
    ],
)
def test_a_request_s_error_has_the_status_of_the_contract(
    error: type[ClientError | ServiceError], status: int
) -> None:
    assert error.status == status


# The tree in the module's docstring.


def drawn_tree() -> dict[str, tuple[str | None, str]]:
    """Parses the docstring: each class with its parent and its note."""
    assert errors.__doc__ is not None
    tree: dict[str, tuple[str | None, str]] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        drawn = re.fullmatch(r"((?:[│ ] {3})*)(?:[├└]── )?([A-Z]\w+(?:Error))(| +.*)", line)
        if drawn:
            depth = 0 if line.startswith("GpuxError") else len(drawn[1]) // 4 + 1
            path[depth:] = [drawn[2]]
            assert drawn[2] not in tree
            tree[drawn[2]] = (path[depth - 1] if depth else None, drawn[3].strip())
    return tree


def real_tree() -> dict[str, type[GpuxError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, GpuxError)
    }


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    drawn = {name: parent for name, (parent, _) in drawn_tree().items()}
    real = {
        name: None if value is GpuxError else value.__bases__[0].__name__
        for name, value in real_tree().items()
    }
    assert len(drawn) > 15
    assert drawn == real
    assert all(len(value.__bases__) == 1 for value in real_tree().values())


def test_the_statuses_in_the_docstring_are_the_real_ones() -> None:
    checked = 0
    for name, (_, note) in drawn_tree().items():
        status = re.search(r"\b([45])(\d\d|xx)$", note)
        if status:
            real = vars(real_tree()[name]).get("status", getattr(real_tree()[name], "status", None))
            assert isinstance(real, int)
            assert str(real).startswith(status[1])
            assert status[2] in ("xx", str(real)[1:])
            checked += 1
    assert checked >= 9


def test_the_attributes_in_the_docstring_are_there() -> None:
    checked = 0
    for error, _ in MESSAGES:
        note = drawn_tree()[type(error).__name__][1]
        for attribute in re.findall(r"`\.(\w+)`", note):
            assert hasattr(error, attribute), (type(error).__name__, attribute)
            checked += 1
    assert checked >= 3


def test_only_errors_about_a_request_have_a_status() -> None:
    for value in real_tree().values():
        about_a_request = issubclass(value, ClientError | ServiceError)
        assert hasattr(value, "status") == about_a_request
        assert about_a_request != issubclass(value, StartError) or value is GpuxError
        if about_a_request:
            number = vars(value).get("status", 400 if issubclass(value, ClientError) else 500)
            assert 400 <= number < 500 if issubclass(value, ClientError) else 500 <= number < 600


def test_every_error_says_what_it_is() -> None:
    for value in real_tree().values():
        assert value.__doc__
        assert value.__doc__.split("\n")[0].endswith(".")
