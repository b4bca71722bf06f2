"""The WSGI app: all routes, for any host. The only importer of falcon.

`gpux serve` responds to POST /predict itself (exchange.py); its other routes are this app's.
"""

import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

import falcon

from gpux.errors import BodyTooLargeError, ClientError, InvalidJSONError
from gpux.http.cross_origin import EXPOSED_HEADERS
from gpux.http.error_responses import error_response, json_bytes
from gpux.http.headers import MEDIA_TYPE
from gpux.http.inference import STAGES, Caller, Inference, refuse
from gpux.http.responses import Response
from gpux.serving.service import Service

_MAX_QUOTED_PATH = 100
# What the loop is given beyond a request's own deadline before its caller gives up.
_PATIENCE_SECONDS = 5.0
_MAX_REFUSE_SECONDS = 60.0


def create_app(
    service: Service, call: Caller, max_body_bytes: int, cors_origins: Sequence[str] = ()
) -> falcon.App[falcon.Request, falcon.Response]:
    """Creates the WSGI app.

    Args:
        service: serves the requests.
        call: calls the service.
        max_body_bytes: larger bodies are rejected with 413.
        cors_origins: origins whose pages may read the responses; `*` for all.
    """
    middleware = [CrossOrigin(cors_origins)] if cors_origins else []
    app = falcon.App(media_type=MEDIA_TYPE, middleware=middleware)
    health = Health(service)
    app.add_route("/predict", Predict(service, call, max_body_bytes))
    app.add_route("/health", health)
    app.add_route("/health/live", Live(service))
    app.add_route("/health/ready", health)
    app.add_route("/info", Info(service))
    # Last: compiles the router now, and not at the first request.
    app.add_route("/metrics", MetricsPage(service), compile=True)
    app.add_error_handler(Exception, _handle_error)
    app.add_error_handler(falcon.HTTPError, _handle_http_error)
    app.add_error_handler(falcon.HTTPStatus, _handle_http_status)
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

    def __init__(self, service: Service, call: Caller, max_body_bytes: int) -> None:
        self._service = service
        self._call = call
        self._max_body_bytes = max_body_bytes

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        response = self._respond(req)
        resp.status = response.status
        resp.data = bytes(response.body)
        for name, value in response.headers:
            resp.set_header(name, value)

    def _respond(self, req: falcon.Request) -> Response:
        get = req.env.get
        service = self._service
        try:
            inference = Inference(
                service,
                req.content_type,
                get("HTTP_CONTENT_ENCODING"),
                get("HTTP_X_REQUEST_TIMEOUT"),
            )
            start = time.perf_counter()
            body = read_body(req.env, req.content_length, self._max_body_bytes)
        except ClientError as error:
            refused = error  # which Python forgets at the end of this clause
            return self._call(
                lambda respond: respond(refuse(service, refused)), _MAX_REFUSE_SECONDS
            )
        inference.stages.read = time.perf_counter() - start
        req.env[STAGES] = inference.stages
        response = inference.respond_at_once(body)
        if response is not None:
            return response
        patience_seconds = service.timeout_seconds + _PATIENCE_SECONDS
        return self._call(lambda respond: inference.submit(body, respond), patience_seconds)


class Health:
    """GET /health and /health/ready: whether the server accepts requests."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        health = self._service.health()
        resp.status = 200 if health["status"] == "healthy" else 503
        resp.data = json_bytes(health)


class Live:
    """GET /health/live: whether the process responds."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        del req
        resp.data = json_bytes(self._service.health())


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
        resp.data = json_bytes(self._service.engine.info())


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
    req: falcon.Request, resp: falcon.Response, error: Exception, params: object
) -> None:
    """Handles our own errors, and unexpected exceptions."""
    del params
    response = error_response(error, f"{req.method} {req.path}")
    resp.status = response.status
    resp.data = bytes(response.body)
    for name, value in response.headers:
        resp.set_header(name, value)


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
    resp.data = json_bytes({"detail": detail})


def _handle_http_status(
    req: falcon.Request, resp: falcon.Response, status: falcon.HTTPStatus, params: object
) -> None:
    """Handles Falcon's own responses that are not errors: leaves them unchanged."""
    del req, params
    resp.status = status.status
    resp.text = status.text


def _quote(path: str) -> str:
    return path if len(path) <= _MAX_QUOTED_PATH else path[:_MAX_QUOTED_PATH] + "…"
