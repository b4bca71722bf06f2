"""walk(): tensors of other libraries follow the rules for arrays; bfloat16 from NumPy."""

import ctypes
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import ml_dtypes
import numpy
import pytest

from gpux._dlpack import capsule
from gpux._fastpath import InputSpec, walk
from gpux.errors import InvalidValueError
from gpux.tensors.signature import Dim
from tests.support.dlpack_producers import (
    CPU,
    CUDA,
    CUDA_HOST,
    HOST,
    MANAGED,
    METAL,
    ROCM,
    Crafted,
    OldTensor,
    Owner,
    StubProducer,
    Tensor,
    references,
)
from tests.support.walk_cases import (
    LAYOUTS,
    NUMBER_TYPES,
    TYPE_NAMES,
    Array,
    GuardedBlock,
    GuardedPool,
    Refusal,
    expected,
    refused,
    spec,
    walked,
)

DIMS: list[tuple[Dim, ...]] = [(), ("n",), ("n", 3), ("n", None), (1, None, 3), (4, 3), (2, 2)]


def walk_arrays() -> list[Array]:
    base = numpy.array([[0, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 2]])
    arrays = [base.astype(dtype) for dtype in ("f2", "f4", "f8", "i1", "i8", "u1", "u8", "?")]
    arrays += [layout(base.astype("f4")) for layout in LAYOUTS]
    arrays += [base.astype("f4")[:, 0], base.astype("i4")[0, 0, ...], base[:, :0], base[:0]]
    arrays += [numpy.zeros((2, 0, 3), "f4"), numpy.zeros((0, 2), "?"), numpy.zeros(0, "u2")]
    for bad in (math.nan, math.inf, 1e300, 0.5, -1, 2**40):
        array = base.astype("f8")
        array[2, 1] = bad
        arrays.append(array)
    return arrays


@pytest.mark.parametrize("of", [Tensor, OldTensor])
@pytest.mark.parametrize("type_name", TYPE_NAMES)
def test_a_tensor_is_the_equal_array(type_name: str, of: type[Tensor]) -> None:
    for array in walk_arrays():
        for dims in DIMS:
            declared = spec(type_name, *dims)
            assert walked(declared, of(array)) == walked(declared, array)
            assert walked(declared, [of(array)] * 2) == walked(declared, [array] * 2)
            mixed, equal = [of(array), array.tolist()], [array, array.tolist()]
            assert walked(declared, mixed) == walked(declared, equal)
            if array.ndim > 0:
                rows = [of(row) for row in array[:, ...]] if array.ndim > 1 else []
                assert walked(declared, rows) == walked(declared, list(array) if rows else [])


def bfloats(*values: float) -> Array:
    return numpy.array(values, ml_dtypes.bfloat16)


@pytest.mark.parametrize("type_name", TYPE_NAMES)
def test_bfloat16_is_taken_from_tensors_and_from_numpy(type_name: str) -> None:
    finite = [0.0, -0.0, 1.0, -2.0, 0.5, 3.389e38, 9.2e-41, 1e-38]
    for values in (
        bfloats(*finite),
        bfloats(0, 1, 1, 0, 1, 1),
        bfloats(1, 2, math.nan),
        bfloats(1, math.inf),
        bfloats(-math.inf),
        bfloats(),
        bfloats(0, 1, 1, 0).reshape(2, 2),
        bfloats(*range(600)),
        bfloats(*range(600))[::-3],
        bfloats(*range(12)).reshape(3, 4).T,
        bfloats(1).reshape(()),
    ):
        equal = values.astype("f4")
        for dims in DIMS:
            declared = spec(type_name, *dims)
            outcome = expected(declared, equal)
            assert walked(declared, values) == outcome
            assert walked(declared, [values, values]) == expected(declared, [equal, equal])
            assert walked(declared, Tensor(values.copy())) == outcome
    for scalar in bfloats(*finite):
        declared = spec(type_name, "n")
        assert walked(declared, [scalar, scalar]) == expected(declared, [float(scalar)] * 2)
        assert walked(spec(type_name), scalar) == expected(spec(type_name), float(scalar))


def test_every_bfloat16_is_stored_bit_by_bit() -> None:
    every = numpy.arange(2**16, dtype="u2").view(ml_dtypes.bfloat16)
    pool = GuardedPool()
    block, shape, _, _ = walk(InputSpec(spec("bfloat16", "n")), every, pool)
    assert shape == every.shape
    assert isinstance(block, GuardedBlock)
    assert ctypes.string_at(block.address, every.nbytes) == every.tobytes()


def test_memory_that_the_cpu_reads_is_fed_as_it_lies() -> None:
    array = numpy.arange(6, dtype="f4").reshape(2, 3)
    for kind in (CPU, CUDA_HOST, MANAGED):
        for of in (Tensor, OldTensor):
            tensor = of(array, (kind, 0))
            declared = spec("float32", "n", 3)
            assert walked(declared, tensor) == expected(declared, array)
            assert [set(call) - {"max_version"} for call in tensor.calls] == [set()]


def test_a_tensor_on_a_device_is_brought_to_the_host() -> None:
    array = numpy.arange(6, dtype="f4").reshape(2, 3)
    for device in ((CUDA, 0), (CUDA, 7), (ROCM, 0), (99, 1)):
        tensor = Tensor(array, device)
        before = references(tensor)
        declared = spec("float64", "n", "m", 3)
        assert walked(declared, [tensor, array]) == expected(declared, [array, array])
        assert tensor.calls == [{"max_version": (1, 0), "dl_device": HOST}]
        assert references(tensor) == before


class WithoutDevice:
    """A producer without __dlpack_device__."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> object:
        return self.tensor.__dlpack__(**options)


@pytest.mark.parametrize("device", [HOST, (CUDA, 0)])
def test_a_tensor_that_does_not_say_where_it_lies_shows_it(device: tuple[int, int]) -> None:
    array = numpy.arange(6, dtype="f4").reshape(2, 3)
    declared = spec("float32", "n", 3)
    tensor = WithoutDevice(Tensor(array, device))
    assert walked(declared, tensor) == expected(declared, array)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ((CUDA, 0), "cuda:0"),
        ((CUDA, 12), "cuda:12"),
        ((ROCM, 1), "rocm:1"),
        ((METAL, 0), "metal:0"),
        ((99, 1), "device type 99"),
    ],
)
@pytest.mark.parametrize(
    "failure",
    [RuntimeError("no such thing"), BufferError("no"), ValueError("no"), None, "old", "stays"],
    ids=str,
)
def test_a_tensor_that_stays_on_its_device_is_refused(
    device: tuple[int, int], name: str, failure: Any
) -> None:
    array = numpy.arange(6, dtype="f4").reshape(2, 3)
    tensor: Any = StubProducer(failure, device)
    if failure == "old":
        tensor = OldTensor(array, device)
    elif failure == "stays":
        tensor = StubProducer(capsule(array, array.ctypes.data, 1, (2, 3), device, True), device)
    problem = f"the tensor is on {name}, and its library cannot bring it to the host"
    for type_name in TYPE_NAMES:
        for value, at, dims in (
            (tensor, "", ("n", 3)),
            (tensor, "", ()),
            ([tensor], " at [0]", ("n", 2, 3)),
            ([[[1]], [tensor]], " at [1][0]", ()),
        ):
            if type_name == "string" and at == " at [1][0]":
                continue
            outcome = walked(spec(type_name, *dims), value)
            assert isinstance(outcome, Refusal)
            assert outcome.error is InvalidValueError
            assert outcome.message == f"Invalid value for 'x'{at}: {problem}"
        # An element past a fixed size is reported before its device.
        one: Any = "text" if type_name == "string" else 1
        message = refused(walked(spec(type_name, 1), [one, tensor])).message
        assert message == "Invalid shape for 'x': expected [1], got [2]"


def test_the_reason_of_a_refusal_is_its_cause() -> None:
    reason = RuntimeError("the device is gone")
    with pytest.raises(InvalidValueError) as caught:
        walk(InputSpec(spec("float32", "n")), StubProducer(reason, (CUDA, 0)), GuardedPool())
    assert caught.value.__cause__ is reason
    assert caught.value.path == ()


def test_an_error_of_the_pool_keeps_its_own_cause() -> None:
    reason = RuntimeError("the driver says so")
    error = MemoryError()
    error.__cause__ = reason
    tensors = [Tensor(numpy.ones(2000, "f4"))] * 2
    for call in range(2):
        with pytest.raises(MemoryError) as caught:
            walk(InputSpec(spec("float32", "n", "m")), tensors, GuardedPool({call: error}))
        assert caught.value is error
        assert error.__cause__ is reason


NOT_TAKEN = "the tensor cannot be taken"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Tensor(numpy.zeros(2, "F")), "expected number, got Tensor"),
        (lambda: Tensor(numpy.zeros((), "D")), "expected number, got Tensor"),
        (lambda: Crafted(code=3), "expected number, got Crafted"),
        (lambda: Crafted(lanes=2), f"{NOT_TAKEN}: its elements are vectors of 2 lanes"),
        (lambda: Crafted(bits=4), f"{NOT_TAKEN}: its elements have 4 bits, not whole bytes"),
        (lambda: StubProducer(BufferError("it requires grad")), f"{NOT_TAKEN}: it requires grad"),
        (
            lambda: StubProducer(1),
            f"{NOT_TAKEN}: __dlpack__ answered no DLPack capsule that is still to be used",
        ),
        (lambda: StubProducer(1, 5), f"{NOT_TAKEN}: __dlpack_device__ answered 5"),
        (lambda: Tensor, "expected number, got type"),
        (lambda: numpy.ndarray, "expected number, got type"),
    ],
)
def test_what_cannot_be_taken_is_refused_at_its_place(
    make: Callable[[], object], problem: str
) -> None:
    for type_name in NUMBER_TYPES:
        message = refused(walked(spec(type_name, "n", "m"), [[0, make()]])).message
        assert message == f"Invalid value for 'x' at [0][1]: {problem}"


def test_a_tensor_that_lies_about_its_place_is_not_read() -> None:
    exported = capsule(Owner(), 64, 1, (2, 3), (CUDA, 0), True)
    outcome = walked(spec("float32"), StubProducer(exported, HOST))
    assert isinstance(outcome, Refusal)
    assert "the tensor is on cuda:0" in outcome.message


@pytest.mark.parametrize("error", [KeyError("its own"), MemoryError(), KeyboardInterrupt()])
def test_an_error_of_a_tensor_s_own_code_comes_through_as_itself(error: BaseException) -> None:
    devices = [HOST] if isinstance(error, KeyError) else [HOST, (CUDA, 0)]
    for device in devices:
        pool = GuardedPool()
        with pytest.raises(type(error)) as caught:
            walk(InputSpec(spec("float32", "n")), [1.0, StubProducer(error, device)], pool)
        assert caught.value is error
        assert pool.in_use == []


class OnDevice(numpy.ndarray[Any, Any]):
    """Has the buffer protocol but exports no buffer, like a JAX array on a device."""

    producer: Tensor

    def __dlpack_device__(self) -> tuple[Any, Any]:
        return (CUDA, 0)

    def __dlpack__(self, **options: Any) -> Any:
        return self.producer.__dlpack__(**options)


def test_a_tensor_whose_buffer_is_not_to_be_had_is_asked_for_its_memory() -> None:
    array = numpy.arange(6, dtype="f4").reshape(2, 3)
    value = numpy.zeros((2, 3), ml_dtypes.float8_e5m2).view(OnDevice)
    with pytest.raises(ValueError, match="buffer"):
        memoryview(value)  # type: ignore[arg-type]
    value.producer = Tensor(array, (CUDA, 0))
    declared = spec("float32", "n", "m", 3)
    assert walked(declared, [value, array]) == expected(declared, [array, array])
    assert value.producer.calls == [{"max_version": (1, 0), "dl_device": HOST}]


def test_walks_leave_all_tensors_as_they_were() -> None:
    array = numpy.arange(6, dtype="f4").reshape(2, 3)
    bad = array.copy()
    bad[1, 1] = math.nan
    for declared in (spec("float32", "n", 3), spec("int8", "n", 3), spec("float32", "n", 2)):
        for values in (array, bad, array[:, ::-1]):
            for of in (Tensor, OldTensor):
                tensor = of(values)
                before = references(tensor), references(values)
                for count in range(3):
                    walked(declared, [tensor] * count if count > 0 else tensor)
                assert (references(tensor), references(values)) == before


Make = Callable[[Array], Tensor]


@pytest.mark.usefixtures("eager_threads")
def test_eight_threads_walk_the_same_tensors() -> None:
    array = numpy.arange(30_000, dtype="f4").reshape(100, 300)
    makes: list[Make] = [Tensor, OldTensor, lambda values: Tensor(values, (CUDA, 0))]
    tensors = [make(array) for make in makes]
    declared = spec("float32", "n", "m")
    outcome = expected(declared, array)
    start = Barrier(8)

    def work(thread: int) -> None:
        start.wait(timeout=30)
        for turn in range(len(tensors)):
            assert walked(declared, tensors[(turn + thread) % len(tensors)]) == outcome

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(work, range(8)))
