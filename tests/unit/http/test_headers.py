"""headers: the media types and encodings of a body that are accepted."""

import pytest

from gpux.errors import UnsupportedMediaTypeError
from gpux.http.headers import check_headers


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json; profile=x",
    ],
)
def test_json_in_utf_8_is_taken(content_type: str) -> None:
    check_headers(content_type, None)


@pytest.mark.parametrize(
    ("content_type", "content_encoding", "detail"),
    [
        (None, None, "Content-Type must be application/json, got none"),
        ("", None, "Content-Type must be application/json, got ''"),
        ("text/plain", None, "Content-Type must be application/json, got 'text/plain'"),
        (
            "application/json; charset=latin-1",
            None,
            "The charset must be utf-8, got 'application/json; charset=latin-1'",
        ),
        ("application/json", "gzip", "Content-Encoding 'gzip' is not supported: send plain JSON"),
        ("x" * 200, None, f"Content-Type must be application/json, got '{'x' * 100}…'"),
    ],
)
def test_another_declaration_is_refused_by_name(
    content_type: str | None, content_encoding: str | None, detail: str
) -> None:
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        check_headers(content_type, content_encoding)
    assert str(caught.value) == detail
