// Chunked framing (RFC 9112, 7.1), decoded as it comes: body bytes out, sizes, extensions and trailers away.
//
// Strict: CRLF ends each line, a size is 1 to 16 hexadecimal digits without a sign, prefix or blank, an
// extension has no control characters, and a trailer field is a field by its syntax. Everything is bounded,
// as a sender decides how much framing comes with its bytes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpux {

struct ChunkLimits {
    std::size_t body_bytes;        // of all chunks
    std::size_t line_bytes;        // of a size line, its CRLF included
    std::size_t framing_bytes;     // of all size lines, beside framing_per_byte for each byte of the body
    std::size_t framing_per_byte;  // chunks of one byte need 5: "1\r\n" before it and "\r\n" behind it
    std::size_t trailer_bytes;     // of the trailer section
    std::size_t trailer_fields;
};

enum class ChunkFault {
    none,
    malformed,
    too_large,    // the body, by the size of a chunk, before its bytes come
    too_verbose,  // what comes beside the body
};

// One body. Not thread-safe.
class ChunkDecoder {
public:
    struct Step {
        std::size_t consumed;  // bytes of the data that belong to this message
        std::size_t written;   // bytes of the body
    };

    explicit ChunkDecoder(const ChunkLimits& limits) noexcept : limits_(limits) {}

    // Decodes the next bytes until the message ends or is at fault, after which it consumes nothing more.
    // `out` has room for `size` bytes, and may be `data` itself: writing never overtakes reading.
    Step decode(const char* data, std::size_t size, char* out) noexcept;

    bool is_complete() const { return state_ == State::complete; }
    ChunkFault fault() const { return fault_; }
    std::size_t body_bytes() const { return body_bytes_; }

private:
    enum class State : std::uint8_t {
        size_start,
        size,
        extension,
        size_line_feed,
        data,
        data_return,
        data_line_feed,
        trailer_start,
        trailer_name,
        trailer_value,
        trailer_line_feed,
        last_line_feed,
        complete,
    };

    bool take_framing(unsigned char byte) noexcept;
    bool take_digit(unsigned value) noexcept;
    bool fail(ChunkFault fault) noexcept;

    ChunkLimits limits_;
    State state_ = State::size_start;
    ChunkFault fault_ = ChunkFault::none;
    std::uint8_t digits_ = 0;        // of the size that is read
    std::uint64_t chunk_bytes_ = 0;  // of the present chunk that are still to come
    std::size_t body_bytes_ = 0;     // that were written
    std::size_t line_bytes_ = 0;     // of the present size line
    std::size_t framing_bytes_ = 0;  // of all size lines and of the CRLF behind each chunk
    std::size_t trailer_bytes_ = 0;
    std::size_t trailer_fields_ = 0;
};

}  // namespace gpux
