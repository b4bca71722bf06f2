// Many float32s of a list at once, by AVX2: what most bodies are made of.
#pragma once

// The processors without SSE2 that the core is also tested for have no AVX2 either.
#if defined(__x86_64__) && defined(__SSE2__)
#define GPUX_HAS_FLOAT32S

#include <cstddef>

namespace gpux {

// Bytes in front of a number that read_float32s() may look at.
constexpr std::ptrdiff_t kFloat32sLookback = 3;

// Takes numbers with a comma behind them, and no more than a space behind that, which are spelled
// `1`, `-1.5` or `123.456`: up to three digits, and any number of them behind a point. `at` is where
// the first one starts; from kFloat32sLookback bytes before it up to `end` all must be readable. Stops
// at the first other thing, right or wrong, and somewhat before `end`.
//
// Answers how many it has written, `room` at most, each as convert() would. `*behind` is the place
// behind the comma of the last one, or `at` if there is none. Only for Instructions::avx2.
std::size_t read_float32s(
    const char* at, const char* end, float* out, std::size_t room, const char** behind
);

}  // namespace gpux

#endif
