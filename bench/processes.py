"""A server process and its descendants: stop, continue, monitor, end."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from report import CannotMeasureError

_STOP_SECONDS = 10.0
# Below this share of a core a server has no request left. Ray never uses less than a tenth.
_IDLE_SHARE = 0.3
_IDLE_SAMPLE_SECONDS = 0.1
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class ProcessTree:
    """A process and its descendants, for as long as the process lives."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def has_ended(self) -> bool:
        """Whether the root process has exited."""
        return self._process.poll() is not None

    def pids(self) -> list[int]:
        """All processes, parents first."""
        children = _children()
        found = [self._process.pid]
        for pid in found:  # grows during the iteration
            found += children.get(pid, [])
        return found

    def freeze(self) -> None:
        """Stops all processes of the tree, so that they use no CPU."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undoes freeze()."""
        self._signal(signal.SIGCONT)

    def wait_until_idle(self, patience_seconds: float) -> None:
        """Waits until all requests are done, including abandoned ones."""
        deadline = time.monotonic() + patience_seconds
        used = self._cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(_IDLE_SAMPLE_SECONDS)
            before, used = used, self._cpu_seconds()
            if used - before <= _IDLE_SHARE * _IDLE_SAMPLE_SECONDS:
                return

    def peak_bytes(self) -> int:
        """The peak resident memory (VmHWM) of each process, added up.

        Shared memory, such as the code of libraries, counts for each process.
        """
        return sum(_peak_bytes(pid) for pid in self.pids())

    def resident_bytes(self) -> int:
        """The present resident memory of each process, added up in the same way."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids())
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> None:
        """Terminates the root process, then kills whatever is left."""
        pids = self.pids()
        self.resume()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)
        for pid in pids:
            if pid == self._process.pid:
                self._process.kill()  # no effect once it has exited
            else:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _cpu_seconds(self) -> float:
        return sum(_cpu_seconds(pid) for pid in self.pids())


@contextmanager
def started(
    command: Sequence[str],
    variables: Mapping[str, str],
    is_ready: Callable[[], bool],
    patience_seconds: float,
    poll_seconds: float = 0.05,
) -> Iterator[ProcessTree]:
    """Runs a command, and enters the context once it is ready.

    Raises:
        CannotMeasureError: it exited, or was not ready in time; with the end of its output.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        tree = ProcessTree(process)
        try:
            deadline = time.monotonic() + patience_seconds
            while tree.has_ended or not is_ready():
                if tree.has_ended or time.monotonic() > deadline:
                    log.seek(0)
                    output = log.read()[-4000:].decode(errors="replace").strip()
                    raise CannotMeasureError(f"{Path(command[0]).name} did not start:\n{output}")
                time.sleep(poll_seconds)
            yield tree
        finally:
            tree.end()


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has just exited
                parent = int(_stat(int(folder.name))[1])
                children.setdefault(parent, []).append(int(folder.name))
    return children


def _cpu_seconds(pid: int) -> float:
    with suppress(OSError):
        fields = _stat(pid)
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    return 0.0


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; the name before it may contain blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _peak_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
