"""The steps of `gpu`: independent checks and measurements.

A step gets a Bench: the device, how long to take, and a sink for measurements.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from answers import Array, MismatchError
from gpu_backend import Backend
from gpu_models import GpuModel, real_models

from gpux.config.settings import Settings
from gpux.execution.gpu import GpuExecution
from gpux.model import Model, load_model

Figure = dict[str, Any]


class CheckError(Exception):
    """A check failed for another reason than a wrong number."""


class LeftOutError(Exception):
    """Something that a step needs is not installed; named in the message."""


def check_that(holds: object, problem: str) -> None:
    """Raises CheckError unless `holds`."""
    if not holds:
        raise CheckError(problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much to do.

    Attributes:
        small: whether the real models are built small.
        shapes: the number of shapes in the check of changing shapes.
        clients, client_seconds: concurrent clients of the server, and for how long.
        limited_bytes: gpu_memory_limit in the check of a full GPU.
        copy_bytes: sizes of the copies.
        copy_rounds, copy_round_seconds: turns of each way to copy, and their duration.
        batches: rows of a request, the one with a goal first.
        latency_seconds: duration per model and batch.
        latency_turn_seconds: duration of one turn.
        http_connections, http_seconds: numbers of connections, and the duration for each.
        memory_first, memory_requests: requests before the first measurement, and in all.
        memory_seconds: the limit on their duration.
    """

    small: bool = False
    shapes: int = 40
    clients: int = 16
    client_seconds: float = 60
    limited_bytes: int = 2**26
    copy_bytes: tuple[int, ...] = (2**16, 2**18, 2**20, 2**22, 2**24, 2**26)
    copy_rounds: int = 15
    copy_round_seconds: float = 0.02
    batches: tuple[int, ...] = (8, 1, 32)
    latency_seconds: float = 6
    latency_turn_seconds: float = 0.15
    http_connections: tuple[int, ...] = (1, 16)
    http_seconds: float = 4
    memory_first: int = 1000
    memory_requests: int = 100_000
    memory_seconds: float = 60

    @property
    def models(self) -> Mapping[str, GpuModel]:
        """The models of real sizes."""
        return real_models(small=self.small)


FULL = Pace()
QUICK = Pace(
    shapes=15,
    client_seconds=10,
    copy_rounds=7,
    copy_round_seconds=0.01,
    latency_seconds=2,
    http_seconds=2,
    memory_requests=10_000,
    memory_seconds=15,
)


@dataclass(frozen=True, slots=True)
class Bench:
    """The context of a step.

    Attributes:
        backend: the device.
        pace: how much to do.
        report: accepts a measurement as soon as it is made.
    """

    backend: Backend
    pace: Pace
    report: Callable[[Figure], None]


@dataclass(frozen=True, slots=True)
class Step:
    """A check or a measurement.

    Attributes:
        name: in tables.
        kind: which of the two.
        run: runs it and returns a summary in words; it fails by raising.
        seconds: its approximate duration on a machine with a GPU. It is not started when less is
            left, and killed when it takes several times that.
    """

    name: str
    kind: Literal["check", "measure"]
    run: Callable[[Bench], str]
    seconds: Callable[[Pace], float] = lambda _: 5


@contextmanager
def loaded(backend: Backend, file: Path, **settings: Any) -> Iterator[Model]:
    """Loads a model on the device, as `gpux serve` would, while the context lasts."""
    chosen = Settings(model=file, provider="cuda", **settings)
    model = Model(backend.create_session(chosen), chosen)
    try:
        yield model
    finally:
        if isinstance(model.execution, GpuExecution):
            model.execution.close()


def on_cpu(file: Path) -> Model:
    """Loads the same model on the CPU, as the reference."""
    return load_model(Settings(model=file, provider="cpu"))


def failure_of(error: BaseException) -> str:
    """The one-line message for a step that raised."""
    text = " ".join(str(error).split()) or "without a word"
    is_own = isinstance(error, CheckError | MismatchError | LeftOutError)
    return text if is_own else f"{type(error).__name__}: {text}"


def predict(model: Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Runs the model on arrays; returns arrays."""
    return model.predict(dict(inputs))
