"""The one object that the HTTP layer knows: a body in, an answer out, and whether it takes any."""

import logging
from typing import Any, Literal

from gpux import protocol
from gpux.deadline import Watchdog
from gpux.errors import InferenceError, UnavailableError
from gpux.model import Model

logger = logging.getLogger(__name__)

Status = Literal["healthy", "draining"]


class Engine:
    """Serves one model. Any number of threads may call it at once.

    Args:
        model: a loaded one.
        timeout_seconds: a run that takes longer is stopped; None for no limit.
    """

    def __init__(self, model: Model, timeout_seconds: float | None = None) -> None:
        self.model = model
        self._watchdog = None if timeout_seconds is None else Watchdog(timeout_seconds)
        self._status: Status = "healthy"

    @property
    def status(self) -> Status:
        """`healthy` while requests are taken, `draining` once the server is on its way out."""
        return self._status

    def drain(self) -> None:
        """From now on requests are refused; those in flight go on."""
        self._status = "draining"

    def predict(self, body: bytes) -> bytes:
        """Answers one request, in the calling thread.

        Args:
            body: any bytes; see protocol.decode.

        Returns:
            The answer's JSON text.

        Raises:
            ClientError: the request is wrong.
            ServiceError: it may be right, but could not be answered.
        """
        if self._status == "draining":
            raise UnavailableError("The server is draining: it takes no new requests")
        try:
            request = protocol.decode(body, self.model.inputs)
            try:
                return protocol.encode(self.model.run(request, self._watchdog))
            finally:
                request.release()
        except InferenceError as error:
            logger.error("Inference failed: %s", error.__cause__)  # whole, for the operator
            raise

    def health(self) -> dict[str, str]:
        """What /health says."""
        return {"status": self._status, "model": self.model.name}

    def info(self) -> dict[str, Any]:
        """What /info says."""
        return self.model.describe()
