"""What granian calls with a request, and the WSGI app that answers it.

granian hands a request over as soon as its head is there, and its body is waited for in the thread
that is to answer it. So there is a thread for each connection, and the app is called when the body
has been read, as under waitress: slow clients keep nobody else waiting, and none of them counts.
"""

import io
import sys
import time
from collections.abc import Callable
from typing import Any

# What a refused client may still send before the connection is cut: bytes, and seconds.
_LINGER_BYTES = 256 * 2**20
_LINGER_SECONDS = 10.0
_PIECE_BYTES = 2**16

_ENVIRONMENT = {
    "SCRIPT_NAME": "",
    "wsgi.errors": sys.stderr,
    "wsgi.input_terminated": True,
    "wsgi.multiprocess": True,
    "wsgi.multithread": True,
    "wsgi.run_once": False,
    "wsgi.version": (1, 0),
}
_SERVER = ("Server", "gpux")
_BROKEN_OFF = b'{"detail": "The body ended before its declared length"}'


class Gateway:
    """Any number of threads may call it at once.

    Args:
        app: a WSGI app.
        max_body_bytes: of larger bodies no more is read; the app refuses them.
    """

    def __init__(self, app: Any, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    def __call__(self, protocol: Any, environment: dict[str, Any]) -> None:
        """Answers a request.

        Args:
            protocol: granian's, which takes the answer.
            environment: granian's part of PEP 3333's.
        """
        environment.update(_ENVIRONMENT)
        stream = environment["wsgi.input"]
        limit, is_read = self._max_body_bytes, True
        if "HTTP_TRANSFER_ENCODING" in environment:
            # One that breaks off, or is no chunk, ends the stream: what came before is the body.
            body = stream.read(limit + 1)
            environment["CONTENT_LENGTH"] = str(len(body))
            environment["wsgi.input"] = io.BytesIO(body)
            is_read = len(body) <= limit
        else:
            declared = int(environment.get("CONTENT_LENGTH") or 0)
            if declared > limit:
                is_read = False
            elif declared:
                # No more than was declared comes, and granian gathers what it is not told the size
                # of without copying it for each piece.
                body = stream.read()
                if len(body) < declared:  # the client has left
                    headers = [("Content-Type", "application/json"), _SERVER]
                    protocol.response_bytes(400, headers, _BROKEN_OFF)
                    return
                environment["wsgi.input"] = io.BytesIO(body)
        start = _Start()
        answer = self._app(environment, start)
        body = b"".join(answer)
        if is_read:
            protocol.response_bytes(start.status, start.headers, body)
        else:
            # Nothing is to come where the client still waits for `100 Continue`.
            linger = None if "HTTP_EXPECT" in environment else stream.read
            protocol.response_iter(start.status, start.headers, _Refusal(body, linger))
        if hasattr(answer, "close"):
            answer.close()


class _Start:
    """PEP 3333's start_response."""

    __slots__ = ("headers", "status")

    def __call__(self, status: str, headers: list[tuple[str, str]], error: object = None) -> None:
        del error
        self.status = int(status[:3])
        headers.append(_SERVER)
        self.headers = headers


class _Refusal:
    """An answer that is given before its request was read, and what still comes, discarded.

    Closing with unread bytes would reset the connection, and the client would lose the answer
    (RFC 9112, 9.6).

    Args:
        body: of the answer.
        read: reads from the request; None for nothing.
    """

    def __init__(self, body: bytes, read: Callable[[int], bytes] | None) -> None:
        self._pieces = [body]
        self._read = read

    def __next__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        until, left = time.monotonic() + _LINGER_SECONDS, _LINGER_BYTES
        while self._read is not None and left > 0 and time.monotonic() < until:
            piece = self._read(_PIECE_BYTES)
            if not piece:
                break
            left -= len(piece)
        raise StopIteration

    def close(self) -> None:
        """Called by granian at the end."""
