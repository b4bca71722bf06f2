// Sets of instructions that some of the core is compiled for. They make no difference to what comes out.
#pragma once

namespace gpux {

// Each has what those before it have.
enum class Instructions { baseline, avx2, avx512 };

// The best set of the processor that this runs on.
inline Instructions best_instructions() {
#ifdef __x86_64__
    // Each processor that has these has `lzcnt` and `popcnt`.
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2")) {
        return Instructions::baseline;
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        return Instructions::avx512;
    }
    return Instructions::avx2;
#else
    return Instructions::baseline;
#endif
}

}  // namespace gpux
