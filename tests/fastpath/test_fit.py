"""fit(): the shape of an array without its elements, against the walk and the reference."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy
import pytest

from gpux._fastpath import InputSpec, fit, walk
from gpux.errors import ClientError, EmptyBatchError, InvalidShapeError
from gpux.tensors.signature import Dim, TensorSpec
from tests.support import oracle
from tests.support.walk_cases import NUMBER_TYPES, GuardedPool, Refusal, refusal, refused, spec

Fitted = tuple[tuple[int, ...], bool, bool]

SIZES: list[Dim] = ["n", 0, 1, 2, 3]


def specs() -> Iterator[TensorSpec]:
    """All inputs of rank up to 3 with one axis name and sizes up to 3."""
    for axes in range(4):
        for dims in product(SIZES, repeat=axes):
            for batched in (None, True, False) if dims else (None,):
                yield spec("float32", *dims, batched=batched)


SHAPES = [shape for axes in range(5) for shape in product((0, 1, 2, 3), repeat=axes)]


def fitted(declared: TensorSpec, shape: Any) -> Fitted | Refusal:
    try:
        return fit(InputSpec(declared), shape)
    except ClientError as error:
        return refusal(error)


def reference_fit(declared: TensorSpec, shape: tuple[int, ...]) -> Fitted | Refusal:
    """The outcome of the reference's finish() for the shape of an array."""
    reader = oracle._Reader(declared, null_is_nan=False)
    try:
        if len(shape) > max(reader.ranks):
            raise reader.too_deep()
        reader.rank = len(shape)
        reader.sizes = dict(enumerate(shape))
        outcome = reader.finish()
    except ClientError as error:
        return refusal(error)
    return outcome.shape, outcome.as_items, outcome.as_one_item


def test_every_small_shape_is_judged_as_the_reference_does() -> None:
    accepted = 0
    for declared in specs():
        native = InputSpec(declared)
        for shape in SHAPES:
            try:
                outcome: Fitted | Refusal = fit(native, shape)
                accepted += 1
            except ClientError as error:
                outcome = refusal(error)
            assert outcome == reference_fit(declared, shape), (declared, shape)
    assert accepted > 1000


def test_the_walk_takes_the_same_shapes() -> None:
    for number, declared in enumerate(specs()):
        for shape in SHAPES[number % 3 :: 3]:
            fit_result = fitted(declared, shape)
            pool = GuardedPool()
            try:
                _, *walk_result = walk(InputSpec(declared), numpy.zeros(shape, "f4"), pool)
            except ClientError as error:
                # The walk reports the first surplus element, or the first that is not a list.
                rejected = refusal(error)
                assert isinstance(fit_result, Refusal)
                assert (rejected.error is EmptyBatchError) == (fit_result.error is EmptyBatchError)
            else:
                assert tuple(walk_result) == fit_result


@pytest.mark.parametrize("type_name", [*NUMBER_TYPES, "bool", "string"])
def test_the_type_of_the_elements_does_not_matter(type_name: str) -> None:
    assert fitted(spec(type_name, "n", 3), (5, 3)) == ((5, 3), False, False)
    assert fitted(spec(type_name, "n", 3), (3,)) == ((1, 3), True, True)
    assert fitted(spec(type_name, "n", 1), (3,)) == ((3, 1), True, False)
    assert fitted(spec(type_name), ()) == ((), False, False)


@pytest.mark.parametrize(
    ("dims", "shape", "problem"),
    [
        (("batch", 3), (2, 4), "expected [batch, 3], got [2, 4]"),
        (("batch", 3), (), "expected [batch, 3], got []"),
        (("batch", 3), (0, 3), None),
        (("batch", 3), (1, 2, 3), "expected [batch, 3], got more than 2 axes"),
        (("n",), (1, 1), "expected [n], got more than 1 axis"),
        ((), (1,) * 33, "expected at most 32 axes, got more than 32 axes"),
        ((), (1,) * 5000, "expected at most 32 axes, got more than 32 axes"),
        (("n", 3), (-1, 3), "expected [n, 3], got [-1, 3]"),
        ((), (2, -(2**70)), f"expected at most 32 axes, got [2, {-(2**70)}]"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(
    dims: tuple[Dim, ...], shape: tuple[int, ...], problem: str | None
) -> None:
    outcome = fitted(spec("float32", *dims), shape)
    if problem is None:
        assert refused(outcome).error is EmptyBatchError
    else:
        assert outcome == Refusal(InvalidShapeError, f"Invalid shape for 'x': {problem}", ())


def test_a_shape_may_be_larger_than_memory() -> None:
    assert fitted(spec("float32"), [2**62, 2**62]) == ((2**62, 2**62), False, False)
    assert fitted(spec("float32"), (1,) * 32) == ((1,) * 32, False, False)
    with pytest.raises(OverflowError):
        fit(InputSpec(spec("float32")), (2**63,))
    for nonsense in (("a",), (1.5,), 3, None):
        with pytest.raises(TypeError):
            fit(InputSpec(spec("float32")), nonsense)  # type: ignore[arg-type]
