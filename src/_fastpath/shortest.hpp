// The shortest decimal of a binary float: the fewest digits that read back to the same value, and
// among those the nearest to it.
//
// This is Schubfach (Raffaello Giulietti, "The Schubfach way to render doubles", 2020), in two
// forms. `shortest_exactly` (shortest.cpp) is the paper's, for every finite value. `shortest`,
// below, is cheaper, with one multiplication instead of three and no branches: it bounds the error of
// its fixed-point numbers, and reports when that could matter.
//
// For a value v = c * 2^q (c an integer, q the exponent of its last bit), all numbers between the
// midpoints to its neighbours, v - 2^(q-1) and v + 2^(q-1), read back to v; the midpoints
// themselves do if c is even. Take the power of ten with 10^k <= 2^q < 10^(k+1). The interval is at
// least 10^k wide and less than 10^(k+1), so at least one multiple of 10^k lies in it and at most
// one of 10^(k+1). With x = v / 10^k and s = floor(x), it follows that
//   - a multiple of 10^(k+1) in the interval has fewer digits than any other number in it. It can
//     only be one of the two around v, t and t + 10 with t = s - s mod 10, in units of 10^k;
//   - otherwise it is the nearer one of s and s + 1, the even one if both are equally near.
// (Below a power of two the neighbour is nearer; then k is chosen for the narrower interval, and
// the nearer one of s and s + 1 may lie outside. That is left to shortest_exactly.)
#pragma once

#include <cstdint>
#include <cstring>

#include "powers_of_ten.hpp"

// Always inlined, into functions compiled for other instruction sets.
#define GPUX_INLINE inline __attribute__((always_inline))

namespace gpux {

// digits * 10^exponent; the digits may end in zeros.
struct ShortDecimal {
    std::uint64_t digits;
    int exponent;
};

// The layout of a binary float (IEEE 754-2019, 3.4), and what follows from it.
template <class BitsOf, int kMantissaOf, int kMinDigitsOf>
struct FloatFormat {
    using Bits = BitsOf;
    static constexpr int kMantissa = kMantissaOf;  // explicit bits
    static constexpr int kExponentBits = 8 * static_cast<int>(sizeof(Bits)) - 1 - kMantissa;
    static constexpr Bits kHidden = static_cast<Bits>(Bits{1} << kMantissa);
    static constexpr Bits kMagnitude = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
    static constexpr int kMaxExponent = (1 << kExponentBits) - 1;  // infinity, NaN
    // q = exponent field + kQOffset
    static constexpr int kQOffset = -(kMaxExponent >> 1) - kMantissa;
    // With c in [2^kMantissa, 2 * 2^kMantissa), s has at least this many digits, and at most one more,
    // or two with float32, as 2^q / 10^k is below 10 (below 40 / 3 for a power of two).
    static constexpr int kMinDigits = kMinDigitsOf;
};

using Float64 = FloatFormat<std::uint64_t, 52, 16>;
using Float32 = FloatFormat<std::uint32_t, 23, 7>;
using Float16 = FloatFormat<std::uint16_t, 10, 4>;
using BFloat16 = FloatFormat<std::uint16_t, 7, 3>;

// For any finite nonzero magnitude, given as its exponent field and explicit mantissa.
template <class Format>
ShortDecimal shortest_exactly(int exponent, typename Format::Bits mantissa);

extern template ShortDecimal shortest_exactly<Float64>(int, Float64::Bits);
extern template ShortDecimal shortest_exactly<Float32>(int, Float32::Bits);
extern template ShortDecimal shortest_exactly<Float16>(int, Float16::Bits);
extern template ShortDecimal shortest_exactly<BFloat16>(int, BFloat16::Bits);

// 2^q / 10^k for the k of a regular interval, in [1, 10): in 4.124 fixed point, truncated.
struct Scale {
    std::uint64_t high;
    std::uint64_t low;
};

// One more on each side than values have: shortest() computes specials too, and discards the result.
constexpr int kMinQ = Float64::kQOffset;
constexpr int kMaxQ = Float64::kQOffset + Float64::kMaxExponent;

constexpr std::array<Scale, kMaxQ - kMinQ + 1> make_scales() {
    std::array<Scale, kMaxQ - kMinQ + 1> scales{};
    for (int q = kMinQ; q <= kMaxQ; ++q) {
        const int k = floor_log10_of_power_of_two(q);
        const PowerOfTen& power = power_of_ten(-k);
        // 10^-k = power * 2^(floor(log2(10^-k)) - 127). From 0 to 3, as power / 2^127 is in [1, 2).
        const int shift = 3 - (q + floor_log2_of_power_of_ten(-k));
        const uint128 scale = (static_cast<uint128>(power.high) << 64 | power.low) >> shift;
        scales[static_cast<unsigned>(q - kMinQ)] = {static_cast<std::uint64_t>(scale >> 64),
                                                    static_cast<std::uint64_t>(scale)};
    }
    return scales;
}

inline constexpr auto kScales = make_scales();

struct Product {
    std::uint64_t high;
    std::uint64_t low;
};

// a * b: in one instruction, or from the products of their halves (kHalves), the widest that vector
// instructions have.
template <bool kHalves>
GPUX_INLINE Product multiply(std::uint64_t a, std::uint64_t b) {
    if constexpr (!kHalves) {
        const uint128 product = static_cast<uint128>(a) * b;
        return {static_cast<std::uint64_t>(product >> 64), static_cast<std::uint64_t>(product)};
    } else {
        constexpr std::uint64_t kLow = 0xFFFFFFFF;
        const std::uint64_t lowest = (a & kLow) * (b & kLow);
        // Neither sum overflows: (2^32 - 1)^2 + 2^32 - 1 < 2^64.
        const std::uint64_t middle = (a >> 32) * (b & kLow) + (lowest >> 32);
        const std::uint64_t other = (a & kLow) * (b >> 32) + (middle & kLow);
        return {(a >> 32) * (b >> 32) + (middle >> 32) + (other >> 32), other << 32 | (lowest & kLow)};
    }
}

// (10 * tens + ones) * 10^exponent, if `certain`.
struct Candidate {
    std::uint64_t tens;
    std::uint64_t ones;  // 0 to 9
    int exponent;
    bool certain;
};

// For a normal magnitude that is not a power of two; meaningless for others. Branch-free: the branches
// would be mispredicted, and loops over it can be vectorized.
template <class Format, bool kHalves>
GPUX_INLINE Candidate shortest(int exponent, typename Format::Bits mantissa) {
    const std::uint64_t c = static_cast<std::uint64_t>(mantissa | Format::kHidden);
    const int q = exponent + Format::kQOffset;
    const Scale& scale = kScales[static_cast<unsigned>(q - kMinQ)];

    // x in 64.64 fixed point, never above the exact value, and below it by less than 2^-63 (float64:
    // 2^57 * 2^-128 by the truncated scale, 2^-64 by the dropped low bits of the product), or by less
    // than 2^-35 (the others: 2^28 * 2^-64, as only half of the scale is used). If that makes s one too
    // small, x is next to an integer, and all that follows is the same with s + 1.
    Product x;
    std::uint64_t tens;
    std::uint64_t error;  // r - h is off by less than this, in units of 2^-60
    if constexpr (Format::kMantissa > 23) {
        const std::uint64_t carried = multiply<kHalves>(c << 4, scale.low).high;
        x = multiply<kHalves>(c << 4, scale.high);
        x.low += carried;
        x.high += x.low < carried;
        error = 8;
        tens = multiply<kHalves>(x.high, 0xCCCCCCCCCCCCCCCD).high >> 3;
    } else {
        if constexpr (kHalves) {
            // c << 4 fits in the lower half.
            const std::uint64_t low = (c << 4) * (scale.high & 0xFFFFFFFF);
            const std::uint64_t high = (c << 4) * (scale.high >> 32) + (low >> 32);
            x = {high >> 32, high << 32 | (low & 0xFFFFFFFF)};
        } else {
            x = multiply<false>(c << 4, scale.high);
        }
        error = std::uint64_t{1} << 26;
        tens = (x.high & 0xFFFFFFFF) * 0xCCCCCCCD >> 35;
    }

    // In 4.60 fixed point: r = x - t, in [0, 10), and h, half of the interval, in [1/2, 5); truncation
    // takes less than one more unit from each.
    const std::uint64_t ones = x.high - 10 * tens;
    const std::uint64_t r = ones << 60 | x.low >> 4;
    const std::uint64_t h = scale.high >> 1;
    constexpr std::uint64_t kTen = std::uint64_t{10} << 60;
    constexpr std::uint64_t kHalf = std::uint64_t{1} << 63;
    // t is in the interval if r <= h, and t + 10 if 10 - h <= r; never both, as h < 5. If one of these
    // or the comparison with s + 1/2 is too close to decide, or both sides are equal, so that c or s
    // decides, the result is not certain.
    const bool is_close = (r - h + error < 2 * error) | (r - (kTen - h) + error < 2 * error) |
                          (x.low - kHalf + 16 * error < 32 * error);
    // If s + 1 is t + 10, that lies in the interval, as h >= 1/2: `ones` stays below 10.
    const std::uint64_t is_above = r > kTen - h;
    const std::uint64_t is_shorter = is_above | (r < h);
    const std::uint64_t nearest = ones + (x.low >> 63);
    return {tens + is_above, nearest & (is_shorter - 1), floor_log10_of_power_of_two(q), !is_close};
}

}  // namespace gpux
