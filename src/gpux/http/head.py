"""The header section of a request: from its bytes to a RequestHead, or a refusal.

llhttp knows the grammar; its rules are not repeated. This file has those that it leaves to its user
(versions, Host, transfer codings, the forms of targets) and the number of fields.

Each section is given to a fresh parser that sees nothing of the body: after an offer to upgrade,
llhttp would take the body for bytes of the other protocol.
"""

import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

import httptools

_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
_REQUEST_LINE = re.compile(rb"([!-~]+) [!-~]+ HTTP/(\d+)\.(\d+)")
_METHOD = re.compile(rb"[A-Z][A-Z-]*")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_LONG_LENGTH = re.compile(rb"\ncontent-length:[ \t]*0*[1-9]\d{18,}[ \t]*\r\n", re.IGNORECASE)
# RFC 3986, 3.2, without user names, which RFC 9110, 4.2.4 has refused.
_ABSOLUTE = re.compile(rb"https?://(?:\[[0-9A-Fa-f:.]+\]|[^][/?#@:]+)(?::\d*)?(?=[/?]|$)", re.I)
# Sections that are remembered, as clients send the same one again and again.
_REMEMBERED_BYTES = 1024
_REMEMBERED_SECTIONS = 256


class RequestHead:
    """A request without its body. Not to be changed: its headers are shared between requests.

    Attributes:
        method: as sent: methods are case-sensitive.
        target: as sent.
        path: percent-decoded, each byte a character (Latin-1), without the query; `*` for that.
        query: behind the `?`, as sent.
        version: `1.1` or `1.0`.
        headers: names in lower case, values without blanks around them, in order.
        content_length: in bytes; None where none is declared.
        is_chunked: whether the body comes in chunks.
        keeps_alive: whether the client expects the connection to go on.
        expects_continue: whether it waits for 100 (Continue) before it sends the body.
        around_length: the section before and behind the digits of Content-Length, if nothing but
            these tells such requests apart: HTTP/1.1, keeps_alive, not expects_continue. Else None.
    """

    __slots__ = (
        "_fields",
        "around_length",
        "content_length",
        "expects_continue",
        "headers",
        "is_chunked",
        "keeps_alive",
        "method",
        "path",
        "query",
        "target",
        "version",
    )

    method: str
    target: bytes
    path: str
    query: str
    version: str
    headers: list[tuple[bytes, bytes]]
    content_length: int | None
    is_chunked: bool
    keeps_alive: bool
    expects_continue: bool
    around_length: tuple[bytes, bytes] | None
    _fields: dict[bytes, bytes]  # several of one name are joined

    def get(self, name: bytes) -> bytes | None:
        """The value of a header by its name in lower case; several are joined by commas."""
        return self._fields.get(name)

    @property
    def has_body(self) -> bool:
        """Whether a body follows."""
        return self.is_chunked or bool(self.content_length)

    def has_body_over(self, nbytes: int) -> bool:
        """Whether its body may be longer than that."""
        return self.is_chunked or (self.content_length or 0) > nbytes


def make_head(
    method: str, path: bytes, query: bytes, version: str, headers: list[tuple[bytes, bytes]]
) -> RequestHead:
    """The head of a request that another server has parsed and judged.

    Args:
        method: as sent.
        path: percent-decoded.
        query: behind the `?`, as sent.
        version: `1.1` or another one.
        headers: names in lower case, values without blanks around them, in order.
    """
    head = RequestHead()
    head.method, head.target, head.version, head.headers = method, path, version, headers
    head.path, head.query = path.decode("latin-1"), query.decode("latin-1")
    head._fields = _joined(headers)
    length = head._fields.get(b"content-length", b"")
    head.content_length = int(length) if length.isdigit() else None
    head.is_chunked = b"transfer-encoding" in head._fields
    head.keeps_alive, head.expects_continue = True, False
    head.around_length = None
    return head


class MessageError(Exception):
    """A request whose header section or body is refused.

    Attributes:
        status: of the response.
        detail: its message.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def parse_head(section: bytes, max_fields: int) -> RequestHead:
    """Parses a header section.

    Args:
        section: from the request line to the empty line, both included.
        max_fields: how many fields it may have.

    Raises:
        MessageError: it is refused.

    Source: RFC 9112.
    """
    if not section.endswith(b"\r\n\r\n"):  # but with line feeds alone
        raise MessageError(400, "Malformed request line or header")
    if section.count(b"\n") - 2 > max_fields:
        raise MessageError(431, f"The header section has more than {max_fields} fields")
    parse = _parse_remembered if len(section) <= _REMEMBERED_BYTES else _parse
    return parse(section)


class _Fields:
    """The callback that collects what the parser finds."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))


def _parse(section: bytes) -> RequestHead:
    found = _Fields()
    try:
        httptools.HttpRequestParser(found).feed_data(section)
    except httptools.HttpParserUpgrade:
        pass  # an offer, which is ignored (RFC 9110, 7.8), or CONNECT, which is refused below
    except httptools.HttpParserError as error:
        raise _explain(error, section, found.headers) from error
    words = section[: section.index(b"\r\n")].split(b" ")
    if len(words) != 3:  # llhttp takes several blanks
        raise MessageError(400, "Malformed request line")
    method, target, version = words
    if version not in _VERSIONS:
        raise _refuse_version(version)
    head = RequestHead()
    head.method = method.decode("ascii")
    head.target = target
    head.version = _VERSIONS[version]
    head.headers = found.headers
    head._fields = fields = _joined(found.headers)
    _judge_host(head)
    head.path, head.query = _split_target(head.method, target)
    head.is_chunked = _judge_coding(head)
    length = fields.get(b"content-length")
    head.content_length = None if length is None else int(length)
    head.keeps_alive = _keeps_alive(head)
    expects = fields.get(b"expect", b"").lower() == b"100-continue"
    head.expects_continue = expects and head.version == "1.1"
    head.around_length = _around_length(head, section)
    return head


_parse_remembered = lru_cache(maxsize=_REMEMBERED_SECTIONS)(_parse)


def _joined(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The values by name; several of one name are joined by commas (RFC 9110, 5.3)."""
    fields = dict(headers)
    if len(fields) != len(headers):
        fields.clear()
        for name, value in headers:
            fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def _explain(
    error: httptools.HttpParserError, section: bytes, headers: list[tuple[bytes, bytes]]
) -> MessageError:
    """What is wrong with a section that llhttp refuses."""
    line = _REQUEST_LINE.fullmatch(section.partition(b"\r\n")[0])
    if line is None:
        return MessageError(400, "Malformed request line or header")
    method, major, minor = line.groups()
    if major + b"." + minor not in (b"1.1", b"1.0"):
        return _refuse_version(b"HTTP/" + major + b"." + minor)
    if isinstance(error, httptools.HttpParserInvalidMethodError) and _METHOD.fullmatch(method):
        return MessageError(501, "The method is not known")
    codings = b",".join(value for name, value in headers if name == b"transfer-encoding")
    if codings and _has_other_coding(codings):
        return MessageError(501, "The only transfer coding is chunked")
    if _LONG_LENGTH.search(section):
        return MessageError(413, "The declared length of the body is larger than any limit")
    return MessageError(400, "Malformed request line or header")


def _refuse_version(version: bytes) -> MessageError:
    protocol, _, number = version.partition(b"/")
    numbers = number.split(b".")
    is_later = len(numbers) == 2 and all(map(bytes.isdigit, numbers)) and numbers > [b"1", b"1"]
    if protocol == b"HTTP" and is_later:
        return MessageError(505, "The HTTP version is not supported: use HTTP/1.1")
    return MessageError(400, "Malformed request line: the protocol is HTTP/1.1 or HTTP/1.0")


def _judge_host(head: RequestHead) -> None:
    """RFC 9112, 3.2."""
    hosts = sum(name == b"host" for name, _ in head.headers)
    if hosts > 1 or (hosts == 0 and head.version == "1.1"):
        raise MessageError(400, f"The request needs one Host header, and has {hosts}")


def _split_target(method: str, target: bytes) -> tuple[str, str]:
    """The path and the query of a target in one of the forms of RFC 9112, 3.2."""
    if method == "CONNECT":
        raise MessageError(501, "CONNECT is not supported: this is no proxy")
    if b"#" in target:
        raise MessageError(400, "The request target has a fragment")
    if target == b"*" and method == "OPTIONS":
        return "*", ""
    if not target.startswith(b"/"):
        authority = _ABSOLUTE.match(target)
        if authority is None:
            raise MessageError(400, "Malformed request target")
        target = target[authority.end() :]
    path, _, query = target.partition(b"?")
    if b"%" in path:
        path = unquote_to_bytes(path)
    return path.decode("latin-1") or "/", query.decode("latin-1")


def _judge_coding(head: RequestHead) -> bool:
    """Whether the body is chunked. RFC 9112, 6.1."""
    codings = head.get(b"transfer-encoding")
    if codings is None:
        return False
    if head.version == "1.0":
        raise MessageError(400, "HTTP/1.0 has no transfer codings")
    if head.get(b"content-length") is not None:
        raise MessageError(400, "The request has both Transfer-Encoding and Content-Length")
    if codings.lower() != b"chunked":
        if _has_other_coding(codings):
            raise MessageError(501, "The only transfer coding is chunked")
        raise MessageError(400, "Transfer-Encoding must be chunked, once")
    return True


def _has_other_coding(codings: bytes) -> bool:
    return any(coding.strip() not in (b"chunked", b"") for coding in codings.lower().split(b","))


def _around_length(head: RequestHead, section: bytes) -> tuple[bytes, bytes] | None:
    if head.version == "1.0" or not head.keeps_alive or head.expects_continue:
        return None
    found = _LENGTH.search(section)
    return None if found is None else (section[: found.start(1)], section[found.end(1) :])


def _keeps_alive(head: RequestHead) -> bool:
    """RFC 9112, 9.3."""
    value = head.get(b"connection")
    if value is None:
        return head.version == "1.1"
    options = [option.strip() for option in value.lower().split(b",")]
    return b"close" not in options and (head.version == "1.1" or b"keep-alive" in options)
