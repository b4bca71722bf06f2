// read_float32s() and read_float32_rows() against strtod() and a second rounding, and the text that it declines.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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

// Runs read_float32s() on memory that ends where it may read and write. The numbers must be those that
// strtod() reads, rounded once more.
std::size_t read_text(const std::string& text, std::size_t room) {
    const Text body("[[[[" + text);
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
    check(count == 0 || after == at - 1, "where the last number ends: " + quoted(text));
    return count;
}

// The same of read_float32_rows(): lists of `row` numbers, the first of which has `left` of them left.
std::size_t read_rows(const std::string& text, std::size_t room, std::size_t left, std::size_t row) {
    const Text body("[[[[" + text);
    const std::unique_ptr<float[]> out(new float[room]);
    const char* after = nullptr;
    const char* at = body.begin() + kFloat32sLookback;
    const std::size_t count = read_float32_rows(at, body.end(), out.get(), room, left, row, &after);
    for (std::size_t i = 0; i < count; ++i) {
        char* end = nullptr;
        const float expected = static_cast<float>(std::strtod(at, &end));
        check(bits_of_element(out[i]) == bits_of_element(expected), "a number of the lists " + quoted(text));
        const bool is_last = i >= left - 1 && (i - (left - 1)) % row == 0;
        check(*end == (is_last ? ']' : ','), "what ends each number of the lists " + quoted(text));
        check(i < count - 1 || after == end, "where the last number ends: " + quoted(text));
        at = end + std::strspn(end, "], [");
    }
    return count;
}

void test_rows() {
    const std::string end(80, ' ');
    // How many numbers are read, from lists of three after the first number, before other text.
    struct Case {
        const char* text;
        std::size_t count;
    };
    // clang-format off
    for (const Case& one : {
             Case{"2,3],[4,5,6],[7,8,9],[", 8}, {"2, 3], [4, 5, 6], [7, ", 6}, {"-2,3],[-4, 5,-6],[0,", 6},
             {"2,3],[4,5,6],[7,8,9]]", 7}, {"2,3],[4,5,6]", 4}, {"2,3],[4,5,6],", 4}, {"2,3],[4,5,6], ", 4},
             {"2,3],[ 4,5,", 4}, {"2,3],  [4,", 1}, {"2,3] ,[4,", 1}, {"2,3 ],[4,", 1}, {"2,3],\n[4,", 1},
             {"2,3]],[[4,", 1}, {"2,3],[[4,", 2}, {"2,3],[],[4,", 2}, {"2,3],4,", 1}, {"2,3][4,", 1},
             {"2,3],,[4,", 1}, {"2,3],]4,", 1}, {"2,3[4,", 1}, {"2,],[4,", 1}, {"2,-],[4,", 1},
             {"2,3.],[4,", 1}, {"2,03],[4,", 1}, {"2,3e1],[4,", 1}, {"2,[3],[4,", 1}, {"2],[4,5,", 0},
             {"2,3],[4,5],[6,", 3}, {"2,3,4],[5,", 1}, {"2,3],[4,5,6,7],[8,", 4}, {"2,3],[-4,5,6],[true,", 5},
             {"2,3],[4],[5],[6],", 2}, {"],[2,3,4],[", 0}, {"[2,3],[", 0},
         }) {
        // clang-format on
        check(read_rows(one.text + end, 100, 2, 3) == one.count, "how many of the lists " + quoted(one.text));
    }
    // Every length of a list, from each of its numbers on, with a fault at each number: what is beside a
    // number must not matter, nor where a block ends.
    std::mt19937_64 random(2);
    const char* const separators[] = {",", ", "};
    const char* const lists[] = {"],[", "], ["};
    const char* const numbers[] = {"1", "-2.5", "0.12345678901234567", "33", "-255.0", "1000.5", "-0"};
    for (std::size_t row = 1; row <= kMaxFloat32sRow; ++row) {
        for (std::size_t left = 1; left <= row; ++left) {
            const std::size_t fault = random() % 150;
            const bool is_split = random() % 2 == 0;
            const bool is_joined = !is_split && random() % 2 == 0;
            std::string text;
            std::size_t expected = 150;
            std::size_t in_row = left;
            for (std::size_t i = 0; i < 150; ++i) {
                bool is_last = --in_row == 0;
                in_row = is_last ? row : in_row;
                if (i == fault && (is_last ? is_joined : is_split)) {
                    is_last = !is_last;
                    expected = i;
                }
                text += numbers[random() % 7];
                text += (is_last ? lists : separators)[random() % 2];
            }
            check(read_rows(text + end, 200, left, row) == expected, "up to a list of another length");
            const std::size_t room = random() % 151;
            check(read_rows(text + end, room, left, row) == std::min(room, expected), "as there is room for");
            read_rows(text.substr(0, random() % text.size()), 200, left, row);
        }
    }
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
             {"1.5,10.5,100.5,1000.5,", 4}, {"999.999,0.001,", 2},
             {"12345678,-12345678.5,123456789,", 2}, {"1,0123.5,", 1}, {"255,0,17,", 3},
             {"1,2,3", 2}, {"1,2,3],", 2}, {"1,2,  3,", 2}, {"1,2 ,3,", 1}, {"1,2,\n3,", 2},
             {"1,2,1e5,", 2}, {"1,2.5e5,", 1}, {"1,01,", 1}, {"1,-01,", 1}, {"1,00,", 1}, {"1,010.5,", 1},
             {"1,.5,", 1}, {"1,5.,", 1}, {"1,-,", 1}, {"1,--1,", 1}, {"1,+1,", 1}, {"1,1.5.5,", 1},
             {"1,1..5,", 1}, {"1,-.5,", 1}, {"1,- 5,", 1}, {"1,1-,", 1}, {"1,1 5,", 1}, {"1,,", 1},
             {"1,null,", 1}, {"1,\xB5,", 1}, {"1,[2,3],", 1}, {"1,2a,", 1}, {"1,\"2\",", 1}, {"1,2:", 1},
             {"1,2/,", 1}, {"1,1.:,", 1}, {"1,:1,", 1}, {"1,/1,", 1}, {",", 0}, {"]", 0},
         }) {
        // clang-format on
        check(read_text(one.text + end, 100) == one.count, "how many of " + quoted(one.text));
    }
    // The same after other numbers, at each offset in a block.
    for (std::size_t others = 0; others < 80; ++others) {
        std::string start;
        for (std::size_t i = 0; i < others; ++i) {
            start += i % 3 == 0 ? "1," : i % 3 == 1 ? "-2.25, " : "17.125,";
        }
        for (const char* const wrong : {"01,", "1..5,", "--1,", "1e5,", "123456789,", "1 ,"}) {
            check(read_text(start + wrong + end, 100) == others, "what is wrong, after others");
        }
    }
    // No more than `room`, and no reads past the end.
    std::string many;
    for (int i = 0; i < 300; ++i) {
        many += i % 2 == 0 ? "0.5," : "-123.0625, ";
    }
    for (std::size_t room = 0; room <= 300; ++room) {
        check(read_text(many + end, room) == room, "as many as there is room for");
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
            const std::uint64_t limits[] = {10, 10, 1000, 100'000'000};
            text += std::to_string(random() % limits[random() % 4]);
            const std::uint64_t digits = random() % 24;
            text += digits > 0 ? "." : "";
            for (std::uint64_t digit = 0; digit < digits; ++digit) {
                text += static_cast<char>('0' + random() % 10);
            }
            text += random() % 2 == 0 ? "," : ", ";
        }
        check(read_text(text + end, 100) == 40, "all of " + quoted(text));
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
    test_rows();
}

void check_among_others(const std::string& text, std::uint64_t bits) {
    if (best_instructions() < Instructions::avx2) {
        return;
    }
    constexpr std::size_t kOthers = 5;
    for (const std::string spelling : {"-0.5", "12.25", "0.12345678901234567"}) {
        std::string list = "[[[[";
        for (std::size_t i = 0; i < 2 * kOthers + 1; ++i) {
            list += (i == kOthers ? text : spelling) + (i % 2 == 0 ? ", " : ",");
        }
        const Text body(list + std::string(80, ' '));
        std::vector<float> out(2 * kOthers + 1);
        const char* after = nullptr;
        const std::size_t count = read_float32s(body.begin() + kFloat32sLookback, body.end(), out.data(),
                                                out.size(), &after);
        check(count == kOthers || count == out.size(), "those before: " + quoted(text));
        check(*after == ',', "a comma follows the last one: " + quoted(text));
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
