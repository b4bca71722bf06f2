"""record and sinks: records are written in order, or counted as dropped."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from gpux.observability.record import RequestRecord, begin
from gpux.observability.sinks import Recorder

ENVIRONMENT = {
    "REQUEST_METHOD": "POST",
    "PATH_INFO": "/predict",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.url_scheme": "http",
}


def numbered(number: int) -> RequestRecord:
    return begin({**ENVIRONMENT, "HTTP_X_REQUEST_ID": str(number)}, 0.0)


class MemorySink:
    """A sink that keeps the request IDs, and blocks until `may_write` is set."""

    name = "kept"

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.may_write = threading.Event()
        self.has_begun = threading.Event()
        self.closed = False
        self.failure: Exception | None = None

    def write(self, records: Sequence[RequestRecord]) -> int:
        self.has_begun.set()
        assert self.may_write.wait(30)
        if self.failure:
            raise self.failure
        self.ids += [each.request_id for each in records]
        return 0

    def close(self, seconds: float) -> None:
        assert seconds >= 0
        self.closed = True


def test_all_is_recorded_in_its_order() -> None:
    sink = MemorySink()
    sink.may_write.set()
    recorder = Recorder(sink)
    for number in range(1000):
        recorder.put(numbered(number))
    assert recorder.close(30)
    assert sink.ids == [str(number) for number in range(1000)]
    assert sink.closed
    assert recorder.dropped == 0


def test_what_there_is_no_room_for_is_counted() -> None:
    sink = MemorySink()
    recorder = Recorder(sink, max_waiting=10)
    recorder.put(numbered(0))
    assert sink.has_begun.wait(30)  # the sink has taken record 0 and blocks
    for number in range(1, 16):
        recorder.put(numbered(number))
    assert recorder.dropped == 5
    assert not recorder.close(0.01), "the sink stands still"
    assert not sink.closed
    sink.may_write.set()
    assert recorder.close(30)
    assert sink.ids == [str(number) for number in range(11)]


def test_a_sink_that_fails_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    sink = MemorySink()
    sink.failure = RuntimeError("broken")
    recorder = Recorder(sink)
    recorder.put(numbered(0))
    sink.may_write.set()
    assert sink.has_begun.wait(30)
    while recorder.dropped == 0:
        pass
    sink.failure = None
    recorder.put(numbered(1))
    assert recorder.close(30)
    assert sink.ids == ["1"]
    assert recorder.dropped == 1
    assert "broken" in caplog.text


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"CONTENT_LENGTH": "12"}, 12),
        ({"CONTENT_LENGTH": ""}, 0),
        ({}, 0),
        ({"CONTENT_LENGTH": "-1"}, None),
        ({"CONTENT_LENGTH": "²"}, None),
        ({"CONTENT_LENGTH": "9" * 5000}, None),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, None),
    ],
)
def test_the_bodys_length(headers: dict[str, Any], expected: int | None) -> None:
    assert begin({**ENVIRONMENT, **headers}, 0.0).received_bytes == expected


def test_no_header_is_kept_beyond_bounds() -> None:
    long = {"HTTP_USER_AGENT": "a" * 1000, "HTTP_HOST": "h" * 1000, "PATH_INFO": "/" * 1000}
    record = begin({**ENVIRONMENT, **long, "HTTP_TRACESTATE": "a=" + "b" * 511}, 0.0)
    assert len(record.user_agent or "") == len(record.host or "") == len(record.path) == 200
    assert record.tracestate is None
