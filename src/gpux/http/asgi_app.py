"""The ASGI app: requests of an ASGI server, in its event loop, as exchanges of the loop's own.

Source: the ASGI specification, "HTTP & WebSocket ASGI Message Format" and "Lifespan Protocol".
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from gpux.config.settings import Settings
from gpux.errors import BodyTooLargeError, StartError, UnavailableError
from gpux.http.application import build
from gpux.http.error_responses import error_response
from gpux.http.exchange import LoopApplication
from gpux.http.head import RequestHead, make_head
from gpux.http.responses import Response
from gpux.serving.background import call_in_loop

logger = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class AsgiApp:
    """An ASGI 3 app that serves one model, in one event loop.

    Args:
        read: reads the settings: what to serve, and how. Called when the app is started.
        environment: OpenTelemetry's variables.
    """

    def __init__(self, read: Callable[[], Settings], environment: Mapping[str, str]) -> None:
        self._read = read
        self._environment = environment
        self._exchanges: LoopApplication | None = None  # once the model is loaded
        self._start_lock = asyncio.Lock()  # guards the start: the model is loaded once
        self._connections: set[AsgiConnection] = set()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Serves a scope: the server's lifespan, or a request."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            connection = AsgiConnection(scope, receive)
            self._connections.add(connection)
            try:
                response = await self._respond(connection)
            finally:
                self._connections.discard(connection)
            if response is not None:
                await _send(response, send)
        else:  # a websocket, which is not accepted
            await send({"type": f"{scope['type']}.close"})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            exchanges = await self._start()
        except StartError as error:
            await send({"type": "lifespan.startup.failed", "message": f"gpux: {error}"})
            return
        except Exception as error:  # raised, it would mean that there is no lifespan
            logger.exception("The model was not loaded")
            await send({"type": "lifespan.startup.failed", "message": f"gpux: {error!r}"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        exchanges.service.reject()
        await exchanges.loop.run_in_executor(None, exchanges.recorders.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> LoopApplication:
        """Loads the model, if that has not been done.

        Raises:
            StartError: it cannot be served, and why.
        """
        async with self._start_lock:
            if self._exchanges is None:
                settings, loop = self._read(), asyncio.get_running_loop()
                built = build(settings, self._environment, partial(call_in_loop, loop))
                built.service.open(await loop.run_in_executor(None, built.service.load))
                built.service.attach(loop)
                self._exchanges = LoopApplication(
                    built.service,
                    built.make_app,
                    built.recorders,
                    loop,
                    settings.max_body_bytes,
                    settings.cors_origins,
                    self._connections,
                )
            return self._exchanges

    async def _respond(self, connection: "AsgiConnection") -> Response | None:
        """The response to a request; None if its client has left."""
        try:
            application = self._exchanges or await self._start()
        except StartError as error:
            unavailable = UnavailableError("The model could not be loaded")
            unavailable.__cause__ = error
            return error_response(unavailable)
        head, limit = connection.head, application.max_body_bytes
        if (head.content_length or 0) > limit:
            return application.reject(head, 413, str(BodyTooLargeError(limit)), connection)
        begun = application.begin(head, connection)
        if isinstance(begun, Response):
            return begun
        connection.exchange = begun
        response: Response | None = None
        try:
            body = await connection.read_body(limit)
            if body is not None and len(body) > limit:
                return application.reject(head, 413, str(BodyTooLargeError(limit)), connection)
            if body is not None:
                begun.receive(body)
                response = await connection.wait_for_response()
            return response
        finally:
            if response is None:  # the client has left, or the server has cancelled this
                begun.abandon()


class AsgiConnection:
    """The connection of one request, as its exchange sees it.

    Args:
        scope: the request's.
        receive: the server's.

    Attributes:
        head: of the request.
        peer: the client's address; empty if it is not known.
        exchange: of the request, once it has begun.
        buffered_bytes: what has come of the body that is not complete.
    """

    def __init__(self, scope: Mapping[str, Any], receive: Receive) -> None:
        path, query = scope["path"].encode("utf-8", "surrogateescape"), scope["query_string"]
        self.head: RequestHead = make_head(
            scope["method"], path, query, scope["http_version"], list(scope["headers"])
        )
        self.peer: str = (scope.get("client") or ("",))[0]
        self.exchange: object = None
        self.buffered_bytes = 0
        self._receive = receive
        self._response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def respond(self, exchange: object, response: Response) -> None:
        """Takes the response of the exchange."""
        if exchange is self.exchange and not self._response.done():
            self._response.set_result(response)

    async def read_body(self, limit_bytes: int) -> bytes | None:
        """Reads the body, but not much more than the limit; None if the client has left."""
        body = bytearray()
        while len(body) <= limit_bytes:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return None
            piece: bytes = message.get("body", b"")
            is_last = not message.get("more_body", False)
            if is_last and not body:
                return piece
            body += piece
            self.buffered_bytes = len(body)
            if is_last:
                break
        self.buffered_bytes = 0
        return bytes(body)

    async def wait_for_response(self) -> Response | None:
        """Waits for the response; None if the client leaves before it."""
        if self._response.done():
            return self._response.result()
        leaving = asyncio.ensure_future(self._receive())
        try:
            waited: set[asyncio.Future[Any]] = {self._response, leaving}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
        return self._response.result() if self._response.done() else None


async def _send(response: Response, send: Send) -> None:
    body = bytes(response.body)
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers
    ]
    headers.append((b"content-length", str(len(body)).encode()))
    start = {"type": "http.response.start", "status": response.status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})
