// libFuzzer's entry point for chunked framing: any bytes as a message, whole and in pieces.
//
// The first byte selects the size of the pieces. All must give the same body, end and fault, whatever lies
// behind the message; what is written must be less than what was read, and within the limits. `make fuzz`
// builds it with clang, ASan and UBSan, which see whatever is read or written out of bounds.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "framing.hpp"

namespace {

using gpux::ChunkFault;
using gpux::tests::decode_in_pieces;
using gpux::tests::decode_whole;
using gpux::tests::Framed;

void require(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "wrong: %s\n", what);
        std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    constexpr gpux::ChunkLimits kLimits{1000, 64, 200, 6, 100, 5};
    const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
    const Framed whole = decode_whole(kLimits, text);
    require(decode_in_pieces(kLimits, text, data[0] % 64 + 1) == whole, "the same in pieces");
    require(decode_in_pieces(kLimits, text, 1) == whole, "the same byte by byte");
    require(whole.body.size() <= kLimits.body_bytes, "the body is within its limit");
    require(whole.consumed - whole.body.size() <= 7 * kLimits.body_bytes, "the framing is within its limit");
    require(whole.consumed <= text.size(), "it reads no more than there is");
    if (!whole.is_complete && whole.fault == ChunkFault::none) {
        require(whole.consumed == text.size(), "it waits only for more");
        return 0;
    }
    require(decode_whole(kLimits, text.substr(0, whole.consumed)) == whole, "what follows changes nothing");
    require(decode_whole(kLimits, text + "0\r\n\r\n") == whole, "what follows changes nothing");
    return 0;
}
