// Feeds a strided array (a PEP 3118 buffer, so any NumPy array of numbers, or a DLPack tensor) to a
// sink, as the events of the equal nested lists.
#pragma once

#include <cstddef>

#include "sink.hpp"

namespace gpux {

// `data` points at the first element; `sizes` and `strides` (in bytes, possibly negative) have `axes`
// entries. `type` is the element type, in native byte order, not string. Contiguous rows of the
// input's own type are copied; all others are converted element by element through the widest type of
// their kind. Returns false if the sink rejected something; if it is counting then, the caller passes it the
// array's sizes. Runs without the GIL, so other threads may
// write to the array meanwhile: each element is read once, and the checked value is the stored one.
bool feed(Sink& sink, const unsigned char* data, Type type, int axes, const std::ptrdiff_t* sizes,
          const std::ptrdiff_t* strides) noexcept;

}  // namespace gpux
