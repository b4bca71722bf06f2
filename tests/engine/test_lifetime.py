"""A long life: no memory grows, any moment is right to stop a run, threads and forks are safe.

GPUX_ENDURANCE multiplies the number of requests: 50 makes a million of them.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

import gpux
from gpux.config.settings import Settings
from gpux.errors import DeadlineError
from gpux.serving.engine import Engine
from tests.support import output_models
from tests.support.model_runs import check_64_threads
from tests.support.sanitizer import SANITIZED, fewer
from tests.support.served_engine import ServedEngine
from tests.support.servers import Find

ROOT = Path(__file__).parents[2]
TIMES = int(os.environ.get("GPUX_ENDURANCE", "1"))
PATIENCE_SECONDS = 60.0
# 90 bytes for each of the 12,000 requests after the warm-up.
_MAX_GROWTH_BYTES = 2**20


def run_program(name: str, *arguments: object, seconds: float) -> str:
    """Runs a module of tests.support in a process of its own; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.support.{name}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


# Memory.


@pytest.mark.skipif(SANITIZED, reason="sanitizers keep what is freed")
@pytest.mark.parametrize("requests", ["served", "failing"])
def test_memory_does_not_grow(requests: str) -> None:
    """10^6 requests and 10^5 failing ones with GPUX_ENDURANCE=50."""
    number = (20_000 if requests == "served" else 2_000) * TIMES
    printed = run_program("endurance", requests, number, seconds=120 * TIMES)
    growth_bytes = int(printed)
    assert growth_bytes <= _MAX_GROWTH_BYTES


# Deadlines.


def test_a_run_may_be_stopped_at_every_moment(model_file: Find) -> None:
    """The outcome is the answer or DeadlineError, and the next request is served."""
    model = gpux.load(model_file("slow"), "cpu")
    body = b'{"steps":200}'
    expected = b'{"sum":128.0}'
    seconds = min(_seconds_of(model, body) for _ in range(5))
    outcomes = []
    moments = fewer(150) * TIMES
    for moment in range(moments):
        # Half of them within the run of an idle machine, the last one far behind it.
        timeout_seconds = 4 * seconds * ((moment + 0.5) / moments) ** 2
        try:
            answer = model.respond(body, timeout_seconds=timeout_seconds)
        except DeadlineError:
            outcomes.append(False)
        else:
            assert answer == expected
            outcomes.append(True)
        if moment % 10 == 0:
            assert model.respond(body) == expected
    assert model.respond(body) == expected
    # Stopped early, served late.
    assert not all(outcomes)
    assert any(outcomes)


def _seconds_of(model: gpux.Model, body: bytes) -> float:
    start = time.perf_counter()
    model.respond(body)
    return time.perf_counter() - start


def test_a_run_without_end_is_stopped_from_every_thread(model_file: Find) -> None:
    model = gpux.load(model_file("slow"), "cpu")

    def stop(body: bytes) -> str:
        try:
            return model.respond(body, timeout_seconds=0.01).decode()
        except DeadlineError:
            return "stopped"

    check_64_threads(stop, [(b'{"steps":100000000}', "stopped")], 1)
    assert model.respond(b'{"steps":1}') == b'{"sum":128.0}'


# Threads.


@pytest.mark.parametrize("batching", ["off", "auto"])
def test_64_threads_on_one_session(model_file: Find, batching: str) -> None:
    file = model_file("matrix")
    engine = Engine(
        gpux.load(file, "cpu"),
        Settings(model=file, batching="off" if batching == "off" else "auto"),
    )
    served = ServedEngine(engine)
    rng = numpy.random.default_rng(0)
    cases = []
    for _ in range(100):
        rows = rng.integers(-99, 99, (int(rng.integers(1, 4)), int(rng.integers(1, 30))))
        numbers = rows.astype("float32").tolist()
        cases.append((json.dumps({"x": numbers}).encode(), {"y": numbers}))
    check_64_threads(lambda body: json.loads(served.predict(body)), cases, fewer(40))


@pytest.mark.parametrize("name", ["strings", "sequences", "classifier"])
def test_64_threads_on_a_model_without_binding(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.onnx"
    file.write_bytes(output_models.BUILDERS[name]().SerializeToString())
    model = gpux.load(file, "cpu")
    bodies = [b'{"x":[[%d,1,2.5,-4]]}' % number for number in range(60)]
    cases = [(body, model.respond(body)) for body in bodies]
    check_64_threads(model.respond, cases, fewer(20))


# Forks.


# Today the child waits for threads that it does not have, past its deadline.
@pytest.mark.parametrize("name", ["matrix", "strings"])
def test_a_child_of_a_fork_works_or_says_why_not(model_file: Find, name: str) -> None:
    """A process that loaded a model, and ran it, forks: neither hangs or crashes."""
    printed = run_program("forked", model_file(name), seconds=PATIENCE_SECONDS)
    outcome, _, parent = printed.partition("\n")
    assert outcome in ("answered", "refused")
    assert parent == "answered\n"
