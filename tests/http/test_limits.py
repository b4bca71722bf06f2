"""Misbehaving clients do no harm: oversized, slow, incomplete or malformed requests."""

import http.client
import json
import queue
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy
import pytest
import requests

from gpux.config.settings import cores
from tests.support.servers import (
    A_WHILE,
    JSON_HEADERS,
    PATIENCE_SECONDS,
    QUICK,
    Client,
    Find,
    Serve,
    ServerProcess,
    connect,
    head,
    post,
    serve,
    start_run,
    wait_until,
)

GOOD = b'{"input_ids": [1, 2], "attention_mask": [1, 1]}'
LIMIT = 1_000_000
CHUNKED = "Transfer-Encoding: chunked"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def serve_limited(model_file: Find, workers: int) -> Iterator[ServerProcess]:
    """A server that accepts bodies of up to 1 MB."""
    with serve(model_file("sentiment"), "--max-body", "1MB", "--workers", str(workers)) as server:
        yield server
    assert server.stderr.text == ""


@pytest.fixture(scope="module")
def alone(model_file: Find) -> Iterator[ServerProcess]:
    yield from serve_limited(model_file, 1)


@pytest.fixture(scope="module")
def of_two(model_file: Find) -> Iterator[ServerProcess]:
    yield from serve_limited(model_file, 2)


@pytest.fixture(params=["alone", "of_two"])
def limited(request: pytest.FixtureRequest) -> ServerProcess:
    """A server of one process, and one of two."""
    server: ServerProcess = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def fresh(model_file: Find) -> Iterator[ServerProcess]:
    """A server of one test only, which has served one request and closed its connection."""
    with serve(model_file("sentiment")) as server:
        descriptors = server.descriptors()
        assert server.post(GOOD).status == 200
        wait_until(lambda: server.descriptors() == descriptors, "the client's socket is closed")
        yield server
    assert server.stderr.text == ""


# Body size.


def test_a_body_of_the_limit_passes(limited: ServerProcess) -> None:
    assert limited.post(GOOD.ljust(LIMIT)).status == 200
    chunks = (chunk(GOOD.ljust(400_000)), chunk(b" " * 600_000), b"0\r\n\r\n")
    assert limited.exchange(head(None, CHUNKED), *chunks).status == 200


def test_a_body_over_the_limit(limited: ServerProcess) -> None:
    assert str(LIMIT) in limited.post(GOOD.ljust(LIMIT + 1)).error(413)


@pytest.mark.parametrize("length", [LIMIT + 1, 2**31, 2**63])
def test_the_declared_length_is_judged_before_the_body_is_read(
    limited: ServerProcess, length: int
) -> None:
    assert limited.exchange(head(length)).status == 413


def test_a_declared_length_of_many_digits(alone: ServerProcess) -> None:
    assert alone.exchange(head(10**30)).status == 413


@pytest.mark.parametrize("length", [LIMIT + 1, 10**12])
def test_no_continue_for_a_body_over_the_limit(limited: ServerProcess, length: int) -> None:
    with Client(limited) as client:
        response = client.exchange(head(length, "Expect: 100-continue"))
        assert str(LIMIT) in response.error(413)
        assert client.at_end()


@pytest.mark.parametrize("lines", [(), (CHUNKED,)], ids=["length", "chunked"])
def test_continue_for_a_body_within_the_limit(
    limited: ServerProcess, lines: tuple[str, ...]
) -> None:
    with Client(limited) as client:
        length = None if lines else len(GOOD)
        assert client.exchange(head(length, "Expect: 100-continue", *lines)).status == 100
        body = chunk(GOOD) + b"0\r\n\r\n" if lines else GOOD
        assert client.exchange(body).status == 200


def test_continue_where_there_is_no_body(limited: ServerProcess) -> None:
    with Client(limited) as client:
        response = client.exchange(head(0, "Expect: 100-continue"))
        if response.status == 100:  # allowed, but the final response must follow
            response = client.read()
        assert response.status == 400


def test_chunks_are_refused_as_soon_as_they_pass_the_limit(limited: ServerProcess) -> None:
    chunks = [chunk(b" " * 100_000)] * 10 + [chunk(b" ")]  # the body is still incomplete
    response = limited.exchange(head(None, CHUNKED), *chunks)
    assert str(LIMIT) in response.error(413)


def test_a_chunk_need_not_come_whole_to_be_refused(limited: ServerProcess) -> None:
    parts = (head(None, CHUNKED), b"7fffffff\r\n", b" " * (LIMIT + 1))
    assert limited.exchange(*parts).status == 413


def test_chunks_of_one_byte_make_a_body_like_any_other(limited: ServerProcess) -> None:
    """The framing is five times as long as the body, but only the body counts."""
    chunks = (b"1\r\n%c\r\n" % byte for byte in GOOD.ljust(300_000))
    assert limited.exchange(head(None, CHUNKED), *chunks, b"0\r\n\r\n").status == 200


@pytest.mark.parametrize(
    "framing",
    [b"1;" + b"x" * 20_000, b"1;" + b"x" * 20_000 + b"\r\n", b"0\r\nA: " + b"x" * 20_000],
    ids=["size without end", "long size", "trailer without end"],
)
def test_chunks_with_endless_lines_are_refused(alone: ServerProcess, framing: bytes) -> None:
    assert alone.exchange(head(None, CHUNKED), framing).error(400)


def test_chunks_with_more_framing_than_any_body_needs_are_refused(
    alone: ServerProcess,
) -> None:
    chunks = [b"1;" + b"x" * 5000 + b"\r\n \r\n"] * 1300
    response = alone.exchange(head(None, CHUNKED), *chunks)
    assert response.error(400) == "The chunks of the body carry too much beside the body"


def test_http_client_reads_the_answer_after_all_it_sent(limited: ServerProcess) -> None:
    assert str(LIMIT) in limited.post(b" " * 30_000_000).error(413)


def test_http_client_reads_the_answer_to_chunks(limited: ServerProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", limited.port, timeout=PATIENCE_SECONDS)
    with closing(connection):
        pieces = (b" " * 100_000 for _ in range(300))
        connection.request("POST", "/predict", pieces, JSON_HEADERS, encode_chunked=True)
        response = connection.getresponse()
        assert response.status == 413
        assert list(json.loads(response.read())) == ["detail"]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_requests_reads_the_answer(limited: ServerProcess, chunked: bool) -> None:
    pieces = [b" " * 100_000] * 300
    for _ in range(5):
        response = requests.post(
            limited.url,
            data=iter(pieces) if chunked else b"".join(pieces),
            headers=JSON_HEADERS,
            timeout=PATIENCE_SECONDS,
        )
        assert response.status_code == 413
        assert list(response.json()) == ["detail"]


def test_what_follows_a_refused_body_is_not_a_request(alone: ServerProcess) -> None:
    with Client(alone) as client:
        assert client.exchange(post(GOOD), head(LIMIT + 1), post(GOOD)).status == 200
        response = client.read()
        assert response.status == 413
        assert response.headers["Connection"] == "close"
        assert client.at_end()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 2_000_000,
        b'{"x":' + b"[" * 2_000_000,
        b'{"x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
        b'{"x":' * 400_000,
        b'[{"x":' * 300_000,
    ],
    ids=["open", "value", "closed", "objects", "mixed"],
)
def test_nesting_without_end(server: Serve, body: bytes) -> None:
    assert server("matrix").post(body).status == 400
    assert server("matrix").predict({"x": [1]}) == {"y": [1.0]}


# Malformed requests.


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /health\r\nHost\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nbad name: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nA: b\nC: d\r\n\r\n", 400),
        (b"get /health HTTP/1.1\r\n\r\n", 400),
        (b"GET http://[bad/ HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: x\r\n" * 20_000 + b"\r\n", 431),
        (head(-1), 400),
        (head(None, "Content-Length: abc"), 400),
        (head(None, "Content-Length: 1_0"), 400),
        (head(3, "Content-Length: 4") + b"abcd", 400),
        (head(None, "Content-Length: " + "9" * 5000), 413),
        (head(None, CHUNKED) + b"zz\r\n", 400),
        (head(None, CHUNKED) + b"-1\r\n", 400),
        (head(None, CHUNKED) + b"2\r\n{}..\r\n", 400),
        (head(None, "Transfer-Encoding: gzip"), 501),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else str(value),
)
def test_no_request(alone: ServerProcess, data: bytes, status: int) -> None:
    assert alone.exchange(data).error(status)


# Connections.


def test_a_connection_is_kept(limited: ServerProcess) -> None:
    with Client(limited) as client:
        for body, status in [(GOOD, 200), (b"nonsense", 400), (b"{}", 400), (GOOD, 200)]:
            assert client.exchange(post(body)).status == status
        plain = head(len(GOOD)).replace(b"application/json", b"text/plain")
        assert client.exchange(plain, GOOD).status == 415
        assert client.exchange(head(len(GOOD), path="/nowhere"), GOOD).status == 404
        chunks = (chunk(GOOD), b"0\r\n\r\n")
        assert client.exchange(head(None, CHUNKED), *chunks).status == 200
        assert client.exchange(head(len(GOOD), "Connection: close"), GOOD).status == 200
        assert client.at_end()


def test_pipelining(limited: ServerProcess) -> None:
    bodies = [{"input_ids": [i], "attention_mask": [1]} for i in range(200)]
    expected = [limited.predict(body) for body in bodies]
    with Client(limited) as client:
        client.send(*(post(json.dumps(body).encode()) for body in bodies))
        assert [client.read().json for _ in bodies] == expected


def test_a_request_in_single_bytes(limited: ServerProcess) -> None:
    with Client(limited) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post(GOOD):
            client.send(bytes([byte]))
        assert client.read().status == 200


@pytest.mark.parametrize(
    ("name", "text", "status"),
    [
        ("matrix", '{"x": [[0.48627450980392156, 1e-3, -0.0], [0.1, 255, 2.5E+1]]}', 200),
        ("cube", '{"x": [[[101, 7592], [9223372036854775807, -1]]]}', 200),
        (
            "strings",
            r'{"texts": [["\u00e9\n\"", "café 😀"], ["\ud83d\ude00", "\\ and more"]]}',
            200,
        ),
        ("matrix", r'{"x": [[1, 2.5], [3, "\u00e9"]]}', 400),
        ("cube", r'{"\u0078": [[[12345678, 1]]}]', 400),
    ],
    ids=["floats", "ids", "strings", "wrong value", "wrong text"],
)
def test_a_request_in_two_pieces_wherever_it_is_cut(
    server: Serve, name: str, text: str, status: int
) -> None:
    request = post(text.encode())
    with Client(server(name)) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        expected = client.exchange(request)
        assert expected.status == status
        for at in range(1, len(request)):
            client.send(request[:at])
            time.sleep(0.0005)  # about the time that the server needs to read it
            response = client.exchange(request[at:])
            assert (response.status, response.body) == (status, expected.body), at


def test_a_client_may_end_its_side_before_the_answer(alone: ServerProcess) -> None:
    with Client(alone) as client:
        client.send(post(GOOD))
        client.socket.shutdown(socket.SHUT_WR)
        assert client.read().status == 200
        assert client.at_end()


def test_both_loopback_addresses_answer(limited: ServerProcess) -> None:
    assert limited.request("GET", "/health", host="127.0.0.1").status == 200
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no ::1")
    assert limited.request("GET", "/health", host="::1").status == 200
    assert limited.request("GET", "/health", host="localhost").status == 200


@pytest.mark.parametrize("leave", [Client.close, Client.reset], ids=["close", "reset"])
@pytest.mark.parametrize(
    "sent",
    [
        head(1000) + b'{"input_ids": [1,',
        head(20_000_000) + b" " * 5_000_000,
        head(None, CHUNKED) + b"ff\r\n{",
        head(1000)[:40],
        head(1000, "Expect: 100-continue"),
        head(2**40) + b" " * 1000,
        post(GOOD),
        post(GOOD) + head(1000) + b"{",
        b"",
    ],
    ids=["body", "large", "chunk", "head", "continue", "refused", "unread", "second", "nothing"],
)
def test_a_client_that_leaves_takes_everything_along(
    fresh: ServerProcess, sent: bytes, leave: Callable[[Client], None]
) -> None:
    threads, descriptors = fresh.threads(), fresh.descriptors()
    with connect(fresh, 10) as clients:
        for client in clients:
            client.send(sent)
        wait_until(lambda: fresh.descriptors() == descriptors + 10, "the clients are connected")
        for client in clients:
            leave(client)
    wait_until(lambda: fresh.descriptors() == descriptors, "the clients' sockets are closed")
    # No thread per client; those that wait for runs start with the first request that queues.
    assert fresh.threads() <= threads + cores()
    assert fresh.post(GOOD).status == 200


@pytest.mark.parametrize(
    "sent",
    [post(GOOD), head(2**40) + b" " * 1000, head(1000) + b"{", b"NONSENSE\r\n\r\n"],
    ids=["unread", "refused", "body", "nonsense"],
)
def test_a_client_that_leaves_at_once_is_nothing_to_log(fresh: ServerProcess, sent: bytes) -> None:
    descriptors = fresh.descriptors()
    for _ in range(100):
        with connect(fresh, 10) as clients:
            for client in clients:
                client.send(sent)
            for client in clients:
                client.reset()
    assert fresh.post(GOOD).status == 200
    wait_until(lambda: fresh.descriptors() == descriptors, "the clients' sockets are closed")
    assert fresh.end() == 0
    assert fresh.stderr.text == ""


def test_a_client_that_leaves_while_the_model_runs(model_file: Find) -> None:
    with serve(model_file("slow"), "--threads", "2") as server:
        descriptors = server.descriptors()
        assert server.post(QUICK).status == 200
        threads = server.threads()
        for leave in (Client.close, Client.reset):
            client = Client(server)
            start_run(server, client, post(A_WHILE))
            leave(client)
        wait_until(lambda: server.descriptors() == descriptors, "the clients' sockets are closed")
        assert server.threads() <= threads  # which may include the thread that loaded the model
        assert server.post(QUICK).status == 200


def test_slow_senders_do_not_stop_others(model_file: Find) -> None:
    """Wherever their request is cut, and while the rest arrives byte by byte."""
    request, steps = post(GOOD), 10
    with serve(model_file("sentiment"), "--threads", "1") as server, connect(server, 200) as slow:
        offsets = [number % (len(request) - steps) for number in range(len(slow))]
        for client, sent in zip(slow, offsets, strict=True):
            client.send(request[:sent])
        for step in range(steps):
            for client, sent in zip(slow, offsets, strict=True):
                client.send(request[sent + step : sent + step + 1])
            assert server.post(GOOD).status == 200
        for client, sent in zip(slow, offsets, strict=True):
            client.send(request[sent + steps :])
        assert [client.read().status for client in slow] == [200] * 200


@pytest.mark.parametrize("pipelined", [1, 3])
def test_slow_readers_do_not_stop_others(model_file: Find, pipelined: int) -> None:
    body = b'{"count": [5000000]}'  # the response has 20 MB
    with serve(model_file("repeat"), "--threads", "2") as server, connect(server, 3) as slow:
        for client in slow:
            client.send(post(body) * pipelined)
            assert client.stream.readline().startswith(b"HTTP/1.1 200")
        assert server.predict({"count": [1]}) == {"ones": [1.0]}


# Memory.


def test_memory_does_not_grow_with_requests(model_file: Find) -> None:
    pixels = numpy.random.default_rng(8).random((1, 3, 224, 224), numpy.float32)
    image = post(json.dumps({"image": pixels.tolist()}).encode())
    assert len(image) > 3_000_000
    idle: queue.SimpleQueue[Client] = queue.SimpleQueue()

    def send(_: int) -> bytes:
        client = idle.get()
        response = client.exchange(image)
        idle.put(client)
        assert response.status == 200
        return response.body

    with serve(model_file("photo")) as server, connect(server, 4) as clients:
        for client in clients:
            idle.put(client)
        with ThreadPoolExecutor(4) as pool:
            responses = set(pool.map(send, range(200)))
            processed = server.resident_bytes()
            responses |= set(pool.map(send, range(800)))
            grown = server.resident_bytes() - processed
    assert len(responses) == 1
    assert abs(grown) < 32 * 2**20
