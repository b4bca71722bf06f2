"""The one object that the HTTP layer knows: whether requests are taken, how many, and by what.

It is there before its model is: loading, then healthy, then draining.
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
    """Serves one model, from before it is loaded. Any number of threads may call it at once.

    Args:
        settings: what to serve, and the limits of the queue.
        counters: where it is counted, of metrics' ROW_SIZE; None for this process alone.

    Attributes:
        admission: counts the requests that are here.
        metrics: counts what became of them.
    """

    def __init__(self, settings: Settings, counters: SharedCounters | None = None) -> None:
        self._settings = settings
        self._name = settings.name
        self._engine: Engine | None = None
        self._drains_since = float("inf")  # on the monotonic clock
        self.admission = Admission(0, 0)  # nobody, before open()
        self.metrics = Metrics(self._gauges(), counters)

    def load(self) -> Engine:
        """Loads the model; requests are taken when this returns. To be called once.

        That the server is healthy is said when all processes of the board have loaded theirs: who
        asks one of them, and is told so, may meet another next.

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
        self.metrics.loaded(seconds)  # last: the other processes, too, may be asked for it now
        return engine

    def open(self, engine: Engine) -> None:
        """From now on requests are taken, for this engine."""
        settings = self._settings
        self.admission = Admission(settings.max_queue + engine.runs, settings.max_queue_bytes)
        self._engine = engine  # last: who finds it finds room as well

    @property
    def engine(self) -> Engine:
        """What answers the requests.

        Raises:
            UnavailableError: it is not there yet.
        """
        if self._engine is None:
            raise UnavailableError(_LOADING)
        return self._engine

    @property
    def status(self) -> Status:
        """`healthy` while requests are taken; `loading` before, `draining` on the way out."""
        if self._drains_since < float("inf"):
            return "draining"
        if self._engine is None or not self.metrics.all_others_loaded():
            return "loading"
        return "healthy"

    def drain(self) -> None:
        """From now on requests are refused; those that are here already are answered."""
        self._drains_since = time.monotonic()

    def admit(self, nbytes: int, arrival_seconds: float | None = None) -> Permit:
        """Admits a request.

        Args:
            nbytes: length of its body.
            arrival_seconds: when it had been read, on the monotonic clock; None for now.

        Returns:
            The permit, which the caller releases when the response has been made.

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
        """What /health says."""
        return {"status": self.status, "model": self._name}

    def _gauges(self) -> dict[str, Gauge]:
        def pools() -> Iterable[tuple[tuple[str, ...], float]]:
            if self._engine is None:
                return
            for name, pool in self._engine.model.pools().items():
                figures = pool.usage
                yield (name, "lent"), figures.used_bytes
                yield (name, "idle"), figures.idle_bytes

        def gpu_memory() -> Iterable[tuple[tuple[str, ...], float]]:
            try:
                figures = self._engine.model.gpu_memory() if self._engine else {}
            except Exception:  # a GPU that has failed says so to whatever it is asked
                figures = {}
            return [((state,), nbytes) for state, nbytes in figures.items()]

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
