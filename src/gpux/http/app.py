"""The WSGI app's routes, from HTTP to the service; the only place that maps errors to statuses.

The only importer of falcon.
"""

import io
import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import falcon

from gpux.errors import (
    BodyTooLargeError,
    ClientError,
    InvalidJSONError,
    ServiceError,
    UnavailableError,
)
from gpux.http.headers import MEDIA_TYPE, check_headers, read_timeout
from gpux.observability.timings import Stages
from gpux.serving.service import Service

logger = logging.getLogger(__name__)

_MAX_QUOTED_PATH = 100
# WSGI environment key: arrival time of a request that the server has admitted already, on the
# monotonic clock.
ADMITTED = "gpux.admitted"
# WSGI environment key: the Stages of a request to /predict.
STAGES = "gpux.stages"
# Response headers that pages of other origins may read (Access-Control-Expose-Headers).
EXPOSED_HEADERS = "Retry-After, X-Request-Id"


def create_app(
    service: Service, max_body_bytes: int, cors_origins: Sequence[str] = ()
) -> falcon.App[falcon.Request, falcon.Response]:
    """Creates the WSGI app.

    Args:
        service: serves the requests.
        max_body_bytes: larger bodies are rejected with 413.
        cors_origins: origins whose pages may read the responses; `*` for all.
    """
    middleware = [CrossOrigin(cors_origins)] if cors_origins else []
    app = falcon.App(media_type=MEDIA_TYPE, middleware=middleware)
    health = Health(service)
    app.add_route("/predict", Predict(service, max_body_bytes))
    app.add_route("/health", health)
    app.add_route("/health/live", Live(service))
    app.add_route("/health/ready", health)
    app.add_route("/info", Info(service))
    # Last: compiles the router now, and not at the first request.
    app.add_route("/metrics", MetricsPage(service), compile=True)
    app.add_error_handler(Exception, _handle_bug)
    app.add_error_handler(falcon.HTTPError, _handle_http_error)
    app.add_error_handler(falcon.HTTPStatus, _handle_http_status)
    app.add_error_handler(ClientError, _handle_error)
    app.add_error_handler(ServiceError, _handle_error)
    return app


class CrossOrigin(falcon.CORSMiddleware):  # type: ignore[type-arg]  # those of ASGI
    """Lets pages of other origins read the responses, including errors (CORS).

    Args:
        origins: the allowed ones; `*` for all.

    Source: the Fetch standard, 3.2 (CORS protocol).
    """

    def __init__(self, origins: Sequence[str]) -> None:
        super().__init__("*" if "*" in origins else origins, expose_headers=EXPOSED_HEADERS)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Adds the CORS headers."""
        super().process_response(req, resp, resource, req_succeeded)
        if self.allow_origins != "*":
            resp.append_header("Vary", "Origin")  # caches must keep responses per origin


class Predict:
    """POST /predict: runs the model on the body."""

    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        arrival_seconds = req.env.get(ADMITTED)
        if arrival_seconds is not None:
            self._respond(req, resp, arrival_seconds)
            return
        nbytes = req.content_length or 0
        with self._service.admit(nbytes):
            self._respond(req, resp, time.monotonic())

    def _respond(self, req: falcon.Request, resp: falcon.Response, arrival_seconds: float) -> None:
        """Responds to a request that has been admitted."""
        stages = req.env[STAGES] = Stages()
        status = 500
        try:
            encoding = req.env.get("HTTP_CONTENT_ENCODING")
            check_headers(req.content_type, encoding)
            timeout_seconds = read_timeout(req.env.get("HTTP_X_REQUEST_TIMEOUT"))
            start = time.perf_counter()
            body = read_body(req.env, req.content_length, self._max_body_bytes)
            stages.read = time.perf_counter() - start
            resp.data = self._service.engine.predict(
                body,
                arrival_seconds=arrival_seconds,
                timeout_seconds=timeout_seconds,
                is_gone=req.env.get("waitress.client_disconnected"),
                stages=stages,
            )
            status = 200
        except (ClientError, ServiceError) as error:
            status = error.status
            raise
        finally:
            seconds = time.monotonic() - arrival_seconds
            self._service.metrics.request(status, seconds, stages)
            resp.set_header("Server-Timing", stages.server_timing(seconds))


class Health:
    """GET /health and /health/ready: whether the server accepts requests."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        health = self._service.health()
        resp.status = 200 if health["status"] == "healthy" else 503
        resp.data = _json(health)


class Live:
    """GET /health/live: whether the process responds."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        resp.data = _json(self._service.health())


class MetricsPage:
    """GET /metrics: the metrics in Prometheus' text format."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        # Slow to import: not for a server that nobody scrapes.
        from gpux.observability.exposition import CONTENT_TYPE, text_of

        resp.content_type = CONTENT_TYPE
        resp.data = text_of(self._service.metrics)


class Info:
    """GET /info: describes the model and how it is served."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        resp.data = _json(self._service.engine.info())


def read_body(environment: Mapping[str, Any], declared: int | None, limit_bytes: int) -> bytes:
    """Reads the whole body of a request.

    Args:
        environment: WSGI's (PEP 3333).
        declared: the Content-Length in bytes; None without one.
        limit_bytes: larger bodies are rejected.

    Raises:
        BodyTooLargeError: the body is too large; raised before reading if its length is declared.
        InvalidJSONError: the body is shorter than declared.
    """
    stream = environment["wsgi.input"]
    if declared is None:
        # Without a length only a stream that the server terminates can be read. PEP 3333 does not
        # require that; waitress does it for chunked bodies.
        is_terminated = environment.get("wsgi.input_terminated", False)
        body = _read(stream, limit_bytes + 1) if is_terminated else b""
        if len(body) > limit_bytes:
            raise BodyTooLargeError(limit_bytes)
        return body
    if declared > limit_bytes:
        raise BodyTooLargeError(limit_bytes)
    body = _read(stream, declared)
    if len(body) < declared:
        raise InvalidJSONError(len(body), f"the body ends here, {declared} bytes were declared")
    return body


def _read(stream: Any, max_bytes: int) -> bytes:
    """Reads from a stream that is still at its start."""
    if type(stream) is io.BytesIO:
        body = stream.getvalue()  # shares the server's buffer; read() would copy it
        return body if len(body) <= max_bytes else body[:max_bytes]
    read: bytes = stream.read(max_bytes)
    return read


def _handle_error(
    req: falcon.Request, resp: falcon.Response, error: ClientError | ServiceError, params: object
) -> None:
    del req, params
    resp.status = error.status
    resp.data = _detail(str(error))
    if isinstance(error, UnavailableError):
        resp.set_header("Retry-After", str(error.retry_after_seconds))


def _handle_http_error(
    req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: object
) -> None:
    """Handles Falcon's own errors: routes, methods, headers that it parses."""
    del params
    resp.status = error.status
    for name, value in dict(error.headers or {}).items():
        resp.set_header(name, value)
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        allowed = resp.get_header("Allow") or ""
        detail = f"{req.method} is not allowed for {_quote(req.path)}: it takes {allowed}"
    elif isinstance(error, falcon.HTTPNotFound):
        detail = f"No such route: {_quote(req.path)}"
    else:
        detail = error.description or error.title or str(error.status)
    resp.data = _detail(detail)


def _handle_http_status(
    req: falcon.Request, resp: falcon.Response, status: falcon.HTTPStatus, params: object
) -> None:
    """Handles Falcon's own responses that are not errors: leaves them unchanged."""
    del req, params
    resp.status = status.status
    resp.text = status.text


def _handle_bug(
    req: falcon.Request, resp: falcon.Response, error: Exception, params: object
) -> None:
    """Handles unexpected exceptions: the traceback goes to the log, no detail to the client."""
    del params
    logger.error("%s %s failed", req.method, req.path, exc_info=error)
    resp.status = 500
    resp.data = _detail("Internal server error")


def _detail(text: str) -> bytes:
    return _json({"detail": text})


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _quote(path: str) -> str:
    return path if len(path) <= _MAX_QUOTED_PATH else path[:_MAX_QUOTED_PATH] + "…"
