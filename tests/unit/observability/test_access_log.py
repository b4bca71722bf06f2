"""access_log: whole lines, and failing writes."""

import json
import os
import stat
from pathlib import Path

import pytest

from gpux.observability.access_log import FORMATS, AccessLog
from gpux.observability.record import RequestRecord, begin
from gpux.observability.timings import Stages

ENVIRONMENT = {
    "REQUEST_METHOD": "POST",
    "PATH_INFO": "/predict",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "wsgi.url_scheme": "http",
}
WORST = {
    "PATH_INFO": "\x01" * 1000,
    "HTTP_USER_AGENT": "\x02" * 1000,
    "HTTP_REFERER": "\x03" * 1000,
    "HTTP_X_REQUEST_ID": "\\" * 128,
    "HTTP_TRACEPARENT": f"00-{'a' * 32}-{'b' * 16}-01",
    "REMOTE_ADDR": "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
    "CONTENT_LENGTH": "9" * 18,
}


def ended(**more: str) -> RequestRecord:
    record = begin({**ENVIRONMENT, **more}, 0.0)
    record.end(Stages(read=0.0, decode=1e6, queue=1e6, run=1e6, encode=1e6, rows=2**31))
    return record


@pytest.mark.parametrize("kind", FORMATS)
def test_no_line_is_longer_than_a_pipe_takes_at_once(kind: str) -> None:
    line = FORMATS[kind](ended(**WORST))
    assert len(line) < 4096
    assert line.isascii()
    assert line.isprintable()


def test_lines_are_written_whole() -> None:
    """In few writes, each small enough to be atomic on a pipe."""
    reading, writing = os.pipe2(os.O_DIRECT)  # packet mode: a read returns one write
    assert stat.S_ISFIFO(os.fstat(reading).st_mode)
    try:
        log = AccessLog("json", writing)
        assert log.write([ended(HTTP_X_REQUEST_ID=str(number)) for number in range(40)]) == 0
        os.close(writing)
        packets = []
        while packet := os.read(reading, 65536):
            packets.append(packet)
    finally:
        os.close(reading)
    assert 1 < len(packets) < 10
    assert all(packet.endswith(b"\n") for packet in packets)
    ids = [json.loads(line)["request_id"] for line in b"".join(packets).splitlines()]
    assert ids == [str(number) for number in range(40)]


def test_a_reader_that_has_gone_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        log = AccessLog("text", writing)
        assert log.write([ended(), ended()]) == 2
        assert log.write([ended()]) == 1
    finally:
        os.close(writing)
    assert caplog.messages == ["The access log cannot be written: Broken pipe"]


def test_a_full_disk_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        assert AccessLog("json", full.fileno()).write([ended()]) == 1
    assert caplog.messages == ["The access log cannot be written: No space left on device"]
