// Activations of an output before it is encoded: softmax, sigmoid, L2 normalization.
//
// Each element is computed in float64 and rounded once to the output's type.
#pragma once

#include <cstddef>

#include "element.hpp"

namespace gpux {

enum class Activation : int { softmax, sigmoid, normalize };

// Applies an activation to each row of `rows` x `size` elements of a float type.
//
// `in` and `out` are dense and must not overlap. NaN propagates to every element that depends on it;
// `normalize` leaves a row of zeros as it is.
void activate(Activation activation, Type type, std::size_t rows, std::size_t size, const void* in,
              void* out) noexcept;

}  // namespace gpux
