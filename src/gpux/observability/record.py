"""One request and its response, as recorded for the access log and traces.

The request's thread fills in the record and enqueues it; the recorder's thread (see sinks.py) makes
lines and spans of records in batches. A slow or vanished reader delays no request: records that do
not fit into the queue are dropped and counted.
"""

import logging
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpux.observability.timings import Stages

logger = logging.getLogger(__name__)

# Length limit of client-supplied texts: a log line then fits into one atomic write to a pipe.
_MAX_CHARACTERS = 200
# A longer one is dropped as a whole, as in W3C Trace Context.
_MAX_TRACESTATE = 512
_LENGTH = re.compile(r"[0-9]{1,18}")
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
# Source: W3C Trace Context, 3.2 (the traceparent header).
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-.*")


@dataclass(slots=True)
class RequestRecord:
    """One request and its response. Texts are as in WSGI: bytes decoded as Latin-1 (PEP 3333).

    Attributes:
        request_id: the client's own, or a generated one.
        client: its address, or that of its proxy.
        method, path: empty if the request could not be parsed.
        protocol: such as `HTTP/1.1`.
        scheme, host, user_agent, referer: as in the request, None if absent.
        traceparent, tracestate: of the caller's span (W3C Trace Context).
        received_bytes: size of the request body; None if unknown.
        arrival_seconds: when the request had been read, on the monotonic clock.
        status: of the response.
        sent_bytes: size of the response body.
        ended_seconds: when the response was ready, since the epoch.
        duration_seconds: from the body's last byte to `ended_seconds`.
        stages: timings of a request to /predict that the app handled, else None.
    """

    request_id: str
    client: str
    method: str
    path: str
    protocol: str
    scheme: str
    host: str | None
    user_agent: str | None
    referer: str | None
    traceparent: str | None
    tracestate: str | None
    received_bytes: int | None
    arrival_seconds: float
    status: int = 500
    sent_bytes: int = 0
    ended_seconds: float = 0.0
    duration_seconds: float = 0.0
    stages: Stages | None = None

    @property
    def trace_id(self) -> str | None:
        """The id of the caller's trace."""
        return _trace_id(self.traceparent)

    def end(self, stages: Stages | None = None) -> None:
        """Records that the response is ready."""
        self.stages = stages
        self.ended_seconds = time.time()
        self.duration_seconds = time.monotonic() - self.arrival_seconds


def begin(environment: Mapping[str, Any], arrival_seconds: float) -> RequestRecord:
    """Creates the record of a request that has arrived.

    Args:
        environment: WSGI's.
        arrival_seconds: when it had been read, on the monotonic clock.
    """
    get = environment.get
    limit = _MAX_CHARACTERS
    host, user_agent, referer = get("HTTP_HOST"), get("HTTP_USER_AGENT"), get("HTTP_REFERER")
    length = get("CONTENT_LENGTH")
    if not length:  # waitress sets it for a chunked body, too
        length = "" if "HTTP_TRANSFER_ENCODING" in environment else "0"
    traceparent = get("HTTP_TRACEPARENT")
    tracestate = get("HTTP_TRACESTATE")
    if tracestate and len(tracestate) > _MAX_TRACESTATE:
        tracestate = None
    return RequestRecord(
        request_id=_request_id(get("HTTP_X_REQUEST_ID"), traceparent),
        client=get("REMOTE_ADDR", ""),
        method=environment["REQUEST_METHOD"][:limit],
        path=environment["PATH_INFO"][:limit],
        protocol=environment["SERVER_PROTOCOL"],
        scheme=environment["wsgi.url_scheme"],
        host=host and host[:limit],
        user_agent=user_agent and user_agent[:limit],
        referer=referer and referer[:limit],
        traceparent=traceparent and traceparent[:limit],
        tracestate=tracestate,
        received_bytes=int(length) if _LENGTH.fullmatch(length) else None,
        arrival_seconds=arrival_seconds,
    )


def to_text(value: str) -> str:
    """Decodes a WSGI string, which holds bytes as Latin-1, as UTF-8."""
    return value.encode("latin-1", "replace").decode("utf-8", "replace")


def _request_id(given: str | None, traceparent: str | None) -> str:
    """Returns the client's id if it is visible ASCII, else the trace's, else a random one."""
    if given and _REQUEST_ID.fullmatch(given):
        return given
    # Not a secret; the kernel's random source would cost a context switch.
    return _trace_id(traceparent) or f"{random.getrandbits(128):032x}"


def _trace_id(traceparent: str | None) -> str | None:
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return match[1] if match else None
