"""The outcome of a request whose server shuts down: answered, never read, or lost.

From a connection that closes without a response, a client cannot tell whether the server had read
the request. The kernel can (Linux): a connection is reset if it is closed with unread bytes, or if
bytes arrive after that (RFC 2525, 2.17), and closes in order if every byte was read.
"""

import socket
import sys

from tests.support.servers import Client, Response, wait_until

_CLOSED = 7  # TCP_CLOSE of linux/tcp_states.h: the state after a reset
_INFO_BYTES = 32


class LostError(AssertionError):
    """A server read a request and did not send a complete response."""


def exchange(client: Client, request: bytes) -> Response | None:
    """Sends a request, and nothing more before its response.

    Returns:
        The response; None if the server ended before it had read the request.

    Raises:
        LostError: it had read the request, and sent no complete response.
    """
    try:
        client.send(request)
        first = client.stream.peek(1)
    except ConnectionError:
        return None
    if not first:
        if _was_read(client.socket):
            raise LostError("the request was read, and the connection closed without an answer")
        return None
    try:
        response = client.read()
    except ConnectionError as error:
        raise LostError(f"the answer was cut off: {error}") from error
    if len(response.body) != int(response.headers["Content-Length"]):
        raise LostError(f"the answer was cut off: {response}")
    return response


def _was_read(connection: socket.socket) -> bool:
    """Whether everything sent had been read. To be called once the other side has ended."""
    wait_until(lambda: _state(connection) == _CLOSED or not _unacked(connection), "all has arrived")
    return _state(connection) != _CLOSED


def _state(connection: socket.socket) -> int:
    return _info(connection)[0]


def _unacked(connection: socket.socket) -> int:
    return int.from_bytes(_info(connection)[24:28], sys.byteorder)


def _info(connection: socket.socket) -> bytes:
    """The first fields of struct tcp_info (linux/tcp.h): eight bytes, then 32-bit integers."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
