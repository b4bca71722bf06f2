// Feeds a strided array (a buffer of PEP 3118, so any NumPy array of numbers) to a sink, as the
// same events that the equal nested lists would give.
#pragma once

#include <cstddef>

#include "sink.hpp"

namespace gpux {

// `data` points at the first element; sizes and strides (in bytes, possibly negative) have `axes`
// entries. `type` is what the bytes hold, in native order; bfloat16 and string are not taken (a
// buffer cannot say them). Answers false if the sink refused something. Runs without the GIL.
bool feed(Sink& sink, const unsigned char* data, Type type, int axes, const std::ptrdiff_t* sizes,
          const std::ptrdiff_t* strides);

}  // namespace gpux
