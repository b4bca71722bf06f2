"""The fast path: JSON or Python values to tensors; tensors through activations, or to JSON.

All code that touches both Python objects and the core. Each entry point extracts pointers from its
arguments, runs the core, and turns the core's error into an exception of gpux.errors. This file has
what they share; the entry points are in walk.pxi (Python values), decode.pxi (request bodies) and
encode.pxi (responses). The classes are declared in gpux/_fastpath.pxd.
"""
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_FillInfo, PyBuffer_Release, PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t
from libc.string cimport memcpy
from libcpp cimport bool as boolean
from libcpp.vector cimport vector

cimport core
from core cimport (
    Activation, Error, JsonKind, Memory, Number, NumberKind, ReadError, Reader, Sink, Type,
)

from gpux._dlpack import device_of, take
from gpux.errors import (
    ClashingInputsError, DuplicateInputError, EmptyBatchError, InvalidBodyError, InvalidJSONError,
    InvalidShapeError, InvalidTypeError, InvalidValueError, UnknownInputError,
)

__all__ = ["Body", "InputSpec", "InputTable", "activate", "decode", "encode", "fit", "walk"]


cdef extern from "Python.h":
    # Declared with borrowed pointers, so that the inner loops count no references.
    bint PyFloat_CheckExact(PyObject*)
    bint PyLong_CheckExact(PyObject*)
    double PyFloat_AS_DOUBLE(PyObject*)
    double PyLong_AsDouble(PyObject*) except? -1.0
    long long PyLong_AsLongLongAndOverflow(PyObject*, int*) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(PyObject*) except? 0xFFFFFFFFFFFFFFFFULL
    object PyUnicode_FromObject(object)
    object PyUnicode_DecodeUTF8(const char*, Py_ssize_t, const char*)
    const char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) except NULL
    Py_ssize_t PySequence_Fast_GET_SIZE(object)
    PyObject** PySequence_Fast_ITEMS(object)
    PyObject* PyBytes_FromStringAndSize(const char*, Py_ssize_t) except NULL
    char* PyBytes_AS_STRING(PyObject*)
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1
    void* PyMem_RawMalloc(size_t)
    void PyMem_RawFree(void*)


cdef class InputSpec:
    """One model input, as the fast path needs it. Immutable; shared by all threads.

    Args:
        declared: a gpux.tensors.signature.TensorSpec.
        max_characters: limit for each string; None for no limit.
    """

    def __init__(self, declared, max_characters=None):
        cdef int axis
        self.name = declared.name
        self.type_name = declared.type.name
        self.word = declared.type.word
        self.shape_text = declared.shape_text
        self.native.type = <Type><int>declared.type.code
        self.native.axes = len(declared.dims)
        if self.native.axes > core.kMaxAxes:
            raise ValueError(f"{self.name!r} has more than {core.kMaxAxes} axes")
        self.native.min_axes = declared.min_axes
        self.native.max_axes = declared.max_axes
        self.native.open = declared.kind == "open"
        self.native.batched = declared.kind == "batched"
        self.native.flat_items = declared.flat_items
        self.native.max_characters = -1 if max_characters is None else max_characters
        # One row of the declared fixed sizes fits without growing.
        self.first_bytes = core.element_bytes(self.native.type)
        for axis in range(self.native.axes):
            size = declared.dims[axis]
            self.native.sizes[axis] = size if isinstance(size, int) else -1
            if isinstance(size, int) and size > 0:
                # Python integers: the product cannot overflow.
                self.first_bytes = min(self.first_bytes * size, MAX_FIRST_BYTES)


cdef void move(Memory* memory, uintptr_t address, size_t nbytes) noexcept:
    """Copies the written bytes to a larger block, which replaces the old one."""
    if memory.capacity > 0:  # memcpy accepts no null pointer, even for 0 bytes
        memcpy(<void*>address, memory.data, memory.capacity)
    memory.data = <unsigned char*>address
    memory.capacity = nbytes


cdef object value_error(InputSpec spec, const Sink* sink, object culprit, str number):
    """The exception for a sink's error.

    Args:
        spec: the input.
        sink: the sink that failed.
        culprit: the Python object at the error's path, if JSON has no name for its type.
        number: the rejected number, as text.
    """
    cdef Error error = sink.error()
    path = sizes_tuple(sink.path(), sink.path_size())
    expected = "array" if sink.expected_array() else spec.word
    if error == Error.wrong_type_at_top:
        return InvalidTypeError(spec.name, expected)
    if error == Error.wrong_type:
        got = got_text(sink.got(), culprit)
        return InvalidValueError(spec.name, path, f"expected {expected}, got {got}")
    if error == Error.out_of_range:
        problem = f"{number} is out of range for {spec.type_name}"
        return InvalidValueError(spec.name, path, problem)
    if error == Error.not_an_integer:
        return InvalidValueError(spec.name, path, f"{number} is not an integer")
    if error == Error.not_finite:
        return InvalidValueError(spec.name, path, f"{number} is not a finite number")
    if error == Error.too_long:
        problem = f"expected at most {sink.expected_values()} characters, got {sink.got_values()}"
        return InvalidValueError(spec.name, path, problem)
    if error == Error.ragged:
        noun = "value" if sink.expected_values() == 1 else "values"
        problem = f"expected {sink.expected_values()} {noun}, got {sink.got_values()}"
        return InvalidShapeError(spec.name, path, problem)
    if error == Error.empty_batch:
        return EmptyBatchError(spec.name)
    if error == Error.outgrown:
        got = "more"
    elif error == Error.too_deep:
        noun = "axis" if spec.native.max_axes == 1 else "axes"
        got = f"more than {spec.native.max_axes} {noun}"
    else:
        sizes = sizes_tuple(sink.got_sizes(), sink.got_axes())
        got = f"[{', '.join(map(str, sizes))}]"
    return InvalidShapeError(spec.name, (), f"expected {spec.shape_text}, got {got}")


cdef str got_text(JsonKind kind, object culprit):
    if kind == JsonKind.number:
        return "number"
    if kind == JsonKind.string:
        return "string"
    if kind == JsonKind.boolean:
        return "boolean"
    if kind == JsonKind.null:
        return "null"
    if kind == JsonKind.array:
        return "array"
    if kind == JsonKind.object:
        return "object"
    return type(culprit).__name__


cdef tuple sizes_tuple(const int64_t* sizes, int axes):
    return tuple([sizes[axis] for axis in range(axes)])


include "walk.pxi"
include "decode.pxi"
include "encode.pxi"
