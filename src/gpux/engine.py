"""The one object that the HTTP layer knows: a body in, an answer out, and whether it takes any."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from gpux import protocol
from gpux.batching import Limits
from gpux.config import Settings, cores
from gpux.deadline import Deadline, Watchdog
from gpux.errors import ConfigurationError, InferenceError, UnavailableError
from gpux.executor import StreamExecution
from gpux.metrics import Gauge, Metrics, Stages, single
from gpux.model import Model
from gpux.probe import find_obstacle
from gpux.scheduler import Scheduler

logger = logging.getLogger(__name__)

Status = Literal["healthy", "draining"]
# Of a GPU: one that runs, and one that is copied in and launched meanwhile.
_RUNS_ON_GPU = 2


class Admission:
    """Counts the requests that are here, and turns away what would be too many.

    Args:
        most_requests: that may be here at once.
        most_bytes: of their bodies; one request alone may have more.
    """

    def __init__(self, most_requests: int, most_bytes: int) -> None:
        self.most_requests = most_requests
        self._most_bytes = most_bytes
        self._lock = threading.Lock()  # guards the two fields below
        self.requests = 0
        self._bytes = 0

    def enter(self, nbytes: int) -> bool:
        """Counts a request in, if there is room for it."""
        with self._lock:
            is_full = self.requests >= self.most_requests or (
                self.requests > 0 and self._bytes + nbytes > self._most_bytes
            )
            if not is_full:
                self.requests += 1
                self._bytes += nbytes
            return not is_full

    def leave(self, nbytes: int) -> None:
        """Counts it out again."""
        with self._lock:
            self.requests -= 1
            self._bytes -= nbytes


@dataclass(frozen=True, slots=True)
class Batching:
    """Whether waiting requests run together.

    Attributes:
        limits: of a batch; None where each runs alone.
        reason: why each runs alone.
    """

    limits: Limits | None
    reason: str | None = None


class Engine:
    """Serves one model. Any number of threads may call it at once.

    Args:
        model: a loaded one.
        settings: limits of time, queue and batches; None for the defaults, without batches.

    Raises:
        ConfigurationError: batching is demanded for a model whose rows cannot run together.

    Attributes:
        admission: counts the requests that are here.
        metrics: counts what became of them.
    """

    def __init__(self, model: Model, settings: Settings | None = None) -> None:
        settings = settings or Settings(model=model.file, batching="off")
        self.model = model
        self._watchdog = Watchdog()
        trial = self._watchdog.deadline(settings.timeout_seconds)
        with model.execution.uncaptured():
            self.batching = _choose_batching(model, settings, trial)
        is_on_gpu = isinstance(model.execution, StreamExecution)
        runs = _RUNS_ON_GPU if is_on_gpu else 1 if self.batching.limits else cores()
        self.scheduler = Scheduler(model, runs, self.batching.limits)
        self.admission = Admission(settings.max_queue + runs, settings.max_queue_bytes)
        self.metrics = Metrics(self._gauges())
        self._timeout_seconds = settings.timeout_seconds
        self._status: Status = "healthy"
        self._drains_since = float("inf")  # on the monotonic clock

    @property
    def status(self) -> Status:
        """`healthy` while requests are taken, `draining` once the server is on its way out."""
        return self._status

    def drain(self) -> None:
        """From now on requests are refused; those that are here already are answered."""
        self._drains_since = time.monotonic()
        self._status = "draining"

    def refuse(self, nbytes: int, came_seconds: float | None = None) -> UnavailableError | None:
        """Counts a request in, or says why it is turned away.

        Args:
            nbytes: of its body. Whoever counts a request in calls `admission.leave()`.
            came_seconds: when it had been read, on the monotonic clock; None for just now.
        """
        if (time.monotonic() if came_seconds is None else came_seconds) >= self._drains_since:
            self.metrics.refused("draining")
            return UnavailableError("The server is draining: it takes no new requests")
        if not self.admission.enter(nbytes):
            self.metrics.refused("queue_full")
            return UnavailableError(
                f"The server is busy: {self.admission.most_requests} requests are here already"
            )
        return None

    def predict(
        self,
        body: bytes,
        *,
        came_seconds: float | None = None,
        timeout_seconds: float | None = None,
        is_gone: Callable[[], bool] | None = None,
        stages: Stages | None = None,
    ) -> bytes:
        """Answers one request that has been counted in, or that nobody counts.

        Args:
            body: any bytes; see protocol.decode.
            came_seconds: when it had been read, on the monotonic clock; None for just now.
            timeout_seconds: what the client is ready to wait, if that is less than the limit.
            is_gone: whether the client has left.
            stages: how long each stage took is noted here.

        Returns:
            The answer's JSON text.

        Raises:
            ClientError: the request is wrong.
            ServiceError: it may be right, but could not be answered.
        """
        stages = stages if stages is not None else Stages()
        limit = self._timeout_seconds
        deadline = self._watchdog.deadline(min(limit, timeout_seconds or limit), came_seconds)
        waited_seconds = 0.0 if came_seconds is None else time.monotonic() - came_seconds
        if deadline.left_seconds() <= 0:
            raise deadline.error()
        try:
            start = time.perf_counter()
            request = protocol.decode(body, self.model.inputs)
            stages.decode = time.perf_counter() - start
            unbatched = request.unbatched
            outcome = self.scheduler.run(request, deadline, is_gone)
            stages.queue = waited_seconds + outcome.queue_seconds
            stages.run = outcome.run_seconds
            stages.rows = outcome.rows
            try:
                start = time.perf_counter()
                answer = protocol.encode(self.model.settle(outcome.outputs, unbatched=unbatched))
                stages.encode = time.perf_counter() - start
            finally:
                outcome.release()
        except InferenceError as error:
            logger.error("Inference failed: %s", error.__cause__)  # whole, for the operator
            raise
        return answer

    def health(self) -> dict[str, str]:
        """What /health says."""
        return {"status": self._status, "model": self.model.name}

    def info(self) -> dict[str, Any]:
        """What /info says."""
        limits = self.scheduler.limits
        return {
            **self.model.describe(),
            "batching": {
                "enabled": limits is not None,
                "max_batch_size": limits and limits.most_rows,
                "reason": self.scheduler.obstacle or self.batching.reason,
            },
        }

    def _gauges(self) -> dict[str, Gauge]:
        def pools() -> Iterable[tuple[tuple[str, ...], float]]:
            for name, pool in self.model.pools().items():
                figures = pool.figures
                yield (name, "lent"), figures.lent_bytes
                yield (name, "idle"), figures.idle_bytes

        return {
            "gpux_queue_requests": Gauge(
                "Requests that wait for the model.", single(lambda: self.scheduler.queue_length)
            ),
            "gpux_in_flight_requests": Gauge(
                "Requests that were let in and are not answered yet.",
                single(lambda: self.admission.requests),
            ),
            "gpux_pool_bytes": Gauge("Memory for tensors.", pools, ("pool", "state")),
        }


def _choose_batching(model: Model, settings: Settings, trial: Deadline) -> Batching:
    if settings.batching == "off":
        return Batching(None, "serving.batching is off")
    limits = Limits(settings.max_batch_size, settings.batch_delay_us / 1e6)
    if limits.most_rows == 1:
        return Batching(None, "serving.max_batch_size is 1")
    obstacle = find_obstacle(model, trial)
    if obstacle is None:
        return Batching(limits)
    if settings.batching == "on":
        raise ConfigurationError(f"serving.batching is on, but {obstacle}")
    return Batching(None, obstacle)
