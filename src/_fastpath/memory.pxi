# Blocks of memory, and the pools that reuse them.

cdef boolean allocate_block(void* owner, size_t nbytes, RawBlock* block) noexcept with gil:
    """Allocator::allocate for a pool whose memory Python code makes."""
    cdef Pool pool = <Pool>owner
    cdef Block made
    thread = get_ident()
    failure = pool.errors.get(thread)
    if failure is not None and not isinstance(failure, MemoryError):
        return False  # the pool tries again after it has made room, which was not what lacked
    try:
        made = pool.make(nbytes)
    except BaseException as error:
        pool.errors[thread] = error
        return False
    pool.errors.pop(thread, None)
    block.data = <unsigned char*><uintptr_t>made.address
    block.nbytes = nbytes
    block.handle = <void*>made
    Py_INCREF(made)
    return True


cdef void release_block(void* owner, const RawBlock& block) noexcept with gil:
    Py_DECREF(<object>block.handle)


cdef object device_of_block(const NativeBlock& block):
    """The location of a pool's block: that of the Block that `make` returned, or host memory."""
    return HOST if block.handle() == NULL else (<Block>block.handle()).device


cdef class Block:
    """A block of memory. Whoever refers to it owns it: dropped, it returns to its pool, or is freed.

    Args:
        memory: frees the memory when it is deallocated.
        address: of the first byte.
        nbytes: the size.
        device: where the memory lies, as in DLPack: (device type, index).

    Attributes:
        address: address of the first byte, on the block's device; a multiple of 64.
        nbytes: its size.
        device: its location.
    """

    def __init__(self, memory, uintptr_t address, size_t nbytes, device=HOST):
        self.memory = memory
        self.address = address
        self.nbytes = nbytes
        self.device = device

    @property
    def __array_interface__(self):
        """NumPy's array interface of a block in host memory."""
        if self.device[0] == 2:
            raise AttributeError("the block lies on a GPU")
        return {
            "version": 3, "typestr": "|u1", "shape": (self.nbytes,), "data": (self.address, False),
        }


cdef class Pool:
    """A pool of reusable blocks, in four sizes per power of two. Thread-safe.

    Args:
        make: allocates a Block of exactly so many bytes; raises MemoryError if there is no room.
            By default host memory, aligned to 64 bytes.
        max_idle_bytes: limit of the idle blocks' total; beyond it, blocks of the least recently
            used size are freed.
    """

    def __cinit__(self, make=None, size_t max_idle_bytes=256 << 20):
        cdef Allocator allocator
        self.make = make
        self.errors = {}
        if make is None:
            allocator = core.host_allocator()
        else:
            allocator.owner = <void*>self
            allocator.allocate = allocate_block
            allocator.release = release_block
        self.native = make_shared[core.Pool](allocator, max_idle_bytes)

    def take(self, size_t nbytes):
        """A block of at least `nbytes` bytes, with undefined contents.

        Raises:
            MemoryError: there is no room, even after all idle blocks were freed.
        """
        cdef NativeBlock native = self.native.get().take(nbytes)
        if native.data() == NULL:
            raise self.failure()
        cdef Block block = Block.__new__(Block)
        block.address = <uintptr_t>native.data()
        block.nbytes = native.nbytes()
        block.device = device_of_block(native)
        block.memory = self  # `make` is called with a pointer to the pool
        block.native = take_over(native)
        return block

    cdef object failure(self):
        """The exception for a lack of room: what `make` raised, if it did."""
        error = self.errors.pop(get_ident(), None)
        return MemoryError("there is no room for a tensor") if error is None else error

    def free_idle(self):
        """Frees all idle blocks."""
        with nogil:
            self.native.get().free_idle()

    @property
    def used_bytes(self):
        """Bytes in blocks that are held."""
        return self.native.get().usage().used_bytes

    @property
    def idle_bytes(self):
        """Bytes in blocks that wait for reuse."""
        return self.native.get().usage().idle_bytes

    @property
    def allocations(self):
        """Blocks allocated since the start."""
        return self.native.get().usage().allocations
