"""memory: aligned blocks, the pool's reuse, limits and thread safety, and tensors."""

import ctypes
import platform
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpux.tensors.memory import (
    ALIGNMENT_BYTES,
    PINNED,
    Block,
    Device,
    Pool,
    PoolUsage,
    Tensor,
    allocate,
    block_size,
    on_gpu,
)
from gpux.tensors.signature import BY_NAME, ELEMENT_TYPES


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 4096, 4097, 10**6])
def test_a_block_is_aligned_and_all_its_bytes_can_be_written(nbytes: int) -> None:
    blocks = [allocate(nbytes) for _ in range(20)]
    for number, block in enumerate(blocks):
        assert block.nbytes == nbytes
        assert block.address % 64 == 0
        ctypes.memset(block.address, number, nbytes)
    # No two overlap.
    for number, block in enumerate(blocks):
        assert ctypes.string_at(block.address, nbytes) == bytes([number]) * nbytes


def test_the_alignment_is_that_of_a_cache_line() -> None:
    assert ALIGNMENT_BYTES == 64


@pytest.mark.parametrize("name", [element.name for element in ELEMENT_TYPES if element.numpy])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0, 3), (1, 1, 4)])
def test_an_array_of_a_block_is_its_front(name: str, shape: tuple[int, ...]) -> None:
    element = BY_NAME[name]
    block = allocate(256)
    array = block.array(element, shape)
    assert array.shape == shape
    assert array.dtype == numpy.dtype(element.numpy)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    values = numpy.arange(array.size).reshape(shape).astype(element.numpy)
    array[...] = values
    assert ctypes.string_at(block.address, array.nbytes) == values.tobytes()
    if array.size:
        assert array.ctypes.data == block.address


def test_an_array_of_the_whole_block_fits_exactly() -> None:
    block = allocate(4096)
    assert block.array(BY_NAME["float32"], (1024,)).nbytes == 4096
    with pytest.raises(ValueError, match="reshape"):
        block.array(BY_NAME["float32"], (4096,))


def test_an_array_keeps_the_memory_alive() -> None:
    array = allocate(4096).array(BY_NAME["uint8"], (4096,))
    array[:] = 7
    others = [allocate(4096) for _ in range(100)]
    for other in others:
        ctypes.memset(other.address, 1, 4096)
    assert (array == 7).all()


def test_memory_that_nobody_holds_is_freed() -> None:
    pool = Pool()
    block = pool.take(10_000)
    array = block.array(BY_NAME["uint8"], (1,))
    memory = weakref.ref(block)
    del block
    assert memory() is not None, "the array needs it"
    del array
    assert memory() is None
    assert pool.idle_bytes == 0


def test_a_block_on_a_gpu_is_no_array() -> None:
    block = Block(object(), 4096, 64, on_gpu(0))
    with pytest.raises(ValueError, match="lies on a GPU"):
        block.array(BY_NAME["uint8"], (64,))


# The pool.


@given(st.integers(0, 2**22))
def test_a_block_is_as_large_as_asked_and_hardly_larger(nbytes: int) -> None:
    block = Pool().take(nbytes)
    assert nbytes <= block.nbytes <= max(nbytes * 5 / 4, 4096)
    assert block.nbytes == block_size(nbytes) == block_size(block.nbytes)
    assert block.address % 64 == 0


def test_there_are_four_sizes_to_a_power_of_two() -> None:
    sizes = sorted({block_size(nbytes) for nbytes in range(2**14 + 1)})
    assert sizes == [4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384]


@pytest.mark.parametrize("power", range(12, 40))
def test_a_power_of_two_is_not_rounded_up(power: int) -> None:
    assert block_size(2**power) == 2**power
    assert block_size(2**power + 1) == 2**power + 2**power // 4


def test_a_block_that_came_back_is_lent_again() -> None:
    pool = Pool()
    first, second = pool.take(7500), pool.take(7500)
    assert first is not second
    assert first.address != second.address
    pool.give(first)
    pool.give(second)
    assert pool.idle_bytes == 2 * 8192
    again = {id(pool.take(8000)), id(pool.take(7169))}
    assert again == {id(first), id(second)}
    assert pool.idle_bytes == 0
    assert id(pool.take(8000)) not in again


def test_a_block_of_another_size_is_not_lent() -> None:
    pool = Pool()
    small = pool.take(5000)
    pool.give(small)
    large = pool.take(9000)
    assert large.nbytes == 10240
    assert pool.idle_bytes == small.nbytes


def test_idle_blocks_stay_within_their_limit() -> None:
    pool = Pool(max_idle_bytes=3 * 4096)
    blocks = [pool.take(4096) for _ in range(5)]
    for idle, block in enumerate(blocks, 1):
        pool.give(block)
        assert pool.idle_bytes == min(idle, 3) * 4096
    taken = [pool.take(4096) for _ in range(5)]
    assert len({id(block) for block in taken} & {id(block) for block in blocks}) == 3


def test_what_was_not_asked_for_longest_is_freed_first() -> None:
    pool = Pool(max_idle_bytes=3 * 8192)
    old, used, new = pool.take(4096), pool.take(8192), pool.take(12288)
    for block in (old, used):
        pool.give(block)
    pool.give(pool.take(4096))  # 8192 is now the least recently used size
    pool.give(new)
    assert pool.idle_bytes == 4096 + 8192 + 12288
    pool.give(pool.take(6144))
    assert pool.idle_bytes == 4096 + 12288 + 6144
    assert pool.take(4096) is old
    assert pool.take(12288) is new


def test_a_block_over_the_limit_moves_no_other_out() -> None:
    pool = Pool(max_idle_bytes=10_000)
    small = pool.take(4096)
    pool.give(small)
    pool.give(pool.take(20_000))
    assert pool.idle_bytes == 4096
    assert pool.take(4096) is small


def test_a_pool_without_room_for_idle_blocks_keeps_none() -> None:
    pool = Pool(max_idle_bytes=0)
    pool.give(pool.take(1))
    assert pool.idle_bytes == 0
    assert pool.take(1).nbytes == 4096


def test_the_figures_of_a_pool() -> None:
    pool = Pool()
    blocks = [pool.take(4096), pool.take(8192)]
    assert pool.usage == PoolUsage(12288, 0, 2)
    pool.give(blocks[0])
    assert pool.usage == PoolUsage(8192, 4096, 2)
    pool.take(4096)
    assert pool.usage == PoolUsage(12288, 0, 2)
    pool.give(blocks[1])
    pool.free_idle()
    assert pool.usage == PoolUsage(4096, 0, 2)


def test_a_block_that_is_too_large_is_a_memory_error() -> None:
    pool = Pool()
    with pytest.raises(MemoryError):
        pool.take(2**61)
    # The pool still works.
    assert pool.take(1).nbytes == 4096


def test_idle_blocks_make_room_for_one_that_is_needed() -> None:
    room = 20_000
    created: list[weakref.ref[Block]] = []

    def make(nbytes: int) -> Block:
        if sum(block.nbytes for block in (each() for each in created) if block) + nbytes > room:
            raise MemoryError
        block = allocate(nbytes)
        created.append(weakref.ref(block))
        return block

    pool = Pool(make)
    blocks = [pool.take(4096) for _ in range(4)]
    while blocks:
        pool.give(blocks.pop())
    large = pool.take(16384)
    assert pool.usage == PoolUsage(16384, 0, 5)
    with pytest.raises(MemoryError):
        pool.take(4096)
    pool.give(large)


@pytest.mark.usefixtures("eager_threads")
def test_no_two_threads_have_the_same_block() -> None:
    pool = Pool(max_idle_bytes=10 * 4096)
    start = Barrier(8)

    def work(thread: int) -> int:
        start.wait(timeout=30)
        turns = 0
        for turn in range(300):
            mark = bytes([thread * 16 + turn % 16])
            blocks = [pool.take(size) for size in (100, 4096, 5000)]
            for block in blocks:
                ctypes.memset(block.address, mark[0], 100)
            for block in blocks:
                assert ctypes.string_at(block.address, 100) == mark * 100
                pool.give(block)
            assert 0 <= pool.idle_bytes <= 10 * 4096
            turns += 1
        return turns

    with ThreadPoolExecutor(8) as executor:
        # Errors of the threads are raised here.
        assert list(executor.map(work, range(8))) == [300] * 8
    # The counter matches the idle blocks.
    idle = pool.idle_bytes
    taken: list[Block] = []
    while pool.idle_bytes:
        before = pool.idle_bytes
        taken += [pool.take(size) for size in (4096, 5120)]
        assert pool.idle_bytes < before
    assert len({block.address for block in taken}) == len(taken)
    assert idle <= sum(block.nbytes for block in taken)


# Tensors.


def tensor(device: Device = PINNED) -> tuple[Tensor, Block]:
    block = allocate(4096)
    block.array(BY_NAME["float32"], (2, 3))[...] = [[1, 2, 3], [4, 5, 6]]
    return Tensor(BY_NAME["float32"], (2, 3), block.address, block, device), block


@pytest.mark.parametrize("device", [Device(1), PINNED])
def test_other_libraries_see_a_tensor_without_a_copy(device: Device) -> None:
    exported, block = tensor(device)
    assert exported.nbytes == 24
    assert exported.__dlpack_device__() == (device.device_type, 0)
    array = numpy.from_dlpack(exported)
    assert array.ctypes.data == block.address
    assert array.tolist() == [[1, 2, 3], [4, 5, 6]]
    reference = weakref.ref(exported)
    del exported
    assert reference() is not None, "the array needs it"
    del array
    assert reference() is None


def test_a_tensor_is_not_copied_nor_moved() -> None:
    exported, _ = tensor()
    for options in ({"copy": True}, {"dl_device": (1, 0)}, {"dl_device": (2, 0)}):
        with pytest.raises(BufferError, match="only where it lies"):
            exported.__dlpack__(**options)
    assert exported.__dlpack__(dl_device=(3, 0), copy=False)


_COUNT_ARENAS = """
import ctypes, re, sys, threading
from gpux.tensors.memory import use_one_arena
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
if sys.argv[1] == "one":
    use_one_arena()
all_are_here = threading.Barrier(8)
def work():
    libc.malloc(1000)
    all_are_here.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
stream = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, stream)
libc.fclose(stream)
print(open(sys.argv[2]).read().count("<heap nr="))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is glibc's")
def test_all_threads_use_one_arena(tmp_path: Path) -> None:
    def arenas(mode: str) -> int:
        command = [sys.executable, "-c", _COUNT_ARENAS, mode, str(tmp_path / "info")]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    assert arenas("one") == 1
    assert arenas("many") > 1
