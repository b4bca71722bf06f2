"""The connection against h11: both accept the same requests, or both refuse them.

Requests are made by a grammar that knows what is contested, mutated, and cut anywhere. Where the
two differ by intention, DIFFERENCES says why. One may wait for more where the other refuses.
"""

import itertools
import os
import random
import re
import time
from dataclasses import dataclass
from typing import Literal

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.connections import Client, FakeApplication

# Method, target, headers, body; None for a refusal, behind which nothing is read.
Request = tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]
Understood = list[Request | None]


@dataclass(frozen=True)
class Difference:
    """A kind of request that only one of both accepts.

    Attributes:
        accepts: who accepts it.
        where: part of the request that the pattern is searched in.
        pattern: of bytes that it has.
        reason: why the two differ, by RFC 9112 if not said otherwise.
        example: such a request.
    """

    accepts: Literal["we", "h11"]
    where: Literal["head", "rest"]
    pattern: bytes
    reason: str
    example: bytes


def plain(*fields: str, line: str = "GET / HTTP/1.1", rest: str = "") -> bytes:
    return "\r\n".join([line, "Host: a", *fields, "", rest]).encode("latin-1")


def in_chunks(rest: str) -> bytes:
    return plain("Transfer-Encoding: chunked", rest=rest)


DIFFERENCES = [
    Difference(
        "we",
        "head",
        rb"\A[\r\n]",
        "2.2: empty lines before a request are ignored",
        b"\r\n" + plain(),
    ),
    Difference(
        "h11",
        "head",
        rb"(?<!\r)\n",
        "2.2: a line may end with LF, but need not",
        b"GET / HTTP/1.1\nHost: a\n\n",
    ),
    Difference(
        "h11", "head", rb"\r\n[ \t]", "5.2: a server may refuse folded lines", plain("A: b", " c")
    ),
    Difference(
        "h11",
        "head",
        rb"\A[^\n]* HTTP/(?!1\.[01]\s)",
        "2.3: the version is 1.0 or 1.1",
        plain(line="GET / HTTP/1.2"),
    ),
    Difference(
        "h11",
        "head",
        rb"\A(?!(?:GET|POST|PUT|HEAD|OPTIONS) )",
        "RFC 9110, 9.1: the method is known, and not CONNECT",
        plain(line="BREW / HTTP/1.1"),
    ),
    Difference(
        "h11",
        "head",
        rb"\A\S+ (?!/|http://h/p|\*)",
        "3.2: a target has one of four forms",
        plain(line="GET a HTTP/1.1"),
    ),
    Difference(
        "h11",
        "head",
        rb"\A(?!OPTIONS)\S+ \*",
        "3.2.4: the star is for OPTIONS",
        plain(line="GET * HTTP/1.1"),
    ),
    Difference(
        "h11",
        "head",
        rb"\A\S+ \*\S",
        "3.2.4: the star stands alone",
        plain(line="OPTIONS *a HTTP/1.1"),
    ),
    Difference(
        "h11",
        "head",
        rb"\A\S+ \S*#",
        "3.2: a target has no fragment",
        plain(line="GET /a#b HTTP/1.1"),
    ),
    Difference(
        "h11",
        "head",
        rb"(?is)\ncontent-length:.*\ntransfer-encoding:|\ntransfer-encoding:.*\ncontent-length:",
        "6.3: both together may be an attack",
        plain("Content-Length: 5", "Transfer-Encoding: chunked", rest="0\r\n\r\n"),
    ),
    Difference(
        "h11",
        "head",
        rb"(?is)\ncontent-length:.*(?:,|\ncontent-length:)",
        "6.3: a repeated length may be refused",
        plain("Content-Length: 1", "Content-Length: 1", rest="a"),
    ),
    Difference(
        "h11",
        "head",
        rb"(?is)\A[^\n]*1\.0\r.*\ntransfer-encoding:",
        "6.1: not in HTTP/1.0",
        plain("Transfer-Encoding: chunked", line="GET / HTTP/1.0", rest="0\r\n\r\n"),
    ),
    Difference(
        "h11",
        "head",
        rb"(?i)\ntransfer-encoding:[^\n]*\t\r",
        "llhttp takes the tab for a part of the coding",
        plain("Transfer-Encoding: chunked\t", rest="0\r\n\r\n"),
    ),
    Difference(
        "h11",
        "rest",
        rb"(?m)^[0-9A-Fa-f]{17}",
        "7.1: a size may be bounded, as to 16 digits",
        in_chunks("00000000000000001\r\na\r\n0\r\n\r\n"),
    ),
    Difference(
        "h11",
        "rest",
        rb"(?m)^[0-9A-Fa-f]+[ \t]",
        "7.1: a size has no blanks behind it",
        in_chunks("1 \r\na\r\n0\r\n\r\n"),
    ),
    Difference(
        "h11",
        "rest",
        rb"(?<!\r)\n",
        "2.2: a line may end with LF, but need not",
        in_chunks("0\r\n\n"),
    ),
    Difference(
        "h11",
        "rest",
        rb"\n[ \t]",
        "5.2: a server may refuse folded lines",
        in_chunks("0\r\nA: b\r\n c\r\n\r\n"),
    ),
    Difference(
        "h11",
        "rest",
        rb";[^\r\n]*(?:[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n))",
        "7.1.1: an extension has no control characters",
        in_chunks("0;\0\r\n\r\n"),
    ),
]


def ours(pieces: list[bytes]) -> Understood:
    client = Client(FakeApplication(max_body_bytes=2**40))
    client.send(*pieces)
    found: Understood = []
    for exchange in client.application.exchanges:
        if exchange.body is not None:
            head = exchange.head
            found.append((head.method.encode(), head.target, head.headers, exchange.body))
    if client.application.rejected:
        found.append(None)
    return found


def theirs(data: bytes) -> tuple[Understood, list[int]]:
    """What h11 understood, and where each request begins."""
    found: Understood = []
    starts = [0]
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
    connection.receive_data(data)
    request: h11.Request | None = None
    body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return [*found, None], starts
        if isinstance(event, h11.Request):
            request, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            headers = [(bytes(name), bytes(value)) for name, value in request.headers]
            found.append((bytes(request.method), bytes(request.target), headers, body))
            starts.append(len(data) - len(connection.trailing_data[0]))
            if request.method == b"CONNECT":
                return found, starts
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE:
                # h11 keeps no connection of HTTP/1.0, which is no matter of what is understood.
                starts.append(-1 if request.http_version == b"1.0" else len(data))
                return found, starts
            connection.start_next_cycle()
        else:
            return found, starts


def normalized(understood: Understood) -> Understood:
    """Transfer codings in lower case, as h11 has them, and lengths as it writes them."""
    return [
        request
        and (
            request[0],
            request[1],
            [
                (name, value.lower() if name == b"transfer-encoding" else value)
                for name, value in request[2]
            ],
            request[3],
        )
        for request in understood
    ]


def check(data: bytes, cuts: list[int]) -> Difference | None:
    """Checks one input; returns the difference that explains it, if there is one."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [data[i:j] for i, j in itertools.pairwise(places)]
    mine = normalized(ours(pieces))
    assert mine == normalized(ours([data])), (data, places)
    found, starts = theirs(data)
    other = normalized(found)
    if starts[-1] < 0:
        mine = mine[: len(other)]
    if mine == other:
        return None
    at = 0
    while at < min(len(mine), len(other)) and mine[at] == other[at]:
        at += 1
    we_refuse, they_refuse = mine[at:] == [None], other[at:] == [None]
    if (we_refuse and not other[at:]) or (they_refuse and not mine[at:]):
        return None  # one waits
    head, end, rest = [*re.split(rb"(\n\r?\n)", data[starts[at] :], maxsplit=1), b"", b""][:3]
    for difference in DIFFERENCES:
        accepts = they_refuse if difference.accepts == "we" else we_refuse
        part = head + end if difference.where == "head" else rest
        if accepts and re.search(difference.pattern, part):
            return difference
    raise AssertionError((data, mine[at:], other[at:]))


METHODS = [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"BREW", b"get", b"CONNECT", b""]
TARGETS = [b"/", b"/predict", b"/a?b=c", b"*", b"http://h/p", b"/a#b", b"/\xe9", b"a", b"/%zz", b""]
VERSIONS = [b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/0.9", b"http/1.1"]
FIELDS = [
    b"Host: a",
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: 05",
    b"content-length:5 ",
    b"Content-Length: 5, 5",
    b"Content-Length: -5",
    b"Content-Length: 99999999999999999999999999",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding:CHUNKED ",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: identity",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: Upgrade",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"X-Empty:",
    b"X: \xff\xfe",
    b"X: a\tb",
    b" folded",
    b"no colon",
    b": no name",
    b"X\x00: a",
]
BODIES = [
    b"",
    b"hello",
    b"hell",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"005;a=b\r\nhello\r\n0;x\r\nA: b\r\n\r\n",
    b"1\r\nh\r\nA\r\n0123456789\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n",
    b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
]
BYTES = [
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b":",
    b",",
    b"\0",
    b"0",
    b"5",
    b"/",
    b"\xff",
    b"G",
    b";",
]


def make_request(source: random.Random) -> bytes:
    """A request, mostly plausible."""
    method = source.choice(METHODS[:5] if source.random() < 0.9 else METHODS)
    target = source.choice(TARGETS[:3] if source.random() < 0.8 else TARGETS)
    fields = [b"Host: a"] if source.random() < 0.95 else []
    framing = source.random()
    body = b""
    if framing < 0.4:
        fields.append(b"Content-Length: 5")
        body = b"hello"
    elif framing < 0.7:
        fields.append(b"Transfer-Encoding: chunked")
        body = source.choice(BODIES[3:6] if source.random() < 0.6 else BODIES)
    while source.random() < 0.3:
        fields.insert(source.randrange(len(fields) + 1), source.choice(FIELDS))
    if source.random() < 0.1:
        body = source.choice(BODIES)
    line = b" ".join([method, target, source.choice(VERSIONS)])
    return b"\r\n".join([line, *fields, b"", b""]) + body


def mutate(source: random.Random, data: bytes) -> bytes:
    """The same with a few bytes put in, left out or doubled."""
    changed = bytearray(data)
    while changed and source.random() < 0.4:
        at = source.randrange(len(changed))
        kind = source.randrange(3)
        if kind == 0:
            changed[at:at] = source.choice(BYTES)
        elif kind == 1:
            del changed[at]
        else:
            changed[at:at] = changed[at : at + source.randrange(1, 20)]
    return bytes(changed)


def run(seed: int, rounds: int) -> None:
    source = random.Random(seed)
    for _ in range(rounds):
        requests = [make_request(source) for _ in range(source.choice((1, 1, 2, 3)))]
        data = mutate(source, b"".join(requests))
        check(data, [source.randrange(10_000) for _ in range(source.randrange(6))])


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.reason)
def test_differences(difference: Difference) -> None:
    assert check(difference.example, []) == difference


def test_random_requests() -> None:
    """For 2,000 requests, and as long as H11_SECONDS in the environment says."""
    end = time.monotonic() + float(os.environ.get("H11_SECONDS", "0"))
    for seed in itertools.count():
        run(seed, 500)
        if seed >= 3 and time.monotonic() >= end:
            return


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda line, fields, body: b"\r\n".join([line, *fields, b"", b""]) + body,
            st.builds(
                lambda *words: b" ".join(words),
                st.sampled_from(METHODS),
                st.sampled_from(TARGETS),
                st.sampled_from(VERSIONS),
            ),
            st.lists(st.sampled_from(FIELDS), max_size=5),
            st.one_of(st.sampled_from(BODIES), st.binary(max_size=20)),
        ),
        min_size=1,
        max_size=3,
    ),
    st.lists(st.integers(0, 1000), max_size=6),
)
def test_hypothetical_requests(requests: list[bytes], cuts: list[int]) -> None:
    check(b"".join(requests), cuts)
