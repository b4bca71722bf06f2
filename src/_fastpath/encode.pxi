# Responses: activations and JSON.

cdef enum:
    LARGE_BYTES = 1 << 17  # glibc's initial mmap threshold


ACTIVATIONS = {
    "softmax": <int>Activation.softmax,
    "sigmoid": <int>Activation.sigmoid,
    "normalize": <int>Activation.normalize,
}


def activate(str name not None, int type_code, shape not None, source, target):
    """Applies an activation over the last axis of a tensor.

    Args:
        name: `softmax`, `sigmoid` or `normalize` (L2).
        type_code: ONNX's number of a float type.
        shape: the tensor's shape; rank 0 is one row of one element.
        source: address of the dense, C-ordered tensor, which must not change until this returns.
        target: address of as many bytes, not overlapping the source.

    Releases the GIL. Each element is computed in float64 and rounded once.
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
    # One member of the response: its name as JSON text, then either ready JSON text or a tensor.
    const char* name
    size_t name_size
    const char* text  # NULL for a tensor
    size_t text_size
    Type type
    int axes
    int64_t shape[core.kMaxAxes]
    const void* data


cdef char* append(char* out, const char* text, size_t size) noexcept nogil:
    memcpy(out, text, size)
    return out + size


def encode(members not None):
    """Writes a response as one JSON object.

    Args:
        members: a list of (name, text) or (name, type code, shape, address): `name` is the
            member's name as JSON text in UTF-8, quotes included; `text` a value that is already
            JSON; `address` that of a dense, C-ordered tensor of numbers or booleans, which must
            stay alive and unchanged until this returns.

    Returns:
        The JSON text as bytes, without spaces.

    Raises:
        MemoryError: the response is too large.

    Writes the text once, into memory of its maximum size, which is then shrunk. Releases the GIL
    while writing.
    """
    cdef vector[Piece] pieces
    cdef Piece piece
    cdef size_t max_bytes = 2
    cdef size_t size
    cdef size_t i
    cdef int axis
    # A copy keeps the names and texts alive whatever other threads do to the list.
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
                raise ValueError(f"not a tensor of numbers with at most {core.kMaxAxes} axes")
            for axis in range(piece.axes):
                piece.shape[axis] = shape[axis]
            piece.data = <const void*><uintptr_t>member[3]
            size = core.max_bytes(piece.type, piece.axes, piece.shape)
        if size == 0 or size > <size_t>(2**62) - max_bytes:
            raise MemoryError("the answer is too large")
        max_bytes += piece.name_size + 2 + size
        pieces.push_back(piece)
    # glibc maps each large block anew and unmaps it when freed, so that every page of every
    # response would fault. It raises its threshold to the largest block freed; ours are shrunk
    # before that. Hence a block of full size, freed untouched.
    if max_bytes >= LARGE_BYTES:
        PyMem_RawFree(PyMem_RawMalloc(max_bytes))
    cdef PyObject* response = PyBytes_FromStringAndSize(NULL, max_bytes)
    cdef char* start = PyBytes_AS_STRING(response)
    cdef char* out = start
    with nogil:
        out[0] = b"{"
        out += 1
        for i in range(pieces.size()):
            if i > 0:
                out[0] = b","
                out += 1
            out = append(out, pieces[i].name, pieces[i].name_size)
            out[0] = b":"
            out += 1
            if pieces[i].text != NULL:
                out = append(out, pieces[i].text, pieces[i].text_size)
            else:
                out = core.write_tensor(
                    out, pieces[i].type, pieces[i].axes, pieces[i].shape, pieces[i].data
                )
        out[0] = b"}"
        out += 1
    # No other code has seen the object yet, so it may be shrunk in place.
    _PyBytes_Resize(&response, out - start)
    text = <object>response
    Py_DECREF(text)
    return text
