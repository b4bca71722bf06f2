# Memory to receive a request body into.

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
