#include "writer.hpp"

#include <algorithm>
#include <array>
#include <type_traits>

#include "shortest.hpp"

#define GPUX_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

// Text is stored in words, the first character in the lowest byte.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

namespace gpux {

namespace {

// The longest texts: "-1.7976931348623157e+308" (24) for float64, "-1234567890123456.0" (19) for the
// narrower floats, which have fewer digits but the same fixed notation up to 10^16.
constexpr std::size_t kMaxFloat64 = 25;
constexpr std::size_t kMaxFloat = 20;
constexpr std::size_t kMaxInteger = 20;
constexpr std::size_t kMaxBoolean = 5;
// Texts are stored in whole words, whose excess the next element or bracket overwrites: up to this many
// bytes after the end of a tensor may be written. The farthest: a sign, "0.000" and 17 digits of which
// only one counts.
constexpr std::size_t kSlack = 32;

std::size_t max_bytes_of_element(Type type) {
    switch (type) {
        case Type::float64: return kMaxFloat64;
        case Type::float32:
        case Type::float16:
        case Type::bfloat16: return kMaxFloat;
        case Type::boolean: return kMaxBoolean;
        default: return kMaxInteger;
    }
}

char* append(char* out, const char* text, std::size_t size) {
    std::memcpy(out, text, size);
    return out + size;
}

// One element of a tensor, whose memory need not be aligned.
template <class Element>
GPUX_INLINE Element load(const unsigned char* data, int index) {
    Element element;
    std::memcpy(&element, data + static_cast<std::size_t>(index) * sizeof element, sizeof element);
    return element;
}

GPUX_INLINE void store_8(char* out, std::uint64_t bytes) { std::memcpy(out, &bytes, sizeof bytes); }

// Digits.

constexpr std::uint64_t kZeros = 0x3030303030303030;

// The eight digits of a number below 10^8, a byte each, the first in the lowest. Each step splits all
// lanes into quotient and remainder by one multiplication. The reciprocals are exact for the values of
// a lane: 109951163 / 2^40 below 10^8, 10486 / 2^20 below 10^4, 103 / 2^10 below 100.
GPUX_INLINE std::uint64_t eight_digits(std::uint64_t number) {
    const std::uint64_t high = number * 109951163 >> 40;
    const std::uint64_t fours = (number << 32) - high * ((std::uint64_t{10000} << 32) - 1);
    const std::uint64_t hundreds = fours * 10486 >> 20 & 0x0000007F0000007F;
    const std::uint64_t twos = (fours << 16) - hundreds * ((100 << 16) - 1);
    const std::uint64_t quotients = twos * 103 >> 10 & 0x000F000F000F000F;
    return (twos << 8) - quotients * ((10 << 8) - 1);
}

// The same for many numbers. Vector instructions (kHalves) multiply 32 bits better than 64. (5243 / 2^19
// is exact below 10^4.)
template <bool kHalves, int kCount>
GPUX_INLINE void eight_digits(const std::uint64_t* numbers, std::uint64_t* digits) {
    if constexpr (!kHalves) {
        for (int i = 0; i < kCount; ++i) {
            digits[i] = eight_digits(numbers[i]);
        }
        return;
    }
    std::uint32_t lanes[2 * kCount];
    for (int i = 0; i < kCount; ++i) {
        const std::uint64_t high = (numbers[i] & 0xFFFFFFFF) * 109951163 >> 40;
        const std::uint64_t fours = high | (numbers[i] - (high & 0xFFFFFFFF) * 10000) << 32;
        std::memcpy(lanes + 2 * i, &fours, sizeof fours);
    }
    for (int i = 0; i < 2 * kCount; ++i) {
        const std::uint32_t hundreds = lanes[i] * 5243 >> 19;
        const std::uint32_t twos = (lanes[i] << 16) - hundreds * ((100 << 16) - 1);
        const std::uint32_t quotients = twos * 103 >> 10 & 0x000F000F;
        lanes[i] = (twos << 8) - quotients * ((10 << 8) - 1);
    }
    std::memcpy(digits, lanes, sizeof lanes);
}

// 1 to 8: the digits up to the last nonzero one of eight.
GPUX_INLINE std::uint32_t digits_until_zeros(std::uint64_t digits) {
    return static_cast<std::uint32_t>(71 - __builtin_clzll(digits | 1)) >> 3;
}

constexpr std::uint64_t power_of_10(int power) {
    std::uint64_t value = 1;
    for (; power > 0; --power) {
        value *= 10;
    }
    return value;
}

// Floats.

constexpr int kDecimals = 32;

constexpr std::int32_t kNull = 1 << 20;  // the exponent that marks a non-finite value

// A block of floats as decimals: their digits as text, from the first nonzero one, padded with zeros.
template <class Format>
struct Decimals {
    static constexpr int kSize = kDecimals;
    static constexpr bool kWide = Format::kMantissa > 23;  // 17 digits instead of 9
    // The tens are scaled to 15 or 16 digits, or to 6 to 8: those of a 16-bit float by this many zeros.
    static constexpr int kScale = kWide ? 0 : 7 - Format::kMinDigits;

    // Zero counts as the fewest digits that the tens may have, the first of them that of 10^0.
    static constexpr std::int32_t kZeroExponent = kWide ? -15 : kScale - 6;

    std::uint64_t first[kDecimals];
    std::uint64_t second[kWide ? kDecimals : 1];
    std::uint32_t last[kDecimals];
    std::uint32_t count[kDecimals];    // of digits, without trailing zeros
    std::int32_t exponent[kDecimals];  // the power of ten of the first digit
    std::uint32_t negative[kDecimals];
};

// Zeros, powers of two, subnormals, infinities, NaN, and values where shortest() is not certain.
template <class Format>
__attribute__((noinline)) ShortDecimal special_decimal(typename Format::Bits magnitude) {
    const int exponent = static_cast<int>(magnitude >> Format::kMantissa);
    if (exponent == Format::kMaxExponent) {
        return {0, kNull};
    }
    if (magnitude == 0) {
        return {0, Decimals<Format>::kZeroExponent};
    }
    ShortDecimal found = shortest_exactly<Format>(exponent, magnitude & (Format::kHidden - 1));
    while (found.digits < power_of_10(Format::kMinDigits - 1)) {
        found.digits *= 10;
        --found.exponent;
    }
    return found;
}

// Converts a block. One branch-free loop per step: the compiler vectorizes them if the processor has the
// instructions (kHalves); otherwise the processor overlaps the numbers.
template <bool kHalves, class Bits, class Format>
GPUX_INLINE void fill_floats(Decimals<Format>& __restrict block, const unsigned char* __restrict data) {
    constexpr bool kWide = Decimals<Format>::kWide;
    constexpr int kScale = Decimals<Format>::kScale;
    std::uint64_t tens[kDecimals];
    std::uint64_t ones[kDecimals];
    std::uint64_t special[kDecimals];
    std::uint64_t any_special = 0;
    for (int i = 0; i < kDecimals; ++i) {
        const Bits bits = load<Bits>(data, i);
        const Bits magnitude = bits & Format::kMagnitude;
        const int exponent = static_cast<int>(magnitude >> Format::kMantissa);
        const Bits mantissa = magnitude & (Format::kHidden - 1);
        const Candidate found = shortest<Format, kHalves>(exponent, mantissa);
        tens[i] = found.tens;
        ones[i] = found.ones;
        block.exponent[i] = found.exponent;
        block.negative[i] = static_cast<std::uint32_t>(bits >> (8 * sizeof(Bits) - 1));
        special[i] = (mantissa == 0) | (exponent == 0) | (exponent == Format::kMaxExponent) | !found.certain;
        any_special |= special[i];
    }
    if (GPUX_UNLIKELY(any_special != 0)) {
        for (int i = 0; i < kDecimals; ++i) {
            if (special[i] != 0) {
                const ShortDecimal found = special_decimal<Format>(load<Bits>(data, i) & Format::kMagnitude);
                tens[i] = found.digits / 10;
                ones[i] = found.digits % 10;
                block.exponent[i] = found.exponent;
                block.negative[i] &= found.exponent != kNull;
            }
        }
    }
    if constexpr (kWide) {
        // The tens have 15 or 16 digits: 7 or 8, and 8.
        std::uint64_t halves[2 * kDecimals];
        for (int i = 0; i < kDecimals; ++i) {
            // 2^90 / 10^8, rounded up by a relative error below 2^-64: exact below 2^64.
            halves[i] = multiply<kHalves>(tens[i], 0xABCC77118461CEFD).high >> 26;
            halves[kDecimals + i] = tens[i] - halves[i] * 100'000'000;
        }
        eight_digits<kHalves, 2 * kDecimals>(halves, halves);
        for (int i = 0; i < kDecimals; ++i) {
            const std::uint64_t is_shorter = tens[i] < 1'000'000'000'000'000;
            const std::uint64_t zeros = 8 * is_shorter;
            const std::uint64_t high = halves[i];
            const std::uint64_t low = halves[kDecimals + i];
            halves[i] = high >> zeros | low << 8 << (56 - zeros);
            halves[kDecimals + i] = low >> zeros | ones[i] << 8 << (56 - zeros);
            ones[i] >>= zeros;
            block.first[i] = halves[i] | kZeros;
            block.second[i] = halves[kDecimals + i] | kZeros;
            block.last[i] = static_cast<std::uint32_t>('0' + ones[i]);
            block.exponent[i] += 16 - static_cast<std::int32_t>(is_shorter);
        }
        for (int i = 0; i < kDecimals; ++i) {
            const std::uint32_t count = digits_until_zeros(halves[i]);
            const std::uint32_t more = 8 + digits_until_zeros(halves[kDecimals + i]);
            const std::uint32_t of_16 = halves[kDecimals + i] != 0 ? more : count;
            block.count[i] = ones[i] != 0 ? 17 : of_16;
        }
    } else {
        std::uint64_t digits[kDecimals];
        if constexpr (kScale > 0) {
            for (int i = 0; i < kDecimals; ++i) {
                tens[i] = tens[i] * power_of_10(kScale) + ones[i] * power_of_10(kScale - 1);
                ones[i] = 0;
            }
        }
        // The tens have 6 to 8 digits.
        eight_digits<kHalves, kDecimals>(tens, digits);
        for (int i = 0; i < kDecimals; ++i) {
            const std::uint64_t shorter_by = std::uint64_t{tens[i] < 10'000'000} +
                                             std::uint64_t{tens[i] < 1'000'000};
            const std::uint64_t zeros = 8 * shorter_by;
            digits[i] = digits[i] >> zeros | ones[i] << 8 << (56 - zeros);
            ones[i] >>= zeros;
            block.first[i] = digits[i] | kZeros;
            block.last[i] = static_cast<std::uint32_t>('0' + ones[i]);
            block.exponent[i] += 8 - kScale - static_cast<std::int32_t>(shorter_by);
        }
        for (int i = 0; i < kDecimals; ++i) {
            const std::uint32_t count = digits_until_zeros(digits[i]);
            block.count[i] = ones[i] != 0 ? 9 : count;
        }
    }
}

// The fixed notation of a decimal d0 d1 d2 … whose d0 counts 10^exponent, for the exponents of nearly
// all values: stores the digits from byte `offset` on, then overwrites the first eight bytes with the
// digits masked by `whole`, the digits shifted up by `shift` bits masked by `rest`, and `fixed`.
struct Layout {
    std::uint64_t whole;
    std::uint64_t rest;
    std::uint64_t fixed;
    std::uint8_t shift;
    std::uint8_t offset;
    std::uint8_t min_size;  // bytes: at least "0.0", "10.0"
};

constexpr int kMinLaidOut = -4;
constexpr int kMaxLaidOut = 6;

constexpr std::array<Layout, kMaxLaidOut - kMinLaidOut + 1> make_layouts() {
    std::array<Layout, kMaxLaidOut - kMinLaidOut + 1> layouts{};
    for (int exponent = kMinLaidOut; exponent <= kMaxLaidOut; ++exponent) {
        Layout& layout = layouts[exponent - kMinLaidOut];
        if (exponent < 0) {  // "0.", zeros, digits
            layout.offset = static_cast<std::uint8_t>(1 - exponent);
            layout.rest = ~std::uint64_t{0};
            for (int i = 0; i < layout.offset; ++i) {
                layout.fixed |= static_cast<std::uint64_t>(i == 1 ? '.' : '0') << 8 * i;
            }
            layout.min_size = 3;
        } else {  // digits, ".", digits
            const int dot = exponent + 1;
            layout.offset = 1;
            layout.whole = (std::uint64_t{1} << 8 * dot) - 1;
            layout.fixed = static_cast<std::uint64_t>('.') << 8 * dot;
            layout.rest = ~layout.whole & ~(std::uint64_t{0xFF} << 8 * dot);
            layout.min_size = static_cast<std::uint8_t>(dot + 2);
        }
        layout.shift = static_cast<std::uint8_t>(8 * layout.offset);
    }
    return layouts;
}

constexpr auto kLayouts = make_layouts();

// Stores the digits as text; `out` is the first one's position.
template <class Format>
GPUX_INLINE void store_digits(char* out, const Decimals<Format>& block, int i) {
    store_8(out, block.first[i]);
    if constexpr (Decimals<Format>::kWide) {
        store_8(out + 8, block.second[i]);
        out[16] = static_cast<char>(block.last[i]);
    } else {
        out[8] = static_cast<char>(block.last[i]);
    }
}

// The layouts below 10^-4 and from 10^7.
template <class Format>
__attribute__((noinline)) char* write_outside(char* out, const Decimals<Format>& block, int i) {
    const int exponent = block.exponent[i];
    const unsigned count = block.count[i];
    if (exponent == kNull - Decimals<Format>::kZeroExponent) {
        return append(out, "null,", 5);
    }
    if (exponent >= -4 && exponent < 16) {
        const unsigned whole = static_cast<unsigned>(exponent) + 1;
        char digits[24];
        std::memset(digits, '0', sizeof digits);
        store_digits(digits, block, i);
        out = append(out, digits, whole);
        *out++ = '.';
        out = append(out, digits + whole, count > whole ? count - whole : 1);
        *out++ = ',';
        return out;
    }
    store_digits(out + 1, block, i);
    out[0] = out[1];
    out[1] = '.';
    out += count == 1 ? 1 : count + 1;
    *out++ = 'e';
    *out++ = exponent < 0 ? '-' : '+';
    const int magnitude = std::abs(exponent);
    if (magnitude >= 100) {
        *out++ = static_cast<char>('0' + magnitude / 100);
    }
    *out++ = static_cast<char>('0' + magnitude / 10 % 10);
    *out++ = static_cast<char>('0' + magnitude % 10);
    *out++ = ',';
    return out;
}

// An element and a comma.
template <class Format>
GPUX_INLINE char* write_element(char* out, const Decimals<Format>& block, int i) {
    *out = '-';
    out += block.negative[i];
    const unsigned index = static_cast<unsigned>(block.exponent[i] - kMinLaidOut);
    if (GPUX_UNLIKELY(index > kMaxLaidOut - kMinLaidOut)) {
        return write_outside(out, block, i);
    }
    const Layout& layout = kLayouts[index];
    store_digits(out + layout.offset, block, i);
    const std::uint64_t first = block.first[i];
    store_8(out, (first & layout.whole) | (first << layout.shift & layout.rest) | layout.fixed);
    const unsigned size = layout.offset + block.count[i];
    out += size > layout.min_size ? size : layout.min_size;
    *out++ = ',';
    return out;
}

// The elements from `begin` to before `end`, each followed by a comma.
template <class Format>
GPUX_INLINE char* write_elements(char* out, const Decimals<Format>& block, int begin, int end) {
    for (int i = begin; i < end; ++i) {
        out = write_element(out, block, i);
    }
    return out;
}

// Integers and booleans.

constexpr int kTexts = 64;

// A block of them as texts of at most 8 bytes, comma included. If an integer is too large for that
// (any_large): the magnitudes of all in `text`, and 1 for each negative one in `size`.
struct Texts {
    static constexpr int kSize = kTexts;

    std::uint64_t text[kTexts];
    std::uint64_t size[kTexts];
    bool any_large;
};

// 1 if number >= limit, else 0, by the sign of the difference. Both must be below 2^31.
GPUX_INLINE std::uint32_t reaches(std::uint32_t number, std::uint32_t limit) {
    return 1 - ((number - limit) >> 31);
}

template <class Integer>
GPUX_INLINE void fill_integers(Texts& __restrict block, const unsigned char* __restrict data) {
    std::uint64_t magnitudes[kTexts];
    std::uint64_t negative[kTexts];
    std::uint64_t any = 0;
    for (int i = 0; i < kTexts; ++i) {
        // Two's complement: -n = ~n + 1.
        const Integer integer = load<Integer>(data, i);
        negative[i] = integer < 0;
        magnitudes[i] = (static_cast<std::uint64_t>(integer) ^ (0 - negative[i])) + negative[i];
        any |= magnitudes[i];
    }
    // A sign, six digits, a comma: 2^19 < 10^6.
    block.any_large = any >= std::uint64_t{1} << 19;
    if (block.any_large) {
        std::memcpy(block.text, magnitudes, sizeof magnitudes);
        std::memcpy(block.size, negative, sizeof negative);
        return;
    }
    std::uint32_t firsts[kTexts];  // two digits
    std::uint32_t lasts[kTexts];   // four digits
    std::uint32_t counts[kTexts];
    for (int i = 0; i < kTexts; ++i) {
        // As eight_digits(), with n / 10000 = n / 16 / 625, where 6711 / 2^22 is exact below 2^15.
        const std::uint32_t magnitude = static_cast<std::uint32_t>(magnitudes[i]);
        const std::uint32_t first = (magnitude >> 4) * 6711 >> 22;
        const std::uint32_t last = magnitude - first * 10000;
        firsts[i] = (first << 8) - (first * 103 >> 10) * ((10 << 8) - 1);
        const std::uint32_t hundreds = last * 5243 >> 19;
        const std::uint32_t twos = (last << 16) - hundreds * ((100 << 16) - 1);
        lasts[i] = (twos << 8) - (twos * 103 >> 10 & 0x000F000F) * ((10 << 8) - 1);
        counts[i] = 1 + reaches(magnitude, 10) + reaches(magnitude, 100) + reaches(magnitude, 1'000) +
                    reaches(magnitude, 10'000) + reaches(magnitude, 100'000);
    }
    for (int i = 0; i < kTexts; ++i) {
        // The six digits before a comma; leading zeros are then shifted out.
        const std::uint64_t digits = std::uint64_t{lasts[i]} << 24 | std::uint64_t{firsts[i]} << 8;
        const std::uint64_t seven = digits | kZeros >> 8 | std::uint64_t{','} << 56;
        const std::uint64_t text = seven >> (56 - 8 * std::uint64_t{counts[i]});
        block.text[i] = text << 8 * negative[i] | (std::uint64_t{'-'} & (0 - negative[i]));
        block.size[i] = counts[i] + 1 + negative[i];
    }
}

GPUX_INLINE void fill_booleans(Texts& __restrict block, const unsigned char* __restrict data) {
    constexpr std::uint64_t kTrue = 0x2C65757274;     // "true,", the first letter lowest
    constexpr std::uint64_t kFalse = 0x2C65736C6166;  // "false,"
    for (int i = 0; i < kTexts; ++i) {
        const std::uint64_t is_false = data[i] == 0;
        block.text[i] = kTrue ^ ((kTrue ^ kFalse) & (0 - is_false));
        block.size[i] = 5 + is_false;
    }
    block.any_large = false;
}

__attribute__((noinline)) char* write_large(char* out, std::uint64_t number) {
    constexpr std::uint64_t k10To8 = 100'000'000;
    std::uint64_t first = number;
    std::uint64_t rest[2];
    int parts = 0;
    while (first >= k10To8) {
        rest[parts++] = first % k10To8;
        first /= k10To8;
    }
    const std::uint64_t digits = eight_digits(first);
    const int zeros = first == 0 ? 56 : __builtin_ctzll(digits) & ~7;
    store_8(out, (digits | kZeros) >> zeros);
    out += 8 - zeros / 8;
    while (parts > 0) {
        store_8(out, eight_digits(rest[--parts]) | kZeros);
        out += 8;
    }
    *out++ = ',';
    return out;
}

// The elements from `begin` to before `end`, each followed by a comma.
GPUX_INLINE char* write_elements(char* out, const Texts& block, int begin, int end) {
    if (GPUX_UNLIKELY(block.any_large)) {
        for (int i = begin; i < end; ++i) {
            *out = '-';
            out = write_large(out + block.size[i], block.text[i]);
        }
        return out;
    }
    for (int i = begin; i < end; ++i) {
        store_8(out, block.text[i]);
        out += block.size[i];
    }
    return out;
}

// Rows.

// The elements of a tensor, dense in memory: converted block by block, written row by row.
template <class Block, class Element>
class Elements {
public:
    using Fill = void (*)(Block&, const unsigned char*);

    // `padding` is an element that fill() converts on its fast path.
    Elements(Fill fill, const void* data, std::int64_t count, Element padding)
        : fill_(fill), data_(static_cast<const unsigned char*>(data)), left_(count), padding_(padding) {}

    // The next `count` elements, each followed by a comma.
    char* write(char* out, std::int64_t count) {
        while (count > 0) {
            if (next_ == Block::kSize) {
                refill();
            }
            const int end = static_cast<int>(std::min<std::int64_t>(Block::kSize, next_ + count));
            count -= end - next_;
            out = write_elements(out, block_, next_, end);
            next_ = end;
        }
        return out;
    }

private:
    void refill() {
        next_ = 0;
        if (left_ >= Block::kSize) {
            fill_(block_, data_);
            data_ += Block::kSize * sizeof(Element);
            left_ -= Block::kSize;
            return;
        }
        Element padded[Block::kSize];
        std::fill(padded, padded + Block::kSize, padding_);
        std::memcpy(padded, data_, static_cast<std::size_t>(left_) * sizeof(Element));
        left_ = 0;
        fill_(block_, reinterpret_cast<const unsigned char*>(padded));
    }

    const Fill fill_;
    const unsigned char* data_;
    std::int64_t left_;
    const Element padding_;
    int next_ = Block::kSize;
    Block block_;
};

template <class Rows>
char* write_axes(char* out, Rows& rows, int axes, const std::int64_t* shape) {
    *out++ = '[';
    char* const start = out;
    if (axes == 1) {
        out = rows.write(out, shape[0]);
    } else {
        for (std::int64_t i = 0; i < shape[0]; ++i) {
            out = write_axes(out, rows, axes - 1, shape + 1);
            *out++ = ',';
        }
    }
    // Overwrites the last comma, if there is one.
    out -= out != start;
    *out++ = ']';
    return out;
}

// Compiled once for each instruction set.
template <bool kHalves, class Block, class Element>
GPUX_INLINE void fill(Block& block, const unsigned char* data) {
    if constexpr (!std::is_same_v<Block, Texts>) {
        fill_floats<kHalves, Element>(block, data);
    } else if constexpr (std::is_same_v<Element, Boolean>) {
        fill_booleans(block, data);
    } else {
        fill_integers<Element>(block, data);
    }
}

template <class Block, class Element>
void fill_baseline(Block& block, const unsigned char* data) {
    fill<false, Block, Element>(block, data);
}

#ifdef __x86_64__
template <class Block, class Element>
__attribute__((target("avx2,bmi,bmi2,lzcnt"))) void fill_avx2(Block& block, const unsigned char* data) {
    fill<true, Block, Element>(block, data);
}

template <class Block, class Element>
__attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,bmi,bmi2,lzcnt"))) void fill_avx512(
    Block& block, const unsigned char* data) {
    fill<true, Block, Element>(block, data);
}
#endif

template <class Block, class Element>
auto choose_fill(Instructions instructions) -> typename Elements<Block, Element>::Fill {
    switch (instructions) {
#ifdef __x86_64__
        case Instructions::avx512: return fill_avx512<Block, Element>;
        case Instructions::avx2: return fill_avx2<Block, Element>;
#endif
        default: return fill_baseline<Block, Element>;
    }
}

// The arguments of write_tensor().
struct TensorView {
    int axes;
    const std::int64_t* shape;
    const void* data;
    Instructions instructions;
};

template <class Block, class Element>
char* write_all(char* out, const TensorView& tensor, Element padding) {
    std::int64_t count = 1;
    for (int axis = 0; axis < tensor.axes; ++axis) {
        count *= tensor.shape[axis];
    }
    Elements<Block, Element> elements(choose_fill<Block, Element>(tensor.instructions), tensor.data, count,
                                      padding);
    if (tensor.axes == 0) {
        return elements.write(out, 1) - 1;
    }
    return write_axes(out, elements, tensor.axes, tensor.shape);
}

template <class Format>
char* write_floats(char* out, const TensorView& tensor) {
    // 1.5, which is not special.
    using Bits = typename Format::Bits;
    const Bits padding = static_cast<Bits>((Format::kMaxExponent >> 1) * Format::kHidden +
                                           Format::kHidden / 2);
    return write_all<Decimals<Format>>(out, tensor, padding);
}

template <class Integer>
char* write_integers(char* out, const TensorView& tensor) {
    return write_all<Texts>(out, tensor, Integer{0});
}

// a * b + c; false if it overflows size_t.
bool multiply_add(std::size_t a, std::size_t b, std::size_t c, std::size_t* out) {
    return !__builtin_mul_overflow(a, b, out) && !__builtin_add_overflow(*out, c, out);
}

}  // namespace

std::size_t max_bytes(Type type, int axes, const std::int64_t* shape) noexcept {
    // From the inside out: an element; then for each axis "[", its children with a comma each, "]".
    std::size_t bytes = max_bytes_of_element(type);
    for (int axis = axes - 1; axis >= 0; --axis) {
        std::size_t with_comma;
        if (__builtin_add_overflow(bytes, std::size_t{1}, &with_comma) ||
            !multiply_add(static_cast<std::size_t>(shape[axis]), with_comma, 2, &bytes)) {
            return 0;
        }
    }
    return __builtin_add_overflow(bytes, kSlack, &bytes) ? 0 : bytes;
}

char* write_tensor(char* out, Type type, int axes, const std::int64_t* shape, const void* data,
                   Instructions instructions) noexcept {
    const TensorView tensor{axes, shape, data, instructions};
    switch (type) {
        case Type::float32: return write_floats<Float32>(out, tensor);
        case Type::float64: return write_floats<Float64>(out, tensor);
        case Type::float16: return write_floats<Float16>(out, tensor);
        case Type::bfloat16: return write_floats<BFloat16>(out, tensor);
        case Type::int8: return write_integers<std::int8_t>(out, tensor);
        case Type::int16: return write_integers<std::int16_t>(out, tensor);
        case Type::int32: return write_integers<std::int32_t>(out, tensor);
        case Type::int64: return write_integers<std::int64_t>(out, tensor);
        case Type::uint8: return write_integers<std::uint8_t>(out, tensor);
        case Type::uint16: return write_integers<std::uint16_t>(out, tensor);
        case Type::uint32: return write_integers<std::uint32_t>(out, tensor);
        case Type::uint64: return write_integers<std::uint64_t>(out, tensor);
        case Type::boolean: return write_all<Texts>(out, tensor, Boolean{0});
        case Type::string: break;
    }
    return out;
}

}  // namespace gpux
