#include "writer.hpp"

#include <algorithm>
#include <charconv>

namespace gpux {

namespace {

// Longest texts: "-1.7976931348623157e+308" (24) and "-1234567890123456.0" for float64; the same
// with 9, 5 and 4 significant digits for the narrower floats, but fixed notation up to 10^16 gives
// them 19 as well.
constexpr std::size_t kMostFloat64 = 25;
constexpr std::size_t kMostFloat = 20;
constexpr std::size_t kMostInteger = 20;
constexpr std::size_t kMostBoolean = 5;

std::size_t most_bytes_of_element(Type type) {
    switch (type) {
        case Type::float64: return kMostFloat64;
        case Type::float32:
        case Type::float16:
        case Type::bfloat16: return kMostFloat;
        case Type::boolean: return kMostBoolean;
        default: return kMostInteger;
    }
}

char* put(char* out, const char* text, std::size_t size) {
    std::memcpy(out, text, size);
    return out + size;
}

char* put_zeros(char* out, int count) {
    std::memset(out, '0', static_cast<std::size_t>(count));
    return out + count;
}

// The shortest digits of a finite number other than zero, and the exponent of the first one.
struct Decimal {
    char digits[20];
    int size;
    int exponent;
};

// Takes "d.ddde[+-]xx" apart.
Decimal parse_scientific(const char* text, const char* end) {
    Decimal decimal{};
    while (text != end && *text != 'e') {
        if (*text != '.') {
            decimal.digits[decimal.size++] = *text;
        }
        ++text;
    }
    ++text;  // 'e'
    const bool negative = *text == '-';
    int exponent = 0;
    for (++text; text != end; ++text) {
        exponent = exponent * 10 + (*text - '0');
    }
    decimal.exponent = negative ? -exponent : exponent;
    while (decimal.size > 1 && decimal.digits[decimal.size - 1] == '0') {
        --decimal.size;
    }
    return decimal;
}

template <class Float>
Decimal shortest(Float magnitude) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, magnitude, std::chars_format::scientific).ptr;
    return parse_scientific(text, end);
}

std::uint16_t to_bits(double value, Half) { return to_half(value).bits; }
std::uint16_t to_bits(double value, BFloat) { return to_bfloat(value).bits; }

// The 16-bit floats have no std::to_chars: the fewest digits that read back to the same bits, found
// by trying. Five digits always do (float16 has 11 significant bits, 10^(5-1) > 2^11). The nearest
// decimal of a length may read back as the value below although the next one above does not: above a
// power of two the values lie twice as far apart as below. tests/fastpath/test_encode.py compares all
// 65,536 values of each type with the search over all decimals.
template <class Float>
Decimal shortest_16(Float value) {
    const double magnitude = std::fabs(to_double(value));
    const std::uint16_t bits = value.bits & 0x7FFF;
    char text[32];
    for (int digits = 1;; ++digits) {
        const auto end = std::to_chars(text, text + sizeof text, magnitude,
                                       std::chars_format::scientific, digits - 1)
                             .ptr;
        const auto reads_back = [&] {
            double back = 0;
            std::from_chars(text, end, back);
            return to_bits(back, Float{}) == bits;
        };
        if (reads_back() || digits == 5) {
            return parse_scientific(text, end);
        }
        // Behind a 9 the next decimal above is a shorter one, which was tried before.
        char& last_digit = text[digits == 1 ? 0 : digits];
        if (last_digit != '9') {
            ++last_digit;
            if (reads_back()) {
                return parse_scientific(text, end);
            }
        }
    }
}

Decimal shortest(Half value) { return shortest_16(value); }
Decimal shortest(BFloat value) { return shortest_16(value); }

char* write_decimal(char* out, const Decimal& decimal) {
    const int size = decimal.size;
    const int exponent = decimal.exponent;
    if (exponent < -4 || exponent >= 16) {
        *out++ = decimal.digits[0];
        if (size > 1) {
            *out++ = '.';
            out = put(out, decimal.digits + 1, static_cast<std::size_t>(size - 1));
        }
        *out++ = 'e';
        *out++ = exponent < 0 ? '-' : '+';
        const int magnitude = std::abs(exponent);
        if (magnitude < 10) {
            *out++ = '0';
        }
        return std::to_chars(out, out + 3, magnitude).ptr;
    }
    if (exponent < 0) {
        out = put(out, "0.", 2);
        out = put_zeros(out, -exponent - 1);
        return put(out, decimal.digits, static_cast<std::size_t>(size));
    }
    const int whole = std::min(size, exponent + 1);
    out = put(out, decimal.digits, static_cast<std::size_t>(whole));
    out = put_zeros(out, exponent + 1 - whole);
    *out++ = '.';
    if (whole == size) {
        *out++ = '0';
        return out;
    }
    return put(out, decimal.digits + whole, static_cast<std::size_t>(size - whole));
}

template <class Float>
char* write_float(char* out, Float value, double widened) {
    if (!std::isfinite(widened)) {
        return put(out, "null", 4);
    }
    if (std::signbit(widened)) {
        *out++ = '-';
    }
    if (widened == 0.0) {
        return put(out, "0.0", 3);
    }
    return write_decimal(out, shortest(value));
}

char* write(char* out, float value) { return write_float(out, std::fabs(value), value); }
char* write(char* out, double value) { return write_float(out, std::fabs(value), value); }
char* write(char* out, Half value) { return write_float(out, value, to_double(value)); }
char* write(char* out, BFloat value) { return write_float(out, value, to_double(value)); }
char* write(char* out, Boolean value) { return value.value ? put(out, "true", 4) : put(out, "false", 5); }
template <class Integer>
char* write(char* out, Integer value) {
    return std::to_chars(out, out + kMostInteger, value).ptr;
}

template <class Element>
char* write_row(char* out, const unsigned char*& data, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
        Element element;
        std::memcpy(&element, data, sizeof element);
        data += sizeof element;
        out = write(out, element);
        *out++ = ',';
    }
    return count > 0 ? out - 1 : out;
}

using WriteRow = char* (*)(char*, const unsigned char*&, std::int64_t);

WriteRow row_writer(Type type) {
    switch (type) {
        case Type::float32: return write_row<float>;
        case Type::float64: return write_row<double>;
        case Type::float16: return write_row<Half>;
        case Type::bfloat16: return write_row<BFloat>;
        case Type::int8: return write_row<std::int8_t>;
        case Type::int16: return write_row<std::int16_t>;
        case Type::int32: return write_row<std::int32_t>;
        case Type::int64: return write_row<std::int64_t>;
        case Type::uint8: return write_row<std::uint8_t>;
        case Type::uint16: return write_row<std::uint16_t>;
        case Type::uint32: return write_row<std::uint32_t>;
        case Type::uint64: return write_row<std::uint64_t>;
        case Type::boolean: return write_row<Boolean>;
        case Type::string: break;
    }
    return nullptr;
}

char* write_axes(char* out, WriteRow write_row, int axes, const std::int64_t* shape, const unsigned char*& data) {
    if (axes == 0) {
        return write_row(out, data, 1);
    }
    *out++ = '[';
    if (axes == 1) {
        out = write_row(out, data, shape[0]);
    } else {
        for (std::int64_t i = 0; i < shape[0]; ++i) {
            if (i > 0) {
                *out++ = ',';
            }
            out = write_axes(out, write_row, axes - 1, shape + 1, data);
        }
    }
    *out++ = ']';
    return out;
}

// a * b + c, or false if it passes size_t.
bool multiply_add(std::size_t a, std::size_t b, std::size_t c, std::size_t* out) {
    return !__builtin_mul_overflow(a, b, out) && !__builtin_add_overflow(*out, c, out);
}

}  // namespace

std::size_t most_bytes(Type type, int axes, const std::int64_t* shape) {
    // From the inside out: an element, then for each axis "[", the children, a comma behind each,
    // "]".
    std::size_t bytes = most_bytes_of_element(type);
    for (int axis = axes - 1; axis >= 0; --axis) {
        std::size_t with_comma;
        if (__builtin_add_overflow(bytes, std::size_t{1}, &with_comma) ||
            !multiply_add(static_cast<std::size_t>(shape[axis]), with_comma, 2, &bytes)) {
            return 0;
        }
    }
    // write_row puts a comma behind its last element before it is overwritten.
    return bytes + 1;
}

char* write_tensor(char* out, Type type, int axes, const std::int64_t* shape, const void* data) {
    const unsigned char* bytes = static_cast<const unsigned char*>(data);
    return write_axes(out, row_writer(type), axes, shape, bytes);
}

}  // namespace gpux
