# Cython's declarations of the way of a request through a model: request.hpp, outputs.hpp, pipeline.hpp.
from libc.stdint cimport int64_t
from libcpp cimport bool
from libcpp.memory cimport shared_ptr
from libcpp.optional cimport optional
from libcpp.string cimport string as cpp_string
from libcpp.pair cimport pair
from libcpp.vector cimport vector

from core cimport Activation, Input, NativeBlock, Pool, Reader, Type, kMaxAxes
from ort cimport OrtRunOptions, OrtSession


cdef extern from "ort.hpp" namespace "gpux::ort" nogil:
    cdef enum class ValueKind(int):
        tensor
        sequence
        map


cdef extern from "watchdog.hpp" namespace "gpux" nogil:
    int64_t kNever
    int64_t now() noexcept

    cdef cppclass WatchedRun:
        WatchedRun(OrtRunOptions* options, int64_t deadline) except +
        bool end() noexcept


cdef extern from "request.hpp" namespace "gpux" nogil:
    cdef cppclass Strings:
        void append(const cpp_string& element) except +
        vector[size_t] ends
        cpp_string text

    cdef cppclass InputTensor:
        bool given
        bool as_items
        bool as_one_item
        int axes
        int64_t shape[kMaxAxes]
        const void* data
        NativeBlock block
        Strings strings

    cdef cppclass InputRule:
        Type type
        bool is_batched
        bool has_batch_name
        bool is_optional
        bool is_fed
        vector[pair[int, int]] axes

    cdef cppclass Disagreement:
        int name
        size_t first
        int64_t first_size
        size_t second
        int64_t second_size

    cdef cppclass NativeRequest "gpux::Request":
        NativeRequest() except +
        NativeRequest(size_t count) except +
        vector[InputTensor] inputs
        bool unbatched
        int64_t rows(const vector[InputRule]& rules) noexcept

    cdef cppclass PaddedInput:
        vector[int64_t] shape
        unsigned char element[8]

    bool is_unbatched(const NativeRequest& request, const vector[InputRule]& rules) noexcept
    bool agree(const NativeRequest& request, const vector[InputRule]& rules, Disagreement* disagreement) except +
    bool gather(const vector[const NativeRequest*]& requests, const vector[InputRule]& rules,
                const vector[PaddedInput]& padded, bool is_left, Pool& pool, NativeRequest* batch) except +


cdef extern from "outputs.hpp" namespace "gpux" nogil:
    cdef cppclass Output:
        ValueKind kind
        Type type
        int axes
        int64_t shape[kMaxAxes]
        const unsigned char* data
        Strings strings

    cdef cppclass NativeOutputs "gpux::Outputs":
        NativeOutputs() except +
        vector[Output] list

    shared_ptr[NativeOutputs] part_of(
        shared_ptr[const NativeOutputs] batch, int64_t first, int64_t rows,
        const vector[vector[int64_t]]& shapes, bool is_left
    ) except +
    vector[Output] elements_of(const Output& output) except +

    bool are_close(const Output& one, const Output& other, double relative, double absolute) noexcept
    bool is_informative(const Output& output) noexcept

    cdef enum class Unbatch(int):
        never
        with_request
        always

    cdef cppclass OutputRule:
        cpp_string key
        size_t index
        optional[Activation] activation
        Unbatch unbatch

    cdef struct Text:
        char* data
        size_t size
        size_t capacity
        void* owner
        bool (*grow)(void* owner, Text* text, size_t needed) noexcept


cdef extern from "pipeline.hpp" namespace "gpux" nogil:
    cdef enum class Result(int):
        done
        invalid
        incomplete
        disagrees
        failed
        terminated
        out_of_memory

    cdef cppclass Call:
        Call() except +
        optional[Reader] reader
        NativeRequest request
        shared_ptr[NativeOutputs] outputs
        Disagreement disagreement
        cpp_string message
        int64_t decode_time
        int64_t run_time
        int64_t encode_time

    cdef cppclass NativePipeline "gpux::Pipeline":
        NativePipeline(OrtSession* session, const vector[Input]* table, vector[InputRule] rules,
                       vector[cpp_string] names, vector[cpp_string] output_names,
                       vector[OutputRule] output_rules) except +
        Result decode(const char* body, size_t size, Pool& pool, Call* call) noexcept
        Result complete(Call* call) noexcept
        Result run(const NativeRequest& request, int64_t deadline, Call* call) noexcept
        Result encode(const NativeOutputs& outputs, bool unbatched, Text* text, Call* call) noexcept
        Result respond(const char* body, size_t size, Pool& pool, int64_t deadline, Text* text, Call* call) noexcept
        const vector[InputRule]& rules() noexcept


cdef extern from "work.hpp" namespace "gpux" nogil:
    cdef enum class Step(int):
        respond
        decode
        run
        encode

    cdef cppclass Stop:
        void request() noexcept

    cdef cppclass OwnText:
        OwnText() except +
        char* release() noexcept
        Text text

    cdef cppclass NativeWork "gpux::Work":
        NativeWork() except +
        Step step
        const NativePipeline* pipeline
        Pool* pool
        int64_t deadline
        const char* body
        size_t size
        vector[const NativeRequest*] requests
        vector[PaddedInput] padded
        bool is_left
        shared_ptr[const NativeOutputs] outputs
        bool unbatched
        Result result
        int64_t cpu_time
        Call call
        OwnText response
        Stop stop
        void* owner
        void execute() noexcept

    cdef cppclass NativeThreadPool "gpux::ThreadPool":
        NativeThreadPool(int threads, int descriptor) except +
        void submit(NativeWork* work) except +
        vector[NativeWork*] completed() noexcept


cdef extern from "known.hpp" namespace "gpux" nogil:
    cdef cppclass KnownSection:
        cpp_string before
        cpp_string after
        int64_t timeout

    cdef cppclass KnownSections:
        void remember(KnownSection section) except +
        const KnownSection* find(const char* data, size_t size, size_t* body_at) noexcept
