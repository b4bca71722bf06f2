# The cdef classes of gpux._fastpath, whose methods are in fastpath.pyx and the .pxi files. Cython
# looks up a module's declarations by its full name, hence this folder.
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libcpp.memory cimport shared_ptr
from libcpp.vector cimport vector

cimport core
from core cimport Sink

cdef enum:
    MAX_FIRST_BYTES = 1 << 24  # of the first block: declared sizes and body lengths may be anything
    FIRST_CHUNKS_BYTES = 1 << 12  # of a chunked body, whose length nobody knows


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
    cdef Py_ssize_t counted         # values that the sink only counted

    cdef bint whole(self, object value) except -1
    cdef bint value(self, object value) except -1
    cdef bint feed(self, object value) except -1
    cdef bint count(self, object value, int depth) except -1
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


cdef class Block:
    cdef core.NativeBlock native    # of a pool; none if the memory is not a pool's
    cdef object memory              # what frees the memory, or the pool
    cdef readonly size_t address
    cdef readonly size_t nbytes
    cdef readonly object device     # a tuple


cdef class Pool:
    cdef shared_ptr[core.Pool] native
    cdef object make                # None for host memory
    cdef dict errors                # what `make` raised last, by thread, until it is raised again

    cdef object failure(self)


cdef class Body:
    cdef Block block
    cdef Py_ssize_t nbytes


cdef class Chunks:
    cdef core.ChunkDecoder* decoder  # owned
    cdef PyObject* memory           # bytes, owned, which nobody else sees before take(); NULL without any
    cdef size_t capacity            # of the memory

    cdef int reserve(self, size_t nbytes) except -1


cdef object value_error(InputSpec spec, const Sink* sink, object culprit, str number)
cdef str number_text(core.Number number)
cdef tuple sizes_tuple(const int64_t* sizes, int axes)
cdef object device_of_block(const core.NativeBlock& block)
