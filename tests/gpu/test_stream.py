"""CudaStream on a real GPU: memory, copies, events, captures."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest

from gpux._fastpath import Block
from gpux.errors import ConfigurationError
from gpux.tensors.cuda import CudaStream, load_cupy
from gpux.tensors.memory import ALIGNMENT_BYTES, PINNED, array_of, on_gpu
from gpux.tensors.signature import BY_NAME

BYTES = BY_NAME["uint8"]


def round_trip(stream: CudaStream, numbers: numpy.ndarray) -> numpy.ndarray:
    """Copies bytes to the GPU and back."""
    nbytes = numbers.nbytes
    source, target = stream.allocate_pinned(nbytes), stream.allocate_pinned(nbytes)
    device = stream.allocate(nbytes)
    array_of(source, BYTES, numbers.shape)[:] = numbers
    array_of(target, BYTES, numbers.shape)[:] = 0xA5
    stream.copy_in(device.address, source.address, nbytes)
    stream.copy_out(target.address, device.address, nbytes)
    stream.record().wait()
    return array_of(target, BYTES, numbers.shape).copy()


@pytest.mark.parametrize("nbytes", [1, 63, 64, 4097, 2**20 + 3, 2**26])
def test_copies_are_exact_both_ways(stream: CudaStream, nbytes: int) -> None:
    numbers = numpy.random.default_rng(nbytes).integers(0, 256, nbytes, numpy.uint8)
    assert (round_trip(stream, numbers) == numbers).all()


def test_copies_keep_their_order(stream: CudaStream) -> None:
    nbytes = 2**22
    device = stream.allocate(nbytes)
    blocks = [stream.allocate_pinned(nbytes) for _ in range(8)]
    copies = [stream.allocate_pinned(nbytes) for _ in blocks]
    for number, (block, copy) in enumerate(zip(blocks, copies, strict=True)):
        array_of(block, BYTES, (nbytes,))[:] = number
        stream.copy_in(device.address, block.address, nbytes)
        stream.copy_out(copy.address, device.address, nbytes)
    stream.record().wait()
    for number, copy in enumerate(copies):
        assert (array_of(copy, BYTES, (nbytes,)) == number).all()


def test_blocks_are_what_they_say(stream: CudaStream) -> None:
    device, pinned = stream.allocate(1000), stream.allocate_pinned(1000)
    assert device.device == on_gpu(0)
    assert pinned.device == PINNED
    for block in (device, pinned):
        assert block.nbytes == 1000
        assert block.address % ALIGNMENT_BYTES == 0
    attributes = load_cupy().cuda.runtime.pointerGetAttributes
    # cudaMemoryTypeHost and cudaMemoryTypeDevice.
    assert attributes(pinned.address).type == 1
    assert attributes(device.address).type == 2
    assert attributes(device.address).device == 0


def test_memory_goes_back_to_the_gpu(stream: CudaStream) -> None:
    free, total = stream.memory_bytes()
    assert 0 < free <= total
    block: Block | None = stream.allocate(2**28)
    assert stream.memory_bytes()[0] <= free - 2**28
    block = None
    gc.collect()
    assert block is None
    assert stream.memory_bytes()[0] >= free - 2**24


def test_a_full_gpu_is_a_memory_error_and_no_more(stream: CudaStream) -> None:
    for _ in range(3):
        with pytest.raises(MemoryError, match="the GPU's memory is full"):
            stream.allocate(2**45)
        numbers = numpy.arange(200, dtype=numpy.uint8)
        assert (round_trip(stream, numbers) == numbers).all()


def test_events_are_lent_again(stream: CudaStream) -> None:
    first = stream.record()
    first.wait()
    assert stream.record() is first


def test_a_gpu_that_is_not_there() -> None:
    count = load_cupy().cuda.runtime.getDeviceCount()
    with pytest.raises(ConfigurationError, match=f"no GPU 99: this machine has {count}"):
        CudaStream(99)


def test_many_threads_use_one_stream(stream: CudaStream) -> None:
    def work(thread: int) -> bool:
        stream.adopt()
        random = numpy.random.default_rng(thread)
        return all(
            (round_trip(stream, numbers) == numbers).all()
            for numbers in (random.integers(0, 256, 10_000, numpy.uint8) for _ in range(50))
        )

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_nobody_allocates_while_a_graph_is_captured(stream: CudaStream) -> None:
    """A cudaMalloc in any thread would invalidate the capture."""
    runtime = load_cupy().cuda.runtime
    source, device = stream.allocate_pinned(64), stream.allocate(64)
    blocks = [stream.allocate(64)]
    stream.record().wait()
    has_started = threading.Event()

    def allocate() -> None:
        stream.adopt()
        has_started.set()
        blocks.clear()
        blocks.append(stream.allocate(64))

    other = threading.Thread(target=allocate)
    with stream.capturing():
        runtime.streamBeginCapture(stream.address)
        other.start()
        assert has_started.wait(60)
        other.join(0.2)
        assert other.is_alive(), "it has to wait"
        stream.copy_in(device.address, source.address, 64)
        graph = runtime.streamEndCapture(stream.address)
    other.join(60)
    assert not other.is_alive()
    assert graph
    assert len(blocks) == 1


def test_a_capture_that_is_given_up_leaves_the_stream_in_order(stream: CudaStream) -> None:
    source, device = stream.allocate_pinned(64), stream.allocate(64)
    with stream.capturing():
        load_cupy().cuda.runtime.streamBeginCapture(stream.address)
        stream.copy_in(device.address, source.address, 64)
    stream.end_capture()
    numbers = numpy.arange(64, dtype=numpy.uint8)
    assert (round_trip(stream, numbers) == numbers).all()
    stream.end_capture()  # no capture is active
    assert (round_trip(stream, numbers) == numbers).all()
