# The cdef classes of gpux._fastpath, whose methods are in fastpath.pyx and the .pxi files. Cython
# looks up a module's declarations by its full name, hence this folder.
from libcpp.vector cimport vector

cimport core
from core cimport Reader, Sink

cdef enum:
    MAX_FIRST_BYTES = 1 << 24  # of the first block: declared sizes and body lengths may be anything


cdef class InputSpec:
    cdef core.Spec native           # never changes after __init__
    cdef readonly str name
    cdef str type_name              # in messages: "float32"
    cdef str word                   # in messages: "number", "boolean" or "string"
    cdef str shape_text             # in messages: "[batch, 3]"
    cdef size_t first_bytes         # of one row of the declared sizes


cdef class InputTable:
    cdef vector[core.Input] inputs  # in the order of `specs`; points into `specs` and `names`
    cdef readonly tuple specs       # of InputSpec
    cdef list names                 # of bytes (UTF-8)


# One walk over one Python value (walk.pxi), with the GIL held except while an array is fed. Methods
# that return bint return False after an error of the sink.
cdef class _Walk:
    cdef Sink* sink                 # owned
    cdef InputSpec spec
    cdef object pool
    cdef object block               # the pool's block that the sink fills; None for strings
    cdef list strings               # the elements of a string input, else None
    cdef object culprit             # the rejected object, if the core lacks its type or value
    cdef str problem                # what is wrong with the culprit, if its type does not say it
    cdef object cause               # the exception that caused it
    cdef object pool_error          # raised by the pool
    cdef int unwrapped              # nested tolist() calls

    cdef bint value(self, object value) except -1
    cdef bint reject(self, object value, str problem=*, object cause=*) except -1
    cdef bint sequence(self, object values) except -1
    cdef Py_ssize_t run(self, object values, Py_ssize_t start) except -2
    cdef Py_ssize_t run_of_float32(self, object values, Py_ssize_t start) except -2
    cdef bint integer(self, object value) except -1
    cdef bint string(self, object value) except -1
    cdef bint array(self, object value) except -1
    cdef bint tensor(self, object value) except -1
    cdef object rejected_item(self, object values)
    cdef object exception(self)
    cdef str number_text(self)


# One reading of one request body (decode.pxi).
cdef class _Read:
    cdef Reader* reader             # owned; runs without the GIL except for short bodies
    cdef InputTable table
    cdef bytes body                 # the reader points into it
    cdef object pool
    cdef dict blocks                # input index -> the pool's block that the reader fills
    cdef object pool_error          # raised by the pool

    cdef list values(self)
    cdef list strings(self, size_t first, size_t count)
    cdef object exception(self)
    cdef str number_text(self)


cdef class Body:
    cdef bytes memory               # None once taken
    cdef int views                  # writable buffers exported
