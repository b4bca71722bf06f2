"""All that the HTTP layer knows of the model: its status, admission and engine.

Exists before the model does; its status goes from loading to healthy to draining.
"""

import time
from collections.abc import Iterable
from typing import Literal

from gpux.config.settings import Settings
from gpux.errors import UnavailableError
from gpux.model import load_model
from gpux.observability.metrics import Gauge, Metrics, single
from gpux.observability.shared_counters import SharedCounters
from gpux.serving.admission import Admission, Permit
from gpux.serving.engine import Engine
from gpux.serving.warmup import read_recorded, warm_up

Status = Literal["loading", "healthy", "draining"]
_LOADING = "The server is loading its model"


class Service:
    """Serves one model, from before it is loaded until shutdown. Thread-safe.

    Args:
        settings: what to serve, and the limits of the queue.
        counters: where requests are counted, of metrics' ROW_SIZE; None for this process alone.

    Attributes:
        admission: bounds the requests in flight.
        metrics: counts requests by their results.
    """

    def __init__(self, settings: Settings, counters: SharedCounters | None = None) -> None:
        self._settings = settings
        self._name = settings.name
        self._engine: Engine | None = None
        self._drains_since = float("inf")  # on the monotonic clock
        self.admission = Admission(0, 0)  # admits nothing before open()
        self.metrics = Metrics(self._gauges(), counters)

    def load(self) -> Engine:
        """Loads the model; requests are admitted once this returns. Call it once.

        The server is healthy only when all processes that share the counters have loaded theirs: a
        client that checks the health of one process may reach another with its next request.

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
        self.open(engine)
        self.metrics.loaded(seconds)  # last: other processes may now report healthy
        return engine

    def open(self, engine: Engine) -> None:
        """Admits requests to this engine from now on."""
        settings = self._settings
        self.admission = Admission(settings.max_queue + engine.runs, settings.max_queue_bytes)
        self._engine = engine  # last: the engine must not be visible before the admission

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
        if self._drains_since < float("inf"):
            return "draining"
        if self._engine is None or not self.metrics.all_others_loaded():
            return "loading"
        return "healthy"

    def drain(self) -> None:
        """Rejects requests from now on; those in flight still get their responses."""
        self._drains_since = time.monotonic()

    def admit(self, nbytes: int, arrival_seconds: float | None = None) -> Permit:
        """Admits a request.

        Args:
            nbytes: length of its body.
            arrival_seconds: when it was received, on the monotonic clock; None for now.

        Returns:
            A permit, which the caller releases once the response is complete.

        Raises:
            UnavailableError: the model is loading, the server is draining, or the queue is full.
        """
        if self._engine is None:
            self.metrics.rejected("loading")
            raise UnavailableError(_LOADING)
        if (time.monotonic() if arrival_seconds is None else arrival_seconds) >= self._drains_since:
            self.metrics.rejected("draining")
            raise UnavailableError("The server is draining: it takes no new requests")
        permit = self.admission.admit(nbytes)
        if permit is None:
            self.metrics.rejected("queue_full")
            raise UnavailableError(
                f"The server is busy: {self.admission.max_requests} requests are here already"
            )
        return permit

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
                single(lambda: self._engine.scheduler.queue_length if self._engine else 0),
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
