// Shared by the tests of the core: check() counts the cases and reports failures, and main()
// (core_tests.cpp) reads the counts at the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "element.hpp"

namespace gpux::tests {

struct Count {
    unsigned long cases = 0;
    unsigned long wrong = 0;
};
inline Count count;

inline void check(bool holds, const std::string& what) {
    ++count.cases;
    if (!holds && ++count.wrong <= 50) {
        std::fprintf(stderr, "wrong: %s\n", what.c_str());
    }
}

// A text in memory of exactly its size and a terminating NUL.
class Text {
public:
    explicit Text(const std::string& text) : size_(text.size()), bytes_(new char[size_ + 1]) {
        std::memcpy(bytes_.get(), text.data(), size_);
        bytes_[size_] = '\0';
    }
    const char* begin() const { return bytes_.get(); }
    const char* end() const { return bytes_.get() + size_; }

private:
    std::size_t size_;
    std::unique_ptr<char[]> bytes_;
};

// A text, shortened for a message.
inline std::string quoted(const std::string& text) {
    return text.size() <= 80 ? text : text.substr(0, 80) + "...";
}

// A text in which `^` marks a byte; the mark is no part of it.
struct Marked {
    explicit Marked(const std::string& marked)
        : at(marked.find('^')), text(std::string(marked).erase(at, 1)) {}

    std::size_t at;
    std::string text;
};

inline std::uint64_t bits_of_element(float element) {
    std::uint32_t bits;
    std::memcpy(&bits, &element, sizeof bits);
    return bits;
}

// Calls test() with each type of integers, and an element of it.
template <class Test>
void for_each_integer_type(Test test) {
    test(Type::int8, std::int8_t{});
    test(Type::int16, std::int16_t{});
    test(Type::int32, std::int32_t{});
    test(Type::int64, std::int64_t{});
    test(Type::uint8, std::uint8_t{});
    test(Type::uint16, std::uint16_t{});
    test(Type::uint32, std::uint32_t{});
    test(Type::uint64, std::uint64_t{});
}

// The same with each type of floats.
template <class Test>
void for_each_float_type(Test test) {
    test(Type::float64, double{});
    test(Type::float32, float{});
    test(Type::float16, Half{});
    test(Type::bfloat16, BFloat{});
}

// Checks read_float32s() with the number among others, spelled in several ways: it may decline the number,
// but must otherwise produce these bits, and the neighbours' own.
void check_among_others(const std::string& text, std::uint64_t bits);

// One per file.
void test_numbers();
void test_float32s();
void test_reader();
void test_sink();
void test_strided();
void test_activations();
void test_requests();
void test_chunks();
void test_known_sections();

}  // namespace gpux::tests
