"""Supervises small workers: each sends its number and process id to whoever connects.

    python -m tests.support.supervised WORKERS BEHAVIOUR

`works` is the behaviour without a fault; behave() has the others. Prints what the supervisor
announces, and the port; then a line for each SIGHUP that a worker gets.
"""

import logging
import os
import select
import signal
import socket
import sys
import time

from gpux.errors import StartError
from gpux.http import supervisor
from gpux.http.listen import listen
from gpux.http.supervisor import Backoff, Worker, supervise

supervisor._GRACE_SECONDS = 0.2  # what a test of a worker that hangs waits for


def main(workers: int, behaviour: str) -> int:
    """Returns the exit code of the supervisor."""

    def run(worker: Worker) -> int:
        behave(worker, behaviour)
        return serve(worker)

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    listeners = listen("127.0.0.1", 0, workers)
    port = listeners[0][0].getsockname()[1]
    print("buffered")  # must come out once
    try:
        return supervise(
            listeners,
            run,
            drain_seconds=0.3 if behaviour == "hangs" else 30,
            announce=lambda text: print(text, port, flush=True),
            backoff=Backoff(0.01, 0.04, 60),
        )
    except StartError as error:
        print(f"StartError: {error}", file=sys.stderr)
        return 2


def behave(worker: Worker, behaviour: str) -> None:
    """Does what is wrong with a worker; only worker 1, or replacements, have faults."""
    if worker.is_replacement:
        if behaviour == "replacements fail":
            raise StartError("the model is gone")
        if behaviour == "replacements report failure":
            worker.failed("the model is gone")
            time.sleep(60)
        elif behaviour == "replacements die":
            os.kill(os.getpid(), signal.SIGKILL)
    elif worker.number == 1:
        if behaviour == "fails":
            worker.failed("no model")
            time.sleep(60)
        elif behaviour == "raises":
            raise StartError("no model")
        elif behaviour == "exits":
            os._exit(3)
        elif behaviour == "raises another error":
            raise ZeroDivisionError
        elif behaviour == "loads forever":
            time.sleep(60)
        elif behaviour == "hangs":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            worker.ready("")
            time.sleep(60)


def serve(worker: Worker) -> int:
    """Replies until SIGTERM or the supervisor's end, and to all that have connected until then."""
    stopped, stop = os.pipe()

    def hang_up(*_: object) -> None:
        os.write(1, f"hangup {worker.number}\n".encode())

    signal.signal(signal.SIGTERM, lambda *_: os.close(stop))
    signal.signal(signal.SIGHUP, hang_up)
    worker.ready("x" * 100_000 if sys.argv[2] == "says much" else f"says {worker.number}")
    for listener in worker.sockets:
        listener.setblocking(False)
    ends = {stopped, worker.lifeline}
    waited: list[int | socket.socket] = [*worker.sockets, *ends]
    while ends.isdisjoint(select.select(waited, [], [])[0]):
        reply(worker)
    reply(worker)
    return 0


def reply(worker: Worker) -> None:
    """Replies to all that have connected."""
    for listener in worker.sockets:
        while True:
            try:
                connection: socket.socket = listener.accept()[0]
            except BlockingIOError:
                break
            with connection:
                connection.sendall(f"{worker.number} {os.getpid()}".encode())


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
