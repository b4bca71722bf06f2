// Shared by the tests and the fuzzer of chunked framing: a body decoded whole, in pieces, and in place.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "chunked.hpp"

namespace gpux::tests {

// What became of a message.
struct Framed {
    std::string body;
    std::size_t consumed = 0;
    bool is_complete = false;
    ChunkFault fault = ChunkFault::none;

    bool operator==(const Framed& other) const {
        return body == other.body && consumed == other.consumed && is_complete == other.is_complete &&
               fault == other.fault;
    }
};

// Decodes a message in pieces of a size, each in memory of exactly its size, and in that memory.
inline Framed decode_in_pieces(const ChunkLimits& limits, const std::string& text, std::size_t piece) {
    ChunkDecoder decoder(limits);
    Framed framed;
    for (std::size_t at = 0; at < text.size(); at += piece) {
        std::vector<char> memory(
            text.begin() + static_cast<std::ptrdiff_t>(at),
            text.begin() + static_cast<std::ptrdiff_t>(std::min(at + piece, text.size())));
        const auto step = decoder.decode(memory.data(), memory.size(), memory.data());
        framed.body.append(memory.data(), step.written);
        framed.consumed += step.consumed;
        if (step.consumed < memory.size()) {
            break;
        }
    }
    framed.is_complete = decoder.is_complete();
    framed.fault = decoder.fault();
    return framed;
}

// Decodes it whole, into other memory of exactly its size.
inline Framed decode_whole(const ChunkLimits& limits, const std::string& text) {
    ChunkDecoder decoder(limits);
    const std::vector<char> data(text.begin(), text.end());
    std::vector<char> out(text.size());
    const auto step = decoder.decode(data.data(), data.size(), out.data());
    return {std::string(out.data(), step.written), step.consumed, decoder.is_complete(), decoder.fault()};
}

}  // namespace gpux::tests
