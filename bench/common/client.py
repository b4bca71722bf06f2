"""A client with one keep-alive connection."""

import http.client
import time

from common.report import CannotMeasureError

HOST = "127.0.0.1"
_PATIENCE_SECONDS = 120.0


class Client:
    """A client with one keep-alive connection. For one thread.

    Args:
        name: the server's name, for errors.
        port: its port on HOST.
        path: of the inference route.
    """

    def __init__(self, name: str, port: int, path: str = "/predict") -> None:
        self._name = name
        self._path = path
        self._connection = http.client.HTTPConnection(HOST, port, timeout=_PATIENCE_SECONDS)

    def post(self, body: bytes) -> tuple[float, bytes]:
        """Posts a body.

        Returns:
            Seconds from before the first byte sent to after the last byte read, and the body.

        Raises:
            CannotMeasureError: the status is not 200, or there is no response.
        """
        start = time.perf_counter()
        try:
            self._connection.request("POST", self._path, body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CannotMeasureError(f"{self._name} did not respond: {error}") from error
        seconds = time.perf_counter() - start
        if response.status != 200:
            raise CannotMeasureError(f"{self._name}: {response.status} {text[:500]!r}")
        return seconds, text

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()
