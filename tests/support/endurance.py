"""Many requests to engines in this process; prints by how many bytes its memory grew meanwhile.

    python -m tests.support.endurance served 20000      or: failing 2000

The requests go in turns to models of each kind: bound by pointer, strings, sequences, maps. Those
that fail do so in reading, in ONNX Runtime, and at their deadline.
"""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import gpux
from gpux.errors import GpuxError
from tests.support import onnx_models, output_models

# Until then caches, arenas and free lists fill.
_WARM_UP_SHARE = 0.4
# A row for every input of each model.
_ROWS: dict[str, Sequence[object]] = {
    "numbers": [1, 0],
    "strings": ["a\0é", "", "x" * 100],
    "sequences": [0.5, -4, 0.1],
    "zipmap": [0.5, 0],
    "classifier": [1, 2.5, -3, 0],
}


def resident_bytes() -> int:
    """The resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def served_calls(folder: Path) -> Iterator[Callable[[int], None]]:
    """Requests that succeed, by their number."""
    for name, row in _ROWS.items():
        model, inputs = _load(folder, name)
        bodies = [json.dumps(dict.fromkeys(inputs, [row] * rows)).encode() for rows in (1, 2, 3)]
        yield partial(_serve, model, bodies)


def _serve(model: gpux.Model, bodies: Sequence[bytes], number: int) -> None:
    model.respond(bodies[number % len(bodies)])


def failing_calls(folder: Path) -> Iterator[Callable[[int], None]]:
    """Requests that fail, by their number."""
    table, matrix, slow = (_load(folder, name)[0] for name in ("table", "matrix", "slow"))
    yield lambda number: _fail(table, b'{"ids":[[0,%d]]}' % (4 + number))
    yield lambda number: _fail(matrix, b'{"x":[[%d,"no"]]}' % number)
    yield lambda number: _fail(matrix, b'{"x":[[1,2],[%d]]}' % number)
    yield lambda number: _fail(slow, b'{"steps":%d}' % (10**8 + number), 0.0005)


def _fail(model: gpux.Model, body: bytes, timeout_seconds: float = 60.0) -> None:
    try:
        model.respond(body, timeout_seconds=timeout_seconds)
    except GpuxError:
        return
    raise AssertionError(f"{body!r} was answered")


def _load(folder: Path, name: str) -> tuple[gpux.Model, list[str]]:
    # Of the names in both, the models of onnx_models.py return what they are given.
    builders = {**output_models.BUILDERS, **onnx_models.BUILDERS}
    file = folder / f"{name}.onnx"
    file.write_bytes(builders[name]().SerializeToString())
    model = gpux.load(file, "cpu")
    return model, [accepted["name"] for accepted in model.describe()["inputs"]]


def main(kind: str, number: int) -> None:
    """Sends the requests and prints the growth."""
    logging.disable()  # of the failures
    with tempfile.TemporaryDirectory() as folder:
        make = {"served": served_calls, "failing": failing_calls}[kind]
        calls = list(make(Path(folder)))
        warm_up = int(number * _WARM_UP_SHARE)
        before = 0
        for turn in range(number):
            if turn == warm_up:
                before = resident_bytes()
            calls[turn % len(calls)](turn // len(calls))
        print(resident_bytes() - before)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
