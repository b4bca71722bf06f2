"""signature: element types, kinds of inputs, agreement of sizes, and dropped batch axes."""

import json
from collections.abc import Sequence

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gpux._engine import Request
from gpux._fastpath import Pool
from gpux.config.schema import ModelConfig
from gpux.errors import DisagreementError
from gpux.inputs.model_io import merge_config
from gpux.inputs.pipeline import create_pipeline
from gpux.tensors.memory import Tensor
from gpux.tensors.signature import (
    BY_CODE,
    BY_NAME,
    BY_ONNX,
    ELEMENT_TYPES,
    MAX_AXES,
    Dim,
    ElementType,
    NonTensorSpec,
    Signature,
    TensorSpec,
    names,
)
from tests.support import oracle
from tests.support.oracle import InputForm

Dims = tuple[Dim, ...]


def spec(
    dims: Dims, name: str = "x", type_name: str = "float32", batched: bool | None = None
) -> TensorSpec:
    return TensorSpec(name, BY_NAME[type_name], dims, batched=batched)


# Element types.


def test_the_contract_s_types_are_all_there() -> None:
    assert sorted(BY_NAME) == sorted([*oracle.FLOATS, *oracle.INTEGERS, "bool", "string"])


@pytest.mark.parametrize("element", ELEMENT_TYPES, ids=lambda element: element.name)
def test_a_type_has_the_number_and_the_size_that_onnx_gives_it(element: ElementType) -> None:
    onnx_names = {"float32": "float", "float64": "double"}
    onnx_name = onnx_names.get(element.name, element.name)
    assert TensorProto.DataType.Value(onnx_name.upper()) == element.code
    assert element.onnx == f"tensor({onnx_name})"
    words = {"bool": "boolean", "string": "string"}
    assert element.word == words.get(element.name, "number")
    if element.name == "string":
        assert (element.nbytes, element.numpy) == (0, None)
        return
    assert helper.tensor_dtype_to_np_dtype(element.code).itemsize == element.nbytes
    if element.numpy is not None:
        assert numpy.dtype(element.numpy).name == element.name
        assert numpy.dtype(element.numpy).itemsize == element.nbytes


def test_each_name_and_number_finds_its_type() -> None:
    for element in ELEMENT_TYPES:
        assert BY_NAME[element.name] is element
        assert BY_ONNX[element.onnx] is element
        assert BY_CODE[element.code] is element
    assert len(BY_NAME) == len(BY_ONNX) == len(BY_CODE) == len(ELEMENT_TYPES)


# One input.


@pytest.mark.parametrize(
    ("dims", "kind", "least", "most", "flat_items", "text"),
    [
        ((), "open", 0, 32, False, "at most 32 axes"),
        (("batch",), "batched", 0, 1, False, "[batch]"),
        ((None,), "batched", 0, 1, False, "[None]"),
        (("batch", 1), "batched", 0, 2, True, "[batch, 1]"),
        ((None, 1), "batched", 0, 2, True, "[None, 1]"),
        (("batch", 2), "batched", 1, 2, False, "[batch, 2]"),
        (("batch", None), "batched", 1, 2, False, "[batch, None]"),
        (("batch", 1, 1), "batched", 2, 3, False, "[batch, 1, 1]"),
        (("batch", "seq"), "batched", 1, 2, False, "[batch, seq]"),
        ((None, 3, 224, 224), "batched", 3, 4, False, "[None, 3, 224, 224]"),
        ((1,), "single", 0, 1, False, "[1]"),
        ((1, 1), "single", 1, 2, False, "[1, 1]"),
        ((1, 3, 224, 224), "single", 3, 4, False, "[1, 3, 224, 224]"),
        ((1, "batch"), "single", 1, 2, False, "[1, batch]"),
        ((2,), "fixed", 1, 1, False, "[2]"),
        ((0, 3), "fixed", 2, 2, False, "[0, 3]"),
        ((2, 64, 128), "fixed", 3, 3, False, "[2, 64, 128]"),
        ((2, "batch"), "fixed", 2, 2, False, "[2, batch]"),
    ],
)
def test_the_leading_axis_says_what_kind_an_input_is(
    dims: Dims, kind: str, least: int, most: int, flat_items: bool, text: str
) -> None:
    one = spec(dims)
    assert one.kind == kind == oracle.batch_kind(one)
    assert (one.min_axes, one.max_axes, one.flat_items) == (least, most, flat_items)
    assert one.shape_text == text
    assert oracle.allowed_ranks(one) == list(range(least, most + 1))


@pytest.mark.parametrize(
    ("dims", "batched", "kind", "least", "most", "flat_items"),
    [
        (("batch", "seq"), False, "fixed", 2, 2, False),
        (("batch", 1), False, "fixed", 2, 2, False),
        (("batch",), False, "fixed", 1, 1, False),
        ((None, 3, 4), False, "fixed", 3, 3, False),
        ((1, 3), False, "fixed", 2, 2, False),
        ((2, 3), False, "fixed", 2, 2, False),
        (("batch", "seq"), True, "batched", 1, 2, False),
        ((1, 3), True, "batched", 1, 2, False),
        ((1, 1), True, "batched", 0, 2, True),
        ((2, 3), True, "batched", 1, 2, False),
        ((2, 1), True, "batched", 0, 2, True),
        ((2,), True, "batched", 0, 1, False),
    ],
)
def test_what_gpux_yml_says_of_the_batch_goes_over_the_leading_axis(
    dims: Dims, batched: bool, kind: str, least: int, most: int, flat_items: bool
) -> None:
    one = spec(dims, batched=batched)
    assert one.kind == kind == oracle.batch_kind(one)
    assert (one.min_axes, one.max_axes, one.flat_items) == (least, most, flat_items)
    assert oracle.allowed_ranks(one) == list(range(least, most + 1))


any_dim: st.SearchStrategy[Dim] = st.one_of(
    st.none(), st.sampled_from(["batch", "n"]), st.integers(0, 3)
)


def any_batched(dims: Sequence[Dim]) -> st.SearchStrategy[bool | None]:
    """Values of `batched` in gpux.yml; always None for open inputs."""
    return st.sampled_from([None, None, True, False]) if dims else st.none()


@given(st.lists(any_dim, max_size=6), st.data())
def test_an_input_takes_the_axes_that_the_reference_allows(
    dims: list[Dim], data: st.DataObject
) -> None:
    one = spec(tuple(dims), batched=data.draw(any_batched(dims)))
    assert one.kind == oracle.batch_kind(one)
    assert list(range(one.min_axes, one.max_axes + 1)) == oracle.allowed_ranks(one)


def test_the_core_holds_as_many_axes_as_an_open_input_may_have() -> None:
    assert max(oracle.allowed_ranks(spec(()))) == MAX_AXES


def test_declarations_cannot_be_changed() -> None:
    one = spec(("batch",))
    signature = Signature((one,), (one,))
    for declared, attribute in (
        (one, "dims"),
        (one.type, "nbytes"),
        (NonTensorSpec("y", "seq(int64)"), "onnx"),
        (signature, "inputs"),
    ):
        with pytest.raises(AttributeError):  # FrozenInstanceError is a subclass
            setattr(declared, attribute, None)


# Inputs together.


def full(*shape: int) -> InputForm:
    return InputForm(shape, as_items=False, as_one_item=False)


def one_item(*shape: int) -> InputForm:
    return InputForm((1, *shape), as_items=True, as_one_item=True)


def items(*shape: int) -> InputForm:
    """The form of a flat list for [batch, 1]."""
    return InputForm(shape, as_items=True, as_one_item=False)


def signature_of(inputs: dict[str, Dims], outputs: dict[str, Dims] | None = None) -> Signature:
    return Signature(
        tuple(spec(dims, name) for name, dims in inputs.items()),
        tuple(spec(dims, name) for name, dims in (outputs or {}).items()),
    )


def request_of(signature: Signature, given: dict[str, InputForm]) -> Request:
    """A request that gives inputs in their forms; of elements that nobody reads."""
    io = merge_config(signature, ModelConfig())
    request = create_pipeline(io, Pool()).request()
    for name, form in given.items():
        request.put(name, Tensor(BY_NAME["float32"], form.shape, 64, None), *form)
    return request


def agreement(signature: Signature, given: dict[str, InputForm]) -> str | None:
    """The error message of the check, which must be that of the reference."""
    disagreement = oracle.find_disagreement(signature.inputs, given)
    expected = None if disagreement is None else str(DisagreementError(*disagreement))
    message = None
    try:
        request_of(signature, given).check_agreement()
    except DisagreementError as error:
        message = str(error)
    assert message == expected
    return message


def is_unbatched(signature: Signature, given: dict[str, InputForm]) -> bool:
    """What the core decides, which must be what the reference does."""
    request = request_of(signature, given)
    request.decide_unbatched()
    assert request.unbatched is oracle.is_unbatched(signature.inputs, given)
    return request.unbatched


SEQUENCES: dict[str, Dims] = {"ids": ("batch", "seq"), "mask": ("batch", "seq")}
UNNAMED: dict[str, Dims] = {"a": (None, 3), "b": (None, 1), "c": (None, None, 2)}


@pytest.mark.parametrize(
    ("inputs", "given", "says"),
    [
        (SEQUENCES, {"ids": full(2, 5), "mask": full(2, 5)}, None),
        (SEQUENCES, {"ids": one_item(5), "mask": full(1, 5)}, None),
        (SEQUENCES, {"ids": full(2, 5), "mask": full(3, 5)}, ("batch", "ids", 2, "mask", 3)),
        (SEQUENCES, {"ids": full(2, 5), "mask": full(2, 4)}, ("seq", "ids", 5, "mask", 4)),
        (SEQUENCES, {"ids": full(2, 5), "mask": one_item(5)}, ("batch", "ids", 2, "mask", 1)),
        # Reported in the model's order, not that of the request.
        (SEQUENCES, {"mask": full(3, 4), "ids": full(2, 5)}, ("batch", "ids", 2, "mask", 3)),
        (SEQUENCES, {"mask": full(3, 4)}, None),
        # Named axes are compared at any position.
        ({"a": ("n", 2), "b": (2, "n")}, {"a": full(3, 2), "b": full(2, 4)}, ("n", "a", 3, "b", 4)),
        ({"a": ("n", 2), "b": ("m", 2)}, {"a": full(3, 2), "b": full(4, 2)}, None),
        # Within one input the model decides; another input must match each of its axes.
        ({"a": ("n", "n")}, {"a": full(2, 3)}, None),
        ({"a": ("n", "n"), "b": ("n",)}, {"a": full(2, 2), "b": full(2)}, None),
        ({"a": ("n", "n"), "b": ("n",)}, {"a": full(2, 3), "b": full(3)}, ("n", "a", 2, "b", 3)),
        ({"a": ("n", "n"), "b": ("n",)}, {"a": full(2, 3), "b": full(2)}, ("n", "a", 3, "b", 2)),
        (dict.fromkeys("abc", ("n",)), {"a": full(2), "c": full(3)}, ("n", "a", 2, "c", 3)),
        # Unnamed leading axes are compared only if there are items.
        (UNNAMED, {"a": full(2, 3), "b": full(4, 1), "c": full(5, 1, 2)}, None),
        (UNNAMED, {"a": one_item(3), "b": full(4, 1)}, ("batch", "a", 1, "b", 4)),
        (UNNAMED, {"a": full(2, 3), "b": items(4, 1)}, ("batch", "a", 2, "b", 4)),
        (UNNAMED, {"a": full(4, 3), "b": items(4, 1), "c": full(4, 9, 2)}, None),
        (
            UNNAMED,
            {"a": full(2, 3), "b": full(2, 1), "c": one_item(7, 2)},
            ("batch", "a", 2, "c", 1),
        ),
        (UNNAMED, {"a": one_item(3), "b": one_item(1), "c": one_item(9, 2)}, None),
        (UNNAMED, {"b": one_item(1)}, None),
        # Other unnamed axes are not compared, nor are fixed and single inputs.
        ({"a": ("n", None), "b": ("n", None)}, {"a": full(2, 3), "b": full(2, 4)}, None),
        ({"a": (1, None), "b": (None, 2)}, {"a": one_item(3), "b": full(4, 2)}, None),
        ({"a": (2, None), "b": (None, 2)}, {"a": full(2, 3), "b": full(4, 2)}, None),
        ({"a": (), "b": (None, 2)}, {"a": full(7, 7), "b": one_item(2)}, None),
        # A named and an unnamed leading axis are not compared, even if the name is `batch`.
        ({"a": ("batch", 2), "b": (None, 2)}, {"a": full(3, 2), "b": one_item(2)}, None),
        # Named axes are checked first.
        (
            {"a": (None, "n"), "b": (None, "n")},
            {"a": full(1, 3), "b": items(2, 4)},
            ("n", "a", 3, "b", 4),
        ),
    ],
)
def test_inputs_must_fit_each_other(
    inputs: dict[str, Dims],
    given: dict[str, InputForm],
    says: tuple[str, str, int, str, int] | None,
) -> None:
    message = None
    if says is not None:
        message = "Inputs disagree on '{}': '{}' has {}, '{}' has {}".format(*says)
        message += "; if these axes differ, name them in gpux.yml"
    assert agreement(signature_of(inputs), given) == message


def test_a_batch_that_gpux_yml_takes_away_is_not_compared() -> None:
    unbatched_spec = spec((None, 3), "a", batched=False)
    batched_spec = spec((2, 3), "b", batched=True)
    signature = Signature((unbatched_spec, batched_spec, spec((None,), "c")), ())
    assert agreement(signature, {"a": full(4, 3), "b": one_item(3), "c": one_item()}) is None
    # A named axis is compared at any position.
    named = Signature((spec(("n",), "a", batched=False), spec(("n",), "b")), ())
    assert agreement(named, {"a": full(2), "b": one_item()}) is not None


def uniqueness_key(dim: Dim) -> object:
    return dim if isinstance(dim, str) else object()


@st.composite
def requests(draw: st.DrawFn) -> tuple[Signature, dict[str, InputForm]]:
    """A few inputs, most of them present, with sizes that sometimes disagree."""
    inputs: list[TensorSpec] = []
    given: dict[str, InputForm] = {}
    sizes = {name: draw(st.integers(1, 2)) for name in ("batch", "n", None)}
    for name in draw(st.lists(st.sampled_from("abcd"), unique=True, max_size=4)):
        # Names repeated within one input are in the table above.
        dims = tuple(draw(st.lists(any_dim, max_size=3, unique_by=uniqueness_key)))
        declared = spec(dims, name, batched=draw(any_batched(dims)))
        inputs.append(declared)
        shape = [
            dim if isinstance(dim, int) else sizes[dim] if draw(st.integers(0, 3)) else 3
            for dim in dims
        ]
        form = draw(st.sampled_from(["full", "full", "item", "items", "absent"]))
        kind = oracle.batch_kind(declared)
        if form == "absent":
            continue
        if form == "item" and kind in ("batched", "single"):
            given[name] = one_item(*shape[1:])
        elif form == "items" and kind == "batched" and dims[1:] == (1,):
            given[name] = items(*shape)
        else:
            given[name] = full(*shape)
    # Requests may have any order.
    return Signature(tuple(inputs), ()), dict(draw(st.permutations(list(given.items()))))


@settings(max_examples=600, deadline=None)
@given(requests())
def test_inputs_fit_each_other_where_the_reference_says_so(
    request: tuple[Signature, dict[str, InputForm]],
) -> None:
    agreement(*request)


# Outputs.


@pytest.mark.parametrize(
    ("inputs", "given", "unbatched"),
    [
        (SEQUENCES, {"ids": one_item(5), "mask": one_item(5)}, True),
        (SEQUENCES, {"ids": one_item(5), "mask": full(1, 5)}, False),
        (SEQUENCES, {"ids": full(1, 5), "mask": full(1, 5)}, False),
        (SEQUENCES, {"ids": one_item(5)}, True),
        (SEQUENCES, {}, False),
        # A list of one is not a single item.
        ({"a": ("n", 1)}, {"a": items(1, 1)}, False),
        ({"a": ("n", 1)}, {"a": one_item(1)}, True),
        # Inputs of other kinds do not matter.
        ({"a": ("n", 2), "b": (1, 2)}, {"a": one_item(2), "b": full(1, 2)}, True),
        ({"a": ("n", 2), "b": (1, 2)}, {"a": full(1, 2), "b": one_item(2)}, False),
        ({"a": ("n", 2), "b": (), "c": (3,)}, {"a": one_item(2), "b": full(), "c": full(3)}, True),
        ({"b": (1, 2)}, {"b": one_item(2)}, False),
        ({"b": ()}, {"b": full()}, False),
    ],
)
def test_a_request_is_unbatched_if_each_batched_input_is_one_item(
    inputs: dict[str, Dims], given: dict[str, InputForm], unbatched: bool
) -> None:
    assert is_unbatched(signature_of(inputs), given) is unbatched


def loses_axis(
    signature: Signature, given: dict[str, InputForm], output: TensorSpec, shape: tuple[int, ...]
) -> bool:
    """Whether the response drops an axis, which must be what the reference says."""
    signature = Signature(signature.inputs, (output,))
    pipeline = create_pipeline(merge_config(signature, ModelConfig()), Pool())
    zeros = numpy.zeros(shape, "i1")
    tensor = Tensor(BY_NAME["int8"], shape, int(zeros.ctypes.data), zeros)
    unbatched = is_unbatched(signature, given)
    response = json.loads(pipeline.outputs([tensor], 0.0).encode(unbatched))["y"]
    loses = response != zeros.tolist()
    assert not loses or response == zeros.tolist()[0]
    assert loses is oracle.loses_leading_axis(signature.inputs, given, output, shape)
    return loses


ONE_TEXT: dict[str, Dims] = {"text": ("batch", "seq")}
ONE_IMAGE: dict[str, Dims] = {"image": (1, 3, 2)}
TWO_BATCHES: dict[str, Dims] = {"a": ("n", 2), "b": ("m", 2)}
VOICE: dict[str, Dims] = {"input": (None, None), "state": (2, None, 3), "sr": ()}


@pytest.mark.parametrize(
    ("inputs", "given", "output", "shape", "loses"),
    [
        # One item: the inputs' batch axis is dropped.
        (ONE_TEXT, {"text": one_item(5)}, ("batch", 2), (1, 2), True),
        (ONE_TEXT, {"text": one_item(5)}, ("batch",), (1,), True),
        (ONE_TEXT, {"text": one_item(5)}, ("seq", 2), (1, 2), False),
        (ONE_TEXT, {"text": one_item(5)}, (None, 2), (1, 2), False),
        (ONE_TEXT, {"text": one_item(5)}, (1, 2), (1, 2), False),
        (ONE_TEXT, {"text": one_item(5)}, (2, "batch"), (2, 1), False),
        (ONE_TEXT, {"text": one_item(5)}, (), (), False),
        (ONE_TEXT, {"text": one_item(5)}, (), (1, 2), False),
        # Not one item: no axis is dropped.
        (ONE_TEXT, {"text": full(1, 5)}, ("batch", 2), (1, 2), False),
        (ONE_TEXT, {"text": full(3, 5)}, ("batch", 2), (3, 2), False),
        # A dynamic number of detections.
        (ONE_TEXT, {"text": one_item(5)}, ("num_detections", 6), (1, 6), False),
        (ONE_TEXT, {"text": one_item(5)}, ("num_detections", 6), (7, 6), False),
        # Only an axis of size 1 can be dropped.
        (ONE_TEXT, {"text": one_item(5)}, ("batch", 2), (5, 2), False),
        (ONE_TEXT, {"text": one_item(5)}, ("batch", 2), (0, 2), False),
        # Unnamed leading axes.
        (VOICE, {"input": one_item(5), "state": full(2, 1, 3)}, (None, 1), (1, 1), True),
        (VOICE, {"input": one_item(5), "state": full(2, 1, 3)}, (None, 6), (4, 6), False),
        (VOICE, {"input": one_item(5), "state": full(2, 1, 3)}, (2, None, 3), (2, 1, 3), False),
        (VOICE, {"input": full(1, 5), "state": full(2, 1, 3)}, (None, 1), (1, 1), False),
        # One of several batch axes.
        (TWO_BATCHES, {"a": one_item(2), "b": one_item(2)}, ("m", 4), (1, 4), True),
        (TWO_BATCHES, {"a": one_item(2), "b": full(1, 2)}, ("n", 4), (1, 4), False),
        # Single inputs: an axis declared as 1 is dropped, however the request is nested.
        (ONE_IMAGE, {"image": one_item(3, 2)}, (1, 10), (1, 10), True),
        (ONE_IMAGE, {"image": full(1, 3, 2)}, (1, 10), (1, 10), True),
        (ONE_IMAGE, {"image": full(1, 3, 2)}, (1,), (1,), True),
        (ONE_IMAGE, {"image": full(1, 3, 2)}, (None, 10), (1, 10), False),
        (ONE_IMAGE, {"image": full(1, 3, 2)}, ("batch", 10), (1, 10), False),
        (ONE_IMAGE, {"image": full(1, 3, 2)}, (10,), (10,), False),
        (ONE_IMAGE, {"image": full(1, 3, 2)}, (), (), False),
        # Beside a batched input, a single one does not matter.
        ({**ONE_IMAGE, **ONE_TEXT}, {"text": full(1, 5)}, (1, 10), (1, 10), False),
        ({**ONE_IMAGE, **ONE_TEXT}, {"text": one_item(5)}, (1, 10), (1, 10), False),
        ({**ONE_IMAGE, **ONE_TEXT}, {"text": one_item(5)}, ("batch", 10), (1, 10), True),
        # Neither batched nor single.
        ({"a": (2, 2)}, {"a": full(2, 2)}, (1, 10), (1, 10), False),
        ({"a": ()}, {"a": full()}, (1, 10), (1, 10), False),
        ({"a": ()}, {"a": full()}, ("batch", 10), (1, 10), False),
    ],
)
def test_an_answer_loses_the_batch_axis_of_one_item(
    inputs: dict[str, Dims],
    given: dict[str, InputForm],
    output: Dims,
    shape: tuple[int, ...],
    loses: bool,
) -> None:
    signature = signature_of(inputs, {"y": output})
    assert loses_axis(signature, given, spec(output, "y"), shape) is loses


BATCH, IMAGE, ROWS = ("batch", 3), (1, 3), (None, 3)


@pytest.mark.parametrize(
    ("dims", "batched", "output_dims", "output_batched", "item_loses", "full_loses"),
    [
        # Dims and `batched` of input and output; whether one item and a batch of one lose the axis.
        (BATCH, None, BATCH, False, False, False),
        (BATCH, None, BATCH, True, True, False),
        (BATCH, None, ("other", 3), True, True, False),
        (BATCH, None, (1, 3), True, True, False),
        (BATCH, None, ROWS, True, True, False),
        (BATCH, None, (), True, False, False),
        (ROWS, None, ROWS, False, False, False),
        # A model of single inputs.
        (IMAGE, None, IMAGE, False, False, False),
        (IMAGE, None, IMAGE, True, True, True),
        (IMAGE, None, BATCH, True, True, True),
        # `batched` of the input.
        (BATCH, False, BATCH, None, None, False),
        (BATCH, False, BATCH, True, None, False),
        (IMAGE, True, BATCH, None, False, False),
        (IMAGE, True, IMAGE, None, True, False),
        (IMAGE, True, IMAGE, False, False, False),
        (IMAGE, False, IMAGE, None, None, False),
        (IMAGE, False, IMAGE, True, None, False),
    ],
)
def test_gpux_yml_says_which_outputs_lead_with_the_batch(
    dims: Dims,
    batched: bool | None,
    output_dims: Dims,
    output_batched: bool | None,
    item_loses: bool | None,
    full_loses: bool,
) -> None:
    signature = Signature((spec(dims, batched=batched),), ())
    output = spec(output_dims, "y", batched=output_batched)
    if item_loses is not None:  # None: the input accepts no items
        assert loses_axis(signature, {"x": one_item(3)}, output, (1, 3)) is item_loses
    assert loses_axis(signature, {"x": full(1, 3)}, output, (1, 3)) is full_loses
    assert loses_axis(signature, {"x": full(2, 3)}, output, (2, 3)) is False


@settings(max_examples=600, deadline=None)
@given(
    requests(),
    st.lists(any_dim, max_size=3),
    st.lists(st.integers(0, 2), min_size=3, max_size=3),
    st.data(),
)
def test_an_answer_loses_the_axis_that_the_reference_says(
    request: tuple[Signature, dict[str, InputForm]],
    dims: list[Dim],
    sizes: list[int],
    data: st.DataObject,
) -> None:
    signature, given = request
    output = spec(tuple(dims), "y", batched=data.draw(any_batched(dims)))
    shape = tuple(
        dim if isinstance(dim, int) else size for dim, size in zip(dims, sizes, strict=False)
    )
    loses_axis(signature, given, output, shape)


# The signature.


def test_a_signature_knows_its_batch_axes() -> None:
    signature = signature_of({"a": ("n", 2), "b": (None,), "c": (1, "m"), "d": (2, "k"), "e": ()})
    assert signature.batch_axes == {"n", None}
    assert signature_of({"a": (1, "n"), "b": ()}).batch_axes == frozenset()


@pytest.mark.parametrize(
    ("inputs", "single"),
    [
        ({"a": (1, 2)}, True),
        ({"a": (1, 2), "b": (2, 2), "c": ()}, True),
        ({"a": (1, 2), "b": ("n", 2)}, False),
        ({"a": (2, 2)}, False),
        ({"a": ()}, False),
        ({}, False),
    ],
)
def test_a_model_is_single_with_single_inputs_and_no_batched_one(
    inputs: dict[str, Dims], single: bool
) -> None:
    assert signature_of(inputs).is_single is single


def test_a_model_is_numeric_without_strings_sequences_and_maps() -> None:
    number, text = spec(("n",)), spec(("n",), type_name="string")
    truth = spec(("n",), type_name="bool")
    sequence = NonTensorSpec("y", "seq(map(int64,tensor(float)))")
    assert Signature((number, truth), (number, truth)).is_numeric
    assert not Signature((number, text), (number,)).is_numeric
    assert not Signature((number,), (text,)).is_numeric
    assert not Signature((number,), (number, sequence)).is_numeric


def test_names_stand_in_the_model_s_order() -> None:
    first, last = spec((), "b"), spec((), "c")
    assert names([first, NonTensorSpec("a", "seq(int64)"), last]) == ["b", "a", "c"]
    assert names([]) == []
