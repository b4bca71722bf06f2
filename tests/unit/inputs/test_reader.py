"""reader: any body gives its tensors or a ClientError, and every block returns to the pool."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpux.config.schema import ModelConfig
from gpux.errors import ClientError, InvalidBodyError, InvalidJSONError
from gpux.inputs.model_io import merge_config
from gpux.inputs.reader import InputReader
from gpux.tensors.memory import Block, Pool, StringTensor, Tensor
from gpux.tensors.signature import BY_NAME, Signature, TensorSpec


class CountingPool(Pool):
    """A pool that counts its blocks in use."""

    def __init__(self) -> None:
        super().__init__()
        self.in_use = 0

    def take(self, nbytes: int) -> Block:
        self.in_use += 1
        return super().take(nbytes)

    def give(self, block: Block) -> None:
        self.in_use -= 1
        super().give(block)


def reader(pool: Pool) -> InputReader:
    inputs = (
        TensorSpec("ids", BY_NAME["int64"], ("batch", "seq")),
        TensorSpec("image", BY_NAME["float32"], ("batch", 2, 2)),
        TensorSpec("text", BY_NAME["string"], ("batch", 1)),
        TensorSpec("flag", BY_NAME["bool"], ()),
    )
    interface = merge_config(Signature(inputs, ()), ModelConfig())
    return InputReader(interface, pool)


VALID = {"ids": [[1, 2], [3, 4]], "image": [[[0.5] * 2] * 2] * 2, "text": ["a", "b"], "flag": True}
VALID_BODY = json.dumps(VALID).encode()

leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
objects = st.dictionaries(st.sampled_from([*VALID, "other", ""]), values)


def decode(body: bytes) -> None:
    """Decodes or rejects a body; either way every block returns to the pool."""
    pool = CountingPool()
    try:
        request = reader(pool).decode(body)
    except ClientError:
        pass
    else:
        assert pool.in_use == 3, "one block for each input of numbers"
        request.release()
    assert pool.in_use == 0


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
    ids, image, text, flag = (request.tensors[name] for name in VALID)
    assert isinstance(ids, Tensor)
    assert isinstance(ids.owner, Block)
    assert ids.owner.array(ids.type, ids.shape).tolist() == VALID["ids"]
    assert isinstance(image, Tensor)
    assert image.shape == (2, 2, 2)
    assert text == StringTensor((2, 1), ["a", "b"])
    assert isinstance(flag, Tensor)
    assert flag.shape == ()
    assert not request.unbatched
    request.release()


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"true"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidBodyError):
        reader(Pool()).decode(body)


@pytest.mark.parametrize("body", [b"", b"{", b'{"ids": [1,]}', b'{"ids": NaN}', b"{} {}"])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJSONError, match=r"^Invalid JSON at byte \d+: ."):
        reader(Pool()).decode(body)
