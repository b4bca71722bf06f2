"""batch_plan: which requests form the next batch, without threads."""

import math

from hypothesis import given
from hypothesis import strategies as st

from gpux.serving.batch_plan import BatchLimits, Plan, WaitingRequest, plan


def waiting(*entries: tuple[str, int], since: float = 0.0) -> list[WaitingRequest]:
    return [
        WaitingRequest(key, rows, since + index / 1000) for index, (key, rows) in enumerate(entries)
    ]


def test_nobody_waits() -> None:
    assert plan([], BatchLimits(), 5.0) == Plan(())


def test_everyone_of_a_kind_runs_together() -> None:
    assert plan(waiting(("a", 1), ("a", 2), ("a", 3)), BatchLimits(8), 5.0) == Plan((0, 1, 2))


def test_other_kinds_wait() -> None:
    assert plan(waiting(("a", 1), ("b", 1), ("a", 1)), BatchLimits(8), 5.0) == Plan((0, 2))
    assert plan(waiting(("b", 1), ("a", 1), ("a", 1)), BatchLimits(8), 5.0) == Plan((0,))


def test_a_batch_ends_where_it_is_full() -> None:
    assert plan(waiting(*[("a", 1)] * 10), BatchLimits(4), 5.0) == Plan((0, 1, 2, 3))


def test_what_does_not_fit_is_passed_over_for_what_does() -> None:
    assert plan(waiting(("a", 2), ("a", 3), ("a", 2)), BatchLimits(4), 5.0) == Plan((0, 2))


def test_more_rows_than_the_limit_run_alone() -> None:
    assert plan(waiting(("a", 9), ("a", 1)), BatchLimits(4), 5.0) == Plan((0,))
    assert plan(waiting(("a", 1), ("a", 9), ("a", 1)), BatchLimits(4), 5.0) == Plan((0, 2))


def test_a_delay_holds_the_oldest_back_until_it_is_due() -> None:
    entries = waiting(("a", 1), ("a", 1), since=10.0)
    limits = BatchLimits(4, delay_seconds=0.5)
    assert plan(entries, limits, 10.1) == Plan((), 10.5)
    assert plan(entries, limits, 10.5) == Plan((0, 1))


def test_a_full_batch_is_not_held_back() -> None:
    entries = waiting(*[("a", 1)] * 4, since=10.0)
    assert plan(entries, BatchLimits(4, delay_seconds=0.5), 10.1) == Plan((0, 1, 2, 3))


_ENTRIES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), max_size=30)


@given(_ENTRIES, st.integers(1, 10), st.floats(0, 1), st.floats(0, 2))
def test_a_plan_is_a_batch_or_a_time_to_look_again(
    entries: list[tuple[str, int]], max_rows: int, delay: float, now: float
) -> None:
    queue = waiting(*entries)
    chosen = plan(queue, BatchLimits(max_rows, delay), now)
    if not queue:
        assert chosen == Plan(())
        return
    if chosen.batch:
        assert chosen.until_seconds is None
        assert chosen.batch[0] == 0, "the oldest goes first"
        assert list(chosen.batch) == sorted(set(chosen.batch)), "in the order in which they came"
        assert {queue[index].key for index in chosen.batch} == {queue[0].key}
        rows = sum(queue[index].rows for index in chosen.batch)
        assert rows <= max_rows or chosen.batch == (0,)
        # Greedy: no request of the same key that would still fit is left out.
        left_out_rows = [
            entry.rows
            for index, entry in enumerate(queue)
            if entry.key == queue[0].key and index not in chosen.batch
        ]
        assert rows >= max_rows or all(rows + other > max_rows for other in left_out_rows)
    else:
        assert chosen.until_seconds is not None
        assert now < chosen.until_seconds <= queue[0].since_seconds + delay + 1e-9


@given(_ENTRIES, st.integers(1, 10))
def test_everyone_runs_once_and_nobody_waits_for_ever(
    entries: list[tuple[str, int]], max_rows: int
) -> None:
    queue = waiting(*entries)
    ran: list[WaitingRequest] = []
    for _ in range(len(queue)):
        chosen = plan(queue, BatchLimits(max_rows), math.inf)
        if queue:
            assert chosen.batch
        ran += [queue[index] for index in chosen.batch]
        queue = [entry for index, entry in enumerate(queue) if index not in chosen.batch]
    assert queue == []
    assert sorted(ran, key=lambda entry: entry.since_seconds) == waiting(*entries)
