"""One request and its answer, as logs and traces tell of them, and their way to those who do.

A request's thread notes what there is to tell and hands it over; lines and spans are made in a
thread of the recorder's own, in batches. A reader that is slow, or has gone, holds up no request:
what there is no room for is left out, and counted.
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

# What clients send is kept to this length: a line then fits into what a pipe takes whole.
_MAX_CHARACTERS = 200
# A longer one is dropped whole, as the W3C has it.
_MAX_TRACESTATE = 512
_LENGTH = re.compile(r"[0-9]{1,18}")
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
# Source: W3C Trace Context, 3.2 (the traceparent header).
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-.*")


@dataclass(slots=True)
class RequestRecord:
    """One request and its answer. Texts are as WSGI has them: bytes, read as Latin-1 (PEP 3333).

    Attributes:
        request_id: the client's own, or a new one.
        client: its address; that of the proxy where there is one.
        method, path: empty where the request could not be read.
        protocol: as `HTTP/1.1`.
        scheme, host, user_agent, referer: as the request has them, None where it does not.
        traceparent, tracestate: of the caller's span (W3C Trace Context).
        received_bytes: of the request's body; None where nobody knows.
        arrival_seconds: when the request had been read, on the monotonic clock.
        status: of the answer.
        sent_bytes: of its body.
        ended_seconds: when the answer was there, since the epoch.
        taken_seconds: from the body's last byte to then.
        stages: of a request to /predict that the app has answered.
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
    taken_seconds: float = 0.0
    stages: Stages | None = None

    @property
    def trace_id(self) -> str | None:
        """Of the caller's trace."""
        return _trace_id(self.traceparent)

    def end(self, stages: Stages | None = None) -> None:
        """Notes that the answer is there."""
        self.stages = stages
        self.ended_seconds = time.time()
        self.taken_seconds = time.monotonic() - self.arrival_seconds


def begin(environment: Mapping[str, Any], arrival_seconds: float) -> RequestRecord:
    """A request that is to be answered.

    Args:
        environment: WSGI's.
        arrival_seconds: when it had been read, on the monotonic clock.
    """
    get = environment.get
    most = _MAX_CHARACTERS
    host, user_agent, referer = get("HTTP_HOST"), get("HTTP_USER_AGENT"), get("HTTP_REFERER")
    length = get("CONTENT_LENGTH")
    if not length:  # waitress tells that of a chunked body, too
        length = "" if "HTTP_TRANSFER_ENCODING" in environment else "0"
    traceparent = get("HTTP_TRACEPARENT")
    tracestate = get("HTTP_TRACESTATE")
    if tracestate and len(tracestate) > _MAX_TRACESTATE:
        tracestate = None
    return RequestRecord(
        request_id=_identify(get("HTTP_X_REQUEST_ID"), traceparent),
        client=get("REMOTE_ADDR", ""),
        method=environment["REQUEST_METHOD"][:most],
        path=environment["PATH_INFO"][:most],
        protocol=environment["SERVER_PROTOCOL"],
        scheme=environment["wsgi.url_scheme"],
        host=host and host[:most],
        user_agent=user_agent and user_agent[:most],
        referer=referer and referer[:most],
        traceparent=traceparent and traceparent[:most],
        tracestate=tracestate,
        received_bytes=int(length) if _LENGTH.fullmatch(length) else None,
        arrival_seconds=arrival_seconds,
    )


def to_text(value: str) -> str:
    """The text that WSGI hands on as bytes."""
    return value.encode("latin-1", "replace").decode("utf-8", "replace")


def _identify(given: str | None, traceparent: str | None) -> str:
    """The client's own id if it is a plain word, its trace's, or a new one."""
    if given and _REQUEST_ID.fullmatch(given):
        return given
    # No secret; and the system's own randomness would cost a change of threads.
    return _trace_id(traceparent) or f"{random.getrandbits(128):032x}"


def _trace_id(traceparent: str | None) -> str | None:
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return match[1] if match else None
