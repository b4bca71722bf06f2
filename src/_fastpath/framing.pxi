# Chunked bodies, put together as they come.

CHUNK_FAULTS = {
    <int>core.ChunkFault.malformed: "malformed",
    <int>core.ChunkFault.too_large: "too_large",
    <int>core.ChunkFault.too_verbose: "too_verbose",
}


cdef class Chunks:
    """A chunked body: framing in, one contiguous body out. Not thread-safe.

    Args:
        max_body_bytes: of all chunks together; a size over it is refused before its bytes come.
        max_line_bytes: of a size line with its extensions and CRLF.
        max_framing_bytes: of all size lines, beside 6 for each byte of the body.
        max_trailer_bytes, max_trailer_fields: of the trailer section, which is read and dropped.

    Attributes:
        is_complete: whether the message has ended; later bytes are the next request's.
        fault: None, or `malformed`, `too_large` or `too_verbose` (what comes beside the body).
        nbytes: of the body, so far.

    Source: RFC 9112, 7.1.
    """

    def __cinit__(
        self, size_t max_body_bytes, size_t max_line_bytes, size_t max_framing_bytes,
        size_t max_trailer_bytes, size_t max_trailer_fields,
    ):
        cdef core.ChunkLimits limits
        limits.body_bytes = max_body_bytes
        limits.line_bytes = max_line_bytes
        limits.framing_bytes = max_framing_bytes
        limits.framing_per_byte = 6
        limits.trailer_bytes = max_trailer_bytes
        limits.trailer_fields = max_trailer_fields
        self.decoder = new core.ChunkDecoder(limits)
        self.memory = NULL
        self.capacity = 0

    def __dealloc__(self):
        del self.decoder
        Py_XDECREF(self.memory)

    def decode(self, data not None):
        """Takes the next bytes.

        Args:
            data: a contiguous buffer, from which the body's bytes are copied.

        Returns:
            How many of them belong to this message: all, until it is complete or at fault.

        Raises:
            MemoryError: there is no room for the body.
        """
        cdef Py_buffer buffer
        cdef core.ChunkStep step
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        try:
            # The body cannot grow by more than comes, and its framing has been read in advance.
            self.reserve(self.decoder.body_bytes() + <size_t>buffer.len)
            step = self.decoder.decode(
                <const char*>buffer.buf, <size_t>buffer.len,
                PyBytes_AS_STRING(self.memory) + self.decoder.body_bytes(),
            )
            return step.consumed
        finally:
            PyBuffer_Release(&buffer)

    cdef int reserve(self, size_t nbytes) except -1:
        """Makes room for so many bytes of body in all, twice as much as before."""
        if self.memory == NULL:
            self.capacity = max(nbytes, <size_t>FIRST_CHUNKS_BYTES)
            self.memory = PyBytes_FromStringAndSize(NULL, self.capacity)
        elif nbytes > self.capacity:
            nbytes = max(nbytes, 2 * self.capacity)
            self.capacity = 0
            _PyBytes_Resize(&self.memory, nbytes)  # frees the memory where it fails
            self.capacity = nbytes
        return 0

    def take(self):
        """Returns the body as bytes, without a copy. Call once, when it is complete.

        Raises:
            ValueError: it is not complete, or has been taken.
        """
        if not self.decoder.is_complete() or self.memory == NULL:
            raise ValueError("the body is not complete, or has been taken")
        _PyBytes_Resize(&self.memory, self.decoder.body_bytes())
        body = <object>self.memory
        Py_DECREF(body)  # the cast added a reference to that of `memory`
        self.memory = NULL
        return body

    @property
    def is_complete(self):
        return self.decoder.is_complete()

    @property
    def fault(self):
        return CHUNK_FAULTS.get(<int>self.decoder.fault())

    @property
    def nbytes(self):
        return self.decoder.body_bytes()
