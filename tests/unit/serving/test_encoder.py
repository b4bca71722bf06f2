"""protocol: any bytes in, tensors or a ClientError out; headers; answers that are no tensors."""

import json
from typing import Any

import numpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpux.config.schema import ModelConfig
from gpux.errors import (
    ClientError,
    InvalidBodyError,
    InvalidJSONError,
    UnsupportedMediaTypeError,
)
from gpux.http.headers import check_headers
from gpux.inputs.model_io import declare
from gpux.inputs.reader import InputReader
from gpux.serving.encoder import encode
from gpux.tensors.memory import Block, Pool, StringTensor, Tensor
from gpux.tensors.outputs import Other
from gpux.tensors.signature import BY_NAME, Signature, TensorSpec


class CountingPool(Pool):
    """A pool that knows how many of its blocks are out."""

    def __init__(self) -> None:
        super().__init__()
        self.out = 0

    def take(self, nbytes: int) -> Block:
        self.out += 1
        return super().take(nbytes)

    def give(self, block: Block) -> None:
        self.out -= 1
        super().give(block)


def reader(pool: Pool) -> InputReader:
    inputs = (
        TensorSpec("ids", BY_NAME["int64"], ("batch", "seq")),
        TensorSpec("image", BY_NAME["float32"], ("batch", 2, 2)),
        TensorSpec("text", BY_NAME["string"], ("batch", 1)),
        TensorSpec("flag", BY_NAME["bool"], ()),
    )
    interface = declare(Signature(inputs, ()), ModelConfig())
    return InputReader(interface, pool)


VALID = {"ids": [[1, 2], [3, 4]], "image": [[[0.5] * 2] * 2] * 2, "text": ["a", "b"], "flag": True}
VALID_BODY = json.dumps(VALID).encode()

leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
objects = st.dictionaries(st.sampled_from([*VALID, "other", ""]), values)


def decode(body: bytes) -> None:
    """Decodes or is refused; either way every block comes back."""
    pool = CountingPool()
    try:
        request = reader(pool).decode(body)
    except ClientError:
        pass
    else:
        assert pool.out == 3, "one block for each input of numbers"
        request.release()
    assert pool.out == 0


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
def test_a_damaged_body_is_decoded_or_refused(place: int, damage: bytes) -> None:
    decode(VALID_BODY[:place] + damage + VALID_BODY[place + 1 :])


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


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json; profile=x",
    ],
)
def test_json_in_utf_8_is_taken(content_type: str) -> None:
    check_headers(content_type, None)


@pytest.mark.parametrize(
    ("content_type", "content_encoding", "detail"),
    [
        (None, None, "Content-Type must be application/json, got none"),
        ("", None, "Content-Type must be application/json, got ''"),
        ("text/plain", None, "Content-Type must be application/json, got 'text/plain'"),
        (
            "application/json; charset=latin-1",
            None,
            "The charset must be utf-8, got 'application/json; charset=latin-1'",
        ),
        (
            "application/json",
            "gzip",
            "Content-Encoding 'gzip' is not supported: send plain JSON",
        ),
        ("x" * 200, None, f"Content-Type must be application/json, got '{'x' * 100}…'"),
    ],
)
def test_another_declaration_is_refused_by_name(
    content_type: str | None, content_encoding: str | None, detail: str
) -> None:
    with pytest.raises(UnsupportedMediaTypeError) as caught:
        check_headers(content_type, content_encoding)
    assert str(caught.value) == detail


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (StringTensor((2, 1), ["a", 'b"\n\0é']), '[["a"],["b\\"\\n\\u0000é"]]'),
        (StringTensor((), ["a"]), '"a"'),
        (StringTensor((0, 2), []), "[]"),
        (StringTensor((2, 0), []), "[[],[]]"),
        (Other([{1: 0.1, 2: float("nan")}], "float32"), '[{"1":0.1,"2":null}]'),
        (Other([{"a": 0.1}], "float64"), '[{"a":0.1}]'),
        (Other({"k": 1}, "float32"), '{"k":1}'),
        (Other([], "float32"), "[]"),
        (Other([numpy.array([[0.1]], "float32")], "float32"), "[[[0.1]]]"),
        (Other([numpy.array([[1, 2], [3, 4]], "int64").T], "float32"), "[[[1,3],[2,4]]]"),
        (Other([numpy.array(["x", "y"], object)], "float32"), '[["x","y"]]'),
        (Other(["é", "b"], "float32"), '["é","b"]'),
    ],
)
def test_what_is_no_tensor_of_numbers_is_written_too(
    value: StringTensor | Other, text: str
) -> None:
    # A float32 that Python holds as a float is written by its own type: 0.1, not 0.10000000149.
    if isinstance(value, Other) and value.float_type == "float32":
        value = Other(_as_runtime_gives(value.value), "float32")
    assert encode({"out": value}).decode() == f'{{"out":{text}}}'


def _as_runtime_gives(value: Any) -> Any:
    """Floats as ONNX Runtime hands out float32: widened to float64."""
    if isinstance(value, float):
        return float(numpy.float32(value))
    if isinstance(value, dict):
        return {key: _as_runtime_gives(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_runtime_gives(item) for item in value]
    return value


def test_names_are_escaped() -> None:
    value = StringTensor((), ["v"])
    assert json.loads(encode({'a"b\né': value})) == {'a"b\né': "v"}
