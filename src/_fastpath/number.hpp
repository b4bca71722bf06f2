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

// The float64 nearest to a decimal, infinite if it is out of range. For those that exact_float64()
// does not take.
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

// The number of the last `count` (0 to 16) of 16 bytes, if they are digits: false if not.
inline bool read_last_digits(const char* bytes, std::ptrdiff_t count, std::uint64_t* number) {
#ifdef __SSE2__  // every x86-64
    // From place 16 - count on, it has as many zeros, and then ones.
    alignas(16) static constexpr signed char kKept[32] = {0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
                                                          0,  0,  0,  0,  0,  -1, -1, -1, -1, -1, -1,
                                                          -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    const __m128i kept = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kKept + count));
    const __m128i loaded = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
    const __m128i values = _mm_and_si128(_mm_sub_epi8(loaded, _mm_set1_epi8('0')), kept);
    const __m128i are_digits = _mm_cmpeq_epi8(_mm_min_epu8(values, _mm_set1_epi8(9)), values);
    // Sixteen digits make eight numbers of two, four of four, two of eight. Of digits, each fits where
    // it goes: 99 and 9999 in 16 bits with a sign, so that nothing is cut where they are packed, and
    // 99999999 in 32. What else the bytes may be makes a wrong number, which is not taken.
    const __m128i tens = _mm_mullo_epi16(_mm_and_si128(values, _mm_set1_epi16(0xFF)),
                                         _mm_set1_epi16(10));
    const __m128i twos = _mm_add_epi16(tens, _mm_srli_epi16(values, 8));
    const __m128i fours = _mm_madd_epi16(twos, _mm_set1_epi32(100 + (1 << 16)));
    const __m128i eights = _mm_madd_epi16(_mm_packs_epi32(fours, fours),
                                          _mm_set1_epi32(10000 + (1 << 16)));
    const std::uint64_t both = static_cast<std::uint64_t>(_mm_cvtsi128_si64(eights));
    *number = (both & 0xFFFFFFFF) * 100000000 + (both >> 32);
    return _mm_movemask_epi8(are_digits) == 0xFFFF;
#else
    const std::ptrdiff_t in_low = count < 8 ? count : 8;
    const std::ptrdiff_t in_high = count - in_low;
    constexpr std::uint64_t kAll = ~std::uint64_t{0};
    // The last bytes are the highest ones. In two steps, as a shift by 64 is none.
    const std::uint64_t high =
        load_8_digits(bytes) & (kAll << (4 * (8 - in_high)) << (4 * (8 - in_high)));
    const std::uint64_t low =
        load_8_digits(bytes + 8) & (kAll << (4 * (8 - in_low)) << (4 * (8 - in_low)));
    *number = number_of_8_digits(high) * 100000000 + number_of_8_digits(low);
    return are_digits(high) && are_digits(low);
#endif
}

// Bytes in front of a number's end that scan_plain_number() may look at.
constexpr std::ptrdiff_t kLookback = 16;

// Takes a number whose end is known already, if it is of the usual kinds: `1234` of up to 16 digits,
// and `1.234` of one digit before the point and up to 18 behind it, with or without a minus sign.
// kLookback bytes in front of `end`, and 3 from `begin` on, must be readable. Answers false for any
// other, right or wrong.
//
// As nothing here waits for the number before, and no branch depends on a length that differs from
// number to number, several numbers are worked on at once.
inline bool scan_plain_number(const char* begin, const char* end, Decimal* decimal) {
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
    if (count <= 14) {  // float32, or rounded by a person: never more; float64: hardly ever so few
        const bool are_right = read_last_digits(end - kLookback, count, &digits);
        decimal->digits = first * powers::kIntegers[count] + digits;
        return are_right;
    }
    // The last sixteen by themselves, and in front of them what is left.
    const std::ptrdiff_t last = count < 16 ? count : 16;
    const bool are_right = read_last_digits(end - kLookback, last, &digits);
    const std::uint64_t has_17 = count >= 17;  // numbers, so that they are no branches
    const std::uint64_t has_18 = count >= 18;
    const std::uint64_t second = value(begin[2]) * has_17;
    const std::uint64_t third = value(begin[3]) * has_18;
    std::uint64_t front = first * (1 + 9 * has_17) + second;
    front = front * (1 + 9 * has_18) + third;
    decimal->digits = front * powers::kIntegers[last] + digits;
    return static_cast<int>(are_right) & static_cast<int>(second <= 9) &
           static_cast<int>(third <= 9);
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
// byte there must be NUL. Answers false if it is no number; `*stop` is
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
    // Below 2^63, as only numbers with a sign become float64 in one instruction. The others (nineteen
    // digits and a first one of 9) are too few to matter.
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
