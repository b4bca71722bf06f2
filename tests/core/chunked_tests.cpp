// Chunked framing: tables of what is decoded and refused, whole and in pieces of every size.
#include <string>

#include "checks.hpp"
#include "chunked.hpp"
#include "framing.hpp"

namespace gpux::tests {
namespace {

constexpr ChunkLimits kLimits{100, 40, 60, 6, 50, 3};

struct Message {
    std::string text;
    std::string body;
    ChunkFault fault = ChunkFault::none;
    bool is_complete = true;
};

void check_message(const Message& message) {
    const std::string what = quoted(message.text);
    const Framed whole = decode_whole(kLimits, message.text);
    check(whole.fault == message.fault, "the fault of " + what);
    check(whole.body == message.body, "the body of " + what);
    check(whole.is_complete == (message.is_complete && message.fault == ChunkFault::none),
          "the end of " + what);
    for (std::size_t piece = 1; piece <= message.text.size(); ++piece) {
        check(decode_in_pieces(kLimits, message.text, piece) == whole, "pieces of " + what);
    }
}

std::string repeated(const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) {
        all += text;
    }
    return all;
}

void test_messages() {
    const std::string hundred(100, 'x');
    const Message messages[] = {
        {"0\r\n\r\n", ""},
        {"0000\r\n\r\n", ""},
        {"5\r\nhello\r\n0\r\n\r\n", "hello"},
        {"5\r\nhe\r\no\r\n0\r\n\r\n", "he\r\no"},
        {"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789"},
        {"0000000000000002\r\nok\r\n0\r\n\r\n", "ok"},
        {"64\r\n" + hundred + "\r\n0\r\n\r\n", hundred},
        {"2;a=b;c=\"d e\\\"\"\r\nok\r\n0;\t\xE9\r\n\r\n", "ok"},
        {"0\r\nA: b\r\n!#$%&'*+-.^_`|~9:\r\nC:\t\xE9 \r\n\r\n", ""},
        {"5\r\nhell", "hell", ChunkFault::none, false},
        {"5\r\nhello\r\n0\r\n", "hello", ChunkFault::none, false},
        {"\r\n", "", ChunkFault::malformed},
        {"g\r\n", "", ChunkFault::malformed},
        {"0x5\r\n", "", ChunkFault::malformed},
        {"-5\r\n", "", ChunkFault::malformed},
        {"+5\r\n", "", ChunkFault::malformed},
        {" 5\r\n", "", ChunkFault::malformed},
        {"5 \r\n", "", ChunkFault::malformed},
        {"5\n", "", ChunkFault::malformed},
        {"5\r\r", "", ChunkFault::malformed},
        {"5;a\n", "", ChunkFault::malformed},
        {std::string("5;\0\r\n", 5), "", ChunkFault::malformed},
        {"5;\x7F\r\n", "", ChunkFault::malformed},
        {"00000000000000000\r\n", "", ChunkFault::malformed},
        {"1\r\nab\r\n", "a", ChunkFault::malformed},
        {"1\r\na\n", "a", ChunkFault::malformed},
        {"1\r\na\ra", "a", ChunkFault::malformed},
        {"0\r\n\n", "", ChunkFault::malformed},
        {"0\r\n\ra", "", ChunkFault::malformed},
        {"0\r\nA\r\n", "", ChunkFault::malformed},
        {"0\r\nA : b\r\n", "", ChunkFault::malformed},
        {"0\r\n: b\r\n", "", ChunkFault::malformed},
        {"0\r\n A: b\r\n", "", ChunkFault::malformed},
        {"0\r\nA: b\r\n c\r\n", "", ChunkFault::malformed},
        {"0\r\nA: b\n", "", ChunkFault::malformed},
        {std::string("0\r\nA: \0\r\n", 9), "", ChunkFault::malformed},
        {"65", "", ChunkFault::too_large},
        {"ffffffffffffffff", "", ChunkFault::too_large},
        {"64\r\n" + hundred + "\r\n1", hundred, ChunkFault::too_large},
        {"1;" + std::string(36, 'x') + "\r\na\r\n0\r\n\r\n", "a"},
        {"1;" + std::string(39, 'x'), "", ChunkFault::too_verbose},
        {"0\r\nA: " + std::string(50, 'x'), "", ChunkFault::too_verbose},
        {"0\r\n" + repeated("A:\r\n", 3) + "\r\n", ""},
        {"0\r\n" + repeated("A:\r\n", 4), "", ChunkFault::too_verbose},
        {repeated("1\r\na\r\n", 100) + "0\r\n\r\n", repeated("a", 100)},
        {repeated("1;xxxx\r\na\r\n", 20), repeated("a", 15), ChunkFault::too_verbose},
    };
    for (const Message& message : messages) {
        check_message(message);
        if (message.is_complete && message.fault == ChunkFault::none) {
            const Framed more = decode_whole(kLimits, message.text + "5\r\n");
            check(more.consumed == message.text.size(), "what follows " + quoted(message.text));
        }
    }
}

}  // namespace

void test_chunks() { test_messages(); }

}  // namespace gpux::tests
