"""The access log: one line per completed request, as JSON or text.

Text is the combined log format of Apache and nginx, followed by the duration and the request id. In
neither can client-supplied text end a line or reach a terminal as a control character.
"""

import json.encoder
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from gpux.observability.logs import LogRateLimiter
from gpux.observability.record import RequestRecord, to_text

logger = logging.getLogger(__name__)

# A write to a pipe is atomic up to this many bytes (POSIX): processes' lines do not interleave.
_PIPE_BUF = 4096
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# A JSON string, in ASCII. (A full encoder takes several times as long as the rest of the line.)
_json_string = json.encoder.encode_basestring_ascii


def format_json(record: RequestRecord) -> str:
    """Formats a line of JSON, in ASCII, without the members that the request lacks."""
    seconds, milliseconds = divmod(round(record.ended_seconds * 1000), 1000)
    members = [
        f'"time":"{_rfc_3339(seconds)}.{milliseconds:03}Z"',
        f'"request_id":{_json_string(record.request_id)}',
    ]
    if trace_id := record.trace_id:
        members.append(f'"trace_id":"{trace_id}"')
    members.append(f'"client":{_json_string(record.client)}')
    if record.path:
        members.append(f'"method":{_json_string(to_text(record.method))}')
        members.append(f'"path":{_json_string(to_text(record.path))}')
    members.append(f'"status":{record.status}')
    if record.received_bytes is not None:
        members.append(f'"bytes_in":{record.received_bytes}')
    members.append(f'"bytes_out":{record.sent_bytes}')
    members.append(f'"duration_ms":{record.duration_seconds * 1e3:.3f}')
    if record.stages is not None:
        for stage, duration_seconds in record.stages.reached():
            members.append(f'"{stage}_ms":{duration_seconds * 1e3:.3f}')
        if record.stages.rows is not None:
            members.append(f'"rows":{record.stages.rows}')
    if record.user_agent is not None:
        members.append(f'"user_agent":{_json_string(to_text(record.user_agent))}')
    return f"{{{','.join(members)}}}"


def format_text(record: RequestRecord) -> str:
    """Formats a line in combined log format, followed by the seconds taken and the request id.

    Source: Apache's documentation, "Log Files", "Combined Log Format".
    """
    line = f"{record.method} {record.path} {record.protocol}" if record.path else None
    return (
        f"{record.client} - - [{_clf(int(record.ended_seconds))}] {_quote(line)} "
        f"{record.status} {record.sent_bytes} "
        f"{_quote(record.referer)} {_quote(record.user_agent)} "
        f"{record.duration_seconds:.6f} {_quote(record.request_id)}"
    )


@lru_cache(1)
def _rfc_3339(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(1)
def _clf(seconds: int) -> str:
    moment = time.gmtime(seconds)
    month = _MONTHS[moment.tm_mon - 1]  # whatever the locale
    return time.strftime(f"%d/{month}/%Y:%H:%M:%S +0000", moment)


def _quote(value: str | None) -> str:
    r"""Quotes a value, with bytes outside printable ASCII as `\xHH` like Apache; None is `-`."""
    if value is None:
        return '"-"'
    if not value.isascii() or not value.isprintable() or '"' in value or "\\" in value:
        value = "".join(
            character
            if " " <= character <= "~" and character not in '"\\'
            else f"\\x{ord(character):02x}"
            for character in value
        )
    return f'"{value}"'


FORMATS: dict[str, Callable[[RequestRecord], str]] = {"json": format_json, "text": format_text}


class AccessLog:
    """A sink (see sinks.Sink) that writes lines to a file descriptor.

    Args:
        kind: `json` or `text`.
        descriptor: of a file, a pipe or a terminal.
    """

    name = "access_log"

    def __init__(self, kind: str, descriptor: int) -> None:
        self._format = FORMATS[kind]
        self._descriptor = descriptor
        self._warning_limiter = LogRateLimiter()

    def write(self, records: Sequence[RequestRecord]) -> int:
        """Writes a line per record; blocks on a slow reader. Returns how many were not written."""
        written = 0
        try:
            for lines, count in self._chunks(records):
                _write_all(self._descriptor, lines)
                written += count
        except OSError as error:
            if self._warning_limiter.allow():
                logger.warning("The access log cannot be written: %s", error.strerror)
        return len(records) - written

    def _chunks(self, records: Sequence[RequestRecord]) -> Iterator[tuple[bytes, int]]:
        """Yields chunks of whole lines, as many as fit into an atomic write, and their number."""
        chunk, count = b"", 0
        for record in records:
            line = f"{self._format(record)}\n".encode()
            if chunk and len(chunk) + len(line) > _PIPE_BUF:
                yield chunk, count
                chunk, count = b"", 0
            chunk += line
            count += 1
        yield chunk, count

    def close(self, seconds: float) -> None:
        """Does nothing: no line is buffered."""


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
