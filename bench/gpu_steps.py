"""What `gpu` is made of: steps, each a check or a measurement, which know nothing of each other.

A step gets a Bench: the device, how long to take, and where figures go.
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
    """A check that failed for another reason than a wrong number."""


class LeftOutError(Exception):
    """Something that a step needs is not installed; says what."""


def check_that(holds: object, problem: str) -> None:
    """Raises CheckError where something does not hold."""
    if not holds:
        raise CheckError(problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much to do.

    Attributes:
        small: with the real models made small.
        shapes: how many a check of changing shapes goes through.
        clients, client_seconds: who asks the server at once, and how long.
        limited_bytes: gpu_memory_limit of the check of a full GPU.
        copy_bytes: sizes of the copies.
        copy_rounds, copy_round_seconds: turns of each way to copy, and how long one lasts.
        batches: rows of a request, the one that was promised something first.
        latency_seconds: of each model and batch.
        latency_turn_seconds: how long one way has its turn.
        http_connections, http_seconds: at the server, and how long for each number.
        memory_first, memory_requests: requests before the first look, and in all.
        memory_seconds: the most that they may take.
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
    """What a step works with.

    Attributes:
        backend: the device.
        pace: how much to do.
        report: takes a figure as soon as it is there.
    """

    backend: Backend
    pace: Pace
    report: Callable[[Figure], None]


@dataclass(frozen=True, slots=True)
class Step:
    """A check or a measurement.

    Attributes:
        name: as it is shown.
        kind: which of the two.
        run: does it, and answers in words what was done. Whatever it raises is its failure.
        seconds: about how long it takes, on a machine with a GPU. It is not begun when less is
            left, and ended when it takes several times that.
    """

    name: str
    kind: Literal["check", "measure"]
    run: Callable[[Bench], str]
    seconds: Callable[[Pace], float] = lambda _: 5


@contextmanager
def loaded(backend: Backend, file: Path, **settings: Any) -> Iterator[Model]:
    """A model on the device, as `gpux serve` would load it, while the context lasts."""
    chosen = Settings(model=file, provider="cuda", **settings)
    model = Model(backend.create_session(chosen), chosen)
    try:
        yield model
    finally:
        if isinstance(model.execution, GpuExecution):
            model.execution.close()


def on_cpu(file: Path) -> Model:
    """The same model on the CPU: what its answers are compared with."""
    return load_model(Settings(model=file, provider="cpu"))


def failure_of(error: BaseException) -> str:
    """What is said of a step that raised, in one line."""
    text = " ".join(str(error).split()) or "without a word"
    is_told = isinstance(error, CheckError | MismatchError | LeftOutError)
    return text if is_told else f"{type(error).__name__}: {text}"


def predict(model: Model, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The answer to arrays, as arrays."""
    return model.predict(dict(inputs))
