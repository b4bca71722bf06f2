"""DLPack consumer and producer: exchanges tensors with other libraries without a copy.

A producer's `__dlpack__` returns a capsule around a managed tensor: an address, a layout and a
deleter. The consumer renames the capsule, thereby owns the managed tensor, and calls its deleter
once. Source: https://dmlc.github.io/dlpack/latest, versions 0.8 (capsules named `dltensor`) and 1.0
(`dltensor_versioned`).
"""
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc

from core cimport kMaxAxes

__all__ = ["View", "capsule", "device_of", "take"]


cdef extern from "Python.h":
    # Plain pointers: a destructor must not count references to the capsule being freed.
    bint PyCapsule_IsValid(PyObject*, const char*) noexcept
    void* PyCapsule_GetPointer(PyObject*, const char*) except NULL
    int PyCapsule_SetName(PyObject*, const char*) except -1
    object PyCapsule_New(void*, const char*, void (*destructor)(PyObject*) noexcept)
    void Py_INCREF(PyObject*)
    void Py_DECREF(PyObject*)
    bint Py_IsInitialized() noexcept nogil


# The structures, with the memory layout of the specification.

cdef enum:
    MAJOR = 1
    MINOR = 0
    READ_ONLY = 1   # flag of a versioned tensor

cdef enum Kind:  # DLDataTypeCode
    SIGNED = 0
    UNSIGNED = 1
    REAL = 2
    BFLOAT = 4
    TRUTH = 6

cdef struct Device:
    int32_t type
    int32_t index

cdef struct DataType:
    uint8_t kind
    uint8_t bits
    uint16_t lanes

cdef struct Tensor:
    void* data
    Device device
    int32_t axes
    DataType type
    int64_t* shape
    int64_t* strides    # in elements; NULL for C order
    uint64_t byte_offset

cdef struct Managed:
    Tensor tensor
    void* context
    void (*deleter)(Managed*) noexcept

cdef struct Version:
    uint32_t major
    uint32_t minor

cdef struct ManagedVersioned:
    Version version
    void* context
    void (*deleter)(ManagedVersioned*) noexcept
    uint64_t flags
    Tensor tensor


cdef const char* NAME = b"dltensor"
cdef const char* NAME_VERSIONED = b"dltensor_versioned"
cdef const char* USED = b"used_dltensor"
cdef const char* USED_VERSIONED = b"used_dltensor_versioned"

# ONNX type code (see gpux.tensors.signature) -> DLPack's kind and bits per element.
LAYOUTS = {
    1: (<int>REAL, 32),
    2: (<int>UNSIGNED, 8),
    3: (<int>SIGNED, 8),
    4: (<int>UNSIGNED, 16),
    5: (<int>SIGNED, 16),
    6: (<int>SIGNED, 32),
    7: (<int>SIGNED, 64),
    9: (<int>TRUTH, 8),
    10: (<int>REAL, 16),
    11: (<int>REAL, 64),
    12: (<int>UNSIGNED, 32),
    13: (<int>UNSIGNED, 64),
    16: (<int>BFLOAT, 16),
}
TYPE_CODES = {layout: code for code, layout in LAYOUTS.items()}


@cython.final
@cython.no_gc  # its tuples hold numbers, so it is part of no cycle
cdef class View:
    """Memory borrowed from a producer. Immutable; created by take() only.

    Owns the producer's managed tensor: the memory stays valid until the view is deallocated, which
    calls the deleter, once, with the GIL held, on the thread that drops the last reference.

    Attributes:
        address: address of the element at index 0 on all axes, on `device`.
        shape: dimensions, at most 32.
        strides: bytes from one index to the next, per axis; may be negative or 0.
        type_code: ONNX's number of the element type (gpux.tensors.signature.ELEMENT_TYPES); 0 for
            a type that is not in that table, such as complex.
        itemsize: bytes per element.
        device: DLPack's (device type, device index).
        is_dense: the elements are C-contiguous.
        read_only: the producer forbids writing.
    """

    cdef Managed* plain                 # owned: one of these two, the other is NULL
    cdef ManagedVersioned* versioned
    cdef readonly uintptr_t address
    cdef readonly tuple shape
    cdef readonly tuple strides
    cdef readonly int type_code
    cdef readonly int itemsize
    cdef readonly tuple device
    cdef readonly bint is_dense
    cdef readonly bint read_only

    def __init__(self):
        raise TypeError("a View is made by take()")

    def __dealloc__(self):
        # Cython saves a pending exception from the deleter.
        if self.plain != NULL and self.plain.deleter != NULL:
            self.plain.deleter(self.plain)
        if self.versioned != NULL and self.versioned.deleter != NULL:
            self.versioned.deleter(self.versioned)

    cdef int own(self, object capsule) except -1:
        """Takes ownership of the managed tensor in a capsule.

        Runs no Python code between the check of the capsule's name and its change, so that two
        threads cannot take the same tensor.
        """
        cdef PyObject* pointer = <PyObject*>capsule
        cdef ManagedVersioned* versioned
        cdef void* plain
        if PyCapsule_IsValid(pointer, NAME_VERSIONED):
            versioned = <ManagedVersioned*>PyCapsule_GetPointer(pointer, NAME_VERSIONED)
            if versioned.version.major != MAJOR:
                # The layout after the version is unknown; the capsule still owns and frees it.
                raise BufferError(
                    f"DLPack {versioned.version.major}.{versioned.version.minor} is not understood"
                )
            PyCapsule_SetName(pointer, USED_VERSIONED)
            self.versioned = versioned
        elif PyCapsule_IsValid(pointer, NAME):
            plain = PyCapsule_GetPointer(pointer, NAME)
            PyCapsule_SetName(pointer, USED)
            self.plain = <Managed*>plain
        else:
            raise BufferError("__dlpack__ answered no DLPack capsule that is still to be used")
        return 0

    cdef int read(self, const Tensor* tensor) except -1:
        """Checks the layout of the owned tensor and stores it in the attributes."""
        cdef int64_t dense[kMaxAxes]
        cdef int64_t strides[kMaxAxes]
        cdef int axes = tensor.axes
        cdef int axis
        cdef bint empty = False
        if axes < 0 or (axes > 0 and tensor.shape == NULL):
            raise BufferError(f"the tensor has {axes} axes, but no sizes")
        if axes > kMaxAxes:
            raise BufferError(f"the tensor has {axes} axes, more than {kMaxAxes}")
        if tensor.type.lanes != 1:
            raise BufferError(f"its elements are vectors of {tensor.type.lanes} lanes")
        if tensor.type.bits == 0 or tensor.type.bits % 8 != 0:
            raise BufferError(f"its elements have {tensor.type.bits} bits, not whole bytes")
        self.itemsize = tensor.type.bits // 8
        self.type_code = TYPE_CODES.get((tensor.type.kind, tensor.type.bits), 0)
        self.device = (tensor.device.type, tensor.device.index)
        self.shape = numbers(tensor.shape, axes)
        for axis in range(axes):
            if tensor.shape[axis] < 0:
                raise BufferError(f"the tensor has a negative size: {list(self.shape)}")
            empty |= tensor.shape[axis] == 0
        if not (
            dense_strides(tensor.shape, axes, self.itemsize, dense)
            and byte_strides(tensor, self.itemsize, dense, strides)
        ):
            raise BufferError(f"the tensor is larger than any memory: {list(self.shape)}")
        if tensor.data == NULL and not empty:
            raise BufferError("the tensor has elements, but no memory")
        self.strides = numbers(strides, axes)
        self.is_dense = True
        for axis in range(axes):
            if strides[axis] != dense[axis] and tensor.shape[axis] != 1:
                self.is_dense = empty
        self.address = <uintptr_t>tensor.data + tensor.byte_offset
        return 0


cdef tuple numbers(const int64_t* values, int count):
    return tuple([values[i] for i in range(count)])


cdef bint dense_strides(const int64_t* sizes, int axes, int64_t unit, int64_t* strides) noexcept:
    """Writes the strides of C order without gaps, the innermost being `unit`.

    Returns False if the tensor's size overflows int64_t. Empty axes count as size 1.
    """
    cdef int axis
    for axis in range(axes - 1, -1, -1):
        strides[axis] = unit
        if sizes[axis] > 1:
            if unit > INT64_MAX // sizes[axis]:
                return False
            unit *= sizes[axis]
    return True


cdef bint byte_strides(
    const Tensor* tensor, int64_t itemsize, const int64_t* dense, int64_t* strides
) noexcept:
    """Writes a tensor's strides in bytes; False if one, or the whole, overflows int64_t."""
    cdef int64_t max_stride = INT64_MAX // itemsize
    cdef int64_t reach = 0
    cdef int64_t step
    cdef int axis
    for axis in range(tensor.axes):
        strides[axis] = dense[axis]
        if tensor.strides != NULL:
            if not -max_stride <= tensor.strides[axis] <= max_stride:
                return False
            strides[axis] = tensor.strides[axis] * itemsize
        step = strides[axis] if strides[axis] >= 0 else -strides[axis]
        if tensor.shape[axis] > 1:
            if step > (INT64_MAX - reach) // (tensor.shape[axis] - 1):
                return False
            reach += step * (tensor.shape[axis] - 1)
    return True


def take(value, stream=None, device=None):
    """Borrows the memory of another library's tensor.

    Args:
        value: an object with `__dlpack__` of version 0.8 or 1.x.
        stream: address of the CUDA stream that will use the memory, which the producer makes wait
            for its own work; None without a stream.
        device: the requested (device type, index), to which the producer copies the memory if
            necessary; None for its current device.

    Returns:
        A View, which keeps the memory alive.

    Raises:
        BufferError: the producer did not return a valid DLPack tensor on `device`.
        Whatever the producer raises.
    """
    cdef View view
    if device is not None:
        device = tuple(device)
    exported = request(value, {} if stream is None else {"stream": stream}, device)
    view = View.__new__(View)
    view.own(exported)
    # From here on an error drops the view, and with it the tensor.
    if view.versioned != NULL:
        view.read_only = (view.versioned.flags & READ_ONLY) != 0
        view.read(&view.versioned.tensor)
    else:
        view.read(&view.plain.tensor)
    if device is not None and view.device != device:
        raise BufferError(f"its library left it on device {view.device}, asked for {device}")
    return view


cdef object request(value, dict known, device):
    """Calls `__dlpack__` with the newest arguments that it accepts.

    Args:
        known: the arguments that versions before 1 have, too.
        device: the requested device, or None.
    """
    new = {"max_version": (MAJOR, MINOR)}
    if device is not None:
        new["dl_device"] = device
    try:
        return value.__dlpack__(**known, **new)
    except TypeError:
        # An unknown keyword; any other TypeError is raised again below.
        pass
    if device is not None and device_of(value) != device:
        raise BufferError("its library knows no way to bring it to another device")
    return value.__dlpack__(**known)


def device_of(value):
    """The device of a tensor, as its `__dlpack_device__` reports it.

    Returns:
        (device type, index) in DLPack's numbers, as plain int; None without such a method.

    Raises:
        BufferError: the method returns something else.
        Whatever the method raises.
    """
    method = getattr(value, "__dlpack_device__", None)
    if method is None:
        return None
    device = method()
    try:
        kind, number = device
        return int(kind), int(number)
    except (TypeError, ValueError):
        raise BufferError(f"__dlpack_device__ answered {device!r:.100}") from None


# The producer side.


cdef void release(PyObject* owner, void* managed) noexcept nogil:
    """Releases an exported tensor: on any thread, with or without the GIL."""
    # A consumer may outlive the interpreter, and with it the owner.
    if Py_IsInitialized():
        with gil:
            Py_DECREF(owner)
    free(managed)


cdef void delete(Managed* managed) noexcept nogil:
    release(<PyObject*>managed.context, managed)


cdef void delete_versioned(ManagedVersioned* managed) noexcept nogil:
    release(<PyObject*>managed.context, managed)


# The capsules' destructors. A consumed capsule has another name.

cdef void drop(PyObject* capsule) noexcept:
    if PyCapsule_IsValid(capsule, NAME):
        delete(<Managed*>PyCapsule_GetPointer(capsule, NAME))


cdef void drop_versioned(PyObject* capsule) noexcept:
    if PyCapsule_IsValid(capsule, NAME_VERSIONED):
        delete_versioned(<ManagedVersioned*>PyCapsule_GetPointer(capsule, NAME_VERSIONED))


def capsule(owner, address, int type_code, shape not None, device not None, bint versioned):
    """Exports memory: the return value of a `__dlpack__`.

    Args:
        owner: keeps the memory alive. Referenced until the consumer calls the deleter, or until an
            unconsumed capsule is freed.
        address: address of the first element; may be 0 if there are none.
        type_code: ONNX's number of the element type (gpux.tensors.signature.ELEMENT_TYPES).
        shape: dimensions, at most 32, of a C-contiguous tensor.
        device: DLPack's (device type, device index) of the memory.
        versioned: whether the consumer's `max_version` is at least (1, 0). If not, it gets the
            structure of versions before 1.

    Returns:
        A capsule named `dltensor_versioned`, of version 1.0 and writable, or `dltensor`.

    Raises:
        ValueError: DLPack has no such type, or the shape is invalid.
        MemoryError: not enough memory for the structure.

    The deleter may be called on any thread; it acquires the GIL itself.
    """
    cdef uintptr_t data = address
    cdef size_t header = sizeof(ManagedVersioned) if versioned else sizeof(Managed)
    cdef int64_t sizes[kMaxAxes]
    cdef int64_t strides[kMaxAxes]
    cdef int axes
    cdef int axis
    cdef bint fits
    cdef Tensor tensor
    cdef void* memory
    layout = LAYOUTS.get(type_code)
    if layout is None:
        raise ValueError(f"DLPack has no type for ONNX' number {type_code}")
    tensor.type.kind, tensor.type.bits = layout
    shape = tuple(shape)
    fits = len(shape) <= kMaxAxes
    axes = len(shape) if fits else 0
    for axis in range(axes):
        try:
            sizes[axis] = <Py_ssize_t>shape[axis]
        except OverflowError:
            sizes[axis] = -1
        fits &= sizes[axis] >= 0
    if not (fits and dense_strides(sizes, axes, tensor.type.bits // 8, strides)):
        raise ValueError(f"no tensor has the shape {list(shape)}")
    for axis in range(axes):
        strides[axis] //= tensor.type.bits // 8  # in elements
    tensor.data = <void*>data
    tensor.device.type, tensor.device.index = device
    tensor.axes = axes
    tensor.type.lanes = 1
    tensor.byte_offset = 0
    # One block: the structure, the shape, the strides.
    memory = malloc(header + 2 * axes * sizeof(int64_t))
    if memory == NULL:
        raise MemoryError
    tensor.shape = <int64_t*>(<char*>memory + header)
    tensor.strides = tensor.shape + axes
    for axis in range(axes):
        tensor.shape[axis] = sizes[axis]
        tensor.strides[axis] = strides[axis]
    try:
        if versioned:
            made = wrap_versioned(<ManagedVersioned*>memory, &tensor, <PyObject*>owner)
        else:
            made = wrap(<Managed*>memory, &tensor, <PyObject*>owner)
    except BaseException:
        free(memory)
        raise
    # Only now does a deleter exist that drops this reference.
    Py_INCREF(<PyObject*>owner)
    return made


cdef object wrap(Managed* managed, const Tensor* tensor, PyObject* owner):
    managed.tensor = tensor[0]
    managed.context = <void*>owner
    managed.deleter = delete
    return PyCapsule_New(managed, NAME, drop)


cdef object wrap_versioned(ManagedVersioned* managed, const Tensor* tensor, PyObject* owner):
    managed.version.major = MAJOR
    managed.version.minor = MINOR
    managed.context = <void*>owner
    managed.deleter = delete_versioned
    managed.flags = 0
    managed.tensor = tensor[0]
    return PyCapsule_New(managed, NAME_VERSIONED, drop_versioned)
