#include "chunked.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace gpux {
namespace {

constexpr std::uint8_t kDigit = 0x0F;  // the value of a hexadecimal digit
constexpr std::uint8_t kIsDigit = 0x10;
constexpr std::uint8_t kIsToken = 0x20;  // may stand in a field's name (RFC 9110, 5.6.2)
constexpr std::uint8_t kIsText = 0x40;   // may stand in a field's value (RFC 9110, 5.5) or an extension
constexpr unsigned kMostDigits = 16;

constexpr std::array<std::uint8_t, 256> kClasses = [] {
    std::array<std::uint8_t, 256> classes{};
    for (unsigned byte = 0; byte < 256; ++byte) {
        const bool is_digit = byte >= '0' && byte <= '9';
        const unsigned lower = byte | 0x20;
        const bool is_letter = lower >= 'a' && lower <= 'z';
        std::uint8_t bits = 0;
        if (is_digit) {
            bits = static_cast<std::uint8_t>(kIsDigit | (byte - '0'));
        } else if (lower >= 'a' && lower <= 'f') {
            bits = static_cast<std::uint8_t>(kIsDigit | (lower - 'a' + 10));
        }
        bool is_token = is_digit || is_letter;
        for (const char* mark = "!#$%&'*+-.^_`|~"; *mark != '\0'; ++mark) {
            is_token = is_token || byte == static_cast<unsigned char>(*mark);
        }
        if (is_token) {
            bits = static_cast<std::uint8_t>(bits | kIsToken);
        }
        if (byte == '\t' || (byte >= ' ' && byte != 0x7F)) {
            bits = static_cast<std::uint8_t>(bits | kIsText);
        }
        classes[byte] = bits;
    }
    return classes;
}();

}  // namespace

bool ChunkDecoder::fail(ChunkFault fault) noexcept {
    fault_ = fault;
    return false;
}

bool ChunkDecoder::take_digit(unsigned value) noexcept {
    if (++digits_ > kMostDigits) {
        return fail(ChunkFault::malformed);
    }
    chunk_bytes_ = chunk_bytes_ << 4 | value;
    return chunk_bytes_ <= limits_.body_bytes - body_bytes_ || fail(ChunkFault::too_large);
}

// Takes a byte that is not of the body. Returns whether the message goes on.
bool ChunkDecoder::take_framing(unsigned char byte) noexcept {
    const std::uint8_t bits = kClasses[byte];
    const auto expect = [this, byte](unsigned char expected, State next) {
        if (byte != expected) {
            return fail(ChunkFault::malformed);
        }
        state_ = next;
        return true;
    };
    if (state_ >= State::trailer_start) {
        if (++trailer_bytes_ > limits_.trailer_bytes) {
            return fail(ChunkFault::too_verbose);
        }
    } else {
        ++line_bytes_;
        ++framing_bytes_;
        if (line_bytes_ > limits_.line_bytes ||
            (framing_bytes_ > limits_.framing_bytes &&
             (framing_bytes_ - limits_.framing_bytes) / limits_.framing_per_byte > body_bytes_)) {
            return fail(ChunkFault::too_verbose);
        }
    }
    switch (state_) {
        case State::size_start:
            if ((bits & kIsDigit) == 0) {
                return fail(ChunkFault::malformed);
            }
            state_ = State::size;
            digits_ = 0;
            chunk_bytes_ = 0;
            return take_digit(bits & kDigit);
        case State::size:
            if ((bits & kIsDigit) != 0) {
                return take_digit(bits & kDigit);
            }
            if (byte == ';') {
                state_ = State::extension;
                return true;
            }
            return expect('\r', State::size_line_feed);
        case State::extension: return (bits & kIsText) != 0 || expect('\r', State::size_line_feed);
        case State::size_line_feed:
            line_bytes_ = 0;
            return expect('\n', chunk_bytes_ > 0 ? State::data : State::trailer_start);
        case State::data_return: return expect('\r', State::data_line_feed);
        case State::data_line_feed: line_bytes_ = 0; return expect('\n', State::size_start);
        case State::trailer_start:
            if (byte == '\r') {
                state_ = State::last_line_feed;
                return true;
            }
            if (++trailer_fields_ > limits_.trailer_fields) {
                return fail(ChunkFault::too_verbose);
            }
            state_ = State::trailer_name;
            return (bits & kIsToken) != 0 || fail(ChunkFault::malformed);
        case State::trailer_name: return (bits & kIsToken) != 0 || expect(':', State::trailer_value);
        case State::trailer_value: return (bits & kIsText) != 0 || expect('\r', State::trailer_line_feed);
        case State::trailer_line_feed: return expect('\n', State::trailer_start);
        case State::last_line_feed: return expect('\n', State::complete);
        case State::data:
        case State::complete: break;
    }
    return false;  // not reached: decode() handles both
}

ChunkDecoder::Step ChunkDecoder::decode(const char* data, std::size_t size, char* out) noexcept {
    std::size_t at = 0;
    std::size_t written = 0;
    while (at < size && state_ != State::complete && fault_ == ChunkFault::none) {
        if (state_ != State::data) {
            take_framing(static_cast<unsigned char>(data[at++]));
            continue;
        }
        const auto piece = static_cast<std::size_t>(std::min<std::uint64_t>(chunk_bytes_, size - at));
        std::memmove(out + written, data + at, piece);
        at += piece;
        written += piece;
        body_bytes_ += piece;
        chunk_bytes_ -= piece;
        if (chunk_bytes_ == 0) {
            state_ = State::data_return;
        }
    }
    return {at, written};
}

}  // namespace gpux
