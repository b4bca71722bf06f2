#include "strided.hpp"

#include <algorithm>

namespace gpux {

namespace {

// Elements converted on the stack per call of the sink.
constexpr std::size_t kRun = 256;

bool send(Sink& sink, const double* run, std::size_t count) { return sink.doubles(run, count); }
bool send(Sink& sink, const std::int64_t* run, std::size_t count) { return sink.int64s(run, count); }
bool send(Sink& sink, const std::uint64_t* run, std::size_t count) { return sink.uint64s(run, count); }
bool send(Sink& sink, const std::uint8_t* run, std::size_t count) { return sink.booleans(run, count); }

double widen(Half element) { return to_double(element); }
double widen(BFloat element) { return to_double(element); }
std::uint8_t widen(Boolean element) { return element.value; }
template <class Element>
Element widen(Element element) {
    return element;
}

// Feeds one row of siblings, each widened without loss to the widest type of its kind.
template <class Element, class Wide>
bool feed_row(Sink& sink, const unsigned char* data, std::size_t size, std::ptrdiff_t stride) {
    Wide run[kRun];
    for (std::size_t done = 0; done < size;) {
        const std::size_t count = std::min(kRun, size - done);
        for (std::size_t i = 0; i < count; ++i) {
            Element element;
            std::memcpy(&element, data + static_cast<std::ptrdiff_t>(done + i) * stride, sizeof element);
            run[i] = widen(element);
        }
        if (!send(sink, run, count)) {
            return false;
        }
        done += count;
    }
    return true;
}

// Copies booleans; returns whether all are 0 or 1. Reads each once, so that the checked value is the stored
// one.
bool copy_booleans(unsigned char* out, const unsigned char* data, std::size_t count) {
    unsigned char seen = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const unsigned char value = data[i];
        out[i] = value;
        seen |= value;
    }
    return seen <= 1;
}

// Copies elements; returns whether all are valid unchanged.
template <class Element>
bool copy_checked(unsigned char* out, const unsigned char* data, std::size_t count) {
    if constexpr (std::is_same_v<Element, Boolean>) {
        return copy_booleans(out, data, count);
    }
    std::memcpy(out, data, count * sizeof(Element));  // all bit patterns are valid numbers
    return true;
}

// Feeds a row of the input's own type. If it has gaps or an invalid element, feed_row() takes over,
// which reports the error or normalizes the value (a boolean that is neither 0 nor 1).
template <class Element, class Wide>
bool copy_row(Sink& sink, const unsigned char* data, std::size_t size, std::ptrdiff_t stride) {
    constexpr JsonKind kKind = std::is_same_v<Element, Boolean> ? JsonKind::boolean : JsonKind::number;
    if (stride != static_cast<std::ptrdiff_t>(sizeof(Element))) {
        return feed_row<Element, Wide>(sink, data, size, stride);
    }
    while (size > 0) {
        std::size_t room = size;  // less only if the row is longer than the model's fixed size
        unsigned char* out = sink.claim(&room, kKind);
        if (out == nullptr) {
            return false;
        }
        if (!copy_checked<Element>(out, data, room)) {
            return feed_row<Element, Wide>(sink, data, size, stride);
        }
        sink.commit(room);
        data += room * sizeof(Element);
        size -= room;
    }
    return true;
}

using FeedRow = bool (*)(Sink&, const unsigned char*, std::size_t, std::ptrdiff_t);

template <class Element, class Wide>
FeedRow choose(bool own_type) {
    return own_type ? copy_row<Element, Wide> : feed_row<Element, Wide>;
}

FeedRow row_feeder(Type type, bool own_type) {
    switch (type) {
        case Type::float32: return choose<float, double>(own_type);
        case Type::float64: return choose<double, double>(own_type);
        case Type::float16: return choose<Half, double>(own_type);
        case Type::bfloat16: return choose<BFloat, double>(own_type);
        case Type::int8: return choose<std::int8_t, std::int64_t>(own_type);
        case Type::int16: return choose<std::int16_t, std::int64_t>(own_type);
        case Type::int32: return choose<std::int32_t, std::int64_t>(own_type);
        case Type::int64: return choose<std::int64_t, std::int64_t>(own_type);
        case Type::uint8: return choose<std::uint8_t, std::int64_t>(own_type);
        case Type::uint16: return choose<std::uint16_t, std::int64_t>(own_type);
        case Type::uint32: return choose<std::uint32_t, std::int64_t>(own_type);
        case Type::uint64: return choose<std::uint64_t, std::uint64_t>(own_type);
        case Type::boolean: return choose<Boolean, std::uint8_t>(own_type);
        case Type::string: break;
    }
    return nullptr;
}

bool feed_axes(Sink& sink, FeedRow feed_row, const unsigned char* data, int axes, const std::ptrdiff_t* sizes,
               const std::ptrdiff_t* strides) {
    if (axes == 0) {
        return feed_row(sink, data, 1, 0);
    }
    if (!sink.open()) {
        return false;
    }
    if (axes == 1) {
        return feed_row(sink, data, static_cast<std::size_t>(sizes[0]), strides[0]) && sink.close();
    }
    for (std::ptrdiff_t i = 0; i < sizes[0]; ++i) {
        if (!feed_axes(sink, feed_row, data + i * strides[0], axes - 1, sizes + 1, strides + 1)) {
            return false;
        }
    }
    return sink.close();
}

}  // namespace

bool feed(Sink& sink, const unsigned char* data, Type type, int axes, const std::ptrdiff_t* sizes,
          const std::ptrdiff_t* strides) noexcept {
    return feed_axes(sink, row_feeder(type, type == sink.type()), data, axes, sizes, strides);
}

}  // namespace gpux
