#include "strided.hpp"

#include <algorithm>

namespace gpux {

namespace {

// Elements converted at once on the stack on their way to the sink.
constexpr std::size_t kRun = 256;

bool put(Sink& sink, const double* run, std::size_t count) { return sink.reals(run, count); }
bool put(Sink& sink, const std::int64_t* run, std::size_t count) { return sink.integers(run, count); }
bool put(Sink& sink, const std::uint64_t* run, std::size_t count) { return sink.naturals(run, count); }
bool put(Sink& sink, const std::uint8_t* run, std::size_t count) { return sink.booleans(run, count); }

double widen(Half element) { return to_double(element); }
std::uint8_t widen(Boolean element) { return element.value; }
template <class Element>
Element widen(Element element) { return element; }

// One row of siblings: each element widened, without loss, to the widest type of its kind.
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
        if (!put(sink, run, count)) {
            return false;
        }
        done += count;
    }
    return true;
}

using FeedRow = bool (*)(Sink&, const unsigned char*, std::size_t, std::ptrdiff_t);

FeedRow row_feeder(Type type) {
    switch (type) {
        case Type::float32: return feed_row<float, double>;
        case Type::float64: return feed_row<double, double>;
        case Type::float16: return feed_row<Half, double>;
        case Type::int8: return feed_row<std::int8_t, std::int64_t>;
        case Type::int16: return feed_row<std::int16_t, std::int64_t>;
        case Type::int32: return feed_row<std::int32_t, std::int64_t>;
        case Type::int64: return feed_row<std::int64_t, std::int64_t>;
        case Type::uint8: return feed_row<std::uint8_t, std::int64_t>;
        case Type::uint16: return feed_row<std::uint16_t, std::int64_t>;
        case Type::uint32: return feed_row<std::uint32_t, std::int64_t>;
        case Type::uint64: return feed_row<std::uint64_t, std::uint64_t>;
        case Type::boolean: return feed_row<Boolean, std::uint8_t>;
        case Type::bfloat16:
        case Type::string: break;
    }
    return nullptr;
}

bool feed_axes(Sink& sink, FeedRow feed_row, const unsigned char* data, int axes,
               const std::ptrdiff_t* sizes, const std::ptrdiff_t* strides) {
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
          const std::ptrdiff_t* strides) {
    return feed_axes(sink, row_feeder(type), data, axes, sizes, strides);
}

}  // namespace gpux
