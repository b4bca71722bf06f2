"""Logging to standard error, with the id of the request that a message concerns."""

import contextvars
import logging
import time

_QUIET_SECONDS = 60.0
# Id of the request that the current thread is handling.
current_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("current_request_id")


class RequestIdFilter(logging.Filter):
    """Adds `request` to each log record: the id of the request its thread is handling, if any."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Passes every record."""
        request_id = current_request_id.get("")
        record.request = f" [request {request_id}]" if request_id else ""
        return True


class LogRateLimiter:
    """Rate limiter for a log message: at most one a minute. Used by one thread."""

    def __init__(self) -> None:
        self._next_seconds = 0.0

    def allow(self) -> bool:
        """Returns whether to log now; if so, starts the next quiet period."""
        now = time.monotonic()
        if now < self._next_seconds:
            return False
        self._next_seconds = now + _QUIET_SECONDS
        return True


def log_to_stderr() -> None:
    """Sends warnings to standard error, with the id of the request that they concern."""
    handler = logging.StreamHandler()
    handler.addFilter(RequestIdFilter())
    logging.basicConfig(
        level=logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s%(request)s",
        handlers=[handler],
    )
