// Numbers: where their text ends or is invalid, and their value in each type.
//
// Floats are compared with known bits, and with strtod() and a second rounding by arithmetic; integers
// with 128-bit ones.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "checks.hpp"
#include "number.hpp"

namespace gpux::tests {
namespace {

__extension__ using Wide = __int128;

std::string zeros(std::size_t size) { return std::string(size, '0'); }

// The text.

// scan_number() on a text.
struct Scanned {
    explicit Scanned(const std::string& text)
        : body(text), is_number(scan_number(body.begin(), body.end(), &decimal, &stop)) {}

    bool is_whole_text() const { return is_number && decimal.end == body.end(); }

    const Text body;
    Decimal decimal{};
    const char* stop = nullptr;
    bool is_number;
};

// scan_plain_number() on a text, between bytes that it may read.
struct PlainScanned {
    explicit PlainScanned(const std::string& text)
        : body(std::string(kLookback, '[') + text + ",[["),
          begin(body.begin() + kLookback),
          end(begin + text.size()),
          is_taken(scan_plain_number(begin, end, &decimal)) {}

    const Text body;
    const char* begin;
    const char* end;
    Decimal decimal{};
    bool is_taken;
};

// The mark is at the number's end, or at the byte that makes it none.
void check_scans(bool are_numbers, std::initializer_list<std::string> marked_texts) {
    for (const std::string& marked_text : marked_texts) {
        const auto [at, text] = Marked(marked_text);
        const Scanned scanned(text);
        check(scanned.is_number == are_numbers, "a number: " + quoted(text));
        if (scanned.is_number == are_numbers) {
            const char* const found = are_numbers ? scanned.decimal.end : scanned.stop;
            check(found == scanned.body.begin() + at, "the end of the number " + quoted(text));
        }
    }
}

void test_scan() {
    check_scans(true, {"0^", "-0^", "7^", "-7^", "10^", "0.5^", "-0.5^", "1e5^", "1E5^", "1e+5^", "1e-5^",
                       "1.25e007^", "0e0^"});
    // The caller checks the text that follows.
    check_scans(
        true, {"0^0", "0^1", "-0^1", "0^x", "1^,2", "1^]", "1^ 2", "1.5^.5", "1e5^.5", "1e5^e5", "12345678^",
               "123456789^", "1234567^a", "12345678.12345678^", "1234567890123456789012345^"});
    check_scans(false, {"-^", "-^-1", "-^a", "-^.5", "1.^", "1.^e5", "-1.^", "1.^x", "1e^", "1e+^", "1e-^",
                        "1e^x", "1e+^-5", "0.5e^", "12345678.^", "123456789e^"});
    check_scans(true, {zeros(1) + "^", "1" + zeros(800) + "^", "0." + zeros(800) + "e" + zeros(800) + "^"});
    check_scans(false, {"1." + zeros(800) + "e^"});
}

std::string random_digits(std::mt19937_64& random, std::size_t size) {
    std::string text;
    while (text.size() < size) {
        text += static_cast<char>('0' + random() % 10);
    }
    return text;
}

// scan_plain_number() against scan_number(): it may decline a text unless `must`, but what it accepts must
// be the same number.
void check_plain(const std::string& text, bool must) {
    const PlainScanned scanned(text);
    check(scanned.is_taken || !must, "plain: " + text);
    if (!scanned.is_taken) {
        return;
    }
    const Decimal& plain = scanned.decimal;
    Decimal decimal{};
    const char* stop = nullptr;
    const bool is_number = scan_number(scanned.begin, scanned.body.end(), &decimal, &stop);
    check(is_number && decimal.end == scanned.end, "no number: " + text);
    check(plain.begin == scanned.begin && plain.end == scanned.end && plain.whole && decimal.whole &&
              plain.digits == decimal.digits && plain.exponent == decimal.exponent &&
              plain.negative == decimal.negative,
          "the same number: " + text);
}

void test_plain() {
    // All short texts.
    constexpr char kAlphabet[] = {'0', '1', '9', '-', '.', 'e', '/', ':'};
    for (std::size_t size = 1; size <= 5; ++size) {
        std::string text(size, ' ');
        for (std::size_t number = 0; number < std::size_t{1} << (3 * size); ++number) {
            for (std::size_t i = 0; i < size; ++i) {
                text[i] = kAlphabet[number >> (3 * i) & 7];
            }
            check_plain(text, false);
        }
    }
    std::mt19937_64 random(1);
    for (int round = 0; round < 50; ++round) {
        for (std::size_t size = 1; size <= 20; ++size) {
            for (const std::string sign : {"", "-"}) {
                std::string integer = random_digits(random, size);
                integer[0] = static_cast<char>('1' + random() % 9);
                check_plain(sign + integer, size <= 16);
                const std::string fraction = sign + random_digits(random, 1) + "." +
                                             random_digits(random, size);
                check_plain(fraction, size <= 18);
                // Any other byte at any index.
                for (std::string text : {sign + integer, fraction}) {
                    const std::size_t index = random() % text.size();
                    text[index] = static_cast<char>(random());
                    check_plain(text, false);
                }
            }
        }
    }
}

void test_digits() {
    // Each byte at each of eight positions.
    for (unsigned byte = 0; byte < 256; ++byte) {
        for (std::size_t index = 0; index < 8; ++index) {
            std::string text = "90817263";
            text[index] = static_cast<char>(byte);
            const std::uint64_t values = load_8_digits(text.data());
            const bool is_one = byte >= '0' && byte <= '9';
            check(are_digits(values) == is_one, "eight digits with " + std::to_string(byte));
            if (is_one) {
                check(number_of_8_digits(values) == std::stoull(text), "eight digits: " + text);
            }
        }
    }
    std::mt19937_64 random(2);
    for (int round = 0; round < 200; ++round) {
        for (std::ptrdiff_t kept = 0; kept <= 16; ++kept) {
            std::string bytes(16, ' ');
            std::uint64_t wanted = 0;
            for (std::ptrdiff_t i = 0; i < 16; ++i) {
                const bool is_kept = i >= 16 - kept;
                const char digit = static_cast<char>('0' + (round == 0 ? 9 : random() % 10));
                bytes[static_cast<std::size_t>(i)] = is_kept ? digit : static_cast<char>(random());
                wanted = is_kept ? wanted * 10 + static_cast<std::uint64_t>(digit - '0') : 0;
            }
            std::uint64_t found = 0;
            bool taken = read_last_digits(bytes.data(), kept, &found);
            check(taken && found == wanted, "the last digits of " + bytes);
            if (kept > 0) {
                const std::size_t index = static_cast<std::size_t>(
                    16 - kept + static_cast<std::ptrdiff_t>(random() % static_cast<unsigned>(kept)));
                bytes[index] = static_cast<char>(random());
                taken = read_last_digits(bytes.data(), kept, &found);
                check(taken == is_digit(bytes[index]), "the last digits of " + bytes);
            }
        }
        std::string block(64, ' ');
        std::uint64_t wanted = 0;
        for (std::size_t i = 0; i < 64; ++i) {
            block[i] = random() % 2 == 0 ? ",]"[random() % 2] : static_cast<char>(random());
            wanted |= static_cast<std::uint64_t>(block[i] == ',' || block[i] == ']') << i;
        }
        check(find_ends(block.data()) == wanted, "ends in " + block);
    }
}

// Floats.

using gpux::tests::bits_of_element;
std::uint64_t bits_of_element(double element) { return bits_of(element); }
std::uint64_t bits_of_element(Half element) { return element.bits; }
std::uint64_t bits_of_element(BFloat element) { return element.bits; }

constexpr std::uint64_t kRejected = ~std::uint64_t{0};

// The bits of a text's value; kRejected if it is out of range.
template <class Element>
std::uint64_t read(const std::string& text) {
    const Scanned scanned(text);
    if (!scanned.is_whole_text()) {
        check(false, "a number: " + quoted(text));
        return 0;
    }
    Element element;
    const Outcome outcome = convert(scanned.decimal, element);
    check(outcome != Outcome::not_an_integer, "a float: " + quoted(text));
    const std::uint64_t bits = outcome == Outcome::stored ? bits_of_element(element) : kRejected;
    // The same by scan_plain_number(), unless it declines.
    const PlainScanned plain(text);
    if (plain.is_taken) {
        Element other;
        const bool stored = convert(plain.decimal, other) == Outcome::stored;
        check((stored ? bits_of_element(other) : kRejected) == bits, "as a plain number: " + text);
    }
    if constexpr (std::is_same_v<Element, float>) {
        check_among_others(text, bits);
    }
    return bits;
}

// A float64 rounded to `significant` bits, none below 2^min_ulp.
double rounded(double value, int significant, int min_ulp) {
    int exponent = 0;
    std::frexp(value, &exponent);
    const int ulp = std::max(exponent - significant, min_ulp);
    return std::ldexp(std::nearbyint(std::ldexp(value, -ulp)), ulp);
}

template <class Element>
void check_16_bit_float(const std::string& type, const std::string& text, double value, double max) {
    const std::uint64_t bits = read<Element>(text);
    if (std::fabs(value) > max) {
        check(bits == kRejected, type + ", out of range: " + quoted(text));
    } else {
        const double found = to_double(Element{static_cast<std::uint16_t>(bits)});
        check(bits_of(found) == bits_of(value), type + ": " + quoted(text));
    }
}

// Against strtod(), which rounds correctly, and a second rounding.
void check_floats(const std::string& text) {
    const double value = std::strtod(text.c_str(), nullptr);
    const bool is_finite = std::isfinite(value);
    check(read<double>(text) == (is_finite ? bits_of(value) : kRejected), "float64: " + quoted(text));

    const float single = static_cast<float>(value);
    check(read<float>(text) == (std::isfinite(single) ? bits_of_element(single) : kRejected),
          "float32: " + quoted(text));

    check_16_bit_float<Half>("float16", text, is_finite ? rounded(value, 11, -24) : value, 65504.0);
    check_16_bit_float<BFloat>("bfloat16", text, is_finite ? rounded(value, 8, -133) : value, 0x1.FEp127);
}

struct FloatCase {
    std::string text;
    std::uint64_t bits;
};

template <class Element>
void check_bits(const char* type, std::initializer_list<FloatCase> cases) {
    for (const FloatCase& one : cases) {
        check(read<Element>(one.text) == one.bits, type + (": " + quoted(one.text)));
        check_floats(one.text);
    }
}

void test_floats() {
    // clang-format off
    check_bits<double>("float64", {
        {"0", 0}, {"-0", 1ull << 63}, {"-0.0e5", 1ull << 63}, {"1", 0x3FF0000000000000},
        {"0.1", 0x3FB999999999999A}, {"0.30000000000000004", 0x3FD3333333333334},
        // Ties, which round to even, and near ties that the 780th digit decides.
        {"9007199254740993", 0x4340000000000000}, {"9007199254740995", 0x4340000000000002},
        {"9007199254740993." + zeros(780), 0x4340000000000000},
        {"9007199254740993." + zeros(780) + "1", 0x4340000000000001},
        {"9007199254740992." + std::string(780, '9'), 0x4340000000000000},
        // The smallest: half of it, 2^-1075, is 2.47032822920623272...e-324.
        {"4.9406564584124654e-324", 1}, {"2.4703282292062328e-324", 1}, {"2.4703282292062327e-324", 0},
        {"-2.4703282292062327e-324", 1ull << 63}, {"2.2250738585072011e-308", 0x000FFFFFFFFFFFFF},
        {"2.2250738585072014e-308", 0x0010000000000000},
        // The largest: the midpoint above it is 1.797693134862315807...e308.
        {"1.7976931348623157e308", 0x7FEFFFFFFFFFFFFF}, {"1.7976931348623158e308", 0x7FEFFFFFFFFFFFFF},
        {"1.7976931348623159e308", kRejected}, {"-1.7976931348623159e308", kRejected},
        {"1e309", kRejected}, {"1e-400", 0}, {"-1e-400", 1ull << 63},
        // Exponents that cancel the digits, or overflow an integer.
        {"1" + zeros(400) + "e-400", 0x3FF0000000000000},
        {"1" + zeros(100'000) + "e-100000", 0x3FF0000000000000},
        {"0." + zeros(400) + "1e401", 0x3FF0000000000000},
        {"0." + zeros(100'000) + "1e100001", 0x3FF0000000000000},
        {zeros(1) + "." + zeros(800) + "e800", 0}, {"1e99999999999999999999999999", kRejected},
        {"1e-99999999999999999999999999", 0}, {"0e99999999999999999999999999", 0},
        {"0e-9999999999999999999999999", 0}, {"1e" + zeros(800) + "1", 0x4024000000000000},
        {"0." + std::string(800, '3'), 0x3FD5555555555555},
    });
    check_bits<float>("float32", {
        {"-0", 0x80000000}, {"0.1", 0x3DCCCCCD}, {"16777217", 0x4B800000}, {"16777219", 0x4B800002},
        {"16777217.00000001", 0x4B800001},
        // The nearest float64 is the midpoint: the first rounding loses the rest.
        {"16777217.0000000000000001", 0x4B800000}, {"16777218.9999999999999999", 0x4B800002},
        {"1.401298464324817e-45", 1},
        {"7.006492321624085e-46", 0},  // nearest to 2^-150, the midpoint
        {"7.0064923216240863e-46", 1}, {"1.1754943508222875e-38", 0x00800000},
        {"1.1754942106924411e-38", 0x007FFFFF}, {"3.4028234663852886e38", 0x7F7FFFFF},
        {"3.4028235677973362e38", 0x7F7FFFFF}, {"3.4028235677973366e38", kRejected}, {"1e39", kRejected},
        {"-1e-60", 0x80000000},
    });
    check_bits<Half>("float16", {
        {"-0", 0x8000}, {"0.1", 0x2E66}, {"2049", 0x6800}, {"2051", 0x6802}, {"2049.0000001", 0x6801},
        {"65504", 0x7BFF}, {"65510", 0x7BFF}, {"65519.99", 0x7BFF}, {"65520", kRejected},
        {"-65520", kRejected},
        {"65519.9999999999999999", kRejected},  // its float64 is 65520
        {"5.9604644775390625e-08", 1},
        {"2.98023223876953125e-08", 0},  // 2^-25, the midpoint
        {"2.9802322387695316e-08", 1}, {"6.097555160522461e-05", 0x03FF},
        {"6.10053539276123046875e-05", 0x0400},  // the midpoint below the smallest normal one
        {"6.103515625e-05", 0x0400}, {"-1e-30", 0x8000}, {"1e-310", 0},
    });
    check_bits<BFloat>("bfloat16", {
        {"0.1", 0x3DCD}, {"257", 0x4380}, {"259", 0x4382}, {"257.0000001", 0x4381},
        {"3.3895313892515355e38", 0x7F7F}, {"3.3961775292304597e38", 0x7F7F},
        {"3.3961775292304601e38", kRejected}, {"9.183549615799121e-41", 1},
        {"4.591774807899561e-41", 0},  // nearest to 2^-134, the midpoint
        {"4.591774807899562e-41", 1}, {"-1e-310", 0x8000},
    });
    // clang-format on
    // Random ones, of all lengths and near the midpoints of float32.
    std::mt19937_64 random(3);
    for (int round = 0; round < 20'000; ++round) {
        std::string text = random() % 2 == 0 ? "-" : "";
        if (round % 4 == 0) {
            // Midpoints, every other one between subnormals.
            const std::uint32_t bits = random() % (round % 8 == 0 ? 0x7F7FFFFF : 0x007FFFFF);
            float low;
            std::memcpy(&low, &bits, sizeof low);
            const double middle = (static_cast<double>(low) +
                                   std::nextafter(low, std::numeric_limits<float>::infinity())) /
                                  2;
            char written[64];
            std::snprintf(written, sizeof written, "%.*e", static_cast<int>(random() % 26), middle);
            text += written;
        } else {
            const std::size_t size = 1 + random() % (round % 100 == 1 ? 800 : 22);
            text += random_digits(random, 1) + ".";
            text += random_digits(random, size);
            if (round % 4 == 1) {
                text += "e" + std::to_string(static_cast<int>(random() % 700) - 350);
            } else if (round % 4 == 2) {
                text += "e" + std::to_string(static_cast<int>(random() % 90) - 45);
            }
        }
        check_floats(text);
    }
}

// Each 16-bit value, and the midpoints around it.
template <class Element>
void test_16_bits(int significant, int min_ulp, unsigned infinity, Element (*convert_to)(double)) {
    for (unsigned bits = 0; bits < infinity; ++bits) {
        const double value = to_double(Element{static_cast<std::uint16_t>(bits)});
        check(convert_to(value).bits == bits, "back and forth: " + std::to_string(bits));
        check(convert_to(-value).bits == (bits | 0x8000), "below zero: " + std::to_string(bits));
        const double next = to_double(Element{static_cast<std::uint16_t>(bits + 1)});
        if (bits + 1 < infinity) {
            const double middle = (value + next) / 2;
            check(convert_to(middle).bits == bits + (bits & 1), "a tie: " + std::to_string(bits));
            check(to_double(convert_to(middle)) == rounded(middle, significant, min_ulp), "a tie");
            check(convert_to(std::nextafter(middle, 0.0)).bits == bits &&
                      convert_to(std::nextafter(middle, next)).bits == bits + 1,
                  "beside a tie: " + std::to_string(bits));
        }
    }
}

// Integers.

std::string text_of(Wide magnitude) {
    std::string digits;
    do {
        digits.insert(digits.begin(), static_cast<char>('0' + static_cast<int>(magnitude % 10)));
        magnitude /= 10;
    } while (magnitude > 0);
    return digits;
}

template <class Element>
void check_integer(const std::string& text, Outcome wanted, Wide number) {
    const Scanned scanned(text);
    check(scanned.is_whole_text(), "a number: " + quoted(text));
    Element element{};
    const Outcome outcome = convert(scanned.decimal, element);
    const std::string what = quoted(text) + (std::is_signed_v<Element> ? " as int" : " as uint") +
                             std::to_string(8 * sizeof(Element));
    check(outcome == wanted, what);
    if (outcome == Outcome::stored) {
        check(static_cast<Wide>(element) == number, "the value of " + what);
    }
}

template <class Element>
void test_integers_as() {
    std::vector<Wide> numbers{0, 1, 5, 9, 10, 99, 100, 101, 127, 128, 129, 255, 256};
    Wide power = 1000;
    for (int digits = 4; digits <= 38; ++digits, power *= 10) {
        numbers.insert(numbers.end(), {power - 1, power, power + 1});
    }
    for (int bits = 15; bits <= 65; ++bits) {
        for (int near = -2; near <= 2; ++near) {
            numbers.push_back((Wide{1} << bits) + near);
        }
    }
    for (const Wide magnitude : numbers) {
        for (const Wide number : {magnitude, -magnitude}) {
            const std::string digits = text_of(magnitude);
            const std::string sign = number < 0 ? "-" : "";
            const bool fits = number >= static_cast<Wide>(std::numeric_limits<Element>::min()) &&
                              number <= static_cast<Wide>(std::numeric_limits<Element>::max());
            const Outcome outcome = fits ? Outcome::stored : Outcome::out_of_range;
            const std::string size = std::to_string(digits.size());
            std::vector<std::string> same{
                digits,
                digits + ".0",
                digits + "e0",
                digits + "E+00",
                digits + ".000e-0",
                digits + "." + zeros(800),
                "0." + digits + "e" + size,
                "0." + zeros(30) + digits + "E+" + std::to_string(30 + digits.size()),
            };
            std::vector<std::string> fractions{
                digits + ".5",
                digits + "." + zeros(25) + "1",
                digits + "." + zeros(800) + "1",
                digits + ".1e-400",
            };
            if (magnitude != 0) {  // a number cannot start with two zeros
                same.push_back(digits + "0e-1");
                same.push_back(digits + zeros(19) + "e-19");
                same.push_back(digits + zeros(800) + "e-800");
                fractions.push_back(digits + "1e-1");
                fractions.push_back(digits + "1" + zeros(30) + "e-31");
                fractions.push_back(digits + "1e-99999999999999999999");
            }
            if (magnitude != 0 && digits.back() == '0') {
                same.push_back(digits.substr(0, digits.size() - 1) + "e1");
            }
            for (const std::string& text : same) {
                check_integer<Element>(sign + text, outcome, number);
                // Zero also has a sign.
                check_integer<Element>((number == 0 ? "-" : sign) + text, outcome, number);
            }
            for (const std::string& text : fractions) {
                check_integer<Element>(sign + text, Outcome::not_an_integer, 0);
            }
        }
    }
    for (const char* text : {"1e400", "-1e400", "1e99999999999999999999999", "123456789e15", "0.0001e40",
                             "99999999999999999999999999999999999999999"}) {
        check_integer<Element>(text, Outcome::out_of_range, 0);
    }
    for (const char* text : {"0", "-0", "0.0", "-0e400", "0e99999999999999999999999", "0.000e-7"}) {
        check_integer<Element>(text, Outcome::stored, 0);
    }
}

void test_integers() {
    for_each_integer_type([](Type, auto element) { test_integers_as<decltype(element)>(); });
    constexpr Wide kMax64 = std::numeric_limits<std::int64_t>::max();
    check_integer<std::int64_t>("9223372036854775807.0", Outcome::stored, kMax64);
    check_integer<std::int64_t>("92233720368547758070e-1", Outcome::stored, kMax64);
    check_integer<std::int64_t>("-9223372036854775808", Outcome::stored, -kMax64 - 1);
    check_integer<std::int64_t>("9223372036854775808", Outcome::out_of_range, 0);
    check_integer<std::int64_t>("9223372036854775807.5", Outcome::not_an_integer, 0);
    check_integer<std::int64_t>("7" + zeros(100'000) + "e-100000", Outcome::stored, 7);
    check_integer<std::int64_t>("0." + zeros(100'000) + "7e100001", Outcome::stored, 7);
    check_integer<std::int16_t>("1e3", Outcome::stored, 1000);
    check_integer<std::int8_t>("1e3", Outcome::out_of_range, 0);
    check_integer<std::int32_t>("1.0000000000000000000001", Outcome::not_an_integer, 0);
}

void check_booleans(Outcome wanted, unsigned value, std::initializer_list<std::string> texts) {
    for (const std::string& text : texts) {
        const Scanned scanned(text);
        check(scanned.is_number, text);
        Boolean element{7};
        const std::string what = text + " as a boolean";
        check(convert(scanned.decimal, element) == wanted, what);
        check(wanted != Outcome::stored || element.value == value, "the value of " + what);
    }
}

void test_booleans() {
    check_booleans(Outcome::stored, 0, {"0", "-0", "0.0", "0e5"});
    check_booleans(Outcome::stored, 1, {"1", "1.0", "10e-1", "0.1e1"});
    check_booleans(Outcome::out_of_range, 0,
                   {"-1", "2", "0.5", "1.0000000000000000000000001", "1e400", "256", "18446744073709551617"});
}

}  // namespace

void test_numbers() {
    test_scan();
    test_plain();
    test_digits();
    test_floats();
    test_16_bits<Half>(11, -24, 0x7C00, to_half);
    test_16_bits<BFloat>(8, -133, 0x7F80, to_bfloat);
    test_integers();
    test_booleans();
}

}  // namespace gpux::tests
