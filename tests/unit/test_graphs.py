"""graphs: which sets of shapes are captured, and that they are few."""

from hypothesis import given
from hypothesis import strategies as st

from gpux.graphs import PLAIN, GraphBook, Verdict

A, B, C = "a", "b", "c"  # sets of shapes


def ask(book: GraphBook, shapes: str) -> Verdict:
    """Asks for a request, and captures what is to be captured."""
    verdict = book.judge(shapes)
    if verdict.is_new:
        assert verdict.graph is not None
        book.captured(shapes, verdict.graph)
    return verdict


def test_what_comes_again_and_again_is_captured() -> None:
    book = GraphBook(after=3)
    assert [ask(book, A) for _ in range(3)] == [PLAIN] * 3
    assert ask(book, A) == Verdict(0, is_new=True)
    assert [ask(book, A) for _ in range(3)] == [Verdict(0)] * 3


def test_each_set_of_shapes_is_counted_by_itself() -> None:
    book = GraphBook(after=1)
    assert [ask(book, shapes).graph for shapes in (A, B, B, A, C, B)] == [
        None,
        None,
        0,
        1,
        None,
        0,
    ]


def test_on_captures_at_once() -> None:
    assert ask(GraphBook("on"), A) == Verdict(0, is_new=True)


def test_off_captures_nothing() -> None:
    book = GraphBook("off")
    assert {ask(book, A) for _ in range(10)} == {PLAIN}
    assert book.describe() == {
        "mode": "off",
        "captured": 0,
        "most": 8,
        "replays": 0,
        "reason": "runtime.cuda_graph is off",
    }


def test_a_model_that_cannot_be_captured_says_why() -> None:
    book = GraphBook("auto", "the model has control flow")
    assert {ask(book, A) for _ in range(10)} == {PLAIN}
    assert book.describe()["reason"] == "the model has control flow"


def test_the_first_ones_stay() -> None:
    book = GraphBook(most=2, after=1)
    graphs = [ask(book, shapes).graph for shapes in "abcabcabc"]
    assert graphs == [None, None, None, 0, 1, None, 0, 1, None]
    assert book.describe() | {"most": 2, "captured": 2, "replays": 2} == book.describe()


def test_giving_up_keeps_what_was_captured() -> None:
    book = GraphBook(after=1)
    ask(book, A), ask(book, A)
    book.give_up("it failed")
    assert ask(book, A) == Verdict(0)
    assert {ask(book, B) for _ in range(10)} == {PLAIN}
    assert book.describe()["reason"] == "it failed"


def test_a_capture_that_failed_does_not_count() -> None:
    book = GraphBook(after=0)
    assert book.judge(A) == Verdict(0, is_new=True)
    book.give_up("it failed")
    assert book.judge(A) == PLAIN
    assert book.describe()["captured"] == 0


def test_shapes_that_never_come_back_are_forgotten() -> None:
    book = GraphBook(after=1)
    for number in range(5000):
        assert ask(book, f"shape {number}") == PLAIN
    assert len(book._seen) <= 1024
    # The oldest are gone, and count from the start again.
    assert ask(book, "shape 0") == PLAIN
    assert ask(book, "shape 4999").graph == 0


@given(st.lists(st.sampled_from("abcdefgh"), max_size=200), st.integers(0, 3), st.integers(0, 5))
def test_a_graph_is_asked_for_only_once_it_is_there(
    requests: list[str], after: int, most: int
) -> None:
    book = GraphBook(after=after, most=most)
    captured: dict[str, int] = {}
    for shapes in requests:
        verdict = ask(book, shapes)
        if verdict.is_new:
            assert shapes not in captured
            assert verdict.graph not in captured.values()
            assert verdict.graph is not None
            captured[shapes] = verdict.graph
        else:
            assert verdict.graph == captured.get(shapes)
    assert len(captured) <= most
    assert book.describe()["captured"] == len(captured)
