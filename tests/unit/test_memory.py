"""memory: alignment, reuse and the bounds of the pool, and blocks that no two threads share."""

import ctypes
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpux.memory import ALIGNMENT_BYTES, Block, HostPool
from gpux.tensor import BY_NAME, ELEMENT_TYPES


@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 4096, 4097, 10**6])
def test_a_block_is_aligned_and_all_its_bytes_can_be_written(nbytes: int) -> None:
    blocks = [Block(nbytes) for _ in range(20)]
    for number, block in enumerate(blocks):
        assert block.nbytes == nbytes
        assert block.address % 64 == 0
        ctypes.memset(block.address, number, nbytes)
    # Each has its own bytes.
    for number, block in enumerate(blocks):
        assert ctypes.string_at(block.address, nbytes) == bytes([number]) * nbytes


def test_the_alignment_is_that_of_a_cache_line() -> None:
    assert ALIGNMENT_BYTES == 64


@pytest.mark.parametrize("name", [element.name for element in ELEMENT_TYPES if element.numpy])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0, 3), (1, 1, 4)])
def test_an_array_of_a_block_is_its_front(name: str, shape: tuple[int, ...]) -> None:
    element = BY_NAME[name]
    block = Block(256)
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
    block = Block(4096)
    assert block.array(BY_NAME["float32"], (1024,)).nbytes == 4096
    with pytest.raises(ValueError, match="reshape"):
        block.array(BY_NAME["float32"], (4096,))


def test_an_array_keeps_the_memory_alive() -> None:
    array = Block(4096).array(BY_NAME["uint8"], (4096,))
    array[:] = 7
    others = [Block(4096) for _ in range(100)]
    for other in others:
        ctypes.memset(other.address, 1, 4096)
    assert (array == 7).all()


def test_memory_that_nobody_holds_is_freed() -> None:
    pool = HostPool()
    block = pool.take(10_000)
    array = block.array(BY_NAME["uint8"], (1,))
    assert array.base is not None
    memory = weakref.ref(array.base)
    del array
    assert memory() is not None
    del block
    assert memory() is None
    assert pool.idle_bytes == 0


# The pool.


@given(st.integers(0, 2**22))
def test_a_block_is_as_large_as_asked_and_at_most_twice_that(nbytes: int) -> None:
    block = HostPool().take(nbytes)
    assert nbytes <= block.nbytes <= max(2 * nbytes, 4096)
    assert block.nbytes & (block.nbytes - 1) == 0
    assert block.address % 64 == 0


@pytest.mark.parametrize("power", range(12, 22))
def test_a_power_of_two_is_not_rounded_up(power: int) -> None:
    assert HostPool().take(2**power).nbytes == 2**power
    assert HostPool().take(2**power + 1).nbytes == 2 ** (power + 1)


def test_a_block_that_came_back_is_lent_again() -> None:
    pool = HostPool()
    first, second = pool.take(5000), pool.take(5000)
    assert first is not second
    assert first.address != second.address
    pool.give(first)
    pool.give(second)
    assert pool.idle_bytes == 2 * 8192
    again = {id(pool.take(8000)), id(pool.take(4097))}
    assert again == {id(first), id(second)}
    assert pool.idle_bytes == 0
    assert id(pool.take(8000)) not in again


def test_a_block_of_another_size_is_not_lent() -> None:
    pool = HostPool()
    small = pool.take(5000)
    pool.give(small)
    large = pool.take(9000)
    assert large.nbytes == 16384
    assert pool.idle_bytes == small.nbytes


def test_idle_blocks_stay_within_their_limit() -> None:
    pool = HostPool(most_idle_bytes=3 * 4096)
    blocks = [pool.take(4096) for _ in range(5)]
    for idle, block in enumerate(blocks, 1):
        pool.give(block)
        assert pool.idle_bytes == min(idle, 3) * 4096
    pool.give(Block(8192))
    assert pool.idle_bytes == 3 * 4096
    taken = [pool.take(4096) for _ in range(5)]
    assert len({id(block) for block in taken} & {id(block) for block in blocks}) == 3


def test_a_pool_without_room_for_idle_blocks_keeps_none() -> None:
    pool = HostPool(most_idle_bytes=0)
    pool.give(pool.take(1))
    assert pool.idle_bytes == 0
    assert pool.take(1).nbytes == 4096


def test_a_block_that_is_too_large_is_a_memory_error() -> None:
    pool = HostPool()
    with pytest.raises(MemoryError):
        pool.take(2**61)
    # The pool goes on.
    assert pool.take(1).nbytes == 4096


@pytest.mark.usefixtures("eager_threads")
def test_no_two_threads_have_the_same_block() -> None:
    pool = HostPool(most_idle_bytes=10 * 4096)
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
        # An error in a thread is raised here.
        assert list(executor.map(work, range(8))) == [300] * 8
    # What the pool counts is what it has.
    idle = pool.idle_bytes
    taken: list[Block] = []
    while pool.idle_bytes:
        before = pool.idle_bytes
        taken += [pool.take(size) for size in (4096, 8192)]
        assert pool.idle_bytes < before
    assert len({block.address for block in taken}) == len(taken)
    assert idle <= sum(block.nbytes for block in taken)
