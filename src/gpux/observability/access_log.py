"""The access log: a line for each request that was answered, as JSON or as text.

Text is the combined log format of Apache and nginx, with the duration and the request's id behind.
Neither lets what a client sends end a line, or reach a terminal as a control character.
"""

import json.encoder
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from gpux.observability.logs import RateLimitedLog
from gpux.observability.record import RequestRecord, to_text

logger = logging.getLogger(__name__)

# POSIX lets no other process' writes come between what is written to a pipe at once, up to this.
_PIPE_BUF = 4096
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# Of a JSON string, in ASCII. (A whole encoder takes several times as long as the rest of a line.)
_string = json.encoder.encode_basestring_ascii


def format_json(record: RequestRecord) -> str:
    """A line of JSON, in ASCII; members that a request has none of are left out."""
    seconds, milliseconds = divmod(round(record.ended_seconds * 1000), 1000)
    members = [
        f'"time":"{_rfc_3339(seconds)}.{milliseconds:03}Z"',
        f'"request_id":{_string(record.request_id)}',
    ]
    if trace_id := record.trace_id:
        members.append(f'"trace_id":"{trace_id}"')
    members.append(f'"client":{_string(record.client)}')
    if record.path:
        members.append(f'"method":{_string(to_text(record.method))}')
        members.append(f'"path":{_string(to_text(record.path))}')
    members.append(f'"status":{record.status}')
    if record.received_bytes is not None:
        members.append(f'"bytes_in":{record.received_bytes}')
    members.append(f'"bytes_out":{record.sent_bytes}')
    members.append(f'"duration_ms":{record.taken_seconds * 1e3:.3f}')
    if record.stages is not None:
        for stage, taken_seconds in record.stages.taken():
            members.append(f'"{stage}_ms":{taken_seconds * 1e3:.3f}')
        if record.stages.rows is not None:
            members.append(f'"rows":{record.stages.rows}')
    if record.user_agent is not None:
        members.append(f'"user_agent":{_string(to_text(record.user_agent))}')
    return f"{{{','.join(members)}}}"


def format_text(record: RequestRecord) -> str:
    """A line of the combined log format, then the seconds that it took and the request's id.

    Source: Apache's documentation, "Log Files", "Combined Log Format".
    """
    line = f"{record.method} {record.path} {record.protocol}" if record.path else None
    return (
        f"{record.client} - - [{_clf(int(record.ended_seconds))}] {_quote(line)} "
        f"{record.status} {record.sent_bytes} "
        f"{_quote(record.referer)} {_quote(record.user_agent)} "
        f"{record.taken_seconds:.6f} {_quote(record.request_id)}"
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
    r"""In quotes, with `\xHH` for bytes that are no printable ASCII, as Apache does; or `-`."""
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
    """A sink (see sinks.Sink) that writes lines to a descriptor.

    Args:
        kind: `json` or `text`.
        descriptor: a file, a pipe or a terminal.
    """

    name = "access_log"

    def __init__(self, kind: str, descriptor: int) -> None:
        self._format = FORMATS[kind]
        self._descriptor = descriptor
        self._complaint = RateLimitedLog()

    def write(self, records: Sequence[RequestRecord]) -> int:
        """Writes their lines; waits for a slow reader. Answers how many could not be written."""
        written = 0
        try:
            for lines, count in self._pieces(records):
                _write_all(self._descriptor, lines)
                written += count
        except OSError as error:
            if self._complaint.may():
                logger.warning("The access log cannot be written: %s", error.strerror)
        return len(records) - written

    def _pieces(self, records: Sequence[RequestRecord]) -> Iterator[tuple[bytes, int]]:
        """Whole lines, as many as a pipe takes at once, and how many they are."""
        piece, count = b"", 0
        for record in records:
            line = f"{self._format(record)}\n".encode()
            if piece and len(piece) + len(line) > _PIPE_BUF:
                yield piece, count
                piece, count = b"", 0
            piece += line
            count += 1
        yield piece, count

    def close(self, seconds: float) -> None:
        """Nothing is held back that had to be written now."""


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
