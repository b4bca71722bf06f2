#include "sink.hpp"

#include <algorithm>
#include <iterator>

namespace gpux {

namespace {

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

// Stores numbers until one does not fit; answers how many did. Floats are checked after the loop,
// which leaves it free of branches for the compiler to vectorize.
template <class Source, class Element>
std::size_t store_all(const Source* numbers, std::size_t count, unsigned char* out) {
    Element* elements = reinterpret_cast<Element*>(out);
    bool stored = true;
    for (std::size_t i = 0; i < count; ++i) {
        stored &= store(numbers[i], elements[i]);
    }
    if (stored) {
        return count;
    }
    for (std::size_t i = 0; i < count; ++i) {
        if (!store(numbers[i], elements[i])) {
            return i;
        }
    }
    return count;
}

template <class Source>
std::size_t store_as(Type type, const Source* numbers, std::size_t count, unsigned char* out) {
    switch (type) {
        case Type::float32: return store_all<Source, float>(numbers, count, out);
        case Type::float64: return store_all<Source, double>(numbers, count, out);
        case Type::float16: return store_all<Source, Half>(numbers, count, out);
        case Type::bfloat16: return store_all<Source, BFloat>(numbers, count, out);
        case Type::int8: return store_all<Source, std::int8_t>(numbers, count, out);
        case Type::int16: return store_all<Source, std::int16_t>(numbers, count, out);
        case Type::int32: return store_all<Source, std::int32_t>(numbers, count, out);
        case Type::int64: return store_all<Source, std::int64_t>(numbers, count, out);
        case Type::uint8: return store_all<Source, std::uint8_t>(numbers, count, out);
        case Type::uint16: return store_all<Source, std::uint16_t>(numbers, count, out);
        case Type::uint32: return store_all<Source, std::uint32_t>(numbers, count, out);
        case Type::uint64: return store_all<Source, std::uint64_t>(numbers, count, out);
        case Type::boolean: return store_all<Source, Boolean>(numbers, count, out);
        case Type::string: break;
    }
    return 0;
}

}  // namespace

std::size_t element_bytes(Type type) {
    switch (type) {
        case Type::int8:
        case Type::uint8:
        case Type::boolean: return 1;
        case Type::float16:
        case Type::bfloat16:
        case Type::int16:
        case Type::uint16: return 2;
        case Type::float32:
        case Type::int32:
        case Type::uint32: return 4;
        case Type::float64:
        case Type::int64:
        case Type::uint64: return 8;
        case Type::string: break;
    }
    return 0;
}

bool is_float(Type type) {
    return type == Type::float32 || type == Type::float64 || type == Type::float16 || type == Type::bfloat16;
}

Sink::Sink(const Spec& spec, const Memory& memory)
    : spec_(spec), memory_(memory), element_bytes_(element_bytes(spec.type)) {
    std::fill(std::begin(count_), std::end(count_), 0);
    std::fill(std::begin(extent_), std::end(extent_), -1);
    std::fill(std::begin(limit_), std::end(limit_), kNoLimit);
}

bool Sink::open() {
    if (depth_ == rank_) {
        return mismatch(Got::array);
    }
    if (depth_ > 0 && count_[depth_ - 1] >= limit_[depth_ - 1]) {
        return fail(Fault::outgrown);
    }
    if (depth_ == spec_.most_axes) {
        return fail(Fault::too_deep);
    }
    count_[depth_++] = 0;
    return true;
}

bool Sink::close() {
    --depth_;
    const std::int64_t size = count_[depth_];
    if (rank_ < 0) {
        settle_rank(depth_ + 1);  // an empty list: nothing is inferred below it
    }
    if (extent_[depth_] < 0) {
        extent_[depth_] = size;
    } else if (extent_[depth_] != size) {
        expected_values_ = extent_[depth_];
        got_values_ = size;
        return fail(Fault::ragged);
    }
    if (depth_ > 0) {
        ++count_[depth_ - 1];
    }
    return true;
}

bool Sink::reals(const double* numbers, std::size_t count) { return put(numbers, count); }
bool Sink::integers(const std::int64_t* numbers, std::size_t count) { return put(numbers, count); }
bool Sink::naturals(const std::uint64_t* numbers, std::size_t count) { return put(numbers, count); }

template <class Source>
bool Sink::put(const Source* numbers, std::size_t count) {
    bool outgrown = false;
    if (spec_.type == Type::string) {
        return mismatch(Got::number);
    }
    if (!enter_elements(Got::number, &count, &outgrown)) {
        return false;
    }
    const std::size_t stored =
        store_as(spec_.type, numbers, count, memory_.data + written_ * element_bytes_);
    commit(stored);
    if (stored < count) {
        return refuse(numbers[stored]);
    }
    return outgrown ? fail(Fault::outgrown) : true;
}

unsigned char* Sink::claim(std::size_t* count, Got got) {
    bool outgrown = false;
    if (spec_.type == Type::string) {
        mismatch(got);
        return nullptr;
    }
    if (!enter_elements(got, count, &outgrown)) {
        return nullptr;
    }
    if (*count == 0 && outgrown) {
        fail(Fault::outgrown);
        return nullptr;
    }
    return memory_.data + written_ * element_bytes_;
}

bool Sink::booleans(const std::uint8_t* values, std::size_t count) {
    if (spec_.type != Type::boolean) {
        return mismatch(Got::boolean);
    }
    bool outgrown = false;
    if (!enter_elements(Got::boolean, &count, &outgrown)) {
        return false;
    }
    for (std::size_t i = 0; i < count; ++i) {
        memory_.data[written_ + i] = values[i] != 0;
    }
    commit(count);
    return outgrown ? fail(Fault::outgrown) : true;
}

bool Sink::expect_string() {
    if (spec_.type != Type::string) {
        return mismatch(Got::string);
    }
    std::size_t count = 1;
    bool outgrown = false;
    if (!enter_elements(Got::string, &count, &outgrown)) {
        return false;
    }
    return outgrown ? fail(Fault::outgrown) : true;
}

bool Sink::string(std::size_t characters) {
    if (spec_.most_characters >= 0 &&
        characters > static_cast<std::size_t>(spec_.most_characters)) {
        expected_values_ = spec_.most_characters;
        got_values_ = static_cast<std::int64_t>(characters);
        return fail(Fault::too_long);
    }
    commit(1);
    return true;
}

bool Sink::refuse_number(bool out_of_range) {
    return fail(out_of_range ? Fault::out_of_range : Fault::not_an_integer);
}

bool Sink::other(Got got) { return mismatch(got); }

bool Sink::huge_integer() {
    if (spec_.type == Type::string) {
        return mismatch(Got::number);
    }
    std::size_t count = 1;
    bool outgrown = false;
    return enter_elements(Got::number, &count, &outgrown) &&
           fail(outgrown ? Fault::outgrown : Fault::out_of_range);
}

bool Sink::axes_below(int count, const std::ptrdiff_t* sizes) {
    if (rank_ >= 0) {
        return true;  // the events that follow show whether it fits
    }
    if (count > spec_.most_axes - depth_) {
        return fail(Fault::too_deep);
    }
    settle_rank(depth_ + count);
    for (int axis = 0; axis < count; ++axis) {
        extent_[depth_ + axis] = sizes[axis];
    }
    return true;
}

bool Sink::finish() {
    if (spec_.open) {
        axes_ = rank_;
        std::copy_n(extent_, rank_, shape_);
        return true;
    }
    if (rank_ < spec_.least_axes || rank_ > spec_.most_axes) {
        return fail(Fault::wrong_shape);
    }
    axes_ = spec_.axes;
    added_ = spec_.axes - rank_;
    std::fill_n(shape_, axes_, 1);  // the axes that are added
    for (int axis = 0; axis < rank_; ++axis) {
        const int declared = declared_axis(axis);
        if (spec_.sizes[declared] >= 0 && spec_.sizes[declared] != extent_[axis]) {
            return fail(Fault::wrong_shape);
        }
        shape_[declared] = extent_[axis];
    }
    if (as_one_item() && spec_.sizes[0] >= 0 && spec_.sizes[0] != 1) {
        return fail(Fault::wrong_shape);  // the batch has a fixed size, and not that of one item
    }
    if (spec_.batched && shape_[0] == 0) {
        return fail(Fault::empty_batch);
    }
    return true;
}

// Called before elements are taken: they are siblings, `*count` of them. Cuts the count at the
// model's fixed size and says so, so that a bad element before that place is named first.
bool Sink::enter_elements(Got got, std::size_t* count, bool* outgrown) {
    if (depth_ == 0 && spec_.least_axes > 0) {
        return mismatch(got);
    }
    if (rank_ < 0) {
        settle_rank(depth_);
    } else if (depth_ != rank_) {
        return mismatch(got);
    }
    if (depth_ > 0) {
        const std::size_t room = static_cast<std::size_t>(limit_[depth_ - 1] - count_[depth_ - 1]);
        if (*count > room) {
            *count = room;
            *outgrown = true;
        }
    }
    return reserve(*count);
}

void Sink::commit(std::size_t count) {
    written_ += count;
    if (depth_ > 0) {
        count_[depth_ - 1] += static_cast<std::int64_t>(count);
    }
}

// The first element, empty list or array tells how many axes the value has; from then on each axis
// of the value has its place among the declared ones, and with it the size that no list may
// outgrow.
void Sink::settle_rank(int rank) {
    rank_ = rank;
    if (spec_.open || rank < spec_.least_axes || rank > spec_.most_axes) {
        return;  // no axis has a place; finish() judges
    }
    for (int axis = 0; axis < rank; ++axis) {
        const std::int64_t size = spec_.sizes[declared_axis(axis)];
        limit_[axis] = size >= 0 ? size : kNoLimit;
    }
}

int Sink::declared_axis(int axis) const {
    return list_of_items() ? axis : axis + spec_.axes - rank_;
}

bool Sink::reserve(std::size_t count) {
    // The bytes of what is written fit in memory, so only the addition can pass the limit of
    // size_t.
    if (element_bytes_ == 0) {
        return true;
    }
    const std::size_t most = std::numeric_limits<std::size_t>::max() / element_bytes_;
    if (count > most - written_) {
        return fail(Fault::out_of_memory);
    }
    const std::size_t needed = (written_ + count) * element_bytes_;
    if (needed <= memory_.capacity) {
        return true;
    }
    return memory_.grow(memory_.owner, &memory_, needed) || fail(Fault::out_of_memory);
}

bool Sink::fail(Fault fault) {
    fault_ = fault;
    return false;
}

// Something stands where something else was expected. At the top the whole value has the wrong
// type; inside, a list is expected where the siblings are lists, or where the model has more axes
// in any case.
bool Sink::mismatch(Got got) {
    got_ = got;
    if (depth_ == 0) {
        expected_array_ = spec_.least_axes > 0;
        return fail(Fault::wrong_type_at_top);
    }
    if (count_[depth_ - 1] >= limit_[depth_ - 1]) {
        return fail(Fault::outgrown);
    }
    expected_array_ = depth_ < (rank_ >= 0 ? rank_ : spec_.least_axes);
    return fail(Fault::wrong_type);
}

bool Sink::refuse(double number) {
    number_ = {};
    number_.kind = Number::real;
    number_.as_real = number;
    if (!std::isfinite(number)) {
        return fail(Fault::not_finite);
    }
    const bool takes_fractions = is_float(spec_.type) || spec_.type == Type::boolean;
    return fail(takes_fractions || std::floor(number) == number ? Fault::out_of_range
                                                                : Fault::not_an_integer);
}

bool Sink::refuse(std::int64_t number) {
    number_ = {};
    number_.kind = Number::integer;
    number_.as_integer = number;
    return fail(Fault::out_of_range);
}

bool Sink::refuse(std::uint64_t number) {
    number_ = {};
    number_.kind = Number::natural;
    number_.as_natural = number;
    return fail(Fault::out_of_range);
}

}  // namespace gpux
