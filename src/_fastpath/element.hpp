// Element types of tensors, and the exact conversion of a number to each of them.
//
// The codes are ONNX's (TensorProto.DataType), so that one number names a type in the model file, in
// gpux.tensors.signature and here. A value that does not fit is rejected, never clamped, wrapped or
// truncated.
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

// Storage for the types that C++17 lacks.
struct Half {
    std::uint16_t bits;
};
struct BFloat {
    std::uint16_t bits;
};
struct Boolean {
    std::uint8_t value;
};

// Rounds a float64 once, to nearest even, to a 16-bit format with `kMantissa` explicit mantissa bits
// and exponent bias `kBias`. Works on the integer significand, where rounding is exact: the bits below
// the target's last place decide, and a carry out of the mantissa propagates into the exponent. Values
// that round past the largest finite one become infinite; NaN stays a (quiet) NaN.
// Source: IEEE 754-2019, 4.3.1 (roundTiesToEven) and 3.4 (binary interchange formats).
template <int kMantissa, int kBias>
constexpr std::uint16_t round_to_16_bits(std::uint64_t bits) noexcept {
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
    // The low bits to drop: a subnormal target loses one more for each step below exponent 1.
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
    const std::uint64_t magnitude = rounded +
                                    (target > 0 ? static_cast<std::uint64_t>(target - 1) << kMantissa : 0);
    return sign | static_cast<std::uint16_t>(magnitude > kInfinity ? kInfinity : magnitude);
}

inline std::uint64_t bits_of(double value) noexcept {
    std::uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline Half to_half(double value) noexcept { return {round_to_16_bits<10, 15>(bits_of(value))}; }
inline BFloat to_bfloat(double value) noexcept { return {round_to_16_bits<7, 127>(bits_of(value))}; }

// Exact.
inline double to_double(Half half) noexcept {
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

inline double to_double(BFloat value) noexcept {
    const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
    float widened;
    std::memcpy(&widened, &bits, sizeof widened);
    return widened;
}

// round_to(number, element): stores the nearest value of a float type, ties to even, which is infinite
// past the largest finite one.
inline void round_to(double number, double& element) noexcept { element = number; }
inline void round_to(double number, float& element) noexcept { element = static_cast<float>(number); }
inline void round_to(double number, Half& element) noexcept { element = to_half(number); }
inline void round_to(double number, BFloat& element) noexcept { element = to_bfloat(number); }

inline bool is_finite(double value) noexcept { return std::isfinite(value); }
inline bool is_finite(float value) noexcept { return std::isfinite(value); }
inline bool is_finite(Half value) noexcept { return (value.bits & 0x7C00) != 0x7C00; }
inline bool is_finite(BFloat value) noexcept { return (value.bits & 0x7F80) != 0x7F80; }

// store(number, element): whether the type holds the number: exactly (integers, booleans) or finite once
// rounded (floats). Writes the element if so; otherwise its value is unspecified.
template <class Float>
std::enable_if_t<!std::is_integral_v<Float>, bool> store(double number, Float& element) noexcept {
    round_to(number, element);
    return is_finite(element);
}

inline bool store(double number, Boolean& element) noexcept {
    element.value = number == 1.0;
    return number == 0.0 || number == 1.0;
}

template <class Integer>
std::enable_if_t<std::is_integral_v<Integer>, bool> store(double number, Integer& element) noexcept {
    // Both bounds are powers of two or zero, so exact in float64; NaN fails the comparison.
    constexpr double low = static_cast<double>(std::numeric_limits<Integer>::min());
    constexpr Integer half_past_high = std::numeric_limits<Integer>::max() / 2 + 1;
    constexpr double past_high = 2.0 * static_cast<double>(half_past_high);
    if (!(number >= low && number < past_high)) {
        return false;
    }
    element = static_cast<Integer>(number);
    return static_cast<double>(element) == number;
}

template <class Native, class Element>
std::enable_if_t<std::is_integral_v<Native>, bool> store(Native number, Element& element) noexcept {
    if constexpr (std::is_integral_v<Element>) {
        element = static_cast<Element>(number);
        // It fits if it converts back equal with the same sign (uint64 and int64 share their bits).
        return static_cast<Native>(element) == number && (element < 0) == (number < 0);
    } else if constexpr (std::is_same_v<Element, Boolean>) {
        element.value = number == 1;
        return number == 0 || number == 1;
    } else {
        return store(static_cast<double>(number), element);  // the hardware rounds to nearest even
    }
}

}  // namespace gpux
