"""supervisor: worker processes start, die and end together; the workers are tests.support's."""

import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from gpux.http.supervisor import Backoff
from tests.support.servers import PATIENCE_SECONDS, Output, environment, wait_until

ROOT = Path(__file__).parents[3]


class Supervised:
    """A supervisor and its workers, in processes."""

    def __init__(self, stack: ExitStack, workers: int = 2, behaviour: str = "works") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.supervised", str(workers), behaviour],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout = Output(self.process.stdout)
        self.stderr = Output(self.process.stderr)
        self.seen: set[int] = set()  # the processes of workers, which must end
        stack.callback(self._close)

    def _close(self) -> None:
        left = {worker for worker in self.seen if runs(worker)}
        self.process.kill()
        self.process.wait()
        for worker in left:  # of a test that failed
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        self.stdout.close()
        self.stderr.close()

    def ready(self) -> str:
        """Waits for the announcement; returns its text."""
        match = self.stdout.wait_for(r"(\w+(?: \d)?) (\d+)\n")
        assert match is not None, self.stderr.text
        self.port = int(match[2])
        self.workers()
        return match[1]

    def workers(self) -> list[int]:
        """The processes of the workers, zombies included."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        found = list(map(int, path.read_text().split()))
        self.seen.update(found)
        return found

    def wait(self) -> int:
        """Waits for the exit code; no worker may be left then, nor soon after a kill."""
        code = self.process.wait(PATIENCE_SECONDS)
        wait_until(lambda: not any(map(runs, self.seen)), "no worker is left")
        return code

    def end(self) -> int:
        """Ends it by SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.wait()

    def connect(self, stack: ExitStack) -> socket.socket:
        return stack.enter_context(
            socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)
        )

    def ask(self) -> tuple[int, int]:
        """The number and the process of the worker that replies to a new connection."""
        with ExitStack() as stack:
            return reply(self.connect(stack))

    def worker(self, number: int) -> int:
        """The process of the worker of a number."""
        while (found := self.ask())[0] != number:
            pass
        return found[1]


def reply(client: socket.socket) -> tuple[int, int]:
    received = b""
    while part := client.recv(100):
        received += part
    number, process = received.split()
    return int(number), int(process)


def runs(process: int) -> bool:
    """Whether a process exists and is not a zombie."""
    return state(process) not in ("", "Z")


def state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def stop(process: int) -> None:
    """Stops a process until it gets SIGCONT."""
    os.kill(process, signal.SIGSTOP)
    wait_until(lambda: state(process) == "T", "it is stopped")


Start = Callable[..., Supervised]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda workers=2, behaviour="works": Supervised(stack, workers, behaviour)


def test_pauses_grow_to_a_limit_and_end_with_a_long_life() -> None:
    backoff = Backoff()
    pause, pauses = None, []
    for _ in range(10):
        pause = backoff.pause_seconds(pause, 1.0)
        pauses.append(pause)
    assert pauses == pytest.approx([0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert backoff.pause_seconds(10.0, 59.9) == 10
    assert backoff.pause_seconds(10.0, 60.0) == 0


def test_all_serve_and_the_first_is_announced(start: Start) -> None:
    server = start(3)
    assert server.ready() == "says 0"
    assert len(server.workers()) == 3
    assert {server.worker(number) for number in range(3)} == set(server.workers())
    assert server.end() == 0
    assert server.stdout.text == f"buffered\nsays 0 {server.port}\n"
    assert server.stderr.text == ""


def test_a_report_may_be_longer_than_a_pipe(start: Start) -> None:
    server = start(2, "says much")
    assert server.ready() == "x" * 100_000
    assert server.end() == 0


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("fails", "no model"),
        ("raises", "no model"),
        ("exits", "a worker process ended while it started: exit code 3"),
        ("raises another error", "a worker process ended while it started: exit code 1"),
    ],
)
def test_a_start_that_fails(start: Start, behaviour: str, message: str) -> None:
    server = start(2, behaviour)
    assert server.wait() == 2
    server.stderr.close()
    lines = server.stderr.text.splitlines()
    assert lines[-1] == f"StartError: {message}"
    assert len(lines) == 1 or "ZeroDivisionError" in lines[-2]
    server.stdout.close()
    assert server.stdout.text == "buffered\n"


def test_nothing_is_announced_before_all_are_ready(start: Start) -> None:
    server = start(2, "loads forever")
    wait_until(lambda: len(server.workers()) == 2, "both are started")
    assert server.end() == 0
    server.stdout.close()
    assert server.stdout.text == "buffered\n"
    assert server.stderr.text == ""


def test_what_waits_at_a_worker_that_dies_is_served_by_its_replacement(start: Start) -> None:
    server = start()
    server.ready()
    victim, other = server.worker(0), server.worker(1)
    stop(victim)
    with ExitStack() as stack:
        clients = [server.connect(stack) for _ in range(60)]
        os.kill(victim, signal.SIGKILL)
        processes = [reply(client)[1] for client in clients]
    (replacement,) = set(server.workers()) - {other}
    assert set(processes) == {other, replacement}
    assert server.end() == 0
    server.stderr.close()
    assert server.stderr.text == "Unexpected exit of worker 0: signal 9\n"


@pytest.mark.parametrize(
    ("behaviour", "line"),
    [
        ("replacements fail", "Worker 1 cannot be replaced: the model is gone"),
        ("replacements report failure", "Worker 1 cannot be replaced: the model is gone"),
        ("replacements die", "Unexpected exit of worker 1: signal 9"),
    ],
)
def test_replacements_that_fail_are_tried_again(start: Start, behaviour: str, line: str) -> None:
    server = start(2, behaviour)
    server.ready()
    victim, other = server.worker(1), server.worker(0)
    os.kill(victim, signal.SIGKILL)
    assert server.stderr.wait_for(rf"signal 9\n(?:{re.escape(line)}\n){{4}}"), server.stderr.text
    with ExitStack() as stack:  # those that Linux gives to the other worker wait
        clients = [server.connect(stack) for _ in range(20)]
        served, _, _ = select.select(clients, [], [], PATIENCE_SECONDS)
        assert reply(served[0]) == (0, other)
    assert server.end() == 0
    server.stderr.close()
    assert set(server.stderr.text.splitlines()[1:]) == {line}


def test_a_worker_that_is_stopped_for_a_while_is_not_replaced(start: Start) -> None:
    server = start()
    server.ready()
    workers = server.workers()
    stop(workers[0])
    os.kill(server.process.pid, signal.SIGHUP)  # handled after the worker's stop
    assert server.stdout.wait_for("hangup")
    os.kill(workers[0], signal.SIGCONT)
    assert {server.worker(0), server.worker(1)} == set(workers)
    assert server.workers() == workers
    assert server.end() == 0
    assert server.stderr.text == ""


def test_a_hangup_is_passed_on(start: Start) -> None:
    server = start()
    server.ready()
    server.process.send_signal(signal.SIGHUP)
    for number in range(2):
        assert server.stdout.wait_for(f"hangup {number}")
    assert server.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_comes_after_what_is_queued(start: Start, number: int) -> None:
    server = start()
    server.ready()
    for worker in server.workers():
        stop(worker)
    with ExitStack() as stack:
        clients = [server.connect(stack) for _ in range(20)]
        server.process.send_signal(number)
        for worker in server.workers():
            os.kill(worker, signal.SIGCONT)
        for client in clients:
            reply(client)
    assert server.wait() == 0
    assert server.stderr.text == ""


def test_no_connection_waits_at_a_listener_without_a_worker_in_the_end(start: Start) -> None:
    server = start()
    server.ready()
    slow = server.worker(0)
    stop(slow)
    server.process.terminate()
    wait_until(lambda: server.workers() == [slow], "the other has ended")
    with ExitStack() as stack:
        clients = [server.connect(stack) for _ in range(20)]
        os.kill(slow, signal.SIGCONT)
        assert {reply(client) for client in clients} == {(0, slow)}
    assert server.wait() == 0


def test_a_terminal_interrupts_only_the_supervisor(start: Start) -> None:
    server = start()
    server.ready()
    for worker in server.workers():
        os.kill(worker, signal.SIGINT)
        os.kill(worker, signal.SIGHUP)
    for number in range(2):
        assert server.stdout.wait_for(f"hangup {number}")  # after the SIGINT
    workers = set(server.workers())
    assert {server.worker(0), server.worker(1)} == workers
    assert server.end() == 0


def test_a_worker_that_hangs_is_killed_in_the_end(start: Start) -> None:
    server = start(2, "hangs")
    server.ready()
    assert server.end() == 1
    server.stderr.close()
    assert server.stderr.text == "Killing the workers that have not ended in 0.5 s\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_kills_all(start: Start, number: int) -> None:
    server = start()
    server.ready()
    stop(server.workers()[0])  # so that it does not end
    server.process.send_signal(number)
    wait_until(lambda: len(server.workers()) == 1, "the other has ended")
    server.process.send_signal(number)
    assert server.wait() == -number


def test_workers_end_with_a_supervisor_that_is_killed(start: Start) -> None:
    server = start()
    server.ready()
    victim = server.worker(0)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: server.worker(0) != victim, "it is replaced")
    assert len(server.workers()) == 2  # the replacement has the lifeline, too
    server.process.kill()
    assert server.wait() == -signal.SIGKILL


def test_a_worker_has_its_own_descriptors_only(start: Start) -> None:
    server = start(3)
    server.ready()
    victim = server.worker(1)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: server.worker(1) != victim, "it is replaced")
    opened = [descriptors(server.worker(number)) for number in range(3)]
    pipes = [{link for link in links if link.startswith("pipe:")} for links in opened]
    sockets = [{link for link in links if link.startswith("socket:")} for links in opened]
    # A listener, the lifeline, and both ends of a pipe of the worker's own.
    assert [len(links) for links in opened] == [4, 4, 4]
    assert len(set.union(*sockets)) == 3
    assert len(set.intersection(*pipes)) == 1
    assert len(set.union(*pipes)) == 4
    # Three listeners, both ends of the lifeline and of the pipe of signals.
    assert len(descriptors(server.process.pid)) == 7


def descriptors(process: int) -> list[str]:
    """What the descriptors of a process refer to, but for the three that each process has."""
    folder = Path(f"/proc/{process}/fd")
    return [str(entry.readlink()) for entry in folder.iterdir() if int(entry.name) > 2]
