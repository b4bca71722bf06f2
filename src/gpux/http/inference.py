"""What a request to POST /predict means, whoever hosts it: the server's loop, WSGI or ASGI."""

import logging
import time
from collections.abc import Callable
from typing import Protocol

from gpux._fastpath import Body
from gpux.errors import ClientError, ClientGoneError, InferenceError, UnavailableError
from gpux.execution.deadline import Deadline
from gpux.http.error_responses import JSON, error_response
from gpux.http.headers import check_headers, read_timeout
from gpux.http.responses import Response
from gpux.observability.timings import Stages
from gpux.serving.admission import Permit
from gpux.serving.scheduler import Job, Result
from gpux.serving.service import Service

logger = logging.getLogger(__name__)

# WSGI environment key: the Stages of a request to /predict.
STAGES = "gpux.stages"

Respond = Callable[[Response], None]


class Caller(Protocol):
    """Calls a function in the thread of the service's loop: see Background.call()."""

    def __call__(
        self, function: Callable[[Respond], object], timeout_seconds: float, /
    ) -> Response: ...


class Inference:
    """One request to POST /predict, from its headers to its response.

    Args:
        service: takes the request.
        content_type, content_encoding, timeout: the values of the headers Content-Type,
            Content-Encoding and X-Request-Timeout; None without them.

    Raises:
        ClientError: by its headers, the request is invalid. Nothing has been counted.

    Made by any thread; but for respond_at_once(), used by the service's loop.

    Attributes:
        stages: the durations of its stages.
        timeout_seconds: of the request.
    """

    __slots__ = (
        "_arrival_seconds",
        "_job",
        "_permit",
        "_respond",
        "_service",
        "stages",
        "timeout_seconds",
    )

    def __init__(
        self,
        service: Service,
        content_type: str | None,
        content_encoding: str | None,
        timeout: str | None,
    ) -> None:
        check_headers(content_type, content_encoding)
        limit = read_timeout(timeout)
        self._service = service
        self.timeout_seconds = service.timeout_seconds
        if limit is not None:
            self.timeout_seconds = min(limit, service.timeout_seconds)
        self._permit: Permit | None = None
        self._job: Job | None = None
        self._respond: Respond | None = None
        self._arrival_seconds = 0.0
        self.stages = Stages(read=0.0)

    def respond_at_once(self, body: bytes | Body) -> Response | None:
        """Runs the model in the calling thread, if that takes less than the way to another.

        Args:
            body: any bytes, or a complete Body.

        Returns:
            The response; None to submit() the body.
        """
        self._arrival_seconds = time.monotonic()
        result = self._service.respond(body, self._deadline(), self.stages)
        return None if result is None else self._response(result)

    def submit(self, body: bytes | Body, respond: Respond) -> None:
        """Runs the model on the body.

        Args:
            body: any bytes, or a complete Body.
            respond: called once, with the response, unless abandon() is called before.
        """
        response = self.respond_at_once(body)
        if response is None:
            try:
                self._permit = self._service.admit(len(body))
            except UnavailableError as error:
                response = error_response(error)
        if response is not None:
            respond(response)
            return
        self._respond = respond
        self._job = self._service.submit(body, self._deadline(), self.stages, self._done)

    def abandon(self) -> None:
        """Drops the request: its client has left."""
        self._respond = None
        job, self._job = self._job, None
        if job is not None and not job.is_over:
            self._service.cancel(job)
            self._count(ClientGoneError.status)
        self._release()

    def _done(self, result: Result) -> None:
        """Responds with the result of a job."""
        self._release()
        respond, self._respond = self._respond, None  # which may refer to this object
        assert respond is not None
        respond(self._response(result))

    def _deadline(self) -> Deadline:
        return Deadline(self.timeout_seconds, self._arrival_seconds + self.timeout_seconds)

    def _response(self, result: Result) -> Response:
        """The response of a result; counts it."""
        if isinstance(result, Exception):
            if isinstance(result, InferenceError):  # in full, for the operator
                logger.error("Inference failed: %s", result.__cause__ or result)
            response = error_response(result, "POST /predict")
        else:
            response = Response(200, [JSON], result)
        seconds = self._count(response.status)
        response.headers.append(("Server-Timing", self.stages.server_timing(seconds)))
        return response

    def _count(self, status: int) -> float:
        """Counts the request; returns the seconds that it took."""
        seconds = time.monotonic() - self._arrival_seconds
        self._service.metrics.request(status, seconds, self.stages)
        return seconds

    def _release(self) -> None:
        if self._permit is not None:
            self._permit.release()


def refuse(service: Service, error: ClientError) -> Response:
    """Counts a request to /predict that is invalid by its headers; returns its response."""
    service.metrics.request(error.status, 0.0, Stages())
    return error_response(error)
