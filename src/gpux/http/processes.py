"""`gpux serve --server granian`: worker processes, each with the app and a model of its own.

The only importer of granian, whose master process starts the workers, replaces those that die, and
stops them. What a worker does is ours: it listens on more than one address, answers while its model
loads, tells the master when it is ready or why it never will be, and ends when all that was read in
full is answered.

granian's parts for that are not its public interface, hence the narrow range of versions in
pyproject.toml.
"""

import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

import granian._futures as granian_futures
from granian import _granian as granian_core
from granian._loops import loops
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer, WorkerProcess

from gpux.config.settings import Settings
from gpux.errors import ConfigurationError, StartError
from gpux.http.application import build
from gpux.http.gateway import Gateway
from gpux.http.listen import Address, bind, bind_reuse_port, url
from gpux.http.stall_watch import StallWatch, stop_reading
from gpux.observability.logs import log_to_stderr
from gpux.observability.metrics import ROW_SIZE
from gpux.observability.shared_counters import CounterMemory
from gpux.serving.engine import Engine
from gpux.serving.service import Service
from gpux.tensors.memory import use_one_arena

logger = logging.getLogger(__name__)

# Whose types say too little, or what was true once.
_core: Any = granian_core
_new_scheduler: Any = granian_futures._new_cbscheduler

# Connections of one worker; more wait until one of them is closed.
_MOST_CONNECTIONS = 1000
_BACKLOG = 1024
# What a client has to send its next head, or to go on with it.
_HEAD_SECONDS = 120
# What a body, or the reading of an answer, may take beside the time that a request has.
_SLOW_SECONDS = 60.0
# What is read at once at most. A long body comes in few pieces, each of which wakes a thread; and a
# head that is longer is refused.
_READ_BYTES = 2**20
# What those that still send a body have at the end, once nothing else is left to do.
_LAST_SECONDS = 1.0
_HELD_BACK = {signal.SIGINT, signal.SIGTERM}
# One that dies again within so many seconds is not replaced before they have passed.
_CRASH_SECONDS = 5.0


def serve(settings: Settings, describe: Callable[[Engine], str]) -> int:
    """Serves until SIGTERM or SIGINT, and answers what was read in full until then.

    Args:
        settings: what to serve, by how many workers.
        describe: a function of a module's top level, which makes what is printed of the model.

    Returns:
        The exit code.

    Raises:
        StartError: the address cannot be listened on, or the model cannot be served.
    """
    # Not listening: they keep the port for the workers, whose sockets come and go.
    kept = bind(settings.host, settings.port)
    addresses: list[Address] = [(bound.family, *bound.getsockname()[:2]) for bound in kept]
    # Forked processes would have locks and threads of this one, halfway.
    multiprocessing.set_start_method("spawn", force=True)
    memory = CounterMemory(ROW_SIZE, settings.workers)
    master = _Master(settings, addresses, memory, describe, url(settings.host, kept))
    with suppress(SystemExit):  # its word on workers that ended by themselves
        master.serve()
    for bound in kept:
        bound.close()
    if master.failure is not None:
        raise StartError(master.failure)
    print("Stopped", flush=True)
    return 0


class _Master(MPServer):
    """granian's master process, with workers of ours.

    Attributes:
        failure: why nothing can be served.
    """

    def __init__(
        self,
        settings: Settings,
        addresses: Sequence[Address],
        memory: CounterMemory,
        describe: Callable[[Engine], str],
        root: str,
    ) -> None:
        super().__init__(
            "gpux",
            address=addresses[0][1],
            port=addresses[0][2],
            interface=Interfaces.WSGI,
            workers=settings.workers,
            blocking_threads=1,  # said to the workers by us
            respawn_failed_workers=True,
            workers_kill_timeout=max(1, round(settings.drain_timeout_seconds)),
            log_level=LogLevels.warning,
            log_dictconfig=_LOGGING,
        )
        self._settings = settings
        self._addresses = addresses
        self._memory = memory
        self._describe = describe
        self._root = root
        self._ready = 0  # counted by the listeners of reports, until all are
        self._lock = threading.Lock()  # guards _ready and failure
        self.failure: str | None = None
        self.is_serving = False

    def signal_handler_interrupt(self, number: int, frame: object) -> None:
        """SIGTERM and SIGINT begin the end; a second one ends all processes at once."""
        del frame
        if self.interrupt_signal:
            for worker in self.wrks:
                worker.inner.kill()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.interrupt_signal = True
        self.main_loop_interrupt.set()

    signal_handler_reload = signal_handler_interrupt  # SIGHUP

    def _init_shared_socket(self) -> None:
        """Does nothing: the workers have sockets of their own."""
        self._sso = None

    def _spawn_worker(self, idx: int, *_: object, **__: object) -> "_Worker":
        heard, told = multiprocessing.Pipe(duplex=False)
        arguments = (idx, self._settings, self._addresses, self._memory, self._describe, told)
        return _Worker(self, idx, (*arguments, self.is_serving), heard, told)

    def _respawn_workers(self, workers: list[int], *arguments: Any, **options: Any) -> None:
        """Replaces workers that died, or ends, if they never came to serve."""
        for index in workers:
            dead: Any = self.wrks[index]
            dead.listener.join()
            if not self.is_serving:
                dead.inner.join()
                self.fail(f"a worker process ended while it started: {_ending(dead.inner)}")
                return
            pause = dead.birth + _CRASH_SECONDS - time.monotonic()
            if pause > 0 and self.main_loop_interrupt.wait(pause) and self.interrupt_signal:
                return
        super()._respawn_workers(workers, *arguments, **options)
        self.respawned_wrks.clear()  # granian would end all where one dies again and again

    def report(self, message: dict[str, str]) -> None:
        """Takes what a worker tells, in a thread of that worker's."""
        if "failed" in message:
            if self.is_serving:
                print(f"gpux: a worker cannot be replaced: {message['failed']}", file=sys.stderr)
            else:
                self.fail(message["failed"])
            return
        with self._lock:
            self._ready += 1
            if self._ready != self.workers or self.failure is not None:
                return
            self.is_serving = True
        print(message["ready"])
        print(f"Serving   {self._root}/predict (Ctrl-C to stop)", flush=True)

    def fail(self, reason: str) -> None:
        """Ends all, as nothing can be served; the first reason counts."""
        with self._lock:
            self.failure = self.failure or reason
        self.interrupt_signal = True
        self.main_loop_interrupt.set()


class _Worker(WorkerProcess):
    """A worker as the master sees it, which its terminal does not interrupt."""

    def __init__(
        self, master: _Master, idx: int, arguments: Any, heard: Connection, told: Connection
    ) -> None:
        super().__init__(master, idx, _work, arguments)  # type: ignore[no-untyped-call]
        self._master = master
        self._heard = heard
        self._told = told
        self.listener = threading.Thread(target=self._listen, name="reports", daemon=True)

    def start(self) -> None:
        """Starts the process.

        It inherits that the signals are held back: threads that libraries start when they are
        imported must not be given what _work waits for.
        """
        resource_tracker.ensure_running()  # multiprocessing's, which lets the same signals go
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
        try:
            super().start()  # type: ignore[no-untyped-call]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
        self._told.close()  # so that the worker's end is seen
        self.listener.start()

    def join(self, timeout: float | None = None) -> None:
        """Waits for the process' end, which another thread may have been told already."""
        wait([self.inner.sentinel], timeout)

    def is_alive(self) -> bool:
        """Whether the process goes on."""
        return not wait([self.inner.sentinel], 0)

    def _listen(self) -> None:
        with self._heard:
            try:
                while True:
                    self._master.report(json.loads(self._heard.recv_bytes()))
            except EOFError:
                return


def _ending(process: Any) -> str:
    code = process.exitcode
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


# granian's own lines, from warnings on, go where ours go.
_LOGGING = {"handlers": {}, "loggers": {"_granian": {"propagate": True}}}


# The rest runs in a worker.


def _work(
    index: int,
    settings: Settings,
    addresses: Sequence[Address],
    memory: CounterMemory,
    describe: Callable[[Engine], str],
    told: Connection,
    is_replacement: bool,
) -> None:
    """A worker's process, from its first line to its last."""
    # What a terminal sends is the master's, whose SIGTERM is waited for below.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log_to_stderr()
    use_one_arena()
    application = build(settings, os.environ, memory.counters(index))
    service = application.service
    gateway = Gateway(application.wsgi, settings.max_body_bytes)

    def load() -> None:
        try:
            engine = service.load()
            if settings.workers > 1 and engine.model.provider != "cpu":
                raise ConfigurationError(
                    f"serving.workers is {settings.workers}, but the model runs on a GPU, where "
                    "one process has it: more would each hold a copy; see runtime.provider"
                )
            text = describe(engine)
        except StartError as error:
            told.send_bytes(json.dumps({"failed": str(error)}).encode())
            if is_replacement:
                os._exit(2)
            return  # the master ends all
        except BaseException:
            logger.exception("The model was not loaded")
            os._exit(1)
        if is_replacement:
            listen()
        told.send_bytes(json.dumps({"ready": text}).encode())

    listeners: list[_Listener] = []

    def listen() -> None:
        most = max(1, _MOST_CONNECTIONS // len(addresses))
        listeners.extend(_Listener(gateway, address, most) for address in addresses)

    # While the first ones load, somebody has to say so. Later the others answer.
    if not is_replacement:
        listen()
    loader = threading.Thread(target=load, name="loader", daemon=True)
    loader.start()
    watch = StallWatch(addresses[0][2], settings.timeout_seconds + _SLOW_SECONDS)
    master = os.getppid()
    while not _is_told_to_end(1.0):
        service.metrics.publish()
        watch.look(time.monotonic())
        if os.getppid() != master:
            os._exit(1)
    _drain(service, listeners, addresses[0][2], master)
    application.recorders.close()
    sys.stdout.flush()
    # Nothing stops ONNX Runtime while it loads a model, and threads of granian's may wait for
    # clients: Python's own end would take their libraries from under them.
    os._exit(0)


def _is_told_to_end(patience_seconds: float) -> bool:
    """Waits for SIGTERM that long; whether it came.

    Where the process was stopped (SIGSTOP) until the time was over, Python's call answers with what
    happened to be in memory, instead of None.
    """
    told = signal.sigtimedwait({signal.SIGTERM}, patience_seconds)
    return told is not None and told.si_signo == signal.SIGTERM


def _drain(service: Service, listeners: Sequence["_Listener"], port: int, master: int) -> None:
    """Returns when all that was read in full is answered, to its last byte.

    Clients that are still sending are cut off, once they alone are left. If this takes too long,
    the master ends the process.
    """
    service.drain()
    for listener in listeners:
        listener.stop()
    idle_since = time.monotonic()
    while not all(listener.ended.wait(0.05) for listener in listeners):
        if os.getppid() != master:
            os._exit(1)
        now = time.monotonic()
        if service.admission.requests:
            idle_since = now
        elif now - idle_since > _LAST_SECONDS:
            stop_reading(port)


class _Listener:
    """One listening socket of a worker, and granian's threads behind it.

    Attributes:
        ended: once stopped, set when its last connection is closed.
    """

    def __init__(self, gateway: Gateway, address: Address, most_connections: int) -> None:
        self.ended = threading.Event()
        self._signal = _core.WorkerSignal()
        self._signal.add_cb(self.ended.set)
        bound = bind_reuse_port(address)
        # A connection has one request at a time: with a thread for each, none waits for a thread.
        served = _core.WSGIWorker(
            1,
            (None, _core.SocketHolder(bound.detach(), False, _BACKLOG)),
            None,
            threads=1,
            py_threads=most_connections,
            backpressure=most_connections,
            http_mode=str(HTTPModes.http1),
            http1_opts=HTTP1Settings(
                header_read_timeout=_HEAD_SECONDS * 1000, max_buffer_size=_READ_BYTES
            ),
        )
        loop = loops.get(Loops.asyncio)  # asked for, and not used by WSGI
        served.serve_mtr(_new_scheduler(loop, gateway, impl_asyncio=True), loop, self._signal)

    def stop(self) -> None:
        """Closes the socket, and each connection when it has its answer."""
        self._signal.set()
