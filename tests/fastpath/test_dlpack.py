"""DLPack as producer and as consumer, with NumPy, with itself and with broken producers."""

import ctypes
import gc
import math
import operator
import pickle
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from itertools import product
from threading import Barrier
from typing import Any

import numpy
import pytest

from gpux._dlpack import View, capsule, device_of, take
from gpux.tensors.signature import BY_NAME, ELEMENT_TYPES
from tests.support.dlpack_producers import (
    CUDA,
    CUDA_HOST,
    HOST,
    Crafted,
    NoDlDeviceTensor,
    OldTensor,
    Owner,
    StubProducer,
    Tensor,
    consume,
    new_capsule,
    references,
)
from tests.support.walk_cases import LAYOUTS, Array, run_in_subprocess

EXPORTABLE = [element for element in ELEMENT_TYPES if element.nbytes > 0]
SHAPES: list[tuple[int, ...]] = [
    *((), (1,), (7,), (0,), (2, 3), (0, 3), (3, 0, 2), (1, 1, 1), (2, 1, 3, 4), (1,) * 32),
]


def dense_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    sizes = [max(size, 1) for size in shape[1:]]
    return tuple(itemsize * math.prod(sizes[axis:]) for axis in range(len(shape)))


def content(view: View) -> bytes:
    """The bytes of a host view's elements, in C order."""
    if 0 in view.shape:
        return b""
    items = []
    for index in product(*map(range, view.shape)):
        offset = sum(map(operator.mul, index, view.strides))
        items.append(ctypes.string_at(view.address + offset, view.itemsize))
    return b"".join(items)


# Exported and consumed again.


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("element", EXPORTABLE, ids=lambda element: element.name)
def test_what_is_lent_is_taken_as_it_is(element: Any, versioned: bool) -> None:
    owner = Owner()
    for shape in SHAPES:
        for device in (HOST, (CUDA_HOST, 0), (CUDA, 3)):
            exported = capsule(owner, owner.address, element.code, shape, device, versioned)
            view = take(StubProducer(exported))
            assert view.address == owner.address
            assert view.shape == shape
            assert view.strides == dense_strides(shape, element.nbytes)
            assert view.type_code == element.code
            assert view.itemsize == element.nbytes
            assert view.device == device
            assert view.is_dense
            assert view.read_only is False
            size = math.prod(shape) * element.nbytes
            assert content(view) == owner.memory.tobytes()[:size]
            # The view's memory, exported again.
            exported = capsule(
                view, view.address, view.type_code, view.shape, view.device, versioned
            )
            again = take(StubProducer(exported))
            assert (again.address, again.shape, again.device) == (view.address, shape, device)


@pytest.mark.parametrize("versioned", [True, False])
def test_a_capsule_has_the_name_of_its_version(versioned: bool) -> None:
    exported = capsule(Owner(), 0, 1, (0,), HOST, versioned)
    name = "dltensor_versioned" if versioned else "dltensor"
    assert f'"{name}"' in repr(exported)
    view = take(StubProducer(exported))
    assert f'"used_{name}"' in repr(exported)
    del view
    assert f'"used_{name}"' in repr(exported)


def test_a_tensor_without_elements_needs_no_memory() -> None:
    for shape in ((0,), (2, 0), (0, 5, 0)):
        view = take(StubProducer(capsule(Owner(), 0, 1, shape, HOST, True)))
        assert view.address == 0
        assert view.shape == shape
        assert view.is_dense


@pytest.mark.parametrize(
    ("type_code", "shape"),
    [
        *((0, (1,)), (8, (1,)), (14, (1,)), (-1, (1,)), (1, (1,) * 33), (1, (-1,)), (1, (2, -3))),
        *((1, (2**63,)), (1, (2**61,)), (1, (0, 2**61)), (1, (-(2**70),))),
        (1, (2**32, 2**32, 2**32)),
    ],
)
def test_what_is_no_tensor_is_not_lent(type_code: int, shape: tuple[int, ...]) -> None:
    owner = Owner()
    before = references(owner)
    with pytest.raises(ValueError, match=r"no type|no tensor"):
        capsule(owner, 0, type_code, shape, HOST, True)
    assert references(owner) == before


@pytest.mark.parametrize(
    ("shape", "device"), [(("a",), HOST), ((1.5,), HOST), ((1,), (1,)), ((1,), ("a", 0))]
)
def test_what_is_no_number_is_not_lent(shape: Any, device: Any) -> None:
    owner = Owner()
    before = references(owner)
    with pytest.raises((TypeError, ValueError)):
        capsule(owner, 0, 1, shape, device, True)
    assert references(owner) == before


# NumPy as consumer and producer.


@pytest.mark.parametrize("device", [HOST, (CUDA_HOST, 0)])
@pytest.mark.parametrize(
    "type_name", [element.name for element in EXPORTABLE if element.numpy is not None]
)
def test_numpy_takes_what_is_lent(type_name: str, device: tuple[int, int]) -> None:
    for shape in SHAPES:
        count = math.prod(shape)
        numbers = numpy.arange(count) % 2 if type_name == "bool" else numpy.arange(count)
        array = numbers.astype(type_name).reshape(shape)
        tensor = Tensor(array, device)
        code = BY_NAME[type_name].code
        for versioned in (True, False):
            exported = capsule(tensor, array.ctypes.data, code, shape, device, versioned)
            imported = numpy.from_dlpack(StubProducer(exported, device))  # type: ignore[arg-type]
            assert imported.dtype == array.dtype
            assert imported.shape == shape
            assert numpy.array_equal(imported, array)
            if count > 0:
                assert imported.ctypes.data == array.ctypes.data
            assert imported.flags.writeable is versioned
        del imported, exported
        before = references(tensor) + references(array)
        imported = numpy.from_dlpack(tensor)
        assert numpy.array_equal(imported, array)
        assert references(tensor) + references(array) == before + 1
        del imported
        assert references(tensor) + references(array) == before


def numpy_layouts() -> list[Array]:
    grid = numpy.arange(2 * 3 * 4, dtype="f4").reshape(2, 3, 4)
    return [
        *(layout(grid) for layout in LAYOUTS),
        grid[::-1, ::2, 1:],
        grid[:, :, ::-3],
        grid[1],
        grid[1, 2, 3:],
        grid[1, 2, 3, ...],
        grid[:, :0],
        grid[:, None, 0],
        grid.transpose(2, 0, 1),
        numpy.broadcast_to(grid[0, 0], (4, 2, 4)),
        numpy.broadcast_to(grid[0, 0, 0], (3, 3)),
        numpy.lib.stride_tricks.sliding_window_view(grid[0, 0], 2),
        numpy.lib.stride_tricks.as_strided(grid, (1, 4), (9, 4)),
        numpy.lib.stride_tricks.as_strided(grid, (0, 4), (9, 9)),
        grid.astype("i2"),
        grid.astype("u8"),
        grid.astype("?"),
    ]


@pytest.mark.parametrize("of", [Tensor, OldTensor])
def test_numpy_s_arrays_are_taken_in_any_layout(of: type[Tensor]) -> None:
    for array in numpy_layouts():
        if of is OldTensor and not array.flags.writeable:
            continue  # the unversioned form has no read-only flag
        before = references(array)
        view = take(of(array))
        assert view.shape == array.shape
        assert view.type_code == BY_NAME[array.dtype.name].code
        assert view.itemsize == array.itemsize
        assert view.device == HOST
        assert view.is_dense == array.flags.c_contiguous
        assert view.read_only is not array.flags.writeable
        assert content(view) == array.tobytes()
        if array.size > 0:
            assert view.address == array.ctypes.data
            for size, stride, numpys in zip(view.shape, view.strides, array.strides, strict=True):
                assert size == 1 or stride == numpys
        del view
        assert references(array) == before


def test_a_type_without_onnx_number_is_taken_without_one() -> None:
    for dtype, itemsize in (("F", 8), ("D", 16)):
        view = take(Tensor(numpy.zeros((2, 2), dtype)))
        assert (view.type_code, view.itemsize, view.strides[1]) == (0, itemsize, itemsize)


# The arguments of __dlpack__.


def test_a_producer_is_asked_for_no_more_than_is_wanted() -> None:
    array = numpy.zeros(3, "f4")
    for arguments, passed in (
        ({}, {}),
        ({"stream": 1}, {"stream": 1}),
        ({"device": HOST}, {"dl_device": HOST}),
        ({"device": [1, 0], "stream": 7}, {"dl_device": HOST, "stream": 7}),
    ):
        new, old = Tensor(array), OldTensor(array)
        take(new, **arguments)
        assert new.calls == [{"max_version": (1, 0), **passed}]
        take(old, **arguments)
        assert old.calls == [{name: passed[name] for name in passed if name == "stream"}]


@pytest.mark.parametrize("of", [OldTensor, NoDlDeviceTensor])
def test_a_producer_that_cannot_bring_a_tensor_is_not_asked_for_it(of: type[Tensor]) -> None:
    tensor = of(numpy.zeros(3, "f4"), (CUDA, 0))
    with pytest.raises(BufferError, match="no way to bring it to another device"):
        take(tensor, device=HOST)
    assert tensor.calls == []
    view = take(tensor, device=(CUDA, 0))
    assert view.device == (CUDA, 0)
    assert take(tensor).device == (CUDA, 0)


def test_a_tensor_that_was_left_where_it_was_is_refused() -> None:
    owner = Owner()
    before = references(owner)
    exported = capsule(owner, owner.address, 1, (2,), (CUDA, 1), True)
    with pytest.raises(BufferError, match=r"left it on device \(2, 1\), asked for \(1, 0\)"):
        take(StubProducer(exported), device=HOST)
    assert references(owner) == before


@pytest.mark.parametrize(
    "error",
    [TypeError("its own"), BufferError("its own"), KeyError("its own"), KeyboardInterrupt()],
)
def test_what_a_producer_raises_comes_through_as_itself(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        take(StubProducer(error))
    assert caught.value is error
    assert error.__context__ is None


def test_what_has_no_dlpack_is_no_producer() -> None:
    for value in (1, "text", None, [1.0]):
        with pytest.raises(AttributeError, match="__dlpack__"):
            take(value)


class DeviceType(IntEnum):
    cuda = CUDA


def test_the_place_is_what_the_tensor_says_in_plain_numbers() -> None:
    assert device_of(numpy.zeros(3)) == (1, 0)
    assert device_of(1) is None
    device = device_of(StubProducer(None, (DeviceType.cuda, numpy.int64(3))))
    assert device == (2, 3)
    assert [type(number) for number in device or ()] == [int, int]
    assert device_of(StubProducer(None, [1, 0])) == (1, 0)
    for nonsense in (None, 1, (1,), (1, 2, 3), ("a", "b"), (None, 0), "x" * 500):
        with pytest.raises(BufferError, match="__dlpack_device__ answered"):
            device_of(StubProducer(None, nonsense))


# Broken producers.


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("deleter", [True, False])
def test_a_tensor_is_deleted_once(versioned: bool, deleter: bool) -> None:
    crafted = Crafted(versioned, deleter=deleter)
    view = take(crafted)
    assert (view.shape, view.strides, view.type_code) == ((2, 3), (12, 4), 1)
    assert content(view) == crafted.memory.tobytes()[:24]
    for _ in range(2):
        with pytest.raises(BufferError, match="no DLPack capsule that is still to be used"):
            take(crafted)
    assert crafted.deleted == []
    del view
    gc.collect()
    assert crafted.deleted == ([crafted.address] if deleter else [])


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lanes": 4}, "its elements are vectors of 4 lanes"),
        ({"lanes": 0}, "its elements are vectors of 0 lanes"),
        ({"bits": 4}, "its elements have 4 bits, not whole bytes"),
        ({"bits": 0}, "its elements have 0 bits, not whole bytes"),
        ({"ndim": -1}, "the tensor has -1 axes, but no sizes"),
        ({"shape": None, "ndim": 2}, "the tensor has 2 axes, but no sizes"),
        ({"shape": (1,) * 33}, "the tensor has 33 axes, more than 32"),
        ({"ndim": 2**31 - 1}, "the tensor has 2147483647 axes, more than 32"),
        ({"shape": (2, -3)}, "the tensor has a negative size: [2, -3]"),
        ({"shape": (0, -3)}, "the tensor has a negative size: [0, -3]"),
        ({"data": None}, "the tensor has elements, but no memory"),
        ({"data": None, "shape": ()}, "the tensor has elements, but no memory"),
        ({"shape": (2**62, 2)}, "the tensor is larger than any memory"),
        ({"shape": (2**31, 2**31, 2**31)}, "the tensor is larger than any memory"),
        ({"shape": (0, 2**62, 2**62)}, "the tensor is larger than any memory"),
        ({"shape": (3,), "strides": (2**62,)}, "the tensor is larger than any memory"),
        ({"shape": (0,), "strides": (-(2**63),)}, "the tensor is larger than any memory"),
    ],
)
def test_a_broken_tensor_is_refused_and_deleted(
    versioned: bool, changes: dict[str, Any], problem: str
) -> None:
    crafted = Crafted(versioned, **changes)
    with pytest.raises(BufferError) as caught:
        take(crafted)
    assert problem in str(caught.value)
    del caught
    assert crafted.deleted == [crafted.address]


def test_another_major_version_is_left_alone() -> None:
    for major in (0, 2, 2**32 - 1):
        crafted = Crafted(major=major, minor=3)
        with pytest.raises(BufferError, match=rf"DLPack {major}\.3 is not understood"):
            take(crafted)
        assert crafted.deleted == []
        assert '"dltensor_versioned"' in repr(crafted.capsule)
    view = take(Crafted(major=1, minor=9))
    assert view.shape == (2, 3)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        1,
        "dltensor",
        (1, 2),
        object(),
        Crafted(name=b"tensor").capsule,
        Crafted(name=b"dltensor_versioned ").capsule,
        Crafted(name=b"used_dltensor").capsule,
        Crafted(name=b"used_dltensor_versioned").capsule,
        new_capsule(1, None, None),
    ],
)
def test_what_is_no_capsule_of_dlpack_is_refused(answer: object) -> None:
    with pytest.raises(BufferError, match="no DLPack capsule"):
        take(StubProducer(answer))


def test_the_layout_is_read_as_it_stands() -> None:
    view = take(Crafted(shape=(2, 3), strides=(-1, 0), bits=16, byte_offset=8, flags=1))
    assert (view.strides, view.itemsize, view.type_code) == ((-2, 0), 2, 10)
    assert view.read_only is True
    assert view.is_dense is False
    crafted = Crafted(byte_offset=40, flags=2 + 4)
    view = take(crafted)
    assert view.address == crafted.memory.ctypes.data + 40
    assert view.read_only is False
    for shape, strides, dense in (
        ((2, 3), (3, 1), True),
        ((2, 3), (1, 2), False),
        ((2, 3), (4, 1), False),
        ((1, 3), (99, 1), True),
        ((3, 1), (1, -7), True),
        ((3, 1), (2, 1), False),
        ((0, 3), (9, 9), True),
        ((1, 1), (0, 0), True),
        ((2,), (0,), False),
        ((), (), True),
    ):
        assert take(Crafted(shape=shape, strides=strides)).is_dense is dense
    view = take(Crafted(device_type=CUDA, device_id=5))
    assert view.device == (2, 5)


@pytest.mark.parametrize(
    ("code", "bits", "type_code"),
    [
        *((0, bits, code) for bits, code in ((8, 3), (16, 5), (32, 6), (64, 7), (128, 0))),
        *((1, bits, code) for bits, code in ((8, 2), (16, 4), (32, 12), (64, 13), (24, 0))),
        *((2, bits, code) for bits, code in ((16, 10), (32, 1), (64, 11), (8, 0), (128, 0))),
        *((4, bits, code) for bits, code in ((16, 16), (32, 0))),
        *((5, bits, 0) for bits in (64, 128)),
        *((6, bits, code) for bits, code in ((8, 9), (16, 0))),
        *((kind, 8, 0) for kind in (3, 7, 8, 12, 17, 255)),
    ],
)
def test_every_type_of_dlpack_has_its_number(code: int, bits: int, type_code: int) -> None:
    view = take(Crafted(code=code, bits=bits, shape=(1,)))
    assert (view.type_code, view.itemsize) == (type_code, bits // 8)


def test_a_view_is_made_by_take_alone_and_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match=r"made by take\(\)"):
        View()
    view = take(Crafted())
    for attribute in ("address", "shape", "device", "read_only", "other"):
        with pytest.raises(AttributeError):
            setattr(view, attribute, getattr(view, attribute, None))
    with pytest.raises(TypeError):
        pickle.dumps(view)
    with pytest.raises(TypeError):
        type("Own", (View,), {})


# References.


@pytest.mark.parametrize("versioned", [True, False])
def test_the_owner_is_referenced_for_as_long_as_the_loan_lasts(versioned: bool) -> None:
    owner = Owner()
    before = references(owner)

    def export() -> object:
        return capsule(owner, owner.address, 1, (2, 3), HOST, versioned)

    # Never consumed.
    exported = export()
    assert references(owner) == before + 1
    del exported
    assert references(owner) == before
    # Consumed; the capsule is deleted before or after the view.
    exported = export()
    view = take(StubProducer(exported))
    assert references(owner) == before + 1
    del exported
    assert references(owner) == before + 1
    del view
    assert references(owner) == before
    exported = export()
    view = take(StubProducer(exported))
    del view
    assert references(owner) == before
    del exported
    assert references(owner) == before
    # Consumed by NumPy.
    array = numpy.from_dlpack(StubProducer(export()))  # type: ignore[arg-type]
    part = array[1:]
    del array
    assert references(owner) == before + 1
    del part
    assert references(owner) == before


def test_nothing_is_left_behind() -> None:
    owner = Owner()
    array = numpy.zeros((2, 3), "f4")
    before = references(owner), references(array)

    def once() -> None:
        for versioned in (True, False):
            capsule(owner, owner.address, 1, (2, 3), HOST, versioned)
            take(StubProducer(capsule(owner, owner.address, 1, (2, 3), HOST, versioned)))
            with pytest.raises(BufferError):
                take(StubProducer(capsule(owner, 0, 1, (2, 3), HOST, versioned)))
            with pytest.raises(ValueError, match="no type"):
                capsule(owner, owner.address, 99, (2, 3), HOST, versioned)
        take(array)
        device_of(array)
        take(OldTensor(array))

    once()
    objects_before = sys.getallocatedblocks()
    for _ in range(300):
        once()
    gc.collect()
    assert (references(owner), references(array)) == before
    assert sys.getallocatedblocks() - objects_before < 500


def test_an_error_on_its_way_survives_the_end_of_a_loan() -> None:
    class Failing:
        def __del__(self) -> None:
            try:
                raise KeyError("inside")
            except KeyError:
                pass

    def fail() -> None:
        views = [
            take(StubProducer(capsule(Failing(), 1, 1, (2,), HOST, versioned)))
            for versioned in (True, False)
        ]
        unused = capsule(Failing(), 1, 1, (2,), HOST, True)
        assert len(views) == 2
        assert "dltensor" in repr(unused)
        raise ValueError("on its way")

    with pytest.raises(ValueError, match="on its way"):
        fail()


# Threads.


@pytest.mark.parametrize("versioned", [True, False])
def test_a_loan_may_end_on_another_thread(versioned: bool) -> None:
    owner = Owner()
    before = references(owner)
    views = [
        take(StubProducer(capsule(owner, owner.address, 1, (2, 3), HOST, versioned)))
        for _ in range(400)
    ]
    assert references(owner) == before + 400
    start = Barrier(4)

    def drop() -> None:
        start.wait(timeout=30)
        for _ in range(100):
            views.pop()

    with ThreadPoolExecutor(4) as executor:
        for done in [executor.submit(drop) for _ in range(4)]:
            done.result(timeout=60)
    assert references(owner) == before


@pytest.mark.parametrize("versioned", [True, False])
def test_the_deleter_takes_the_gil_itself(versioned: bool) -> None:
    owner = Owner()
    before = references(owner)

    def delete(exported: object) -> None:
        address, managed = consume(exported)
        managed.deleter(address)  # ctypes calls it without the GIL

    exported = [capsule(owner, 1, 1, (2, 3), HOST, versioned) for _ in range(200)]
    assert references(owner) == before + 200
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(delete, exported))
    assert references(owner) == before
    del exported
    assert references(owner) == before


def test_one_capsule_is_taken_by_one_thread() -> None:
    for _ in range(200):
        crafted = Crafted()
        start = Barrier(2)

        def race(crafted: Crafted = crafted, start: Barrier = start) -> bool:
            start.wait(timeout=30)
            try:
                take(crafted)
            except BufferError:
                return False
            return True

        with ThreadPoolExecutor(2) as executor:
            outcomes = [executor.submit(race) for _ in range(2)]
            assert sorted(outcome.result(timeout=30) for outcome in outcomes) == [False, True]
        assert crafted.deleted == [crafted.address]


def exports_that_outlive_the_interpreter() -> None:
    c_library = ctypes.CDLL(None)
    kept: list[object] = []
    for versioned in (True, False):
        address, managed = consume(capsule(Owner(), 1, 1, (2, 3), HOST, versioned))
        deleter = ctypes.cast(managed.deleter, ctypes.c_void_p)
        # Called at process exit, after the interpreter is finalized.
        assert c_library.__cxa_atexit(deleter, ctypes.c_void_p(address), None) == 0
        kept.append(take(StubProducer(capsule(Owner(), 1, 1, (2, 3), HOST, versioned))))
        kept.append(capsule(Owner(), 1, 1, (2, 3), HOST, versioned))
    sys.modules["kept"] = kept  # type: ignore[assignment]


def test_a_loan_may_outlive_the_interpreter() -> None:
    run_in_subprocess(exports_that_outlive_the_interpreter)
