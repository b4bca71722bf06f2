// The powers of ten as 128-bit fractions, made at compile time by exact integer arithmetic.
#pragma once

#include <array>
#include <cstdint>

namespace gpux {

__extension__ typedef unsigned __int128 uint128;

// floor(10^power * 2^-exponent), where the exponent is the one for which this lies in
// [2^127, 2^128): that is, exponent = floor(log2(10^power)) - 127.
struct PowerOfTen {
    std::uint64_t high;
    std::uint64_t low;
};

constexpr int kLeastPower = -292;
constexpr int kMostPower = 324;

namespace powers_of_ten {

// A natural number of up to 896 bits, its lowest 32 first. 5^324 has 753 bits.
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

    constexpr bool bit(int place) const {
        return place >= 0 && (limbs[place / 32] >> place % 32 & 1) != 0;
    }

    // The highest 128 bits, from the first one that is set.
    constexpr PowerOfTen top() const {
        int place = 32 * kLimbs - 1;
        while (!bit(place)) {
            --place;
        }
        PowerOfTen power{0, 0};
        for (int i = 0; i < 64; ++i) {
            power.high = power.high << 1 | bit(place - i);
            power.low = power.low << 1 | bit(place - 64 - i);
        }
        return power;
    }
};

// 10^n and 5^n have the same significant bits. For n >= 0 these are those of the integer 5^n; for
// n < 0 those of floor(2^895 / 5^-n), which is found by dividing again and again, because
// floor(floor(x / 5) / 5) = floor(x / 25). The smallest of them still has 895 - 678 bits, so that
// its highest 128 are those of the quotient itself.
constexpr std::array<PowerOfTen, kMostPower - kLeastPower + 1> make() {
    std::array<PowerOfTen, kMostPower - kLeastPower + 1> powers{};
    Natural natural;
    natural.limbs[0] = 1;
    for (int n = 0; n <= kMostPower; ++n) {
        powers[static_cast<unsigned>(n - kLeastPower)] = natural.top();
        natural.multiply_by_5();
    }
    natural = Natural{};
    natural.limbs[Natural::kLimbs - 1] = 0x80000000;
    for (int n = -1; n >= kLeastPower; --n) {
        natural.divide_by_5();
        powers[static_cast<unsigned>(n - kLeastPower)] = natural.top();
    }
    return powers;
}

inline constexpr auto table = make();

}  // namespace powers_of_ten

constexpr const PowerOfTen& power_of_ten(int power) {
    return powers_of_ten::table[static_cast<unsigned>(power - kLeastPower)];
}

// floor(log2(10^power)), floor(log10(2^power)) and floor(log10(3/4 * 2^power)) for all powers that
// a float64 needs, by log2(10), log10(2) and log10(4/3) in fixed point;
// tests/core/test_distances.py recomputes them. Right shifts of negative numbers round down with
// the compilers that this is built by (as C++20 demands).
constexpr int floor_log2_of_power_of_ten(int power) { return (power * 1741647) >> 19; }
constexpr int floor_log10_of_power_of_two(int power) { return (power * 1262611) >> 22; }
constexpr int floor_log10_of_three_quarters(int power) { return (power * 1262611 - 524031) >> 22; }

}  // namespace gpux
