# Cython's declarations of sessions and their runs. What the core throws (ort::Failure, in ONNX Runtime's
# words) is a RuntimeError; std::bad_alloc is a MemoryError.
from libc.stdint cimport int64_t
from libcpp.optional cimport optional
from libcpp.pair cimport pair
from libcpp.string cimport string as cpp_string
from libcpp.vector cimport vector


cdef extern from "ort.hpp" namespace "gpux::ort" nogil:
    cdef cppclass OrtRunOptions:
        pass

    cdef cppclass OrtSession:
        pass

    cdef cppclass OrtValue:
        pass

    # An owner of an OrtValue: a std::unique_ptr.
    cdef cppclass OwnedValue "gpux::ort::Value":
        OrtValue* get() noexcept
        OrtValue* release() noexcept
        void reset(OrtValue* value) noexcept

    void load(const char* path) except +
    const cpp_string& version() noexcept
    vector[cpp_string] available_providers() except +


cdef extern from "session.hpp" namespace "gpux" nogil:
    ctypedef vector[pair[cpp_string, cpp_string]] Entries

    cdef enum class Optimization "gpux::SessionOptions::Optimization"(int):
        pass

    cdef cppclass CppSessionOptions "gpux::SessionOptions":
        CppSessionOptions(int intra_op_threads, Optimization optimization) except +
        void add_config_entry(const char* name, const char* value) except +
        void override_dimension(const char* name, int64_t size) except +
        void register_custom_ops(const char* path) except +
        void append_cuda(const Entries& provider_options) except +

    cdef struct CppDeclared "gpux::Declared":
        cpp_string name
        cpp_string onnx
        vector[int64_t] dims
        vector[cpp_string] symbols

    cdef struct CppMetadata "gpux::Metadata":
        cpp_string producer
        cpp_string graph
        cpp_string domain
        cpp_string description
        cpp_string graph_description
        int64_t version
        Entries custom

    cdef struct CppAssignment "gpux::Assignment":
        cpp_string provider
        cpp_string op_type
        cpp_string domain
        cpp_string node

    cdef cppclass CppSession "gpux::Session":
        CppSession(const char* path, const CppSessionOptions& options) except +
        OrtSession* handle() noexcept
        const vector[CppDeclared]& inputs() noexcept
        const vector[CppDeclared]& outputs() noexcept
        const vector[CppDeclared]& initializers() noexcept
        CppMetadata metadata() except +
        optional[vector[CppAssignment]] assignments() except +
        optional[vector[cpp_string]] input_memory() except +


cdef extern from "binding.hpp" namespace "gpux" nogil:
    cdef cppclass CppRunOptions "gpux::RunOptions":
        CppRunOptions() except +
        void add_config_entry(const char* name, const char* value) except +
        OrtRunOptions* handle() noexcept

    cdef struct Place:
        const char* device
        int index

    cdef struct BoundTensor:
        int type
        const int64_t* dims
        size_t axes
        void* data

    cdef cppclass CppBinding "gpux::Binding":
        CppBinding(const CppSession& session) except +
        void bind_input(const char* name, Place place, const BoundTensor& tensor) except +
        void bind_output(const char* name, Place place, const BoundTensor& tensor) except +
        void bind_output(const char* name, Place place) except +
        void clear_inputs() noexcept
        void clear_outputs() noexcept
        void run(const CppRunOptions& options) except +
        vector[OwnedValue] outputs() except +

    cdef struct TensorView:
        int type
        vector[int64_t] dims
        void* data

    TensorView view_of(OrtValue* tensor) except +
