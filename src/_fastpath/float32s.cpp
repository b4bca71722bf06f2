// In two steps, so that no branch depends on the length of a number, and none waits for the one before:
// where the numbers in 64 bytes are, by arithmetic on masks of them (as simdjson finds the structure
// of JSON: G. Langdale and D. Lemire, Parsing gigabytes of JSON per second, 2019); then the numbers
// themselves, four at a time.
#include "float32s.hpp"

#ifdef GPUX_HAS_FLOAT32S

#include <cstdint>
#include <cstring>

#include <immintrin.h>

#include "number.hpp"

// Tuned for one that has no false dependency of `tzcnt`, which GCC would pay an instruction to avoid.
#define GPUX_AVX2 __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt,tune=znver3")))
#define GPUX_AVX2_INLINE GPUX_AVX2 __attribute__((always_inline)) inline

namespace gpux {
namespace {

constexpr int kBlock = 64;
constexpr int kMostInBlock = kBlock / 2;
constexpr int kGroup = 4;
constexpr int kMost = 64;

// A number is looked at in 16 bytes: the point is the fourth one.
constexpr int kWhole = 3;
constexpr int kFraction = 12;
static_assert(kWhole == kFloat32sLookback);
// What may be read from the start of a block on, whose last byte may be a point.
constexpr std::ptrdiff_t kReach = kBlock + kFraction + 1;

// Where numbers are: their points, or the commas behind those that have none.
struct Places {
    const char* points[kMost + kGroup];
    std::int8_t firsts[kMost + kGroup];  // digits, from the point: -3 to -1
    std::int8_t commas[kMost + kGroup];  // from the point
    std::uint64_t negatives;             // a bit for each
    int count;
    bool are_units;  // all have one digit in front of the point
};

// 64 bytes, and masks of them, the first in the lowest bit.
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
        // Moved to where they are the highest numbers that have a sign.
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

// Finds numbers until there are enough, or something else comes; answers the place behind the last
// comma.
GPUX_AVX2_INLINE const char* find_places(const char* at, const char* end, Places& places) {
    // Not in `places` until the end: what is written there could be these, for all the compiler knows.
    int found = 0;
    std::uint64_t negatives = 0;
    bool were_units = true;
    while (found <= kMost - kMostInBlock && end - at >= kReach) {
        const Bytes bytes(at);
        std::uint64_t commas = bytes.are(',');
        const std::uint64_t digits = bytes.are_digits();
        const std::uint64_t starts = commas << 1 | 1;
        // Adding a bit to itself moves it one on.
        const std::uint64_t spaces = bytes.are(' ') & starts;
        const std::uint64_t signs = bytes.are('-') & (starts + spaces);
        const std::uint64_t firsts = starts + spaces + signs;
        // The carry runs through all digits, to what is behind them.
        const std::uint64_t points = (firsts + digits) & ~digits;
        const std::uint64_t dots = bytes.are('.') & points;
        // There must be a digit first, and behind a dot; and nothing else than all of these.
        std::uint64_t wrong =
            ((firsts | dots << 1) & ~digits) | ~(digits | commas | dots | signs | spaces);
        const bool are_units = points == firsts << 1;
        if (!are_units) {
            wrong |= points & ~(firsts << 1 | firsts << 2 | firsts << 3);
            wrong |= bytes.are('0') & firsts & ~(points >> 1);
            // A number that ends behind the block is not wrong.
            wrong &= ~std::uint64_t{0} >> (commas != 0 ? _lzcnt_u64(commas) : 0);
        }
        if (wrong != 0) {
            commas &= _blsi_u64(wrong) - 1;
        }
        if (commas == 0) {
            break;
        }
        const int count = static_cast<int>(_mm_popcnt_u64(commas));
        const int behind = static_cast<int>(_lzcnt_u64(commas));
        negatives |= _pext_u64(signs << 1, firsts & (~std::uint64_t{0} >> behind)) << found;
        // Mostly there are no more than four: always the same steps, some of them in vain.
        std::uint64_t left_firsts = firsts;
        std::uint64_t left_points = points;
        std::uint64_t left_commas = commas;
        for (int i = found; i < found + count; i += kGroup) {
            for (int j = i; j < i + kGroup; ++j) {
                const std::uint64_t point = _tzcnt_u64(left_points);
                places.points[j] = at + point;
                places.commas[j] = static_cast<std::int8_t>(_tzcnt_u64(left_commas) - point);
                left_points = _blsr_u64(left_points);
                left_commas = _blsr_u64(left_commas);
                places.firsts[j] = -1;
                if (!are_units) {
                    places.firsts[j] = static_cast<std::int8_t>(_tzcnt_u64(left_firsts) - point);
                    left_firsts = _blsr_u64(left_firsts);
                }
            }
        }
        were_units = were_units && are_units;
        found += count;
        at += kBlock - behind;
        if (wrong != 0) {
            break;
        }
    }
    places.negatives = negatives;
    places.count = found;
    places.are_units = were_units;
    return at;
}

GPUX_AVX2_INLINE __m256i load_two(const char* first, const char* second) {
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(first))),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(second)), 1
    );
}

GPUX_AVX2_INLINE __m128i load_four(const std::int8_t* at) {
    std::int32_t bytes;
    std::memcpy(&bytes, at, sizeof bytes);
    return _mm_cvtsi32_si128(bytes);
}

// Converts the numbers from i on; answers a bit for each whose float32 is certain.
template <bool kAreUnits>
GPUX_AVX2_INLINE int convert_four(const Places& places, int i, float* out) {
    // The first and the third in one register, the second and the fourth in another: so they come out
    // in order where both are packed into one.
    const char* const* const points = places.points + i;
    __m256i a = load_two(points[0] - kWhole, points[2] - kWhole);
    __m256i b = load_two(points[1] - kWhole, points[3] - kWhole);
    const __m256i of_a = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                          2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2);
    const __m256i of_b = _mm256_setr_epi8(1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                          3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i places_from_point =
        _mm256_setr_epi8(-3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                         -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
    // The values of the digits; 0 from the comma on, and in front of the first digit.
    const __m128i four_commas = load_four(places.commas + i);
    const __m256i commas = _mm256_broadcastd_epi32(four_commas);
    const __m256i zeros = _mm256_set1_epi8('0');
    a = _mm256_and_si256(_mm256_sub_epi8(a, zeros),
                         _mm256_cmpgt_epi8(_mm256_shuffle_epi8(commas, of_a), places_from_point));
    b = _mm256_and_si256(_mm256_sub_epi8(b, zeros),
                         _mm256_cmpgt_epi8(_mm256_shuffle_epi8(commas, of_b), places_from_point));
    if (!kAreUnits) {
        const __m256i firsts = _mm256_broadcastd_epi32(load_four(places.firsts + i));
        a = _mm256_andnot_si256(
            _mm256_cmpgt_epi8(_mm256_shuffle_epi8(firsts, of_a), places_from_point), a
        );
        b = _mm256_andnot_si256(
            _mm256_cmpgt_epi8(_mm256_shuffle_epi8(firsts, of_b), places_from_point), b
        );
    }
    // The sums of two digits, of three or four, of seven or eight. The point counts nothing, and
    // nor does what is in front of a single digit.
    constexpr char k10 = kAreUnits ? 0 : 10;
    constexpr char k1 = kAreUnits ? 0 : 1;
    const __m256i tens = _mm256_setr_epi8(k10, k1, 1, 0, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1,
                                          k10, k1, 1, 0, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1, 10, 1);
    const __m256i hundreds = _mm256_setr_epi16(10, 1, 100, 1, 100, 1, 100, 1,
                                               10, 1, 100, 1, 100, 1, 100, 1);
    const __m256i fours =
        _mm256_packus_epi32(_mm256_madd_epi16(_mm256_maddubs_epi16(a, tens), hundreds),
                            _mm256_madd_epi16(_mm256_maddubs_epi16(b, tens), hundreds));
    const __m256i eights = _mm256_madd_epi16(fours, _mm256_set1_epi32(10'000 + (1 << 16)));
    const __m256i sums = _mm256_add_epi64(
        _mm256_mul_epu32(eights, _mm256_set1_epi64x(100'000'000)), _mm256_srli_epi64(eights, 32)
    );
    // Exact: they are below 10^15, and so the low bits of a float64 between 2^52 and 2^53.
    const __m256d shift = _mm256_set1_pd(0x1p52);
    const __m256d digits = _mm256_sub_pd(_mm256_or_pd(_mm256_castsi256_pd(sums), shift), shift);
    // Digits that were left out make less than one.
    const __m256i are_more = _mm256_cmpgt_epi64(
        _mm256_cvtepi8_epi64(four_commas), _mm256_set1_epi64x(kFraction + 1)
    );
    const __m256d more = _mm256_and_pd(_mm256_castsi256_pd(are_more), _mm256_set1_pd(1.0));
    // The float64 nearest to the number is between these two: their errors, and that of 1e-12, are less
    // than 2^-51 of them. So if both round to the same float32, it does.
    const __m128 least =
        _mm256_cvtpd_ps(_mm256_mul_pd(digits, _mm256_set1_pd(1e-12 * (1 - 0x1p-50))));
    const __m128 most = _mm256_cvtpd_ps(
        _mm256_mul_pd(_mm256_add_pd(digits, more), _mm256_set1_pd(1e-12 * (1 + 0x1p-50)))
    );
    const __m128i signs = _mm_and_si128(
        _mm_sllv_epi32(_mm_set1_epi32(static_cast<int>(places.negatives >> i)),
                       _mm_setr_epi32(31, 30, 29, 28)),
        _mm_set1_epi32(INT32_MIN)
    );
    _mm_storeu_ps(out, _mm_or_ps(least, _mm_castsi128_ps(signs)));
    return _mm_movemask_ps(_mm_cmpeq_ps(least, most));
}

// Converts all; answers a bit for each whose float32 is not certain. May write a few more than there are.
template <bool kAreUnits>
GPUX_AVX2_INLINE std::uint64_t convert_all(const Places& places, float* out) {
    std::uint64_t uncertain = 0;
    for (int i = 0; i < places.count; i += kGroup) {
        const int certain = convert_four<kAreUnits>(places, i, out + i);
        uncertain |= static_cast<std::uint64_t>(certain ^ 0xF) << i;
    }
    // Of copies there is nothing to say.
    return uncertain & (~std::uint64_t{0} >> (kMost - places.count));
}

}  // namespace

GPUX_AVX2 std::size_t read_float32s(
    const char* at, const char* end, float* out, std::size_t room, const char** behind
) {
    Places places;
    std::size_t count = 0;
    while (count < room) {
        at = find_places(at, end, places);
        if (places.count == 0) {
            break;
        }
        if (static_cast<std::size_t>(places.count) > room - count) {
            places.count = static_cast<int>(room - count);
            at = places.points[places.count - 1] + places.commas[places.count - 1] + 1;
        }
        // The last group is filled with copies of the last number, which can be looked at.
        for (int i = places.count; i % kGroup != 0; ++i) {
            places.points[i] = places.points[i - 1];
            places.firsts[i] = places.firsts[i - 1];
            places.commas[i] = places.commas[i - 1];
        }
        float last[kMost];
        const bool has_room = room - count >= kMost;
        float* const into = has_room ? out + count : last;
        std::uint64_t uncertain = places.are_units ? convert_all<true>(places, into)
                                                   : convert_all<false>(places, into);
        for (; uncertain != 0; uncertain = _blsr_u64(uncertain)) {
            const std::uint64_t i = _tzcnt_u64(uncertain);
            const char* const first = places.points[i] + places.firsts[i];
            Decimal decimal;
            const char* stop;
            scan_number(first - ((places.negatives >> i) & 1), end, &decimal, &stop);
            convert(decimal, into[i]);  // below 1000, so it is in range
        }
        if (!has_room) {
            std::memcpy(out + count, last, sizeof *last * static_cast<std::size_t>(places.count));
        }
        count += static_cast<std::size_t>(places.count);
    }
    *behind = at;
    return count;
}

}  // namespace gpux

#endif
