"""A model's first runs, before anybody waits for them.

The first run of each shape is a slow one: memory is allocated, kernels are chosen and loaded. So a
request that the user has recorded, or a generated one, is run in every size that batches will have.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from gpux.errors import ClientError, ConfigurationError, DeadlineError, GpuxError, ServiceError
from gpux.model import Model
from gpux.serving.batch_plan import BatchLimits
from gpux.serving.batching_check import Sample, generate
from gpux.serving.engine import Engine
from gpux.serving.padding import Padding
from gpux.tensors.outputs import to_python

logger = logging.getLogger(__name__)

# Of all that is run beside a recorded request: what is slow anyway is not worth a slow start.
_MAX_SECONDS = 5.0
_MAX_ROWS = 256


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request that the user has recorded.

    Attributes:
        file: where.
        body: as a client would send it.
        rows: by themselves; one, with all that the model gets, where its inputs have no rows.
    """

    file: Path
    body: bytes
    rows: Sequence[Sample]


def read_recorded(file: Path, model: Model) -> Recorded:
    """Reads the request for a warm-up.

    Raises:
        ConfigurationError: the file cannot be read, or is no request for this model.
    """
    try:
        body = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    with _blamed_on(file):
        request = model.inputs.decode(body)
    try:
        values = {name: to_python(tensor) for name, tensor in request.tensors.items()}
    finally:
        request.release()
    has_rows = all(spec.kind == "batched" for spec in model.signature.inputs)
    lengths = {len(value) for value in values.values()} if has_rows else set()
    if len(lengths) != 1:
        return Recorded(file, body, [values])
    rows = [
        {name: value[number : number + 1] for name, value in values.items()}
        for number in range(lengths.pop())
    ]
    return Recorded(file, body, rows)


def warm_up(engine: Engine, recorded: Recorded | None) -> None:
    """Runs a model for the first time.

    Args:
        engine: nobody else asks it yet.
        recorded: the request, as it is and with its rows as often as a batch may have them; None
            for a generated one, of which none is captured as a CUDA graph: those are for shapes
            that really come.

    Raises:
        ConfigurationError: the recorded request cannot be answered.

    A generated request that fails, or a batch, is logged.
    """
    execution = engine.model.execution
    if recorded is not None:
        with _blamed_on(recorded.file):
            for _ in range(execution.runs_until_warm):
                request = engine.model.inputs.decode(recorded.body)
                engine.answer(request, engine.deadline())
        _run_in_all_sizes(engine, recorded.rows, time.monotonic() + _MAX_SECONDS)
        return
    with execution.uncaptured():
        give_up_at = time.monotonic() + _MAX_SECONDS
        row = _find_row(engine, give_up_at)
        if row is not None:
            _run_in_all_sizes(engine, [row], give_up_at)


@contextlib.contextmanager
def _blamed_on(file: Path) -> Iterator[None]:
    try:
        yield
    except (ClientError, ServiceError, MemoryError) as error:
        raise ConfigurationError(f"{file}: {error}") from error


def _find_row(engine: Engine, give_up_at: float) -> Sample | None:
    """A generated request that the model takes."""
    problem: Exception | None = None
    for row in generate(engine.model):
        try:
            _run(engine, row, give_up_at)
        except DeadlineError as error:
            problem = error
            break
        except (GpuxError, MemoryError) as error:
            problem = error
        else:
            return row
    logger.info("no generated request could be run before the first one comes: %s", problem)
    return None


def _run_in_all_sizes(engine: Engine, rows: Sequence[Sample], give_up_at: float) -> None:
    """Runs rows in batches of 1, 2, 4 and so on, up to the largest, and in each padded length."""
    sizes, padding = _batch_sizes(engine.batching.limits), engine.batching.padding
    execution = engine.model.execution
    try:
        for size in sizes:
            batch = _stack(rows, size)
            # One row, and the largest batch, are what comes most: the others are captured as CUDA
            # graphs when they have shown that they come.
            if size in (1, sizes[-1]):
                for _ in range(execution.runs_until_warm):
                    _run(engine, batch, give_up_at)
            else:
                with execution.uncaptured():
                    _run(engine, batch, give_up_at)
        if padding is not None:
            with execution.uncaptured():
                for lengths in padding.sizes():
                    _run(engine, _stack([_stretch(rows[0], padding, lengths)], 2), give_up_at)
    except DeadlineError:
        logger.info("the warm-up has ended after %g seconds", _MAX_SECONDS)
    except (GpuxError, MemoryError) as error:
        logger.warning("a batch could not be run before the first request: %s", error)


def _run(engine: Engine, values: Sample, give_up_at: float) -> None:
    left_seconds = give_up_at - time.monotonic()
    if left_seconds <= 0:
        raise DeadlineError(_MAX_SECONDS)
    engine.answer(engine.model.inputs.collect(values), engine.deadline(left_seconds))


def _batch_sizes(limits: BatchLimits | None) -> Sequence[int]:
    """The powers of two below the largest batch, and that one."""
    if limits is None:
        return ()
    most = min(limits.max_rows, _MAX_ROWS)
    return [*(2**power for power in range((most - 1).bit_length())), most]


def _stack(rows: Sequence[Sample], size: int) -> Sample:
    """A batch of so many rows, the given ones again and again."""
    return {
        name: numpy.concatenate([rows[number % len(rows)][name] for number in range(size)])
        for name in rows[0]
    }


def _stretch(row: Sample, padding: Padding, lengths: Mapping[str, int]) -> Sample:
    """A row of other lengths, of the same elements."""
    stretched = dict(row)
    for name, axes in padding.inputs.items():
        for axis, dim in axes:
            value = stretched[name]
            elements = numpy.arange(lengths[dim]) % value.shape[axis]
            stretched[name] = numpy.take(value, elements, axis)
    return stretched
