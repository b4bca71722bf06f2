"""cuda_graphs: which sets of shapes are captured, and the limit on their number."""

from hypothesis import given
from hypothesis import strategies as st

from gpux.execution.cuda_graphs import Capture, GraphCache, Replay

A, B, C = "a", "b", "c"  # sets of shapes


def use_graph(cache: GraphCache, shapes: str) -> Capture | Replay | None:
    """Looks a request up, and captures its graph when due."""
    use = cache.lookup(shapes)
    if isinstance(use, Capture):
        cache.captured(shapes, use.graph)
    return use


def graphs_of(cache: GraphCache, requests: str) -> list[int | None]:
    """The graph of each request; None where it runs without one."""
    uses = [use_graph(cache, shapes) for shapes in requests]
    return [None if use is None else use.graph for use in uses]


def test_what_comes_again_and_again_is_captured() -> None:
    cache = GraphCache(after=3)
    assert [use_graph(cache, A) for _ in range(3)] == [None] * 3
    assert use_graph(cache, A) == Capture(0)
    assert [use_graph(cache, A) for _ in range(3)] == [Replay(0)] * 3


def test_each_set_of_shapes_is_counted_by_itself() -> None:
    cache = GraphCache(after=1)
    assert graphs_of(cache, A + B + B + A + C + B) == [None, None, 0, 1, None, 0]


def test_on_captures_at_once() -> None:
    assert use_graph(GraphCache("on"), A) == Capture(0)


def test_off_captures_nothing() -> None:
    cache = GraphCache("off")
    assert {use_graph(cache, A) for _ in range(10)} == {None}
    assert cache.describe() == {
        "mode": "off",
        "captured": 0,
        "most": 8,
        "replays": 0,
        "reason": "runtime.cuda_graph is off",
    }


def test_a_model_that_cannot_be_captured_says_why() -> None:
    cache = GraphCache("auto", "the model has control flow")
    assert {use_graph(cache, A) for _ in range(10)} == {None}
    assert cache.describe()["reason"] == "the model has control flow"


def test_the_first_ones_stay() -> None:
    cache = GraphCache(max_graphs=2, after=1)
    assert graphs_of(cache, "abcabcabc") == [None, None, None, 0, 1, None, 0, 1, None]
    assert cache.describe() | {"most": 2, "captured": 2, "replays": 2} == cache.describe()


def test_giving_up_keeps_what_was_captured() -> None:
    cache = GraphCache(after=1)
    use_graph(cache, A), use_graph(cache, A)
    cache.give_up("it failed")
    assert use_graph(cache, A) == Replay(0)
    assert {use_graph(cache, B) for _ in range(10)} == {None}
    assert cache.describe()["reason"] == "it failed"


def test_a_capture_that_failed_does_not_count() -> None:
    cache = GraphCache(after=0)
    assert cache.lookup(A) == Capture(0)
    cache.give_up("it failed")
    assert cache.lookup(A) is None
    assert cache.describe()["captured"] == 0


def test_shapes_that_never_come_back_are_forgotten() -> None:
    cache = GraphCache(after=1)
    for number in range(5000):
        assert use_graph(cache, f"shape {number}") is None
    assert len(cache._seen) <= 1024
    # The oldest were evicted: their count starts again.
    assert use_graph(cache, "shape 0") is None
    assert use_graph(cache, "shape 4999") == Capture(0)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=200), st.integers(0, 3), st.integers(0, 5))
def test_a_graph_is_asked_for_only_once_it_is_there(
    requests: list[str], after: int, most: int
) -> None:
    cache = GraphCache(after=after, max_graphs=most)
    captured: dict[str, int] = {}
    for shapes in requests:
        use = use_graph(cache, shapes)
        if isinstance(use, Capture):
            assert shapes not in captured
            assert use.graph not in captured.values()
            captured[shapes] = use.graph
        else:
            assert (use and use.graph) == captured.get(shapes)
    assert len(captured) <= most
    assert cache.describe()["captured"] == len(captured)
