"""`gpux serve`: an event loop that owns its connections, from its listening sockets to its end.

One thread runs the loop, on uvloop. It accepts connections, parses requests, admits and schedules
them, and writes responses; see connection.py and serving/scheduler.py. The end loses nothing that
the kernel has accepted: listening stops, what the kernel has queued is accepted, what was read in
full is responded to, and then the process ends.
"""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from gpux._fastpath import Pool
from gpux.config.settings import Settings
from gpux.http.application import Application
from gpux.http.connection import Connection
from gpux.http.exchange import LoopApplication
from gpux.http.limits import Limits
from gpux.http.listen import BACKLOG
from gpux.http.responses import Response
from gpux.observability.metrics import Gauge, single
from gpux.serving.background import SWITCH_SECONDS, call_in_loop, new_event_loop
from gpux.serving.service import LoadedModel

_TICK_SECONDS = 0.25
_RECEIVE_BYTES = 2**16
# Memory of long bodies that is kept for the next ones.
_IDLE_BODY_BYTES = 2**25
# Connections that are accepted at once.
_BURST = 64
# Descriptors that are not connections: of the process, its libraries and its model.
_OWN_DESCRIPTORS = 64
_MAX_CONNECTIONS = 1000
_ANNOUNCED_SECONDS = 0.1
# How long the end waits for the rest of requests that have come in part.
_SENDING_SECONDS = 0.5
# What the loop's lag of the past counts for after each tick.
_LAG_FADES = 0.98


class Server:
    """A server in one process. run() is called by the main thread, stop() by any.

    Args:
        application: what it serves.
        settings: max_body_bytes, cors_origins, drain_delay_seconds, drain_timeout_seconds.
        sockets: that it listens on; listening already, and closed by it.
        limits: what clients may do.
    """

    def __init__(
        self,
        application: Application,
        settings: Settings,
        sockets: Sequence[socket.socket],
        limits: Limits,
    ) -> None:
        self._application = application
        self._settings = settings
        self._sockets = sockets
        for bound in sockets:
            bound.setblocking(False)
        self._limits = limits
        self._connections: set[Connection] = set()
        self._receive_buffer = bytearray(_RECEIVE_BYTES)
        self._bodies = Pool(max_idle_bytes=_IDLE_BODY_BYTES)
        self._max_connections = _connection_limit()
        self._listeners: list[asyncio.Server] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._accepting: set[asyncio.Task[None]] = set()
        self._listens = False  # whether connections are to be accepted
        self._is_stopping = False
        self._lag_seconds = 0.0
        application.service.metrics.add(
            "gpux_loop_lag_seconds",
            Gauge(
                "How late the event loop's timers run: the longest delay, which fades within "
                "a minute.",
                single(lambda: self._lag_seconds),
                total=max,
            ),
        )
        application.service.metrics.add(
            "gpux_open_connections",
            Gauge("Connections of clients.", single(lambda: len(self._connections))),
        )

    def run(
        self,
        load: Callable[[], LoadedModel | None],
        opened: Callable[[LoadedModel], None],
        lifeline: int | None = None,
        *,
        starts_loaded: bool = False,
    ) -> None:
        """Responds to requests until a signal, then to those in flight.

        Args:
            load: loads the model, in a thread of its own. None if that failed, which stops the
                server.
            opened: called once the model is served.
            lifeline: a descriptor that becomes readable when the server is to stop.
            starts_loaded: whether connections wait until the model is loaded, as others serve it;
                otherwise requests are responded to meanwhile.
        """
        sys.setswitchinterval(SWITCH_SECONDS)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._run(load, opened, lifeline, starts_loaded=starts_loaded))

    def call(
        self, function: Callable[[Callable[[Response], None]], object], timeout_seconds: float
    ) -> Response:
        """Calls a function in the loop's thread, from another: see background.call_in_loop()."""
        assert self._loop is not None
        return call_in_loop(self._loop, function, timeout_seconds)

    async def _run(
        self,
        load: Callable[[], LoadedModel | None],
        opened: Callable[[LoadedModel], None],
        lifeline: int | None,
        *,
        starts_loaded: bool,
    ) -> None:
        loop = self._loop = asyncio.get_running_loop()
        settings, service = self._settings, self._application.service
        application = LoopApplication(
            service,
            self._application.make_app,
            self._application.recorders,
            loop,
            settings.max_body_bytes,
            settings.cors_origins,
            self._connections,
        )

        def make_connection() -> Connection:
            made = Connection(
                application,
                self._limits,
                self._connections,
                self._receive_buffer,
                self._bodies,
            )
            if self._is_stopping:
                made.announce_end()
            elif len(self._connections) >= self._max_connections - 1:
                self._stop_listening()
            elif not self._accepting:
                self._accept_waiting(_BURST)
            return made

        self._make_connection = make_connection
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not the main thread
                loop.add_signal_handler(number, self._begin_end)
        if lifeline is not None:
            loop.add_reader(lifeline, self._begin_end)
        self._listens = not starts_loaded
        if self._listens:
            await self._listen()
        threading.Thread(target=self._load, args=(load, opened), name="loader", daemon=True).start()
        ticks = loop.create_task(self._tick())
        await self._stop.wait()
        if lifeline is not None:
            loop.remove_reader(lifeline)
        await self._end()
        ticks.cancel()
        application.close()

    def _load(
        self, load: Callable[[], LoadedModel | None], opened: Callable[[LoadedModel], None]
    ) -> None:
        """Loads the model, in a thread of its own."""
        loop = self._loop
        assert loop is not None
        loaded = load()

        def open_service(loaded: LoadedModel) -> None:
            self._application.service.open(loaded)
            self._application.service.attach(loop)
            self._listens = True
            opened(loaded)

        if loaded is None:
            loop.call_soon_threadsafe(self._begin_end)
        else:
            loop.call_soon_threadsafe(open_service, loaded)

    async def _listen(self) -> None:
        """Accepts connections. What the sockets have queued stays theirs when this ends."""
        loop = self._loop
        assert loop is not None
        self._listeners = [
            # The loop's server owns the socket that it is given; closing it leaves ours open.
            await loop.create_server(self._make_connection, sock=bound.dup(), backlog=BACKLOG)
            for bound in self._sockets
        ]

    def _accept_waiting(self, limit: int) -> None:
        """Accepts connections that wait, up to a limit.

        The loop itself accepts one in each of its turns, in which it serves all: of many that
        come at once, the last would wait for many responses to the first.
        """
        loop = self._loop
        assert loop is not None
        for bound in self._sockets:
            for _ in range(limit):
                try:
                    accepted, _ = bound.accept()
                except OSError:  # none waits, or there are no descriptors left
                    break
                task = loop.create_task(self._take(accepted))
                self._accepting.add(task)
                task.add_done_callback(self._accepting.discard)

    async def _take(self, accepted: socket.socket) -> None:
        loop = self._loop
        assert loop is not None
        with contextlib.suppress(OSError):  # it is gone again
            await loop.connect_accepted_socket(self._make_connection, accepted)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    async def _tick(self) -> None:
        """What is done regularly: slow clients, the limit of connections, the loop's lag."""
        loop = self._loop
        assert loop is not None
        looked_at = time.monotonic()
        number = 0
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            lag = max(0.0, now - looked_at - _TICK_SECONDS)
            self._lag_seconds = max(lag, self._lag_seconds * _LAG_FADES)
            looked_at = now
            number += 1
            if self._is_stopping:
                continue
            if len(self._connections) >= self._max_connections:
                self._stop_listening()
            elif self._listens and not self._listeners:
                await self._listen()
            if number % 4 == 0:
                for connection in list(self._connections):
                    connection.tick(now)
                self._application.service.metrics.publish()

    # The end.

    def _begin_end(self) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        assert self._loop is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):
                self._loop.remove_signal_handler(number)
            with contextlib.suppress(ValueError):  # a second one ends the process at once
                signal.signal(number, _exit_at_once if os.getpid() == 1 else signal.SIG_DFL)
        self._stop.set()

    async def _end(self) -> None:
        settings, service = self._settings, self._application.service
        deadline = time.monotonic() + settings.drain_delay_seconds + settings.drain_timeout_seconds
        service.drain()
        # Responses say from now on that their connection closes. Clients that send one request
        # after the other have then left, or are heard, before idle connections are closed.
        for connection in list(self._connections):
            connection.announce_end()
        await asyncio.sleep(max(settings.drain_delay_seconds, _ANNOUNCED_SECONDS))
        service.reject()
        self._stop_listening()
        await self._accept_queued()
        # One turn of the loop, so that what has come over these is read.
        await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.end()
        await self._wait_for_responses(deadline)
        service.stop()
        await asyncio.sleep(0)
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)

    async def _wait_for_responses(self, deadline: float) -> None:
        """Waits until all that has come in full is responded to.

        Clients that are still sending are cut off once they alone have been left for a while.
        """
        alone_since = time.monotonic()
        while self._connections:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            for connection in list(self._connections):
                connection.tick(now)
            if any(connection.owes_response for connection in self._connections):
                alone_since = now
            if now >= min(deadline, alone_since + _SENDING_SECONDS):
                return

    async def _accept_queued(self) -> None:
        """Accepts what the kernel has accepted for us. Closing the sockets first would reset it."""
        self._accept_waiting(sys.maxsize)
        if self._accepting:
            await asyncio.wait(self._accepting)
        for bound in self._sockets:
            bound.close()


def _exit_at_once(number: int, frame: object) -> NoReturn:
    """A signal's handler where it has no default action: as process 1 of a container."""
    del frame
    os._exit(128 + number)


def _connection_limit() -> int:
    """How many connections there may be: each takes a descriptor, and some are needed otherwise."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MAX_CONNECTIONS
    return max(1, min(_MAX_CONNECTIONS, soft - _OWN_DESCRIPTORS))


def end_process() -> NoReturn:
    """Ends the process without Python's finalization.

    That would pull threads and libraries from under ONNX Runtime, which cannot be stopped while it
    loads a model, or runs a node for a client that has left.
    """
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(0)
