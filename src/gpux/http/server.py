"""`gpux serve`: the app under waitress, from its sockets to its end.

What is changed of waitress is told where it is done: in parser.py for requests, in tasks.py for
answers, in channel.py for connections, and in dispatcher.py for threads. Here it is the loop, which
the workers run, and the end: listening stops, what was read in full is answered, then the process
ends.
"""

import contextlib
import signal
import threading
import time
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from gpux.config.settings import Settings
from gpux.http.application import Application
from gpux.http.channel import Channel
from gpux.http.dispatcher import Dispatcher
from gpux.http.listen import bind, url
from gpux.http.parser import NO_LIMIT
from gpux.http.sockets import Sockets
from gpux.http.tasks import IDENT

# What is counted of the time between two looks at slow clients, which is about a second.
_LONGEST_LOOK_SECONDS = 2.0
# How long a worker keeps others waiting whose request takes longer than was foreseen.
_RELIEF_SECONDS = 0.005
_LONGEST_WAIT_SECONDS = 1.0
# Connections that are taken before requests are: those of clients that have left again would fill
# the queue.
_MOST_ACCEPTED = 64


class Listener(TcpWSGIServer):
    """One listening socket."""

    channel_class = Channel
    _map: Sockets
    trigger: Any
    active_channels: Any
    adj: Any
    socket: Any
    _looked_at_seconds = 0.0  # when maintenance() was last called, on the monotonic clock

    def handle_accept(self) -> None:
        """Takes the connections that wait, where waitress takes one.

        The next look at the sockets comes when all requests that were found are answered: of many
        connections that come at once, the last would wait for all answers to those before it,
        again and again.
        """
        for _ in range(_MOST_ACCEPTED):
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) == before or not self.readable():
                break

    def add_task(self, task: Any) -> None:
        """Called when a channel's next request has been read."""
        task.add_task(self.task_dispatcher)

    def pull_trigger(self) -> None:
        """Does nothing, where waitress wakes its main thread: service() tells if there is need."""

    def wake(self) -> None:
        """Ends the wait for the sockets."""
        self.trigger.pull_trigger()

    def maintenance(self, now: int) -> None:
        """Closes channels that are too slow, or lingered long enough; called every second."""
        super().maintenance(now)
        monotonic = time.monotonic()
        # Clients are not to blame where this process stood still.
        seconds = min(monotonic - self._looked_at_seconds, _LONGEST_LOOK_SECONDS)
        self._looked_at_seconds = monotonic
        for channel in list(self.active_channels.values()):
            channel.hurry(seconds, now - self.adj.channel_timeout)
            if channel.linger_until is not None and monotonic > channel.linger_until:
                channel.will_close = True
            if channel.will_close:
                self._map.changed(channel)


class Loop:
    """The sockets, as the source of what the workers do.

    Attributes:
        is_over: after end(): all is answered, and nothing is read any more.
    """

    def __init__(self) -> None:
        self.sockets = Sockets(wasyncore.readwrite)
        self.listeners: list[Listener] = []
        self._is_ending = False
        self.is_over = False

    def wait(self) -> list[tuple[int, int]]:
        """Waits for what comes over the sockets."""
        for listener in self.listeners:  # they look after their connections when they are asked
            self.sockets.changed(listener)
        return self.sockets.wait(_LONGEST_WAIT_SECONDS)

    def handle(self, found: list[tuple[int, int]]) -> None:
        """Reads and writes; requests that are complete are handed to the dispatcher."""
        if self.is_over:
            return
        self.sockets.handle(found)
        # Judged where requests are read: none comes between this and the end.
        self.is_over = self._is_ending and not self._is_busy()

    def wake(self) -> None:
        """Ends a wait."""
        self.listeners[0].wake()

    def end(self) -> None:
        """Takes no more connections, and is over when all that was read has been answered."""
        self.listeners[0].trigger.pull_trigger(self._close_listeners)

    def _close_listeners(self) -> None:
        for listener in self.listeners:
            listener.accepting = False
            listener.del_channel(self.sockets)
            listener.socket.close()
        self._is_ending = True

    def _is_busy(self) -> bool:
        """Whether a request that was read in full has not been answered to its last byte."""
        return any(
            channel.requests or channel.total_outbufs_len
            for channel in list(self.sockets.values())
            if isinstance(channel, Channel)
        )


class Bell:
    """Rung by any thread, or by a signal's handler, for one that waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards nothing: released to end the wait
        self._lock.acquire()

    def ring(self) -> None:
        """Ends the wait, or the next one."""
        with contextlib.suppress(RuntimeError):  # it rings already
            self._lock.release()

    def wait(self, timeout_seconds: float) -> None:
        """Waits until it rings."""
        self._lock.acquire(timeout=timeout_seconds)


class Server:
    """The server: its sockets are bound when this returns, and requests are answered by run().

    Args:
        application: what it serves.
        settings: host, port, threads, max_body_bytes, cors_origins, drain_timeout_seconds.

    Raises:
        ConfigurationError: the address cannot be listened on.

    Attributes:
        port: that it listens on.
        url: of its root, as a client on this machine has it.
    """

    def __init__(self, application: Application, settings: Settings) -> None:
        service = application.service
        sockets = bind(settings.host, settings.port)
        adjustments: Any = Adjustments(
            sockets=sockets,
            threads=settings.threads,
            ident=IDENT,
            # A long body is received into its place; other things are short. The system's memory
            # would be shredded by many large pieces of which little is kept.
            recv_bytes=2**16,
            # A body stays in memory, as does its answer.
            inbuf_overflow=NO_LIMIT,
            outbuf_overflow=NO_LIMIT,
            max_request_body_size=NO_LIMIT,  # Parser judges it
            max_request_header_size=2**16,
            connection_limit=1000,
            cleanup_interval=1,
            # One request ahead is read while one is answered, so that a client that leaves is seen.
            channel_request_lookahead=1,
            # The app reads no header of a proxy.
            clear_untrusted_proxy_headers=False,
            # A closed connection is not worth a stack trace in the log.
            log_socket_errors=False,
        )
        adjustments.gpux_max_body_bytes = settings.max_body_bytes
        adjustments.gpux_cors_origins = settings.cors_origins
        adjustments.gpux_service = service
        adjustments.gpux_recorders = application.recorders
        self._loop = Loop()
        self._service = service
        self._drain_seconds = settings.drain_timeout_seconds
        self._dispatcher = Dispatcher(service, settings.threads, self._loop)
        dispatcher: Any = self._dispatcher  # has what waitress asks for
        self._loop.listeners = [
            Listener(
                application.wsgi,
                self._loop.sockets,
                True,
                bound,
                dispatcher=dispatcher,
                adj=adjustments,
                sockinfo=(bound.family, bound.type, bound.proto, bound.getsockname()),
                bind_socket=False,
            )
            for bound in sockets
        ]
        self.port: int = sockets[0].getsockname()[1]
        self.url = url(settings.host, sockets)
        self._bell = Bell()
        self._stopping = False

    def run(self) -> None:
        """Answers requests until stop() is called, then those in flight."""
        self._dispatcher.start()
        while not self._stopping:
            self._attend()
        self._service.drain()
        deadline = time.monotonic() + self._drain_seconds
        self._loop.end()
        while not self._loop.is_over and time.monotonic() < deadline:
            self._attend(0.05)
            self._loop.wake()
        self._dispatcher.shutdown()
        wasyncore.close_all(self._loop.sockets)
        self._loop.sockets.close()

    def stop(self) -> None:
        """Begins the end. May be called by a signal handler or another thread."""
        self._stopping = True
        self._bell.ring()

    def stop_on_signals(self) -> None:
        """SIGTERM and SIGINT begin the end; a second one ends the process at once."""

        def handle(number: int, frame: object) -> None:
            del number, frame
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            self.stop()

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)

    def _attend(self, longest_seconds: float = _LONGEST_WAIT_SECONDS) -> None:
        """Waits a little, and sees to it that no worker keeps the others waiting."""
        is_quiet = self._dispatcher.workers.is_quiet(self._bell.ring)
        self._bell.wait(longest_seconds if is_quiet else _RELIEF_SECONDS)
        self._dispatcher.workers.relieve()
