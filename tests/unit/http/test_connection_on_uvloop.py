"""The connection on a real event loop: bodies received in place, slow readers, loss."""

import asyncio
import hashlib
import resource
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import uvloop

from gpux._fastpath import Pool
from gpux.http.connection import Connection
from gpux.http.limits import Limits
from gpux.http.responses import Response
from tests.support.connections import FakeApplication, FakeExchange, read_responses, request

PATIENCE_SECONDS = 30.0


@dataclass
class Server:
    """What serves, and a way to connect to it."""

    application: FakeApplication
    connections: set[Connection]
    port: int

    def connect(self, receive_bytes: int | None = None) -> socket.socket:
        """A client's socket, perhaps with a small receive buffer."""
        client = socket.socket()
        if receive_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.setblocking(True)
        client.connect(("127.0.0.1", self.port))
        client.setblocking(False)
        return client


@asynccontextmanager
async def serving(application: FakeApplication) -> AsyncIterator[Server]:
    loop = asyncio.get_running_loop()
    connections: set[Connection] = set()
    buffer = bytearray(2**18)
    listener = await loop.create_server(
        lambda: Connection(application, Limits(), connections, buffer, Pool()),
        "127.0.0.1",
        0,
        backlog=500,
    )
    try:
        yield Server(application, connections, listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        for connection in list(connections):
            connection.abort()
        await until(lambda: not connections)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


async def read_to_end(client: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    data = bytearray()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while piece := await loop.sock_recv(client, 2**16):
            data += piece
    return bytes(data)


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# asyncio's writelines() does not pause its protocol before 3.12.9 and 3.13.2. There, no server runs
# on it, as there are wheels of uvloop.
_PAUSES = sys.version_info < (3, 12) or (3, 12, 9) <= sys.version_info < (3, 13)
_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
if _PAUSES or sys.version_info >= (3, 13, 2):
    _LOOPS["asyncio"] = asyncio.new_event_loop


@pytest.fixture(params=_LOOPS.values(), ids=list(_LOOPS))
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine function on both loops; what the loop's exception handler gets is raised."""

    def run_on(test: Callable[[], Awaitable[None]]) -> None:
        problems: list[object] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, it: problems.append(it))
            await test()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(main())
        assert problems == []

    return run_on


Run = Callable[[Callable[[], Awaitable[None]]], None]


def test_a_long_body_is_received_in_place(run: Run) -> None:
    body = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(100_000))

    async def test() -> None:
        def judge(exchange: FakeExchange) -> Response:
            return Response(200, [], b"%d" % (exchange.body == body))

        application = FakeApplication(judge, max_body_bytes=2**26)
        async with serving(application) as server:
            with server.connect() as client:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, request(body) * 2 + request(b"x"))
                client.shutdown(socket.SHUT_WR)
                responses = list(read_responses(await read_to_end(client)))
        assert [response.body for response in responses] == [b"1", b"1", b"0"]

    run(test)


def test_what_is_declared_is_reserved_but_not_touched(run: Run) -> None:
    async def test() -> None:
        application = FakeApplication(max_body_bytes=2**26)
        async with serving(application) as server:
            head = request(None, f"Content-Length: {2**26}")
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            clients = [server.connect() for _ in range(200)]
            for client in clients:
                client.send(head + b"x" * 1000)
            await until(lambda: len(application.exchanges) == 200)
            await until(lambda: sum(c.buffered_bytes for c in server.connections) == 200_000)
            grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            for client in clients:
                client.close()
            await until(lambda: not server.connections)
        assert grown_kib < 20 * 1024
        assert all(exchange.is_abandoned for exchange in application.exchanges)

    run(test)


class Owned:
    """A response's memory that knows whether it is still referred to."""

    def __init__(self, alive: set[int]) -> None:
        self.alive = alive
        alive.add(id(self))

    def __del__(self) -> None:
        self.alive.discard(id(self))


class OwnedBytes(bytearray):
    owner: Owned


def test_a_slow_reader_gets_the_bytes_of_a_response_that_nobody_else_refers_to(run: Run) -> None:
    async def test() -> None:
        alive: set[int] = set()

        def make(exchange: FakeExchange) -> Response:
            body = OwnedBytes(bytes([65 + len(exchange.body or b"")]) * 8_000_000)
            body.owner = Owned(alive)
            return Response(200, [], body)

        async with serving(FakeApplication(make)) as server:
            with server.connect(4096) as client:
                client.send(request(b"") + request(b"x") + request(b"", "Connection: close"))
                await until(lambda: len(server.application.exchanges) == 1)
                await asyncio.sleep(0.01)
                assert len(server.application.exchanges) == 1  # the others wait for its reader
                assert len(alive) <= 1  # asyncio's own loop may have copied it
                garbage = [bytes(8_000_000) for _ in range(4)]
                responses = list(read_responses(await read_to_end(client)))
                assert [set(response.body) for response in responses] == [{65}, {66}, {65}]
                assert [len(response.body) for response in responses] == [8_000_000] * 3
                del garbage
            await until(lambda: not server.connections)
        assert alive == set()

    run(test)


SENT = {
    "nothing": b"",
    "a head": request(b"hello")[:20],
    "a body": request(b"hello")[:-1],
    "a long body": request(b"x" * 100_000)[:90_000],
    "a request": request(b"hello"),
    "a request and more": request(b"hello") * 2,
    "no request": b"NONSENSE\r\n\r\n",
}


@pytest.mark.parametrize("leave", [reset, socket.socket.close], ids=["RST", "FIN"])
@pytest.mark.parametrize("name", SENT)
def test_a_client_that_leaves(run: Run, name: str, leave: Callable[[socket.socket], None]) -> None:
    async def test() -> None:
        application = FakeApplication(respond=None)
        async with serving(application) as server:
            client = server.connect()
            await until(lambda: len(server.connections) == 1)
            (connection,) = server.connections
            client.send(SENT[name])
            if SENT[name]:
                await until(
                    lambda: (
                        connection.buffered_bytes > 0
                        or application.exchanges != []
                        or application.rejected != []
                    )
                )
            leave(client)
            is_complete = name.startswith("a request")
            if is_complete and leave is not reset:  # the client may have ended its side alone
                await asyncio.sleep(0.01)
                assert not application.exchanges[0].is_abandoned
                connection.respond(application.exchanges[0], Response(200))
                if name == "a request and more":
                    connection.respond(application.exchanges[-1], Response(200))
            await until(lambda: not server.connections)
            for exchange in application.exchanges:  # a completion that comes late
                connection.respond(exchange, Response(200))
                assert exchange.is_abandoned or is_complete

    run(test)


def test_a_half_closed_client_is_answered(run: Run) -> None:
    async def test() -> None:
        application = FakeApplication(respond=None)
        async with serving(application) as server:
            with server.connect() as client:
                client.send(request(b"hello"))
                client.shutdown(socket.SHUT_WR)
                await until(lambda: len(application.exchanges) == 1)
                await asyncio.sleep(0.01)
                exchange = application.exchanges[0]
                exchange.connection.respond(exchange, Response(200, [], b"done"))
                (response,) = read_responses(await read_to_end(client))
        assert response.body == b"done"

    run(test)


def test_a_refusal_is_read_although_more_is_sent(run: Run) -> None:
    async def test() -> None:
        async with serving(FakeApplication()) as server:
            with server.connect() as client:
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, request(b" " * 20_000_000))
                (response,) = read_responses(await read_to_end(client))
            await until(lambda: not server.connections)
        assert response.status == 413

    run(test)


@pytest.mark.parametrize("header", ["Connection: close", "Connection: keep-alive"])
def test_a_reader_that_stands_still_is_reset(run: Run, header: str) -> None:
    async def test() -> None:
        application = FakeApplication(lambda _: Response(200, [], b"x" * 8_000_000))
        async with serving(application) as server:
            with server.connect(4096) as client:
                client.send(request(b"", header))
                await until(lambda: len(application.exchanges) == 1)
                (connection,) = server.connections
                for second in range(1, 400):
                    connection.tick(float(second))
                await until(lambda: not server.connections)
                with pytest.raises(ConnectionResetError):
                    await read_to_end(client)

    run(test)
