"""A server process and its descendants: stop, continue, monitor, end."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from common.report import CannotMeasureError

_STOP_SECONDS = 10.0
# Below this share of a core a server has no request left. Ray never uses less than a tenth.
_IDLE_SHARE = 0.3
_IDLE_SAMPLE_SECONDS = 0.1
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class ProcessTree:
    """A process and its descendants, for as long as the process lives."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

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
        used = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(_IDLE_SAMPLE_SECONDS)
            before, used = used, self.cpu_seconds()
            if used - before <= _IDLE_SHARE * _IDLE_SAMPLE_SECONDS:
                return

    def cpu_seconds(self) -> float:
        """The CPU time of all processes so far, in steps of a clock tick."""
        return sum(cpu_seconds(pid) for pid in self.pids())

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


def run_command(command: Sequence[str]) -> str:
    """Runs a command to its end; returns what it printed.

    Raises:
        CannotMeasureError: it cannot be run, or failed; with what it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotMeasureError(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        raise CannotMeasureError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it has just exited
                parent = int(_stat(int(folder.name))[1])
                children.setdefault(parent, []).append(int(folder.name))
    return children


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process and of its children that it has waited for; 0 once it is gone."""
    with suppress(OSError):
        fields = _stat(pid)
        return sum(map(int, fields[11:15])) / _TICKS_PER_SECOND
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
