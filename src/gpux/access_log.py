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

from gpux.exchange import Exchange, Occasionally, to_text

logger = logging.getLogger(__name__)

# POSIX lets no other process' writes come between what is written to a pipe at once, up to this.
_PIPE_BUF = 4096
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# Of a JSON string, in ASCII. (A whole encoder takes several times as long as the rest of a line.)
_string = json.encoder.encode_basestring_ascii


def format_json(exchange: Exchange) -> str:
    """A line of JSON, in ASCII; members that a request has none of are left out."""
    seconds, milliseconds = divmod(round(exchange.ended_seconds * 1000), 1000)
    members = [
        f'"time":"{_rfc_3339(seconds)}.{milliseconds:03}Z"',
        f'"request_id":{_string(exchange.request_id)}',
    ]
    if trace_id := exchange.trace_id:
        members.append(f'"trace_id":"{trace_id}"')
    members.append(f'"client":{_string(exchange.client)}')
    if exchange.path:
        members.append(f'"method":{_string(to_text(exchange.method))}')
        members.append(f'"path":{_string(to_text(exchange.path))}')
    members.append(f'"status":{exchange.status}')
    if exchange.received_bytes is not None:
        members.append(f'"bytes_in":{exchange.received_bytes}')
    members.append(f'"bytes_out":{exchange.sent_bytes}')
    members.append(f'"duration_ms":{exchange.taken_seconds * 1e3:.3f}')
    if exchange.stages is not None:
        for stage, taken_seconds in exchange.stages.taken():
            members.append(f'"{stage}_ms":{taken_seconds * 1e3:.3f}')
        if exchange.stages.rows is not None:
            members.append(f'"rows":{exchange.stages.rows}')
    if exchange.user_agent is not None:
        members.append(f'"user_agent":{_string(to_text(exchange.user_agent))}')
    return f"{{{','.join(members)}}}"


def format_text(exchange: Exchange) -> str:
    """A line of the combined log format, then the seconds that it took and the request's id.

    Source: Apache's documentation, "Log Files", "Combined Log Format".
    """
    line = f"{exchange.method} {exchange.path} {exchange.protocol}" if exchange.path else None
    return (
        f"{exchange.client} - - [{_clf(int(exchange.ended_seconds))}] {_quote(line)} "
        f"{exchange.status} {exchange.sent_bytes} "
        f"{_quote(exchange.referer)} {_quote(exchange.user_agent)} "
        f"{exchange.taken_seconds:.6f} {_quote(exchange.request_id)}"
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


FORMATS: dict[str, Callable[[Exchange], str]] = {"json": format_json, "text": format_text}


class AccessLog:
    """A sink (see exchange.Sink) that writes lines to a descriptor.

    Args:
        kind: `json` or `text`.
        descriptor: a file, a pipe or a terminal.
    """

    name = "access_log"

    def __init__(self, kind: str, descriptor: int) -> None:
        self._format = FORMATS[kind]
        self._descriptor = descriptor
        self._complaint = Occasionally()

    def record(self, exchanges: Sequence[Exchange]) -> int:
        """Writes their lines; waits for a slow reader. Answers how many could not be written."""
        written = 0
        try:
            for lines, count in self._pieces(exchanges):
                _write_all(self._descriptor, lines)
                written += count
        except OSError as error:
            if self._complaint.may():
                logger.warning("The access log cannot be written: %s", error.strerror)
        return len(exchanges) - written

    def _pieces(self, exchanges: Sequence[Exchange]) -> Iterator[tuple[bytes, int]]:
        """Whole lines, as many as a pipe takes at once, and how many they are."""
        piece, count = b"", 0
        for exchange in exchanges:
            line = f"{self._format(exchange)}\n".encode()
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
