"""app: reading a body from any WSGI server's stream."""

import io
from typing import Any

import pytest

from gpux.errors import BodyTooLargeError, InvalidJSONError
from gpux.http.app import read_body


class Stream(io.RawIOBase):
    """A WSGI server's input stream; records the sizes that are requested."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)
        self.requested_sizes: list[int] = []

    def read(self, size: int = -1) -> bytes:
        self.requested_sizes.append(size)
        return self._content.read(size)


def environment(stream: Any, **more: object) -> dict[str, Any]:
    return {"wsgi.input": stream, **more}


@pytest.mark.parametrize("kind", [Stream, io.BytesIO])
def test_a_declared_body_is_read_whole(kind: type) -> None:
    assert read_body(environment(kind(b"12345")), 5, 5) == b"12345"


@pytest.mark.parametrize("kind", [Stream, io.BytesIO])
def test_no_more_than_the_declared_length_is_read(kind: type) -> None:
    assert read_body(environment(kind(b"12345 next request")), 5, 100) == b"12345"


def test_a_body_declared_over_the_limit_is_not_touched() -> None:
    stream = Stream(b"123456")
    with pytest.raises(BodyTooLargeError, match="limit of 5 bytes"):
        read_body(environment(stream), 6, 5)
    assert stream.requested_sizes == []


def test_a_body_that_ends_early_is_refused() -> None:
    with pytest.raises(InvalidJSONError, match=r"at byte 3: the body ends here, 5 bytes were"):
        read_body(environment(Stream(b"123")), 5, 100)


def test_without_a_length_a_stream_that_ends_by_itself_is_read() -> None:
    stream = Stream(b"12345")
    assert read_body(environment(stream, **{"wsgi.input_terminated": True}), None, 5) == b"12345"


def test_without_a_length_no_more_than_the_limit_is_read() -> None:
    stream = Stream(b"1234567890")
    with pytest.raises(BodyTooLargeError):
        read_body(environment(stream, **{"wsgi.input_terminated": True}), None, 5)
    assert stream.requested_sizes == [6]


def test_without_a_length_a_stream_that_may_not_end_is_not_read() -> None:
    stream = Stream(b"12345")
    assert read_body(environment(stream), None, 5) == b""
    assert stream.requested_sizes == []
