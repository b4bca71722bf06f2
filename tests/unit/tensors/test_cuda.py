"""cuda.py as far as it goes without a driver: what is asked of CuPy, and how it is wrapped."""

import gc
import sys
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from gpux.errors import ConfigurationError, RuntimeMissingError
from gpux.tensors import cuda
from gpux.tensors.cuda import CudaStream, as_cupy, load_cupy
from gpux.tensors.memory import PINNED, Device, Tensor, on_gpu
from gpux.tensors.signature import BY_NAME


class FakeCupy:
    """CuPy as far as CudaStream knows it, and what was asked of it."""

    def __init__(self, gpus: int = 2) -> None:
        self.asked: list[tuple[Any, ...]] = []
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
                fake.asked.append((kind, nbytes, *flags, fake.current))
                if fake.is_full:
                    raise CUDARuntimeError(2)
                self.array = numpy.zeros(nbytes + 256, numpy.uint8)
                self.ptr = -(-self.array.ctypes.data // 256) * 256

            def __del__(self) -> None:
                fake.freed += 1
                fake.freed_while_capturing += fake.capture is not None

        class Event:
            def __init__(self, **options: bool) -> None:
                fake.asked.append(("event", options, fake.current))

            def record(self, stream: Any) -> None:
                fake.asked.append(("record", stream.ptr))

            def synchronize(self) -> None:
                fake.asked.append(("synchronize",))

        def stream(**options: bool) -> Any:
            fake.asked.append(("stream", options, fake.current))
            return SimpleNamespace(ptr=0xABC)

        def end_capture(address: int) -> int:
            fake.asked.append(("end capture", address))
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
                getDeviceProperties=lambda index: {"name": f"GPU number {index}".encode()},
                hostAllocPortable=1,
                memcpyAsync=lambda *call: self.asked.append(("memcpyAsync", *call)),
                memGetInfo=lambda: (3, 4 + self.current),
                streamEndCapture=end_capture,
                graphDestroy=lambda graph: self.asked.append(("destroy", graph)),
            ),
        )


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    fake = FakeCupy()
    monkeypatch.setattr(cuda, "load_cupy", lambda: fake)
    return fake


def test_the_stream_waits_for_no_other_and_belongs_to_its_gpu(cupy: FakeCupy) -> None:
    stream = CudaStream(1)
    assert cupy.asked == [("stream", {"non_blocking": True}, 1)]
    assert (stream.name, stream.device, stream.address) == ("cuda", Device(2, 1), 0xABC)
    assert stream.gpu_name == "GPU number 1"
    assert stream.memory_bytes() == (3, 5)
    assert cupy.current == 0
    stream.adopt()
    assert cupy.current == 1


def test_memory_is_that_of_the_gpu(cupy: FakeCupy) -> None:
    stream = CudaStream(1)
    on_device, pinned = stream.allocate(1000), stream.allocate_pinned(2000)
    assert cupy.asked[1:] == [("device", 1000, 1), ("pinned", 2000, 1, 1)]
    assert (on_device.nbytes, on_device.device) == (1000, on_gpu(1))
    assert (pinned.nbytes, pinned.device) == (2000, PINNED)
    pinned.array(BY_NAME["uint8"], (2000,))[:] = 7
    with pytest.raises(ValueError, match="lies on a GPU"):
        on_device.array(BY_NAME["uint8"], (1000,))
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
    assert cupy.asked[1:] == [
        ("memcpyAsync", 10, 20, 30, 1, 0xABC),
        ("memcpyAsync", 40, 50, 60, 2, 0xABC),
    ]


def test_an_event_is_behind_what_was_put_on_the_stream(cupy: FakeCupy) -> None:
    stream = CudaStream(1)
    event = stream.record()
    # Without a clock, which would cost each request.
    assert cupy.asked[1:] == [("event", {"disable_timing": True}, 1), ("record", 0xABC)]
    event.wait()
    assert cupy.asked[-1] == ("synchronize",)


def test_nothing_is_allocated_or_freed_while_a_graph_is_captured(cupy: FakeCupy) -> None:
    stream = CudaStream(0)
    doomed = [stream.allocate(10)]
    begun = threading.Event()

    def disturb() -> None:
        begun.set()
        doomed.clear()
        stream.allocate_pinned(10)

    other = threading.Thread(target=disturb)
    with stream.capturing():
        cupy.capture = "under way"
        assert not gc.isenabled()
        other.start()
        assert begun.wait(60)
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
    CudaStream(0).end_capture()  # CUDA has given it up already
    assert cupy.asked[-1] == ("end capture", 0xABC)
    cupy.capture = "under way"
    CudaStream(0).end_capture()
    assert cupy.asked[-2:] == [("end capture", 0xABC), ("destroy", 0xF00)]


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


@pytest.mark.parametrize("name", ["float32", "float16", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_cupy_sees_the_tensor_where_it_lies(name: str, shape: tuple[int, ...]) -> None:
    pytest.importorskip("cupy", reason="CuPy is not installed")
    memory = numpy.zeros(64, numpy.uint8)
    tensor = Tensor(BY_NAME[name], shape, int(memory.ctypes.data), memory, on_gpu(0))
    array = as_cupy(tensor)
    assert array.data.ptr == memory.ctypes.data
    assert array.shape == shape
    assert array.dtype == numpy.dtype(name)
    assert array.flags.c_contiguous


def test_cupy_keeps_the_memory_alive() -> None:
    pytest.importorskip("cupy", reason="CuPy is not installed")

    class Owner:
        pass

    owner = Owner()
    gone = weakref.ref(owner)
    array = as_cupy(Tensor(BY_NAME["float32"], (4,), 4096, owner, on_gpu(0)))
    part = array[1:]
    del owner, array
    gc.collect()
    assert gone() is not None
    del part
    gc.collect()
    assert gone() is None


def test_without_a_driver_the_stream_refuses() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        with pytest.raises(ConfigurationError, match="no GPU can be used: cudaError"):
            CudaStream(0)
    else:
        pytest.skip("this machine has a GPU")
