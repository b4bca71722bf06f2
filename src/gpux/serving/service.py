"""All that the HTTP layer knows of the model: its status, admission and engine.

Exists before the model does; its status goes from loading to healthy to draining.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gpux._engine import Responder
from gpux._fastpath import Body
from gpux.config.settings import Settings
from gpux.errors import UnavailableError
from gpux.execution.deadline import Deadline
from gpux.model import load_model
from gpux.observability.metrics import Gauge, Metrics, single
from gpux.observability.shared_counters import SharedCounters
from gpux.observability.timings import Stages
from gpux.serving.admission import Admission, Permit
from gpux.serving.engine import Engine
from gpux.serving.scheduler import Job, Result, Scheduler
from gpux.serving.warmup import read_recorded, warm_up

Status = Literal["loading", "healthy", "draining"]
_LOADING = "The server is loading its model"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to be served.

    Attributes:
        engine: of the model; warmed up.
        seconds: what it took, by stage.
    """

    engine: Engine
    seconds: Mapping[str, float]


class Service:
    """Serves one model, from before it is loaded until shutdown.

    It belongs to the event loop in which requests run: once it is attached, only that thread uses
    it. Any thread may read `status` and call health(), and read the metrics.

    Args:
        settings: what to serve, and the limits of the queue.
        counters: where requests are counted, of metrics' ROW_SIZE; None for this process alone.

    Attributes:
        admission: bounds the requests in flight.
        metrics: counts requests by their results.
        timeout_seconds: of a request, unless its client asks for less.
    """

    def __init__(self, settings: Settings, counters: SharedCounters | None = None) -> None:
        self._settings = settings
        self._name = settings.name
        self._engine: Engine | None = None
        self._scheduler: Scheduler | None = None
        self._is_draining = False
        self._rejects = False
        self.timeout_seconds = settings.timeout_seconds
        self.admission = Admission(0, 0)  # admits nothing before open()
        self.metrics = Metrics(self._gauges(), counters)

    def load(self) -> "LoadedModel":
        """Loads the model, for open(). Called by any thread.

        Raises:
            StartError: nothing can be served, and why.
        """
        start = time.monotonic()
        model = load_model(self._settings)
        loaded = time.monotonic()
        file = self._settings.warmup
        recorded = None if file is None else read_recorded(file, model)
        engine = Engine(model, self._settings, recorded.rows if recorded else ())
        warm_up(engine, recorded)
        seconds = {"load": loaded - start, "warmup": time.monotonic() - loaded}
        return LoadedModel(engine, seconds)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Has requests run in a loop, whose thread calls this. Called once, after open()."""
        self._scheduler = self.engine.start(loop)

    def open(self, loaded: "LoadedModel") -> None:
        """Admits requests from now on; attach() comes before the first.

        The server is healthy only when all processes that share the counters have loaded theirs: a
        client that checks the health of one process may reach another with its next request.
        """
        engine = loaded.engine
        settings = self._settings
        self.admission = Admission(settings.max_queue + engine.runs, settings.max_queue_bytes)
        self._engine = engine
        self.metrics.loaded(loaded.seconds)  # last: other processes may now report healthy

    @property
    def engine(self) -> Engine:
        """The engine that serves the requests.

        Raises:
            UnavailableError: the model is still loading.
        """
        if self._engine is None:
            raise UnavailableError(_LOADING)
        return self._engine

    @property
    def status(self) -> Status:
        """`healthy` while requests are admitted; `loading` before, `draining` at shutdown."""
        if self._is_draining:
            return "draining"
        if self._engine is None or not self.metrics.all_others_loaded():
            return "loading"
        return "healthy"

    def drain(self) -> None:
        """Reports that the server is about to end. Requests are still admitted."""
        self._is_draining = True

    def reject(self) -> None:
        """Rejects requests from now on; those in flight still get their responses."""
        self._is_draining = self._rejects = True

    def admit(self, nbytes: int) -> Permit:
        """Admits a request that has come.

        Args:
            nbytes: length of its body.

        Returns:
            A permit, which the caller releases once the response is complete.

        Raises:
            UnavailableError: as check().
        """
        self.check()
        permit = self.admission.admit(nbytes)
        if permit is None:
            raise self._busy()
        return permit

    def check(self, coming_bytes: int = 0) -> None:
        """Checks whether a request would be admitted, before its body comes.

        Args:
            coming_bytes: what has come of other requests that are not admitted yet.

        Raises:
            UnavailableError: the model is loading, the server is draining, or the queue is full.
        """
        if self._engine is None:
            self.metrics.rejected("loading")
            raise UnavailableError(_LOADING)
        if self._rejects:
            self.metrics.rejected("draining")
            raise UnavailableError("The server is draining: it takes no new requests")
        if not self.admission.has_room(coming_bytes):
            raise self._busy()

    def _busy(self) -> UnavailableError:
        """The error of a request for which there is no room; counts it."""
        self.metrics.rejected("queue_full")
        return UnavailableError(
            f"The server is busy: {self.admission.requests} requests are being processed or wait"
        )

    def respond(self, body: bytes | Body, deadline: Deadline, stages: Stages) -> Result | None:
        """Responds to a request at once, if that is best: see Scheduler.respond()."""
        if self._scheduler is None or self._rejects:
            return None
        return self._scheduler.respond(body, deadline, stages)

    def responder(self, start: Callable[[int], bytes], rest: bytes) -> Responder | None:
        """What responds to known requests at once, from their bytes: see Scheduler.responder()."""
        if self._scheduler is None:
            return None
        return self._scheduler.responder(self.metrics.requests, start, rest)

    def submit(
        self,
        body: bytes | Body,
        deadline: Deadline,
        stages: Stages,
        on_done: Callable[[Result], None],
    ) -> Job | None:
        """Takes an admitted request to its result: see Scheduler.submit()."""
        assert self._scheduler is not None, "not before attach()"
        return self._scheduler.submit(body, deadline, stages, on_done)

    def cancel(self, job: Job) -> None:
        """Drops a request whose client has left."""
        assert self._scheduler is not None
        self._scheduler.cancel(job)

    def stop(self) -> None:
        """Ends all requests in flight with an error."""
        if self._scheduler is not None:
            self._scheduler.stop()

    def health(self) -> dict[str, str]:
        """The contents of /health."""
        return {"status": self.status, "model": self._name}

    def _gauges(self) -> dict[str, Gauge]:
        def pools() -> Iterable[tuple[tuple[str, ...], float]]:
            if self._engine is None:
                return
            for name, pool in self._engine.model.pools().items():
                yield (name, "lent"), pool.used_bytes
                yield (name, "idle"), pool.idle_bytes

        def gpu_memory() -> Iterable[tuple[tuple[str, ...], float]]:
            try:
                memory = self._engine.model.gpu_memory() if self._engine else {}
            except Exception:  # a GPU that has failed raises on any call
                memory = {}
            return [((state,), nbytes) for state, nbytes in memory.items()]

        return {
            "gpux_queue_requests": Gauge(
                "Requests that wait for the model.",
                single(lambda: self._scheduler.queue_length if self._scheduler else 0),
            ),
            "gpux_in_flight_requests": Gauge(
                "Requests that were let in and are not answered yet.",
                single(lambda: self.admission.requests),
            ),
            "gpux_pool_bytes": Gauge("Memory for tensors.", pools, ("pool", "state")),
            "gpux_gpu_memory_bytes": Gauge(
                "Memory of the GPU, whoever uses it.", gpu_memory, ("state",)
            ),
        }
