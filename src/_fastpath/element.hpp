// Element types of tensors, and the exact conversion of a number to each of them.
//
// The codes are those of ONNX (TensorProto.DataType), so that one number names a type in the model
// file, in gpux.tensor and here. Every conversion answers whether the value was stored; a value
// that does not fit is never clamped, wrapped or cut.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace gpux {

enum class Type : int {
    float32 = 1,
    uint8 = 2,
    int8 = 3,
    uint16 = 4,
    int16 = 5,
    int32 = 6,
    int64 = 7,
    string = 8,
    boolean = 9,
    float16 = 10,
    float64 = 11,
    uint32 = 12,
    uint64 = 13,
    bfloat16 = 16,
};

// Storage of the types that C++17 does not have.
struct Half { std::uint16_t bits; };
struct BFloat { std::uint16_t bits; };
struct Boolean { std::uint8_t value; };

// A float64 rounded once, to nearest even, to a 16-bit format of `kMantissa` explicit mantissa bits
// and exponent bias `kBias`. The rounding is done on the integer significand, where it is exact:
// the bits below the target's last place decide, and a carry out of the mantissa moves into the
// exponent by itself. Values that round past the largest finite one give infinity; NaN stays a
// (quiet) NaN. Source: IEEE 754-2019, 4.3.1 (roundTiesToEven) and 3.4 (binary interchange formats).
template <int kMantissa, int kBias>
constexpr std::uint16_t round_to_16_bits(std::uint64_t bits) {
    constexpr int kExponentBits = 15 - kMantissa;
    constexpr std::uint16_t kInfinity = ((1u << kExponentBits) - 1) << kMantissa;
    const std::uint16_t sign = static_cast<std::uint16_t>(bits >> 63) << 15;
    const int exponent = static_cast<int>((bits >> 52) & 0x7FF);
    std::uint64_t significand = bits & 0xFFFFFFFFFFFFFull;
    if (exponent == 0x7FF) {
        return sign | kInfinity | (significand != 0 ? 1u << (kMantissa - 1) : 0u);
    }
    if (exponent == 0) {
        return sign;  // a float64 subnormal is far below half of the smallest 16-bit one
    }
    significand |= 1ull << 52;
    int target = exponent - 1023 + kBias;
    // How many low bits fall away; a subnormal target loses one more for each step below exponent
    // 1.
    int shift = 52 - kMantissa;
    if (target < 1) {
        shift += 1 - target;
        target = 0;
        if (shift > 54) {
            return sign;  // less than half of the smallest subnormal
        }
    }
    const std::uint64_t kept = significand >> shift;
    const std::uint64_t rest = significand & ((1ull << shift) - 1);
    const std::uint64_t half = 1ull << (shift - 1);
    const std::uint64_t rounded = kept + (rest > half || (rest == half && (kept & 1)) ? 1 : 0);
    // For a normal target `rounded` still holds the implicit bit, which adds the 1 to exponent - 1.
    const std::uint64_t magnitude =
        rounded + (target > 0 ? static_cast<std::uint64_t>(target - 1) << kMantissa : 0);
    return sign | static_cast<std::uint16_t>(magnitude > kInfinity ? kInfinity : magnitude);
}

inline std::uint64_t bits_of(double value) {
    std::uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline Half to_half(double value) { return {round_to_16_bits<10, 15>(bits_of(value))}; }
inline BFloat to_bfloat(double value) { return {round_to_16_bits<7, 127>(bits_of(value))}; }

// Widening is exact.
inline double to_double(Half half) {
    const int exponent = (half.bits >> 10) & 0x1F;
    const int mantissa = half.bits & 0x3FF;
    double magnitude;
    if (exponent == 0x1F) {
        magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity()
                                  : std::numeric_limits<double>::quiet_NaN();
    } else if (exponent == 0) {
        magnitude = std::ldexp(mantissa, -24);
    } else {
        magnitude = std::ldexp(mantissa | 0x400, exponent - 25);
    }
    return half.bits & 0x8000 ? -magnitude : magnitude;
}

inline double to_double(BFloat value) {
    const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
    float widened;
    std::memcpy(&widened, &bits, sizeof widened);
    return widened;
}

// store(number, element): writes the number if it is exact (integers, booleans) or finite once
// rounded (floats), and answers whether it did.

inline bool store(double number, double& element) {
    element = number;
    return std::isfinite(number);
}

inline bool store(double number, float& element) {
    element = static_cast<float>(number);
    return std::isfinite(element);
}

inline bool store(double number, Half& element) {
    element = to_half(number);
    return (element.bits & 0x7C00) != 0x7C00;
}

inline bool store(double number, BFloat& element) {
    element = to_bfloat(number);
    return (element.bits & 0x7F80) != 0x7F80;
}

inline bool store(double number, Boolean& element) {
    element.value = number == 1.0;
    return number == 0.0 || number == 1.0;
}

template <class Integer>
std::enable_if_t<std::is_integral_v<Integer>, bool> store(double number, Integer& element) {
    // Both bounds are powers of two or zero, so they are exact in float64; NaN fails the
    // comparison.
    constexpr double low = static_cast<double>(std::numeric_limits<Integer>::min());
    constexpr double past_high = 2.0 * static_cast<double>(std::numeric_limits<Integer>::max() / 2 + 1);
    if (!(number >= low && number < past_high)) {
        return false;
    }
    element = static_cast<Integer>(number);
    return static_cast<double>(element) == number;
}

template <class Source, class Element>
std::enable_if_t<std::is_integral_v<Source>, bool> store(Source number, Element& element) {
    if constexpr (std::is_integral_v<Element>) {
        element = static_cast<Element>(number);
        // The value survived if it reads back equal and kept its sign (uint64 and int64 share their
        // bits).
        return static_cast<Source>(element) == number && (element < 0) == (number < 0);
    } else if constexpr (std::is_same_v<Element, Boolean>) {
        element.value = number == 1;
        return number == 0 || number == 1;
    } else {
        return store(static_cast<double>(number), element);  // to nearest even, by the hardware
    }
}

}  // namespace gpux
