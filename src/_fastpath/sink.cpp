#include "sink.hpp"

#include <algorithm>
#include <iterator>

namespace gpux {

namespace {

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

// Whether a number is infinite or NaN, and is stored as that: JSON has no word for it, other sources may.
template <class Native, class Element>
bool store_non_finite(Native number, Element& element) {
    if constexpr (std::is_floating_point_v<Native> && !std::is_integral_v<Element> &&
                  !std::is_same_v<Element, Boolean>) {
        round_to(number, element);
        return !std::isfinite(number);
    }
    return false;
}

// Stores numbers until one does not fit; returns how many did. Checks after a loop without branches,
// which the compiler can vectorize.
template <class Native, class Element>
std::size_t store_all(const Native* numbers, std::size_t count, unsigned char* out) {
    Element* elements = reinterpret_cast<Element*>(out);
    bool stored = true;
    for (std::size_t i = 0; i < count; ++i) {
        stored &= store(numbers[i], elements[i]);
    }
    if (stored) {
        return count;
    }
    for (std::size_t i = 0; i < count; ++i) {
        if (!store(numbers[i], elements[i]) && !store_non_finite(numbers[i], elements[i])) {
            return i;
        }
    }
    return count;
}

template <class Native>
std::size_t store_as(Type type, const Native* numbers, std::size_t count, unsigned char* out) {
    switch (type) {
        case Type::float32: return store_all<Native, float>(numbers, count, out);
        case Type::float64: return store_all<Native, double>(numbers, count, out);
        case Type::float16: return store_all<Native, Half>(numbers, count, out);
        case Type::bfloat16: return store_all<Native, BFloat>(numbers, count, out);
        case Type::int8: return store_all<Native, std::int8_t>(numbers, count, out);
        case Type::int16: return store_all<Native, std::int16_t>(numbers, count, out);
        case Type::int32: return store_all<Native, std::int32_t>(numbers, count, out);
        case Type::int64: return store_all<Native, std::int64_t>(numbers, count, out);
        case Type::uint8: return store_all<Native, std::uint8_t>(numbers, count, out);
        case Type::uint16: return store_all<Native, std::uint16_t>(numbers, count, out);
        case Type::uint32: return store_all<Native, std::uint32_t>(numbers, count, out);
        case Type::uint64: return store_all<Native, std::uint64_t>(numbers, count, out);
        case Type::boolean: return store_all<Native, Boolean>(numbers, count, out);
        case Type::string: break;
    }
    return 0;
}

}  // namespace

std::size_t element_bytes(Type type) noexcept {
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

bool is_float(Type type) noexcept {
    return type == Type::float32 || type == Type::float64 || type == Type::float16 || type == Type::bfloat16;
}

Sink::Sink(const Spec& spec, const Memory& memory) noexcept
    : spec_(spec), memory_(memory), element_bytes_(element_bytes(spec.type)) {
    std::fill(std::begin(count_), std::end(count_), 0);
    std::fill(std::begin(extent_), std::end(extent_), -1);
    std::fill(std::begin(limit_), std::end(limit_), kNoLimit);
}

bool Sink::open() noexcept {
    if (depth_ == rank_) {
        return mismatch(JsonKind::array);
    }
    if (depth_ > 0 && count_[depth_ - 1] >= limit_[depth_ - 1]) {
        start_counting();
    }
    if (depth_ == spec_.max_axes) {
        return fail(Error::too_deep);
    }
    count_[depth_++] = 0;
    return true;
}

bool Sink::close() noexcept {
    --depth_;
    const std::int64_t size = count_[depth_];
    if (rank_ < 0) {
        rank_ = depth_ + 1;  // as written; only finish() knows which declared axes these are
        ends_empty_ = true;
    }
    if (extent_[depth_] < 0) {
        extent_[depth_] = size;
    } else if (extent_[depth_] != size) {
        expected_values_ = extent_[depth_];
        got_values_ = size;
        return fail(Error::ragged);
    }
    if (depth_ > 0) {
        ++count_[depth_ - 1];
    }
    return true;
}

bool Sink::doubles(const double* numbers, std::size_t count) noexcept { return add(numbers, count); }
bool Sink::int64s(const std::int64_t* numbers, std::size_t count) noexcept { return add(numbers, count); }
bool Sink::uint64s(const std::uint64_t* numbers, std::size_t count) noexcept { return add(numbers, count); }

template <class Native>
bool Sink::add(const Native* numbers, std::size_t count) noexcept {
    bool outgrown = false;
    if (spec_.type == Type::string) {
        return mismatch(JsonKind::number);
    }
    if (!enter_elements(JsonKind::number, &count, &outgrown)) {
        return false;
    }
    const std::size_t stored = store_as(spec_.type, numbers, count, memory_.data + written_ * element_bytes_);
    commit(stored);
    if (stored < count) {
        return reject(numbers[stored]);
    }
    return outgrown ? start_counting() : true;
}

unsigned char* Sink::claim(std::size_t* count, JsonKind kind) noexcept {
    bool outgrown = false;
    if (spec_.type == Type::string) {
        mismatch(kind);
        return nullptr;
    }
    if (!enter_elements(kind, count, &outgrown)) {
        return nullptr;
    }
    if (*count == 0 && outgrown) {
        start_counting();
        return nullptr;
    }
    return memory_.data + written_ * element_bytes_;
}

unsigned char* Sink::claim_rows(std::size_t count, Rows* rows) noexcept {
    *rows = {0, count, count, 0};
    const int list = depth_ - 1;
    if (list < 1 || depth_ != rank_ || counting_ || count_[list] >= extent_[list]) {
        unsigned char* const out = claim(&count);
        rows->end = rows->claimed = count;
        return out;
    }
    rows->size = static_cast<std::size_t>(extent_[list]);
    rows->end = static_cast<std::size_t>(extent_[list] - count_[list]);
    const std::size_t siblings = static_cast<std::size_t>(limit_[list - 1] - count_[list - 1]) - 1;
    if (siblings <= count / rows->size) {
        rows->claimed = std::min(count, rows->end + siblings * rows->size);
    }
    rows->end = std::min(rows->end, rows->claimed);
    return reserve(rows->claimed) ? memory_.data + written_ * element_bytes_ : nullptr;
}

bool Sink::booleans(const std::uint8_t* values, std::size_t count) noexcept {
    if (spec_.type != Type::boolean) {
        return mismatch(JsonKind::boolean);
    }
    bool outgrown = false;
    if (!enter_elements(JsonKind::boolean, &count, &outgrown)) {
        return false;
    }
    for (std::size_t i = 0; i < count; ++i) {
        memory_.data[written_ + i] = values[i] != 0;
    }
    commit(count);
    return outgrown ? start_counting() : true;
}

bool Sink::expect_string() noexcept {
    if (spec_.type != Type::string) {
        return mismatch(JsonKind::string);
    }
    std::size_t count = 1;
    bool outgrown = false;
    if (!enter_elements(JsonKind::string, &count, &outgrown)) {
        return false;
    }
    return outgrown ? start_counting() : true;
}

bool Sink::string(std::size_t characters) noexcept {
    if (spec_.max_characters >= 0 && characters > static_cast<std::size_t>(spec_.max_characters)) {
        expected_values_ = spec_.max_characters;
        got_values_ = static_cast<std::int64_t>(characters);
        return fail(Error::too_long);
    }
    commit(1);
    return true;
}

bool Sink::reject_number(bool out_of_range) noexcept {
    return fail(out_of_range ? Error::out_of_range : Error::not_an_integer);
}

bool Sink::other(JsonKind kind) noexcept {
    if (kind != JsonKind::null || !spec_.null_is_nan) {
        return mismatch(kind);
    }
    std::size_t count = 1;
    unsigned char* const out = claim(&count, kind);
    if (out == nullptr) {
        return false;
    }
    const double nan = std::numeric_limits<double>::quiet_NaN();
    store_as(spec_.type, &nan, 1, out);
    commit(1);
    return true;
}

bool Sink::huge_integer() noexcept {
    if (spec_.type == Type::string) {
        return mismatch(JsonKind::number);
    }
    std::size_t count = 1;
    bool outgrown = false;
    return enter_elements(JsonKind::number, &count, &outgrown) &&
           (outgrown ? start_counting() : fail(Error::out_of_range));
}

bool Sink::count(int depth, int axes, const std::ptrdiff_t* sizes) noexcept {
    depth_ = depth;
    bool is_regular = depth + axes == rank_;
    for (int axis = depth; is_regular && axis < rank_; ++axis) {
        const std::int64_t size = sizes[axis - depth];
        extent_[axis] = extent_[axis] < 0 ? size : extent_[axis];
        is_regular = extent_[axis] == size;
    }
    if (!is_regular) {
        return fail(Error::ragged);
    }
    if (depth_ > 0) {
        ++count_[depth_ - 1];
    }
    return true;
}

unsigned char* Sink::claim_all(std::size_t elements) noexcept {
    if (!reserve(elements)) {
        return nullptr;
    }
    written_ = elements;
    return memory_.data;
}

bool Sink::axes_below(int count, const std::ptrdiff_t* sizes) noexcept {
    if (rank_ >= 0) {
        return true;  // the next events are checked against it
    }
    if (count > spec_.max_axes - depth_) {
        return fail(Error::too_deep);
    }
    settle_rank(depth_ + count);
    for (int axis = 0; axis < count; ++axis) {
        extent_[depth_ + axis] = sizes[axis];
    }
    return true;
}

bool Sink::finish() noexcept {
    if (counting_) {
        error_ = Error::wrong_shape;
        return false;
    }
    if (spec_.open) {
        axes_ = rank_;
        std::copy_n(extent_, rank_, shape_);
        return true;
    }
    if (ends_empty_) {
        align_empty_list();
    }
    if (rank_ < spec_.min_axes || rank_ > spec_.max_axes) {
        return fail(Error::wrong_shape);
    }
    axes_ = spec_.axes;
    added_ = spec_.axes - rank_;
    std::fill_n(shape_, axes_, 1);  // the added axes
    for (int axis = 0; axis < rank_; ++axis) {
        const int declared = declared_axis(axis);
        if (spec_.sizes[declared] >= 0 && spec_.sizes[declared] != extent_[axis]) {
            return fail(Error::wrong_shape);
        }
        shape_[declared] = extent_[axis];
    }
    if (as_one_item() && spec_.sizes[0] >= 0 && spec_.sizes[0] != 1) {
        return fail(Error::wrong_shape);  // a fixed batch size other than one item
    }
    if (spec_.batched && shape_[0] == 0) {
        return fail(Error::empty_batch);
    }
    return true;
}

// Called before `*count` sibling elements are stored. Cuts the count to the model's fixed size and sets
// `*outgrown`, so that an invalid element within that size is reported first.
bool Sink::enter_elements(JsonKind kind, std::size_t* count, bool* outgrown) noexcept {
    if (depth_ == 0 && spec_.min_axes > 0) {
        return mismatch(kind);
    }
    if (rank_ < 0) {
        settle_rank(depth_);
    } else if (depth_ != rank_) {
        return mismatch(kind);
    }
    if (depth_ > 0) {
        const std::int64_t room = limit_[depth_ - 1] - count_[depth_ - 1];  // negative while counting
        if (static_cast<std::int64_t>(*count) > room) {
            *count = static_cast<std::size_t>(std::max<std::int64_t>(room, 0));
            *outgrown = true;
        }
    }
    return reserve(*count);
}

void Sink::commit(std::size_t count) noexcept {
    written_ += count;
    if (depth_ > 0) {
        count_[depth_ - 1] += static_cast<std::int64_t>(count);
    }
}

void Sink::commit_rows(std::size_t count, const Rows& rows) noexcept {
    commit(count);
    if (rows.closed > 0) {
        count_[depth_ - 1] -= static_cast<std::int64_t>(rows.closed * rows.size);
        count_[depth_ - 2] += static_cast<std::int64_t>(rows.closed);
    }
}

// A list is longer than the model's fixed size, which is the error: from here on no list has room for
// elements. Returns false.
bool Sink::start_counting() noexcept {
    if (!counting_) {
        std::fill(std::begin(limit_), std::end(limit_), -1);
        counting_ = true;
        error_ = Error::outgrown;
    }
    return false;
}

// Axes that are missing below an empty list take the declared sizes, if these are fixed and the axes above
// it agree: of the whole value, or else of one item. Otherwise the rank is as written.
void Sink::align_empty_list() noexcept {
    ends_empty_ = false;
    for (int rank = spec_.axes; rank >= std::max(spec_.min_axes, rank_); --rank) {
        const std::int64_t* const declared = spec_.sizes + spec_.axes - rank;
        bool fits = true;
        for (int axis = 0; axis < rank_ - 1; ++axis) {
            fits = fits && (declared[axis] < 0 || declared[axis] == extent_[axis]);
        }
        for (int axis = rank_; axis < rank; ++axis) {
            fits = fits && declared[axis] >= 0;
        }
        if (fits) {
            std::copy(declared + rank_, declared + rank, extent_ + rank_);
            rank_ = rank;
            return;
        }
    }
}

// The first element or array determines the value's rank; from then on each of its axes corresponds to a
// declared one, whose fixed size no list may outgrow.
void Sink::settle_rank(int rank) noexcept {
    rank_ = rank;
    if (spec_.open || rank < spec_.min_axes || rank > spec_.max_axes) {
        return;  // no declared axes to match; finish() checks the rank
    }
    for (int axis = 0; axis < rank; ++axis) {
        const std::int64_t size = spec_.sizes[declared_axis(axis)];
        limit_[axis] = size >= 0 ? size : kNoLimit;
    }
}

int Sink::declared_axis(int axis) const noexcept {
    return list_of_items() ? axis : axis + spec_.axes - rank_;
}

bool Sink::reserve(std::size_t count) noexcept {
    // The written bytes fit in memory, so only the addition can overflow size_t.
    if (element_bytes_ == 0) {
        return true;
    }
    const std::size_t max_elements = std::numeric_limits<std::size_t>::max() / element_bytes_;
    if (count > max_elements - written_) {
        return fail(Error::out_of_memory);
    }
    const std::size_t needed = (written_ + count) * element_bytes_;
    if (needed <= memory_.capacity) {
        return true;
    }
    return memory_.grow(memory_.owner, &memory_, needed) || fail(Error::out_of_memory);
}

bool Sink::fail(Error error) noexcept {
    if (counting_) {
        counting_ = false;  // irregular: its shape cannot be told
        return false;
    }
    error_ = error;
    return false;
}

bool Sink::is_reordered() const noexcept {
    if (error_ != Error::wrong_shape || rank_ < spec_.min_axes || rank_ > spec_.max_axes) {
        return false;
    }
    std::int64_t sizes[kMaxAxes];
    std::int64_t* const end = std::copy_n(extent_, rank_, sizes);
    const int first = spec_.batched && rank_ == spec_.axes ? 1 : 0;  // rows stay rows
    std::int64_t* rest = sizes + first;                              // those before it are taken
    bool is_in_order = true;
    for (int axis = first; axis < rank_; ++axis) {
        const std::int64_t declared = spec_.sizes[declared_axis(axis)];
        if (declared < 0) {
            continue;
        }
        is_in_order = is_in_order && declared == extent_[axis];
        std::int64_t* const found = std::find(rest, end, declared);
        if (found == end) {
            return false;
        }
        std::swap(*found, *rest++);
    }
    return !is_in_order;
}

// At the top, the whole value has the wrong type; inside, a list is expected where the siblings are
// lists or the model requires more axes.
bool Sink::mismatch(JsonKind kind) noexcept {
    got_ = kind;
    if (depth_ == 0) {
        expected_array_ = spec_.min_axes > 0;
        return fail(Error::wrong_type_at_top);
    }
    if (count_[depth_ - 1] >= limit_[depth_ - 1]) {
        return start_counting();
    }
    expected_array_ = depth_ < (rank_ >= 0 ? rank_ : spec_.min_axes);
    return fail(Error::wrong_type);
}

bool Sink::reject(double number) noexcept {
    number_ = {};
    number_.kind = Number::float64;
    number_.as_float64 = number;
    if (!std::isfinite(number)) {
        return fail(Error::not_finite);
    }
    const bool takes_fractions = is_float(spec_.type) || spec_.type == Type::boolean;
    return fail(takes_fractions || std::floor(number) == number ? Error::out_of_range
                                                                : Error::not_an_integer);
}

bool Sink::reject(std::int64_t number) noexcept {
    number_ = {};
    number_.kind = Number::int64;
    number_.as_int64 = number;
    return fail(Error::out_of_range);
}

bool Sink::reject(std::uint64_t number) noexcept {
    number_ = {};
    number_.kind = Number::uint64;
    number_.as_uint64 = number;
    return fail(Error::out_of_range);
}

}  // namespace gpux
