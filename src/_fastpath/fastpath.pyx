"""The fast path: JSON or Python values in, tensors out; tensors in, activated or as JSON out.

What touches both Python objects and the core. Each entry takes what it needs of its arguments, lets
the core do the work, and turns the core's fault into an error of gpux.errors. Here stands what the
entries share; they follow from walk.pxi (Python values), decode.pxi (bodies) and encode.pxi
(answers).
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
    Activation, Fault, Got, Memory, Number, NumberKind, ReadFault, Reader, Sink, Type,
)

from gpux._dlpack import place_of, take
from gpux.errors import (
    ClashingInputsError, DuplicateInputError, EmptyBatchError, InvalidBodyError, InvalidJSONError,
    InvalidShapeError, InvalidTypeError, InvalidValueError, UnknownInputError,
)

__all__ = ["Body", "InputSpec", "InputTable", "activate", "decode", "encode", "fit", "walk"]


cdef extern from "Python.h":
    # Declared for borrowed pointers, so that the inner loops count no references.
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


cdef enum:
    # Taken before a value has shown its size; what is declared or promised may be anything.
    MOST_FIRST_BYTES = 1 << 24


cdef class InputSpec:
    """What the fast path needs to know of one model input. Immutable; shared by all threads.

    Args:
        declared: a gpux.tensor.TensorSpec.
        most_characters: of each string; None for any number.
    """

    cdef core.Spec native
    cdef readonly str name
    cdef str type_name
    cdef str word
    cdef str shape_text
    cdef size_t first_bytes

    def __init__(self, declared, most_characters=None):
        cdef int axis
        self.name = declared.name
        self.type_name = declared.type.name
        self.word = declared.type.word
        self.shape_text = declared.shape_text
        self.native.type = <Type><int>declared.type.code
        self.native.axes = len(declared.dims)
        if self.native.axes > core.kMaxAxes:
            raise ValueError(f"{self.name!r} has more than {core.kMaxAxes} axes")
        self.native.least_axes = declared.least_axes
        self.native.most_axes = declared.most_axes
        self.native.open = declared.kind == "open"
        self.native.batched = declared.kind == "batched"
        self.native.flat_items = declared.flat_items
        self.native.most_characters = -1 if most_characters is None else most_characters
        # One row of the declared fixed sizes fits without growing.
        self.first_bytes = core.element_bytes(self.native.type)
        for axis in range(self.native.axes):
            size = declared.dims[axis]
            self.native.sizes[axis] = size if isinstance(size, int) else -1
            if isinstance(size, int) and size > 0:
                # Multiplied as Python's integers, which do not overflow.
                self.first_bytes = min(self.first_bytes * size, MOST_FIRST_BYTES)


cdef void move(Memory* memory, uintptr_t address, size_t nbytes) noexcept:
    """Copies what was written to a larger block, which takes the old one's place."""
    if memory.capacity > 0:  # memcpy takes no null pointer, not even for nothing
        memcpy(<void*>address, memory.data, memory.capacity)
    memory.data = <unsigned char*>address
    memory.capacity = nbytes


cdef object value_error(InputSpec spec, const Sink* sink, object culprit, str number):
    """The error that a sink's fault stands for.

    Args:
        spec: of the input whose value it is about.
        sink: that has the fault.
        culprit: the Python object at its place, where JSON has no word for it.
        number: the number that was refused, as text.
    """
    cdef Fault fault = sink.fault()
    place = sizes_tuple(sink.place(), sink.place_axes())
    expected = "array" if sink.expected_array() else spec.word
    if fault == Fault.wrong_type_at_top:
        return InvalidTypeError(spec.name, expected)
    if fault == Fault.wrong_type:
        got = got_text(sink.got(), culprit)
        return InvalidValueError(spec.name, place, f"expected {expected}, got {got}")
    if fault == Fault.out_of_range:
        problem = f"{number} is out of range for {spec.type_name}"
        return InvalidValueError(spec.name, place, problem)
    if fault == Fault.not_an_integer:
        return InvalidValueError(spec.name, place, f"{number} is not an integer")
    if fault == Fault.not_finite:
        return InvalidValueError(spec.name, place, f"{number} is not a finite number")
    if fault == Fault.too_long:
        problem = f"expected at most {sink.expected_values()} characters, got {sink.got_values()}"
        return InvalidValueError(spec.name, place, problem)
    if fault == Fault.ragged:
        noun = "value" if sink.expected_values() == 1 else "values"
        problem = f"expected {sink.expected_values()} {noun}, got {sink.got_values()}"
        return InvalidShapeError(spec.name, place, problem)
    if fault == Fault.empty_batch:
        return EmptyBatchError(spec.name)
    if fault == Fault.outgrown:
        got = "more"
    elif fault == Fault.too_deep:
        noun = "axis" if spec.native.most_axes == 1 else "axes"
        got = f"more than {spec.native.most_axes} {noun}"
    else:
        sizes = sizes_tuple(sink.got_sizes(), sink.got_axes())
        got = f"[{', '.join(map(str, sizes))}]"
    return InvalidShapeError(spec.name, (), f"expected {spec.shape_text}, got {got}")


cdef str got_text(Got got, object culprit):
    if got == Got.number:
        return "number"
    if got == Got.string:
        return "string"
    if got == Got.boolean:
        return "boolean"
    if got == Got.null:
        return "null"
    if got == Got.array:
        return "array"
    if got == Got.object:
        return "object"
    return type(culprit).__name__


cdef tuple sizes_tuple(const int64_t* sizes, int axes):
    return tuple([sizes[axis] for axis in range(axes)])


include "walk.pxi"
include "decode.pxi"
include "encode.pxi"
