"""A device that is not there: its memory is the host's, its stream an ordered list of copies.

What the code does for a GPU, it does the same for this one, with ONNX Runtime on the CPU. What a
stream delays, this one delays as long as it may: a copy out is done when something else comes onto
the stream, or its event is waited for. Whoever reads, gives back or frees too early finds other
bytes, or an assertion.
"""

import contextlib
import ctypes
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpux.config.settings import Settings
from gpux.execution.session import Session, create_session
from gpux.model import Model
from gpux.tensors import memory
from gpux.tensors.memory import PINNED, Block, Device, Tensor
from gpux.tensors.signature import BY_CODE

_POISON = 0xA5


class StandInStream:
    """Any number of threads may use it at once.

    Attributes:
        log: what came onto the stream, in its order: `in BYTES`, `out BYTES`, `run`, `event`.
        full: allocations fail while it is set.
        longest_allocation: larger blocks are refused, too.
    """

    name = "stand-in"
    device = Device(2, 0)  # where the code believes its memory
    address = 0x5EED

    def __init__(self) -> None:
        self.log: list[str] = []
        self.full = False
        self.longest_allocation = 2**40
        self.adopted: list[str] = []
        self.is_capturing = False
        self.ended_captures = 0
        self.done = threading.Event()  # the device has nothing left to do; waits end once it is set
        self.done.set()
        self._lock = threading.RLock()  # guards all the lists
        self._memory_lock = threading.RLock()  # guards allocations, and is held by captures
        self._delayed: list[tuple[int, int, int]] = []  # copies out: target, source, bytes
        self._busy: set[int] = set()  # addresses that copies behind the last event use
        self._waiting: set[_StandInEvent] = set()

    def adopt(self) -> None:
        self.adopted.append(threading.current_thread().name)

    def memory_bytes(self) -> tuple[int, int]:
        return 3 * 2**30, 2**32

    def allocate(self, nbytes: int) -> Block:
        return self._allocate(nbytes, self.device)

    def allocate_pinned(self, nbytes: int) -> Block:
        return self._allocate(nbytes, PINNED)

    def _allocate(self, nbytes: int, device: Device) -> Block:
        with self._memory_lock:
            assert not self.is_capturing, "an allocation by the thread that captures a graph"
        if self.full or nbytes > self.longest_allocation:
            raise MemoryError("the stand-in is full")
        block = memory.allocate(nbytes)
        ctypes.memset(block.address, _POISON, nbytes)
        return Block(block, block.address, nbytes, device)

    def copy_in(self, target: int, source: int, nbytes: int) -> None:
        assert nbytes > 0
        with self._lock:
            self.flush()
            self.log.append(f"in {nbytes}")
            ctypes.memmove(target, source, nbytes)
            self._busy |= {target, source}

    def copy_out(self, target: int, source: int, nbytes: int) -> None:
        assert nbytes > 0
        with self._lock:
            self.log.append(f"out {nbytes}")
            self._delayed.append((target, source, nbytes))
            self._busy |= {target, source}

    def flush(self) -> None:
        """Does the copies that were delayed."""
        with self._lock:
            for target, source, nbytes in self._delayed:
                ctypes.memmove(target, source, nbytes)
            self._delayed.clear()

    def record(self) -> "_StandInEvent":
        assert not self.is_capturing, "an event while a graph is captured"
        with self._lock:
            self.log.append("event")
            event = _StandInEvent(self, self._busy)
            self._waiting.add(event)
            self._busy = set()
            return event

    def is_in_use(self, block: Block) -> bool:
        """Whether a copy from or to a block may still be under way."""
        with self._lock:
            copied = self._busy.union(*(event.copied for event in self._waiting))
        return any(block.address <= address < block.address + block.nbytes for address in copied)

    def passed(self, event: "_StandInEvent") -> None:
        """An event was waited for: so was all that came before it."""
        assert not self.is_capturing, "a wait while a graph is captured"
        with self._lock:
            self.flush()
            self._waiting.discard(event)

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        with self._memory_lock:
            self.is_capturing = True
            try:
                yield
            finally:
                self.is_capturing = False

    def end_capture(self) -> None:
        self.ended_captures += 1


class _StandInEvent:
    def __init__(self, stream: StandInStream, copied: set[int]) -> None:
        self._stream = stream
        self.copied = copied  # addresses

    def wait(self) -> None:
        assert self._stream.done.wait(60)
        self._stream.passed(self)


class StandInSession(Session):
    """ONNX Runtime on the CPU, its runs in the order of the stand-in's stream.

    Attributes:
        failures: raised by the next runs, one each.
        graphs: the graph of each run.
    """

    def __init__(
        self,
        raw: Session,
        stream: StandInStream,
        no_graphs: str | None = None,
        host_inputs: Sequence[str] = (),
    ) -> None:
        self._told_host_inputs = host_inputs
        super().__init__(raw._runtime, raw.raw, stream, no_graphs)
        self.standin = stream
        self.failures: list[BaseException] = []
        self.graphs: list[int] = []
        self.gate = threading.Event()  # runs wait until it is set
        self.gate.set()

    def _find_host_inputs(self) -> Iterator[str]:
        yield from self._told_host_inputs

    def create_binding(self) -> Any:
        return _StandInBinding(super().create_binding(), self.host_inputs)

    def create_options(self, graph: int = -1, *, synchronize: bool = False) -> Any:
        self.asked_to_synchronize = synchronize
        return super().create_options(graph, synchronize=synchronize)

    def run(self, binding: Any, options: Any) -> None:
        assert self.gate.wait(60)
        self.standin.flush()
        self.standin.log.append("run")
        self.graphs.append(int(options.get_run_config_entry("gpu_graph_id")))
        if self.failures:
            raise self.failures.pop(0)
        super().run(binding.raw, options)


class _StandInBinding:
    """ONNX Runtime's binding, which finds on the host what is bound on the stand-in.

    As the real one, it copies what the model reads on the host at the moment when it is bound, if
    it is bound on the device.
    """

    def __init__(self, raw: Any, host_inputs: Collection[str]) -> None:
        self.raw = raw
        self.get_outputs = raw.get_outputs
        self.clear_binding_outputs = raw.clear_binding_outputs
        self._host_inputs = host_inputs
        self._copies: list[Block] = []

    def bind_input(
        self, name: str, device: str, number: int, code: int, shape: Any, address: int
    ) -> None:
        if name in self._host_inputs and device == StandInStream.name:
            nbytes = Tensor(BY_CODE[code], tuple(shape), address, None).nbytes
            copy = memory.allocate(nbytes)
            ctypes.memmove(copy.address, address, nbytes)
            self._copies.append(copy)
            address = copy.address
        self.raw.bind_input(name, "cpu", number, code, shape, address)

    def bind_output(self, name: str, device: str, number: int, *bound: Any) -> None:
        assert device == StandInStream.name
        self.raw.bind_output(name, "cpu", number, *bound)


def load_on_stand_in(
    file: Path, no_graphs: str | None = None, host_inputs: Sequence[str] = (), **settings: Any
) -> tuple[Model, StandInStream, StandInSession]:
    """A model that runs through the code for GPUs."""
    chosen = replace(Settings(model=file, provider="cpu"), **settings)
    stream = StandInStream()
    session = StandInSession(create_session(chosen), stream, no_graphs, host_inputs)
    return Model(session, chosen), stream, session
