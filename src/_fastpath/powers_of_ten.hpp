// Powers of ten as 128-bit fractions, computed at compile time by exact integer arithmetic.
#pragma once

#include <array>
#include <cstdint>

namespace gpux {

__extension__ typedef unsigned __int128 uint128;

// floor(10^power * 2^-exponent) with exponent = floor(log2(10^power)) - 127, so that it lies in
// [2^127, 2^128).
struct PowerOfTen {
    std::uint64_t high;
    std::uint64_t low;
};

constexpr int kMinPower = -292;
constexpr int kMaxPower = 324;

namespace powers_of_ten {

// A natural number of up to 896 bits, the lowest 32 first. 5^324 has 753 bits.
struct Natural {
    static constexpr int kLimbs = 28;
    std::uint32_t limbs[kLimbs] = {};

    constexpr void multiply_by_5() {
        std::uint64_t carry = 0;
        for (int i = 0; i < kLimbs; ++i) {
            const std::uint64_t product = std::uint64_t{limbs[i]} * 5 + carry;
            limbs[i] = static_cast<std::uint32_t>(product);
            carry = product >> 32;
        }
    }

    constexpr void divide_by_5() {
        std::uint64_t rest = 0;
        for (int i = kLimbs - 1; i >= 0; --i) {
            const std::uint64_t dividend = rest << 32 | limbs[i];
            limbs[i] = static_cast<std::uint32_t>(dividend / 5);
            rest = dividend % 5;
        }
    }

    constexpr bool bit(int index) const { return index >= 0 && (limbs[index / 32] >> index % 32 & 1) != 0; }

    // The highest 128 bits, from the highest set one.
    constexpr PowerOfTen top() const {
        int highest = 32 * kLimbs - 1;
        while (!bit(highest)) {
            --highest;
        }
        PowerOfTen power{0, 0};
        for (int i = 0; i < 64; ++i) {
            power.high = power.high << 1 | bit(highest - i);
            power.low = power.low << 1 | bit(highest - 64 - i);
        }
        return power;
    }
};

// 10^n and 5^n have the same significant bits: for n >= 0 those of the integer 5^n; for n < 0 those of
// floor(2^895 / 5^-n), computed by repeated division, as floor(floor(x / 5) / 5) = floor(x / 25). The
// smallest of them still has 895 - 678 bits, so its highest 128 are those of the exact quotient.
constexpr std::array<PowerOfTen, kMaxPower - kMinPower + 1> make() {
    std::array<PowerOfTen, kMaxPower - kMinPower + 1> powers{};
    Natural natural;
    natural.limbs[0] = 1;
    for (int n = 0; n <= kMaxPower; ++n) {
        powers[static_cast<unsigned>(n - kMinPower)] = natural.top();
        natural.multiply_by_5();
    }
    natural = Natural{};
    natural.limbs[Natural::kLimbs - 1] = 0x80000000;
    for (int n = -1; n >= kMinPower; --n) {
        natural.divide_by_5();
        powers[static_cast<unsigned>(n - kMinPower)] = natural.top();
    }
    return powers;
}

inline constexpr auto table = make();

}  // namespace powers_of_ten

constexpr const PowerOfTen& power_of_ten(int power) {
    return powers_of_ten::table[static_cast<unsigned>(power - kMinPower)];
}

// floor(log2(10^power)), floor(log10(2^power)) and floor(log10(3/4 * 2^power)) for all powers that
// a float64 needs, by log2(10), log10(2) and log10(4/3) in fixed point; tests/core/test_distances.py
// recomputes them. Right shifts of negative numbers round down, as C++20 requires and the supported
// compilers do.
constexpr int floor_log2_of_power_of_ten(int power) { return (power * 1741647) >> 19; }
constexpr int floor_log10_of_power_of_two(int power) { return (power * 1262611) >> 22; }
constexpr int floor_log10_of_three_quarters(int power) { return (power * 1262611 - 524031) >> 22; }

}  // namespace gpux
