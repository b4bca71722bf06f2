"""A minimal client with one connection, so that what it measures is the server."""

import socket
import time
from collections.abc import Mapping

from report import CannotMeasureError

_HOST = "127.0.0.1"
_PATIENCE_SECONDS = 60.0


class Line:
    """A minimal client with one keep-alive connection.

    Args:
        name: the server's name, for errors.
        port: the server's port.
        body: the body of every request.
    """

    def __init__(self, name: str, port: int, body: bytes) -> None:
        self._name = name
        self._socket = socket.create_connection((_HOST, port), _PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    def ask(self) -> tuple[float, bytes, bytes]:
        """Sends one request.

        Returns:
            Seconds from before the first byte sent to after the last one read; the response's
            header section; its body.

        Raises:
            CannotMeasureError: the status is not 200, or there is no response.
        """
        start = time.perf_counter()
        try:
            self._socket.sendall(self._request)
            head, body = self._receive()
        except OSError as error:
            raise CannotMeasureError(f"{self._name} did not answer: {error}") from error
        seconds = time.perf_counter() - start
        if not head.startswith(b"HTTP/1.1 200 "):
            raise CannotMeasureError(f"{self._name} answered {head[:100]!r}: {body[:500]!r}")
        return seconds, head, body

    def _receive(self) -> tuple[bytes, bytes]:
        received = b""
        while True:
            more = self._socket.recv(2**20)
            if not more:
                raise CannotMeasureError(f"{self._name} closed the connection")
            received += more
            head, end, body = received.partition(b"\r\n\r\n")
            if not end:
                continue
            _, _, behind = head.lower().partition(b"content-length:")
            left = int(behind.partition(b"\r\n")[0]) - len(body)
            if left <= 0:
                return head, body
            pieces = [body]
            while left > 0:
                piece = self._socket.recv(min(left, 2**20))
                if not piece:
                    raise CannotMeasureError(f"{self._name} closed the connection")
                pieces.append(piece)
                left -= len(piece)
            return head, b"".join(pieces)

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()


def server_timing(head: bytes) -> Mapping[str, float]:
    """Parses the `Server-Timing` of a response: seconds by stage.

    Args:
        head: the header section.

    Source: the W3C's Server Timing, "The Server-Timing Header Field".
    """
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "server-timing":
            metrics = [metric.strip().partition(";dur=") for metric in value.split(",")]
            seconds = {stage: float(taken) / 1e3 for stage, _, taken in metrics if taken}
            seconds.pop("total", None)  # the sum, not a stage
            return seconds
    return {}
