"""Chunked bodies: the memory that they are put together in; the core has tests of the rest."""

import sys

import pytest

from gpux._fastpath import Chunks


def chunks(max_body_bytes: int = 2**30) -> Chunks:
    return Chunks(max_body_bytes, 256, 8192, 8192, 100)


def framed(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, 4097, 100_000, 3_000_000])
@pytest.mark.parametrize("piece", [1000, 2**16, 2**30])
def test_the_body_is_put_together(nbytes: int, piece: int) -> None:
    body = bytes(range(256)) * (nbytes // 256 + 1)
    body = body[:nbytes]
    data = framed(body, 10_000)
    coming = chunks()
    for at in range(0, len(data), piece):
        assert not coming.is_complete
        assert coming.decode(memoryview(data)[at : at + piece]) == len(data[at : at + piece])
    assert (coming.is_complete, coming.fault, coming.nbytes) == (True, None, nbytes)
    taken = coming.take()
    assert taken == body
    assert sys.getrefcount(taken) == 2 or nbytes < 2  # single bytes are the interpreter's own
    with pytest.raises(ValueError, match="taken"):
        coming.take()


def test_what_follows_is_left() -> None:
    coming = chunks()
    assert coming.decode(bytearray(b"1\r\na\r\n0\r\n\r\nGET /")) == 11
    assert coming.decode(b"GET /") == 0
    assert coming.take() == b"a"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"g\r\n", "malformed"),
        (b"ff\r\n", "too_large"),
        (b"1;" + b"x" * 300, "too_verbose"),
    ],
)
def test_faults(data: bytes, fault: str) -> None:
    coming = chunks(10)
    assert coming.decode(data) < len(data)
    assert coming.fault == fault
    assert coming.decode(b"0\r\n\r\n") == 0
    with pytest.raises(ValueError, match="not complete"):
        coming.take()


def test_a_body_that_is_not_taken_is_freed() -> None:
    coming = chunks()
    coming.decode(b"fffff\r\n" + b"x" * 100_000)
    assert coming.nbytes == 100_000
    del coming


@pytest.mark.parametrize("data", ["text", None, 3, memoryview(b"abcd")[::2]])
def test_other_data_is_refused(data: object) -> None:
    with pytest.raises((TypeError, BufferError)):
        chunks().decode(data)  # type: ignore[arg-type]
