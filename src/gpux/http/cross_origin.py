"""The headers that let pages of other origins read responses (CORS).

Source: the Fetch standard, 3.2 (CORS protocol).
"""

from collections.abc import Sequence

# Response headers that pages of other origins may read (Access-Control-Expose-Headers).
EXPOSED_HEADERS = "Retry-After, X-Request-Id"
_EXPOSED = ("Access-Control-Expose-Headers", EXPOSED_HEADERS)


def cross_origin_headers(origin: bytes | None, allowed: Sequence[str]) -> list[tuple[str, str]]:
    """The headers of a response.

    Args:
        origin: the request's header Origin; None without it.
        allowed: the origins whose pages may read it; `*` for all.
    """
    if "*" in allowed:
        return [("Access-Control-Allow-Origin", "*"), _EXPOSED]
    headers = [("Vary", "Origin")]  # caches must keep responses per origin
    text = "" if origin is None else origin.decode("latin-1")
    if text in allowed:
        headers += [("Access-Control-Allow-Origin", text), _EXPOSED]
    return headers
