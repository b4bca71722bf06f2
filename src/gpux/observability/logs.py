"""Logging: to standard error, with the id of the request that a message is about."""

import contextvars
import logging
import time

_QUIET_SECONDS = 60.0
# Of the request that this thread works on.
current_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("current_request_id")


class RequestIdFilter(logging.Filter):
    """Gives each log record `request`: the id of the request that its thread works on, if any."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record through."""
        request_id = current_request_id.get("")
        record.request = f" [request {request_id}]" if request_id else ""
        return True


class RateLimitedLog:
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
