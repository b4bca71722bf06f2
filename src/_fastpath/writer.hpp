// The writer: tensors out as JSON text.
//
// A float is the shortest decimal that reads back to the same value in its own type, laid out as
// Python's repr() does; a non-finite one is null. The caller asks most_bytes() first and hands
// memory of that size, so that writing never checks for room. No Python.h, no I/O, no allocation;
// everything runs without the GIL.
#pragma once

#include <cstddef>
#include <cstdint>

#include "element.hpp"
#include "instructions.hpp"

namespace gpux {

// The most bytes that write_tensor can put down for such a tensor (numbers and booleans; not
// strings), or 0 if that number passes size_t. `shape` has `axes` entries, none negative.
std::size_t most_bytes(Type type, int axes, const std::int64_t* shape);

// Writes the dense, C-ordered tensor at `data` as nested JSON arrays (a bare value if it has no
// axes); answers the place behind the last byte.
char* write_tensor(char* out, Type type, int axes, const std::int64_t* shape, const void* data,
                   Instructions instructions = best_instructions());

}  // namespace gpux
