"""DLPack: memory taken from other libraries' tensors, and lent to them, without a copy.

A producer's `__dlpack__` answers a capsule around a managed tensor: where the memory lies, its
layout, and a deleter. Whoever renames the capsule owns the managed tensor and calls its deleter
once. Source: https://dmlc.github.io/dlpack/latest, of version 0.8 (capsules named `dltensor`) and
1.0 (`dltensor_versioned`).
"""
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc

__all__ = ["View", "capsule", "place_of", "take"]


cdef extern from "Python.h":
    # A capsule on its way to be freed must not be counted again, so it is a plain pointer.
    bint PyCapsule_IsValid(PyObject*, const char*) noexcept
    void* PyCapsule_GetPointer(PyObject*, const char*) except NULL
    int PyCapsule_SetName(PyObject*, const char*) except -1
    object PyCapsule_New(void*, const char*, void (*destructor)(PyObject*) noexcept)
    void Py_INCREF(PyObject*)
    void Py_DECREF(PyObject*)
    bint Py_IsInitialized() noexcept nogil


# The structures, as the specification lays them out in memory.

cdef enum:
    MOST_AXES = 32  # as many as the core holds
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

# By ONNX' number, see gpux.tensor: DLPack's kind and the bits of an element.
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
    """Memory that a producer has lent. Immutable; made by take() only.

    It owns the producer's managed tensor: the memory stays valid until the view goes, which calls
    the deleter, once, with the GIL held, on the thread that drops the last reference.

    Attributes:
        address: of the element at index 0 on all axes; on the device where `place` says.
        shape: the sizes of its axes, at most 32.
        strides: bytes from one index to the next, for each axis; may be negative or 0.
        type_code: ONNX' number for the type of the elements (gpux.tensor.ELEMENT_TYPES); 0 for one
            that is not in that table, such as complex.
        itemsize: bytes of an element.
        place: DLPack's (device type, device index).
        is_dense: the elements lie in C order without gaps.
        read_only: the producer forbids to write.
    """

    cdef Managed* plain                 # one of the two is owned
    cdef ManagedVersioned* versioned
    cdef readonly uintptr_t address
    cdef readonly tuple shape
    cdef readonly tuple strides
    cdef readonly int type_code
    cdef readonly int itemsize
    cdef readonly tuple place
    cdef readonly bint is_dense
    cdef readonly bint read_only

    def __init__(self):
        raise TypeError("a View is made by take()")

    def __dealloc__(self):
        # Cython keeps an error that is on its way safe from what the deleter does.
        if self.plain != NULL and self.plain.deleter != NULL:
            self.plain.deleter(self.plain)
        if self.versioned != NULL and self.versioned.deleter != NULL:
            self.versioned.deleter(self.versioned)

    cdef int own(self, object capsule) except -1:
        """Takes the managed tensor out of its capsule.

        Nothing in here runs Python code between the look at the name and its change, so that no
        two threads take the same one.
        """
        cdef PyObject* pointer = <PyObject*>capsule
        cdef ManagedVersioned* versioned
        cdef void* plain
        if PyCapsule_IsValid(pointer, NAME_VERSIONED):
            versioned = <ManagedVersioned*>PyCapsule_GetPointer(pointer, NAME_VERSIONED)
            if versioned.version.major != MAJOR:
                # What lies behind the version is unknown; the capsule frees it.
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
        """Checks the layout of an owned tensor and notes it down."""
        cdef int64_t dense[MOST_AXES]
        cdef int64_t strides[MOST_AXES]
        cdef int axes = tensor.axes
        cdef int axis
        cdef bint empty = False
        if axes < 0 or (axes > 0 and tensor.shape == NULL):
            raise BufferError(f"the tensor has {axes} axes, but no sizes")
        if axes > MOST_AXES:
            raise BufferError(f"the tensor has {axes} axes, more than {MOST_AXES}")
        if tensor.type.lanes != 1:
            raise BufferError(f"its elements are vectors of {tensor.type.lanes} lanes")
        if tensor.type.bits == 0 or tensor.type.bits % 8 != 0:
            raise BufferError(f"its elements have {tensor.type.bits} bits, not whole bytes")
        self.itemsize = tensor.type.bits // 8
        self.type_code = TYPE_CODES.get((tensor.type.kind, tensor.type.bits), 0)
        self.place = (tensor.device.type, tensor.device.index)
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
    """Writes the strides of C order without gaps, where elements are `unit` apart.

    Answers False if the tensor would pass int64_t. One without elements has the strides that it
    would have with one on each empty axis.
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
    """Writes the strides of a tensor in bytes; False if one, or the whole, would pass int64_t."""
    cdef int64_t most = INT64_MAX // itemsize
    cdef int64_t reach = 0
    cdef int64_t step
    cdef int axis
    for axis in range(tensor.axes):
        strides[axis] = dense[axis]
        if tensor.strides != NULL:
            if not -most <= tensor.strides[axis] <= most:
                return False
            strides[axis] = tensor.strides[axis] * itemsize
        step = strides[axis] if strides[axis] >= 0 else -strides[axis]
        if tensor.shape[axis] > 1:
            if step > (INT64_MAX - reach) // (tensor.shape[axis] - 1):
                return False
            reach += step * (tensor.shape[axis] - 1)
    return True


def take(value, stream=None, place=None):
    """Borrows the memory of another library's tensor.

    Args:
        value: has `__dlpack__`, of version 0.8 or 1.x.
        stream: address of the CUDA stream on which the memory will be used, which the producer
            makes wait for its own work; None where there is no stream.
        place: (device type, index) where the memory is wanted, to which the producer copies it if
            need be; None for wherever it is.

    Returns:
        A View, which keeps the memory alive.

    Raises:
        BufferError: what came is no tensor as DLPack describes it, or not at `place`.
        Whatever the producer raises.
    """
    cdef View view
    if place is not None:
        place = tuple(place)
    lent = ask(value, {} if stream is None else {"stream": stream}, place)
    view = View.__new__(View)
    view.own(lent)
    # From here on whatever fails drops the view, and with it the tensor.
    if view.versioned != NULL:
        view.read_only = (view.versioned.flags & READ_ONLY) != 0
        view.read(&view.versioned.tensor)
    else:
        view.read(&view.plain.tensor)
    if place is not None and view.place != place:
        raise BufferError(f"its library left it on device {view.place}, asked for {place}")
    return view


cdef object ask(value, dict known, place):
    """What `__dlpack__` answers, to the newest form of the question that it understands.

    Args:
        known: the arguments of before version 1.
        place: where the memory is wanted, or None.
    """
    new = {"max_version": (MAJOR, MINOR)}
    if place is not None:
        new["dl_device"] = place
    try:
        return value.__dlpack__(**known, **new)
    except TypeError:
        # It knows no such keyword. If the error meant something else, it comes again.
        pass
    if place is not None and place_of(value) != place:
        raise BufferError("its library knows no way to bring it to another device")
    return value.__dlpack__(**known)


def place_of(value):
    """Where a tensor lies, as its `__dlpack_device__` says.

    Returns:
        (device type, index) in DLPack's numbers, as plain int; None where there is no such method.

    Raises:
        BufferError: the method answers something else.
        Whatever the method raises.
    """
    method = getattr(value, "__dlpack_device__", None)
    if method is None:
        return None
    place = method()
    try:
        kind, number = place
        return int(kind), int(number)
    except (TypeError, ValueError):
        raise BufferError(f"__dlpack_device__ answered {place!r:.100}") from None


# Lending.


cdef void release(PyObject* owner, void* managed) noexcept nogil:
    """Ends a loan: on any thread, with or without the GIL."""
    # A consumer may outlive the interpreter, and with it the owner.
    if Py_IsInitialized():
        with gil:
            Py_DECREF(owner)
    free(managed)


cdef void delete(Managed* managed) noexcept nogil:
    release(<PyObject*>managed.context, managed)


cdef void delete_versioned(ManagedVersioned* managed) noexcept nogil:
    release(<PyObject*>managed.context, managed)


# The capsules' destructors. A consumer has given the capsule another name.

cdef void drop(PyObject* capsule) noexcept:
    if PyCapsule_IsValid(capsule, NAME):
        delete(<Managed*>PyCapsule_GetPointer(capsule, NAME))


cdef void drop_versioned(PyObject* capsule) noexcept:
    if PyCapsule_IsValid(capsule, NAME_VERSIONED):
        delete_versioned(<ManagedVersioned*>PyCapsule_GetPointer(capsule, NAME_VERSIONED))


def capsule(owner, address, int type_code, shape not None, place not None, bint versioned):
    """Lends memory: what a `__dlpack__` answers.

    Args:
        owner: keeps the memory alive. It is referenced until the consumer calls the deleter, or
            until the capsule goes if nobody consumes it.
        address: of the first element; may be 0 if there are none.
        type_code: ONNX' number for the type of the elements (gpux.tensor.ELEMENT_TYPES).
        shape: the sizes of its axes, at most 32; they lie in C order without gaps.
        place: DLPack's (device type, device index), where the memory lies.
        versioned: whether the consumer's `max_version` is (1, 0) or more. It gets the form of
            before version 1 otherwise.

    Returns:
        A capsule named `dltensor_versioned`, of version 1.0 and writable, or `dltensor`.

    Raises:
        ValueError: DLPack has no such type, or no tensor such a shape.
        MemoryError: there was none for the structure.

    The deleter may be called on any thread, and takes the GIL itself.
    """
    cdef uintptr_t data = address
    cdef size_t header = sizeof(ManagedVersioned) if versioned else sizeof(Managed)
    cdef int64_t sizes[MOST_AXES]
    cdef int64_t strides[MOST_AXES]
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
    fits = len(shape) <= MOST_AXES
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
    tensor.device.type, tensor.device.index = place
    tensor.axes = axes
    tensor.type.lanes = 1
    tensor.byte_offset = 0
    # One block: the structure, the sizes, the strides.
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
    # Only now is there somebody who gives it back.
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
