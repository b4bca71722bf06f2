"""Calls `engine.predict` on command, in the interpreter of one installation; for calls.py.

    PYTHON call_worker.py MODEL BODY

Prints the response on a line. Then, for each line "CALLS THREADS" of stdin, makes that many calls
in that many threads, and prints the CPU time of the process and the duration, in seconds.
"""

import gc
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gpux
from gpux.serving.engine import Engine


def main() -> None:
    """Measures until stdin ends."""
    model, body_file = sys.argv[1:]
    engine, body = Engine(gpux.load(model, "cpu")), Path(body_file).read_bytes()
    print(engine.predict(body).decode(), flush=True)

    def call(times: int) -> None:
        for _ in range(times):
            engine.predict(body)

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
