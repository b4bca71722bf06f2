# Request bodies: memory to receive one into, and the reader of its JSON.

cdef enum:
    SHORT_BODY = 4096  # bytes: below, reading takes less time than waking another thread
    MAX_QUOTED_CHARACTERS = 60  # of a number, in messages


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


cdef boolean grow_body(void* owner, Memory* memory, size_t needed) noexcept with gil:
    """Memory::grow for the reader: takes an input's first block, or a larger one."""
    cdef _Read read = <_Read>owner
    cdef size_t index = read.reader.current()
    cdef InputSpec spec = read.table.specs[index]
    cdef size_t wanted
    try:
        before = read.blocks.get(index)
        wanted = 2 * memory.capacity
        if before is None:
            # The rest of the body bounds the count: a number mostly takes six bytes or more.
            wanted = read.reader.left() // 6 * core.element_bytes(spec.native.type)
            wanted = max(spec.first_bytes, min(wanted, <size_t>MAX_FIRST_BYTES))
        larger = read.pool.take(max(needed, wanted))
        move(memory, larger.address, larger.nbytes)
        read.blocks[index] = larger
        if before is not None:
            read.pool.give(before)
    except BaseException as error:
        read.pool_error = error
        return False
    return True


cdef class _Read:
    """One reading of one body: the reader, and the blocks that it fills."""

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
        """The values read: (name, content, shape, as_items, as_one_item) per input."""
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

    cdef object exception(self):
        """The exception for the reader's error."""
        cdef ReadError error = self.reader.error()
        cdef InputSpec spec
        if error == ReadError.syntax:
            return InvalidJSONError(self.reader.at(), self.reader.problem().decode())
        if error == ReadError.not_an_object:
            return InvalidBodyError()
        if error == ReadError.unknown_input:
            known = [other.name for other in self.table.specs]
            return UnknownInputError(self.reader.name().decode(), known)
        if error == ReadError.out_of_memory:
            return MemoryError()
        spec = self.table.specs[self.reader.input()]
        if error == ReadError.duplicate_input:
            return DuplicateInputError(spec.name)
        if error == ReadError.clashing_inputs:
            other = self.table.specs[self.reader.other_input()].name
            if self.table.inputs[self.reader.input()].group == 1:
                return ClashingInputsError(spec.name, other)
            return ClashingInputsError(other, spec.name)
        if self.reader.sink().error() == Error.out_of_memory:
            return self.pool_error if self.pool_error is not None else MemoryError()
        return value_error(spec, &self.reader.sink(), None, self.number_text())

    cdef str number_text(self):
        """The rejected number as the client wrote it, of bounded length."""
        cdef size_t size = self.reader.number_size()
        if size == 0:
            return ""
        text = self.reader.number()[:min(size, <size_t>MAX_QUOTED_CHARACTERS)].decode()
        return text if size <= MAX_QUOTED_CHARACTERS else text + "…"


cdef class Body:
    """Memory for a request body: a writable buffer while it is received, then bytes.

    Nothing is copied between socket and reader, and unfilled memory is never touched. Not
    thread-safe.

    Args:
        nbytes: size of the body.

    Raises:
        MemoryError: not enough memory.
    """

    def __cinit__(self, Py_ssize_t nbytes):
        cdef PyObject* made = PyBytes_FromStringAndSize(NULL, nbytes)
        self.memory = <bytes>made
        Py_DECREF(self.memory)  # the cast added a reference to that of `made`

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if self.memory is None:
            raise BufferError("the body has been taken")
        start = PyBytes_AS_STRING(<PyObject*>self.memory)
        PyBuffer_FillInfo(buffer, self, start, len(self.memory), 0, flags)
        self.views += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        self.views -= 1

    def take(self):
        """Returns the body as bytes, without a copy. Call once, when all is filled.

        Raises:
            BufferError: a view of it still exists, or it has been taken.
        """
        if self.views or self.memory is None:
            raise BufferError("the body has a view, or has been taken")
        memory, self.memory = self.memory, None
        return memory


def decode(bytes body not None, InputTable table not None, pool not None):
    """Reads a request body.

    Args:
        body: any bytes.
        table: the inputs that it may have.
        pool: source of blocks, as for walk().

    Returns:
        A list of (name, content, shape, as_items, as_one_item), in the order of the body, as from
        walk(). The caller owns the blocks and must return them to the pool.

    Raises:
        ClientError: the first error in the text. All blocks are back in the pool.
        MemoryError: out of memory. All blocks are back in the pool.

    Releases the GIL while reading, except for bodies below 4096 bytes, which are read in less time
    than waking another thread takes.
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
            raise state.exception()
        done = False
        values = state.values()
        done = True
    finally:
        if not done:
            for block in state.blocks.values():
                pool.give(block)
    return values
