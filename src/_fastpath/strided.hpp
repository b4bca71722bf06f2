// Feeds a strided array (a buffer of PEP 3118, so any NumPy array of numbers, or a tensor of DLPack)
// to a sink, as the same events that the equal nested lists would give.
#pragma once

#include <cstddef>

#include "sink.hpp"

namespace gpux {

// `data` points at the first element; sizes and strides (in bytes, possibly negative) have `axes`
// entries. `type` is what the bytes hold, in native order, and not string. Rows without gaps that are
// of the input's own type are copied; all others go element by element through the widest type of
// their kind. Answers false if the sink refused something. Runs without the GIL, so others may write
// to the array meanwhile: each element is read once, and what is checked is what is stored.
bool feed(Sink& sink, const unsigned char* data, Type type, int axes, const std::ptrdiff_t* sizes,
          const std::ptrdiff_t* strides);

}  // namespace gpux
