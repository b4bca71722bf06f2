# Values of Python: nested lists, what has the buffer protocol or DLPack, and what only has a shape.

cdef enum:
    RUN = 32  # numbers collected on the stack before the sink is called: few, so that both overlap


# DLPack's device types: those whose memory the CPU reads, and what the others are called.
HOST = (1, 0)
READABLE = {1, 3, 11, 13}  # CPU, CUDAHost, ROCMHost, CUDAManaged
DEVICES = {
    2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 9: "vpi", 10: "rocm", 14: "oneapi",
    15: "webgpu", 16: "hexagon", 17: "maia",
}


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


cdef bint lends(object value) except -1:
    """Whether an object has DLPack's `__dlpack__`."""
    # Its type is asked, as Python does for its own protocols: some objects answer to any name.
    return hasattr(type(value), "__dlpack__")


cdef str device_text(tuple place):
    """A device as PyTorch writes it: `cuda:0`."""
    name = DEVICES.get(place[0])
    return f"device type {place[0]}" if name is None else f"{name}:{place[1]}"


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
