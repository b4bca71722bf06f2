"""What the server's connections call: one exchange for each request, from headers to response.

POST /predict goes to the service, in the loop's thread. All other requests go to the WSGI app, in a
thread of its own, so that none of them delays the loop.
"""

import asyncio
import io
import sys
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from gpux._engine import Responder
from gpux._fastpath import Body
from gpux.errors import ClientError, ClientGoneError, GpuxError, UnavailableError
from gpux.http.connection import Exchange
from gpux.http.cross_origin import cross_origin_headers
from gpux.http.error_responses import JSON, detail_response, error_response
from gpux.http.head import RequestHead
from gpux.http.inference import Inference, refuse
from gpux.http.middleware import REQUEST_ID_HEADER, Recorders
from gpux.http.responses import Response, common_part
from gpux.observability.logs import current_request_id
from gpux.observability.record import RequestRecord, begin
from gpux.observability.timings import FULL_SERVER_TIMING, Stages
from gpux.serving.scheduler import Result
from gpux.serving.service import Service

_PREDICT = "/predict"
_SCHEME = "http"
# Shorter bodies are negligible beside those that count against the limit of all.
_LONG_BYTES = 2**16
# Behind what common_part() writes, the header section of a model's response, as printf's format.
_MODEL_HEADERS = (
    f"{': '.join(JSON)}\r\nServer-Timing: {FULL_SERVER_TIMING}\r\nContent-Length: %zu\r\n\r\n"
).encode()


class ClientConnection(Protocol):
    """What an exchange needs of the connection of its request.

    Attributes:
        peer: the client's address; empty if it is not known.
    """

    peer: str

    @property
    def buffered_bytes(self) -> int:
        """Bytes of requests that were received and are not handed over yet."""

    def respond(self, exchange: Any, response: Response) -> None:
        """Sends the response of an exchange, if its request is still the present one."""


class LoopApplication:
    """Makes an exchange of each request. Used by the loop's thread only.

    Args:
        service: takes the requests to /predict.
        make_app: makes the WSGI app (PEP 3333) that takes all others, in their thread.
        recorders: get a record of each request.
        loop: the server's.
        max_body_bytes: larger bodies are rejected.
        cors_origins: origins whose pages may read the responses; `*` for all.
        connections: all that are open.
    """

    def __init__(
        self,
        service: Service,
        make_app: Callable[[], Any],
        recorders: Recorders,
        loop: asyncio.AbstractEventLoop,
        max_body_bytes: int,
        cors_origins: Sequence[str] = (),
        connections: Collection[ClientConnection] = (),
    ) -> None:
        self.service = service
        self._connections = connections
        self.recorders = recorders
        self.loop = loop
        self.max_body_bytes = max_body_bytes
        self.cors_origins = cors_origins
        self.routes = ThreadPoolExecutor(1, "routes")
        self.app = self.routes.submit(make_app)
        self._responder: Responder | None = None

    def respond_known(self, received: bytearray, nbytes: int) -> bytes | None:
        """Responds to one request whose header section has been judged before, if that is best.

        Args:
            received: the request. The byte behind it is overwritten.
            nbytes: its length.

        Returns:
            The response with its header section; None if nothing was done.
        """
        if self._responder is None or nbytes > self.max_body_bytes:
            return None
        return self._responder.respond(received, nbytes)

    def begin(self, head: RequestHead, connection: ClientConnection) -> Exchange | Response:
        """Judges a request by its header section; a Response rejects it."""
        if not _is_for_model(head):
            return RouteExchange(self, head, connection)
        try:
            exchange = PredictExchange(self, head, connection)
            self.service.check(self._coming_bytes() if head.has_body_over(_LONG_BYTES) else 0)
        except ClientError as error:
            response = refuse(self.service, error)
        except UnavailableError as error:
            response = error_response(error)
        else:
            self._remember(head, exchange.timeout_seconds)
            return exchange
        return self.finished(response, head, self.record(head, connection, head.content_length))

    def _remember(self, head: RequestHead, timeout_seconds: float) -> None:
        """Has respond_known() know the header section, if its requests need nothing beside."""
        around = head.around_length
        if around is None or self.recorders or self.cors_origins:
            return
        if self._responder is None:
            self._responder = self.service.responder(_start_response, _MODEL_HEADERS)
        if self._responder is not None:
            self._responder.remember(*around, timeout_seconds)

    def _coming_bytes(self) -> int:
        """What has come of bodies that are not complete."""
        return sum(connection.buffered_bytes for connection in self._connections)

    def reject(
        self, head: RequestHead | None, status: int, detail: str, connection: ClientConnection
    ) -> Response:
        """The response of a request that the connection rejects."""
        if head is not None and _is_for_model(head):
            self.service.metrics.request(status, 0.0, Stages())
        nbytes = None if head is None else head.content_length
        record = self.record(head, connection, nbytes)
        return self.finished(detail_response(status, detail), head, record)

    def record(
        self, head: RequestHead | None, connection: ClientConnection, nbytes: int | None = None
    ) -> RequestRecord | None:
        """The record of a request that has come; None if nobody asks for records."""
        if not self.recorders:
            return None
        return begin(environment_of(head, connection, nbytes), time.monotonic())

    def finished(
        self,
        response: Response,
        head: RequestHead | None,
        record: RequestRecord | None,
        stages: Stages | None = None,
    ) -> Response:
        """The response of this server's own, with the headers that all have; records it."""
        if self.cors_origins:
            origin = head.get(b"origin") if head is not None else None
            response.headers += cross_origin_headers(origin, self.cors_origins)
        self.recorded(response, head, record, stages)
        return response

    def recorded(
        self,
        response: Response,
        head: RequestHead | None,
        record: RequestRecord | None,
        stages: Stages | None = None,
    ) -> None:
        """Records a response, and says by which id."""
        if record is None:
            return
        response.headers.append((REQUEST_ID_HEADER, record.request_id))
        record.status = response.status
        if head is None or head.method != "HEAD":
            record.sent_bytes = memoryview(response.body).nbytes
        record.end(stages)
        self.recorders.record(record)

    def close(self) -> None:
        """Ends the thread of the other routes."""
        self.routes.shutdown(wait=False, cancel_futures=True)


class PredictExchange(Inference):
    """A request to POST /predict."""

    __slots__ = ("_application", "_connection", "_head", "_record")

    def __init__(
        self, application: LoopApplication, head: RequestHead, connection: ClientConnection
    ) -> None:
        super().__init__(
            application.service,
            _text(head.get(b"content-type")),
            _text(head.get(b"content-encoding")),
            _text(head.get(b"x-request-timeout")),
        )
        self._application = application
        self._head = head
        self._connection = connection
        self._record: RequestRecord | None = None

    def receive(self, body: bytes | Body) -> None:
        """Takes the complete body."""
        self._record = self._application.record(self._head, self._connection, len(body))
        self.submit(body, self._send)

    def abandon(self) -> None:
        """Drops the request: its client has left, or its body cannot be read."""
        has_run = self._record
        super().abandon()
        if has_run is not None:
            self._record = None
            has_run.status = ClientGoneError.status
            has_run.end(self.stages)
            self._application.recorders.record(has_run)

    def _response(self, result: Result) -> Response:
        if self._record is None:
            return super()._response(result)
        token = current_request_id.set(self._record.request_id)  # for what is logged of it
        try:
            return super()._response(result)
        finally:
            current_request_id.reset(token)

    def _send(self, response: Response) -> None:
        record, self._record = self._record, None
        application = self._application
        if record is not None or application.cors_origins:
            application.finished(response, self._head, record, self.stages)
        self._connection.respond(self, response)


class RouteExchange:
    """A request to any other route, for the WSGI app."""

    __slots__ = ("_application", "_connection", "_head", "_record")

    def __init__(
        self, application: LoopApplication, head: RequestHead, connection: ClientConnection
    ) -> None:
        self._application = application
        self._head = head
        self._connection = connection
        self._record: RequestRecord | None = None

    def receive(self, body: bytes | Body) -> None:
        """Takes the complete body."""
        application = self._application
        self._record = application.record(self._head, self._connection, len(body))
        environment = environment_of(self._head, self._connection, len(body))
        environment["wsgi.input"] = io.BytesIO(body)
        application.routes.submit(self._respond, environment)

    def abandon(self) -> None:
        """Drops the response."""

    def _respond(self, environment: dict[str, Any]) -> None:
        """Calls the app, in the thread for that."""
        if self._record is not None:
            current_request_id.set(self._record.request_id)
        try:
            response = call_app(self._application.app.result(), environment)
        except Exception as error:
            response = error_response(error, f"{self._head.method} {self._head.path}")
        self._application.loop.call_soon_threadsafe(self._send, response)

    def _send(self, response: Response) -> None:
        self._application.recorded(response, self._head, self._record)
        self._connection.respond(self, response)


def call_app(app: Callable[..., Any], environment: dict[str, Any]) -> Response:
    """Calls a WSGI app, and collects its response."""
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], error: object = None
    ) -> Callable[[bytes], object]:
        del error
        started.append((status, headers))
        raise_if_called: Callable[[bytes], object] = _write
        return raise_if_called

    iterable = app(environment, start_response)
    try:
        body = b"".join(iterable)
    finally:
        if hasattr(iterable, "close"):
            iterable.close()
    status, headers = started[-1]
    # Names as they are mostly written, whatever the app has.
    # The length is the server's to state, but for HEAD, whose response has no body.
    is_head = environment["REQUEST_METHOD"] == "HEAD"
    own = [
        (name.title(), value)
        for name, value in headers
        if is_head or name.lower() != "content-length"
    ]
    return Response(int(status[:3]), own, body)


def _write(data: bytes) -> None:
    raise GpuxError(f"start_response()'s write() is not supported: {len(data)} bytes")


def environment_of(
    head: RequestHead | None, connection: ClientConnection, nbytes: int | None
) -> dict[str, Any]:
    """The WSGI environment of a request (PEP 3333), without its body.

    Args:
        head: None for a request that could not be parsed.
        connection: that it came over.
        nbytes: the length of its body; None if that is not known.
    """
    environment = {
        "REQUEST_METHOD": "",
        "SCRIPT_NAME": "",
        "PATH_INFO": "",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "0",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": connection.peer,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": _SCHEME,
        "wsgi.errors": sys.stderr,
        "wsgi.input_terminated": True,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    if head is None:
        return environment
    for name, value in head.headers:
        key = name.decode("latin-1").upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        text = value.decode("latin-1")
        environment[key] = f"{environment[key]}, {text}" if key in environment else text
    environment["REQUEST_METHOD"] = head.method
    environment["PATH_INFO"] = head.path
    environment["QUERY_STRING"] = head.query
    environment["SERVER_PROTOCOL"] = f"HTTP/{head.version}"
    if nbytes is not None:
        environment["CONTENT_LENGTH"] = str(nbytes)
    return environment


def _start_response(epoch_seconds: int) -> bytes:
    return common_part(200, None, epoch_seconds).encode("latin-1")


def _is_for_model(head: RequestHead) -> bool:
    """Whether a request is POST /predict, as the app's router has it."""
    if head.method != "POST":
        return False
    return head.path == _PREDICT or head.path.lstrip("/") == _PREDICT.lstrip("/")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
