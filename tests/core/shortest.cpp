// Compares the writer's text of floats with std::to_chars, and each of its instruction sets with the others.
//
//     shortest float32 [STEP [FIRST]]   each STEP-th bit pattern; all 2^32 without arguments
//     shortest float64 [COUNT [SEED]]   edges, and COUNT random values of each sort
//     shortest types [COUNT [SEED]]     all types: random tensors, the same text by each set
//
// std::to_chars finds the digits (the shortest, and among those the nearest to the value); the layout is
// a second, simple implementation. `make core` runs samples of all three, with the sanitizers; the
// first without arguments takes two cores about five minutes without them.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "writer.hpp"

namespace {

using gpux::Instructions;
using gpux::Type;

std::atomic<std::uint64_t> wrong{0};

// Writes a tensor to `memory`, of exactly max_bytes(), so that the sanitizers see each overrun.
std::string_view write_by(int set, std::vector<char>& memory, Type type,
                          const std::vector<std::int64_t>& shape, const void* data) {
    const int axes = static_cast<int>(shape.size());
    memory.resize(gpux::max_bytes(type, axes, shape.data()));
    const char* const end = gpux::write_tensor(memory.data(), type, axes, shape.data(), data,
                                               static_cast<Instructions>(set));
    return {memory.data(), static_cast<std::size_t>(end - memory.data())};
}

// A tensor's text by this processor's best instruction set; wrong if another set's differs.
std::string_view write_by_all(std::vector<char>& memory, Type type, const std::vector<std::int64_t>& shape,
                              const void* data) {
    const int best = static_cast<int>(gpux::best_instructions());
    const std::string_view text = write_by(best, memory, type, shape, data);
    std::vector<char> other;
    for (int set = best - 1; set >= 0; --set) {
        if (write_by(set, other, type, shape, data) != text) {
            ++wrong;
            std::fprintf(stderr, "type %d: the set %d writes something else\n", static_cast<int>(type), set);
        }
    }
    return text;
}

// Python's repr() layout of the digits from std::to_chars.
template <class Float>
std::string expected(Float value) {
    if (!std::isfinite(value)) {
        return "null";
    }
    const std::string sign = std::signbit(value) ? "-" : "";
    if (value == 0) {
        return sign + "0.0";
    }
    char buffer[64];
    const std::string text(
        buffer,
        std::to_chars(buffer, buffer + sizeof buffer, std::fabs(value), std::chars_format::scientific).ptr);
    const std::size_t e = text.find('e');
    const int exponent = std::atoi(text.c_str() + e + 1);
    if (exponent < -4 || exponent >= 16) {
        return sign + text;  // its exponent has at least two digits, too
    }
    std::string digits = text.substr(0, e);
    digits.erase(1, 1);  // the point
    if (exponent < 0) {
        return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    }
    const std::size_t whole = static_cast<std::size_t>(exponent) + 1;
    digits.resize(std::max(digits.size(), whole + 1), '0');
    return sign + digits.insert(whole, ".");
}

// Writes values as one tensor and compares the whole text.
template <class Float>
class Batch {
public:
    Batch() { values_.reserve(kValues); }
    ~Batch() { check(); }

    template <class Bits>
    void add_bits(Bits bits) {
        static_assert(sizeof(Bits) == sizeof(Float));
        Float value;
        std::memcpy(&value, &bits, sizeof value);
        values_.push_back(value);
        if (values_.size() == kValues) {
            check();
        }
    }

private:
    static constexpr std::size_t kValues = 4096;
    static constexpr Type kType = sizeof(Float) == 4 ? Type::float32 : Type::float64;

    void check() {
        if (values_.empty()) {
            return;
        }
        const std::string_view text = write_by_all(text_, kType, {static_cast<std::int64_t>(values_.size())},
                                                   values_.data());
        const char* const end = text.data() + text.size();
        const char* at = text.data() + 1;
        for (const Float value : values_) {
            const std::string right = expected(value);
            const std::size_t size = right.size();
            if (std::string_view(at, size) != right || (at[size] != ',' && at[size] != ']')) {
                if (++wrong <= 20) {
                    std::fprintf(stderr, "%a: expected %s, got %.*s\n", static_cast<double>(value),
                                 right.c_str(), 30, at);
                }
                at = static_cast<const char*>(std::memchr(at, ',', static_cast<std::size_t>(end - at)));
                if (at == nullptr) {
                    break;
                }
                ++at;
                continue;
            }
            at += size + 1;
        }
        if (at != nullptr && at != end) {
            ++wrong;
            std::fprintf(stderr, "the text ends elsewhere\n");
        }
        values_.clear();
    }

    std::vector<Float> values_;
    std::vector<char> text_;
};

void check_float32(std::uint64_t step, std::uint64_t first) {
    const unsigned count = std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < count; ++number) {
        threads.emplace_back([=] {
            Batch<float> batch;
            for (std::uint64_t bits = first + number * step; bits < std::uint64_t{1} << 32;
                 bits += count * step) {
                batch.add_bits(static_cast<std::uint32_t>(bits));
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    std::printf("float32: each %" PRIu64 ". pattern from %" PRIu64 "\n", step, first);
}

void check_float64(std::uint64_t count, std::uint64_t seed) {
    Batch<double> batch;
    const auto around = [&batch](double value, int reach) {
        std::uint64_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        for (int step = -reach; step <= reach; ++step) {
            batch.add_bits(bits + static_cast<std::uint64_t>(step));
        }
    };
    for (int power = -1074; power < 1024; ++power) {
        around(std::ldexp(1.0, power), 20);
    }
    for (int power = -323; power <= 308; ++power) {
        const std::string text = "e" + std::to_string(power);
        for (int digit = 1; digit <= 9; ++digit) {
            around(std::strtod((std::to_string(digit) + text).c_str(), nullptr), 20);
        }
    }
    for (std::uint64_t bits = 0; bits < 200'000; ++bits) {
        batch.add_bits(bits);
        batch.add_bits((std::uint64_t{1} << 52) - bits);
        batch.add_bits(std::uint64_t{0x7FF} << 52 | bits);
    }
    std::mt19937_64 random(seed);
    for (std::uint64_t i = 0; i < count; ++i) {
        batch.add_bits(random());
        batch.add_bits(random() >> 12);  // subnormal
        // Few digits.
        const double digits = static_cast<double>(random() >> (random() % 40 + 24));
        const int power = static_cast<int>(random() % 44) - 22;
        const double value = power < 0 ? digits / std::pow(10.0, -power) : digits * std::pow(10.0, power);
        around(value, 0);
        // Integers and fractions with few bits.
        around(static_cast<double>(random() >> random() % 64), 0);
        around(
            std::ldexp(static_cast<double>(random() >> random() % 64), static_cast<int>(random() % 80) - 60),
            0);
        around(static_cast<double>(random() >> 11) * 0x1p-53, 0);
    }
    std::printf("float64: edges and 6 x %" PRIu64 " random values, seed %" PRIu64 "\n", count, seed);
}

void check_types(std::uint64_t count, std::uint64_t seed) {
    constexpr Type kTypes[] = {Type::float32, Type::float64, Type::float16, Type::bfloat16, Type::boolean,
                               Type::int8,    Type::int16,   Type::int32,   Type::int64,    Type::uint8,
                               Type::uint16,  Type::uint32,  Type::uint64};
    std::mt19937_64 random(seed);
    std::vector<char> text;
    std::vector<std::uint64_t> words;
    for (std::uint64_t i = 0; i < count; ++i) {
        const Type type = kTypes[random() % std::size(kTypes)];
        // Rows of all lengths, ending anywhere in a block.
        const std::vector<std::int64_t> shape{static_cast<std::int64_t>(random() % 5),
                                              static_cast<std::int64_t>(random() % 150)};
        const int fewer = static_cast<int>(random() % 64);
        words.resize(static_cast<std::size_t>(shape[0] * shape[1]));
        for (std::uint64_t& word : words) {
            word = random() >> (random() % 8 == 0 ? 0 : fewer);
            word = random() % 4 == 0 && type != Type::boolean ? 0 - word : word;
        }
        // A word is at least as large as any element.
        write_by_all(text, type, shape, words.data());
    }
    for (const Type type : {Type::float16, Type::bfloat16, Type::int16, Type::uint16}) {
        std::vector<std::uint16_t> all(1 << 16);
        for (std::size_t bits = 0; bits < all.size(); ++bits) {
            all[bits] = static_cast<std::uint16_t>(bits);
        }
        write_by_all(text, type, {1 << 16}, all.data());
    }
    std::printf("types: %" PRIu64 " random tensors, seed %" PRIu64 "\n", count, seed);
}

}  // namespace

int main(int argc, char** argv) {
    const auto argument = [&](int index, std::uint64_t otherwise) {
        return argc > index ? std::strtoull(argv[index], nullptr, 10) : otherwise;
    };
    const std::string type = argc > 1 ? argv[1] : "";
    if (type == "float32") {
        check_float32(std::max<std::uint64_t>(1, argument(2, 1)), argument(3, 0));
    } else if (type == "float64") {
        check_float64(argument(2, 10'000'000), argument(3, 1));
    } else if (type == "types") {
        check_types(argument(2, 20'000), argument(3, 1));
    } else {
        std::fprintf(stderr,
                     "usage: shortest float32 [STEP [FIRST]] | float64 [COUNT [SEED]] | types "
                     "[COUNT [SEED]]\n");
        return 2;
    }
    if (wrong != 0) {
        std::fprintf(stderr, "%" PRIu64 " texts are wrong\n", wrong.load());
        return 1;
    }
    return 0;
}
