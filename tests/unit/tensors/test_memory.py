"""Blocks and pools: alignment, reuse, limits and thread safety; and tensors in them."""

import ctypes
import platform
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpux._fastpath import Block, Pool
from gpux.tensors.memory import (
    ALIGNMENT_BYTES,
    HOST,
    PINNED,
    Device,
    Tensor,
    allocate,
    array_of,
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
    array = array_of(block, element, shape)
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
    assert array_of(block, BY_NAME["float32"], (1024,)).nbytes == 4096
    with pytest.raises(ValueError, match="reshape"):
        array_of(block, BY_NAME["float32"], (4096,))


def test_an_array_keeps_the_memory_alive() -> None:
    array = array_of(allocate(4096), BY_NAME["uint8"], (4096,))
    array[:] = 7
    others = [allocate(4096) for _ in range(100)]
    for other in others:
        ctypes.memset(other.address, 1, 4096)
    assert (array == 7).all()


def test_a_block_on_a_gpu_is_no_array() -> None:
    block = Block(object(), 4096, 64, on_gpu(0))
    with pytest.raises(AttributeError, match="lies on a GPU"):
        _ = block.__array_interface__


# The pool.


@given(st.integers(0, 2**22))
def test_a_block_is_as_large_as_asked_and_hardly_larger(nbytes: int) -> None:
    block = Pool().take(nbytes)
    assert nbytes <= block.nbytes <= max(nbytes * 5 / 4, 4096)
    assert Pool().take(block.nbytes).nbytes == block.nbytes
    assert block.address % 64 == 0
    assert block.device == HOST


def test_there_are_four_sizes_to_a_power_of_two() -> None:
    pool = Pool()
    sizes = sorted({pool.take(nbytes).nbytes for nbytes in range(2**14 + 1)})
    assert sizes == [4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384]


def test_a_block_belongs_to_whoever_refers_to_it() -> None:
    pool = Pool()
    block = pool.take(10_000)
    array = array_of(block, BY_NAME["uint8"], (1,))
    del block
    assert (pool.used_bytes, pool.idle_bytes) == (10_240, 0), "the array needs it"
    del array
    assert (pool.used_bytes, pool.idle_bytes) == (0, 10_240)


def test_a_block_outlives_its_pool() -> None:
    block = Pool().take(4096)
    array = array_of(block, BY_NAME["uint8"], (4096,))
    array[:] = 7
    del block
    assert (array == 7).all()


def test_a_block_that_came_back_is_taken_again() -> None:
    pool = Pool()
    blocks = [pool.take(7500), pool.take(7500)]
    addresses = {block.address for block in blocks}
    assert len(addresses) == 2
    blocks.clear()
    assert pool.idle_bytes == 2 * 8192
    blocks = [pool.take(8000), pool.take(7169)]
    assert {block.address for block in blocks} == addresses
    assert pool.idle_bytes == 0
    assert pool.take(8000).address not in addresses


def test_a_block_of_another_size_is_not_taken() -> None:
    pool = Pool()
    pool.take(5000)
    large = pool.take(9000)
    assert large.nbytes == 10240
    assert pool.idle_bytes == 5120


def test_idle_blocks_stay_within_their_limit() -> None:
    pool = Pool(max_idle_bytes=3 * 4096)
    blocks = [pool.take(4096) for _ in range(5)]
    addresses = {block.address for block in blocks}
    for idle in range(1, 6):
        blocks.pop()
        assert pool.idle_bytes == min(idle, 3) * 4096
    taken = [pool.take(4096) for _ in range(3)]
    assert {block.address for block in taken} < addresses
    assert pool.allocations == 5


def test_what_was_not_asked_for_longest_is_freed_first() -> None:
    pool = Pool(max_idle_bytes=3 * 8192)
    old, used, new = pool.take(4096), pool.take(8192), pool.take(12288)
    addresses = [block.address for block in (old, new)]
    del old, used
    pool.take(4096)  # 8192 is now the least recently used size
    del new
    assert pool.idle_bytes == 4096 + 8192 + 12288
    pool.take(6144)
    assert pool.idle_bytes == 4096 + 12288 + 6144
    kept = [pool.take(4096), pool.take(12288)]
    assert [block.address for block in kept] == addresses


def test_a_block_over_the_limit_moves_no_other_out() -> None:
    pool = Pool(max_idle_bytes=10_000)
    address = pool.take(4096).address
    pool.take(20_000)
    assert pool.idle_bytes == 4096
    assert pool.take(4096).address == address


def test_a_pool_without_room_for_idle_blocks_keeps_none() -> None:
    pool = Pool(max_idle_bytes=0)
    pool.take(1)
    assert pool.idle_bytes == 0
    assert pool.take(1).nbytes == 4096


def figures(pool: Pool) -> tuple[int, int, int]:
    return pool.used_bytes, pool.idle_bytes, pool.allocations


def test_the_figures_of_a_pool() -> None:
    pool = Pool()
    blocks = [pool.take(4096), pool.take(8192)]
    assert figures(pool) == (12288, 0, 2)
    del blocks[0]
    assert figures(pool) == (8192, 4096, 2)
    blocks.append(pool.take(4096))
    assert figures(pool) == (12288, 0, 2)
    del blocks[0]
    pool.free_idle()
    assert figures(pool) == (4096, 0, 2)


@pytest.mark.parametrize("nbytes", [2**61, 2**62, 2**64 - 1])
def test_a_block_that_is_too_large_is_a_memory_error(nbytes: int) -> None:
    pool = Pool()
    with pytest.raises(MemoryError, match="no room"):
        pool.take(nbytes)
    # The pool still works.
    assert pool.take(1).nbytes == 4096


# Pools whose memory a caller makes.


def test_a_pool_hands_out_what_its_maker_makes() -> None:
    made: list[Block] = []

    def make(nbytes: int) -> Block:
        block = allocate(nbytes)
        made.append(Block(block, block.address, nbytes, PINNED))
        return made[-1]

    pool = Pool(make)
    block = pool.take(5000)
    assert [one.address for one in made] == [block.address]
    assert (block.nbytes, block.device) == (5120, PINNED)
    before = sys.getrefcount(made[0])
    del block
    assert pool.take(5000).address == made[0].address
    assert figures(pool) == (0, 5120, 1)
    pool.free_idle()
    after = sys.getrefcount(made[0])
    assert after == before - 1


class OwnBlock(Block):
    """A block that can be referred to weakly."""


def test_idle_blocks_make_room_for_one_that_is_needed() -> None:
    room = 20_000
    created: weakref.WeakSet[OwnBlock] = weakref.WeakSet()

    def make(nbytes: int) -> Block:
        if sum(block.nbytes for block in created) + nbytes > room:
            raise MemoryError("full")
        memory = allocate(nbytes)
        block = OwnBlock(memory, memory.address, nbytes)
        created.add(block)
        return block

    pool = Pool(make)
    blocks = [pool.take(4096) for _ in range(4)]
    blocks.clear()
    blocks.append(pool.take(16384))
    assert figures(pool) == (16384, 0, 5)
    with pytest.raises(MemoryError, match="full"):
        pool.take(4096)
    assert pool.used_bytes == 16384


@pytest.mark.parametrize(
    ("error", "calls"), [(MemoryError("full"), 2), (KeyboardInterrupt(), 1), (ValueError("?"), 1)]
)
def test_what_the_maker_raises_comes_through_as_itself(error: BaseException, calls: int) -> None:
    """Only a lack of room is worth a second attempt."""
    attempts: list[int] = []

    def make(nbytes: int) -> Block:
        attempts.append(nbytes)
        raise error

    pool = Pool(make)
    for _ in range(2):
        attempts.clear()
        with pytest.raises(type(error)) as caught:
            pool.take(1)
        assert caught.value is error
        assert attempts == [4096] * calls
    assert figures(pool) == (0, 0, 0)


def test_a_maker_that_makes_no_block_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Pool(lambda nbytes: nbytes).take(1)  # type: ignore[arg-type,return-value]


@pytest.mark.usefixtures("eager_threads")
def test_each_thread_gets_its_own_error() -> None:
    def make(_: int) -> Block:
        raise ValueError(threading.current_thread().name)

    pool = Pool(make)
    start = Barrier(8)

    def work(_: int) -> int:
        start.wait(timeout=30)
        turns = 0
        for _turn in range(300):
            with pytest.raises(ValueError, match=threading.current_thread().name):
                pool.take(1)
            turns += 1
        return turns

    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(work, range(8))) == [300] * 8


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("make", [None, allocate])
def test_no_two_threads_have_the_same_block(make: Callable[[int], Block] | None) -> None:
    pool = Pool(make, max_idle_bytes=10 * 4096)
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
            assert 0 <= pool.idle_bytes <= 10 * 4096
            turns += 1
        return turns

    with ThreadPoolExecutor(8) as executor:
        # Errors of the threads are raised here.
        assert list(executor.map(work, range(8))) == [300] * 8
    assert pool.used_bytes == 0
    # The figure matches the idle blocks.
    idle = pool.idle_bytes
    allocations = pool.allocations
    taken: list[Block] = []
    while pool.idle_bytes:
        before = pool.idle_bytes
        taken += [pool.take(size) for size in (4096, 5120)]
        assert pool.idle_bytes < before
    assert len({block.address for block in taken}) == len(taken)
    new = (pool.allocations - allocations) * 5120
    assert idle <= pool.used_bytes <= idle + new


# Tensors.


def tensor(device: Device = PINNED) -> tuple[Tensor, Block]:
    block = allocate(4096)
    array_of(block, BY_NAME["float32"], (2, 3))[...] = [[1, 2, 3], [4, 5, 6]]
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
