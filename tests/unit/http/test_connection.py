"""A connection without a socket: what it accepts, refuses, sends and when it ends."""

import asyncio
import json
import re
from collections.abc import Callable

import pytest

from gpux._fastpath import Pool
from gpux.http.connection import Connection, State
from gpux.http.limits import Limits
from gpux.http.responses import Response
from tests.support.connections import (
    MAX_BODY_BYTES,
    Client,
    FakeApplication,
    FakeExchange,
    FakeTransport,
    Received,
    chunked,
    chunked_request,
    echo,
    read_responses,
    request,
)

GET = request(method="GET", path="/health")
CHUNKED = "Transfer-Encoding: chunked"
TOO_SLOW = "The request came too slowly: the limit is 20 seconds, and one more for each 500 bytes"


def later() -> FakeApplication:
    """An application that responds when a test has it respond."""
    return FakeApplication(respond=None)


def respond(client: Client, body: bytes = b"done", *, close: bool = False) -> None:
    client.connection.respond(
        client.application.exchanges[-1], Response(200, [], body), close=close
    )


# Requests that are accepted.

ACCEPTED: dict[str, tuple[bytes, list[tuple[str, str, str, bytes]]]] = {
    "length": (request(b"hello"), [("POST", "/predict", "", b"hello")]),
    "no body": (GET, [("GET", "/health", "", b"")]),
    "empty body": (request(b""), [("POST", "/predict", "", b"")]),
    "a long body": (request(b"x" * 100_000), [("POST", "/predict", "", b"x" * 100_000)]),
    "chunks": (chunked_request(b"ab", b"c" * 40), [("POST", "/predict", "", b"ab" + b"c" * 40)]),
    "no chunks": (chunked_request(), [("POST", "/predict", "", b"")]),
    "extensions and trailers": (
        request(None, CHUNKED) + b'2;a=b;c="d e"\r\nok\r\n000;x\r\nA: b\r\nC:\r\n\r\n',
        [("POST", "/predict", "", b"ok")],
    ),
    "chunked in capitals": (
        request(None, "TRANSFER-ENCODING:\t CHUNKED ") + b"A\r\n0123456789\r\n0\r\n\r\n",
        [("POST", "/predict", "", b"0123456789")],
    ),
    "pipelined": (
        request(b"1") + GET + chunked_request(b"2") + request(b"3"),
        [
            ("POST", "/predict", "", b"1"),
            ("GET", "/health", "", b""),
            ("POST", "/predict", "", b"2"),
            ("POST", "/predict", "", b"3"),
        ],
    ),
    "query": (request(b"", path="/predict?a=%20b?c"), [("POST", "/predict", "a=%20b?c", b"")]),
    "percents": (request(b"", path="/%70%C3%a9%zz"), [("POST", "/p\u00c3\u00a9%zz", "", b"")]),
    "absolute": (request(b"", path="http://h:80/p?q"), [("POST", "/p", "q", b"")]),
    "absolute without a path": (request(b"", path="HTTPS://h?q"), [("POST", "/", "q", b"")]),
    "absolute, IPv6": (request(b"", path="http://[::1]:80/p"), [("POST", "/p", "", b"")]),
    "star": (request(method="OPTIONS", path="*"), [("OPTIONS", "*", "", b"")]),
    "empty lines before": (
        b"\r\n\n\r\r\n" + GET + b"\r\n" + GET,
        [("GET", "/health", "", b"")] * 2,
    ),
    "an upgrade is ignored": (
        request(b"{}", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA")
        + GET,
        [("POST", "/predict", "", b"{}"), ("GET", "/health", "", b"")],
    ),
    "an upgrade with chunks": (
        request(None, CHUNKED, "Connection: Upgrade", "Upgrade: a") + chunked(b"x"),
        [("POST", "/predict", "", b"x")],
    ),
    "1.0": (
        request(b"a", "Connection: keep-alive", version="1.0") + request(b"b", version="1.0"),
        [("POST", "/predict", "", b"a"), ("POST", "/predict", "", b"b")],
    ),
    "1.0 without Host": (b"GET /health HTTP/1.0\r\n\r\n", [("GET", "/health", "", b"")]),
    "other expectations": (request(b"a", "Expect: b"), [("POST", "/predict", "", b"a")]),
    "100 fields": (
        request(b"a", *["A: b"] * 98),
        [("POST", "/predict", "", b"a")],
    ),
}


def understood(client: Client) -> list[tuple[str, str, str, bytes | None]]:
    return [
        (exchange.head.method, exchange.head.path, exchange.head.query, exchange.body)
        for exchange in client.application.exchanges
    ]


def cuts(data: bytes) -> list[list[bytes]]:
    """The data whole, in two pieces wherever it is cut, and byte by byte."""
    if len(data) > 2000:
        places = [*range(1, 200), 300, 65_535, 65_536, 65_537, *range(len(data) - 40, len(data))]
        return [[data], *([data[:at], data[at:]] for at in places if at < len(data))]
    pieces = [[data[:at], data[at:]] for at in range(1, len(data))]
    return [[data], *pieces, [data[at : at + 1] for at in range(len(data))]]


def without_dates(client: Client) -> bytes:
    return re.sub(rb"Date: [^\r]+", b"Date: D", bytes(client.transport.sent))


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_however_it_is_cut(name: str) -> None:
    data, expected = ACCEPTED[name]
    whole = Client()
    for pieces in cuts(data):
        client = Client()
        client.send(*pieces)
        assert understood(client) == expected, pieces
        assert client.statuses() == [200] * len(expected)
        whole = whole if whole.transport.sent else client
        assert without_dates(client) == without_dates(whole)
        assert client.connection.buffered_bytes == 0


def test_a_receive_buffer_may_be_small() -> None:
    client = Client(buffer_bytes=7)
    client.send(request(b"y" * 70_000), GET, chunked_request(b"x" * 50, b"y"))
    assert [exchange.body for exchange in client.application.exchanges] == [
        b"y" * 70_000,
        b"",
        b"x" * 50 + b"y",
    ]


def test_what_a_head_says() -> None:
    client = Client(FakeApplication(respond=None))
    client.send(
        b"POST /a?b HTTP/1.1\r\nhOsT:a\r\nX-A: 1 \t\r\nX-B:\r\n"
        b"x-a:\t2\r\nContent-Length: 02 \r\n\r\nok"
    )
    head = client.application.exchanges[0].head
    assert (head.target, head.version, head.content_length) == (b"/a?b", "1.1", 2)
    assert (head.is_chunked, head.keeps_alive, head.expects_continue) == (False, True, False)
    assert head.headers == [
        (b"host", b"a"),
        (b"x-a", b"1"),
        (b"x-b", b""),
        (b"x-a", b"2"),
        (b"content-length", b"02"),
    ]
    assert head.get(b"x-a") == b"1, 2"
    assert head.get(b"x-b") == b""
    assert head.get(b"x-c") is None


# Requests that are refused.

REFUSED: dict[str, tuple[bytes, int]] = {
    "no request": (b"NONSENSE\r\n\r\n", 400),
    "no target": (b"GET\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
    "a blank before a colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "a folded line": (request(None, "A: b", " c"), 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\xfc", 400),
    "a TLS hello with an end": (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
    "a method of other characters": (request(None, method="!A"), 400),
    "lower case": (request(None, method="get"), 400),
    "an unknown method": (request(None, method="BREW"), 501),
    "CONNECT": (request(None, method="CONNECT", path="a:1"), 501),
    "two blanks": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a blank behind the version": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "line feeds alone": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "a line feed alone": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    "a line feed inside": (b"GET / HTTP/1.1\r\nHost: a\nA: b\r\n\r\n", 400),
    "a return alone": (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", 400),
    "NUL": (request(None, "A: \0"), 400),
    "version 2.0": (request(None, version="2.0"), 505),
    "version 1.2": (request(None, version="1.2"), 505),
    "version 0.9": (request(None, version="0.9"), 400),
    "a preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "RTSP": (b"DESCRIBE rtsp://a/b RTSP/1.0\r\n\r\n", 400),
    "ICE": (b"SOURCE /a ICE/1.0\r\n\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (request(None, "Host: a"), 400),
    "two Hosts in 1.0": (request(None, "Host: a", version="1.0"), 400),
    "a fragment": (request(None, path="/a#b"), 400),
    "star, not OPTIONS": (request(None, path="*"), 400),
    "a relative target": (request(None, path="predict"), 400),
    "another scheme": (request(None, path="ftp://a/b"), 400),
    "a user": (request(None, path="http://a@b/c"), 400),
    "a bad authority": (request(None, path="http://[bad/"), 400),
    "a target that is not ASCII": (request(None, path="/\u00e9"), 400),
    "101 fields": (request(None, *["A: b"] * 100), 431),
    "a long target": (request(None, path="/" + "x" * 70_000), 431),
    "a long field": (request(None, "A: " + "x" * 70_000), 431),
    "an endless line": (b"GET /" + b"x" * 70_000, 431),
    "endless empty lines": (b"\r\n" * 35_000, 431),
    "length and chunked": (request(b"a", CHUNKED), 400),
    "two lengths": (request(b"a", "Content-Length: 1"), 400),
    "two different lengths": (request(b"a", "Content-Length: 2"), 400),
    "lengths in a list": (request(None, "Content-Length: 1, 1") + b"a", 400),
    "a sign": (request(None, "Content-Length: +1") + b"a", 400),
    "a negative length": (request(None, "Content-Length: -1"), 400),
    "an underscore": (request(None, "Content-Length: 1_0"), 400),
    "no digits": (request(None, "Content-Length: abc"), 400),
    "an empty length": (request(None, "Content-Length: "), 400),
    "a length over the limit": (request(None, f"Content-Length: {MAX_BODY_BYTES + 1}"), 413),
    "a length of 64 bits": (request(None, f"Content-Length: {2**64 - 1}"), 413),
    "a length of 65 bits": (request(None, f"Content-Length: {2**64}"), 413),
    "a length of many digits": (request(None, "Content-Length: " + "9" * 5000), 413),
    "gzip": (request(None, "Transfer-Encoding: gzip"), 501),
    "gzip and chunked": (request(None, "Transfer-Encoding: gzip, chunked"), 501),
    "gzip and chunked, apart": (request(None, "Transfer-Encoding: gzip", CHUNKED), 501),
    "chunked twice": (request(None, "Transfer-Encoding: chunked, chunked"), 400),
    "chunked twice, apart": (request(None, CHUNKED, CHUNKED), 400),
    "a comma before chunked": (request(None, "Transfer-Encoding: ,chunked"), 400),
    "an empty coding": (request(None, "Transfer-Encoding:"), 400),
    "chunked in 1.0": (request(None, CHUNKED, version="1.0"), 400),
    "no size": (request(None, CHUNKED) + b"zz\r\n", 400),
    "a negative size": (request(None, CHUNKED) + b"-1\r\n", 400),
    "too few bytes in a chunk": (request(None, CHUNKED) + b"2\r\n{}..\r\n", 400),
    "a chunk over the limit": (request(None, CHUNKED) + b"7fffffff\r\n", 413),
    "chunks over the limit": (
        request(None, CHUNKED) + chunked(b" " * MAX_BODY_BYTES)[:-5] + b"1\r\n",
        413,
    ),
    "a long size line": (request(None, CHUNKED) + b"1;" + b"x" * 300, 400),
    "a long trailer": (request(None, CHUNKED) + b"0\r\nA: " + b"x" * 20_000, 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_however_it_is_cut(name: str) -> None:
    data, status = REFUSED[name]
    details = set()
    for pieces in cuts(data):
        client = Client()
        client.send(*pieces)
        assert client.statuses() == [status], pieces
        (response,) = client.responses()
        assert response.headers["Connection"] == "close"
        details.add(json.loads(response.body)["detail"])
        assert client.transport.has_ended_side
        assert not client.transport.is_closed  # the client may still send
        assert [exchange.is_abandoned for exchange in client.application.exchanges] in ([], [True])
        assert client.application.rejected[0][1] == status
    assert len(details) == 1
    if status == 413:
        assert str(MAX_BODY_BYTES) in details.pop()


def test_requests_before_a_refused_one_are_answered_and_those_behind_it_are_not() -> None:
    client = Client()
    client.send(GET + request(None, version="2.0") + GET)
    assert client.statuses() == [200, 505]
    client.send(GET)
    assert client.statuses() == [200, 505]
    assert client.application.rejected == [
        (None, 505, "The HTTP version is not supported: use HTTP/1.1")
    ]


def test_a_refused_body_has_a_head() -> None:
    client = Client()
    client.send(request(None, CHUNKED) + b"1;" + b"x" * 300)
    message = "The chunks of the body carry too much beside the body"
    assert client.application.rejected == [("/predict", 400, message)]


def test_chunks_of_one_byte_make_a_body_like_any_other() -> None:
    client = Client()
    client.send(chunked_request(*[b"x"] * 20_000))
    assert client.application.exchanges[0].body == b"x" * 20_000


def test_a_limit_is_no_part_of_what_is_refused() -> None:
    client = Client()
    client.send(request(b" " * MAX_BODY_BYTES), chunked_request(b" " * MAX_BODY_BYTES))
    assert client.statuses() == [200, 200]
    start = len(b"GET / HTTP/1.1\r\nHost: a\r\nA: \r\n\r\n")
    client.send(request(None, "A: " + "x" * (2**16 - start), method="GET", path="/"))
    assert client.statuses() == [200, 200, 200]


def test_no_memory_for_a_body() -> None:
    client = Client(FakeApplication(max_body_bytes=2**63))
    client.send(request(None, f"Content-Length: {2**62}"))
    assert client.statuses() == [503]
    assert client.application.exchanges[0].is_abandoned


# Responses.


def test_a_response() -> None:
    client = Client()
    client.send(request(b"abc"))
    assert re.fullmatch(
        rb"HTTP/1\.1 200 OK\r\nServer: gpux\r\n"
        rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n"
        rb"Content-Type: text/plain\r\nContent-Length: 19\r\n\r\nPOST /predict 3:abc",
        bytes(client.transport.sent),
    )
    assert len(client.transport.writes) == 1


@pytest.mark.parametrize(
    ("response", "method", "expected"),
    [
        (Response(200, [], b"abc"), "HEAD", "3"),
        (Response(200, [("content-length", "7")]), "HEAD", None),
        (Response(204), "OPTIONS", None),
        (Response(404), "GET", "0"),
        (Response(200, [], bytearray(b"abc")), "GET", "3"),
        (Response(200, [], memoryview(b"abcdefgh").cast("f")), "GET", "8"),
    ],
)
def test_the_length_of_a_response(response: Response, method: str, expected: str | None) -> None:
    client = Client(FakeApplication(respond=lambda _: response))
    client.send(request(method=method))
    (received,) = read_responses(bytes(client.transport.sent), to_head=method == "HEAD")
    assert received.headers.get("Content-Length") == expected
    client.send(request(method=method))
    assert len(client.application.exchanges) == 2


def test_a_status_without_a_name() -> None:
    client = Client(FakeApplication(respond=lambda _: Response(299)))
    client.send(GET)
    assert client.transport.sent.startswith(b"HTTP/1.1 299 \r\n")


@pytest.mark.parametrize(
    "header", [("A", "b\r\nC: d"), ("A\n", "b"), ("A", "b\r"), ("A", "\u20ac"), ("A", "\n")]
)
@pytest.mark.parametrize("data", [GET, request(b"hello")[:-1]], ids=["in full", "in part"])
def test_a_header_cannot_start_another(header: tuple[str, str], data: bytes) -> None:
    client = Client(later())
    client.send(data)
    exchange = client.application.exchanges[0]
    with pytest.raises(ValueError, match=r"line end|latin-1"):
        client.connection.respond(exchange, Response(200, [header]))
    respond(client)
    assert client.statuses() == [200]


def test_responses_to_pipelined_requests_are_joined() -> None:
    client = Client()
    client.send(GET * 10)
    assert client.statuses() == [200] * 10
    assert len(client.transport.writes) == 1
    client.application.respond = lambda _: Response(200, [], b"x" * 50_000)
    client.send(GET * 4)
    assert len(client.transport.writes) == 3


# Connections.

KEPT = [
    (request(b"a"), True, None),
    (request(b"a", "Connection: close"), False, "close"),
    (request(b"a", "Connection: x, CLOSE"), False, "close"),
    (request(b"a", "Connection: x", "Connection: close"), False, "close"),
    (request(b"a", "Connection: keep-alive"), True, None),
    (request(b"a", version="1.0"), False, "close"),
    (request(b"a", "Connection: Keep-Alive", version="1.0"), True, "keep-alive"),
    (request(b"a", "Connection: keep-alive, close", version="1.0"), False, "close"),
]


@pytest.mark.parametrize(("data", "is_kept", "header"), KEPT)
def test_a_connection_is_kept(data: bytes, is_kept: bool, header: str | None) -> None:
    client = Client()
    client.send(data)
    (response,) = client.responses()
    assert response.headers.get("Connection") == header
    assert client.is_ended is not is_kept
    assert client.connection.is_idle is is_kept
    client.send(GET)
    assert client.statuses() == [200, 200][: 1 + is_kept]


def test_the_application_closes() -> None:
    client = Client(later())
    client.send(GET)
    respond(client, close=True)
    assert client.responses()[0].headers["Connection"] == "close"
    assert client.transport.is_closed


def test_one_request_at_a_time() -> None:
    client = Client(later())
    client.send(request(b"a") + request(b"b"), request(b"c"))
    assert len(client.application.exchanges) == 1
    assert client.connection.buffered_bytes == 2 * len(request(b"b"))
    assert not client.connection.is_idle
    for body in (b"a", b"b", b"c"):
        assert client.application.exchanges[-1].body == body
        respond(client, body)
    assert [response.body for response in client.responses()] == [b"a", b"b", b"c"]
    assert client.connection.is_idle


def test_an_exchange_of_before_is_ignored() -> None:
    client = Client(later())
    client.send(GET * 2)
    first = client.application.exchanges[0]
    for _ in range(2):
        client.connection.respond(first, Response(200, [], b"first"))
    assert len(client.responses()) == 1
    respond(client)
    client.connection.respond(first, Response(200, [], b"first"))
    assert [response.body for response in client.responses()] == [b"first", b"done"]


def test_reading_pauses_where_too_much_is_read_ahead() -> None:
    client = Client(later(), Limits(read_ahead_bytes=10 * len(GET) - 1))
    client.send(*[GET] * 10)
    assert not client.transport.is_reading_paused
    client.send(*[GET] * 10)
    assert client.transport.is_reading_paused
    assert client.connection.buffered_bytes == 10 * len(GET)
    respond(client)
    assert not client.transport.is_reading_paused
    client.application.respond = echo
    respond(client)
    assert client.connection.is_idle


def test_other_connections_have_their_turn_among_pipelined_requests() -> None:
    async def pipeline() -> tuple[Client, int]:
        client = Client()
        client.send(GET * 50)
        at_once = len(client.application.exchanges)
        client.end_side()
        while not client.transport.is_closed:
            await asyncio.sleep(0)
        return client, at_once

    client, at_once = asyncio.run(pipeline())
    assert at_once == 16
    assert client.statuses() == [200] * 50


def test_a_client_that_asks_for_the_end_and_sends_on_is_read() -> None:
    client = Client(later(), Limits(read_ahead_bytes=1000))
    client.send(request(b"", "Connection: close"), *[GET] * 100)
    assert client.transport.is_reading_paused
    respond(client)
    assert client.transport.has_ended_side
    assert not client.transport.is_closed
    assert not client.transport.is_reading_paused
    client.send(GET * 1000)
    assert client.statuses() == [200]
    client.end_side()
    assert client.transport.is_closed


# Bodies that are not wanted, or only then.


@pytest.mark.parametrize("head", [request(None, CHUNKED), request(None, "Content-Length: 5")])
@pytest.mark.parametrize("at_once", [True, False])
def test_continue(head: bytes, at_once: bool) -> None:
    head = head.replace(b"\r\n\r\n", b"\r\nExpect: 100-Continue\r\n\r\n")
    body = chunked(b"hello") if b"chunked" in head else b"hello"
    client = Client()
    client.send(*([head + body[:1], body[1:]] if at_once else [head, body]))
    assert client.statuses() == ([200] if at_once else [100, 200])
    assert client.application.exchanges[0].body == b"hello"


def test_continue_comes_behind_the_responses_before_it() -> None:
    client = Client()
    client.send(GET + request(None, "Expect: 100-continue", "Content-Length: 100000"))
    assert client.statuses() == [200, 100]
    client.send(b"x" * 100_000)
    assert client.statuses() == [200, 100, 200]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_continue_is_not_for_everybody(version: str) -> None:
    client = Client()
    client.send(request(None, "Expect: 100-continue", "Content-Length: 0", version=version))
    assert client.statuses() == [200]
    client = Client()
    client.send(request(None, "Expect: 100-continue", "Content-Length: 1", version="1.0"))
    assert client.statuses() == []


def refusing(status: int = 503) -> FakeApplication:
    return FakeApplication(refusals={"/no": Response(status)})


@pytest.mark.parametrize(
    ("data", "is_kept"),
    [
        (request(b"hello", path="/no"), True),
        (request(None, path="/no"), True),
        (request(b"x" * 2**20, path="/no"), True),
        (request(b"x" * (2**20 + 1), path="/no"), False),
        (request(None, CHUNKED, path="/no") + chunked(b"a"), False),
        (request(b"hello", "Connection: close", path="/no"), False),
        (request(b"hello", path="/no", version="1.0"), False),
        (request(None, "Content-Length: 5", "Expect: 100-continue", path="/no"), False),
        (request(b"hello", "Expect: 100-continue", path="/no"), True),
        (request(b"", "Expect: 100-continue", path="/no"), True),
    ],
    ids=lambda value: repr(value[:120]) if isinstance(value, bytes) else str(value),
)
def test_a_short_body_that_nobody_wants_is_read(data: bytes, is_kept: bool) -> None:
    for pieces in cuts(data) if len(data) < 1000 and b"Expect" not in data else [[data]]:
        client = Client(refusing())
        client.application.max_body_bytes = 2**30
        client.send(*pieces)
        assert client.statuses() == [503]
        assert client.is_ended is not is_kept
        client.send(GET)
        assert client.statuses() == [503, 200][: 1 + is_kept]


def test_it_is_answered_before_its_body_comes() -> None:
    client = Client(refusing())
    client.send(request(None, "Content-Length: 5", path="/no"))
    assert client.statuses() == [503]
    assert not client.connection.is_idle
    client.send(b"hell")
    assert not client.connection.is_idle
    client.send(b"o" + GET)
    assert client.statuses() == [503, 200]


@pytest.mark.parametrize("nbytes", [10, 100_000])
def test_an_exchange_may_respond_before_it_has_its_body(nbytes: int) -> None:
    client = Client(later())
    client.send(request(None, f"Content-Length: {nbytes}"), b"x" * 5)
    respond(client)
    assert client.statuses() == [200]
    client.send(b"x" * (nbytes - 5) + GET)
    assert [exchange.body for exchange in client.application.exchanges] == [None, b""]
    assert not client.application.exchanges[0].is_abandoned


def test_lingering_has_a_bound_in_bytes() -> None:
    client = Client(limits=Limits(linger_bytes=1000))
    client.send(b"NONSENSE\r\n\r\n", b"x" * 1000)
    assert not client.transport.is_closed
    client.send(b"x")
    assert client.transport.is_closed


def test_lingering_has_a_bound_in_seconds() -> None:
    client = Client()
    client.send(b"NONSENSE\r\n\r\n")
    client.pass_time(10)
    assert not client.transport.is_closed
    client.pass_time(1)
    assert client.transport.is_closed
    assert not client.transport.is_aborted


# Clients that end their side, or leave.

PARTS: dict[str, tuple[bytes, State]] = {
    "nothing": (b"", State.WAITING),
    "empty lines": (b"\r\n", State.WAITING),
    "a part of a head": (GET[:20], State.WAITING),
    "a part of a body": (request(b"hello")[:-1], State.RECEIVING),
    "a part of a long body": (request(b"x" * 70_000)[:-1], State.RECEIVING),
    "a part of chunks": (chunked_request(b"hello")[:-1], State.RECEIVING),
    "a part of an unwanted body": (request(b"hello", path="/no")[:-1], State.SKIPPING),
    "a refused request": (b"NONSENSE\r\n\r\n", State.LINGERING),
    "an end": (request(b"", "Connection: close", path="/no"), State.CLOSING),
    "a request": (request(b"hello"), State.RESPONDING),
    "a request and a part": (request(b"hello") + GET[:10], State.RESPONDING),
}


def client_in(name: str) -> Client:
    data, state = PARTS[name]
    client = Client(refusing())
    client.application.respond = None
    client.send(data)
    assert client.connection._state is state
    return client


@pytest.mark.parametrize("name", PARTS)
def test_a_client_that_leaves(name: str) -> None:
    client = client_in(name)
    assert client.connections == {client.connection}
    exchanges = client.application.exchanges
    client.leave()
    assert client.connections == set()
    assert [exchange.is_abandoned for exchange in exchanges] == [True] * len(exchanges)
    assert client.connection.buffered_bytes == 0
    for exchange in exchanges:
        client.connection.respond(exchange, Response(200))  # a completion that comes late
    client.connection.tick(1000.0)
    client.connection.end()
    client.connection.abort()
    assert not client.transport.is_aborted


@pytest.mark.parametrize("name", [name for name in PARTS if name != "an end"])
def test_a_client_that_ends_its_side(name: str) -> None:
    client = client_in(name)
    client.end_side()
    exchanges = client.application.exchanges
    if PARTS[name][1] is State.RESPONDING:
        assert not client.transport.is_closed
        assert not exchanges[0].is_abandoned
        respond(client)
        assert client.statuses() == [200]
    else:
        assert [exchange.is_abandoned for exchange in exchanges] == [True] * len(exchanges)
    assert client.transport.is_closed
    assert not client.transport.is_aborted


def test_requests_in_full_are_answered_behind_the_end_of_the_clients_side() -> None:
    client = Client(later())
    client.send(GET * 3 + GET[:10])
    client.end_side()
    for _ in range(3):
        assert not client.transport.is_closed
        respond(client)
    assert client.transport.is_closed
    assert client.statuses() == [200] * 3
    client = Client(later())
    client.send(GET * 2)
    client.end_side()
    respond(client)
    respond(client)
    connection_headers = [response.headers.get("Connection") for response in client.responses()]
    assert connection_headers == [None, "close"]


def test_a_transport_that_is_closing_is_given_nothing() -> None:
    client = Client(later())
    client.send(request(b"a") + GET)
    client.transport.is_closed = True
    respond(client)
    assert client.transport.sent == b""


def test_an_exception_of_the_application_closes_the_connection() -> None:
    def fail(exchange: FakeExchange) -> Response:
        raise KeyError(exchange.head.path)

    client = Client(FakeApplication(respond=fail))
    with pytest.raises(KeyError):
        client.send(GET)
    assert client.transport.is_aborted
    client = Client()
    client.application.reject = None  # type: ignore[assignment,method-assign]
    client.send(GET[:10])
    with pytest.raises(TypeError):
        client.pass_time(30)
    assert client.transport.is_aborted


def test_a_connection_that_cannot_be_made_is_closed() -> None:
    class Broken(FakeTransport):
        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
            raise RuntimeError(f"no limits of {high} and {low}")

    connections: set[Connection] = set()
    transport = Broken()
    connection = Connection(FakeApplication(), Limits(), connections, bytearray(100), Pool())
    with pytest.raises(RuntimeError):
        connection.connection_made(transport)
    assert transport.is_aborted
    assert connections == set()


# Slow senders.


@pytest.mark.parametrize(
    "sent",
    [
        b"P",
        GET[:20],
        request(None, "Content-Length: 9"),
        request(b"hello")[:-1],
        request(b"x" * 70_000)[:170],
        request(None, CHUNKED) + b"4\r\n{",
    ],
)
def test_a_request_that_does_not_come(sent: bytes) -> None:
    client = Client()
    client.send(sent)
    client.pass_time(21)
    assert client.statuses() == []
    client.pass_time(1)
    assert client.statuses() == [408]
    assert json.loads(client.responses()[0].body) == {"detail": TOO_SLOW}
    assert client.responses()[0].headers["Connection"] == "close"
    assert [exchange.is_abandoned for exchange in client.application.exchanges] in ([], [True])
    head = "/predict" if b"\r\n\r\n" in sent else None
    assert client.application.rejected == [(head, 408, TOO_SLOW)]
    client.pass_time(11)
    assert client.transport.is_closed


def test_what_has_come_is_time_for_the_rest() -> None:
    client = Client()
    client.send(request(b"x" * 70_000)[:10_000])
    client.pass_time(41)
    assert client.statuses() == []
    client.pass_time(1)
    assert client.statuses() == [408]


def test_a_byte_from_time_to_time() -> None:
    client = Client()
    for byte in request(b"x" * 100):
        client.send(bytes([byte]))
        client.pass_time(1)
        if client.is_ended:
            break
    assert client.statuses() == [408]
    assert client.now < 125


def test_empty_lines_behind_a_request_are_answered_by_nothing() -> None:
    client = Client()
    client.send(GET + b"\r\n")
    client.pass_time(22)
    assert client.statuses() == [200]
    assert client.transport.is_closed


def test_an_unwanted_body_that_does_not_come() -> None:
    client = Client(refusing())
    client.send(request(None, "Content-Length: 9", path="/no"))
    client.pass_time(22)
    assert client.statuses() == [503]
    assert client.transport.is_closed


def test_the_time_in_which_requests_are_answered_does_not_count() -> None:
    client = Client(later())
    client.send(GET + GET[:-1])
    client.pass_time(1000)
    assert client.statuses() == []
    respond(client)
    client.pass_time(20)
    client.send(GET[-1:])
    respond(client)
    assert client.statuses() == [200, 200]


def test_a_silent_sender_is_cut_off_however_much_it_has_sent() -> None:
    client = Client(limits=Limits(request_bytes_per_second=1.0, idle_seconds=30.0))
    client.send(request(b"x" * 100_000)[:90_000])
    client.pass_time(29)
    client.send(b"x")
    client.pass_time(29)
    assert client.statuses() == []
    client.pass_time(3)
    assert client.statuses() == [408]


def test_the_time_in_which_the_process_stood_still_does_not_count() -> None:
    client = Client()
    client.send(b"P")
    client.pass_time(10)
    for _ in range(5):
        client.now += 1000
        client.connection.tick(client.now)
    assert client.statuses() == []
    client.pass_time(2)
    assert client.statuses() == [408]


def test_an_idle_connection_is_closed() -> None:
    client = Client()
    client.pass_time(100)
    client.send(GET)
    client.pass_time(120)
    assert not client.transport.is_closed
    client.pass_time(1)
    assert client.transport.is_closed
    assert client.statuses() == [200]


# Slow readers.

LONG = b"x" * 1_000_000


def long_client(room: int, limits: Limits | None = None) -> Client:
    """A client of long responses, which reads so many bytes."""
    client = Client(FakeApplication(respond=lambda _: Response(200, [], LONG)), limits)
    client.transport.room = room
    return client


def test_no_request_is_begun_while_a_response_is_unsent() -> None:
    client = long_client(1000)
    client.send(GET * 3)
    assert len(client.application.exchanges) == 1
    client.send(GET)
    assert client.connection.buffered_bytes == 3 * len(GET)
    assert not client.connection.is_idle
    for begun in (2, 3, 4):
        client.transport.read(len(client.transport.unsent) + 1000)
        assert len(client.application.exchanges) == begun
        assert client.transport.unsent
    client.transport.read()
    assert client.statuses() == [200] * 4
    assert client.connection.is_idle


def test_a_reader_that_stands_still_is_cut_off() -> None:
    client = long_client(1000, Limits(response_bytes_per_second=1, idle_seconds=2))
    client.send(GET)
    client.pass_time(3)
    assert not client.transport.is_aborted
    client.pass_time(1)
    assert client.transport.is_aborted


def test_a_reader_that_is_too_slow_is_cut_off() -> None:
    client = long_client(0)
    client.send(GET)
    for _ in range(24):
        client.transport.read(1000)
        client.pass_time(1)
    assert not client.transport.is_aborted
    for _ in range(4):
        client.transport.read(1000)
        client.pass_time(1)
    assert client.transport.is_aborted


def test_what_was_read_is_time_for_the_rest() -> None:
    client = long_client(0)
    client.send(GET)
    client.transport.read(400_000)
    client.pass_time(119)
    client.transport.read(1)
    assert not client.transport.is_aborted
    client.pass_time(2)
    assert client.transport.is_aborted


def test_a_slow_reader_is_cut_off_behind_the_end_too() -> None:
    client = long_client(0)
    client.send(request(b"", "Connection: close"))
    client.pass_time(21)
    assert client.transport.is_aborted


def test_a_reader_may_end_its_side() -> None:
    client = long_client(0)
    client.send(GET + GET)
    client.end_side()
    assert not client.transport.is_closed
    client.transport.read()
    assert client.statuses() == [200, 200]
    assert client.transport.is_closed


# The end of the server.


@pytest.mark.parametrize(
    ("prepare", "is_closed"),
    [
        (lambda client: client.send(GET), True),
        (lambda client: client.send(GET + b"\r\n"), True),
        (lambda client: client.send(GET + GET[:1]), False),
        (lambda client: client.send(b""), False),
    ],
    ids=["idle", "empty lines", "begun", "new"],
)
def test_an_idle_connection_ends_at_once(
    prepare: Callable[[Client], None], is_closed: bool
) -> None:
    client = Client()
    prepare(client)
    client.connection.end()
    assert client.transport.is_closed is is_closed
    assert not client.transport.is_aborted


@pytest.mark.parametrize("data", [b"", GET[:10], request(b"hello")[:-1], GET, GET + GET])
def test_what_is_asked_is_answered_before_the_end(data: bytes) -> None:
    client = Client(later())
    client.send(data)
    client.connection.end()
    if not data:
        client.send(GET)
    elif len(data) == 10:
        client.send(GET[10:])
    elif data.endswith(b"hell"):
        client.send(b"o")
    while any(exchange.body is not None for exchange in client.application.exchanges):
        respond(client)
        if client.transport.is_closed:
            break
    responses = client.responses()
    assert len(responses) == max(data.count(GET), 1)
    assert responses[-1].headers["Connection"] == "close"
    assert client.transport.is_closed


def test_a_new_connection_that_asks_nothing_ends_soon() -> None:
    client = Client()
    client.connection.end()
    client.pass_time(1)
    assert not client.transport.is_closed
    client.pass_time(1)
    assert client.transport.is_closed


def test_a_response_that_is_not_read_yet_is_before_the_end() -> None:
    client = long_client(0)
    client.send(GET)
    client.connection.end()
    client.transport.read()
    (response,) = client.responses()
    assert response == Received(200, response.headers, LONG)


# Requests that are responded to at once, from their bytes.

AT_ONCE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfast"


def known() -> FakeApplication:
    """An application that knows the request `GET`."""
    return FakeApplication(known=lambda data: AT_ONCE if data == GET else None)


def test_a_known_request_is_responded_to_at_once() -> None:
    client = Client(known())
    client.send(GET, request(b"a"), GET)
    bodies = [response.body for response in read_responses(bytes(client.transport.sent))]
    assert bodies == [b"fast", b"POST /predict 1:a", b"fast"]
    assert client.connection.is_idle
    assert client.connection.buffered_bytes == 0


@pytest.mark.parametrize("at", [1, len(GET) // 2, len(GET) - 1])
def test_known_requests_that_come_in_pieces_or_together_are_as_others(at: int) -> None:
    client = Client(known())
    client.send(GET[:at], GET[at:], GET + GET)
    bodies = [response.body for response in read_responses(bytes(client.transport.sent))]
    assert bodies == [b"GET /health 0:"] * 3


def test_known_requests_are_responded_to_in_order() -> None:
    application = later()
    application.known = known().known
    client = Client(application)
    client.send(request(b"a"), GET)
    assert client.transport.sent == b""
    respond(client)
    respond(client, b"2")
    bodies = [response.body for response in read_responses(bytes(client.transport.sent))]
    assert bodies == [b"done", b"2"]


def test_a_known_request_waits_for_a_slow_reader() -> None:
    client = Client(known())
    client.transport.room = 3
    client.send(GET, GET)
    assert client.transport.writes == [AT_ONCE]
    client.transport.read()
    assert len(client.transport.writes) == 2


def test_the_end_is_announced_by_the_response_to_a_known_request() -> None:
    client = Client(known())
    client.connection.announce_end()
    client.send(GET)
    (response,) = read_responses(bytes(client.transport.sent))
    assert response.headers["Connection"] == "close"
    assert client.transport.is_closed


def test_known_requests_keep_a_connection_from_being_idle() -> None:
    client = Client(known(), Limits(idle_seconds=10))
    for _ in range(5):
        client.pass_time(9)
        client.send(GET)
    assert not client.transport.is_closed
    client.pass_time(20)
    assert client.transport.is_closed
