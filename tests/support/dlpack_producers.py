"""DLPack producers for tests, in place of other libraries' tensors."""

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
    """A DLPack 1.0 tensor over NumPy's memory, without the buffer protocol, like PyTorch's.

    Args:
        array: the memory; also bfloat16, which NumPy itself does not export.
        device: that it claims to be on.
    """

    def __init__(self, array: Array, device: tuple[int, int] = HOST) -> None:
        self.array = array
        self.device = device
        self.calls: list[dict[str, Any]] = []

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
        self.calls.append({name: value for name, value in given.items() if value is not None})
        return self.export(dl_device or self.device, max_version is not None)

    def export(self, device: tuple[int, int], versioned: bool) -> Any:
        if self.array.dtype == ml_dtypes.bfloat16 or device != HOST:
            assert self.array.flags.c_contiguous
            code = BY_NAME[self.array.dtype.name].code
            return capsule(self, self.array.ctypes.data, code, self.array.shape, device, versioned)
        return self.array.__dlpack__(max_version=(1, 0) if versioned else None)


class OldTensor(Tensor):
    """A producer from before DLPack 1.0, without the newer parameters."""

    def __dlpack__(self, stream: int | None = None) -> Any:  # type: ignore[override]
        self.calls.append({} if stream is None else {"stream": stream})
        return self.export(self.device, versioned=False)


class NoDlDeviceTensor(Tensor):
    """Accepts `max_version`, but not yet `dl_device`, like PyTorch 2.8."""

    def __dlpack__(  # type: ignore[override]
        self, *, stream: int | None = None, max_version: tuple[int, int] | None = None
    ) -> Any:
        return super().__dlpack__(stream=stream, max_version=max_version)


class StubProducer:
    """Returns, or raises, the same object whatever the arguments."""

    def __init__(self, result: object, device: object = HOST) -> None:
        self.result = result
        self.device = device

    def __dlpack_device__(self) -> object:
        return self.device

    def __dlpack__(self, **_: object) -> object:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


class Owner:
    """Owns memory; not immortal, so that its references can be counted."""

    def __init__(self, nbytes: int = 256) -> None:
        self.memory = numpy.arange(nbytes, dtype=numpy.uint8)
        self.address = int(self.memory.ctypes.data)


def references(owner: object) -> int:
    return sys.getrefcount(owner)


# Broken producers, built from the structures of the DLPack specification with ctypes.


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

# A capsule does not copy its name, nor a consumer the structure: these are never freed.
kept_alive: list[object] = []


def consume(exported: object) -> tuple[int, CManaged | CVersioned]:
    """Consumes a capsule like C code. Returns the address of the managed tensor, and the tensor."""
    versioned = "dltensor_versioned" in repr(exported)
    name = b"dltensor_versioned" if versioned else b"dltensor"
    used = b"used_" + name
    kept_alive.append(used)
    address = capsule_pointer(exported, name)
    set_capsule_name(exported, used)
    return address, (CVersioned if versioned else CManaged).from_address(address)


class Crafted:
    """A producer of one capsule with arbitrary fields, which records its deleter's calls.

    Args:
        versioned: whether it is a DLManagedTensorVersioned.
        name: of the capsule; None for the standard one.
        deleter: whether it has one.
        shape, strides: None for a null pointer.
        changes: fields of the tensor, or `major`, `minor` and `flags` if versioned.
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
        kept_alive.append(self)
        self.capsule = new_capsule(self.address, self.name, None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.managed.tensor.device_type, self.managed.tensor.device_id)

    def __dlpack__(self, **_: object) -> object:
        return self.capsule
