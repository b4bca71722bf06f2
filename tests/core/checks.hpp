// What the tests of the core share: a case is checked, what is wrong is told and counted, and main()
// (core_tests.cpp) asks at the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

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

// A text in memory of exactly its size, which ends with the NUL behind it.
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

// Of a long text, as much as a message needs.
inline std::string quoted(const std::string& text) {
    return text.size() <= 80 ? text : text.substr(0, 80) + "...";
}

// read_float32s() may leave a number to others, but what it takes has these bits, as have its
// neighbours, which are spelled in several ways.
void check_among_others(const std::string& text, std::uint64_t bits);

// One for each file.
void test_numbers();
void test_float32s();
void test_reader();
void test_sink();
void test_strided();
void test_activations();

}  // namespace gpux::tests
