# Memory to receive a request body into.

cdef class Body:
    """A request body in a block of a pool: a writable buffer, for whoever receives it.

    Nothing is copied between socket and reader, and memory that nothing came for is never touched.
    The block goes back to its pool when nothing refers to the body or a view of it. Not thread-safe
    until it is complete, and not to be written to from then on.

    Args:
        pool: of host memory.
        nbytes: size of the body.

    Raises:
        MemoryError: there is no room for it.
    """

    def __cinit__(self, Pool pool not None, size_t nbytes):
        if nbytes >= (~<size_t>0) >> 1:
            raise MemoryError("there is no room for a body")
        self.block = pool.take(nbytes + 1)
        self.nbytes = nbytes
        (<char*><uintptr_t>self.block.address)[nbytes] = 0  # as readers expect behind a body

    def __len__(self):
        return self.nbytes

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, <void*><uintptr_t>self.block.address, self.nbytes, 0, flags)
