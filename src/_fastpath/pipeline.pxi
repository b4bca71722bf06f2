# Requests, their outputs, and the pipeline that takes the former to the latter: pipeline.hpp for Python.

cdef enum:
    MAX_QUOTED_CHARACTERS = 60  # of a number, in messages
    SHORT_RESPONSE = 1 << 14  # bytes: written on the stack, without the GIL, then copied
    LARGE_BYTES = 1 << 17  # glibc's initial mmap threshold


cdef class Request:
    """The inputs of one run. Owns its memory, or keeps what it borrows alive.

    Made by Pipeline.decode(), Pipeline.request() and Pipeline.gather(). Not thread-safe until it is
    complete, immutable from then on.

    Attributes:
        unbatched: whether the request is one item, and so is its response.
    """

    cdef NativeRequest native
    cdef Pipeline pipeline
    cdef list owners  # of memory that the blocks of `native` do not own, by input; else None

    def __cinit__(self, Pipeline pipeline):
        self.pipeline = pipeline
        self.owners = [None] * len(pipeline.table.specs)
        self.native.inputs.resize(len(pipeline.table.specs))

    @property
    def unbatched(self):
        return self.native.unbatched

    @property
    def rows(self):
        """The row count: that of its longest input, as all lead with the batch axis."""
        return self.native.rows(self.pipeline.native.get().rules())

    def __contains__(self, str name):
        """Whether an input is given."""
        return self.native.inputs[<size_t>self.pipeline.numbers[name]].given

    @property
    def names(self):
        """The inputs that are given, in the order of the table."""
        return [spec.name for spec in self.pipeline.table.specs if spec.name in self]

    def form(self, str name):
        """The form in which an input was given: (shape, as_items, as_one_item)."""
        cdef const InputTensor* tensor = &self.native.inputs[<size_t>self.pipeline.numbers[name]]
        return sizes_tuple(tensor.shape, tensor.axes), tensor.as_items, tensor.as_one_item

    def strings(self, str name, str errors="replace"):
        """The elements of a string input, in C order.

        Args:
            name: the input's.
            errors: what to do with bytes that are not UTF-8, as in bytes.decode().
        """
        return list_of(self.native.inputs[<size_t>self.pipeline.numbers[name]].strings, errors)

    def content(self, str name):
        """The elements of an input of numbers: (address, owner, device).

        The memory is valid while the request or the owner is referred to.
        """
        cdef size_t number = self.pipeline.numbers[name]
        cdef const InputTensor* tensor = &self.native.inputs[number]
        owner = self.owners[number]
        if owner is None:
            return <uintptr_t>tensor.data, self, device_of_block(tensor.block)
        return <uintptr_t>tensor.data, owner, owner.device

    @property
    def borrows(self):
        """Whether memory of it belongs to another library."""
        return any([owner is not None and not isinstance(owner, Block) for owner in self.owners])

    def batch_key(self):
        """Requests with equal keys fit into one batch; None if this one must run alone.

        It overrides an initializer, the rows of its inputs differ in number, which only the model
        can interpret, or memory of it belongs to another library.
        """
        cdef const InputTensor* tensor
        cdef int64_t rows = -1
        cdef size_t i
        if self.borrows:
            return None
        key = []
        for i in range(self.native.inputs.size()):
            tensor = &self.native.inputs[i]
            if not self.pipeline.native.get().rules()[i].is_fed:
                continue
            if not tensor.given:
                continue
            if self.pipeline.native.get().rules()[i].is_optional:
                return None  # it holds for all rows, and so not for those of another request
            if tensor.axes == 0 or (rows >= 0 and tensor.shape[0] != rows):
                return None
            rows = tensor.shape[0]
            key.append(sizes_tuple(tensor.shape + 1, tensor.axes - 1))
        return tuple(key)

    def put(self, str name, content, tuple shape, bint as_items=False, bint as_one_item=False):
        """Gives an input its tensor.

        Args:
            name: the input's.
            content: a list of str for a string input; else an object with `address` and `device` of
                dense, C-ordered elements, which the request keeps alive.
            shape: with all axes.
            as_items, as_one_item: whether declared axes were missing, and whether it was one item.
        """
        cdef size_t number = self.pipeline.numbers[name]
        cdef InputTensor* tensor = &self.native.inputs[number]
        cdef int axis
        if len(shape) > core.kMaxAxes:
            raise ValueError(f"{name!r} has more than {core.kMaxAxes} axes")
        if isinstance(content, list):
            tensor.strings.text.clear()
            tensor.strings.ends.clear()
            for text in content:
                tensor.strings.append(<bytes>(<str>text).encode())
        else:
            tensor.data = <const void*><uintptr_t>content.address
            self.owners[number] = content
        tensor.axes = len(shape)
        for axis in range(tensor.axes):
            tensor.shape[axis] = shape[axis]
        tensor.as_items = as_items
        tensor.as_one_item = as_one_item
        tensor.given = True

    def drop(self, str name):
        """Takes an input away: others have been made from it."""
        self.native.inputs[<size_t>self.pipeline.numbers[name]].given = False

    def decide_unbatched(self):
        """Decides, by the inputs that are given so far, whether the request is one item."""
        self.native.unbatched = is_unbatched(self.native, self.pipeline.native.get().rules())

    def check_agreement(self, dict sent_as=None):
        """Checks that the shapes of different inputs agree.

        Args:
            sent_as: by input name, the client's name for it, if not the input's.

        Raises:
            DisagreementError: two inputs differ.
        """
        cdef Disagreement disagreement
        if not agree(self.native, self.pipeline.native.get().rules(), &disagreement):
            raise self.pipeline.disagreement(disagreement, sent_as or {})


cdef list list_of(const Strings& strings, str errors="replace"):
    """The elements as str."""
    cdef size_t start = 0
    cdef size_t i
    elements = []
    for i in range(strings.ends.size()):
        elements.append(strings.text.data()[start:strings.ends[i]].decode("utf-8", errors))
        start = strings.ends[i]
    return elements


cdef class Outputs:
    """The outputs of one request. Immutable.

    Made by Pipeline.run(), Pipeline.outputs() and part(). Owns its memory, or keeps alive what does: a
    graph's output may be its input's own memory.

    Attributes:
        run_seconds: how long the run took.
    """

    cdef shared_ptr[const NativeOutputs] native
    cdef Pipeline pipeline
    cdef object owner
    cdef readonly double run_seconds

    def __len__(self):
        return self.native.get().list.size()

    @property
    def shapes(self):
        """The shape of each output; None for a sequence or a map."""
        cdef const Output* output
        cdef size_t i
        shapes = []
        for i in range(self.native.get().list.size()):
            output = &self.native.get().list[i]
            is_tensor = output.kind == ValueKind.tensor
            shapes.append(sizes_tuple(output.shape, output.axes) if is_tensor else None)
        return shapes

    @property
    def nbytes(self):
        """Bytes of the tensors of numbers."""
        cdef size_t nbytes = 0
        cdef size_t i
        for i in range(self.native.get().list.size()):
            nbytes += bytes_of(self.native.get().list[i])
        return nbytes

    def part(self, int64_t first, int64_t rows, list shapes=None, bint is_left=False):
        """The part of a batch's outputs that belongs to one of its requests.

        Args:
            first: its first row.
            rows: its row count.
            shapes: by output, the sizes of the axes after the first if padding is cut off, or None.
            is_left: whether the padding precedes the elements.
        """
        cdef Outputs part = Outputs.__new__(Outputs)
        cdef vector[vector[int64_t]] sizes
        cdef size_t i
        sizes.resize(self.native.get().list.size())
        if shapes is not None:
            for i in range(sizes.size()):
                if shapes[i] is not None:
                    sizes[i] = shapes[i]
        part.pipeline = self.pipeline
        part.owner = self.owner
        part.run_seconds = self.run_seconds
        part.native = part_of(self.native, first, rows, sizes, is_left)
        return part

    def encode(self, bint unbatched):
        """The response, as JSON in UTF-8. Releases the GIL while it writes.

        Args:
            unbatched: whether the request was one item.

        Raises:
            MemoryError: the response is too large.
            RuntimeError: ONNX Runtime did not hand out an output.
        """
        cdef _Response response = _Response()
        cdef char small[SHORT_RESPONSE]
        cdef Call call
        cdef Result result
        response.start(small)
        with nogil:
            result = self.pipeline.native.get().encode(
                self.native.get()[0], unbatched, &response.text, &call
            )
        if result != Result.done:
            raise failure_of(result, call)
        return response.take()

    def is_close(self, size_t index, Outputs other not None, double relative, double absolute):
        """Whether an output agrees with that of another run.

        Args:
            index: of a tensor, in both.
            other: outputs of the same pipeline.
            relative, absolute: the tolerances of floats, as in numpy.allclose().
        """
        return are_close(
            self.native.get().list.at(index), other.native.get().list.at(index), relative, absolute
        )

    def is_informative(self, size_t index):
        """Whether a tensor has a finite number, or any element that is not a float."""
        return is_informative(self.native.get().list.at(index))

    def tensor(self, size_t index):
        """An output of numbers: (type code, shape, address). Valid while this object is."""
        cdef const Output* output = &self.native.get().list.at(index)
        return (
            <int>output.type, sizes_tuple(output.shape, output.axes), <uintptr_t>output.data,
        )

    def value(self, size_t index):
        """An output as Python values, copied.

        Returns:
            A tuple: (type code, shape, bytes) for a tensor of numbers, (shape, list of str) for one
            of strings, (keys, values) for a map, each a tensor; or a list of such for a sequence.
        """
        return value_of(self.native.get().list.at(index))


cdef size_t bytes_of(const Output& output) noexcept:
    """Bytes of a tensor of numbers; 0 of anything else."""
    cdef size_t nbytes = core.element_bytes(output.type) if output.kind == ValueKind.tensor else 0
    cdef int axis
    for axis in range(output.axes):
        nbytes *= <size_t>output.shape[axis]
    return nbytes


cdef object value_of(const Output& output):
    cdef vector[Output] elements
    cdef size_t nbytes
    if output.kind == ValueKind.tensor:
        shape = sizes_tuple(output.shape, output.axes)
        if output.type == Type.string:
            return shape, list_of(output.strings)
        nbytes = bytes_of(output)
        return <int>output.type, shape, output.data[:nbytes] if nbytes > 0 else b""
    elements = elements_of(output)
    values = [value_of(elements[i]) for i in range(elements.size())]
    return values if output.kind == ValueKind.sequence else tuple(values)


cdef boolean grow_response(void* owner, Text* text, size_t needed) noexcept with gil:
    """Text::grow: moves the response to a bytes object, or to a larger one."""
    cdef _Response response = <_Response>owner
    cdef size_t capacity = max(needed, 2 * text.capacity)
    try:
        # glibc maps each large block anew and unmaps it when freed, so that every page of every
        # response would fault. It raises its threshold to the largest block freed; ours are shrunk
        # before that. Hence a block of full size, freed untouched.
        if capacity >= LARGE_BYTES:
            PyMem_RawFree(PyMem_RawMalloc(capacity))
        if response.memory == NULL:
            response.memory = PyBytes_FromStringAndSize(NULL, capacity)
            memcpy(PyBytes_AS_STRING(response.memory), text.data, text.size)
        else:
            _PyBytes_Resize(&response.memory, capacity)
    except MemoryError:
        return False
    text.data = PyBytes_AS_STRING(response.memory)
    text.capacity = capacity
    return True


cdef class _Response:
    """The text of one response: on its writer's stack, or in a bytes object once that is too small."""

    cdef Text text
    cdef PyObject* memory  # owned; no other code has seen it

    cdef void start(self, char* small) noexcept:
        self.text.data = small
        self.text.size = 0
        self.text.capacity = SHORT_RESPONSE
        self.text.owner = <void*>self
        self.text.grow = grow_response

    def __dealloc__(self):
        Py_XDECREF(self.memory)

    cdef bytes take(self):
        """The text as bytes."""
        if self.memory == NULL:
            return self.text.data[:self.text.size]
        _PyBytes_Resize(&self.memory, self.text.size)
        return <bytes><object>self.memory


cdef const char* data_of(body, size_t* size) except NULL:
    """The bytes of a request body, bytes or a Body; NUL follows them."""
    if isinstance(body, Body):
        size[0] = (<Body>body).nbytes
        return <const char*><uintptr_t>(<Body>body).block.address
    if not isinstance(body, bytes):
        raise TypeError(f"a body is bytes, not {type(body).__name__}")
    size[0] = PyBytes_GET_SIZE(<PyObject*>body)
    return PyBytes_AS_STRING(<PyObject*>body)


cdef object failure_of(Result result, const Call& call):
    """The exception for a run or a response that failed."""
    if result == Result.terminated:
        return TimeoutError()
    if result == Result.out_of_memory:
        return MemoryError("the response is too large")
    return RuntimeError(text_of(call.message))


cdef class Pipeline:
    """The way of a request through one model. Thread-safe: any number of calls at once.

    Args:
        session: the model's; None if nothing is run here.
        table: the inputs that a body may have.
        rules: for each of them, what the model does with it: (type code, is_batched,
            has_batch_name, is_optional, name of the model's input or None, axes), where `axes` lists
            its named dynamic axes as (axis, name).
        outputs: the names of the outputs that a run returns.
        responses: how they are answered, in the order of the response: (name in the response, index
            in `outputs`, activation or None, when its leading axis of size 1 is dropped: 0 never, 1
            if the request is one item, 2 always).
        pool: supplies the blocks of requests.

    Attributes:
        pool: the same.
    """

    cdef unique_ptr[NativePipeline] native
    cdef Session session
    cdef InputTable table
    cdef readonly Pool pool
    cdef dict numbers  # input name -> its index in the table
    cdef list axis_names

    def __init__(
        self, Session session, InputTable table not None, list rules not None,
        list outputs not None, list responses not None, Pool pool not None,
    ):
        cdef vector[InputRule] native_rules
        cdef vector[cpp_string] names
        cdef vector[cpp_string] output_names
        cdef vector[OutputRule] output_rules
        cdef InputRule rule
        cdef OutputRule response
        cdef ort.OrtSession* handle = NULL
        self.session = session
        self.table = table
        self.pool = pool
        self.numbers = {spec.name: number for number, spec in enumerate(table.specs)}
        self.axis_names = []
        numbers = {}
        for code, is_batched, has_batch_name, is_optional, name, axes in rules:
            rule.type = <Type><int>code
            rule.is_batched = is_batched
            rule.has_batch_name = has_batch_name
            rule.is_optional = is_optional
            rule.is_fed = name is not None
            rule.axes.clear()
            for axis, axis_name in axes:
                if axis_name not in numbers:
                    numbers[axis_name] = len(numbers)
                    self.axis_names.append(axis_name)
                rule.axes.push_back(pair[int, int](axis, numbers[axis_name]))
            native_rules.push_back(rule)
            is_bound = name is not None and session is not None
            names.push_back(name_of(session.input_names, name) if is_bound else b"")
        for name in outputs:
            output_names.push_back(
                <bytes>name.encode() if session is None else name_of(session.output_names, name)
            )
        for name, index, activation, unbatch in responses:
            response.key = <bytes>json.dumps(name, ensure_ascii=False).encode()
            response.index = index
            response.activation.reset()
            if activation is not None:
                response.activation = <Activation><int>ACTIVATIONS[activation]
            response.unbatch = <Unbatch><int>unbatch
            output_rules.push_back(response)
        if session is not None:
            handle = session.native.get().handle()
        self.native.reset(new NativePipeline(
            handle, &table.inputs, native_rules, names, output_names, output_rules
        ))

    def decode(self, body not None):
        """Reads a request body.

        Args:
            body: any bytes, or a complete Body.

        Returns:
            The request and whether nothing is missing: it is complete, and its inputs agree. Else
            its caller completes it.

        Raises:
            ClientError: the first error in the text, or inputs that disagree.
            MemoryError: there is no room for a tensor.

        Releases the GIL while it reads.
        """
        cdef Call call
        cdef Result result
        cdef size_t size = 0
        cdef const char* data = data_of(body, &size)
        with nogil:
            result = self.native.get().decode(data, size, self.pool.native.get()[0], &call)
            if result == Result.done:
                result = self.native.get().complete(&call)
        if result != Result.done and result != Result.incomplete:
            raise self.refusal(result, call)
        return self.take_request(call), result == Result.done

    def respond(self, body not None, double deadline, stages):
        """Responds to a body: reads it, runs the model on the host, and writes the response.

        Args:
            body: any bytes, or a complete Body.
            deadline: when the run is stopped, on the monotonic clock, in seconds.
            stages: its attributes `decode`, `run` and `encode` are set to the seconds of each, `rows`
                to the row count.

        Returns:
            The response, as JSON in UTF-8; or, if an input is missing, the incomplete Request.

        Raises:
            ClientError: the first error in the text, or inputs that disagree.
            MemoryError: there is no room for a tensor, or the response is too large.
            RuntimeError: ONNX Runtime failed; its message.
            TimeoutError: the run was stopped.

        Releases the GIL for all of it.
        """
        cdef _Response response = _Response()
        cdef char small[SHORT_RESPONSE]
        cdef Call call
        cdef Result result
        cdef int64_t stop = nanoseconds(deadline)
        cdef size_t size = 0
        cdef const char* data = data_of(body, &size)
        response.start(small)
        with nogil:
            result = self.native.get().respond(
                data, size, self.pool.native.get()[0], stop, &response.text, &call
            )
        stages.decode = call.decode_time / 1e9
        if result == Result.incomplete:
            return self.take_request(call)
        if result != Result.done:
            raise self.refusal(result, call)
        stages.run = call.run_time / 1e9
        stages.encode = call.encode_time / 1e9
        stages.rows = call.request.rows(self.native.get().rules())
        return response.take()

    def run(self, Request request not None, double deadline):
        """Runs a complete request on the host's memory, without the GIL.

        Args:
            request: of this pipeline.
            deadline: when the run is stopped, on the monotonic clock, in seconds; may be infinite.

        Raises:
            RuntimeError: ONNX Runtime failed; its message.
            TimeoutError: the run was stopped.
        """
        cdef Call call
        cdef Result result
        cdef int64_t stop = nanoseconds(deadline)
        with nogil:
            result = self.native.get().run(request.native, stop, &call)
        if result != Result.done:
            raise failure_of(result, call)
        cdef Outputs outputs = Outputs.__new__(Outputs)
        outputs.native = call.outputs
        outputs.pipeline = self
        outputs.owner = request
        outputs.run_seconds = call.run_time / 1e9
        return outputs

    def outputs(self, list tensors not None, double run_seconds):
        """The outputs of a run elsewhere.

        Args:
            tensors: in the order of the run, each an object with `type`, `shape` and `address` of
                dense, C-ordered elements in host memory, which the outputs keep alive.
            run_seconds: how long the run took.
        """
        cdef shared_ptr[NativeOutputs] native = make_shared[NativeOutputs]()
        cdef Outputs outputs = Outputs.__new__(Outputs)
        cdef Output* output
        for tensor in tensors:
            native.get().list.emplace_back()
            output = &native.get().list.back()
            output.kind = ValueKind.tensor
            output.type = <Type><int>tensor.type.code
            output.axes = len(tensor.shape)
            if output.axes > core.kMaxAxes or core.element_bytes(output.type) == 0:
                raise ValueError(f"not a tensor of numbers with at most {core.kMaxAxes} axes")
            for axis in range(output.axes):
                output.shape[axis] = tensor.shape[axis]
            output.data = <const unsigned char*><uintptr_t>tensor.address
        outputs.native = native
        outputs.pipeline = self
        outputs.owner = list(tensors)
        outputs.run_seconds = run_seconds
        return outputs

    # Steps for other threads.

    def respond_work(self, body not None, double deadline):
        """Work that responds to a body: respond() without the stages."""
        cdef Work work = self.work(Step.respond, body)
        work.native.deadline = nanoseconds(deadline)
        work.native.body = data_of(body, &work.native.size)
        return work

    def decode_work(self, body not None):
        """Work that reads a body: decode()."""
        cdef Work work = self.work(Step.decode, body)
        work.native.body = data_of(body, &work.native.size)
        return work

    def run_work(
        self, list requests not None, double deadline, dict padded=None, bint is_left=False,
    ):
        """Work that runs requests together: gather() if they are several, then run().

        Args:
            requests: complete, of equal batch keys.
            deadline: when the run is stopped, on the monotonic clock, in seconds; may be infinite.
            padded, is_left: as of gather().
        """
        cdef Work work = self.work(Step.run, requests)
        cdef Request request
        work.native.deadline = nanoseconds(deadline)
        for request in requests:
            work.native.requests.push_back(&request.native)
        if padded:
            work.native.padded = self.padding(padded)
        work.native.is_left = is_left
        return work

    def encode_work(self, Outputs outputs not None, bint unbatched):
        """Work that writes a response: Outputs.encode()."""
        cdef Work work = self.work(Step.encode, outputs)
        work.native.outputs = outputs.native
        work.native.unbatched = unbatched
        return work

    cdef Work work(self, Step step, object subject):
        cdef Work work = Work.__new__(Work)
        work.pipeline = self
        work.subject = subject
        work.native.step = step
        work.native.pipeline = self.native.get()
        work.native.pool = self.pool.native.get()
        return work

    cdef vector[PaddedInput] padding(self, dict padded) except *:
        """How inputs are padded: (shape of the batch, bytes of the element) by input name."""
        cdef vector[PaddedInput] padding
        cdef bytes element
        padding.resize(self.native.get().rules().size())
        for name, (shape, filler) in padded.items():
            element = filler
            padding[<size_t>self.numbers[name]].shape = shape
            memcpy(
                padding[<size_t>self.numbers[name]].element, PyBytes_AS_STRING(<PyObject*>element),
                min(len(element), 8),
            )
        return padding

    @property
    def specs(self):
        """The inputs that a body may have, an InputSpec each."""
        return self.table.specs

    def request(self):
        """A request that gives no input yet."""
        return Request(self)

    def gather(self, list requests not None, dict padded=None, bint is_left=False):
        """Concatenates requests along the batch axis, in their order.

        Args:
            requests: of equal batch keys; only read.
            padded: by input name, the batch's shape and the bytes of the element that pads it.
            is_left: whether padding precedes the elements.

        Raises:
            MemoryError: there is no room.

        Releases the GIL while it copies.
        """
        cdef Request batch = Request(self)
        cdef Request request
        cdef vector[const NativeRequest*] parts
        cdef vector[PaddedInput] padding = self.padding(padded or {})
        cdef bint fits
        for request in requests:
            parts.push_back(&request.native)
        with nogil:
            fits = gather(
                parts, self.native.get().rules(), padding, is_left, self.pool.native.get()[0],
                &batch.native,
            )
        if not fits:
            raise self.pool.failure()
        return batch

    cdef Request take_request(self, Call& call):
        cdef Request request = Request(self)
        request.native = take_over(call.request)
        return request

    cdef object refusal(self, Result result, Call& call):
        """The exception for a request that was not answered."""
        if result == Result.disagrees:
            return self.disagreement(call.disagreement, {})
        if result == Result.invalid:
            return self.invalid(&call.reader.value())
        if result == Result.out_of_memory and not call.outputs:
            return self.pool.failure()
        return failure_of(result, call)

    cdef object disagreement(self, const Disagreement& found, dict sent_as):
        names = [spec.name for spec in self.table.specs]
        first, second = names[found.first], names[found.second]
        return DisagreementError(
            "batch" if found.name < 0 else self.axis_names[found.name],
            (sent_as.get(first, first), found.first_size),
            (sent_as.get(second, second), found.second_size),
        )

    cdef object invalid(self, const Reader* reader):
        """The exception for the reader's error."""
        cdef ReadError error = reader.error()
        cdef const Sink* sink
        cdef InputSpec spec
        if error == ReadError.syntax:
            return InvalidJSONError(reader.at(), reader.problem().decode())
        if error == ReadError.not_an_object:
            return InvalidBodyError()
        if error == ReadError.unknown_input:
            known = [other.name for other in self.table.specs]
            return UnknownInputError(reader.text().decode(), known)
        if error == ReadError.out_of_memory:
            return MemoryError()
        spec = self.table.specs[reader.input()]
        if error == ReadError.duplicate_input:
            return DuplicateInputError(spec.name)
        if error == ReadError.clashing_inputs:
            other = self.table.specs[reader.other_input()].name
            if self.table.inputs[reader.input()].group == 1:
                return ClashingInputsError(spec.name, other)
            return ClashingInputsError(other, spec.name)
        sink = &reader.sink()
        if error == ReadError.base64:
            path = sizes_tuple(sink.path(), sink.path_size())
            return InvalidValueError(spec.name, path, reader.text().decode())
        if sink.error() == Error.out_of_memory:
            return self.pool.failure()
        return value_error(spec, sink, None, rejected_number(reader))


cdef str rejected_number(const Reader* reader):
    """The rejected number as the client wrote it, of bounded length."""
    cdef size_t size = reader.number_size()
    if size == 0:
        return number_text(reader.sink().number())  # of a tensor in base64
    text = reader.number()[:min(size, <size_t>MAX_QUOTED_CHARACTERS)].decode()
    return text if size <= MAX_QUOTED_CHARACTERS else text + "…"


cdef int64_t nanoseconds(double seconds) noexcept:
    """A time on the monotonic clock; kNever for one that is not finite or far away."""
    return <int64_t>(seconds * 1e9) if seconds < 9e9 else kNever
