"""Python values to tensors, and the memory that tensors lie in.

Each entry point extracts pointers from its arguments, runs the core, and turns the core's error into
an exception of gpux.errors. This file has what they share with engine.pyx, which runs models; blocks
and pools are in memory.pxi, Python values in walk.pxi, request bodies in body.pxi, and those that come in
chunks in framing.pxi. The classes are declared in gpux/_fastpath.pxd.
"""
from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_STRIDES, PyBuffer_FillInfo, PyBuffer_Release, PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t
from libc.string cimport memcpy
from libcpp cimport bool as boolean
from libcpp.memory cimport make_shared
from libcpp.utility cimport move as take_over
from libcpp.vector cimport vector

cimport core
from core cimport (
    Activation, Allocator, Error, JsonKind, Memory, NativeBlock, Number, NumberKind, RawBlock, Sink, Type,
)

from threading import get_ident

from gpux._dlpack import device_of, take
from gpux.errors import EmptyBatchError, InvalidShapeError, InvalidTypeError, InvalidValueError

HOST = (1, 0)  # DLPack's device of host memory

__all__ = ["Block", "Body", "Chunks", "InputSpec", "InputTable", "Pool", "activate", "fit", "walk"]


cdef extern from "Python.h":
    # Declared with borrowed pointers, so that the inner loops count no references.
    bint PyFloat_CheckExact(PyObject*)
    bint PyLong_CheckExact(PyObject*)
    double PyFloat_AS_DOUBLE(PyObject*)
    double PyLong_AsDouble(PyObject*) except? -1.0
    long long PyLong_AsLongLongAndOverflow(PyObject*, int*) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(PyObject*) except? 0xFFFFFFFFFFFFFFFFULL
    object PyUnicode_FromObject(object)
    const char* PyUnicode_AsUTF8AndSize(object, Py_ssize_t*) except NULL
    Py_ssize_t PySequence_Fast_GET_SIZE(object)
    PyObject** PySequence_Fast_ITEMS(object)
    PyObject* PyBytes_FromStringAndSize(const char*, Py_ssize_t) except NULL
    char* PyBytes_AS_STRING(PyObject*)
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1


cdef class InputSpec:
    """One model input, as the fast path needs it. Immutable; shared by all threads.

    Args:
        declared: a gpux.tensors.signature.TensorSpec.
        max_characters: limit for each string; None for no limit.
        null_is_nan: whether null stands for NaN, in an input of floats.
    """

    def __init__(self, declared, max_characters=None, bint null_is_nan=False):
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
        self.native.null_is_nan = null_is_nan
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
        is_null = sink.got() == JsonKind.null
        return InvalidTypeError(spec.name, expected, "null" if is_null else None)
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
        if sink.is_reordered():
            got += ": the same sizes in another order"
    return InvalidShapeError(spec.name, (), f"expected {spec.shape_text}, got {got}")


cdef str number_text(Number number):
    if number.kind == NumberKind.float64:
        return repr(number.as_float64)
    if number.kind == NumberKind.int64:
        return str(number.as_int64)
    return str(number.as_uint64)


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


cdef class InputTable:
    """The inputs that a body may have. Immutable; shared by all threads.

    Args:
        specs: an InputSpec per input.
        groups: 0, 1 or 2 per input: a body must not have inputs of both group 1 and group 2.
    """

    def __init__(self, specs, groups):
        cdef core.Input entry
        cdef InputSpec spec
        self.specs = tuple(specs)
        self.names = [spec.name.encode() for spec in self.specs]
        for spec, name, group in zip(self.specs, self.names, groups, strict=True):
            entry.name = PyBytes_AS_STRING(<PyObject*>name)
            entry.name_size = len(name)
            entry.spec = &spec.native
            entry.group = group
            self.inputs.push_back(entry)


ACTIVATIONS = {
    "softmax": <int>Activation.softmax,
    "sigmoid": <int>Activation.sigmoid,
    "normalize": <int>Activation.normalize,
}


def activate(str name not None, int type_code, shape not None, source, target):
    """Applies an activation over the last axis of a tensor.

    Args:
        name: `softmax`, `sigmoid` or `normalize` (L2).
        type_code: ONNX's number of a float type.
        shape: the tensor's shape; rank 0 is one row of one element.
        source: address of the dense, C-ordered tensor, which must not change until this returns.
        target: address of as many bytes, not overlapping the source.

    Releases the GIL. Each element is computed in float64 and rounded once.
    """
    cdef Activation activation = <Activation><int>ACTIVATIONS[name]
    cdef Type type = <Type>type_code
    cdef uintptr_t source_address = source
    cdef uintptr_t target_address = target
    cdef size_t rows = 1
    cdef size_t size = 1
    if not core.is_float(type):
        raise ValueError("not a tensor of a float type")
    for axis in range(len(shape)):
        rows *= size
        size = <size_t>shape[axis]
    with nogil:
        core.activate_rows(
            activation, type, rows, size, <const void*>source_address, <void*>target_address
        )


include "memory.pxi"
include "walk.pxi"
include "body.pxi"
include "framing.pxi"
