"""cuda: what needs no driver: the calls to CuPy, and how they are wrapped."""

import gc
import sys
import threading
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from gpux.errors import ConfigurationError, RuntimeMissingError
from gpux.tensors import cuda
from gpux.tensors.cuda import CudaStream, load_cupy
from gpux.tensors.memory import PINNED, Device, array_of, on_gpu
from gpux.tensors.signature import BY_NAME


class FakeCupy:
    """The part of CuPy that CudaStream uses; records the calls."""

    def __init__(self, gpus: int = 2) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.current = 0
        self.is_full = False
        self.capture: str | None = None
        self.freed = 0
        self.freed_while_capturing = 0
        fake = self

        class CUDARuntimeError(RuntimeError):
            def __init__(self, status: int) -> None:
                super().__init__(f"CUDA error {status}")
                self.status = status

        class Device:
            def __init__(self, index: int) -> None:
                self.index = index

            def __enter__(self) -> None:
                self.before, fake.current = fake.current, self.index

            def __exit__(self, *error: object) -> None:
                fake.current = self.before

            def use(self) -> None:
                fake.current = self.index

        class Memory:
            def __init__(self, kind: str, nbytes: int, *flags: int) -> None:
                fake.calls.append((kind, nbytes, *flags, fake.current))
                if fake.is_full:
                    raise CUDARuntimeError(2)
                self.array = numpy.zeros(nbytes + 256, numpy.uint8)
                self.ptr = -(-self.array.ctypes.data // 256) * 256

            def __del__(self) -> None:
                fake.freed += 1
                fake.freed_while_capturing += fake.capture is not None

        class Event:
            def __init__(self, **options: bool) -> None:
                fake.calls.append(("event", options, fake.current))

            def record(self, stream: Any) -> None:
                fake.calls.append(("record", stream.ptr))

            def synchronize(self) -> None:
                fake.calls.append(("synchronize",))

        def stream(**options: bool) -> Any:
            fake.calls.append(("stream", options, fake.current))
            return SimpleNamespace(ptr=0xABC)

        def end_capture(address: int) -> int:
            fake.calls.append(("end capture", address))
            if fake.capture is None:
                raise CUDARuntimeError(901)
            return 0xF00

        def device_count() -> int:
            if gpus < 0:
                raise CUDARuntimeError(35)
            return gpus

        self.cuda = SimpleNamespace(
            Device=Device,
            Event=Event,
            Memory=lambda nbytes: Memory("device", nbytes),
            PinnedMemory=lambda nbytes, flags: Memory("pinned", nbytes, flags),
            Stream=stream,
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                getDeviceCount=device_count,
                hostAllocPortable=1,
                memcpyAsync=lambda *call: self.calls.append(("memcpyAsync", *call)),
                memGetInfo=lambda: (3, 4 + self.current),
                streamEndCapture=end_capture,
                graphDestroy=lambda graph: self.calls.append(("destroy", graph)),
            ),
        )


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    fake = FakeCupy()
    monkeypatch.setattr(cuda, "load_cupy", lambda: fake)
    return fake


def test_the_stream_waits_for_no_other_and_belongs_to_its_gpu(cupy: FakeCupy) -> None:
    stream = CudaStream(1)
    assert cupy.calls == [("stream", {"non_blocking": True}, 1)]
    assert (stream.name, stream.device, stream.address) == ("cuda", Device(2, 1), 0xABC)
    assert stream.memory_bytes() == (3, 5)
    assert cupy.current == 0
    stream.adopt()
    assert cupy.current == 1


def test_memory_is_that_of_the_gpu(cupy: FakeCupy) -> None:
    stream = CudaStream(1)
    on_device, pinned = stream.allocate(1000), stream.allocate_pinned(2000)
    assert cupy.calls[1:] == [("device", 1000, 1), ("pinned", 2000, 1, 1)]
    assert (on_device.nbytes, on_device.device) == (1000, on_gpu(1))
    assert (pinned.nbytes, pinned.device) == (2000, PINNED)
    array_of(pinned, BY_NAME["uint8"], (2000,))[:] = 7
    with pytest.raises(AttributeError, match="lies on a GPU"):
        _ = on_device.__array_interface__
    del on_device, pinned
    assert cupy.freed == 2


def test_a_full_gpu_is_a_memory_error(cupy: FakeCupy) -> None:
    stream = CudaStream(0)
    cupy.is_full = True
    with pytest.raises(MemoryError, match="the GPU's memory is full"):
        stream.allocate(1)
    with pytest.raises(MemoryError, match="page-locked memory is full"):
        stream.allocate_pinned(1)


def test_copies_go_to_the_stream_in_the_right_direction(cupy: FakeCupy) -> None:
    stream = CudaStream(0)
    stream.copy_in(10, 20, 30)
    stream.copy_out(40, 50, 60)
    # cudaMemcpyHostToDevice is 1, cudaMemcpyDeviceToHost 2.
    assert cupy.calls[1:] == [
        ("memcpyAsync", 10, 20, 30, 1, 0xABC),
        ("memcpyAsync", 40, 50, 60, 2, 0xABC),
    ]


def test_an_event_is_behind_what_was_put_on_the_stream(cupy: FakeCupy) -> None:
    stream = CudaStream(1)
    event = stream.record()
    # Without timing, which would slow each request down.
    assert cupy.calls[1:] == [("event", {"disable_timing": True}, 1), ("record", 0xABC)]
    event.wait()
    assert cupy.calls[-1] == ("synchronize",)


def test_nothing_is_allocated_or_freed_while_a_graph_is_captured(cupy: FakeCupy) -> None:
    stream = CudaStream(0)
    blocks = [stream.allocate(10)]
    has_started = threading.Event()

    def free_and_allocate() -> None:
        has_started.set()
        blocks.clear()
        stream.allocate_pinned(10)

    other = threading.Thread(target=free_and_allocate)
    with stream.capturing():
        cupy.capture = "under way"
        assert not gc.isenabled()
        other.start()
        assert has_started.wait(60)
        other.join(0.1)
        assert other.is_alive(), "it has to wait"
        assert cupy.freed == 0
        cupy.capture = None
    other.join(60)
    assert not other.is_alive()
    assert gc.isenabled()
    assert cupy.freed == 2
    assert cupy.freed_while_capturing == 0


def test_the_collector_stays_off_if_it_was_off(cupy: FakeCupy) -> None:
    del cupy
    gc.disable()
    try:
        with CudaStream(0).capturing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_lost_capture_is_ended(cupy: FakeCupy) -> None:
    CudaStream(0).end_capture()  # CUDA has already invalidated it
    assert cupy.calls[-1] == ("end capture", 0xABC)
    cupy.capture = "under way"
    CudaStream(0).end_capture()
    assert cupy.calls[-2:] == [("end capture", 0xABC), ("destroy", 0xF00)]


@pytest.mark.parametrize(
    ("gpus", "said"),
    [(-1, "no GPU can be used: CUDA error 35"), (1, "there is no GPU 1: this machine has 1")],
)
def test_no_gpu_is_said_clearly(monkeypatch: pytest.MonkeyPatch, gpus: int, said: str) -> None:
    monkeypatch.setattr(cuda, "load_cupy", lambda: FakeCupy(gpus))
    with pytest.raises(ConfigurationError, match=said):
        CudaStream(1)


def test_no_cupy_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeMissingError, match=r"CuPy .*pip install 'onnxruntime-gpu"):
        load_cupy()


# The real CuPy, without a driver.


def test_without_a_driver_the_stream_refuses() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        with pytest.raises(ConfigurationError, match="no GPU can be used: cudaError"):
            CudaStream(0)
    else:
        pytest.skip("this machine has a GPU")
