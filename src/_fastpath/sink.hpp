// The sink: events of a nested value ("open, numbers, close") in, one checked tensor out.
//
// Everything that contract.md says about a value (its rank, its fixed sizes, ragged lists, the type
// and the range of each element) is judged here and nowhere else; the walker of Python lists, the
// feeder of arrays and the reader of JSON only say what they meet, in the order in which they meet
// it. No Python.h, no I/O; memory comes from the caller through Memory, never per number. Every
// method may run without the GIL, except that Memory::grow may take it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "element.hpp"

namespace gpux {

constexpr int kMaxAxes = 32;

// What a model declares of one input. Immutable once made; shared between threads.
struct Spec {
    Type type;
    int axes;                     // declared axes; 0 for an open input
    std::int64_t sizes[kMaxAxes]; // declared sizes, -1 where dynamic
    int least_axes;               // fewest axes that a value may have
    int most_axes;                // most axes that a value may have
    bool open;                    // the model declares no axes: any rank is taken
    bool batched;                 // the leading axis is a batch: it may not be empty
    bool flat_items;              // [batch, 1]: a value with one axis is a list of items
    std::int64_t most_characters; // of a string; -1 for any
};

// Bytes that the sink writes to. The caller owns them; `grow` must leave `data` with room for
// `needed` bytes and what was written so far in front, or answer false (out of memory).
struct Memory {
    unsigned char* data;
    std::size_t capacity;
    void* owner;
    bool (*grow)(void* owner, Memory* memory, std::size_t needed);
};

// What stands where another kind of value was expected.
enum class Got : int { number, string, boolean, null, array, object, other };

enum class Fault : int {
    none,
    wrong_type_at_top, // the value as a whole has the wrong type
    wrong_type,        // an element among elements, or a list among elements, or the other way round
    out_of_range,
    not_an_integer,
    not_finite,
    too_long,          // a string
    ragged,            // a list is not as long as its siblings
    outgrown,          // a list is longer than the model's fixed size
    too_deep,
    wrong_shape,       // judged when the value has closed
    empty_batch,
    out_of_memory,
};

// A number as it was met, for the message.
struct Number {
    enum Kind : int { real, integer, natural } kind;
    double as_real;
    std::int64_t as_integer;
    std::uint64_t as_natural;
};

class Sink {
public:
    // `spec` must outlive the sink.
    Sink(const Spec& spec, const Memory& memory);

    // Events. Each answers false once something is wrong; the first fault stands, and no event may
    // follow it.
    bool open();
    bool close();
    bool reals(const double* numbers, std::size_t count);
    bool integers(const std::int64_t* numbers, std::size_t count);
    bool naturals(const std::uint64_t* numbers, std::size_t count);
    bool booleans(const std::uint8_t* values, std::size_t count);
    // A string, which stays with the caller: may one stand here, and then how long it is.
    bool expect_string();
    bool string(std::size_t characters);
    bool other(Got got);              // null, an object, or something that JSON does not have
    bool huge_integer();              // beyond 64 bits, or for a float type beyond float64
    // Sibling elements of a number type without a call for each: claim() answers where the next
    // `*count` of them go, cut to what the model's fixed size leaves room for, or null if there is
    // none; the caller stores as many as it can (store() of element.hpp) and tells commit() how
    // many those were. No event comes in between; without a commit() nothing has been taken. `got`
    // is what they are called where none may stand.
    unsigned char* claim(std::size_t* count, Got got = Got::number);
    void commit(std::size_t count);
    // The next claimed element is a number that the type does not have.
    bool refuse_number(bool out_of_range);
    // The axes below this place, from one who knows them although there are no elements (an array).
    bool axes_below(int count, const std::ptrdiff_t* sizes);
    // The value has ended: judges its shape. Call once, after the last event.
    bool finish();

    Type type() const { return spec_.type; }
    int depth() const { return depth_; }  // lists open

    // After finish(): the tensor.
    int axes() const { return axes_; }
    const std::int64_t* shape() const { return shape_; }
    std::size_t elements() const { return written_; }
    // The value lacked declared axes, which were added: it was given as one item, or as a list of
    // items.
    bool as_items() const { return added_ > 0; }
    bool as_one_item() const { return added_ > 0 && !list_of_items(); }

    const Memory& memory() const { return memory_; }

    // After a fault: what, and where. The place is place()[0 .. place_axes()).
    Fault fault() const { return fault_; }
    int place_axes() const { return depth_; }
    const std::int64_t* place() const { return count_; }
    Got got() const { return got_; }
    bool expected_array() const { return expected_array_; }
    Number number() const { return number_; }
    std::int64_t expected_values() const { return expected_values_; }
    std::int64_t got_values() const { return got_values_; }
    // For wrong_shape: the axes as they came.
    int got_axes() const { return rank_; }
    const std::int64_t* got_sizes() const { return extent_; }

private:
    template <class Source>
    bool put(const Source* numbers, std::size_t count);
    bool enter_elements(Got got, std::size_t* count, bool* outgrown);
    void settle_rank(int rank);
    bool list_of_items() const { return spec_.flat_items && rank_ == 1; }
    int declared_axis(int axis) const;
    bool reserve(std::size_t count);
    bool fail(Fault fault);
    bool mismatch(Got got);
    bool refuse(double number);
    bool refuse(std::int64_t number);
    bool refuse(std::uint64_t number);

    const Spec& spec_;
    Memory memory_;
    std::size_t element_bytes_;
    std::size_t written_ = 0;  // elements

    int depth_ = 0;                // lists open
    int rank_ = -1;                // axes of the value, once the first element or empty list tells
    std::int64_t count_[kMaxAxes + 1];  // per open list: children that have ended, so the index of the present one
    std::int64_t extent_[kMaxAxes];     // per axis: size, set by the first list that closes; -1 before
    std::int64_t limit_[kMaxAxes];      // per axis: the model's fixed size, once the rank is known

    int axes_ = 0;
    int added_ = 0;
    std::int64_t shape_[kMaxAxes];

    Fault fault_ = Fault::none;
    Got got_ = Got::other;
    bool expected_array_ = false;
    Number number_{};
    std::int64_t expected_values_ = 0;
    std::int64_t got_values_ = 0;
};

// Bytes of one element; 0 for strings, whose elements stay with the caller.
std::size_t element_bytes(Type type);

bool is_float(Type type);

}  // namespace gpux
