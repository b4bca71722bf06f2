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

// A number is converted from 16 bytes, of which the point is the fourth.
constexpr int kWhole = 3;
constexpr int kFraction = 12;
static_assert(kWhole == kFloat32sLookback);
// Bytes that may be read from the start of a block, whose last byte may be a point.
constexpr std::ptrdiff_t kReach = kBlock + kFraction + 1;

// The text coordinates of numbers, relative to their points, or to their commas where there is no point.
struct Spans {
    const char* points[kMaxNumbers + kGroup];
    std::int8_t firsts[kMaxNumbers + kGroup];  // the first digit, from the point: -3 to -1
    std::int8_t commas[kMaxNumbers + kGroup];  // from the point
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

// Locates numbers until `spans` is full enough or other text follows. Returns the position after the
// last comma.
GPUX_AVX2_INLINE const char* find_spans(const char* at, const char* end, Spans& spans) {
    // Locals, stored in `spans` last: the stores below could alias its fields, for all the compiler knows.
    int found = 0;
    std::uint64_t negatives = 0;
    bool were_units = true;
    while (found <= kMaxNumbers - kMaxInBlock && end - at >= kReach) {
        const Bytes bytes(at);
        std::uint64_t commas = bytes.are(',');
        const std::uint64_t digits = bytes.are_digits();
        const std::uint64_t starts = commas << 1 | 1;
        // Adding a bit to itself shifts it by one.
        const std::uint64_t spaces = bytes.are(' ') & starts;
        const std::uint64_t signs = bytes.are('-') & (starts + spaces);
        const std::uint64_t firsts = starts + spaces + signs;
        // The carry propagates through the digits to the byte after them.
        const std::uint64_t points = (firsts + digits) & ~digits;
        const std::uint64_t dots = bytes.are('.') & points;
        // A digit must come first and after a dot, and there may be no other characters.
        std::uint64_t wrong = ((firsts | dots << 1) & ~digits) | ~(digits | commas | dots | signs | spaces);
        const bool are_units = points == firsts << 1;
        if (!are_units) {
            wrong |= points & ~(firsts << 1 | firsts << 2 | firsts << 3);
            wrong |= bytes.are('0') & firsts & ~(points >> 1);
            // A number that ends after the block is not wrong.
            wrong &= ~std::uint64_t{0} >> (commas != 0 ? _lzcnt_u64(commas) : 0);
        }
        if (wrong != 0) {
            commas &= _blsi_u64(wrong) - 1;
        }
        if (commas == 0) {
            break;
        }
        const int count = static_cast<int>(_mm_popcnt_u64(commas));
        const int after = static_cast<int>(_lzcnt_u64(commas));
        negatives |= _pext_u64(signs << 1, firsts & (~std::uint64_t{0} >> after)) << found;
        // Always whole groups: mostly there are at most four, and the unused steps cost no branch.
        std::uint64_t left_firsts = firsts;
        std::uint64_t left_points = points;
        std::uint64_t left_commas = commas;
        for (int i = found; i < found + count; i += kGroup) {
            for (int j = i; j < i + kGroup; ++j) {
                const std::uint64_t point = _tzcnt_u64(left_points);
                spans.points[j] = at + point;
                spans.commas[j] = static_cast<std::int8_t>(_tzcnt_u64(left_commas) - point);
                left_points = _blsr_u64(left_points);
                left_commas = _blsr_u64(left_commas);
                spans.firsts[j] = -1;
                if (!are_units) {
                    spans.firsts[j] = static_cast<std::int8_t>(_tzcnt_u64(left_firsts) - point);
                    left_firsts = _blsr_u64(left_firsts);
                }
            }
        }
        were_units = were_units && are_units;
        found += count;
        at += kBlock - after;
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
    const __m256i from_point = _mm256_setr_epi8(-3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                                                -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
    const __m256i tens = _mm256_setr_epi8(k10, k1, 1, 0, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1,
                                          k10, k1, 1, 0, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1);
    const __m256i hundreds = _mm256_setr_epi16(10, 1, 100, 1, 100, 1, 100, 1,
                                               10, 1, 100, 1, 100, 1, 100, 1);
    // clang-format on
    // The values of the digits; 0 from the comma on and before the first digit.
    const __m128i four_commas = load_four(spans.commas + i);
    const __m256i commas = _mm256_broadcastd_epi32(four_commas);
    const __m256i zeros = _mm256_set1_epi8('0');
    a = _mm256_and_si256(_mm256_sub_epi8(a, zeros),
                         _mm256_cmpgt_epi8(_mm256_shuffle_epi8(commas, of_a), from_point));
    b = _mm256_and_si256(_mm256_sub_epi8(b, zeros),
                         _mm256_cmpgt_epi8(_mm256_shuffle_epi8(commas, of_b), from_point));
    if (!kAreUnits) {
        const __m256i firsts = _mm256_broadcastd_epi32(load_four(spans.firsts + i));
        a = _mm256_andnot_si256(_mm256_cmpgt_epi8(_mm256_shuffle_epi8(firsts, of_a), from_point), a);
        b = _mm256_andnot_si256(_mm256_cmpgt_epi8(_mm256_shuffle_epi8(firsts, of_b), from_point), b);
    }
    const __m256i fours = _mm256_packus_epi32(_mm256_madd_epi16(_mm256_maddubs_epi16(a, tens), hundreds),
                                              _mm256_madd_epi16(_mm256_maddubs_epi16(b, tens), hundreds));
    const __m256i eights = _mm256_madd_epi16(fours, _mm256_set1_epi32(10'000 + (1 << 16)));
    const __m256i sums = _mm256_add_epi64(_mm256_mul_epu32(eights, _mm256_set1_epi64x(100'000'000)),
                                          _mm256_srli_epi64(eights, 32));
    // Exact: below 10^15, so the low bits of a float64 between 2^52 and 2^53.
    const __m256d shift = _mm256_set1_pd(0x1p52);
    const __m256d digits = _mm256_sub_pd(_mm256_or_pd(_mm256_castsi256_pd(sums), shift), shift);
    // The omitted digits add less than one.
    const __m256i are_more = _mm256_cmpgt_epi64(_mm256_cvtepi8_epi64(four_commas),
                                                _mm256_set1_epi64x(kFraction + 1));
    const __m256d more = _mm256_and_pd(_mm256_castsi256_pd(are_more), _mm256_set1_pd(1.0));
    // The float64 nearest to the number lies between these two, whose relative errors, including that
    // of 1e-12, are below 2^-51. If both round to the same float32, so does it.
    const __m128 lower = _mm256_cvtpd_ps(_mm256_mul_pd(digits, _mm256_set1_pd(1e-12 * (1 - 0x1p-50))));
    const __m128 upper = _mm256_cvtpd_ps(
        _mm256_mul_pd(_mm256_add_pd(digits, more), _mm256_set1_pd(1e-12 * (1 + 0x1p-50))));
    const __m128i signs = _mm_and_si128(_mm_sllv_epi32(_mm_set1_epi32(static_cast<int>(spans.negatives >> i)),
                                                       _mm_setr_epi32(31, 30, 29, 28)),
                                        _mm_set1_epi32(INT32_MIN));
    _mm_storeu_ps(out, _mm_or_ps(lower, _mm_castsi128_ps(signs)));
    return _mm_movemask_ps(_mm_cmpeq_ps(lower, upper));
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

}  // namespace

GPUX_AVX2 std::size_t read_float32s(const char* at, const char* end, float* out, std::size_t room,
                                    const char** after) noexcept {
    Spans spans;
    std::size_t count = 0;
    while (count < room) {
        at = find_spans(at, end, spans);
        if (spans.count == 0) {
            break;
        }
        if (static_cast<std::size_t>(spans.count) > room - count) {
            spans.count = static_cast<int>(room - count);
            at = spans.points[spans.count - 1] + spans.commas[spans.count - 1] + 1;
        }
        // Pads the last group with copies of the last number, whose bytes are readable.
        for (int i = spans.count; i % kGroup != 0; ++i) {
            spans.points[i] = spans.points[i - 1];
            spans.firsts[i] = spans.firsts[i - 1];
            spans.commas[i] = spans.commas[i - 1];
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
            convert(decimal, into[i]);  // below 1000, so it is in range
        }
        if (!has_room) {
            std::memcpy(out + count, last, sizeof *last * static_cast<std::size_t>(spans.count));
        }
        count += static_cast<std::size_t>(spans.count);
    }
    *after = at;
    return count;
}

}  // namespace gpux

#endif
