"""A response, and its header section as bytes."""

import time
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer  # of collections.abc from Python 3.12 on


@dataclass(slots=True)
class Response:
    """What is sent for one request.

    Attributes:
        status: of HTTP, 200 or above.
        headers: names and values, without those that the connection writes: Connection, Date,
            Server and, but for HEAD, Content-Length.
        body: bytes, or another contiguous buffer of bytes that owns its memory. It is sent from
            that memory, later, and referred to until then.
    """

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: "Buffer" = b""


# Statuses without a body, and thus without Content-Length (RFC 9110, 8.6).
_BODILESS = frozenset((204, 304))


def write_head(response: Response, nbytes: int, connection: str | None, *, is_head: bool) -> bytes:
    """Writes a response's status line and header section.

    Args:
        response: its status and headers are read.
        nbytes: size of its body.
        connection: value of `Connection`; None for no such header.
        is_head: whether the request's method is HEAD, whose response may state another length than
            that of its body.

    Raises:
        ValueError: a name or value of a header has a line end, which would start another header.
            UnicodeEncodeError, a ValueError too, if one is not Latin-1.
    """
    headers = response.headers
    fields = "\r\n".join(map(": ".join, headers))
    between = max(len(headers) - 1, 0)
    if fields.count("\n") != between or fields.count("\r") != between:
        raise ValueError("a header of the response has a line end")
    common = common_part(response.status, connection, int(time.time()))
    if headers:
        fields += "\r\n"
    if response.status in _BODILESS or (is_head and _has_length(response)):
        return f"{common}{fields}\r\n".encode("latin-1")
    return f"{common}{fields}Content-Length: {nbytes}\r\n\r\n".encode("latin-1")


def _has_length(response: Response) -> bool:
    return any(name.lower() == "content-length" for name, _ in response.headers)


@lru_cache(maxsize=64)
def common_part(status: int, connection: str | None, epoch_seconds: int) -> str:
    """The status line and the headers that all responses of a status share within a second."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:  # a status of the application's own
        reason = ""
    date = formatdate(epoch_seconds, usegmt=True)
    ending = "" if connection is None else f"Connection: {connection}\r\n"
    return f"HTTP/1.1 {status} {reason}\r\nServer: gpux\r\nDate: {date}\r\n{ending}"
