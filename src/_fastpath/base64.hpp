// Base64 with padding, strictly: RFC 4648, 4, without line breaks or other foreign characters (3.1, 3.3) and
// with zeros in the bits that padding leaves over (3.5), so that each text stands for other bytes.
#pragma once

#include <cstddef>
#include <optional>

namespace gpux {

// The number of bytes that a text stands for, by its length and padding; none if no valid text has these.
std::optional<std::size_t> base64_bytes(const char* text, std::size_t size) noexcept;

// Decodes a text to base64_bytes() bytes. Returns whether it is valid; otherwise `out` is unspecified.
bool decode_base64(const char* text, std::size_t size, unsigned char* out) noexcept;

}  // namespace gpux
