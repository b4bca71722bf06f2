// Reads many float32s of one list or of short lists at once, by AVX2: the bulk of most request bodies.
#pragma once

#include <cstddef>

// The portable build, without SSE2, does without AVX2 too.
#if defined(__x86_64__) && defined(__SSE2__)
#define GPUX_HAS_FLOAT32S
#endif

namespace gpux {

// The longest lists that read_float32_rows() reads.
constexpr std::size_t kMaxFloat32sRow = 64;

// Bytes before a number that read_float32s() may read.
constexpr std::ptrdiff_t kFloat32sLookback = 4;

// Reads numbers followed by a comma and at most one space, spelled like `1`, `-1.5` or `123.456`: up to
// eight digits, then any number of them after a point. The first one starts at `at`; all bytes from
// kFloat32sLookback before it to `end` must be readable. Stops at the first other text, valid or not,
// and somewhat before `end`.
//
// Returns the count of numbers written, at most `room`, each with convert()'s value. `*after` is where the
// last one ends, at its comma, if there is one. Requires Instructions::avx2.
std::size_t read_float32s(const char* at, const char* end, float* out, std::size_t room,
                          const char** after) noexcept;

// The same for sibling lists of `row` numbers, the first of which has `left` of them left (1 to `row`): the
// last number of each is followed by `]`, a comma, at most one space and `[`. `*after` may be at a `]`.
std::size_t read_float32_rows(const char* at, const char* end, float* out, std::size_t room, std::size_t left,
                              std::size_t row, const char** after) noexcept;

}  // namespace gpux
