"""Checks the headers of inference requests: media type, encoding, timeout."""

from gpux.errors import InvalidHeaderError, UnsupportedMediaTypeError

MEDIA_TYPE = "application/json"


def check_headers(content_type: str | None, content_encoding: str | None) -> None:
    """Checks that the headers declare the body as plain JSON in UTF-8.

    Args:
        content_type: the header's value; None without the header.
        content_encoding: likewise.

    Raises:
        UnsupportedMediaTypeError: names the declared value.

    Source: RFC 9110, 8.3 (Content-Type) and 8.4 (Content-Encoding).
    """
    if content_encoding is not None:
        raise UnsupportedMediaTypeError(
            f"Content-Encoding {_cut(content_encoding)} is not supported: send plain JSON"
        )
    if content_type == MEDIA_TYPE:  # the common case
        return
    if content_type is None:
        raise UnsupportedMediaTypeError(f"Content-Type must be {MEDIA_TYPE}, got none")
    media_type, *parameters = content_type.split(";")
    if media_type.strip().lower() != MEDIA_TYPE:
        raise UnsupportedMediaTypeError(
            f"Content-Type must be {MEDIA_TYPE}, got {_cut(content_type)}"
        )
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in ("utf-8", "utf8"):
            raise UnsupportedMediaTypeError(f"The charset must be utf-8, got {_cut(content_type)}")


def read_timeout(header: str | None) -> float | None:
    """Parses `X-Request-Timeout`: how long the client waits, in seconds.

    Raises:
        InvalidHeaderError: it is not a finite number above 0.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidHeaderError(f"X-Request-Timeout must be seconds above 0, got {_cut(header)}")
    return seconds


def _cut(header: str) -> str:
    """Quotes a header's value for a message, truncated."""
    return repr(header if len(header) <= 100 else header[:100] + "…")
