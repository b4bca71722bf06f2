"""A fake GPU: its memory is the host's, its stream an ordered list of copies.

The code runs the same lines as for a real GPU, with ONNX Runtime on the CPU. What a stream may
delay, this one delays as long as possible: a copy out is executed when a run or a copy in enters
the stream, or when its event is waited for. Memory that is read, returned or freed too early has
other contents, or fails an assertion.
"""

import contextlib
import ctypes
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy

from gpux import _dlpack
from gpux._fastpath import Block
from gpux.config.settings import Settings
from gpux.execution.session import Session, create_session
from gpux.model import Model
from gpux.tensors import memory
from gpux.tensors.memory import PINNED, Device, Tensor
from gpux.tensors.signature import BY_CODE, BY_NAME

_POISON = 0xA5


class FakeStream:
    """A stream of the fake GPU. Thread-safe.

    Attributes:
        log: operations in stream order: `in BYTES`, `out BYTES`, `run`, `event`.
        full: while true, allocations fail.
        max_allocation_bytes: larger allocations fail, too.
    """

    name = "stand-in"
    device = Device(2, 0)  # of its memory, as the code sees it
    address = 0x5EED

    def __init__(self) -> None:
        self.log: list[str] = []
        self.full = False
        self.max_allocation_bytes = 2**40
        self.adopted: list[str] = []
        self.is_capturing = False
        self.ended_captures = 0
        self.done = threading.Event()  # the device is idle; until it is set, waits block
        self.done.set()
        self._lock = threading.RLock()  # guards all the lists
        self._memory_lock = threading.RLock()  # guards allocations; held during captures
        self._delayed: list[tuple[int, int, int]] = []  # copies out: target, source, bytes
        self._busy: set[int] = set()  # addresses used by copies since the last event
        self._waiting: set[_FakeEvent] = set()

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
        if self.full or nbytes > self.max_allocation_bytes:
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
        """Executes the delayed copies."""
        with self._lock:
            for target, source, nbytes in self._delayed:
                ctypes.memmove(target, source, nbytes)
            self._delayed.clear()

    def record(self) -> "_FakeEvent":
        assert not self.is_capturing, "an event while a graph is captured"
        with self._lock:
            self.log.append("event")
            event = _FakeEvent(self, self._busy)
            self._waiting.add(event)
            self._busy = set()
            return event

    def is_in_use(self, block: Block) -> bool:
        """Whether a copy from or to a block may still be in progress."""
        with self._lock:
            copied = self._busy.union(*(event.copied for event in self._waiting))
        return any(block.address <= address < block.address + block.nbytes for address in copied)

    def complete(self, event: "_FakeEvent") -> None:
        """An event was waited for: everything before it is complete."""
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


class _FakeEvent:
    def __init__(self, stream: FakeStream, copied: set[int]) -> None:
        self._stream = stream
        self.copied = copied  # addresses

    def wait(self) -> None:
        assert self._stream.done.wait(60)
        self._stream.complete(self)


class FakeSession(Session):
    """ONNX Runtime on the CPU, with its runs in the order of the fake stream.

    Attributes:
        failures: raised by the next runs, one each.
        graphs: the graph id of each run.
    """

    def __init__(
        self,
        raw: Session,
        stream: FakeStream,
        no_graphs: str | None = None,
        host_inputs: Sequence[str] = (),
    ) -> None:
        self._host_input_names = host_inputs
        super().__init__(raw.native, stream, no_graphs)
        self.fake_stream = stream
        self.failures: list[BaseException] = []
        self.graphs: list[int] = []
        self.gate = threading.Event()  # runs wait until it is set
        self.gate.set()

    def _find_host_inputs(self) -> Iterator[str]:
        yield from self._host_input_names

    def create_binding(self) -> Any:
        return _FakeBinding(super().create_binding(), self.host_inputs)

    def create_options(self, graph: int = -1, *, synchronize: bool = False) -> Any:
        self.synchronize_requested = synchronize
        return super().create_options(graph, synchronize=synchronize)

    def run(self, binding: Any, options: Any) -> None:
        assert self.gate.wait(60)
        self.fake_stream.flush()
        self.fake_stream.log.append("run")
        self.graphs.append(int(options.entries["gpu_graph_id"]))
        if self.failures:
            raise self.failures.pop(0)
        super().run(binding.raw, options)


class _FakeBinding:
    """ONNX Runtime's IOBinding, which binds memory of the fake GPU as host memory.

    Like the real one, it copies an input that the model reads on the host when it is bound, if it
    is bound on the device.
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
        if name in self._host_inputs and device == FakeStream.name:
            nbytes = Tensor(BY_CODE[code], tuple(shape), address, None).nbytes
            copy = memory.allocate(nbytes)
            ctypes.memmove(copy.address, address, nbytes)
            self._copies.append(copy)
            address = copy.address
        self.raw.bind_input(name, "cpu", number, code, shape, address)

    def bind_output(self, name: str, device: str, number: int, *bound: Any) -> None:
        assert device == FakeStream.name
        self.raw.bind_output(name, "cpu", number, *bound)


class DeviceTensor:
    """A tensor of another library, aligned to 64 bytes, that claims to be on the fake GPU.

    Attributes:
        streams: the `stream` of each export.
        host_exports: the number of exports requested on the host.
    """

    def __init__(self, array: Any, index: int = 0) -> None:
        buffer = numpy.empty(array.nbytes + 64, numpy.uint8)
        offset = -buffer.ctypes.data % 64
        self.array = buffer[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
        self.array[...] = array
        self.index = index
        self.streams: list[object] = []
        self.host_exports = 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.index)

    def __dlpack__(self, **options: Any) -> object:
        self.streams.append(options.get("stream"))
        code = BY_NAME[self.array.dtype.name].code
        is_for_host = options.get("dl_device") == (1, 0)
        self.host_exports += is_for_host
        device = (1, 0) if is_for_host else self.__dlpack_device__()
        return _dlpack.capsule(
            self, int(self.array.ctypes.data), code, self.array.shape, device, True
        )


def load_on_fake_gpu(
    file: Path, no_graphs: str | None = None, host_inputs: Sequence[str] = (), **settings: Any
) -> tuple[Model, FakeStream, FakeSession]:
    """Loads a model that runs through the code for GPUs."""
    chosen = replace(Settings(model=file, provider="cpu"), **settings)
    stream = FakeStream()
    session = FakeSession(create_session(chosen), stream, no_graphs, host_inputs)
    return Model(session, chosen), stream, session
