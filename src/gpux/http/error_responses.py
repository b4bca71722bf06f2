"""Makes the response of an error: the one place where an error becomes a status and a body."""

import json
import logging
from collections.abc import Mapping

from gpux.errors import ClientError, ServiceError, UnavailableError
from gpux.http.responses import Response

logger = logging.getLogger(__name__)

JSON = ("Content-Type", "application/json")


def error_response(error: Exception, doing: str = "a request") -> Response:
    """The response of a request that raised an error.

    Args:
        error: a bug's exception, or a MemoryError, is 500 without details; these go to the log.
        doing: what was being done, for the log.
    """
    if not isinstance(error, ClientError | ServiceError):
        logger.error("%s failed", doing, exc_info=error)
        return detail_response(500, "Internal server error")
    response = detail_response(error.status, str(error))
    if isinstance(error, UnavailableError):
        response.headers.append(("Retry-After", str(error.retry_after_seconds)))
    return response


def detail_response(status: int, detail: str) -> Response:
    """A response that says what is wrong."""
    return Response(status, [JSON], json_bytes({"detail": detail}))


def json_bytes(value: Mapping[str, object]) -> bytes:
    """JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
