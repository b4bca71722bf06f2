#include "number.hpp"

#include <charconv>

namespace gpux {

// Exponents saturate here: past any that matters, far below the overflow of sums.
constexpr std::int64_t kHugeExponent = std::int64_t{1} << 40;

Exponent read_exponent(const char* at) noexcept {
    ++at;
    const bool is_below = *at == '-';
    at += is_below || *at == '+' ? 1 : 0;
    const char* const first = at;
    std::int64_t written = 0;
    for (; is_digit(*at); ++at) {
        if (written < kHugeExponent) {
            written = written * 10 + (*at - '0');
        }
    }
    return {is_below ? -written : written, at, at != first};
}

Decimal read_leading_digits(Decimal decimal, std::int64_t exponent) noexcept {
    std::uint64_t digits = 0;
    std::int64_t taken = 0;
    bool in_fraction = false;
    bool whole = true;
    for (const char* at = decimal.begin; at < decimal.end; ++at) {
        if (*at == '.' || *at == '-') {
            in_fraction = *at == '.';
            continue;
        }
        if (!is_digit(*at)) {
            break;  // the exponent
        }
        if (taken < kSafeDigits) {
            digits = digits * 10 + static_cast<std::uint64_t>(*at - '0');
            taken += digits != 0 ? 1 : 0;  // leading zeros are not significant
            exponent -= in_fraction ? 1 : 0;
        } else {
            whole = whole && *at == '0';
            exponent += in_fraction ? 0 : 1;
        }
    }
    decimal.digits = digits;
    decimal.exponent = exponent;
    decimal.whole = whole;
    return decimal;
}

double to_float64(Decimal decimal) noexcept {
    double value;
    const auto [end, error] = std::from_chars(decimal.begin, decimal.end, value);
    (void)end;  // scan_number() has found the whole text to be a number
    if (error == std::errc{}) {
        return value;
    }
    // Beyond float64 at either end: the first digit's position, far from 10^0, decides.
    const double magnitude = decimal.digits != 0 && decimal.exponent > -kSafeDigits
                                 ? std::numeric_limits<double>::infinity()
                                 : 0.0;
    return decimal.negative ? -magnitude : magnitude;
}

Integer to_integer(Decimal decimal) noexcept {
    std::uint64_t digits = decimal.digits;
    std::int64_t exponent = decimal.exponent;
    if (digits == 0 && decimal.whole) {
        return {0, Outcome::stored};
    }
    if (!decimal.whole) {
        // Nonzero digits follow the first nineteen. Only with twenty in all can the number still fit
        // in 64 bits; otherwise it is too large or has a fraction.
        const char* last = decimal.begin;
        std::int64_t significant = 0;
        std::int64_t to_last = 0;  // significant digits up to the last nonzero one
        for (const char* at = decimal.begin; at < decimal.end && *at != 'e' && *at != 'E'; ++at) {
            if (is_digit(*at)) {
                significant += significant > 0 || *at != '0' ? 1 : 0;
                if (*at != '0') {
                    last = at;
                    to_last = significant;
                }
            }
        }
        // The exponent of the last nonzero digit: decimal.exponent is that of the nineteenth.
        const std::int64_t last_exponent = exponent - (to_last - kSafeDigits);
        if (last_exponent < 0) {
            return {0, Outcome::not_an_integer};
        }
        if (to_last + last_exponent > kSafeDigits + 1) {
            return {0, Outcome::out_of_range};
        }
        const std::uint64_t digit = static_cast<std::uint64_t>(*last - '0');
        if (digits > (std::numeric_limits<std::uint64_t>::max() - digit) / 10) {
            return {0, Outcome::out_of_range};
        }
        return {digits * 10 + digit, Outcome::stored};
    }
    while (exponent < 0 && digits % 10 == 0) {
        digits /= 10;
        ++exponent;
    }
    if (exponent < 0) {
        return {0, Outcome::not_an_integer};
    }
    for (; exponent > 0; --exponent) {
        if (digits > std::numeric_limits<std::uint64_t>::max() / 10) {
            return {0, Outcome::out_of_range};
        }
        digits *= 10;
    }
    return {digits, Outcome::stored};
}

}  // namespace gpux
