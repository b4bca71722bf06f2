"""Responds to a body on command, in the interpreter of one installation; for calls.py.

    PYTHON call_worker.py MODEL BODY

Prints the response on a line. Then, for each line "CALLS THREADS" of stdin, makes that many calls
in that many threads, and prints the CPU time of the process and the duration, in seconds.
"""

import gc
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gpux


def predict_callable(model: Any) -> Callable[[bytes], bytes]:
    """A loaded model's call from a body to a response; in builds before 0.2 the engine has it."""
    respond: Callable[[bytes], bytes] | None = getattr(model, "respond", None)
    if respond is None:
        from gpux.serving.engine import Engine

        engine: Any = Engine(model)
        respond = engine.predict
    return respond


def main() -> None:
    """Measures until stdin ends."""
    model, body_file = sys.argv[1:]
    respond, body = predict_callable(gpux.load(model, "cpu", 1)), Path(body_file).read_bytes()
    print(respond(body).decode(), flush=True)

    def call(times: int) -> None:
        for _ in range(times):
            respond(body)

    gc.disable()
    for line in sys.stdin:
        calls, threads = map(int, line.split())
        with ThreadPoolExecutor(threads) as workers:
            list(workers.map(call, [1] * threads))  # starts them
            cpu, start = time.process_time(), time.perf_counter()
            list(workers.map(call, [calls // threads] * threads))
            print(time.process_time() - cpu, time.perf_counter() - start, flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
