// Two steps, so that no branch depends on the length of a number and no number waits for the previous
// one: locates the numbers in 64 bytes by arithmetic on bit masks (as simdjson finds the structure of
// JSON: G. Langdale and D. Lemire, Parsing gigabytes of JSON per second, 2019); then converts them,
// four at a time.
#include "float32s.hpp"

#ifdef GPUX_HAS_FLOAT32S

#include <cstdint>
#include <cstring>

#include <immintrin.h>

#include "number.hpp"

// Tuned for a processor without `tzcnt`'s false dependency, which GCC spends an instruction to break.
#define GPUX_AVX2 __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt,tune=znver3")))
#define GPUX_AVX2_INLINE GPUX_AVX2 __attribute__((always_inline)) inline

namespace gpux {
namespace {

constexpr int kBlock = 64;
constexpr int kMaxInBlock = kBlock / 2;
constexpr int kGroup = 4;
constexpr int kMaxNumbers = 64;

// A number is converted from 16 bytes, of which the point is the fifth. (One with more digits before the
// point, up to eight, is left to scan_number().)
constexpr int kWhole = 4;
constexpr int kFraction = 11;
static_assert(kWhole == kFloat32sLookback);
// Bytes that may be read from the start of a block, whose last byte may be a point.
constexpr std::ptrdiff_t kReach = kBlock + kFraction + 1;

// The text coordinates of numbers, relative to their points, or to their ends where there is no point.
struct Spans {
    const char* points[kMaxNumbers + kGroup];
    std::int8_t firsts[kMaxNumbers + kGroup];  // the first digit, from the point: -8 to -1
    std::int8_t ends[kMaxNumbers + kGroup];    // the byte after the number, from the point
    std::uint64_t negatives;                   // bit i: number i has a minus sign
    int count;
    bool are_units;  // all have one digit before the point
};

// 64 bytes, and masks with a bit for each, the first in the lowest.
struct Bytes {
    __m256i low;
    __m256i high;

    GPUX_AVX2_INLINE explicit Bytes(const char* at)
        : low(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))),
          high(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at) + 1)) {}

    GPUX_AVX2_INLINE std::uint64_t are(char character) const {
        const __m256i all = _mm256_set1_epi8(character);
        return mask_of(_mm256_cmpeq_epi8(low, all), _mm256_cmpeq_epi8(high, all));
    }

    GPUX_AVX2_INLINE std::uint64_t are_digits() const {
        // Shifts the digits to the top of the signed range: one comparison finds them.
        const __m256i by = _mm256_set1_epi8(127 - '9');
        const __m256i below = _mm256_set1_epi8(127 - 10);
        return mask_of(_mm256_cmpgt_epi8(_mm256_add_epi8(low, by), below),
                       _mm256_cmpgt_epi8(_mm256_add_epi8(high, by), below));
    }

private:
    static GPUX_AVX2_INLINE std::uint64_t mask_of(__m256i low, __m256i high) {
        const std::uint64_t in_low = static_cast<std::uint32_t>(_mm256_movemask_epi8(low));
        const std::uint64_t in_high = static_cast<std::uint32_t>(_mm256_movemask_epi8(high));
        return in_low | in_high << 32;
    }
};

// Bits 0, row, 2 * row, ... by row, which is from 1 to 64.
struct Periods {
    std::uint64_t bits[kMaxFloat32sRow + 1];

    constexpr Periods() : bits() {
        for (std::size_t row = 1; row <= kMaxFloat32sRow; ++row) {
            for (std::size_t bit = 0; bit < kMaxFloat32sRow; bit += row) {
                bits[row] |= std::uint64_t{1} << bit;
            }
        }
    }
};
constexpr Periods kPeriods;
static_assert(kMaxFloat32sRow == kMaxNumbers);

// Which of the next numbers are the last of their list.
struct Lasts {
    int row;   // numbers of a list
    int left;  // numbers of the current list

    // A bit for each of the next 64 numbers.
    GPUX_AVX2_INLINE std::uint64_t mask() const { return kPeriods.bits[row] << (left - 1); }
    GPUX_AVX2_INLINE void pass(int numbers) {
        const std::uint64_t passed = _bzhi_u64(mask(), static_cast<unsigned>(numbers));
        left += row * static_cast<int>(_mm_popcnt_u64(passed)) - numbers;
    }
};

// How many bytes there are up to the last one of a mask.
GPUX_AVX2_INLINE unsigned size_until_last(std::uint64_t bytes) {
    return static_cast<unsigned>(kBlock) - static_cast<unsigned>(_lzcnt_u64(bytes));
}

// Locates numbers until `spans` is full enough or other text follows: of one list, or of several if
// `lasts` is not null. Returns the position after the last number's comma, or opening bracket.
GPUX_AVX2_INLINE const char* find_spans(const char* at, const char* end, Spans& spans, Lasts* lasts) {
    // Locals, stored in `spans` last: the stores below could alias its fields, for all the compiler knows.
    int found = 0;
    std::uint64_t negatives = 0;
    bool were_units = true;
    while (found <= kMaxNumbers - kMaxInBlock && end - at >= kReach) {
        const Bytes bytes(at);
        const std::uint64_t commas = bytes.are(',');
        const std::uint64_t digits = bytes.are_digits();
        const std::uint64_t all_spaces = bytes.are(' ');
        // The last byte before a number, but for a space; and the first one after it.
        std::uint64_t separators = commas;
        std::uint64_t ends = commas;
        std::uint64_t between = 0;  // lists
        std::uint64_t wrong = 0;
        std::uint64_t opens = 0;
        if (lasts != nullptr) {
            const std::uint64_t closes = bytes.are(']');
            const std::uint64_t after_closes = closes << 1;
            const std::uint64_t after_commas = (after_closes & commas) << 1;
            const std::uint64_t spaces = all_spaces & after_commas;
            // Adding a bit to itself shifts it by one.
            const std::uint64_t before_lists = after_commas + spaces;
            opens = bytes.are('[') & before_lists;
            separators = (commas & ~after_closes) | opens;
            ends = (commas & ~after_closes) | closes;
            between = closes | spaces | opens;
            wrong = (after_closes & ~commas) | (before_lists & ~opens);
        }
        const std::uint64_t starts = separators << 1 | 1;
        // Adding a bit to itself shifts it by one.
        const std::uint64_t spaces = all_spaces & starts;
        const std::uint64_t signs = bytes.are('-') & (starts + spaces);
        const std::uint64_t firsts = starts + spaces + signs;
        // The carry propagates through the digits to the byte after them.
        const std::uint64_t points = (firsts + digits) & ~digits;
        const std::uint64_t dots = bytes.are('.') & points;
        // A digit must come first and after a dot, and there may be no other characters.
        wrong |= ((firsts | dots << 1) & ~digits) | ~(digits | commas | dots | signs | spaces | between);
        const bool are_units = points == firsts << 1;
        if (!are_units) {
            const std::uint64_t after_4 = firsts << 1 | firsts << 2 | firsts << 3 | firsts << 4;
            wrong |= points & ~(after_4 | after_4 << 4);
            wrong |= bytes.are('0') & firsts & ~(points >> 1);
            // A number that ends after the block is not wrong.
            wrong = _bzhi_u64(wrong, size_until_last(separators));
        }
        if (wrong != 0) {
            separators &= _blsi_u64(wrong) - 1;
        }
        int count = static_cast<int>(_mm_popcnt_u64(separators));
        if (lasts != nullptr) {
            const std::uint64_t differ = _bzhi_u64(_pext_u64(opens, separators) ^ lasts->mask(),
                                                   static_cast<unsigned>(count));
            if (differ != 0) {
                count = static_cast<int>(_tzcnt_u64(differ));
                separators = _pdep_u64((std::uint64_t{1} << count) - 1, separators);
                wrong = 1;
            }
            lasts->pass(count);
        }
        if (separators == 0) {
            break;
        }
        const unsigned size = size_until_last(separators);
        negatives |= _pext_u64(signs << 1, _bzhi_u64(firsts, size)) << found;
        // Always whole groups: mostly there are at most four, and the unused steps cost no branch.
        std::uint64_t left_firsts = firsts;
        std::uint64_t left_points = points;
        std::uint64_t left_ends = ends;
        for (int i = found; i < found + count; i += kGroup) {
            for (int j = i; j < i + kGroup; ++j) {
                const std::uint64_t point = _tzcnt_u64(left_points);
                spans.points[j] = at + point;
                spans.ends[j] = static_cast<std::int8_t>(_tzcnt_u64(left_ends) - point);
                left_points = _blsr_u64(left_points);
                left_ends = _blsr_u64(left_ends);
                spans.firsts[j] = -1;
                if (!are_units) {
                    spans.firsts[j] = static_cast<std::int8_t>(_tzcnt_u64(left_firsts) - point);
                    left_firsts = _blsr_u64(left_firsts);
                }
            }
        }
        were_units = were_units && are_units;
        found += count;
        at += size;
        if (wrong != 0) {
            break;
        }
    }
    spans.negatives = negatives;
    spans.count = found;
    spans.are_units = were_units;
    return at;
}

GPUX_AVX2_INLINE __m256i load_two(const char* first, const char* second) {
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(first))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(second)), 1);
}

GPUX_AVX2_INLINE __m128i load_four(const std::int8_t* at) {
    std::int32_t bytes;
    std::memcpy(&bytes, at, sizeof bytes);
    return _mm_cvtsi32_si128(bytes);
}

// Converts four numbers from index i. Returns a bit for each whose float32 is certain.
template <bool kAreUnits>
GPUX_AVX2_INLINE int convert_four(const Spans& spans, int i, float* out) {
    // The first and third in one register, the second and fourth in the other: packing both into one
    // then puts them in order.
    const char* const* const points = spans.points + i;
    __m256i a = load_two(points[0] - kWhole, points[2] - kWhole);
    __m256i b = load_two(points[1] - kWhole, points[3] - kWhole);
    // The sums below: of two digits, of three or four, of seven or eight. The point has weight 0, and so
    // has what precedes a single digit.
    constexpr char k10 = kAreUnits ? 0 : 10;
    constexpr char k1 = kAreUnits ? 0 : 1;
    // clang-format off: 16 bytes a line.
    const __m256i of_a = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                          2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2);
    const __m256i of_b = _mm256_setr_epi8(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                          3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i from_point = _mm256_setr_epi8(-4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
                                                -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);
    const __m256i tens = _mm256_setr_epi8(k10, k1, k10, 1, 0, 1, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1,
                                          k10, k1, k10, 1, 0, 1, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1);
    const __m256i hundreds = _mm256_setr_epi16(100, 1, 100, 1, 100, 1, 100, 1,
                                               100, 1, 100, 1, 100, 1, 100, 1);
    // clang-format on
    // The values of the digits; 0 from the end on and before the first digit.
    const __m128i four_ends = load_four(spans.ends + i);
    const __m256i ends = _mm256_broadcastd_epi32(four_ends);
    const __m256i zeros = _mm256_set1_epi8('0');
    a = _mm256_and_si256(_mm256_sub_epi8(a, zeros),
                         _mm256_cmpgt_epi8(_mm256_shuffle_epi8(ends, of_a), from_point));
    b = _mm256_and_si256(_mm256_sub_epi8(b, zeros),
                         _mm256_cmpgt_epi8(_mm256_shuffle_epi8(ends, of_b), from_point));
    const __m128i four_firsts = load_four(spans.firsts + i);
    if (!kAreUnits) {
        const __m256i firsts = _mm256_broadcastd_epi32(four_firsts);
        a = _mm256_andnot_si256(_mm256_cmpgt_epi8(_mm256_shuffle_epi8(firsts, of_a), from_point), a);
        b = _mm256_andnot_si256(_mm256_cmpgt_epi8(_mm256_shuffle_epi8(firsts, of_b), from_point), b);
    }
    const __m256i fours = _mm256_packus_epi32(_mm256_madd_epi16(_mm256_maddubs_epi16(a, tens), hundreds),
                                              _mm256_madd_epi16(_mm256_maddubs_epi16(b, tens), hundreds));
    // The first four are followed by three digits, the third four by four.
    const __m256i eights = _mm256_madd_epi16(fours, _mm256_set1_epi64x(0x0001'2710'0001'03E8));  // 10^4, 10^3
    const __m256i sums = _mm256_add_epi64(_mm256_mul_epu32(eights, _mm256_set1_epi64x(100'000'000)),
                                          _mm256_srli_epi64(eights, 32));
    // Exact: below 10^15, so the low bits of a float64 between 2^52 and 2^53.
    const __m256d shift = _mm256_set1_pd(0x1p52);
    const __m256d digits = _mm256_sub_pd(_mm256_or_pd(_mm256_castsi256_pd(sums), shift), shift);
    // The omitted digits add less than one.
    const __m256i are_more = _mm256_cmpgt_epi64(_mm256_cvtepi8_epi64(four_ends),
                                                _mm256_set1_epi64x(kFraction + 1));
    const __m256d more = _mm256_and_pd(_mm256_castsi256_pd(are_more), _mm256_set1_pd(1.0));
    // The float64 nearest to the number lies between these two, whose relative errors, including that
    // of 1e-11, are below 2^-51. If both round to the same float32, so does it.
    const __m128 lower = _mm256_cvtpd_ps(_mm256_mul_pd(digits, _mm256_set1_pd(1e-11 * (1 - 0x1p-50))));
    const __m128 upper = _mm256_cvtpd_ps(
        _mm256_mul_pd(_mm256_add_pd(digits, more), _mm256_set1_pd(1e-11 * (1 + 0x1p-50))));
    const __m128i signs = _mm_and_si128(_mm_sllv_epi32(_mm_set1_epi32(static_cast<int>(spans.negatives >> i)),
                                                       _mm_setr_epi32(31, 30, 29, 28)),
                                        _mm_set1_epi32(INT32_MIN));
    _mm_storeu_ps(out, _mm_or_ps(lower, _mm_castsi128_ps(signs)));
    __m128 are_certain = _mm_cmpeq_ps(lower, upper);
    if (!kAreUnits) {
        const __m128i are_whole = _mm_cmpgt_epi32(_mm_cvtepi8_epi32(four_firsts),
                                                  _mm_set1_epi32(-kWhole - 1));
        are_certain = _mm_and_ps(are_certain, _mm_castsi128_ps(are_whole));
    }
    return _mm_movemask_ps(are_certain);
}

// Converts all. Returns a bit for each whose float32 is not certain. Rounds up to whole groups, so it may
// write up to three elements past the last.
template <bool kAreUnits>
GPUX_AVX2_INLINE std::uint64_t convert_all(const Spans& spans, float* out) {
    std::uint64_t uncertain = 0;
    for (int i = 0; i < spans.count; i += kGroup) {
        const int certain = convert_four<kAreUnits>(spans, i, out + i);
        uncertain |= static_cast<std::uint64_t>(certain ^ 0xF) << i;
    }
    // Ignore the padding lanes.
    return uncertain & (~std::uint64_t{0} >> (kMaxNumbers - spans.count));
}

// Reads numbers of one list, or of several if `lasts` is not null: read_float32s().
GPUX_AVX2_INLINE std::size_t read_spans(const char* at, const char* end, float* out, std::size_t room,
                                        Lasts* lasts, const char** after) {
    Spans spans;
    std::size_t count = 0;
    while (count < room) {
        at = find_spans(at, end, spans, lasts);
        if (spans.count == 0) {
            break;
        }
        if (static_cast<std::size_t>(spans.count) > room - count) {
            spans.count = static_cast<int>(room - count);
            at = spans.points[spans.count - 1] + spans.ends[spans.count - 1] + 1;
        }
        // Pads the last group with copies of the last number, whose bytes are readable.
        for (int i = spans.count; i % kGroup != 0; ++i) {
            spans.points[i] = spans.points[i - 1];
            spans.firsts[i] = spans.firsts[i - 1];
            spans.ends[i] = spans.ends[i - 1];
        }
        float last[kMaxNumbers];
        const bool has_room = room - count >= kMaxNumbers;
        float* const into = has_room ? out + count : last;
        std::uint64_t uncertain = spans.are_units ? convert_all<true>(spans, into)
                                                  : convert_all<false>(spans, into);
        for (; uncertain != 0; uncertain = _blsr_u64(uncertain)) {
            const std::uint64_t i = _tzcnt_u64(uncertain);
            const char* const first = spans.points[i] + spans.firsts[i];
            Decimal decimal;
            const char* stop;
            scan_number(first - ((spans.negatives >> i) & 1), end, &decimal, &stop);
            convert(decimal, into[i]);  // below 10^8, so it is in range
        }
        if (!has_room) {
            std::memcpy(out + count, last, sizeof *last * static_cast<std::size_t>(spans.count));
        }
        count += static_cast<std::size_t>(spans.count);
    }
    *after = at - 1;
    if (lasts != nullptr && **after == '[') {
        *after -= at[-2] == ' ' ? 3 : 2;
    }
    return count;
}

}  // namespace

GPUX_AVX2 std::size_t read_float32s(const char* at, const char* end, float* out, std::size_t room,
                                    const char** after) noexcept {
    return read_spans(at, end, out, room, nullptr, after);
}

GPUX_AVX2 std::size_t read_float32_rows(const char* at, const char* end, float* out, std::size_t room,
                                        std::size_t left, std::size_t row, const char** after) noexcept {
    Lasts lasts{static_cast<int>(row), static_cast<int>(left)};
    return read_spans(at, end, out, room, &lasts, after);
}

}  // namespace gpux

#endif
