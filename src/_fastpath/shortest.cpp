// The exact form: the paper's algorithm (its section 9), with the powers of ten to 128 bits.
#include "shortest.hpp"

namespace gpux {

namespace {

// n * 2^q / 10^k, for n << shift, truncated to an integer whose lowest bit is also set if a fraction was
// dropped ("round to odd").
//
// With power + 1 for the truncated power, the product exceeds the exact value by less than
// 2^59 / 2^128 = 2^-69, as n is below 2^55 + 4. If the exact value is an integer, the 64 fraction bits
// tested are all zero. If it is neither an integer nor within 2^-63 of the next one, they are not, and
// the integer part is exact. That suffices for the integers that the result is compared with, as no
// value is that near to one of them without being equal (tests/core/test_distances.py).
std::uint64_t round_to_odd(const PowerOfTen& power, std::uint64_t shifted) {
    const uint128 above = (static_cast<uint128>(power.high) << 64 | power.low) + 1;
    const uint128 low = static_cast<uint128>(shifted) * static_cast<std::uint64_t>(above);
    const uint128 high = static_cast<uint128>(shifted) * static_cast<std::uint64_t>(above >> 64);
    const uint128 product = high + static_cast<std::uint64_t>(low >> 64);
    return static_cast<std::uint64_t>(product >> 64) | (static_cast<std::uint64_t>(product) != 0);
}

}  // namespace

template <class Format>
ShortDecimal shortest_exactly(int exponent, typename Format::Bits mantissa) {
    const bool subnormal = exponent == 0;
    const std::uint64_t c = subnormal ? mantissa : mantissa | Format::kHidden;
    const int q = (subnormal ? 1 : exponent) + Format::kQOffset;
    // Below a power of two the neighbour is half as far away, except below the smallest normal one.
    const bool uneven = mantissa == 0 && exponent > 1;
    const int k = uneven ? floor_log10_of_three_quarters(q) : floor_log10_of_power_of_two(q);
    const PowerOfTen& power = power_of_ten(-k);
    // From 1 to 4, as in shortest(): with k for the narrower interval, 2^q / 10^k is in [1, 40/3).
    const int shift = q + floor_log2_of_power_of_ten(-k) + 1;

    // Four times v and the ends of its interval, in units of 10^k. For odd c the interval excludes its
    // ends; moving them by one is enough, as they are compared with multiples of four only, and a
    // non-integer has been made odd. The value is compared with 4 s + 2.
    const std::uint64_t odd = c & 1;
    const std::uint64_t value = round_to_odd(power, 4 * c << shift);
    const std::uint64_t lower = round_to_odd(power, (4 * c - (uneven ? 1 : 2)) << shift) + odd;
    const std::uint64_t upper = round_to_odd(power, (4 * c + 2) << shift) - odd;

    const std::uint64_t s = value / 4;
    // With one digit in s, t would be 0 and t + 10 no shorter than s.
    if (s >= 10) {
        const std::uint64_t t = s - s % 10;
        if (lower <= 4 * t) {
            return {t, k};
        }
        if (4 * t + 40 <= upper) {
            return {t + 10, k};
        }
    }
    const bool s_is_inside = lower <= 4 * s;
    const bool next_is_inside = 4 * s + 4 <= upper;
    if (s_is_inside != next_is_inside) {
        return {s + next_is_inside, k};
    }
    const std::uint64_t middle = 4 * s + 2;
    return {s + (value > middle || (value == middle && s % 2 == 1)), k};
}

template ShortDecimal shortest_exactly<Float64>(int, Float64::Bits);
template ShortDecimal shortest_exactly<Float32>(int, Float32::Bits);
template ShortDecimal shortest_exactly<Float16>(int, Float16::Bits);
template ShortDecimal shortest_exactly<BFloat16>(int, BFloat16::Bits);

}  // namespace gpux
