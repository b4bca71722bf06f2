# Answers: activations, and JSON.

cdef enum:
    LARGE_BYTES = 1 << 17  # glibc maps blocks from here on, to begin with


ACTIVATIONS = {
    "softmax": <int>Activation.softmax,
    "sigmoid": <int>Activation.sigmoid,
    "normalize": <int>Activation.normalize,
}


def activate(str name not None, int type_code, shape not None, source, target):
    """Applies an activation over the last axis of a tensor.

    Args:
        name: `softmax`, `sigmoid` or `normalize` (L2).
        type_code: of a float type.
        shape: the tensor's sizes; without axes it is one row of one element.
        source: address of the tensor: dense, C-ordered, unchanged until this returns.
        target: address of as many bytes that are not the source's.

    The GIL is released. Each element is computed in float64 and rounded once.
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
    # One member of the answer: its name as JSON text, then either a tensor or ready JSON text.
    const char* name
    size_t name_size
    const char* text
    size_t text_size
    Type type
    int axes
    int64_t shape[32]
    const void* data


cdef char* put(char* out, const char* text, size_t size) noexcept nogil:
    memcpy(out, text, size)
    return out + size


def encode(members not None):
    """Writes an answer as one JSON object.

    Args:
        members: a list of (name, text) and of (name, type code, shape, address): `name` is the
            member's name as JSON text in UTF-8, quotes included; `text` a value that is JSON
            already; `address` that of a dense, C-ordered tensor of numbers or booleans, which must
            stay alive and unchanged until this returns.

    Returns:
        The JSON text as bytes, without spaces.

    Raises:
        MemoryError: the answer cannot be that large.

    The text is written once, into memory of the largest size that it can have, which is then cut;
    the GIL is released while it is written.
    """
    cdef vector[Piece] pieces
    cdef Piece piece
    cdef size_t most = 2
    cdef size_t size
    cdef size_t i
    cdef int axis
    # A copy, which keeps the names and texts alive whatever other threads do to the list.
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
                raise ValueError("not a tensor of numbers with at most 32 axes")
            for axis in range(piece.axes):
                piece.shape[axis] = shape[axis]
            piece.data = <const void*><uintptr_t>member[3]
            size = core.most_bytes(piece.type, piece.axes, piece.shape)
        if size == 0 or size > <size_t>(2**62) - most:
            raise MemoryError("the answer is too large")
        most += piece.name_size + 2 + size
        pieces.push_back(piece)
    # glibc maps a large block afresh and unmaps it when it is freed, so that each page of each
    # answer would fault. What is large, it learns from the largest one that was freed; ours are cut
    # before they are. Hence one that is not cut, and never touched.
    if most >= LARGE_BYTES:
        PyMem_RawFree(PyMem_RawMalloc(most))
    cdef PyObject* answer = PyBytes_FromStringAndSize(NULL, most)
    cdef char* start = PyBytes_AS_STRING(answer)
    cdef char* out = start
    with nogil:
        out[0] = b"{"
        out += 1
        for i in range(pieces.size()):
            if i > 0:
                out[0] = b","
                out += 1
            out = put(out, pieces[i].name, pieces[i].name_size)
            out[0] = b":"
            out += 1
            if pieces[i].text != NULL:
                out = put(out, pieces[i].text, pieces[i].text_size)
            else:
                out = core.write_tensor(
                    out, pieces[i].type, pieces[i].axes, pieces[i].shape, pieces[i].data
                )
        out[0] = b"}"
        out += 1
    # Nobody else has seen the object yet, so its memory may be cut in place.
    _PyBytes_Resize(&answer, out - start)
    text = <object>answer
    Py_DECREF(text)
    return text
