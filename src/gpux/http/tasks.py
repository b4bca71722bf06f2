"""Answers to requests: waitress's tasks, of which each writes one.

`CountedTask` writes what the app answers. `JSONErrorTask` writes what it is not asked for, as JSON,
as everything else is, and has it counted and told of, as the app has its own.
"""

import json
import time
from functools import lru_cache
from typing import Any

from waitress.task import ErrorTask, WSGITask
from waitress.utilities import Error, build_http_date

from gpux.errors import UnavailableError
from gpux.http.app import ADMITTED, EXPOSED_HEADERS
from gpux.http.middleware import REQUEST_ID_HEADER
from gpux.observability.record import begin
from gpux.observability.timings import Stages

# What `Server` headers say.
IDENT = "gpux"
# An answer that is copied behind its head. Copying more would take longer than sending it apart.
_SHORT_ANSWER_BYTES = 2**16
# Headers by which an app decides what is waitress's else.
_DECIDED = frozenset(("connection", "date", "server", "transfer-encoding"))


class RefusalError(Error):
    """A request that is turned away; its connection goes on."""

    code = 503
    reason = "Service Unavailable"

    def __init__(self, error: UnavailableError) -> None:
        super().__init__(str(error))
        self.retry_after_seconds = error.retry_after_seconds


@lru_cache(maxsize=64)
def _capitalize(name: str) -> str:
    """The name of a header as it is mostly written."""
    return "-".join(part.capitalize() for part in name.split("-"))


@lru_cache(maxsize=2)
def _date(seconds: int) -> str:
    """A time since the epoch, for a `Date` header."""
    return str(build_http_date(seconds))


class CountedTask(WSGITask):
    """A request that may have been counted in already, which the app must know."""

    request: Any
    channel: Any
    status: str
    version: str
    response_headers: list[tuple[str, str]]

    def build_response_header(self) -> bytes:
        """As waitress builds it; sooner for an answer after which the connection stays open."""
        names = [name for name, _ in self.response_headers]
        is_plain = (
            self.version == "1.1"
            and self.request.headers.get("CONNECTION", "keep-alive") in ("keep-alive", "Keep-Alive")
            and "content-length" in names
            and _DECIDED.isdisjoint(names)
            and not self.close_on_finish
            and self.has_body
        )
        if not is_plain:
            head: bytes = super().build_response_header()
            return head
        lines = [f"{_capitalize(name)}: {value}\r\n" for name, value in self.response_headers]
        date = _date(int(self.start_time))
        first, last = f"HTTP/1.1 {self.status}\r\n", f"Date: {date}\r\nServer: {IDENT}\r\n\r\n"
        return f"{first}{''.join(lines)}{last}".encode("latin-1")

    def get_environment(self) -> dict[str, Any]:
        """PEP 3333's, and whether the request has been counted in."""
        environment: dict[str, Any] = super().get_environment()
        if self.request.permit is not None:
            environment[ADMITTED] = self.request.came_at_seconds
        return environment

    def write(self, data: bytes) -> None:
        """Writes the answer; whoever has read it finds room for the next request."""
        self.channel.count_out(self.request)
        is_short = len(data) == self.content_length and len(data) <= _SHORT_ANSWER_BYTES
        if is_short and not self.wrote_header:
            # In one piece: each piece is a system call, a packet, and a chance to lose the GIL.
            head = self.build_response_header()
            self.wrote_header = True
            self.content_bytes_written = len(data)
            self.channel.write_soon(head + data)
            return
        super().write(data)


class JSONErrorTask(ErrorTask):
    """An answer that waitress gives by itself, as JSON."""

    channel: Any
    request: Any
    response_headers: Any

    def execute(self) -> None:
        """Writes the answer; but for a request that was turned away, the connection closes."""
        error = self.request.error
        body = json.dumps({"detail": error.body}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers.extend(self._cross_origin_headers())
        self.content_length = len(body)
        is_refused = isinstance(error, RefusalError)
        if is_refused:
            self.response_headers.append(("Retry-After", str(error.retry_after_seconds)))
        else:
            self.set_close_on_finish()
        self._tell(error.code, len(body), is_refused=is_refused)
        self.write(body)
        self.channel.lingers = not is_refused

    def _tell(self, status: int, sent_bytes: int, *, is_refused: bool) -> None:
        """Counts the request, and tells of it, as the app does of those that it answers."""
        request, adjustments = self.request, self.channel.adj
        if request.is_prediction and not is_refused:  # those are counted already
            seconds = time.monotonic() - request.came_at_seconds
            adjustments.gpux_service.metrics.request(status, seconds, Stages())
        if not adjustments.gpux_recorders or not request.came_at_seconds:
            return  # waitress makes up a request where the app failed, which is told of already
        record = begin(self._environment(), request.came_at_seconds)
        self.response_headers.append((REQUEST_ID_HEADER, record.request_id))
        record.status = status
        record.sent_bytes = sent_bytes
        record.end()
        adjustments.gpux_recorders.record(record)

    def _environment(self) -> dict[str, Any]:
        """What begin() needs of WSGI's environment, as far as the request could be read."""
        request = self.request
        return {
            **{f"HTTP_{name}": value for name, value in request.headers.items()},
            "CONTENT_LENGTH": str(request.body_bytes_received),
            "REMOTE_ADDR": self.channel.addr[0],
            "REQUEST_METHOD": request.command,
            "PATH_INFO": request.path,
            "SERVER_PROTOCOL": f"HTTP/{request.version}",
            "wsgi.url_scheme": self.channel.adj.url_scheme,
        }

    def _cross_origin_headers(self) -> list[tuple[str, str]]:
        """As app.CrossOrigin has them, so that pages can read these answers too."""
        allowed = self.channel.adj.gpux_cors_origins
        exposed = ("Access-Control-Expose-Headers", EXPOSED_HEADERS)
        if "*" in allowed:
            return [("Access-Control-Allow-Origin", "*"), exposed]
        origin = self.request.headers.get("ORIGIN")
        headers = [("Vary", "Origin")] if allowed else []
        if origin in allowed:
            headers += [("Access-Control-Allow-Origin", origin), exposed]
        return headers
