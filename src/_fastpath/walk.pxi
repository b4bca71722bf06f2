# Python values: nested lists, objects with the buffer protocol or DLPack, and bare shapes.

cdef enum:
    MAX_COUNTED = 1 << 20  # values that are only counted, for the message of an error
    RUN = 32  # numbers collected on the stack per call of the sink: few, so that both overlap


# DLPack's device types: those whose memory the CPU can read, and the names of the others.
READABLE = {1, 3, 11, 13}  # CPU, CUDAHost, ROCMHost, CUDAManaged
DEVICES = {
    2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 9: "vpi", 10: "rocm", 14: "oneapi",
    15: "webgpu", 16: "hexagon", 17: "maia",
}


cdef size_t guess_bytes(InputSpec spec, object value):
    """The bytes that a value needs if all of its lists are as long as the first at their depth."""
    cdef size_t needed = core.element_bytes(spec.native.type)
    for _ in range(spec.native.max_axes):
        if not isinstance(value, (list, tuple)) or PySequence_Fast_GET_SIZE(value) == 0:
            break
        if <size_t>PySequence_Fast_GET_SIZE(value) > MAX_FIRST_BYTES // needed:
            return MAX_FIRST_BYTES
        needed *= PySequence_Fast_GET_SIZE(value)
        value = <object>PySequence_Fast_ITEMS(value)[0]
    return max(needed, spec.first_bytes)


cdef boolean grow(void* owner, Memory* memory, size_t needed) noexcept with gil:
    """Memory::grow for the sink: moves the tensor to a larger block of the pool."""
    cdef _Walk walk = <_Walk>owner
    try:
        larger = walk.pool.take(max(needed, 2 * memory.capacity))
        move(memory, larger.address, larger.nbytes)
        walk.block = larger  # and drops the smaller one
    except BaseException as error:
        walk.pool_error = error
        return False
    return True


cdef class _Walk:
    """One walk over one value: the sink, the block that it fills, and the details of an error."""

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

    cdef bint whole(self, object value) except -1:
        """Feeds the whole value."""
        try:
            return self.value(value)
        except Exception:
            # The first error is the sink's, if the value's own code failed while it was only counted.
            if self.sink.error() == Error.none:
                raise
            return False

    cdef bint value(self, object value) except -1:
        """Feeds any value at the sink's current path."""
        cdef int depth = self.sink.depth()
        if self.sink.is_counting():
            # Lists may be shared: a few of them can stand for more elements than could ever be counted.
            self.counted += 1
            if self.counted > MAX_COUNTED:
                return False
        if isinstance(value, (list, tuple)):
            return self.sequence(value)
        if not self.sink.is_counting() and self.feed(value):
            return True
        return self.sink.is_counting() and self.count(value, depth)

    cdef bint count(self, object value, int depth) except -1:
        """Counts a value other than a list, after a list outgrew the model's fixed size."""
        cdef Py_ssize_t sizes[core.kMaxAxes]
        cdef int axes = 0
        if isinstance(value, dict):
            return False
        if not isinstance(value, (str, bytes, bytearray)):
            kind = getattr(getattr(value, "dtype", None), "kind", "")
            shape = getattr(value, "shape", None)
            if shape is None and has_dlpack(value) and is_readable(value):
                shape = take(value).shape
            is_empty = shape is not None and 0 in shape  # which a list would tell by its first axes only
            if (kind == "O" and not is_empty) or (shape is None and PyObject_CheckBuffer(value)):
                return self.value(value.tolist())
            if isinstance(shape, tuple):
                axes = min(len(shape), core.kMaxAxes)
                for axis in range(axes):
                    sizes[axis] = shape[axis]
        return self.sink.count(depth, axes, sizes)

    cdef bint feed(self, object value) except -1:
        """Feeds a value other than a list."""
        cdef double real
        cdef uint8_t truth
        if isinstance(value, bool):
            truth = value is True
            return self.sink.booleans(&truth, 1)
        if isinstance(value, float):
            real = value
            return self.sink.doubles(&real, 1)
        if isinstance(value, int):
            return self.integer(value)
        if isinstance(value, str):
            return self.string(value)
        if value is None:
            return self.sink.other(JsonKind.null)
        if isinstance(value, dict):
            return self.sink.other(JsonKind.object)
        if PyObject_CheckBuffer(value) and not isinstance(value, (bytes, bytearray)):
            return self.array(value)
        if has_dlpack(value):
            return self.tensor(value)
        return self.reject(value)

    cdef bint reject(self, object value, str problem=None, object cause=None) except -1:
        """Fails on an object that no input accepts."""
        self.culprit = value
        self.problem = problem
        self.cause = cause
        return self.sink.other(JsonKind.other)

    cdef bint sequence(self, object values) except -1:
        """A list or tuple."""
        # Other code may change a list meanwhile, so its length is read each time.
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t taken
        if not self.sink.open():
            return False
        while i < PySequence_Fast_GET_SIZE(values):
            taken = self.run(values, i)
            if taken < 0:
                if not self.sink.is_counting():
                    self.culprit = self.rejected_item(values)
                    return False
                i = self.sink.path()[self.sink.path_size() - 1]  # the first that has not been counted
                continue
            if taken == 0:
                if i >= PySequence_Fast_GET_SIZE(values):
                    break
                # Holds a reference: the item's own code may drop the list's.
                item = <object>PySequence_Fast_ITEMS(values)[i]
                if not self.value(item):
                    return False
                taken = 1
            i += taken
        return self.sink.close()

    cdef Py_ssize_t run(self, object values, Py_ssize_t start) except -2:
        """Feeds a run of numbers from `start` on.

        Returns the count, or -1 if the sink rejected one. Only exact float and int, which run no
        Python code of their own: the borrowed pointers stay valid.
        """
        cdef double doubles[RUN]
        cdef int64_t int64s[RUN]
        cdef PyObject** items = PySequence_Fast_ITEMS(values) + start
        cdef PyObject* item
        cdef Py_ssize_t limit = min(PySequence_Fast_GET_SIZE(values) - start, <Py_ssize_t>RUN)
        cdef Py_ssize_t count = 0
        cdef int overflow = 0
        if self.sink.is_counting():
            return 0
        if self.spec.native.type == Type.float32 and PyFloat_CheckExact(items[0]):
            return self.run_of_float32(values, start)
        if core.is_float(self.spec.native.type):
            while count < limit:
                item = items[count]
                if PyFloat_CheckExact(item):
                    doubles[count] = PyFloat_AS_DOUBLE(item)
                elif PyLong_CheckExact(item):
                    int64s[0] = PyLong_AsLongLongAndOverflow(item, &overflow)
                    if overflow != 0:
                        break
                    doubles[count] = <double>int64s[0]
                else:
                    break
                count += 1
            if count > 0 and not self.sink.doubles(doubles, count):
                return -1
        elif self.strings is None:
            while count < limit:
                item = items[count]
                if not PyLong_CheckExact(item):
                    break
                int64s[count] = PyLong_AsLongLongAndOverflow(item, &overflow)
                if overflow != 0:
                    break
                count += 1
            if count > 0 and not self.sink.int64s(int64s, count):
                return -1
        return count

    cdef Py_ssize_t run_of_float32(self, object values, Py_ssize_t start) except -2:
        """The same for float32, by far the most frequent: stores directly into the block."""
        cdef size_t room = PySequence_Fast_GET_SIZE(values) - start
        cdef float* out = <float*>self.sink.claim(&room)
        cdef PyObject** items
        cdef Py_ssize_t limit
        cdef Py_ssize_t count = 0
        cdef double rejected
        if out == NULL:
            return -1
        # claim() may have called the pool, Python code during which other threads may have run.
        items = PySequence_Fast_ITEMS(values) + start
        limit = min(<Py_ssize_t>room, PySequence_Fast_GET_SIZE(values) - start)
        while count < limit and PyFloat_CheckExact(items[count]):
            if not core.store(PyFloat_AS_DOUBLE(items[count]), out[count]):
                break
            count += 1
        self.sink.commit(count)
        if count == 0 and limit > 0 and PyFloat_CheckExact(items[0]):
            rejected = PyFloat_AS_DOUBLE(items[0])
            return 1 if self.sink.doubles(&rejected, 1) else -1
        return count

    cdef bint integer(self, object value) except -1:
        """An int of any size, or of a subclass."""
        cdef int overflow = 0
        cdef int64_t integer = PyLong_AsLongLongAndOverflow(<PyObject*>value, &overflow)
        cdef uint64_t large
        cdef double real
        if overflow == 0:
            return self.sink.int64s(&integer, 1)
        try:
            if core.is_float(self.spec.native.type):
                real = PyLong_AsDouble(<PyObject*>value)
                if not self.sink.doubles(&real, 1):
                    self.culprit = value
                    return False
                return True
            large = PyLong_AsUnsignedLongLong(<PyObject*>value)
            return self.sink.uint64s(&large, 1)
        except OverflowError:
            self.culprit = value
            return self.sink.huge_integer()

    cdef bint string(self, object value) except -1:
        """A str, or of a subclass."""
        cdef Py_ssize_t size = 0
        if not self.sink.expect_string():
            return False
        try:
            PyUnicode_AsUTF8AndSize(value, &size)
        except UnicodeEncodeError:
            path = sizes_tuple(self.sink.path(), self.sink.path_size())
            problem = "the string has a lone surrogate"
            raise InvalidValueError(self.spec.name, path, problem) from None
        if not self.sink.string(str.__len__(value)):
            return False
        self.strings.append(PyUnicode_FromObject(value))
        return True

    cdef bint array(self, object value) except -1:
        """Anything with the buffer protocol (PEP 3118): NumPy arrays and scalars, memoryview."""
        cdef Py_buffer view
        cdef Py_ssize_t dense_strides[core.kMaxAxes]
        cdef Py_ssize_t stride
        cdef int axis
        cdef Type type = Type.string
        cdef boolean fed
        try:
            dtype = getattr(value, "dtype", None)
            kind = getattr(dtype, "kind", "")
            # NumPy exports date scalars as bytes, but no date arrays.
            if kind in ("m", "M"):
                raise TypeError
            # The buffer protocol has no bfloat16, which NumPy has from ml_dtypes: views its bits.
            is_bfloat = kind == "V" and dtype.name == "bfloat16" and dtype.isnative
            bits = value.view("uint16") if is_bfloat else value
            PyObject_GetBuffer(bits, &view, PyBUF_STRIDES | PyBUF_FORMAT)
        except (AttributeError, BufferError, TypeError, ValueError):
            # JAX arrays have a buffer only while on the host.
            if has_dlpack(value) and device_of(value) != HOST:
                return self.tensor(value)
            return self.reject(value)
        try:
            # An array without elements still has all of its axes; nested lists end at an empty one.
            if view.len == 0 and not self.sink.axes_below(view.ndim, view.shape):
                return False
            if element_type(&view, &type):
                if is_bfloat and type == Type.uint16:
                    type = Type.bfloat16
                if view.strides == NULL:  # requested, but ctypes omits them: C order
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
        # Arrays of objects or text, and foreign byte orders: slowly, through lists.
        if not hasattr(value, "tolist") or self.unwrapped == 2 * core.kMaxAxes:
            return self.reject(value)
        # Bounded: NumPy's longdouble.tolist() returns itself, an object array may contain itself.
        self.unwrapped += 1
        fed = self.value(value.tolist())
        self.unwrapped -= 1
        return fed

    cdef bint tensor(self, object value) except -1:
        """Anything with DLPack but no buffer: tensors of PyTorch, CuPy, JAX and others."""
        cdef Py_ssize_t sizes[core.kMaxAxes]
        cdef Py_ssize_t strides[core.kMaxAxes]
        cdef int axis
        cdef int axes
        cdef uintptr_t address
        cdef Type type
        cdef boolean fed
        view = None
        try:
            device = device_of(value)
            if device is None or device[0] in READABLE:
                view = take(value)
                device = view.device
            if device[0] not in READABLE:
                try:
                    view = take(value, device=HOST)
                except MemoryError:
                    raise
                except Exception as error:
                    name = device_text(device)
                    problem = f"the tensor is on {name}, and its library cannot bring it to the host"
                    return self.reject(value, problem, error)
        except BufferError as error:  # DLPack's error: the tensor cannot be exported
            return self.reject(value, f"the tensor cannot be taken: {error}", error)
        if view.type_code == 0:
            return self.reject(value)
        type = <Type><int>view.type_code
        address = view.address
        axes = len(view.shape)
        for axis in range(axes):
            sizes[axis] = view.shape[axis]
            strides[axis] = view.strides[axis]
        if 0 in view.shape and not self.sink.axes_below(axes, sizes):  # as in array()
            return False
        with nogil:
            fed = core.feed(self.sink[0], <unsigned char*>address, type, axes, sizes, strides)
        return fed

    cdef object rejected_item(self, object values):
        """The item that the sink rejected, for the message."""
        cdef Py_ssize_t index = self.sink.path()[self.sink.path_size() - 1]
        if index < PySequence_Fast_GET_SIZE(values):
            return <object>PySequence_Fast_ITEMS(values)[index]
        return None

    cdef object exception(self):
        """The exception for the sink's error."""
        cdef Error error = self.sink.error()
        if error == Error.out_of_memory:
            return self.pool_error if self.pool_error is not None else MemoryError()
        # Only if the culprit itself is invalid, not if any element would be at its path.
        if self.problem is not None and error in (Error.wrong_type, Error.wrong_type_at_top):
            path = sizes_tuple(self.sink.path(), self.sink.path_size())
            return InvalidValueError(self.spec.name, path, self.problem)
        return value_error(self.spec, self.sink, self.culprit, self.number_text())

    cdef str number_text(self):
        if isinstance(self.culprit, int):
            # Quoted only if short: Python refuses to print very long integers.
            bits = int.bit_length(self.culprit)
            return int.__repr__(self.culprit) if bits <= 256 else f"an integer of {bits} bits"
        return number_text(self.sink.number())


cdef bint has_dlpack(object value) except -1:
    """Whether an object has DLPack's `__dlpack__`."""
    # On its type, as for Python's own protocols: some instances have an attribute of any name.
    return hasattr(type(value), "__dlpack__")


cdef bint is_readable(object value) except -1:
    """Whether a tensor with DLPack is in memory that the CPU reads."""
    device = device_of(value)
    return device is not None and device[0] in READABLE


cdef str device_text(tuple device):
    """A device as PyTorch writes it: `cuda:0`."""
    name = DEVICES.get(device[0])
    return f"device type {device[0]}" if name is None else f"{name}:{device[1]}"


cdef bint element_type(Py_buffer* view, Type* type):
    """Sets the type of a buffer's elements; False unless they are plain numbers in native order."""
    cdef bytes format = view.format if view.format != NULL else b"B"
    if format[:1] in (b"@", b"=", b"<"):  # all supported machines are little-endian
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
    """Validates one value against a model input and converts it to that input's tensor.

    Args:
        spec: the input.
        value: a bool, int, float or str; lists or tuples of them; anything with the buffer
            protocol (NumPy arrays and scalars, also of ml_dtypes' bfloat16) or DLPack's
            `__dlpack__` (tensors of PyTorch, CuPy, JAX), alone or inside lists. The same rules
            apply to all (gpux.tensors.signature says which kinds of input accept which ranks),
            and floats may be NaN or infinite. A tensor that the CPU cannot read is brought to the host by its library.
        pool: source of blocks: `take(nbytes)` returns a block with `address` and `nbytes`, at
            least the requested size.

    Returns:
        (content, shape, as_items, as_one_item): `content` is the block with the elements in C
        order, in the input's type, or a flat list of str for a string input.

    Raises:
        ClientError: one of InvalidTypeError, InvalidValueError, InvalidShapeError, EmptyBatchError.
        MemoryError: the pool had none.
        Whatever the value's own code raises, except errors that mean it cannot be exported: those
            become an InvalidValueError with the reason.

    Holds the GIL for lists, releases it for the elements of arrays and tensors. If another thread
    changes an array meanwhile, the tensor holds old or new values, all of them checked.
    """
    cdef _Walk state = _Walk(spec, value, pool)
    if not (state.whole(value) and state.sink.finish()):
        error = state.exception()
        if state.cause is not None:  # a pool error keeps its own cause
            error.__cause__ = state.cause
        raise error
    shape = sizes_tuple(state.sink.shape(), state.sink.axes())
    content = state.block if state.strings is None else state.strings
    return content, shape, state.sink.as_items(), state.sink.as_one_item()


cdef boolean never_grow(void* owner, Memory* memory, size_t needed) noexcept nogil:
    return False


def fit(InputSpec spec not None, shape not None):
    """Checks only the shape of an array, as walk() does.

    For arrays on a device, whose elements are not checked.

    Args:
        spec: the input.
        shape: the array's shape.

    Returns:
        (shape, as_items, as_one_item), as from walk().

    Raises:
        InvalidShapeError, EmptyBatchError: the input does not accept the shape.

    Stores nothing. Holds the GIL.
    """
    cdef Memory memory
    cdef Sink* sink
    cdef Py_ssize_t sizes[core.kMaxAxes]
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
        # No input accepts more axes than `sizes` holds.
        if not (sink.axes_below(axes, sizes) and sink.finish()):
            raise value_error(spec, sink, None, "")
        return sizes_tuple(sink.shape(), sink.axes()), sink.as_items(), sink.as_one_item()
    finally:
        del sink
