"""What became of a request whose server ends: answered, never read, or lost.

A client cannot tell from an end without an answer whether the server had taken its request. The
kernel can (Linux): a connection that is closed with bytes that nobody has read is reset, as is one
to which bytes come after that (RFC 2525, 2.17), and whatever was read to its last byte ends in
order.
"""

import socket
import sys

from tests.support.servers import Client, Response, wait_until

_CLOSED = 7  # TCP_CLOSE of linux/tcp_states.h: what a reset leads to
_INFO_BYTES = 32


class LostError(AssertionError):
    """A server took a request, and did not answer it whole."""


def ask(client: Client, request: bytes) -> Response | None:
    """Sends a request, and nothing before its answer.

    Returns:
        The answer; None if the server ended before it had read the request.

    Raises:
        LostError: it had.
    """
    try:
        client.send(request)
        begins = client.stream.peek(1)
    except ConnectionError:
        return None
    if not begins:
        if _was_read(client.socket):
            raise LostError("the request was read, and the connection closed without an answer")
        return None
    try:
        answer = client.read()
    except ConnectionError as error:
        raise LostError(f"the answer was cut off: {error}") from error
    if len(answer.body) != int(answer.headers["Content-Length"]):
        raise LostError(f"the answer was cut off: {answer}")
    return answer


def _was_read(connection: socket.socket) -> bool:
    """Whether all that was sent had been read; asked once the other side has ended."""
    wait_until(lambda: _state(connection) == _CLOSED or not _unacked(connection), "all has arrived")
    return _state(connection) != _CLOSED


def _state(connection: socket.socket) -> int:
    return _info(connection)[0]


def _unacked(connection: socket.socket) -> int:
    return int.from_bytes(_info(connection)[24:28], sys.byteorder)


def _info(connection: socket.socket) -> bytes:
    """The first fields of struct tcp_info (linux/tcp.h): eight bytes, then numbers of four."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
