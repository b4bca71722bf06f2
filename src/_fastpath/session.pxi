# Sessions and their runs on memory that is bound by address: session.hpp and binding.hpp for Python.


cdef str text_of(const cpp_string& text):
    return text.data()[:text.size()].decode("utf-8", "replace")


def load_library(path):
    """Loads ONNX Runtime for the process. Does nothing if it is loaded. Not thread-safe.

    Args:
        path: of libonnxruntime.so.VERSION.
    """
    cdef bytes encoded = os.fsencode(path)
    ort.load(encoded)


def runtime_version():
    """The version of the loaded library, as `1.30.0`; empty if none is loaded."""
    return text_of(ort.version())


cdef int require_library() except -1:
    if ort.version().empty():
        raise RuntimeError("ONNX Runtime is not loaded")
    return 0


def available_providers():
    """The execution providers that the library was built with, by ONNX Runtime's names."""
    require_library()
    return [text_of(name) for name in ort.available_providers()]


@cython.final
cdef class SessionOptions:
    """The options of one or more sessions. Not thread-safe.

    Args:
        threads: CPU threads that one run may use.
        optimization: how much ONNX Runtime may rewrite the graph: 0 not at all, 1 basic,
            2 extended, 99 all.
    """

    cdef unique_ptr[ort.CppSessionOptions] native

    def __cinit__(self, int threads, int optimization):
        require_library()
        self.native.reset(
            new ort.CppSessionOptions(threads, <ort.Optimization>optimization)
        )

    def add_config_entry(self, str name, str value):
        """Sets a config entry. ONNX Runtime ignores an unknown name."""
        self.native.get().add_config_entry(name.encode(), value.encode())

    def override_dimension(self, str name, int64_t size):
        """Fixes the axes of this name to a size. ONNX Runtime ignores an unknown name."""
        self.native.get().override_dimension(name.encode(), size)

    def register_custom_ops(self, path):
        """Registers the operators of a shared library."""
        cdef bytes encoded = os.fsencode(path)
        self.native.get().register_custom_ops(encoded)

    def append_cuda(self, dict provider_options):
        """Prefers the CUDA provider. After a failure, these options create no session.

        Args:
            provider_options: of the CUDA provider, as text by name.
        """
        cdef ort.Entries entries
        for name, value in provider_options.items():
            entries.push_back((<cpp_string><bytes>name.encode(), <cpp_string><bytes>value.encode()))
        with nogil:
            self.native.get().append_cuda(entries)


@cython.final
cdef class Declared:
    """An input, an output, or an initializer that a caller may override. Immutable.

    Attributes:
        name: as the model has it.
        onnx: its type, as ONNX writes it: `tensor(float)`, `seq(map(int64,tensor(float)))`.
        dims: of a tensor: a size, the name of a dynamic axis, or None for one without a name; empty
            also if no shape is declared.
    """

    cdef readonly str name
    cdef readonly str onnx
    cdef readonly tuple dims

    def __init__(self):
        raise TypeError("only a Session creates them")


cdef object dim_of(int64_t size, const cpp_string& symbol):
    if size >= 0:
        return size
    return text_of(symbol) or None


cdef list declared_of(const vector[ort.CppDeclared]& entries, dict names):
    """The entries, and in `names` their names as ONNX Runtime has them, by their text."""
    cdef Declared declared
    cdef size_t i
    result = []
    for i in range(entries.size()):
        declared = Declared.__new__(Declared)
        declared.name = text_of(entries[i].name)
        declared.onnx = text_of(entries[i].onnx)
        declared.dims = tuple([
            dim_of(entries[i].dims[axis], entries[i].symbols[axis])
            for axis in range(entries[i].dims.size())
        ])
        if names.get(declared.name, <bytes>entries[i].name) != <bytes>entries[i].name:
            raise ValueError(
                f"two names are not UTF-8 and equal where they are shown: {declared.name!r}"
            )
        names[declared.name] = <bytes>entries[i].name
        result.append(declared)
    return result


@cython.final
cdef class Session:
    """A model that ONNX Runtime has loaded. Any number of threads may run it at once.

    Args:
        path: of the model's file; its external data is found beside it.
        options: may be reused.

    Attributes:
        inputs, outputs: in the model's order.
        initializers: those that a caller may override, as if they were inputs.

    Raises:
        RuntimeError: ONNX Runtime cannot load it.
        ValueError: two of its names differ only in bytes that are not UTF-8.
    """

    cdef unique_ptr[ort.CppSession] native
    cdef readonly list inputs
    cdef readonly list outputs
    cdef readonly list initializers
    cdef dict input_names  # those of initializers, too
    cdef dict output_names

    def __cinit__(self, path, SessionOptions options not None):
        cdef bytes encoded = os.fsencode(path)
        cdef const char* name = encoded
        cdef ort.CppSession* session
        with nogil:
            session = new ort.CppSession(name, options.native.get()[0])
        self.native.reset(session)
        self.input_names = {}
        self.output_names = {}
        self.inputs = declared_of(session.inputs(), self.input_names)
        self.initializers = declared_of(session.initializers(), self.input_names)
        self.outputs = declared_of(session.outputs(), self.output_names)

    def metadata(self):
        """What the model says about itself.

        Returns:
            `producer`, `graph`, `domain`, `description` and `graph_description` as text, `version`
            as a number, 2**63 - 1 if there is none, and `custom`: texts by name.
        """
        cdef ort.CppMetadata found = self.native.get().metadata()
        return {
            "producer": text_of(found.producer),
            "graph": text_of(found.graph),
            "domain": text_of(found.domain),
            "description": text_of(found.description),
            "graph_description": text_of(found.graph_description),
            "version": found.version,
            "custom": {text_of(entry.first): text_of(entry.second) for entry in found.custom},
        }

    def assignments(self):
        """The nodes of the optimized graph, each with the execution provider that runs it.

        Returns:
            Tuples of texts: the provider, the operator's type and domain, the node's name. None if
            ONNX Runtime is older than 1.24, or the options lack the config entry
            `session.record_ep_graph_assignment_info`.
        """
        cdef optional[vector[ort.CppAssignment]] found = self.native.get().assignments()
        if not found.has_value():
            return None
        return [
            (text_of(node.provider), text_of(node.op_type), text_of(node.domain), text_of(node.node))
            for node in found.value()
        ]

    def input_memory(self):
        """The memory from which the model reads each input, as `Cpu` or `Cuda`, in their order.

        None if ONNX Runtime is older than 1.23.
        """
        cdef optional[vector[cpp_string]] found = self.native.get().input_memory()
        return [text_of(name) for name in found.value()] if found.has_value() else None

    def run(self, Binding binding not None, RunOptions options not None):
        """Runs what is bound to this session, without the GIL.

        Args:
            binding: of this session; not to be used by two runs at once.
            options: of this run.
        """
        if binding.session is not self:
            raise ValueError("the binding is another session's")
        with nogil:
            binding.native.get().run(options.native.get()[0])


@cython.final
cdef class RunOptions:
    """The options of a run, through which it is terminated at its deadline.

    Args:
        entries: config entries, as text by name.

    Attributes:
        entries: the same.
    """

    cdef unique_ptr[ort.CppRunOptions] native
    cdef unique_ptr[WatchedRun] watched
    cdef readonly dict entries

    def __cinit__(self, dict entries not None):
        require_library()
        self.native.reset(new ort.CppRunOptions())
        self.entries = dict(entries)
        for name, value in entries.items():
            self.native.get().add_config_entry(name.encode(), value.encode())

    def __dealloc__(self):
        self.watched.reset()  # before the options

    def watch(self, double deadline):
        """Terminates the run that uses them at its deadline. They serve no later run then.

        Args:
            deadline: on the monotonic clock, in seconds; may be infinite.
        """
        self.watched.reset(new WatchedRun(self.native.get().handle(), nanoseconds(deadline)))

    def unwatch(self):
        """Stops watching, if not done yet; returns whether the run was terminated."""
        return self.watched.get().end()


@cython.final
@cython.no_gc_clear  # the session must outlive the binding, in a cycle too
cdef class Binding:
    """What is bound to a session for its next run: an IOBinding. Not thread-safe.

    Bound memory stays its caller's, and must be valid until the run has returned, and for as long as
    an output that lies in it is used.
    """

    cdef unique_ptr[ort.CppBinding] native
    cdef Session session

    def __cinit__(self, Session session not None):
        self.session = session
        self.native.reset(new ort.CppBinding(session.native.get()[0]))

    def bind_input(
        self, str name, str device, int index, int type_code, shape, uintptr_t address
    ):
        """Binds an input, or an overridable initializer, to numbers in memory.

        Args:
            name: as Session.inputs has it.
            device: `cpu`, `cuda`, or another by ONNX Runtime's name.
            index: of the device.
            type_code: ONNX's number of the element type.
            shape: the sizes; the memory has as many elements, in row-major order.
            address: of the first element.
        """
        cdef bytes native_name = name_of(self.session.input_names, name)
        cdef bytes native_device = device.encode()
        cdef vector[int64_t] dims = shape
        cdef ort.Place place = ort.Place(native_device, index)
        cdef ort.BoundTensor tensor = ort.BoundTensor(
            type_code, dims.data(), dims.size(), <void*>address
        )
        self.native.get().bind_input(native_name, place, tensor)

    def bind_output(
        self, str name, str device="cpu", int index=0, type_code=None, shape=(), uintptr_t address=0
    ):
        """Binds an output to memory, or to a device on which ONNX Runtime allocates it.

        Args:
            name: as Session.outputs has it.
            device, index: as in bind_input().
            type_code: None if ONNX Runtime allocates it; otherwise with `shape` and `address` as in
                bind_input().
        """
        cdef bytes native_name = name_of(self.session.output_names, name)
        cdef bytes native_device = device.encode()
        cdef ort.Place place = ort.Place(native_device, index)
        cdef vector[int64_t] dims
        cdef ort.BoundTensor tensor
        if type_code is None:
            self.native.get().bind_output(native_name, place)
            return
        dims = shape
        tensor = ort.BoundTensor(type_code, dims.data(), dims.size(), <void*>address)
        self.native.get().bind_output(native_name, place, tensor)

    def get_outputs(self):
        """The outputs of the last run as Values, in the order in which they were bound."""
        cdef vector[ort.OwnedValue] values = self.native.get().outputs()
        cdef size_t i
        result = []
        for i in range(values.size()):
            result.append(value_from(values[i].release()))
        return result

    def clear_binding_inputs(self):
        """Unbinds all inputs."""
        self.native.get().clear_inputs()

    def clear_binding_outputs(self):
        """Unbinds all outputs."""
        self.native.get().clear_outputs()


cdef bytes name_of(dict names, str name):
    native_name = names.get(name)
    if native_name is None:
        raise ValueError(f"the session has no {name!r}")
    return native_name


@cython.final
cdef class Value:
    """A tensor that ONNX Runtime returned. Owns its memory, unless that was bound. Immutable."""

    cdef ort.OwnedValue native
    cdef ort.TensorView view

    def __init__(self):
        raise TypeError("only a Binding creates them")

    def element_type(self):
        """ONNX's number of the element type."""
        return self.view.type

    def shape(self):
        """The sizes."""
        return tuple(self.view.dims)

    def data_ptr(self):
        """The address of the first element; 0 for strings."""
        return <uintptr_t>self.view.data


cdef Value value_from(ort.OrtValue* value):
    """Takes ownership of a value."""
    cdef Value result = Value.__new__(Value)
    result.native.reset(value)
    result.view = ort.view_of(value)
    return result
