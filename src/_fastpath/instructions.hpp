// Instruction sets that parts of the core are compiled for. The results do not depend on the set.
#pragma once

namespace gpux {

// Each includes the ones before it.
enum class Instructions { baseline, avx2, avx512 };

// The best set that this processor has.
inline Instructions best_instructions() noexcept {
#ifdef __x86_64__
    // Every processor with these has `lzcnt` and `popcnt`.
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
