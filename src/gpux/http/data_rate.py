"""How slowly a client may send and read: the least data rates, and what is said below them.

waitress looks for silence alone, which a byte a minute breaks.
"""

from waitress.utilities import Error

# How slow a client may be: so long at first, and a second more for so many bytes. For requests it
# is what Apache's mod_reqtimeout has. An answer lies here whole until its last byte is sent, so its
# reader has to be faster.
_HEAD_START_SECONDS = 20.0
_SLOWEST_REQUEST_BYTES_PER_SECOND = 500
_SLOWEST_ANSWER_BYTES_PER_SECOND = 4000


class TooSlowError(Error):
    """A request that has not come in the time that its bytes may take."""

    code = 408
    reason = "Request Timeout"

    def __init__(self) -> None:
        super().__init__(
            f"The request came too slowly: the limit is {_HEAD_START_SECONDS:g} seconds, and one"
            f" more for each {_SLOWEST_REQUEST_BYTES_PER_SECOND:g} bytes"
        )


def is_request_too_slow(seconds: float, nbytes: int) -> bool:
    """Whether so many bytes of a request should have taken less time."""
    return _is_too_slow(seconds, nbytes, _SLOWEST_REQUEST_BYTES_PER_SECOND)


def is_answer_too_slow(seconds: float, nbytes: int) -> bool:
    """Whether so many bytes of answers should have been read in less time."""
    return _is_too_slow(seconds, nbytes, _SLOWEST_ANSWER_BYTES_PER_SECOND)


def _is_too_slow(seconds: float, nbytes: int, slowest_bytes_per_second: float) -> bool:
    return seconds > _HEAD_START_SECONDS + nbytes / slowest_bytes_per_second
