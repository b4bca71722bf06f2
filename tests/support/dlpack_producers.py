"""What the tests of DLPack share: tensors of other libraries, as far as lending goes."""

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy

from gpux._dlpack import capsule
from gpux.tensors.signature import BY_NAME
from tests.support.walk_cases import Array

# DLPack's device types.
CPU, CUDA, CUDA_HOST, METAL, ROCM, MANAGED = 1, 2, 3, 8, 10, 13
HOST = (CPU, 0)


class Tensor:
    """A tensor with NumPy's memory and no buffer, as PyTorch's: of DLPack 1.0.

    Args:
        array: the memory; bfloat16 too, which NumPy itself does not lend.
        device: where it claims to lie.
    """

    def __init__(self, array: Array, device: tuple[int, int] = HOST) -> None:
        self.array = array
        self.device = device
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        given = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy}
        self.asked.append({name: value for name, value in given.items() if value is not None})
        return self.lend(dl_device or self.device, max_version is not None)

    def lend(self, device: tuple[int, int], versioned: bool) -> Any:
        if self.array.dtype == ml_dtypes.bfloat16 or device != HOST:
            assert self.array.flags.c_contiguous
            code = BY_NAME[self.array.dtype.name].code
            return capsule(self, self.array.ctypes.data, code, self.array.shape, device, versioned)
        return self.array.__dlpack__(max_version=(1, 0) if versioned else None)


class OldTensor(Tensor):
    """One of before version 1, which knows none of the newer questions."""

    def __dlpack__(self, stream: int | None = None) -> Any:  # type: ignore[override]
        self.asked.append({} if stream is None else {"stream": stream})
        return self.lend(self.device, versioned=False)


class Positional(Tensor):
    """Knows `max_version`, but not yet `dl_device`, as PyTorch 2.8."""

    def __dlpack__(  # type: ignore[override]
        self, *, stream: int | None = None, max_version: tuple[int, int] | None = None
    ) -> Any:
        return super().__dlpack__(stream=stream, max_version=max_version)


class Answering:
    """Answers the same whatever it is asked."""

    def __init__(self, answer: object, device: object = HOST) -> None:
        self.answer = answer
        self.device = device

    def __dlpack_device__(self) -> object:
        return self.device

    def __dlpack__(self, **_: object) -> object:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Owner:
    """What keeps memory alive; mortal, so that its references can be counted."""

    def __init__(self, nbytes: int = 256) -> None:
        self.memory = numpy.arange(nbytes, dtype=numpy.uint8)
        self.address = int(self.memory.ctypes.data)


def references(owner: object) -> int:
    return sys.getrefcount(owner)


# Broken producers, made by hand: the structures of the specification, as ctypes lays them out.


class CTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class CManaged(ctypes.Structure):
    _fields_ = (("tensor", CTensor), ("context", ctypes.c_void_p), ("deleter", DELETER))


class CVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", CTensor),
    )


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
capsule_pointer.restype = ctypes.c_void_p
capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
set_capsule_name = ctypes.pythonapi.PyCapsule_SetName
set_capsule_name.argtypes = (ctypes.py_object, ctypes.c_char_p)

# A capsule does not copy its name, nor a consumer the structure: these stay for good.
for_good: list[object] = []


def consume(lent: object) -> tuple[int, CManaged | CVersioned]:
    """Takes a capsule as a consumer in C would: (address of the managed tensor, itself)."""
    versioned = "dltensor_versioned" in repr(lent)
    name, used = (
        (b"dltensor_versioned", b"used_dltensor_versioned")
        if versioned
        else (b"dltensor", b"used_dltensor")
    )
    for_good.append(used)
    address = capsule_pointer(lent, name)
    set_capsule_name(lent, used)
    return address, (CVersioned if versioned else CManaged).from_address(address)


class Crafted:
    """A producer of one capsule that says whatever it is told, and counts its deleter's calls.

    Args:
        versioned: of which form.
        name: of the capsule; the form's own if None.
        deleter: whether there is one.
        shape, strides: arrays; None for a null pointer.
        changes: fields of the tensor and, for the versioned form, of what is around it.
    """

    def __init__(
        self,
        versioned: bool = True,
        name: bytes | None = None,
        deleter: bool = True,
        shape: Sequence[int] | None = (2, 3),
        strides: Sequence[int] | None = None,
        **changes: int | None,
    ) -> None:
        self.deleted: list[int] = []
        self.memory = numpy.arange(256, dtype="u1")
        self.managed = CVersioned(major=1) if versioned else CManaged()
        self.managed.deleter = self.deleter = (
            DELETER(lambda managed: self.deleted.append(managed)) if deleter else DELETER()
        )
        tensor = self.managed.tensor
        tensor.data = self.memory.ctypes.data
        tensor.device_type, tensor.code, tensor.bits, tensor.lanes = CPU, 2, 32, 1
        for field, sizes in (("shape", shape), ("strides", strides)):
            if sizes is not None:
                array = (ctypes.c_int64 * max(len(sizes), 1))(*sizes)
                setattr(tensor, field, array)
                tensor.ndim = len(sizes)
        for field, value in changes.items():
            setattr(self.managed if field in ("major", "minor", "flags") else tensor, field, value)
        self.name = name or (b"dltensor_versioned" if versioned else b"dltensor")
        self.address = ctypes.addressof(self.managed)
        for_good.append(self)
        self.capsule = new_capsule(self.address, self.name, None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.managed.tensor.device_type, self.managed.tensor.device_id)

    def __dlpack__(self, **_: object) -> object:
        return self.capsule
