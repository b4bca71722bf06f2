// JSON numbers: parsing, and exact conversion to each element type.
//
// The rule (docs/numbers.md): a float is the float64 nearest to the decimal, rounded once more to the
// type; an integer is the decimal's exact value, which must be an integer in range. Every shortcut
// below produces that value, bit for bit, or declines.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "element.hpp"

namespace gpux {

// A number spelled as RFC 8259, 6 defines. Its value is (-1)^negative * digits * 10^exponent if `whole`;
// otherwise it has more significant digits than 64 bits hold, and only the text defines the value.
struct Decimal {
    const char* begin;
    const char* end;
    std::uint64_t digits;
    std::int64_t exponent;
    bool negative;
    bool whole;
};

enum class Outcome : int { stored, out_of_range, not_an_integer };

// The float64 nearest to a decimal, infinite if out of range. For decimals that exact_float64() declines.
double to_float64(Decimal decimal) noexcept;

// The exponent after the letter at `at`, and where it ends: at the byte where a digit is missing, if
// it has none.
struct Exponent {
    std::int64_t value;
    const char* end;
    bool is_valid;
};
Exponent read_exponent(const char* at) noexcept;

// The decimal of a number with more than kSafeDigits digits: reads the leading significant ones again
// from the text. `exponent` is the written one.
Decimal read_leading_digits(Decimal decimal, std::int64_t exponent) noexcept;

// The absolute value of an integer, or why it is none.
struct Integer {
    std::uint64_t magnitude;
    Outcome outcome;
};
Integer to_integer(Decimal decimal) noexcept;

// Any number of this many digits fits in 64 bits.
constexpr std::int64_t kSafeDigits = 19;

namespace powers {
// The powers of ten that float64 represents exactly.
constexpr double kExact[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                             1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
constexpr int kMaxExact = 22;
// The float64 nearest to 10^(i - 44).
constexpr double kNearest[] = {1e-44, 1e-43, 1e-42, 1e-41, 1e-40, 1e-39, 1e-38, 1e-37, 1e-36, 1e-35, 1e-34,
                               1e-33, 1e-32, 1e-31, 1e-30, 1e-29, 1e-28, 1e-27, 1e-26, 1e-25, 1e-24, 1e-23,
                               1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12,
                               1e-11, 1e-10, 1e-9,  1e-8,  1e-7,  1e-6,  1e-5,  1e-4,  1e-3,  1e-2,  1e-1,
                               1e0,   1e1,   1e2,   1e3,   1e4,   1e5,   1e6,   1e7,   1e8,   1e9,   1e10,
                               1e11,  1e12,  1e13,  1e14,  1e15,  1e16,  1e17,  1e18,  1e19,  1e20};
constexpr std::int64_t kMinNearest = -44;
constexpr std::uint64_t kNearestCount = sizeof kNearest / sizeof *kNearest;
constexpr std::uint64_t kIntegers[] = {1,
                                       10,
                                       100,
                                       1000,
                                       10000,
                                       100000,
                                       1000000,
                                       10000000,
                                       100000000,
                                       1000000000,
                                       10000000000,
                                       100000000000,
                                       1000000000000,
                                       10000000000000,
                                       100000000000000,
                                       1000000000000000,
                                       10000000000000000};
}  // namespace powers

inline bool is_digit(char character) noexcept { return static_cast<unsigned char>(character - '0') < 10; }

// The number that eight digits make, given as values from 0 to 9, the first in the lowest byte: pairs,
// then fours, then all, one multiplication a step.
// Source: D. Lemire, Quickly parsing eight digits, 2018.
inline std::uint64_t number_of_8_digits(std::uint64_t values) noexcept {
    constexpr std::uint64_t kMask = 0x000000FF000000FF;
    constexpr std::uint64_t kHigh = 0x000F424000000064;  // 100 + (1000000 << 32)
    constexpr std::uint64_t kLow = 0x0000271000000001;   // 1 + (10000 << 32)
    values = values * 10 + (values >> 8);
    return ((values & kMask) * kHigh + ((values >> 16) & kMask) * kLow) >> 32;
}

// Eight bytes as digit values; other characters become values above 9.
inline std::uint64_t load_8_digits(const char* at) noexcept {
    std::uint64_t bytes;
    std::memcpy(&bytes, at, sizeof bytes);
    return bytes ^ 0x3030303030303030;
}

// Whether all values are digits. Others set the highest bit of their byte, as they are or by the
// addition; a carry into the next byte does not matter, as one such bit decides.
inline bool are_digits(std::uint64_t values) noexcept {
    return (((values + 0x7676767676767676) | values) & 0x8080808080808080) == 0;
}

// Appends digits to `*number`, which wraps around past kSafeDigits of them: the caller counts.
// Returns the position after the last one.
inline const char* read_digits(const char* at, const char* end, std::uint64_t* number) noexcept {
    std::uint64_t read = *number;
    for (; end - at >= 8; at += 8) {
        const std::uint64_t values = load_8_digits(at);
        if (!are_digits(values)) {
            break;
        }
        read = read * 100000000 + number_of_8_digits(values);
    }
    for (; is_digit(*at); ++at) {
        read = read * 10 + static_cast<std::uint64_t>(*at - '0');
    }
    *number = read;
    return at;
}

// Reads the last `count` (0 to 16) of 16 bytes as a number; false if they are not all digits.
inline bool read_last_digits(const char* bytes, std::ptrdiff_t count, std::uint64_t* number) noexcept {
#ifdef __SSE2__  // every x86-64
    // Read from index `count` on: 16 - count zeros, then ones.
    alignas(16) static constexpr signed char kKept[32] = {0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
                                                          0,  0,  0,  0,  0,  -1, -1, -1, -1, -1, -1,
                                                          -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    const __m128i kept = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kKept + count));
    const __m128i loaded = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    const __m128i values = _mm_and_si128(_mm_sub_epi8(loaded, _mm_set1_epi8('0')), kept);
    const __m128i are_digits = _mm_cmpeq_epi8(_mm_min_epu8(values, _mm_set1_epi8(9)), values);
    // Sixteen digits make eight numbers of two, four of four, two of eight. Each fits its lane: 99 and
    // 9999 in signed 16 bits, so that packing does not saturate, and 99999999 in 32. Other bytes make
    // a wrong number, which is then rejected.
    const __m128i tens = _mm_mullo_epi16(_mm_and_si128(values, _mm_set1_epi16(0xFF)), _mm_set1_epi16(10));
    const __m128i twos = _mm_add_epi16(tens, _mm_srli_epi16(values, 8));
    const __m128i fours = _mm_madd_epi16(twos, _mm_set1_epi32(100 + (1 << 16)));
    const __m128i eights = _mm_madd_epi16(_mm_packs_epi32(fours, fours), _mm_set1_epi32(10000 + (1 << 16)));
    const std::uint64_t both = static_cast<std::uint64_t>(_mm_cvtsi128_si64(eights));
    *number = (both & 0xFFFFFFFF) * 100000000 + (both >> 32);
    return _mm_movemask_epi8(are_digits) == 0xFFFF;
#else
    const std::ptrdiff_t in_low = count < 8 ? count : 8;
    const std::ptrdiff_t in_high = count - in_low;
    constexpr std::uint64_t kAll = ~std::uint64_t{0};
    // The last bytes are the highest. Shifts in two steps, as a shift by 64 is undefined.
    const std::uint64_t high = load_8_digits(bytes) & (kAll << (4 * (8 - in_high)) << (4 * (8 - in_high)));
    const std::uint64_t low = load_8_digits(bytes + 8) & (kAll << (4 * (8 - in_low)) << (4 * (8 - in_low)));
    *number = number_of_8_digits(high) * 100000000 + number_of_8_digits(low);
    return are_digits(high) && are_digits(low);
#endif
}

// Bytes before a number's end that scan_plain_number() may read.
constexpr std::ptrdiff_t kLookback = 16;

// Reads a number whose end is already known, if it is of a common form: `1234` of up to 16 digits, or
// `1.234` of one digit before the point and up to 18 after it, with or without a minus sign. kLookback
// bytes before `end`, and 3 from `begin` on, must be readable. Returns false for any other text, valid
// or not.
//
// Nothing here waits for the previous number, and no branch depends on a length that varies from number
// to number, so the processor overlaps several numbers.
inline bool scan_plain_number(const char* begin, const char* end, Decimal* decimal) noexcept {
    decimal->begin = begin;
    decimal->end = end;
    decimal->whole = true;
    const std::ptrdiff_t sign = *begin == '-';
    decimal->negative = static_cast<bool>(sign);
    begin += sign;
    const auto value = [](char character) {
        return static_cast<std::uint64_t>(static_cast<unsigned char>(character - '0'));
    };
    const std::uint64_t first = value(*begin);
    std::uint64_t digits;
    if (begin[1] != '.') {
        const std::ptrdiff_t count = end - begin;
        decimal->exponent = 0;
        if (count < 1 || count > 16 || (first == 0 && count > 1)) {
            return false;
        }
        return read_last_digits(end - kLookback, count, &decimal->digits);
    }
    const std::ptrdiff_t count = end - begin - 2;
    if (count < 1 || count > 18 || first > 9) {
        return false;
    }
    decimal->exponent = -count;
    if (count <= 14) {  // never exceeded by float32s or hand-rounded numbers, rarely met by float64s
        const bool are_valid = read_last_digits(end - kLookback, count, &digits);
        decimal->digits = first * powers::kIntegers[count] + digits;
        return are_valid;
    }
    // The last sixteen, and the one or two before them.
    const std::ptrdiff_t last = count < 16 ? count : 16;
    const bool are_valid = read_last_digits(end - kLookback, last, &digits);
    const std::uint64_t has_17 = count >= 17;  // as numbers, to avoid branches
    const std::uint64_t has_18 = count >= 18;
    const std::uint64_t second = value(begin[2]) * has_17;
    const std::uint64_t third = value(begin[3]) * has_18;
    std::uint64_t front = first * (1 + 9 * has_17) + second;
    front = front * (1 + 9 * has_18) + third;
    decimal->digits = front * powers::kIntegers[last] + digits;
    return static_cast<int>(are_valid) & static_cast<int>(second <= 9) & static_cast<int>(third <= 9);
}

// A mask of the commas and closing brackets among 64 bytes, the first in the lowest bit.
inline std::uint64_t find_ends(const char* at) noexcept {
#ifdef __SSE2__  // every x86-64
    const __m128i commas = _mm_set1_epi8(',');
    const __m128i brackets = _mm_set1_epi8(']');
    std::uint64_t ends = 0;
    for (int part = 0; part < 4; ++part) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at) + part);
        const __m128i found = _mm_or_si128(_mm_cmpeq_epi8(bytes, commas), _mm_cmpeq_epi8(bytes, brackets));
        ends |= static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_epi8(found))) << (16 * part);
    }
    return ends;
#else
    std::uint64_t ends = 0;
    for (int i = 0; i < 64; ++i) {
        ends |= static_cast<std::uint64_t>(at[i] == ',' || at[i] == ']') << i;
    }
    return ends;
#endif
}

// Reads the number that starts at `at`. The text ends at `end`, where a NUL must be. Returns false if it
// is not a number; `*stop` is then the first invalid byte.
inline bool scan_number(const char* at, const char* end, Decimal* decimal, const char** stop) noexcept {
    decimal->begin = at;
    decimal->negative = *at == '-';
    at += decimal->negative ? 1 : 0;
    const char* const integer = at;
    std::uint64_t digits = 0;
    if (is_digit(*at) && (at[1] == '.' || *at == '0')) {
        digits = static_cast<std::uint64_t>(*at - '0');
        ++at;  // a digit after a leading zero is left to the caller, who expects a comma
    } else {
        at = read_digits(at, end, &digits);
        if (at == integer) {
            *stop = at;
            return false;
        }
    }
    std::int64_t count = at - integer;
    std::int64_t exponent = 0;
    if (*at == '.') {
        const char* const fraction = ++at;
        at = read_digits(at, end, &digits);
        if (at == fraction) {
            *stop = at;
            return false;
        }
        exponent = fraction - at;
        count += at - fraction;
    }
    std::int64_t written_exponent = 0;
    if ((*at | 0x20) == 'e') {
        const Exponent written = read_exponent(at);
        at = written.end;
        if (!written.is_valid) {
            *stop = at;
            return false;
        }
        written_exponent = written.value;
    }
    decimal->end = at;
    decimal->digits = digits;
    decimal->exponent = exponent + written_exponent;
    decimal->whole = true;
    if (count > kSafeDigits) {
        *decimal = read_leading_digits(*decimal, written_exponent);
    }
    return true;
}

// The correctly rounded float64, if one operation on exact operands gives it: IEEE 754 rounds that
// operation correctly. Source: W. D. Clinger, How to read floating point numbers accurately, 1990.
inline bool exact_float64(const Decimal& decimal, double* value) noexcept {
    if (!decimal.whole || decimal.digits > (1ull << 53) || decimal.exponent < -powers::kMaxExact ||
        decimal.exponent > powers::kMaxExact) {
        return false;
    }
    const double digits = static_cast<double>(decimal.digits);
    const double magnitude = decimal.exponent < 0 ? digits / powers::kExact[-decimal.exponent]
                                                  : digits * powers::kExact[decimal.exponent];
    *value = decimal.negative ? -magnitude : magnitude;
    return true;
}

// The float32 of most decimals, without computing the exact float64.
//
// Three roundings (of the digits, the power of ten and their product) make `near`, so it is less than
// 4 units in the last place off the exact value, and less than 5 off the nearest float64. Rounding to
// float32 drops 29 bits: all float64s within 5 units of `near` round to the same float32 unless a
// midpoint between two float32s lies among them. Declines where one may (one number in 2^24), and
// where the float32 is subnormal or close to overflow.
inline bool certain_float32(const Decimal& decimal, float* element) noexcept {
    constexpr std::uint64_t kDropped = (1ull << 29) - 1;
    constexpr std::uint64_t kMidpoint = 1ull << 28;
    constexpr std::uint64_t kMargin = 8;
    const std::uint64_t power = static_cast<std::uint64_t>(decimal.exponent - powers::kMinNearest);
    // Only below 2^63, as only signed integers convert to float64 in one instruction. The others
    // (nineteen digits, the first a 9) are too rare to matter.
    const std::int64_t digits = static_cast<std::int64_t>(decimal.digits);
    if (!decimal.whole || digits < 0 || power >= powers::kNearestCount) {
        return false;
    }
    const double near = static_cast<double>(digits) * powers::kNearest[power];
    const std::uint64_t distance = (bits_of(near) & kDropped) - (kMidpoint - kMargin);
    if (distance <= 2 * kMargin || !(near >= 2.0 * FLT_MIN && near <= 0.5 * FLT_MAX)) {
        return false;
    }
    const float magnitude = static_cast<float>(near);
    std::uint32_t bits;
    std::memcpy(&bits, &magnitude, sizeof bits);
    bits |= static_cast<std::uint32_t>(decimal.negative) << 31;  // no branch: signs are unpredictable
    std::memcpy(element, &bits, sizeof bits);
    return true;
}

// convert(decimal, element): stores the number in the element's type if it fits.

template <class Element>
std::enable_if_t<!std::is_integral_v<Element>, Outcome> convert(const Decimal& decimal,
                                                                Element& element) noexcept {
    if constexpr (std::is_same_v<Element, float>) {
        if (certain_float32(decimal, &element)) {
            return Outcome::stored;
        }
    }
    double value;
    if (!exact_float64(decimal, &value)) {
        value = to_float64(decimal);
    }
    return store(value, element) ? Outcome::stored : Outcome::out_of_range;
}

inline Outcome convert(const Decimal& decimal, Boolean& element) noexcept {
    const Integer integer = to_integer(decimal);
    element.value = integer.magnitude == 1;
    const bool is_bit = integer.magnitude == 0 || (integer.magnitude == 1 && !decimal.negative);
    return integer.outcome == Outcome::stored && is_bit ? Outcome::stored : Outcome::out_of_range;
}

template <class Element>
std::enable_if_t<std::is_integral_v<Element>, Outcome> convert(const Decimal& decimal,
                                                               Element& element) noexcept {
    std::uint64_t magnitude = decimal.digits;
    if (!decimal.whole || decimal.exponent != 0) {
        const Integer integer = to_integer(decimal);
        if (integer.outcome != Outcome::stored) {
            return integer.outcome;
        }
        magnitude = integer.magnitude;
    }
    constexpr std::uint64_t kMax = static_cast<std::uint64_t>(std::numeric_limits<Element>::max());
    if (decimal.negative) {
        // Two's complement has one more negative number; unsigned types have only -0.
        constexpr std::uint64_t kMaxNegative = std::is_signed_v<Element> ? kMax + 1 : 0;
        if (magnitude > kMaxNegative) {
            return Outcome::out_of_range;
        }
        element = static_cast<Element>(0 - magnitude);
    } else {
        if (magnitude > kMax) {
            return Outcome::out_of_range;
        }
        element = static_cast<Element>(magnitude);
    }
    return Outcome::stored;
}

}  // namespace gpux
