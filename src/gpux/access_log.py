"""The access log: a line for each request that was answered, as JSON or as text.

Text is the combined log format of Apache and nginx, with the duration and the request's id behind.
Neither lets what a client sends end a line, or reach a terminal as a control character.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence

from gpux.exchange import Exchange, Occasionally, to_text

logger = logging.getLogger(__name__)

# POSIX lets no other process' writes come between what is written to a pipe at once, up to this.
_PIPE_BUF = 4096
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_encode = json.JSONEncoder(separators=(",", ":")).encode


def format_json(exchange: Exchange) -> str:
    """A line of JSON, in ASCII; members that a request has none of are left out."""
    milliseconds = round(exchange.ended_seconds * 1000)
    moment = time.gmtime(milliseconds // 1000)
    members: dict[str, object] = {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{milliseconds % 1000:03}Z",
        "request_id": exchange.request_id,
        "trace_id": exchange.trace_id,
        "client": exchange.client,
        "method": to_text(exchange.method) or None,
        "path": to_text(exchange.path) or None,
        "status": exchange.status,
        "bytes_in": exchange.received_bytes,
        "bytes_out": exchange.sent_bytes,
        "duration_ms": _milliseconds(exchange.taken_seconds),
    }
    if exchange.stages is not None:
        members |= {
            f"{stage}_ms": _milliseconds(seconds) for stage, seconds in exchange.stages.taken()
        }
        members["rows"] = exchange.stages.rows
    members["user_agent"] = exchange.user_agent and to_text(exchange.user_agent)
    return _encode({name: value for name, value in members.items() if value is not None})


def format_text(exchange: Exchange) -> str:
    """A line of the combined log format, then the seconds that it took and the request's id.

    Source: Apache's documentation, "Log Files", "Combined Log Format".
    """
    moment = time.gmtime(exchange.ended_seconds)
    month = _MONTHS[moment.tm_mon - 1]  # whatever the locale
    ended = time.strftime(f"%d/{month}/%Y:%H:%M:%S +0000", moment)
    line = f"{exchange.method} {exchange.path} {exchange.protocol}" if exchange.path else None
    return (
        f"{exchange.client} - - [{ended}] {_quote(line)} {exchange.status} {exchange.sent_bytes} "
        f"{_quote(exchange.referer)} {_quote(exchange.user_agent)} "
        f"{exchange.taken_seconds:.6f} {_quote(exchange.request_id)}"
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 3)


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
