#include "base64.hpp"

#include <array>
#include <cstdint>
#include <cstring>

namespace gpux {
namespace {

constexpr std::uint32_t kInvalid = 0x80;

// The six bits of each character.
constexpr std::array<std::uint8_t, 256> kValues = [] {
    constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::array<std::uint8_t, 256> values{};
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = kInvalid;
    }
    for (std::uint8_t i = 0; i < 64; ++i) {
        values[static_cast<unsigned char>(kAlphabet[i])] = i;
    }
    return values;
}();

std::uint32_t value_of(char character) { return kValues[static_cast<unsigned char>(character)]; }

std::size_t count_padding(const char* text, std::size_t size) {
    return size == 0 || text[size - 1] != '=' ? 0 : text[size - 2] != '=' ? 1 : 2;
}

}  // namespace

std::optional<std::size_t> base64_bytes(const char* text, std::size_t size) noexcept {
    if (size % 4 != 0) {
        return std::nullopt;
    }
    return size / 4 * 3 - count_padding(text, size);
}

bool decode_base64(const char* text, std::size_t size, unsigned char* out) noexcept {
    if (size % 4 != 0) {
        return false;
    }
    const std::size_t padding = count_padding(text, size);
    const char* const end = text + size - (padding > 0 ? 4 : 0);
    std::uint32_t seen = 0;
    for (; text < end; text += 4, out += 3) {
        const std::uint32_t a = value_of(text[0]);
        const std::uint32_t b = value_of(text[1]);
        const std::uint32_t c = value_of(text[2]);
        const std::uint32_t d = value_of(text[3]);
        seen |= a | b | c | d;
        const std::uint32_t bits = a << 18 | b << 12 | c << 6 | d;
        out[0] = static_cast<unsigned char>(bits >> 16);
        out[1] = static_cast<unsigned char>(bits >> 8);
        out[2] = static_cast<unsigned char>(bits);
    }
    if (padding > 0) {
        const std::uint32_t a = value_of(text[0]);
        const std::uint32_t b = value_of(text[1]);
        const std::uint32_t c = padding == 1 ? value_of(text[2]) : 0;
        seen |= a | b | c;
        const std::uint32_t bits = a << 18 | b << 12 | c << 6;
        out[0] = static_cast<unsigned char>(bits >> 16);
        if (padding == 1) {
            out[1] = static_cast<unsigned char>(bits >> 8);
        }
        if ((bits & (padding == 1 ? 0xFFu : 0xFFFFu)) != 0) {
            return false;
        }
    }
    return (seen & kInvalid) == 0;
}

}  // namespace gpux
