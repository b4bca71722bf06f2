"""`gpux serve`: one process, or a supervisor of several. The command line calls it."""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from gpux.config.settings import Settings
from gpux.errors import ConfigurationError
from gpux.http.application import build
from gpux.http.limits import DEFAULT_LIMITS, Limits
from gpux.http.listen import listen, url
from gpux.http.server import Server, end_process
from gpux.http.supervisor import Worker, supervise
from gpux.observability.metrics import ROW_SIZE
from gpux.observability.shared_counters import CounterMemory, SharedCounters
from gpux.serving.engine import Engine
from gpux.serving.service import LoadedModel

Describe = Callable[[Engine], str]


def serve(
    settings: Settings,
    environment: Mapping[str, str],
    describe: Describe,
    limits: Limits = DEFAULT_LIMITS,
) -> int:
    """Serves a model until a signal ends it.

    Args:
        settings: what to serve, and how.
        environment: OpenTelemetry's variables.
        describe: what is printed of the model.
        limits: of clients.

    Returns:
        The exit code.

    Raises:
        StartError: nothing can be served, and why.
    """
    listeners = listen(settings.host, settings.port, settings.workers)
    address = url(settings.host, listeners[0])

    def announce(text: str) -> None:
        print(text)
        print(f"Serving   {address}/predict (Ctrl-C to stop)", flush=True)

    if settings.workers == 1:
        alone = _Process(settings, environment, describe, limits, announce)
        if alone.serve(listeners[0]):  # otherwise nothing reads standard output
            print("Stopped", flush=True)
        end_process()
    memory = CounterMemory(ROW_SIZE, settings.workers)

    def run(worker: Worker) -> NoReturn:
        process = _Process(
            settings, environment, describe, limits, worker.ready, memory.counters(worker.number)
        )
        process.serve(worker.sockets, worker.lifeline, starts_loaded=worker.is_replacement)
        end_process()

    code = supervise(
        listeners,
        run,
        drain_seconds=settings.drain_delay_seconds + settings.drain_timeout_seconds,
        announce=announce,
    )
    print("Stopped", flush=True)
    return code


@dataclass(frozen=True, slots=True)
class _Process:
    """What one process serves.

    Attributes:
        report: gets the description of the model once it is served.
        counters: where requests are counted; None for this process alone.
    """

    settings: Settings
    environment: Mapping[str, str]
    describe: Describe
    limits: Limits
    report: Callable[[str], None]
    counters: SharedCounters | None = None

    def serve(
        self,
        sockets: Sequence[socket.socket],
        lifeline: int | None = None,
        *,
        starts_loaded: bool = False,
    ) -> bool:
        """Serves until the end.

        Args:
            sockets: that it listens on.
            lifeline: a descriptor that becomes readable when the server is to stop.
            starts_loaded: whether connections wait until the model is loaded.

        Returns:
            Whether all records of requests have been written.

        Raises:
            StartError: nothing can be served, and why.
        """
        settings = self.settings
        application = build(
            settings, self.environment, lambda *call: server.call(*call), self.counters
        )
        server: Server = Server(application, settings, sockets, self.limits)
        failures: list[BaseException] = []

        def load() -> LoadedModel | None:
            try:
                loaded = application.service.load()
                self._check(loaded.engine)
            except BaseException as error:
                failures.append(error)
                return None
            return loaded

        server.run(
            load,
            lambda loaded: self.report(self.describe(loaded.engine)),
            lifeline,
            starts_loaded=starts_loaded,
        )
        is_flushed = application.recorders.close()
        if failures:
            raise failures[0]
        return is_flushed

    def _check(self, engine: Engine) -> None:
        workers = self.settings.workers
        if workers > 1 and engine.model.provider != "cpu":
            raise ConfigurationError(
                f"serving.workers is {workers}, but the model runs on a GPU, where one process has "
                "it: more would each hold a copy; see runtime.provider"
            )
