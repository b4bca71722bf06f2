"""reader: any body gives its tensors or a ClientError, and every block returns to the pool."""

import json
from typing import Any

import numpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpux._fastpath import Pool
from gpux.config.schema import ModelConfig
from gpux.errors import ClientError, InvalidBodyError, InvalidJSONError
from gpux.inputs.model_io import merge_config
from gpux.inputs.pipeline import create_pipeline
from gpux.inputs.reader import InputReader
from gpux.tensors.request import tensors_of
from gpux.tensors.signature import BY_NAME, Signature, TensorSpec

SIGNATURE = Signature(
    (
        TensorSpec("ids", BY_NAME["int64"], ("batch", "seq")),
        TensorSpec("image", BY_NAME["float32"], ("batch", 2, 2)),
        TensorSpec("text", BY_NAME["string"], ("batch", 1)),
        TensorSpec("flag", BY_NAME["bool"], ()),
    ),
    (),
)


def reader(pool: Pool) -> InputReader:
    io = merge_config(SIGNATURE, ModelConfig())
    return InputReader(io, create_pipeline(io, pool))


VALID = {"ids": [[1, 2], [3, 4]], "image": [[[0.5] * 2] * 2] * 2, "text": ["a", "b"], "flag": True}
VALID_BODY = json.dumps(VALID).encode()

leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
objects = st.dictionaries(st.sampled_from([*VALID, "other", ""]), values)


def decode(body: bytes) -> None:
    """Decodes or rejects a body; either way every block returns to the pool."""
    pool = Pool()
    try:
        request = reader(pool).decode(body)
    except ClientError:
        pass
    else:
        blocks = sum(request.content(name)[0] > 0 for name in ("ids", "image", "flag"))
        assert pool.used_bytes == blocks * 4096
        del request
    assert pool.used_bytes == 0


@given(st.binary())
@example(b"")
@example(b"\xff")
@example(b"[" * 100_000)
@example(b'{"ids":' * 100_000)
@example(b'{"ids": 1' + b"0" * 100_000 + b"}")
@example(b'{"text": "\\ud800"}')
@example(b'\xef\xbb\xbf{"ids": [1]}')
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    decode(body)


@given(objects)
def test_any_json_object_is_decoded_or_refused(body: dict[str, Any]) -> None:
    decode(json.dumps(body).encode("utf-8", "surrogatepass"))


@given(st.integers(0, len(VALID_BODY) - 1), st.binary(max_size=3))
def test_a_damaged_body_is_decoded_or_refused(offset: int, damage: bytes) -> None:
    decode(VALID_BODY[:offset] + damage + VALID_BODY[offset + 1 :])


def test_a_valid_body_gives_its_tensors() -> None:
    request = reader(Pool()).decode(VALID_BODY)
    assert request.names == list(VALID)
    tensors = tensors_of(request, [SIGNATURE.inputs[index] for index in (0, 1, 3)])
    assert {name: numpy.asarray(tensor).tolist() for name, tensor in tensors.items()} == {
        name: VALID[name] for name in ("ids", "image", "flag")
    }
    assert request.form("text") == ((2, 1), True, False)
    assert request.strings("text") == ["a", "b"]
    assert not request.unbatched


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"true"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidBodyError):
        reader(Pool()).decode(body)


@pytest.mark.parametrize("body", [b"", b"{", b'{"ids": [1,]}', b'{"ids": NaN}', b"{} {}"])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJSONError, match=r"^Invalid JSON at byte \d+: ."):
        reader(Pool()).decode(body)
