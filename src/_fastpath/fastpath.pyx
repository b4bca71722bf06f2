"""The fast path: JSON or Python values in, tensors out; tensors in, activated or as JSON out.

The only file that touches both Python objects and the core. Each entry takes what it needs of its
arguments, lets the core do the work, and turns the core's fault into an error of gpux.errors.
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
    RUN = 32  # numbers collected on the stack before the sink is called: few, so that both overlap
    # Taken before a value has shown its size; what is declared or promised may be anything.
    MOST_FIRST_BYTES = 1 << 24
    LARGE_BYTES = 1 << 17  # glibc maps blocks from here on, to begin with
    SHORT_BODY = 4096  # bytes: read in the time in which another thread could be woken
    LONGEST_NUMBER = 60  # characters of a number that are quoted


# DLPack's device types: those whose memory the CPU reads, and what the others are called.
HOST = (1, 0)
READABLE = {1, 3, 11, 13}  # CPU, CUDAHost, ROCMHost, CUDAManaged
DEVICES = {
    2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 9: "vpi", 10: "rocm", 14: "oneapi",
    15: "webgpu", 16: "hexagon", 17: "maia",
}


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


cdef size_t guess_bytes(InputSpec spec, object value):
    """The bytes that a value needs if all its lists are as long as the first ones."""
    cdef size_t needed = core.element_bytes(spec.native.type)
    for _ in range(spec.native.most_axes):
        if not isinstance(value, (list, tuple)) or PySequence_Fast_GET_SIZE(value) == 0:
            break
        if <size_t>PySequence_Fast_GET_SIZE(value) > MOST_FIRST_BYTES // needed:
            return MOST_FIRST_BYTES
        needed *= PySequence_Fast_GET_SIZE(value)
        value = <object>PySequence_Fast_ITEMS(value)[0]
    return max(needed, spec.first_bytes)


cdef boolean grow(void* owner, Memory* memory, size_t needed) noexcept with gil:
    """Memory::grow of the core: moves the tensor to a larger block of the pool."""
    cdef _Walk walk = <_Walk>owner
    try:
        # Taking and giving may raise, being Python code: the new block is the walk's before the old
        # one is given back.
        before = walk.block
        larger = walk.pool.take(max(needed, 2 * memory.capacity))
        move(memory, larger.address, larger.nbytes)
        walk.block = larger
        walk.pool.give(before)
    except BaseException as error:
        walk.error = error
        return False
    return True


cdef void move(Memory* memory, uintptr_t address, size_t nbytes) noexcept:
    """Copies what was written to a larger block, which takes the old one's place."""
    if memory.capacity > 0:  # memcpy takes no null pointer, not even for nothing
        memcpy(<void*>address, memory.data, memory.capacity)
    memory.data = <unsigned char*>address
    memory.capacity = nbytes


cdef class _Walk:
    """One walk over one value: the sink, the block that it fills, and what an error needs."""

    cdef Sink* sink
    cdef InputSpec spec
    cdef object pool
    cdef object block       # memory.Block; None for strings
    cdef list strings       # for strings
    cdef object culprit     # the object at the place of the fault, where the core does not know it
    cdef str problem        # of the culprit, where its type alone does not say it
    cdef object cause       # the error that the problem stands for
    cdef object error       # raised by the pool
    cdef int unwrapped      # tolist() of tolist() of …, so far

    def __cinit__(self, InputSpec spec, value, pool):
        cdef Memory memory
        self.spec = spec
        self.pool = pool
        memory.owner = <void*>self
        memory.grow = grow
        memory.data = NULL
        memory.capacity = 0
        if spec.native.type == Type.string:
            self.strings = []
        else:
            self.block = pool.take(guess_bytes(spec, value))
            memory.data = <unsigned char*><uintptr_t>self.block.address
            memory.capacity = self.block.nbytes
        self.sink = new Sink(spec.native, memory)

    def __dealloc__(self):
        del self.sink

    # The methods below answer False when the sink has found a fault.

    cdef bint value(self, object value) except -1:
        """Any value, at the place where the sink stands."""
        cdef double real
        cdef uint8_t truth
        if isinstance(value, (list, tuple)):
            return self.sequence(value)
        if isinstance(value, bool):
            truth = value is True
            return self.sink.booleans(&truth, 1)
        if isinstance(value, float):
            real = value
            return self.sink.reals(&real, 1)
        if isinstance(value, int):
            return self.integer(value)
        if isinstance(value, str):
            return self.string(value)
        if value is None:
            return self.sink.other(Got.null)
        if isinstance(value, dict):
            return self.sink.other(Got.object)
        if PyObject_CheckBuffer(value) and not isinstance(value, (bytes, bytearray)):
            return self.array(value)
        if lends(value):
            return self.tensor(value)
        return self.refuse(value)

    cdef bint refuse(self, object value, str problem=None, object cause=None) except -1:
        """What has no value that an input could take stands here."""
        self.culprit = value
        self.problem = problem
        self.cause = cause
        return self.sink.other(Got.other)

    cdef bint sequence(self, object values) except -1:
        """A list or tuple."""
        # Other code may change a list meanwhile, so its length is asked each time.
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t taken
        if not self.sink.open():
            return False
        while i < PySequence_Fast_GET_SIZE(values):
            taken = self.run(values, i)
            if taken < 0:
                self.culprit = self.item_at_fault(values)
                return False
            if taken == 0:
                if i >= PySequence_Fast_GET_SIZE(values):
                    break
                # A reference is held: the item's own code may drop the list's.
                item = <object>PySequence_Fast_ITEMS(values)[i]
                if not self.value(item):
                    return False
                taken = 1
            i += taken
        return self.sink.close()

    cdef Py_ssize_t run(self, object values, Py_ssize_t start) except -2:
        """Plain numbers from `start` on, many at once.

        Returns how many were taken, or -1 if the sink refused one. Only exact float and int are
        looked at, for which no code of theirs runs: the borrowed pointers hold.
        """
        cdef double reals[RUN]
        cdef int64_t integers[RUN]
        cdef PyObject** items = PySequence_Fast_ITEMS(values) + start
        cdef PyObject* item
        cdef Py_ssize_t most = min(PySequence_Fast_GET_SIZE(values) - start, <Py_ssize_t>RUN)
        cdef Py_ssize_t count = 0
        cdef int overflow = 0
        if self.spec.native.type == Type.float32 and PyFloat_CheckExact(items[0]):
            return self.run_of_float32(values, start)
        if core.is_float(self.spec.native.type):
            while count < most:
                item = items[count]
                if PyFloat_CheckExact(item):
                    reals[count] = PyFloat_AS_DOUBLE(item)
                elif PyLong_CheckExact(item):
                    integers[0] = PyLong_AsLongLongAndOverflow(item, &overflow)
                    if overflow != 0:
                        break
                    reals[count] = <double>integers[0]
                else:
                    break
                count += 1
            if count > 0 and not self.sink.reals(reals, count):
                return -1
        elif self.strings is None:
            while count < most:
                item = items[count]
                if not PyLong_CheckExact(item):
                    break
                integers[count] = PyLong_AsLongLongAndOverflow(item, &overflow)
                if overflow != 0:
                    break
                count += 1
            if count > 0 and not self.sink.integers(integers, count):
                return -1
        return count

    cdef Py_ssize_t run_of_float32(self, object values, Py_ssize_t start) except -2:
        """The same for float32, by far the most frequent: stored at once where they belong."""
        cdef size_t room = PySequence_Fast_GET_SIZE(values) - start
        cdef float* out = <float*>self.sink.claim(&room)
        cdef PyObject** items
        cdef Py_ssize_t most
        cdef Py_ssize_t count = 0
        cdef double refused
        if out == NULL:
            return -1
        # claim() may have asked the pool, which is Python code: other threads had their turn.
        items = PySequence_Fast_ITEMS(values) + start
        most = min(<Py_ssize_t>room, PySequence_Fast_GET_SIZE(values) - start)
        while count < most and PyFloat_CheckExact(items[count]):
            if not core.store(PyFloat_AS_DOUBLE(items[count]), out[count]):
                break
            count += 1
        self.sink.commit(count)
        if count == 0 and most > 0 and PyFloat_CheckExact(items[0]):
            refused = PyFloat_AS_DOUBLE(items[0])
            return 1 if self.sink.reals(&refused, 1) else -1
        return count

    cdef bint integer(self, object value) except -1:
        """An int of any size, or of a class derived from it."""
        cdef int overflow = 0
        cdef int64_t integer = PyLong_AsLongLongAndOverflow(<PyObject*>value, &overflow)
        cdef uint64_t natural
        cdef double real
        if overflow == 0:
            return self.sink.integers(&integer, 1)
        try:
            if core.is_float(self.spec.native.type):
                real = PyLong_AsDouble(<PyObject*>value)
                if not self.sink.reals(&real, 1):
                    self.culprit = value
                    return False
                return True
            natural = PyLong_AsUnsignedLongLong(<PyObject*>value)
            return self.sink.naturals(&natural, 1)
        except OverflowError:
            self.culprit = value
            return self.sink.huge_integer()

    cdef bint string(self, object value) except -1:
        """A str, or of a class derived from it."""
        cdef Py_ssize_t size = 0
        if not self.sink.expect_string():
            return False
        try:
            PyUnicode_AsUTF8AndSize(value, &size)
        except UnicodeEncodeError:
            place = sizes_tuple(self.sink.place(), self.sink.place_axes())
            problem = "the string has a lone surrogate"
            raise InvalidValueError(self.spec.name, place, problem) from None
        if not self.sink.string(str.__len__(value)):
            return False
        self.strings.append(PyUnicode_FromObject(value))
        return True

    cdef bint array(self, object value) except -1:
        """Anything with the buffer protocol (PEP 3118): NumPy arrays and scalars, memoryview."""
        cdef Py_buffer view
        cdef Py_ssize_t dense_strides[32]
        cdef Py_ssize_t stride
        cdef int axis
        cdef Type type = Type.string
        cdef boolean fed
        try:
            dtype = getattr(value, "dtype", None)
            kind = getattr(dtype, "kind", "")
            # NumPy gives single dates out as their bytes, arrays of them not at all.
            if kind in ("m", "M"):
                raise TypeError
            # A buffer cannot say bfloat16, which NumPy has from ml_dtypes; but its bits can be had.
            is_bfloat = kind == "V" and dtype.name == "bfloat16" and dtype.isnative
            bits = value.view("uint16") if is_bfloat else value
            PyObject_GetBuffer(bits, &view, PyBUF_STRIDES | PyBUF_FORMAT)
        except (AttributeError, BufferError, TypeError, ValueError):
            # JAX' arrays have a buffer while they are on the host.
            if lends(value) and place_of(value) != HOST:
                return self.tensor(value)
            return self.refuse(value)
        try:
            # An array without elements knows more axes than the equal lists, which end at the
            # first empty one.
            if view.len == 0 and not self.sink.axes_below(view.ndim, view.shape):
                return False
            if element_type(&view, &type):
                if is_bfloat and type == Type.uint16:
                    type = Type.bfloat16
                if view.strides == NULL:  # asked for, but ctypes leaves them out: C order
                    stride = view.itemsize
                    for axis in range(min(view.ndim, core.kMaxAxes) - 1, -1, -1):
                        dense_strides[axis] = stride
                        stride *= view.shape[axis]
                    view.strides = dense_strides
                with nogil:
                    fed = core.feed(
                        self.sink[0], <unsigned char*>view.buf, type, view.ndim, view.shape, view.strides
                    )
                return fed
        finally:
            PyBuffer_Release(&view)
        # Arrays of objects or of text, foreign byte orders: slowly, through the equal lists.
        if not hasattr(value, "tolist") or self.unwrapped == 2 * core.kMaxAxes:
            return self.refuse(value)
        # Bounded: NumPy's longdouble answers with itself, an array of objects may hold itself.
        self.unwrapped += 1
        fed = self.value(value.tolist())
        self.unwrapped -= 1
        return fed

    cdef bint tensor(self, object value) except -1:
        """Anything with DLPack, without a buffer: tensors of PyTorch, CuPy, JAX and others."""
        cdef Py_ssize_t sizes[32]
        cdef Py_ssize_t strides[32]
        cdef int axis
        cdef int axes
        cdef uintptr_t address
        cdef Type type
        cdef boolean fed
        view = None
        try:
            place = place_of(value)
            if place is None or place[0] in READABLE:
                view = take(value)
                place = view.place
            if place[0] not in READABLE:
                try:
                    view = take(value, place=HOST)
                except MemoryError:
                    raise
                except Exception as error:
                    device = device_text(place)
                    problem = f"the tensor is on {device}, and its library cannot bring it to the host"
                    return self.refuse(value, problem, error)
        except BufferError as error:  # the protocol's own: this tensor cannot be lent
            return self.refuse(value, f"the tensor cannot be taken: {error}", error)
        if view.type_code == 0:
            return self.refuse(value)
        type = <Type><int>view.type_code
        address = view.address
        axes = len(view.shape)
        for axis in range(axes):
            sizes[axis] = view.shape[axis]
            strides[axis] = view.strides[axis]
        if 0 in view.shape and not self.sink.axes_below(axes, sizes):  # as for an array
            return False
        with nogil:
            fed = core.feed(self.sink[0], <unsigned char*>address, type, axes, sizes, strides)
        return fed

    cdef object item_at_fault(self, object values):
        """The item that the sink did not take, for the message."""
        cdef Py_ssize_t index = self.sink.place()[self.sink.place_axes() - 1]
        if index < PySequence_Fast_GET_SIZE(values):
            return <object>PySequence_Fast_ITEMS(values)[index]
        return None

    cdef object fault(self):
        """The error that the sink's fault stands for."""
        cdef Fault fault = self.sink.fault()
        if fault == Fault.out_of_memory:
            return self.error if self.error is not None else MemoryError()
        # Only where the culprit itself is at fault, and not that anything stands in its place.
        if self.problem is not None and fault in (Fault.wrong_type, Fault.wrong_type_at_top):
            place = sizes_tuple(self.sink.place(), self.sink.place_axes())
            return InvalidValueError(self.spec.name, place, self.problem)
        return value_error(self.spec, self.sink, self.culprit, self.number_text())

    cdef str number_text(self):
        cdef Number number = self.sink.number()
        if isinstance(self.culprit, int):
            # Quoted whole only while it is short: Python refuses to print very long integers.
            bits = int.bit_length(self.culprit)
            return int.__repr__(self.culprit) if bits <= 256 else f"an integer of {bits} bits"
        if number.kind == NumberKind.real:
            return repr(number.as_real)
        if number.kind == NumberKind.integer:
            return str(number.as_integer)
        return str(number.as_natural)


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


cdef bint lends(object value) except -1:
    """Whether an object has DLPack's `__dlpack__`."""
    # Its type is asked, as Python does for its own protocols: some objects answer to any name.
    return hasattr(type(value), "__dlpack__")


cdef str device_text(tuple place):
    """A device as PyTorch writes it: `cuda:0`."""
    name = DEVICES.get(place[0])
    return f"device type {place[0]}" if name is None else f"{name}:{place[1]}"


cdef tuple sizes_tuple(const int64_t* sizes, int axes):
    return tuple([sizes[axis] for axis in range(axes)])


cdef bint element_type(Py_buffer* view, Type* type):
    """The type that a buffer's format names: a plain number in this machine's byte order."""
    cdef bytes format = view.format if view.format != NULL else b"B"
    if format[:1] in (b"@", b"=", b"<"):  # all machines that are built for are little endian
        format = format[1:]
    cdef Py_ssize_t size = view.itemsize
    if format == b"?":
        type[0] = Type.boolean
    elif format in (b"e", b"f", b"d"):
        type[0] = Type.float16 if size == 2 else Type.float32 if size == 4 else Type.float64
    elif format in (b"b", b"h", b"i", b"l", b"q", b"n"):
        type[0] = (
            Type.int8 if size == 1
            else Type.int16 if size == 2
            else Type.int32 if size == 4
            else Type.int64
        )
    elif format in (b"B", b"H", b"I", b"L", b"Q", b"N"):
        type[0] = (
            Type.uint8 if size == 1
            else Type.uint16 if size == 2
            else Type.uint32 if size == 4
            else Type.uint64
        )
    else:
        return False
    return True


def walk(InputSpec spec not None, value, pool not None):
    """Checks one value against a model input and writes it down as that input's tensor.

    Args:
        spec: the input.
        value: a bool, int, float or str; lists or tuples of them; anything with the buffer
            protocol (NumPy's arrays and scalars, those of ml_dtypes' bfloat16 too) or with DLPack's
            `__dlpack__` (tensors of PyTorch, CuPy, JAX), alone or inside lists. Whatever is met is
            judged by the same rules (tensor.py says which kinds of input take which axes). What
            lies where the CPU cannot read it, its library is asked to bring to the host.
        pool: where blocks come from: `take(nbytes)` answers one with `address` and `nbytes` at
            least as large, `give(block)` takes it back.

    Returns:
        (content, shape, as_items, as_one_item): `content` is the block that holds the elements in C
        order, in the input's type, or a flat list of str for a string input. The caller owns the
        block and gives it back.

    Raises:
        ClientError: one of InvalidTypeError, InvalidValueError, InvalidShapeError, EmptyBatchError.
            The block has gone back to the pool.
        MemoryError: the pool had none.
        Whatever a value's own code raises, but for what means that it cannot be lent: those become
            an InvalidValueError, with the reason.

    The GIL is held for lists and released for the elements of arrays and tensors, which nobody must
    change meanwhile: which of its values is taken is open then, though none is taken unchecked.
    """
    cdef _Walk state = _Walk(spec, value, pool)
    cdef bint done = False
    try:
        if not (state.value(value) and state.sink.finish()):
            error = state.fault()
            if state.cause is not None:  # an error of the pool's keeps its own
                error.__cause__ = state.cause
            raise error
        done = True
    finally:
        if not done and state.block is not None:
            pool.give(state.block)
    shape = sizes_tuple(state.sink.shape(), state.sink.axes())
    content = state.block if state.strings is None else state.strings
    return content, shape, state.sink.as_items(), state.sink.as_one_item()


cdef boolean never_grow(void* owner, Memory* memory, size_t needed) noexcept nogil:
    return False


def fit(InputSpec spec not None, shape not None):
    """What walk() says of the shape of an array whose elements all fit.

    For arrays whose elements are on a device, where nobody looks at them.

    Args:
        spec: the input.
        shape: the array's sizes.

    Returns:
        (shape, as_items, as_one_item), as walk() does.

    Raises:
        InvalidShapeError, EmptyBatchError: the input takes no such shape.

    Nothing is stored, and the GIL is held.
    """
    cdef Memory memory
    cdef Sink* sink
    cdef Py_ssize_t sizes[32]
    cdef int axes = min(len(shape), core.kMaxAxes + 1)
    cdef int axis
    if any([size < 0 for size in shape]):
        text = ", ".join(map(str, shape))
        raise InvalidShapeError(spec.name, (), f"expected {spec.shape_text}, got [{text}]")
    for axis in range(min(axes, core.kMaxAxes)):
        sizes[axis] = shape[axis]
    memory.data = NULL
    memory.capacity = 0
    memory.owner = NULL
    memory.grow = never_grow
    sink = new Sink(spec.native, memory)
    try:
        # No input takes more axes than there are sizes here.
        if not (sink.axes_below(axes, sizes) and sink.finish()):
            raise value_error(spec, sink, None, "")
        return sizes_tuple(sink.shape(), sink.axes()), sink.as_items(), sink.as_one_item()
    finally:
        del sink


cdef class InputTable:
    """The inputs that a body may have. Immutable; shared by all threads.

    Args:
        specs: an InputSpec for each.
        groups: for each 0, 1 or 2: inputs of group 1 and of group 2 may not stand in one body.
    """

    cdef vector[core.Input] inputs
    cdef readonly tuple specs
    cdef list names  # keeps the bytes alive

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


cdef boolean grow_body(void* owner, Memory* memory, size_t needed) noexcept with gil:
    """Memory::grow for the reader: the first block of an input, or a larger one."""
    cdef _Read read = <_Read>owner
    cdef size_t index = read.reader.current()
    cdef InputSpec spec = read.table.specs[index]
    cdef size_t wanted
    try:
        before = read.blocks.get(index)
        wanted = 2 * memory.capacity
        if before is None:
            # What is left of the body tells how much may come: mostly six bytes a number or more.
            wanted = read.reader.left() // 6 * core.element_bytes(spec.native.type)
            wanted = max(spec.first_bytes, min(wanted, <size_t>MOST_FIRST_BYTES))
        larger = read.pool.take(max(needed, wanted))
        move(memory, larger.address, larger.nbytes)
        read.blocks[index] = larger
        if before is not None:
            read.pool.give(before)
    except BaseException as error:
        read.error = error
        return False
    return True


cdef class _Read:
    """One reading of one body: the reader, and the blocks that it fills."""

    cdef Reader* reader
    cdef InputTable table
    cdef bytes body
    cdef object pool
    cdef dict blocks    # by the input's index
    cdef object error   # raised by the pool

    def __cinit__(self, bytes body, InputTable table, pool):
        self.body = body
        self.table = table
        self.pool = pool
        self.blocks = {}
        self.reader = new Reader(
            PyBytes_AS_STRING(<PyObject*>body), len(body), table.inputs, <void*>self, grow_body
        )

    def __dealloc__(self):
        del self.reader

    cdef list values(self):
        """What was read: (name, content, shape, as_items, as_one_item) for each input."""
        cdef const core.Value* value
        cdef InputSpec spec
        cdef size_t i
        values = []
        for i in range(self.reader.values().size()):
            value = &self.reader.values()[i]
            spec = self.table.specs[value.input]
            if spec.native.type == Type.string:
                content = self.strings(value.first_string, value.strings)
            else:
                content = self.blocks.get(value.input)
                if content is None:  # a tensor without elements
                    content = self.blocks[value.input] = self.pool.take(0)
            shape = sizes_tuple(value.shape, value.axes)
            values.append((spec.name, content, shape, value.as_items, value.as_one_item))
        return values

    cdef list strings(self, size_t first, size_t count):
        cdef const core.String* string
        cdef const char* text
        cdef size_t i
        strings = []
        for i in range(first, first + count):
            string = &self.reader.strings()[i]
            text = self.reader.decoded().data() if string.decoded else PyBytes_AS_STRING(<PyObject*>self.body)
            strings.append(PyUnicode_DecodeUTF8(text + string.start, string.size, NULL))
        return strings

    cdef object fault(self):
        """The error that the reader's fault stands for."""
        cdef ReadFault fault = self.reader.fault()
        cdef InputSpec spec
        if fault == ReadFault.syntax:
            return InvalidJSONError(self.reader.at(), self.reader.problem().decode())
        if fault == ReadFault.not_an_object:
            return InvalidBodyError()
        if fault == ReadFault.unknown_input:
            known = [other.name for other in self.table.specs]
            return UnknownInputError(self.reader.name().decode(), known)
        if fault == ReadFault.out_of_memory:
            return MemoryError()
        spec = self.table.specs[self.reader.input()]
        if fault == ReadFault.duplicate_input:
            return DuplicateInputError(spec.name)
        if fault == ReadFault.clashing_inputs:
            other = self.table.specs[self.reader.other_input()].name
            if self.table.inputs[self.reader.input()].group == 1:
                return ClashingInputsError(spec.name, other)
            return ClashingInputsError(other, spec.name)
        if self.reader.sink().fault() == Fault.out_of_memory:
            return self.error if self.error is not None else MemoryError()
        return value_error(spec, &self.reader.sink(), None, self.number_text())

    cdef str number_text(self):
        """The refused number as the client wrote it, of bounded length."""
        cdef size_t size = self.reader.number_size()
        if size == 0:
            return ""
        text = self.reader.number()[:min(size, <size_t>LONGEST_NUMBER)].decode()
        return text if size <= LONGEST_NUMBER else text + "…"


cdef class Body:
    """Memory for the body of a request: filled as it comes, by whoever has its buffer, then bytes.

    Nothing is copied on the way from the socket to the reader, and what is not filled is not
    touched. Of one thread at a time.

    Args:
        nbytes: its size.

    Raises:
        MemoryError: there is no room.
    """

    cdef bytes memory
    cdef int views  # of the buffer, that could still be written to

    def __cinit__(self, Py_ssize_t nbytes):
        cdef PyObject* made = PyBytes_FromStringAndSize(NULL, nbytes)
        self.memory = <bytes>made
        Py_DECREF(self.memory)  # `made` was a reference, too

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if self.memory is None:
            raise BufferError("the body has been taken")
        start = PyBytes_AS_STRING(<PyObject*>self.memory)
        PyBuffer_FillInfo(buffer, self, start, len(self.memory), 0, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        self.views -= 1

    def take(self):
        """The body as bytes, without a copy. To be called once, when all is filled.

        Raises:
            BufferError: somebody still has a view of it, or it has been taken.
        """
        if self.views or self.memory is None:
            raise BufferError("the body has a view, or has been taken")
        memory, self.memory = self.memory, None
        return memory


def decode(bytes body not None, InputTable table not None, pool not None):
    """Reads the body of a request.

    Args:
        body: any bytes.
        table: the inputs that it may have.
        pool: where blocks come from: see walk().

    Returns:
        A list of (name, content, shape, as_items, as_one_item), in the order of the body; see
        walk(). The caller owns the blocks and gives them back.

    Raises:
        ClientError: the first fault in the text; every block has gone back to the pool.
        MemoryError: there was none.

    The GIL is released while a body is read, but for short ones, which take less time than that.
    """
    cdef _Read state = _Read(body, table, pool)
    cdef bint done = False
    try:
        if len(body) < SHORT_BODY:
            done = state.reader.read()
        else:
            with nogil:
                done = state.reader.read()
        if not done:
            raise state.fault()
        done = False
        values = state.values()
        done = True
    finally:
        if not done:
            for block in state.blocks.values():
                pool.give(block)
    return values


ACTIVATIONS = {
    "softmax": <int>Activation.softmax,
    "sigmoid": <int>Activation.sigmoid,
    "normalize": <int>Activation.normalize,
}


def activate(str name not None, int type_code, shape not None, source, target):
    """Applies an activation over the last axis of a tensor.

    Args:
        name: `softmax`, `sigmoid` or `normalize` (L2).
        type_code: of a float type.
        shape: the tensor's sizes; without axes it is one row of one element.
        source: address of the tensor: dense, C-ordered, unchanged until this returns.
        target: address of as many bytes that are not the source's.

    The GIL is released. Each element is computed in float64 and rounded once.
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


cdef struct Piece:
    # One member of the answer: its name as JSON text, then either a tensor or ready JSON text.
    const char* name
    size_t name_size
    const char* text
    size_t text_size
    Type type
    int axes
    int64_t shape[32]
    const void* data


cdef char* put(char* out, const char* text, size_t size) noexcept nogil:
    memcpy(out, text, size)
    return out + size


def encode(members not None):
    """Writes an answer as one JSON object.

    Args:
        members: a list of (name, text) and of (name, type code, shape, address): `name` is the
            member's name as JSON text in UTF-8, quotes included; `text` a value that is JSON
            already; `address` that of a dense, C-ordered tensor of numbers or booleans, which must
            stay alive and unchanged until this returns.

    Returns:
        The JSON text as bytes, without spaces.

    Raises:
        MemoryError: the answer cannot be that large.

    The text is written once, into memory of the largest size that it can have, which is then cut;
    the GIL is released while it is written.
    """
    cdef vector[Piece] pieces
    cdef Piece piece
    cdef size_t most = 2
    cdef size_t size
    cdef size_t i
    cdef int axis
    # A copy, which keeps the names and texts alive whatever other threads do to the list.
    members = tuple([tuple(member) for member in members])
    for member in members:
        name = <bytes?>member[0]
        piece.name = PyBytes_AS_STRING(<PyObject*>name)
        piece.name_size = len(name)
        piece.text = NULL
        if len(member) == 2:
            text = <bytes?>member[1]
            piece.text = PyBytes_AS_STRING(<PyObject*>text)
            piece.text_size = len(text)
            size = piece.text_size
        else:
            piece.type = <Type><int>member[1]
            shape = member[2]
            piece.axes = len(shape)
            if piece.axes > core.kMaxAxes or core.element_bytes(piece.type) == 0:
                raise ValueError("not a tensor of numbers with at most 32 axes")
            for axis in range(piece.axes):
                piece.shape[axis] = shape[axis]
            piece.data = <const void*><uintptr_t>member[3]
            size = core.most_bytes(piece.type, piece.axes, piece.shape)
        if size == 0 or size > <size_t>(2**62) - most:
            raise MemoryError("the answer is too large")
        most += piece.name_size + 2 + size
        pieces.push_back(piece)
    # glibc maps a large block afresh and unmaps it when it is freed, so that each page of each
    # answer would fault. What is large, it learns from the largest one that was freed; ours are cut
    # before they are. Hence one that is not cut, and never touched.
    if most >= LARGE_BYTES:
        PyMem_RawFree(PyMem_RawMalloc(most))
    cdef PyObject* answer = PyBytes_FromStringAndSize(NULL, most)
    cdef char* start = PyBytes_AS_STRING(answer)
    cdef char* out = start
    with nogil:
        out[0] = b"{"
        out += 1
        for i in range(pieces.size()):
            if i > 0:
                out[0] = b","
                out += 1
            out = put(out, pieces[i].name, pieces[i].name_size)
            out[0] = b":"
            out += 1
            if pieces[i].text != NULL:
                out = put(out, pieces[i].text, pieces[i].text_size)
            else:
                out = core.write_tensor(
                    out, pieces[i].type, pieces[i].axes, pieces[i].shape, pieces[i].data
                )
        out[0] = b"}"
        out += 1
    # Nobody else has seen the object yet, so its memory may be cut in place.
    _PyBytes_Resize(&answer, out - start)
    text = <object>answer
    Py_DECREF(text)
    return text
