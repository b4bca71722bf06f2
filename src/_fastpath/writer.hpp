// The writer: tensors as JSON text.
//
// A float is the shortest decimal that reads back to the same value in its own type, laid out as
// Python's repr() does; a non-finite one is null. The caller provides memory of max_bytes(), so that
// writing never checks for room. No Python.h, no I/O, no allocation; runs without the GIL.
#pragma once

#include <cstddef>
#include <cstdint>

#include "element.hpp"
#include "instructions.hpp"

namespace gpux {

// The most bytes that write_tensor() may write for a tensor of numbers or booleans (not strings), or 0
// if that overflows size_t. `shape` has `axes` entries, none negative.
std::size_t max_bytes(Type type, int axes, const std::int64_t* shape) noexcept;

// Writes the dense, C-ordered tensor at `data` as nested JSON arrays (a bare value at rank 0). Returns
// the position after the last byte.
char* write_tensor(char* out, Type type, int axes, const std::int64_t* shape, const void* data,
                   Instructions instructions = best_instructions()) noexcept;

}  // namespace gpux
