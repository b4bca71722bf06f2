// Reads many float32s of a list at once, by AVX2: the bulk of most request bodies.
#pragma once

// The portable build, without SSE2, does without AVX2 too.
#if defined(__x86_64__) && defined(__SSE2__)
#define GPUX_HAS_FLOAT32S

#include <cstddef>

namespace gpux {

// Bytes before a number that read_float32s() may read.
constexpr std::ptrdiff_t kFloat32sLookback = 3;

// Reads numbers followed by a comma and at most one space, spelled like `1`, `-1.5` or `123.456`: up to
// three digits, then any number of them after a point. The first one starts at `at`; all bytes from
// kFloat32sLookback before it to `end` must be readable. Stops at the first other text, valid or not,
// and somewhat before `end`.
//
// Returns the count of numbers written, at most `room`, each with convert()'s value. `*after` is the
// position after the last one's comma, or `at` if there are none. Requires Instructions::avx2.
std::size_t read_float32s(const char* at, const char* end, float* out, std::size_t room,
                          const char** after) noexcept;

}  // namespace gpux

#endif
