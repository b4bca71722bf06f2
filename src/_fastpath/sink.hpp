// The sink: events of a nested value ("open, numbers, close") in, one validated tensor out.
//
// All rules of docs/numbers.md (a value's rank, fixed sizes, ragged lists, each element's type and
// range) are checked here and nowhere else; the walker of Python lists, the feeder of arrays and the
// JSON reader only report what they meet, in order. No Python.h, no I/O; memory comes from the caller
// through Memory, never per number. Every method may run without the GIL, which only Memory::grow may
// acquire.
#pragma once

#include <cstddef>
#include <cstdint>

#include "element.hpp"

namespace gpux {

// The largest rank of a tensor.
constexpr int kMaxAxes = 32;

// The config of one model input. Immutable once made; shared between threads.
struct Spec {
    Type type;
    int axes;                      // declared rank; 0 for an open input
    std::int64_t sizes[kMaxAxes];  // declared shape, -1 where dynamic
    int min_axes;                  // lowest rank of a value
    int max_axes;                  // highest rank of a value
    bool open;                     // no declared shape: accepts any rank
    bool batched;                  // axis 0 is the batch axis, which must not be empty
    bool flat_items;               // [batch, 1]: a value of rank 1 is a list of items
    std::int64_t max_characters;   // of a string; -1 for no limit
    bool null_is_nan;              // of a float type: null is an element, NaN
};

// The memory that the sink writes to, owned by the caller. `grow` sets `data` to at least `needed`
// bytes that start with those written so far, or returns false (out of memory). It must not throw.
struct Memory {
    unsigned char* data;
    std::size_t capacity;  // bytes
    void* owner;
    bool (*grow)(void* owner, Memory* memory, std::size_t needed);
};

// What was found where another kind of value was expected.
enum class JsonKind : int { number, string, boolean, null, array, object, other };

enum class Error : int {
    none,
    wrong_type_at_top,  // of the whole value
    wrong_type,         // an element where a list belongs, a list where an element does, or a wrong element
    out_of_range,
    not_an_integer,
    not_finite,
    too_long,  // a string
    ragged,    // a list's length differs from its siblings'
    outgrown,  // a list is longer than the model's fixed size, and the value irregular or cut short
    too_deep,
    wrong_shape,  // got_sizes() is the whole shape
    empty_batch,
    out_of_memory,
};

// A number in the type it arrived in, for the error message.
struct Number {
    enum Kind : int { float64, int64, uint64 } kind;
    double as_float64;
    std::int64_t as_int64;
    std::uint64_t as_uint64;
};

// Claimed elements that may go into several lists, one after the other, of a length that is known.
struct Rows {
    std::size_t size;     // elements of a list
    std::size_t end;      // index of the first claimed element beyond the current list, at most `claimed`
    std::size_t claimed;  // elements
    std::size_t closed;   // lists that closed, each followed by another one

    // Whether the list of which `count` claimed elements are stored may close and the next one open.
    bool can_close(std::size_t count) const noexcept { return count == end && end < claimed; }
    // Closes `count` lists and opens as many.
    void close(std::size_t count) noexcept {
        closed += count;
        end += size * count;
        end = end < claimed ? end : claimed;
    }
};

class Sink {
public:
    // `spec` must outlive the sink.
    Sink(const Spec& spec, const Memory& memory) noexcept;

    // Events. Each returns false on an error; the first error stands, and no event may follow it, with one
    // exception: where a list outgrows the model's fixed size, the sink starts counting (is_counting()), so
    // that the error can tell the whole shape. Lists go on as before. Elements are refused without an error
    // of their own, and nothing is stored: the caller passes them to count().
    bool open() noexcept;
    bool close() noexcept;
    bool doubles(const double* numbers, std::size_t count) noexcept;
    bool int64s(const std::int64_t* numbers, std::size_t count) noexcept;
    bool uint64s(const std::uint64_t* numbers, std::size_t count) noexcept;
    bool booleans(const std::uint8_t* values, std::size_t count) noexcept;
    // A string, which the caller keeps: first whether one is allowed here, then its length.
    bool expect_string() noexcept;
    bool string(std::size_t characters) noexcept;
    bool other(JsonKind kind) noexcept;  // null, an object, or something that JSON does not have
    bool huge_integer() noexcept;        // beyond 64 bits, or for a float type beyond float64
    // Sibling numbers without a call for each: claim() returns where the next `*count` of them go, cut
    // to what the model's fixed size leaves room for, or null on an error. The caller stores as many as
    // it can (store() of element.hpp) and passes their count to commit(). No event may come in between;
    // nothing is stored before commit(). `kind` names the elements in the error if none is allowed here.
    unsigned char* claim(std::size_t* count, JsonKind kind = JsonKind::number) noexcept;
    void commit(std::size_t count) noexcept;
    // The same across siblings of the current list, once the length of such lists is known: claims up to
    // `count` elements. Before one goes into the next list, the caller closes the current one by
    // rows->close(), if rows->can_close(). The events of other lists do not differ.
    unsigned char* claim_rows(std::size_t count, Rows* rows) noexcept;
    void commit_rows(std::size_t count, const Rows& rows) noexcept;
    // The next claimed element is a number that the type cannot hold.
    bool reject_number(bool out_of_range) noexcept;
    // While counting: a tensor of these sizes (an element has no axes) as the next value at `depth`. Events
    // may have reported a part of it.
    bool count(int depth, int axes, const std::ptrdiff_t* sizes) noexcept;
    // The whole tensor in the input's own type, after finish(): where its elements go, or null on an error.
    unsigned char* claim_all(std::size_t elements) noexcept;
    // The sizes of the next `count` axes from here, which an array without elements still has.
    bool axes_below(int count, const std::ptrdiff_t* sizes) noexcept;
    // The end of the value: checks its shape. After the last event; again, it changes nothing.
    bool finish() noexcept;

    Type type() const noexcept { return spec_.type; }
    int depth() const noexcept { return depth_; }  // open lists
    bool is_counting() const noexcept { return counting_; }

    // After finish(): the tensor.
    int axes() const noexcept { return axes_; }
    const std::int64_t* shape() const noexcept { return shape_; }
    std::size_t elements() const noexcept { return written_; }
    // Declared axes were missing and have been added: the value was one item, or a list of items.
    bool as_items() const noexcept { return added_ > 0; }
    bool as_one_item() const noexcept { return added_ > 0 && !list_of_items(); }

    const Memory& memory() const noexcept { return memory_; }

    // After an error: what and where. The path to the element is path()[0 .. path_size()), an index per
    // open list.
    Error error() const noexcept { return error_; }
    int path_size() const noexcept { return depth_; }
    const std::int64_t* path() const noexcept { return count_; }
    JsonKind got() const noexcept { return got_; }
    bool expected_array() const noexcept { return expected_array_; }
    Number number() const noexcept { return number_; }
    std::int64_t expected_values() const noexcept { return expected_values_; }
    std::int64_t got_values() const noexcept { return got_values_; }
    // For wrong_shape: the shape that was received.
    int got_axes() const noexcept { return rank_; }
    const std::int64_t* got_sizes() const noexcept { return extent_; }
    bool is_reordered() const noexcept;  // its sizes fit in another order

private:
    template <class Native>
    bool add(const Native* numbers, std::size_t count) noexcept;
    bool enter_elements(JsonKind kind, std::size_t* count, bool* outgrown) noexcept;
    bool start_counting() noexcept;
    void align_empty_list() noexcept;
    void settle_rank(int rank) noexcept;
    bool list_of_items() const noexcept { return spec_.flat_items && rank_ == 1; }
    int declared_axis(int axis) const noexcept;
    bool reserve(std::size_t count) noexcept;
    bool fail(Error error) noexcept;
    bool mismatch(JsonKind kind) noexcept;
    bool reject(double number) noexcept;
    bool reject(std::int64_t number) noexcept;
    bool reject(std::uint64_t number) noexcept;

    const Spec& spec_;
    Memory memory_;
    std::size_t element_bytes_;
    std::size_t written_ = 0;  // elements

    int depth_ = 0;                     // open lists
    int rank_ = -1;                     // of the value, set by its first element or empty list
    std::int64_t count_[kMaxAxes + 1];  // per open list: finished children, so the index of the current one
    std::int64_t extent_[kMaxAxes];     // per axis: size, set by the first list that closes; -1 before
    std::int64_t limit_[kMaxAxes];  // per axis: the model's fixed size, set with the rank; -1 while counting
    bool ends_empty_ = false;       // an empty list set the rank
    bool counting_ = false;

    int axes_ = 0;
    int added_ = 0;
    std::int64_t shape_[kMaxAxes];

    Error error_ = Error::none;
    JsonKind got_ = JsonKind::other;
    bool expected_array_ = false;
    Number number_{};
    std::int64_t expected_values_ = 0;
    std::int64_t got_values_ = 0;
};

// Bytes of one element; 0 for strings, which the caller keeps.
std::size_t element_bytes(Type type) noexcept;

bool is_float(Type type) noexcept;

}  // namespace gpux
