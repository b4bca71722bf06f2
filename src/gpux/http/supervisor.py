"""Worker processes: forks one for each set of listeners, replaces those that die, ends all.

The supervisor serves nothing itself. It loads no model and has one thread, so that fork() copies no
lock that another thread holds. It keeps every listener open: connections that wait at the listener
of a worker that died wait on for its replacement.
"""

import itertools
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from gpux.errors import StartError

logger = logging.getLogger(__name__)

_END = {signal.SIGTERM, signal.SIGINT}
_HANDLED = {*_END, signal.SIGHUP, signal.SIGCHLD}
# What a worker has beyond the time to drain, to write its logs and to exit, before it is killed.
_GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker process gets.

    It starts with SIGTERM's default action, and ignores SIGINT and SIGHUP until it handles them:
    a terminal sends SIGINT to all processes of a command, whose end is the supervisor's to begin.

    Attributes:
        number: from 0; a replacement has the number of the worker that died.
        sockets: its listeners, which it owns. The supervisor closes its own copies before it sends
            SIGTERM, so that a worker that has accepted all and closes them resets no connection.
        lifeline: a descriptor that becomes readable (EOF) when the supervisor is gone, which means
            the same as SIGTERM, except that nobody is left to kill a worker that hangs.
        is_replacement: whether all workers have been ready before.
    """

    number: int
    sockets: Sequence[socket.socket]
    lifeline: int
    is_replacement: bool
    _report: BinaryIO

    def ready(self, text: str) -> None:
        """Reports that the model is loaded. From any thread; instead of failed(), and once.

        Args:
            text: what is announced when all workers are ready; that of worker 0 counts.
        """
        self._send({"ready": text})

    def failed(self, message: str) -> None:
        """Reports that the start cannot succeed. From any thread; instead of ready(), and once.

        The supervisor then ends this process by SIGTERM.

        Args:
            message: that of the StartError.
        """
        self._send({"failed": message})

    def _send(self, message: dict[str, str]) -> None:
        # The end of the file is that of the message.
        with suppress(BrokenPipeError), self._report:  # the lifeline tells that nobody reads
            self._report.write(json.dumps(message).encode())


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses before workers that died are replaced: none at first, then longer and longer ones.

    Attributes:
        first_seconds: the second pause, which doubles with each further death.
        longest_seconds: what no pause exceeds.
        reset_seconds: a worker that lived that long is replaced at once again.
    """

    first_seconds: float = 0.1
    longest_seconds: float = 10.0
    reset_seconds: float = 60.0

    def pause_seconds(self, previous_seconds: float | None, lived_seconds: float) -> float:
        """Returns the pause after a death.

        Args:
            previous_seconds: the pause after the death before it; None for the first death.
            lived_seconds: how long the worker lived.
        """
        if previous_seconds is None or lived_seconds >= self.reset_seconds:
            return 0.0
        return min(max(2 * previous_seconds, self.first_seconds), self.longest_seconds)


def supervise(
    listeners: Sequence[Sequence[socket.socket]],
    run: Callable[[Worker], int],
    *,
    drain_seconds: float,
    announce: Callable[[str], None],
    backoff: Backoff = Backoff(),
) -> int:
    """Runs workers until SIGTERM or SIGINT; SIGHUP is passed on to them.

    To be called in the main thread of a process that has no other. A worker that dies before all
    have been ready ends the start; later ones are replaced. A second signal kills all workers, and
    this process as if it had not handled the signal.

    Args:
        listeners: the sockets of each worker, which are closed when this returns.
        run: the whole life of a worker, in a process of its own; returns its exit code. A
            StartError that leaves it is reported as failed().
        drain_seconds: what workers have to end after SIGTERM. Soon after, they are killed.
        announce: called once, when all workers are ready.
        backoff: the pauses before workers are replaced.

    Returns:
        The exit code: 0 if all workers ended as they were asked to.

    Raises:
        StartError: a worker cannot be started, with the message of the first that says so.
    """
    with ExitStack() as stack:
        return _Supervisor(stack, listeners, run, drain_seconds, announce, backoff).run()


@dataclass(slots=True)
class _Place:
    """The place of a worker, whose processes come and go.

    Attributes:
        pid: its process that has not been waited for, if there is one.
        report: the pipe that the process reports on, until it has; data: what was read from it.
        ready_text: what the process reported as ready().
        has_failed: whether the process reported failed().
        started_at: when the process was forked, in seconds of the monotonic clock.
        restart_at: when the next process is due, if there is none.
        pause_seconds: the pause after the last death.
    """

    number: int
    sockets: Sequence[socket.socket]
    pid: int | None = None
    report: int | None = None
    data: bytes = b""
    ready_text: str | None = None
    has_failed: bool = False
    started_at: float = 0.0
    restart_at: float | None = None
    pause_seconds: float | None = None


class _Supervisor:
    """One call of supervise(), which waits for signals, reports and due times in one place.

    Args:
        stack: undoes what this process has changed of itself.
    """

    def __init__(
        self,
        stack: ExitStack,
        listeners: Sequence[Sequence[socket.socket]],
        run: Callable[[Worker], int],
        drain_seconds: float,
        announce: Callable[[str], None],
        backoff: Backoff,
    ) -> None:
        self._places = [_Place(number, sockets) for number, sockets in enumerate(listeners)]
        self._run_worker = run
        self._stop_seconds = drain_seconds + _GRACE_SECONDS
        self._announce = announce
        self._backoff = backoff
        self._is_serving = False  # all workers have been ready
        self._is_stopping = False
        self._kill_at: float | None = None
        self._failure: str | None = None
        self._code = 0
        for listener in itertools.chain(*listeners):
            stack.enter_context(listener)
        self._lifeline, lifeline_end = os.pipe()
        # Python writes the number of each signal to the other end.
        self._signals, signals_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._own = (lifeline_end, self._signals, signals_end)  # not the workers'
        for descriptor in (self._lifeline, *self._own):
            stack.callback(os.close, descriptor)
        stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(signals_end))
        for number in _HANDLED:
            stack.callback(signal.signal, number, signal.signal(number, _do_nothing))

    def run(self) -> int:
        """Returns the exit code when all workers have ended; raises StartError."""
        try:
            for place in self._places:
                self._start(place)
            while not self._is_stopping or any(place.pid for place in self._places):
                self._handle_next()
        except BaseException:
            self._signal_workers(signal.SIGKILL)
            raise
        if self._failure is not None:
            raise StartError(self._failure)
        return self._code

    def _handle_next(self) -> None:
        """Waits until something happens or is due, and handles it."""
        readable = self._wait()
        for place in self._places:
            if place.report in readable:
                self._read_report(place)
        if self._signals in readable:
            for number in os.read(self._signals, 4096):
                self._handle_signal(number)
        for place in self._places:
            self._reap(place)
        now = time.monotonic()
        for place in self._places:
            if place.restart_at is not None and place.restart_at <= now:
                self._start(place)
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = None
            self._code = 1
            logger.error("Killing the workers that have not ended in %g s", self._stop_seconds)
            self._signal_workers(signal.SIGKILL)

    def _wait(self) -> set[int]:
        """Returns the descriptors that are readable; none when something is due."""
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        due = [self._kill_at]
        for place in self._places:
            due.append(place.restart_at)
            if place.report is not None:
                poll.register(place.report, select.POLLIN)
        first = min((at for at in due if at is not None), default=None)
        timeout_ms = None if first is None else max(0.0, first - time.monotonic()) * 1000
        return {descriptor for descriptor, _ in poll.poll(timeout_ms)}

    # The end.

    def _handle_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._signal_workers(number)
        elif number in _END and not self._is_stopping:
            self._stop()
        elif number in _END:
            self._signal_workers(signal.SIGKILL)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            os._exit(128 + number)  # process 1 of a container does not end by its own signal

    def _signal_workers(self, number: int) -> None:
        for place in self._places:
            if place.pid is not None:
                os.kill(place.pid, number)

    def _stop(self) -> None:
        """Has all workers end."""
        self._is_stopping = True
        self._kill_at = time.monotonic() + self._stop_seconds
        for place in self._places:
            place.restart_at = None
            for listener in place.sockets:
                listener.close()
        self._signal_workers(signal.SIGTERM)

    def _fail(self, message: str) -> None:
        """Ends the start; the first message counts."""
        if not self._is_stopping:
            self._failure = message
            self._stop()

    # The life of a worker process.

    def _start(self, place: _Place) -> None:
        """Starts the process of a worker, unless all are to end."""
        if self._is_stopping:
            return
        place.restart_at = None
        place.started_at = time.monotonic()
        place.data, place.ready_text, place.has_failed = b"", None, False
        try:
            place.pid, place.report = self._fork(place)
        except OSError as error:
            self._handle_death(place, f"cannot fork: {error.strerror}")

    def _fork(self, place: _Place) -> tuple[int, int]:
        """Returns the id of a new process, and the pipe that it reports on; raises OSError."""
        assert threading.active_count() == 1, "a lock that another thread holds would stay locked"
        _flush()  # or both processes write what is buffered
        report, report_end = os.pipe()
        os.set_blocking(report, False)
        # Until the new process has actions of its own, its signals would count as this one's.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        try:
            pid = os.fork()
            if pid == 0:
                self._work(place, report, report_end, mask)
        except OSError:
            os.close(report)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(report_end)
        return pid, report

    def _work(
        self, place: _Place, report: int, report_end: int, mask: set[int | signal.Signals]
    ) -> NoReturn:
        """The life of a worker, in its process, which ends with it."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _HANDLED:
                is_ignored = number in (signal.SIGINT, signal.SIGHUP)
                signal.signal(number, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            reports = [other.report for other in self._places if other.report is not None]
            for descriptor in (*self._own, report, *reports):
                os.close(descriptor)
            for other in self._places:
                for listener in other.sockets if other is not place else ():
                    listener.close()
            worker = Worker(
                *(place.number, place.sockets, self._lifeline, self._is_serving),
                os.fdopen(report_end, "wb"),
            )
            try:
                code = self._run_worker(worker)
            except StartError as error:
                code = 2
                worker.failed(str(error))
        except BaseException:
            logger.exception("Worker %d", place.number)
        finally:
            # Nothing of the supervisor's own end may run in this process.
            try:
                _flush()
            finally:
                os._exit(code)

    def _read_report(self, place: _Place) -> None:
        """Reads what a worker reports, and handles it when it is complete."""
        assert place.report is not None
        try:
            while part := os.read(place.report, 65536):
                place.data += part
        except BlockingIOError:
            return
        os.close(place.report)
        place.report = None
        try:
            message = json.loads(place.data)
        except ValueError:  # the process ended before or while it reported
            return
        if "failed" in message:
            self._handle_failure(place, message["failed"])
        else:
            place.ready_text = message["ready"]
            texts = [other.ready_text for other in self._places]
            is_first_time = not (self._is_serving or self._is_stopping)
            if is_first_time and texts[0] is not None and None not in texts:
                self._is_serving = True
                self._announce(texts[0])

    def _handle_failure(self, place: _Place, message: str) -> None:
        if not self._is_serving:
            self._fail(message)
        elif not self._is_stopping:
            place.has_failed = True
            logger.error("Worker %d cannot be replaced: %s", place.number, message)
            if place.pid is not None:
                os.kill(place.pid, signal.SIGTERM)

    def _reap(self, place: _Place) -> None:
        """Waits for a process that has ended."""
        if place.pid is None:
            return
        pid, status = os.waitpid(place.pid, os.WNOHANG)
        if not pid:
            return
        place.pid = None  # the id may be another process' from now on
        if place.report is not None:
            self._read_report(place)
        if place.report is not None:  # a process that the worker started has it, too
            os.close(place.report)
            place.report = None
        code = os.waitstatus_to_exitcode(status)
        if self._is_stopping and code in (0, -signal.SIGTERM):  # it may not have handled it yet
            return
        self._handle_death(place, f"signal {-code}" if code < 0 else f"exit code {code}")

    def _handle_death(self, place: _Place, reason: str) -> None:
        """Has a worker replaced that ended by itself."""
        if self._is_stopping:
            is_killed = self._kill_at is None  # by this process, which has said so
            if place.ready_text is not None and not is_killed and self._failure is None:
                self._code = 1
                logger.error("Unexpected exit of worker %d: %s", place.number, reason)
        elif not self._is_serving:
            self._fail(f"a worker process ended while it started: {reason}")
        else:
            now = time.monotonic()
            lived_seconds = now - place.started_at
            place.pause_seconds = self._backoff.pause_seconds(place.pause_seconds, lived_seconds)
            place.restart_at = now + place.pause_seconds
            if not place.has_failed:
                logger.error("Unexpected exit of worker %d: %s", place.number, reason)


def _do_nothing(number: int, frame: object) -> None:
    """Python writes only signals that have a handler to the pipe."""


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it
            stream.flush()
