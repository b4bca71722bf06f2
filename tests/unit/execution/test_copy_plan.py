"""copy_plan: small tensors share a part, large ones get their own, and none overlap."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gpux.execution.copy_plan import CopyPlan, plan_copies

SMALL = 2**16


def test_nothing_needs_nothing() -> None:
    assert plan_copies([]) == CopyPlan((), ())


def test_small_tensors_share_a_part() -> None:
    plan = plan_copies([8, 100, 64, SMALL])
    assert plan.slots == ((0, 0), (0, 64), (0, 192), (0, 256))
    assert plan.parts == (256 + SMALL,)
    assert plan.tensors_in(0) == [0, 1, 2, 3]


def test_a_large_tensor_has_a_part_of_its_own() -> None:
    plan = plan_copies([SMALL + 1, 8, 3 * SMALL, 8])
    assert plan.slots == ((0, 0), (1, 0), (2, 0), (1, 64))
    assert plan.parts == (SMALL + 1, 72, 3 * SMALL)
    assert [plan.tensors_in(part) for part in range(3)] == [[0], [1, 3], [2]]


def test_tensors_without_elements_have_a_place() -> None:
    plan = plan_copies([0, 0, 4])
    assert plan.parts == (4,)
    assert plan.slots == ((0, 0), (0, 0), (0, 0))


@given(st.lists(st.integers(0, 3 * SMALL), max_size=40))
def test_no_two_tensors_overlap(sizes: list[int]) -> None:
    plan = plan_copies(sizes)
    assert len(plan.slots) == len(sizes)
    spans_by_part: dict[int, list[tuple[int, int]]] = {}
    for size, (part, offset) in zip(sizes, plan.slots, strict=True):
        assert offset % 64 == 0
        assert offset + size <= plan.parts[part]
        spans_by_part.setdefault(part, []).append((offset, offset + size))
    for spans in spans_by_part.values():
        spans = sorted(span for span in spans if span[0] < span[1])
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    # A part ends where its last tensor does.
    for part, spans in spans_by_part.items():
        assert plan.parts[part] == max(end for _, end in spans)
    assert sorted(spans_by_part) == list(range(len(plan.parts)))
    # One part for each large tensor, one for all small ones.
    assert len(plan.parts) == sum(size > SMALL for size in sizes) + any(
        size <= SMALL for size in sizes
    )
