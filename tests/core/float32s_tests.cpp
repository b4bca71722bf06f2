// read_float32s() against strtod() and a second rounding, and the text that it declines.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "checks.hpp"
#include "float32s.hpp"
#include "instructions.hpp"

namespace gpux::tests {

#ifdef GPUX_HAS_FLOAT32S
namespace {

struct Found {
    std::size_t count;
    std::size_t after;
};

// Runs read_float32s() on memory that ends where it may read and write. The numbers must be those that
// strtod() reads, rounded once more.
Found read_text(const std::string& text, std::size_t room) {
    const Text body("[[[" + text);
    const std::unique_ptr<float[]> out(new float[room]);
    const char* after = nullptr;
    const char* const begin = body.begin() + kFloat32sLookback;
    const std::size_t count = read_float32s(begin, body.end(), out.get(), room, &after);
    const char* at = begin;
    for (std::size_t i = 0; i < count; ++i) {
        char* stop = nullptr;
        const float expected = static_cast<float>(std::strtod(at, &stop));
        check(bits_of_element(out[i]) == bits_of_element(expected), "a number of " + quoted(text));
        check(*stop == ',', "a comma after each number of " + quoted(text));
        at = stop + 1;
    }
    check(after == at, "the position after the last number of " + quoted(text));
    return {count, static_cast<std::size_t>(after - begin)};
}

}  // namespace

void test_float32s() {
    if (best_instructions() < Instructions::avx2) {
        return;
    }
    const std::string end(80, ' ');
    // How many numbers are read before other text.
    struct Case {
        const char* text;
        std::size_t count;
    };
    // clang-format off
    for (const Case& one : {
             Case{"1,2,3,", 3}, {"1, 2, 3, ", 3}, {"-1,-2.5, -3.25,", 3}, {"0,0.0,-0.0,-0,", 4},
             {"1.5,10.5,100.5,1000.5,", 3}, {"999.999,0.001,", 2}, {"255,0,17,", 3},
             {"1,2,3", 2}, {"1,2,3],", 2}, {"1,2,  3,", 2}, {"1,2 ,3,", 1}, {"1,2,\n3,", 2},
             {"1,2,1e5,", 2}, {"1,2.5e5,", 1}, {"1,01,", 1}, {"1,-01,", 1}, {"1,00,", 1}, {"1,010.5,", 1},
             {"1,.5,", 1}, {"1,5.,", 1}, {"1,-,", 1}, {"1,--1,", 1}, {"1,+1,", 1}, {"1,1.5.5,", 1},
             {"1,1..5,", 1}, {"1,-.5,", 1}, {"1,- 5,", 1}, {"1,1-,", 1}, {"1,1 5,", 1}, {"1,,", 1},
             {"1,null,", 1}, {"1,\xB5,", 1}, {"1,[2,3],", 1}, {"1,2a,", 1}, {"1,\"2\",", 1}, {"1,2:", 1},
             {"1,2/,", 1}, {"1,1.:,", 1}, {"1,:1,", 1}, {"1,/1,", 1}, {",", 0}, {"]", 0},
         }) {
        // clang-format on
        check(read_text(one.text + end, 100).count == one.count, "how many of " + quoted(one.text));
    }
    // The same after other numbers, at each offset in a block.
    for (std::size_t others = 0; others < 80; ++others) {
        std::string start;
        for (std::size_t i = 0; i < others; ++i) {
            start += i % 3 == 0 ? "1," : i % 3 == 1 ? "-2.25, " : "17.125,";
        }
        for (const char* const wrong : {"01,", "1..5,", "--1,", "1e5,", "1000,", "1 ,"}) {
            check(read_text(start + wrong + end, 100).count == others, "what is wrong, after others");
        }
    }
    // No more than `room`, and no reads past the end.
    std::string many;
    for (int i = 0; i < 300; ++i) {
        many += i % 2 == 0 ? "0.5," : "-123.0625, ";
    }
    for (std::size_t room = 0; room <= 300; ++room) {
        check(read_text(many + end, room).count == room, "as many as there is room for");
    }
    for (std::size_t size = 0; size < 300; ++size) {
        read_text(many.substr(0, size), 400);
    }
    // All lengths, and decimals next to the midpoint of two float32s.
    std::mt19937_64 random(1);
    for (int i = 0; i < 3000; ++i) {
        std::string text;
        for (int j = 0; j < 40; ++j) {
            text += random() % 3 == 0 ? "-" : "";
            text += std::to_string(random() % (random() % 2 == 0 ? 10 : 1000));
            const std::uint64_t digits = random() % 24;
            text += digits > 0 ? "." : "";
            for (std::uint64_t digit = 0; digit < digits; ++digit) {
                text += static_cast<char>('0' + random() % 10);
            }
            text += random() % 2 == 0 ? "," : ", ";
        }
        check(read_text(text + end, 100).count == 40, "all of " + quoted(text));
    }
    for (int i = 0; i < 3000; ++i) {
        const float value = static_cast<float>(random() % 100'000'000) / 1e5f;
        const double next = std::nextafter(value, 1e9f);
        char middle[64];
        std::snprintf(middle, sizeof middle, "%.60f", (static_cast<double>(value) + next) / 2);
        std::string text = middle;
        text.erase(text.find_last_not_of('0') + 1);
        text += text.back() == '.' ? "0" : "";
        std::string below = text;
        below.back() -= below.back() > '0' ? 1 : 0;
        read_text(text + "," + text + "1, " + below + "9," + text.substr(0, 14) + ", " + end, 100);
    }
}

void check_among_others(const std::string& text, std::uint64_t bits) {
    if (best_instructions() < Instructions::avx2) {
        return;
    }
    constexpr std::size_t kOthers = 5;
    for (const std::string spelling : {"-0.5", "12.25", "0.12345678901234567"}) {
        std::string list = "[[[";
        for (std::size_t i = 0; i < 2 * kOthers + 1; ++i) {
            list += (i == kOthers ? text : spelling) + (i % 2 == 0 ? ", " : ",");
        }
        const Text body(list + std::string(80, ' '));
        std::vector<float> out(2 * kOthers + 1);
        const char* after = nullptr;
        const std::size_t count = read_float32s(body.begin() + kFloat32sLookback, body.end(), out.data(),
                                                out.size(), &after);
        check(count == kOthers || count == out.size(), "those before: " + quoted(text));
        check(after[-1] == ',', "it stands after a comma: " + quoted(text));
        for (std::size_t i = 0; i < count; ++i) {
            const float other = std::strtof(spelling.c_str(), nullptr);
            const std::uint64_t expected = i == kOthers ? bits : bits_of_element(other);
            check(bits_of_element(out[i]) == expected, "among others: " + quoted(text));
        }
    }
}
#else
void test_float32s() {}
void check_among_others(const std::string&, std::uint64_t) {}
#endif

}  // namespace gpux::tests
