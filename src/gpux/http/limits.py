"""What a connection takes: sizes of header sections and framing, and how slow a client may be."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one listener's connections. Immutable; shared by all connections.

    Sizes are in bytes and times in seconds. The rates of requests are those of Apache's
    mod_reqtimeout. A response lies in memory whole until its last byte is sent, so its reader has
    to be faster.

    Attributes:
        header_bytes: of a header section, the request line and its end included.
        header_fields: of a header section.
        chunk_line_bytes: of a chunk's size line with its extensions.
        chunk_framing_bytes: of all size lines of a body, beside 6 for each byte of it.
        trailer_bytes: of a trailer section; its fields are limited as those of a header section.
        request_head_start_seconds: that any request may take.
        request_bytes_per_second: a request may take a second more for so many bytes of it.
        response_head_start_seconds: that the client may take to read any response.
        response_bytes_per_second: it may take a second more for so many bytes that it has read.
        idle_seconds: without a request, or without reading anything of a response.
        linger_bytes: that are dropped behind a response to a request that was not read.
        linger_seconds: for which they are.
        skipped_bytes: of a body that nobody wants: a shorter one is read, and the connection kept.
        read_ahead_bytes: of further requests while one is in flight.
    """

    header_bytes: int = 2**16
    header_fields: int = 100
    chunk_line_bytes: int = 256
    chunk_framing_bytes: int = 2**13
    trailer_bytes: int = 2**13
    request_head_start_seconds: float = 20.0
    request_bytes_per_second: float = 500.0
    response_head_start_seconds: float = 20.0
    response_bytes_per_second: float = 4000.0
    idle_seconds: float = 120.0
    linger_bytes: int = 256 * 2**20
    linger_seconds: float = 10.0
    skipped_bytes: int = 2**20
    read_ahead_bytes: int = 2**18

    def is_request_too_slow(self, seconds: float, nbytes: int) -> bool:
        """Whether so many bytes of a request should have taken less time."""
        allowed = self.request_head_start_seconds + nbytes / self.request_bytes_per_second
        return seconds > allowed

    def is_response_too_slow(self, seconds: float, nbytes: int) -> bool:
        """Whether so many bytes of responses should have been read in less time."""
        allowed = self.response_head_start_seconds + nbytes / self.response_bytes_per_second
        return seconds > allowed

    @property
    def too_slow_message(self) -> str:
        """The detail of a 408."""
        return (
            f"The request came too slowly: the limit is {self.request_head_start_seconds:g}"
            f" seconds, and one more for each {self.request_bytes_per_second:g} bytes"
        )


DEFAULT_LIMITS = Limits()
