"""The routes: HTTP ↔ service, and the one place where an error becomes a status.

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
from gpux.observability.metrics import CONTENT_TYPE
from gpux.observability.timings import Stages
from gpux.serving.service import Service

logger = logging.getLogger(__name__)

_MAX_QUOTED_PATH = 100
# In the environment of a request that the server has counted in already: when, on the monotonic
# clock.
ADMITTED = "gpux.admitted"
# There, once it has been answered: the Stages of a request to /predict.
STAGES = "gpux.stages"
# What pages of other origins may read beside the body.
EXPOSED_HEADERS = "Retry-After, X-Request-Id"


def create_app(
    service: Service, max_body_bytes: int, cors_origins: Sequence[str] = ()
) -> falcon.App[falcon.Request, falcon.Response]:
    """A WSGI app.

    Args:
        service: answers the requests.
        max_body_bytes: larger bodies are refused with 413.
        cors_origins: the origins whose pages may read the answers; `*` for all.
    """
    middleware = [CrossOrigin(cors_origins)] if cors_origins else []
    app = falcon.App(media_type=MEDIA_TYPE, middleware=middleware)
    health = Health(service)
    app.add_route("/predict", Predict(service, max_body_bytes))
    app.add_route("/health", health)
    app.add_route("/health/live", Live(service))
    app.add_route("/health/ready", health)
    app.add_route("/info", Info(service))
    # The last one: the router is compiled now, and not at the first request.
    app.add_route("/metrics", MetricsPage(service), compile=True)
    app.add_error_handler(Exception, _answer_bug)
    app.add_error_handler(falcon.HTTPError, _answer_http_error)
    app.add_error_handler(falcon.HTTPStatus, _answer_http_status)
    app.add_error_handler(ClientError, _answer_error)
    app.add_error_handler(ServiceError, _answer_error)
    return app


class CrossOrigin(falcon.CORSMiddleware):  # type: ignore[type-arg]  # those of ASGI
    """Lets pages of other origins read the answers, errors included.

    Args:
        origins: which; `*` for all.

    Source: the Fetch standard, 3.2 (CORS protocol).
    """

    def __init__(self, origins: Sequence[str]) -> None:
        super().__init__("*" if "*" in origins else origins, expose_headers=EXPOSED_HEADERS)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Adds the headers that the browser asks for."""
        super().process_response(req, resp, resource, req_succeeded)
        if self.allow_origins != "*":
            resp.append_header("Vary", "Origin")  # caches must tell the answers apart


class Predict:
    """POST /predict: runs the model on the body."""

    def __init__(self, service: Service, max_body_bytes: int) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        arrival_seconds = req.env.get(ADMITTED)
        if arrival_seconds is not None:
            self._answer(req, resp, arrival_seconds)
            return
        nbytes = req.content_length or 0
        with self._service.admit(nbytes):
            self._answer(req, resp, time.monotonic())

    def _answer(self, req: falcon.Request, resp: falcon.Response, arrival_seconds: float) -> None:
        """Answers a request that has been counted in."""
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
    """GET /health, /health/ready: whether the server takes traffic."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        health = self._service.health()
        resp.status = 200 if health["status"] == "healthy" else 503
        resp.data = _json(health)


class Live:
    """GET /health/live: the process answers."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        resp.data = _json(self._service.health())


class MetricsPage:
    """GET /metrics: Prometheus' text."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        resp.content_type = CONTENT_TYPE
        resp.data = self._service.metrics.text()


class Info:
    """GET /info: the model."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        resp.data = _json(self._service.engine.info())


def read_body(environment: Mapping[str, Any], declared: int | None, limit_bytes: int) -> bytes:
    """The whole body of a request.

    Args:
        environment: WSGI's (PEP 3333).
        declared: its length in bytes, if the client told.
        limit_bytes: a larger body is refused.

    Raises:
        BodyTooLargeError: before anything is read where the length is declared.
        InvalidJSONError: the body ended before its declared length.
    """
    stream = environment["wsgi.input"]
    if declared is None:
        # Only a server that ends the stream by itself can be read from without a length (PEP 3333
        # has no such promise; waitress gives it, for chunked bodies).
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
    """Bytes of a stream that nobody has read from yet."""
    if type(stream) is io.BytesIO:
        body = stream.getvalue()  # shares what the server collected; read() would copy it
        return body if len(body) <= max_bytes else body[:max_bytes]
    read: bytes = stream.read(max_bytes)
    return read


def _answer_error(
    req: falcon.Request, resp: falcon.Response, error: ClientError | ServiceError, params: object
) -> None:
    del req, params
    resp.status = error.status
    resp.data = _detail(str(error))
    if isinstance(error, UnavailableError):
        resp.set_header("Retry-After", str(error.retry_after_seconds))


def _answer_http_error(
    req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: object
) -> None:
    """What Falcon itself refuses: routes, methods, headers that it parses."""
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


def _answer_http_status(
    req: falcon.Request, resp: falcon.Response, status: falcon.HTTPStatus, params: object
) -> None:
    """Falcon's own answers that are no errors, as they are."""
    del req, params
    resp.status = status.status
    resp.text = status.text


def _answer_bug(
    req: falcon.Request, resp: falcon.Response, error: Exception, params: object
) -> None:
    """Nothing should end here; where something does, the log has it all and the client nothing."""
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
