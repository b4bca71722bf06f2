"""One request and its answer, as logs and traces tell of them, and their way to those who do.

A request's thread notes what there is to tell and hands it over; lines and spans are made in a
thread of the recorder's own, in batches. A reader that is slow, or has gone, holds up no request:
what there is no room for is left out, and counted.
"""

import contextvars
import logging
import random
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gpux.metrics import Stages

logger = logging.getLogger(__name__)

# What clients send is kept to this length: a line then fits into what a pipe takes whole.
_MOST_CHARACTERS = 200
# A longer one is dropped whole, as the W3C has it.
_LONGEST_TRACESTATE = 512
_MOST_WAITING = 10_000
_TOGETHER_SECONDS = 0.05
_QUIET_SECONDS = 60.0

_LENGTH = re.compile(r"[0-9]{1,18}")
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
# Source: W3C Trace Context, 3.2 (the traceparent header).
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-.*")

# Of the request that this thread works on.
current_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("current_request_id")


@dataclass(slots=True)
class Exchange:
    """One request and its answer. Texts are as WSGI has them: bytes, read as Latin-1 (PEP 3333).

    Attributes:
        request_id: the client's own, or a new one.
        client: its address; that of the proxy where there is one.
        method, path: empty where the request could not be read.
        protocol: as `HTTP/1.1`.
        scheme, host, user_agent, referer: as the request has them, None where it does not.
        traceparent, tracestate: of the caller's span (W3C Trace Context).
        received_bytes: of the request's body; None where nobody knows.
        came_seconds: when the request had been read, on the monotonic clock.
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
    came_seconds: float
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
        self.taken_seconds = time.monotonic() - self.came_seconds


def begin(environment: Mapping[str, Any], came_seconds: float) -> Exchange:
    """A request that is to be answered.

    Args:
        environment: WSGI's.
        came_seconds: when it had been read, on the monotonic clock.
    """
    get = environment.get
    most = _MOST_CHARACTERS
    host, user_agent, referer = get("HTTP_HOST"), get("HTTP_USER_AGENT"), get("HTTP_REFERER")
    length = get("CONTENT_LENGTH")
    if not length:  # waitress tells that of a chunked body, too
        length = "" if "HTTP_TRANSFER_ENCODING" in environment else "0"
    traceparent = get("HTTP_TRACEPARENT")
    tracestate = get("HTTP_TRACESTATE")
    if tracestate and len(tracestate) > _LONGEST_TRACESTATE:
        tracestate = None
    return Exchange(
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
        came_seconds=came_seconds,
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


class RequestIdFilter(logging.Filter):
    """Gives each log record `request`: the id of the request that its thread works on, if any."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record through."""
        request_id = current_request_id.get("")
        record.request = f" [request {request_id}]" if request_id else ""
        return True


class Sink(Protocol):
    """What becomes of exchanges: an access log, traces. Used by one thread.

    Attributes:
        name: for the metrics.
    """

    name: str

    def record(self, exchanges: Sequence[Exchange]) -> int:
        """Takes them, in the order in which they ended; answers how many it could not take."""

    def close(self, seconds: float) -> None:
        """Ends it, in at most about so many seconds."""


class Recorder:
    """Hands exchanges to a sink, in a thread of its own. Any number of threads may put.

    Args:
        sink: takes them.

    Attributes:
        dropped: how many were left out.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.dropped = 0
        self._lock = threading.Lock()  # guards dropped
        self._waiting: deque[Exchange] = deque()  # appending and popping are atomic
        self._is_waiting = threading.Event()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"gpux-{sink.name}", daemon=True)
        self._thread.start()

    def put(self, exchange: Exchange) -> None:
        """Hands one over; waits for nobody."""
        if len(self._waiting) >= _MOST_WAITING:
            self._drop(1)
            return
        self._waiting.append(exchange)
        if not self._is_waiting.is_set():
            self._is_waiting.set()

    def close(self, seconds: float) -> bool:
        """Waits until all is recorded that was put; answers whether it was within the time."""
        deadline = time.monotonic() + seconds
        self._is_closing.set()
        self._is_waiting.set()
        self._thread.join(seconds)
        is_done = not self._thread.is_alive()
        if is_done:
            self.sink.close(max(0.0, deadline - time.monotonic()))
        return is_done

    def _run(self) -> None:
        while not self._is_closing.is_set() or self._waiting:
            self._is_waiting.wait()
            # The first of many waits for company: a wake-up for each would cost more than its line.
            self._is_closing.wait(_TOGETHER_SECONDS)
            self._is_waiting.clear()
            exchanges = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                self._drop(self.sink.record(exchanges))
            except Exception:
                logger.exception("%s failed", self.sink.name)
                self._drop(len(exchanges))

    def _drop(self, count: int) -> None:
        if count:
            with self._lock:
                self.dropped += count


class Occasionally:
    """Lets something be said once a minute. Used by one thread."""

    def __init__(self) -> None:
        self._next_seconds = 0.0

    def may(self) -> bool:
        """Whether it is time."""
        now = time.monotonic()
        if now < self._next_seconds:
            return False
        self._next_seconds = now + _QUIET_SECONDS
        return True


def log_to_stderr() -> None:
    """Has warnings written to standard error, with the request that they are about."""
    handler = logging.StreamHandler()
    handler.addFilter(RequestIdFilter())
    logging.basicConfig(
        level=logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s%(request)s",
        handlers=[handler],
    )
