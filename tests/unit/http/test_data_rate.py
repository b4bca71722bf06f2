"""data_rate: which clients are too slow, at the rates of `gpux serve`."""

from gpux.http.data_rate import is_answer_too_slow, is_request_too_slow


def test_a_large_body_over_a_slow_line_passes() -> None:
    """64 MiB at 1 Mbit/s and 4 kB at 4 kbit/s pass; one byte per second does not."""
    for nbytes, rate in ((64 * 2**20, 125_000), (4000, 500)):
        assert not any(is_request_too_slow(s, rate * s) for s in range(nbytes // rate + 2))
    assert not is_request_too_slow(19, 19)
    assert is_request_too_slow(21, 21)


def test_an_answer_has_to_be_read_faster_than_a_request_has_to_come() -> None:
    assert not is_answer_too_slow(100, 4000 * 80)
    assert is_answer_too_slow(100, 4000 * 79)
    assert not is_request_too_slow(100, 4000 * 79)
