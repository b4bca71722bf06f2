"""Warms a model up: its first runs, before it serves requests.

The first run of each shape is slow: memory is allocated, kernels are chosen and loaded. So a
recorded request, or else a generated one, is run in every size that batches will have. On the CPU,
where only the very first run is much slower, no memory is taken for batches that may never come.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpux.errors import ClientError, ConfigurationError, DeadlineError, GpuxError, ServiceError
from gpux.execution.cpu import CpuExecution
from gpux.model import Model
from gpux.serving.batch_plan import BatchLimits
from gpux.serving.batching_check import Sample, generate
from gpux.serving.engine import Engine
from gpux.serving.padding import Padding
from gpux.tensors.request import array_of_input

logger = logging.getLogger(__name__)

# A slow model is not worth a slow start.
_MAX_SECONDS = 5.0
_MAX_ROWS = 256
# Larger batches are not run on the CPU.
_MAX_CPU_BYTES = 2**23


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded request.

    Attributes:
        file: its path.
        body: as a client would send it.
        rows: one sample per row; a single sample of all values if the inputs have no rows.
    """

    file: Path
    body: bytes
    rows: Sequence[Sample]


def read_recorded(file: Path, model: Model) -> Recorded:
    """Reads the request for the warm-up.

    Raises:
        ConfigurationError: the file cannot be read, or is no valid request for the model.
    """
    try:
        body = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from error
    with _errors_naming(file):
        request = model.inputs.decode(body)
    values = {spec.name: array_of_input(request, spec) for spec in model.signature.inputs}
    has_rows = all(spec.kind == "batched" for spec in model.signature.inputs)
    lengths = {len(value) for value in values.values()} if has_rows else set()
    if len(lengths) != 1:
        return Recorded(file, body, [values])
    rows = [
        {name: value[number : number + 1] for name, value in values.items()}
        for number in range(lengths.pop())
    ]
    return Recorded(file, body, rows)


def warm_up(engine: Engine, recorded: Recorded | None, max_seconds: float = _MAX_SECONDS) -> None:
    """Warms a model up.

    Args:
        engine: not in use yet.
        recorded: run as it is, and with its rows repeated to each batch size; None to generate a
            request. No generated request is captured as a CUDA graph: graphs are for shapes that
            clients really send.
        max_seconds: for all runs except those of a recorded request.

    Raises:
        ConfigurationError: the recorded request cannot be served.

    A generated request or a batch that fails is only logged.
    """
    execution = engine.model.execution
    if recorded is not None:
        with _errors_naming(recorded.file):
            for _ in range(execution.runs_until_warm):
                engine.run(engine.model.inputs.decode(recorded.body))
        _run_in_all_sizes(engine, recorded.rows, time.monotonic() + max_seconds)
    else:
        with execution.uncaptured():
            give_up_at = time.monotonic() + max_seconds
            row = _find_row(engine, give_up_at)
            if row is not None:
                _run_in_all_sizes(engine, [row], give_up_at)
    if isinstance(execution, CpuExecution):
        engine.model.pool.free_idle()


@contextlib.contextmanager
def _errors_naming(file: Path) -> Iterator[None]:
    try:
        yield
    except (ClientError, ServiceError, MemoryError) as error:
        raise ConfigurationError(f"{file}: {error}") from error


def _find_row(engine: Engine, give_up_at: float) -> Sample | None:
    """A generated request that the model accepts; None if it accepts none."""
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
    """Runs rows in batches of 1, 2, 4, … up to the largest, and in each padded length.

    On the CPU, the largest is one that is not too large.
    """
    sizes, padding = _batch_sizes(engine.batching.limits), engine.batching.padding
    execution = engine.model.execution
    is_on_cpu = isinstance(execution, CpuExecution)
    try:
        for size in sizes:
            if is_on_cpu and size * _row_bytes(engine, rows) > _MAX_CPU_BYTES:
                break
            batch = _stack(rows, size)
            # Batches of one row and of the largest size are the most frequent. Other sizes are
            # captured as CUDA graphs once they recur.
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
        logger.info("the warm-up was cut short")
    except (GpuxError, MemoryError) as error:
        logger.warning("a batch could not be run before the first request: %s", error)


def _row_bytes(engine: Engine, rows: Sequence[Sample]) -> int:
    """Bytes of a row in memory, while the engine has no other request."""
    request = engine.model.inputs.collect(_stack(rows, 1))
    nbytes = engine.model.pool.used_bytes
    del request
    return nbytes


def _run(engine: Engine, values: Sample, give_up_at: float) -> None:
    left_seconds = give_up_at - time.monotonic()
    if left_seconds <= 0:
        raise DeadlineError(0.0)
    engine.run(engine.model.inputs.collect(values), left_seconds)


def _batch_sizes(limits: BatchLimits | None) -> Sequence[int]:
    """The powers of two below the largest batch size, and that size."""
    if limits is None:
        return ()
    largest = min(limits.max_rows, _MAX_ROWS)
    return [*(2**power for power in range((largest - 1).bit_length())), largest]


def _stack(rows: Sequence[Sample], size: int) -> Sample:
    """A batch of `size` rows, which repeats the given ones."""
    return {name: [rows[number % len(rows)][name][0] for number in range(size)] for name in rows[0]}


def _stretch(row: Sample, padding: Padding, lengths: Mapping[str, int]) -> Sample:
    """The row at other lengths, which repeats its elements."""
    import numpy

    stretched = dict(row)
    for name, axes in padding.inputs.items():
        for axis, dim in axes:
            value = numpy.asarray(stretched[name])
            elements = numpy.arange(lengths[dim]) % value.shape[axis]
            stretched[name] = numpy.take(value, elements, axis)
    return stretched
