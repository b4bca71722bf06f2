// JSON numbers: their text, and its exact conversion to each element type.
//
// The rule (contract.md): for floats the float64 nearest to the decimal, rounded once more to the
// type; for integers the decimal's exact value, which must be an integer in range. Every shortcut
// below gives that same value, bit for bit, or is not taken.
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

// A number as RFC 8259, 6 spells it. Its value is (-1)^negative * digits * 10^exponent, if `whole`;
// otherwise more significant digits follow than 64 bits hold, and only the text tells the value.
struct Decimal {
    const char* begin;
    const char* end;
    std::uint64_t digits;
    std::int64_t exponent;
    bool negative;
    bool whole;
};

enum class Outcome : int { stored, out_of_range, not_an_integer };

// The float64 nearest to a decimal, infinite if it is out of range.
double to_float64(Decimal decimal);

// The exponent that follows the letter at `at`, and where it ends: at its first byte that should be
// a digit, if there is none.
struct Exponent {
    std::int64_t value;
    const char* end;
    bool is_right;
};
Exponent read_exponent(const char* at);

// The decimal of a number that has more than kSafeDigits digits, of which it takes the leading
// significant ones from the text; `exponent` is the written one.
Decimal take_leading_digits(Decimal decimal, std::int64_t exponent);

// The absolute value of an integer, or what is wrong with it.
struct Integer {
    std::uint64_t magnitude;
    Outcome outcome;
};
Integer to_integer(Decimal decimal);

// Any so many digits make a number that fits in 64 bits.
constexpr std::int64_t kSafeDigits = 19;

namespace powers {
// Powers of ten that float64 has exactly.
constexpr double kExact[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                             1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
constexpr int kMost = 22;
// The float64 nearest to 10^(i - 44).
constexpr double kNearest[] = {
    1e-44, 1e-43, 1e-42, 1e-41, 1e-40, 1e-39, 1e-38, 1e-37, 1e-36, 1e-35, 1e-34, 1e-33, 1e-32, 1e-31,
    1e-30, 1e-29, 1e-28, 1e-27, 1e-26, 1e-25, 1e-24, 1e-23, 1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17,
    1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9,  1e-8,  1e-7,  1e-6,  1e-5,  1e-4,  1e-3,
    1e-2,  1e-1,  1e0,   1e1,   1e2,   1e3,   1e4,   1e5,   1e6,   1e7,   1e8,   1e9,   1e10,  1e11,
    1e12,  1e13,  1e14,  1e15,  1e16,  1e17,  1e18,  1e19,  1e20};
constexpr std::int64_t kLeastNearest = -44;
constexpr std::uint64_t kNearestCount = sizeof kNearest / sizeof *kNearest;
constexpr std::uint64_t kIntegers[] = {1,      10,      100,      1000,     10000,
                                       100000, 1000000, 10000000, 100000000};
}  // namespace powers

inline bool is_digit(char character) { return static_cast<unsigned char>(character - '0') < 10; }

// The number of eight digits, of which the first is the lowest byte, as values from 0 to 9: pairs,
// then fours, then all, each step in one multiplication.
// Source: D. Lemire, Quickly parsing eight digits, 2018.
inline std::uint64_t number_of_8_digits(std::uint64_t values) {
    constexpr std::uint64_t kMask = 0x000000FF000000FF;
    constexpr std::uint64_t kHigh = 0x000F424000000064;  // 100 + (1000000 << 32)
    constexpr std::uint64_t kLow = 0x0000271000000001;   // 1 + (10000 << 32)
    values = values * 10 + (values >> 8);
    return ((values & kMask) * kHigh + ((values >> 16) & kMask) * kLow) >> 32;
}

// Eight bytes as the values of digits; what is no digit has a value above 9.
inline std::uint64_t load_8_digits(const char* at) {
    std::uint64_t bytes;
    std::memcpy(&bytes, at, sizeof bytes);
    return bytes ^ 0x3030303030303030;
}

// The first `count` of eight digits, 0 to 8, as if zeros stood before them.
inline std::uint64_t keep_first(std::uint64_t values, std::ptrdiff_t count) {
    // In two steps, as a shift by 64 is none.
    return values << (4 * (8 - count)) << (4 * (8 - count));
}

// Whether all values are those of digits: others reach the highest bit of their byte, by themselves
// or by what is added; which is all that counts, even if they carry into the next.
inline bool are_digits(std::uint64_t values) {
    return (((values + 0x7676767676767676) | values) & 0x8080808080808080) == 0;
}

// Appends digits to `*number`, which wraps around past kSafeDigits of them: the caller counts.
inline const char* read_digits(const char* at, const char* end, std::uint64_t* number) {
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

// Bytes behind a number that scan_plain_number() may look at.
constexpr std::ptrdiff_t kLookahead = 24;

// Takes a number whose end is known already, if it is of the usual kinds: `1234` of up to 8 digits,
// and `1.234` of one digit before the point and up to 18 behind it, with or without a minus sign.
// kLookahead bytes behind `end` must be readable. Answers false for any other, right or wrong.
//
// As nothing here waits for the number before, and few branches depend on lengths, several numbers
// are worked on at once.
inline bool scan_plain_number(const char* begin, const char* end, Decimal* decimal) {
    decimal->begin = begin;
    decimal->end = end;
    decimal->whole = true;
    const std::ptrdiff_t sign = *begin == '-';  // a number, so that it is no branch
    decimal->negative = static_cast<bool>(sign);
    begin += sign;
    const std::uint64_t first = static_cast<std::uint64_t>(static_cast<unsigned char>(*begin) ^ '0');
    if (begin[1] != '.') {
        const std::ptrdiff_t count = end - begin;
        const bool is_usual = count == 1 || (count > 1 && count <= 8 && first != 0);
        const std::uint64_t values = keep_first(load_8_digits(begin), is_usual ? count : 0);
        decimal->digits = number_of_8_digits(values);
        decimal->exponent = 0;
        return is_usual && are_digits(values);
    }
    const char* const fraction = begin + 2;
    const std::ptrdiff_t count = end - fraction;
    decimal->exponent = -count;
    if (first > 9 || count < 1) {
        return false;
    }
    // The cases overlap in what they could take: each has lengths that stand together in practice
    // (rounded by a person; shortest float32; shortest float64), so that the branches are foreseen.
    const std::uint64_t high = load_8_digits(fraction);
    if (count <= 6) {
        const std::uint64_t values = keep_first(high, count);
        decimal->digits = first * powers::kIntegers[count] + number_of_8_digits(values);
        return are_digits(values);
    }
    const std::uint64_t middle = load_8_digits(fraction + 8);
    if (count <= 14) {
        const std::ptrdiff_t in_high = count < 8 ? count : 8;
        const std::uint64_t values = keep_first(high, in_high);
        const std::uint64_t rest = keep_first(middle, count - in_high);
        const std::uint64_t digits =
            first * powers::kIntegers[in_high] + number_of_8_digits(values);
        decimal->digits = digits * powers::kIntegers[count - in_high] + number_of_8_digits(rest);
        return are_digits(values) && are_digits(rest);
    }
    if (count <= 18) {
        const std::ptrdiff_t in_middle = count < 16 ? count - 8 : 8;
        const std::uint64_t values = keep_first(middle, in_middle);
        const std::uint64_t rest = keep_first(load_8_digits(fraction + 16), count - 8 - in_middle);
        std::uint64_t digits = first * 100000000 + number_of_8_digits(high);
        digits = digits * powers::kIntegers[in_middle] + number_of_8_digits(values);
        decimal->digits =
            digits * powers::kIntegers[count - 8 - in_middle] + number_of_8_digits(rest);
        return are_digits(high) && are_digits(values) && are_digits(rest);
    }
    return false;
}

// Which of 64 bytes are a comma or a closing bracket, the first in the lowest bit.
inline std::uint64_t find_ends(const char* at) {
#ifdef __SSE2__  // every x86-64
    const __m128i commas = _mm_set1_epi8(',');
    const __m128i brackets = _mm_set1_epi8(']');
    std::uint64_t ends = 0;
    for (int part = 0; part < 4; ++part) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at) + part);
        const __m128i found =
            _mm_or_si128(_mm_cmpeq_epi8(bytes, commas), _mm_cmpeq_epi8(bytes, brackets));
        ends |= static_cast<std::uint64_t>(static_cast<unsigned>(_mm_movemask_epi8(found)))
                << (16 * part);
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

// Reads the number that starts at `at`: a digit or a minus sign. `end` is where the text ends; the
// byte there must be readable and no part of a number. Answers false if it is no number; `*stop` is
// then the first byte that cannot be.
inline bool scan_number(const char* at, const char* end, Decimal* decimal, const char** stop) {
    decimal->begin = at;
    decimal->negative = *at == '-';
    at += decimal->negative ? 1 : 0;
    const char* const integer = at;
    std::uint64_t digits = 0;
    if (is_digit(*at) && (at[1] == '.' || *at == '0')) {
        digits = static_cast<std::uint64_t>(*at - '0');
        ++at;  // a digit behind a leading zero is no part of the number, and no comma either
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
        if (!written.is_right) {
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
        *decimal = take_leading_digits(*decimal, written_exponent);
    }
    return true;
}

// The correctly rounded float64, where one operation on exact operands gives it (W. D. Clinger,
// How to read floating point numbers accurately, 1990): IEEE 754 rounds that operation correctly.
inline bool exact_float64(const Decimal& decimal, double* value) {
    if (!decimal.whole || decimal.digits > (1ull << 53) || decimal.exponent < -powers::kMost ||
        decimal.exponent > powers::kMost) {
        return false;
    }
    const double digits = static_cast<double>(decimal.digits);
    const double magnitude = decimal.exponent < 0 ? digits / powers::kExact[-decimal.exponent]
                                                  : digits * powers::kExact[decimal.exponent];
    *value = decimal.negative ? -magnitude : magnitude;
    return true;
}

// The float32 of a decimal, mostly, without its exact float64.
//
// Three roundings (of the digits, of the power of ten, of their product) make `near`, so it is less
// than 4 units in the last place off the exact value, and the nearest float64 is less than 5 off.
// Rounding to float32 drops 29 bits: all float64 within 5 units of `near` round to the same float32,
// unless the midpoint between two float32 lies among them. Where it may (one number in 2^24), or
// where float32 is subnormal or about to overflow, this is not taken.
inline bool certain_float32(const Decimal& decimal, float* element) {
    constexpr std::uint64_t kDropped = (1ull << 29) - 1;
    constexpr std::uint64_t kMidpoint = 1ull << 28;
    constexpr std::uint64_t kMargin = 8;
    const std::uint64_t power =
        static_cast<std::uint64_t>(decimal.exponent - powers::kLeastNearest);
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
    bits |= static_cast<std::uint32_t>(decimal.negative) << 31;  // signs are not to be foreseen
    std::memcpy(element, &bits, sizeof bits);
    return true;
}

// convert(decimal, element): writes the number in the element's type if it has it.

template <class Element>
std::enable_if_t<!std::is_integral_v<Element>, Outcome> convert(
    const Decimal& decimal, Element& element
) {
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

inline Outcome convert(const Decimal& decimal, Boolean& element) {
    const Integer integer = to_integer(decimal);
    element.value = integer.magnitude == 1;
    const bool is_bit = integer.magnitude == 0 || (integer.magnitude == 1 && !decimal.negative);
    return integer.outcome == Outcome::stored && is_bit ? Outcome::stored : Outcome::out_of_range;
}

template <class Element>
std::enable_if_t<std::is_integral_v<Element>, Outcome> convert(
    const Decimal& decimal, Element& element
) {
    std::uint64_t magnitude = decimal.digits;
    if (!decimal.whole || decimal.exponent != 0) {
        const Integer integer = to_integer(decimal);
        if (integer.outcome != Outcome::stored) {
            return integer.outcome;
        }
        magnitude = integer.magnitude;
    }
    constexpr std::uint64_t kMost = static_cast<std::uint64_t>(std::numeric_limits<Element>::max());
    if (decimal.negative) {
        // Two's complement has one more negative number; unsigned types have none but zero.
        constexpr std::uint64_t kLeast = std::is_signed_v<Element> ? kMost + 1 : 0;
        if (magnitude > kLeast) {
            return Outcome::out_of_range;
        }
        element = static_cast<Element>(0 - magnitude);
    } else {
        if (magnitude > kMost) {
            return Outcome::out_of_range;
        }
        element = static_cast<Element>(magnitude);
    }
    return Outcome::stored;
}

}  // namespace gpux
