"""packing: small tensors lie beside each other, large ones alone, and none on another."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gpux.execution.copy_plan import CopyPlan, plan_copies

SMALL = 2**16


def test_nothing_needs_nothing() -> None:
    assert plan_copies([]) == CopyPlan((), ())


def test_small_tensors_share_a_part() -> None:
    packing = plan_copies([8, 100, 64, SMALL])
    assert packing.slots == ((0, 0), (0, 64), (0, 192), (0, 256))
    assert packing.parts == (256 + SMALL,)
    assert packing.tensors_in(0) == [0, 1, 2, 3]


def test_a_large_tensor_has_a_part_of_its_own() -> None:
    packing = plan_copies([SMALL + 1, 8, 3 * SMALL, 8])
    assert packing.slots == ((0, 0), (1, 0), (2, 0), (1, 64))
    assert packing.parts == (SMALL + 1, 72, 3 * SMALL)
    assert [packing.tensors_in(part) for part in range(3)] == [[0], [1, 3], [2]]


def test_tensors_without_elements_have_a_place() -> None:
    packing = plan_copies([0, 0, 4])
    assert packing.parts == (4,)
    assert packing.slots == ((0, 0), (0, 0), (0, 0))


@given(st.lists(st.integers(0, 3 * SMALL), max_size=40))
def test_no_two_tensors_overlap(sizes: list[int]) -> None:
    packing = plan_copies(sizes)
    assert len(packing.slots) == len(sizes)
    taken: dict[int, list[tuple[int, int]]] = {}
    for size, (part, offset) in zip(sizes, packing.slots, strict=True):
        assert offset % 64 == 0
        assert offset + size <= packing.parts[part]
        taken.setdefault(part, []).append((offset, offset + size))
    for spans in taken.values():
        spans = sorted(span for span in spans if span[0] < span[1])
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    # A part ends where its last tensor does.
    for part, spans in taken.items():
        assert packing.parts[part] == max(end for _, end in spans)
    assert sorted(taken) == list(range(len(packing.parts)))
    # Each large one alone, all small ones together.
    assert len(packing.parts) == sum(size > SMALL for size in sizes) + any(
        size <= SMALL for size in sizes
    )
