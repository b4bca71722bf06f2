// What may be done to an output before it is answered: softmax, sigmoid, division by the norm.
//
// Each element is computed in float64 and rounded once to the output's own type.
#pragma once

#include <cstddef>

#include "element.hpp"

namespace gpux {

enum class Activation : int { softmax, sigmoid, normalize };

// Applies an activation to each row of `rows` x `size` elements of a float type.
//
// `in` and `out` are dense and do not overlap. NaN makes a NaN of all that depends on it; a row
// without length stays zero under `normalize`.
void activate(
    Activation activation, Type type, std::size_t rows, std::size_t size, const void* in, void* out
);

}  // namespace gpux
