# Cython's declarations of the core. Only the constructors raise (MemoryError): other functions
# return false, and the sink or the reader then holds the error.
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libcpp cimport bool
from libcpp.string cimport string as cpp_string
from libcpp.vector cimport vector


cdef extern from "element.hpp" namespace "gpux" nogil:
    cdef enum class Type(int):
        string
        boolean
        float32
        float64
        float16
        bfloat16
        int8
        int16
        int32
        int64
        uint8
        uint16
        uint32
        uint64

    bool store(double number, float& element) noexcept


cdef extern from "chunked.hpp" namespace "gpux" nogil:
    cdef struct ChunkLimits:
        size_t body_bytes
        size_t line_bytes
        size_t framing_bytes
        size_t framing_per_byte
        size_t trailer_bytes
        size_t trailer_fields

    cdef enum class ChunkFault(int):
        none
        malformed
        too_large
        too_verbose

    cdef struct ChunkStep "gpux::ChunkDecoder::Step":
        size_t consumed
        size_t written

    cdef cppclass ChunkDecoder:
        ChunkDecoder(const ChunkLimits&)
        ChunkStep decode(const char* data, size_t size, char* out)
        bool is_complete()
        ChunkFault fault()
        size_t body_bytes()


cdef extern from "sink.hpp" namespace "gpux" nogil:
    enum: kMaxAxes "gpux::kMaxAxes"

    cdef struct Spec:
        Type type
        int axes
        int64_t sizes[kMaxAxes]
        int min_axes
        int max_axes
        bool open
        bool batched
        bool flat_items
        int64_t max_characters
        bool null_is_nan

    cdef struct Memory:
        unsigned char* data
        size_t capacity
        void* owner
        bool (*grow)(void* owner, Memory* memory, size_t needed) noexcept

    cdef enum class JsonKind(int):
        number
        string
        boolean
        null
        array
        object
        other

    cdef enum class Error(int):
        none
        wrong_type_at_top
        wrong_type
        out_of_range
        not_an_integer
        not_finite
        too_long
        ragged
        outgrown
        too_deep
        wrong_shape
        empty_batch
        out_of_memory

    cdef enum NumberKind "gpux::Number::Kind":
        float64 "gpux::Number::float64"
        int64 "gpux::Number::int64"
        uint64 "gpux::Number::uint64"

    cdef struct Number:
        NumberKind kind
        double as_float64
        int64_t as_int64
        uint64_t as_uint64

    cdef cppclass Sink:
        Sink(const Spec& spec, const Memory& memory) except +  # for `new`
        bool open() noexcept
        bool close() noexcept
        bool doubles(const double* numbers, size_t count) noexcept
        bool int64s(const int64_t* numbers, size_t count) noexcept
        bool uint64s(const uint64_t* numbers, size_t count) noexcept
        bool booleans(const uint8_t* values, size_t count) noexcept
        bool expect_string() noexcept
        bool string(size_t characters) noexcept
        bool other(JsonKind kind) noexcept
        bool huge_integer() noexcept
        unsigned char* claim(size_t* count) noexcept
        void commit(size_t count) noexcept
        bool count(int depth, int axes, const Py_ssize_t* sizes) noexcept
        bool axes_below(int count, const Py_ssize_t* sizes) noexcept
        bool finish() noexcept

        int depth() noexcept
        bool is_counting() noexcept
        int axes() noexcept
        const int64_t* shape() noexcept
        bool as_items() noexcept
        bool as_one_item() noexcept

        Error error() noexcept
        int path_size() noexcept
        const int64_t* path() noexcept
        JsonKind got() noexcept
        bool expected_array() noexcept
        Number number() noexcept
        int64_t expected_values() noexcept
        int64_t got_values() noexcept
        int got_axes() noexcept
        const int64_t* got_sizes() noexcept
        bool is_reordered() noexcept

    size_t element_bytes(Type type) noexcept
    bool is_float(Type type) noexcept


cdef extern from "reader.hpp" namespace "gpux" nogil:
    cdef struct Input:
        const char* name
        size_t name_size
        const Spec* spec
        int group

    cdef enum class ReadError(int):
        none
        syntax
        not_an_object
        unknown_input
        duplicate_input
        clashing_inputs
        value
        base64
        out_of_memory

    cdef cppclass Reader:
        ReadError error() noexcept
        size_t at() noexcept
        const char* problem() noexcept
        const cpp_string& text() noexcept
        size_t input() noexcept
        size_t other_input() noexcept
        const Sink& sink() noexcept
        const char* number() noexcept
        size_t number_size() noexcept


cdef extern from "strided.hpp" namespace "gpux" nogil:
    bool feed(Sink& sink, const unsigned char* data, Type type, int axes, const Py_ssize_t* sizes,
              const Py_ssize_t* strides) noexcept


cdef extern from "activation.hpp" namespace "gpux" nogil:
    cdef enum class Activation(int):
        softmax
        sigmoid
        normalize

    void activate_rows "gpux::activate"(
        Activation activation, Type type, size_t rows, size_t size, const void* source, void* target
    ) noexcept


cdef extern from "pool.hpp" namespace "gpux" nogil:
    cdef struct RawBlock:
        unsigned char* data
        size_t nbytes
        void* handle

    cdef struct Allocator:
        void* owner
        bool (*allocate)(void* owner, size_t nbytes, RawBlock* block) noexcept
        void (*release)(void* owner, const RawBlock& block) noexcept

    Allocator host_allocator() noexcept

    cdef cppclass NativeBlock "gpux::Block":
        NativeBlock() noexcept
        unsigned char* data() noexcept
        size_t nbytes() noexcept
        void* handle() noexcept

    cdef struct Usage "gpux::Pool::Usage":
        size_t used_bytes
        size_t idle_bytes
        size_t allocations

    cdef cppclass Pool:
        Pool(const Allocator& allocator, size_t max_idle_bytes) noexcept
        NativeBlock take(size_t nbytes) noexcept
        void free_idle() noexcept
        Usage usage() noexcept
