// The program that counts.py runs under callgrind: each case decodes a body or encodes a tensor once, with
// collection switched on, and dumps the counts under its name. The first line of output names the compiler.
//
// The bodies come from a random generator and std::to_chars, which produce the same bytes on every
// machine. The writer's instruction sets are chosen explicitly. All results are checked: a body must
// decode to its numbers, and a text must read back.
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <valgrind/callgrind.h>

#include "reading.hpp"
#include "writer.hpp"

namespace {

using namespace gpux;
using gpux::tests::bytes_of;
using gpux::tests::require;
using gpux::tests::Signature;
using gpux::tests::spec_of;

// SplitMix64.
// Source: G. L. Steele, D. Lea, C. H. Flood, Fast splittable pseudorandom number generators, 2014.
class Random {
public:
    std::uint64_t bits() {
        std::uint64_t mixed = state_ += 0x9E3779B97F4A7C15;
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9;
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
        return mixed ^ (mixed >> 31);
    }
    std::uint64_t below(std::uint64_t limit) { return bits() % limit; }
    // In [0, 1).
    double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
    // Roughly a normal deviate, the sum of twelve uniform ones; some are small and need an exponent.
    double deviate() {
        double sum = -6;
        for (int i = 0; i < 12; ++i) {
            sum += unit();
        }
        return below(64) == 0 ? sum * 1e-6 : sum;
    }

private:
    std::uint64_t state_ = 1;
};

// Appends a tensor as JSON, with the spaces of Python's json.
template <class Number>
void append_json(std::string& text, const Number*& next, const std::size_t* sizes, std::size_t axes) {
    if (axes == 0) {
        char number[32];
        text.append(number, std::to_chars(number, number + sizeof number, *next++).ptr);
        return;
    }
    text += '[';
    for (std::size_t i = 0; i < *sizes; ++i) {
        text += i == 0 ? "" : ", ";
        append_json(text, next, sizes + 1, axes - 1);
    }
    text += ']';
}

template <class Number>
std::string json_of(const std::vector<Number>& numbers, const std::vector<std::size_t>& shape) {
    std::string text;
    const Number* next = numbers.data();
    append_json(text, next, shape.data(), shape.size());
    return text;
}

// Counts a case.
template <class Work>
void count(const char* name, Work work) {
    CALLGRIND_TOGGLE_COLLECT;
    work();
    CALLGRIND_TOGGLE_COLLECT;
    CALLGRIND_DUMP_STATS_AT(name);
}

// The reader's memory: a block per input that never needs to grow, as in the server's pool after the
// first requests.
struct Blocks {
    const Reader* reader = nullptr;
    std::vector<std::vector<unsigned char>> bytes;
};

bool provide(void* owner, Memory* memory, std::size_t needed) {
    Blocks& blocks = *static_cast<Blocks*>(owner);
    std::vector<unsigned char>& block = blocks.bytes[blocks.reader->current()];
    memory->data = block.data();
    memory->capacity = block.size();
    return needed <= block.size();
}

// Counts the decoding of a body, which must succeed. Returns the tensors, by input.
std::vector<std::vector<unsigned char>> decode(const char* name, const Signature& signature,
                                               const std::string& body) {
    Blocks blocks;
    blocks.bytes.resize(signature.inputs.size());
    for (std::vector<unsigned char>& block : blocks.bytes) {
        block.resize(8 * body.size() + 64);
    }
    bool done = false;
    count(name, [&] {
        Reader reader(body.c_str(), body.size(), signature.inputs, &blocks, provide);
        blocks.reader = &reader;
        done = reader.read();
    });
    require(done, name);
    return blocks.bytes;
}

template <class Element>
bool starts_with(const std::vector<unsigned char>& block, const std::vector<Element>& elements) {
    return bytes_of(block).substr(0, bytes_of(elements).size()) == bytes_of(elements);
}

template <class Element>
void decode_tensor(const char* name, Type type, std::initializer_list<std::int64_t> declared,
                   const std::string& value, const std::vector<Element>& expected) {
    Signature signature;
    signature.add("x", spec_of(type, declared));
    const auto tensors = decode(name, signature, "{\"x\": " + value + "}");
    require(starts_with(tensors[0], expected), name);
}

// Counts the encoding of a tensor by each instruction set that valgrind has, which lacks AVX-512. The text
// must read back to the same elements.
template <class Element>
void encode(const std::string& name, Type type, const std::vector<std::int64_t>& shape,
            const std::vector<Element>& elements) {
    const int axes = static_cast<int>(shape.size());
    const struct {
        const char* name;
        Instructions instructions;
    } sets[] = {{"baseline", Instructions::baseline}, {"avx2", Instructions::avx2}};
    for (const auto& set : sets) {
        if (best_instructions() < set.instructions) {
            continue;
        }
        const std::string what = "encode " + name + ", " + set.name;
        std::vector<char> text(max_bytes(type, axes, shape.data()));
        char* end = nullptr;
        count(what.c_str(), [&] {
            end = write_tensor(text.data(), type, axes, shape.data(), elements.data(), set.instructions);
        });
        Signature signature;
        signature.add("x", spec_of(type, {}));
        const std::string body = "{\"x\":" + std::string(text.data(), end) + "}";
        const gpux::tests::Reading reading(signature, body);
        require(reading.done(), what.c_str());
        const std::string_view found = reading.elements_of(reading.reader().values()[0]);
        require(found.size() == elements.size() * sizeof(Element), what.c_str());
        require(std::memcmp(found.data(), elements.data(), found.size()) == 0, what.c_str());
    }
}

template <class Number, class Draw>
std::vector<Number> draw(std::size_t count, Draw next) {
    std::vector<Number> numbers(count);
    for (Number& number : numbers) {
        number = static_cast<Number>(next());
    }
    return numbers;
}

template <class To, class From>
std::vector<To> cast(const std::vector<From>& numbers) {
    return std::vector<To>(numbers.begin(), numbers.end());
}

void decode_all() {
    Random random;
    const auto deviates = draw<float>(16 * 256, [&] { return random.deviate(); });
    const auto units = draw<double>(16 * 256, [&] { return random.unit(); });
    const auto wide = draw<double>(16 * 256, [&] { return random.deviate() * 1e5; });
    const auto pixels = draw<float>(3 * 32 * 32,
                                    [&] { return static_cast<double>(random.below(10'000)) / 1e4; });
    const auto bytes = draw<std::uint8_t>(3 * 32 * 32, [&] { return random.below(256); });
    const auto ids = draw<std::int64_t>(32 * 128, [&] { return random.below(30'522); });
    const auto large = draw<std::int64_t>(
        32 * 128, [&] { return static_cast<std::int64_t>(random.bits()) >> random.below(60); });
    const auto row = draw<double>(4, [&] { return random.deviate(); });

    decode_tensor("decode floats, shortest", Type::float32, {-1, 256}, json_of(deviates, {16, 256}),
                  deviates);
    decode_tensor("decode floats, 17 digits", Type::float32, {-1, 256}, json_of(units, {16, 256}),
                  cast<float>(units));
    decode_tensor("decode float64", Type::float64, {-1, 256}, json_of(wide, {16, 256}), wide);
    decode_tensor("decode image, 4 decimals", Type::float32, {-1, 3, 32, 32}, json_of(pixels, {1, 3, 32, 32}),
                  pixels);
    decode_tensor("decode image, bytes", Type::uint8, {-1, 3, 32, 32}, json_of(bytes, {1, 3, 32, 32}), bytes);
    decode_tensor("decode integers", Type::int64, {-1, 128}, json_of(large, {32, 128}), large);
    decode_tensor("decode a row of four", Type::float32, {-1, 4}, json_of(row, {1, 4}), cast<float>(row));

    Signature tokens;
    tokens.add("input_ids", spec_of(Type::int64, {-1, -1}));
    tokens.add("attention_mask", spec_of(Type::int64, {-1, -1}));
    const std::vector<std::int64_t> mask(ids.size(), 1);
    const auto read = decode("decode token ids and mask", tokens,
                             "{\"input_ids\": " + json_of(ids, {32, 128}) +
                                 ", \"attention_mask\": " + json_of(mask, {32, 128}) + "}");
    require(starts_with(read[0], ids), "token ids");
    require(starts_with(read[1], mask), "their mask");

    // Words, some with escapes or beyond ASCII.
    Signature words;
    words.add("text", spec_of(Type::string, {-1}));
    std::string texts;
    for (int i = 0; i < 512; ++i) {
        texts += i == 0 ? "\"" : ", \"";
        for (std::uint64_t left = 4 + random.below(40); left > 0; --left) {
            texts += static_cast<char>('a' + random.below(26));
        }
        texts += i % 8 == 0 ? " \\\"\\u00e9\\n\"" : i % 8 == 1 ? " \xC3\xA9\xE2\x82\xAC\"" : "\"";
    }
    decode("decode strings", words, "{\"text\": [" + texts + "]}");

    // Several inputs and all kinds of numbers, pretty-printed.
    Signature mixed;
    mixed.add("numbers", spec_of(Type::float32, {-1, 8}));
    mixed.add("flags", spec_of(Type::boolean, {-1}));
    mixed.add("half", spec_of(Type::float16, {-1}));
    mixed.add("text", spec_of(Type::string, {-1}));
    mixed.add("rate", spec_of(Type::int32, {}));
    std::string rows, flags, halves, lines;
    for (int i = 0; i < 128; ++i) {
        const std::string comma = i == 0 ? "\n" : ",\n";
        rows += comma + "    [0, -0.0, 1e3, 1.5E-7, 12345678.9, 0.1, -3, 2.2250738585072014e-308]";
        flags += comma + (i % 3 == 0 ? "true" : i % 3 == 1 ? "false" : "1");
        halves += comma + std::to_string(i) + ".25";
        lines += comma + "\"line " + std::to_string(i) + "\"";
    }
    decode("decode mixed", mixed,
           "{\n  \"numbers\": [" + rows + "\n  ],\n  \"flags\": [" + flags + "],\n  \"half\": [" + halves +
               "],\n  \"text\": [" + lines + "],\n  \"rate\": 16000\n}\n");
}

// Lists of a few numbers: an image with its channels last, boxes, tabular rows, and ids.
void decode_short_rows() {
    Random random;
    const auto pixels = draw<float>(32 * 32 * 3,
                                    [&] { return static_cast<double>(random.below(10'000)) / 1e4; });
    const auto bytes = draw<std::uint8_t>(32 * 32 * 3, [&] { return random.below(256); });
    const auto boxes = draw<double>(1024 * 4,
                                    [&] { return static_cast<double>(random.below(64'000)) / 100; });
    const auto deviates = draw<float>(512 * 8, [&] { return random.deviate(); });
    const auto ids = draw<std::int64_t>(1024 * 3, [&] { return random.below(30'522); });

    decode_tensor("decode image, channels last", Type::float32, {-1, 32, 32, 3},
                  json_of(pixels, {1, 32, 32, 3}), pixels);
    decode_tensor("decode image bytes, channels last", Type::uint8, {-1, 32, 32, 3},
                  json_of(bytes, {1, 32, 32, 3}), bytes);
    decode_tensor("decode boxes", Type::float32, {-1, 4}, json_of(boxes, {1024, 4}), cast<float>(boxes));
    decode_tensor("decode rows of eight", Type::float32, {-1, 8}, json_of(deviates, {512, 8}), deviates);
    decode_tensor("decode rows of three ids", Type::int64, {-1, 3}, json_of(ids, {1024, 3}), ids);
}

void encode_all() {
    Random random;
    const auto deviates = draw<float>(16 * 256, [&] { return random.deviate(); });
    encode("floats", Type::float32, {16, 256}, deviates);
    encode("float64", Type::float64, {16, 256}, draw<double>(16 * 256, [&] { return random.unit(); }));
    encode("rows of three", Type::float32, {1365, 3},
           std::vector<float>(deviates.begin(), deviates.begin() + 3 * 1365));
    encode("a row of three", Type::float32, {1, 3},
           std::vector<float>(deviates.begin(), deviates.begin() + 3));
    // Zeros, whole numbers, and numbers that need an exponent.
    encode("mixed floats", Type::float32, {16, 256}, draw<float>(16 * 256, [&] {
               switch (random.below(4)) {
                   case 0: return 0.0;
                   case 1: return static_cast<double>(random.below(100));
                   case 2: return random.deviate() * 1e30;
                   default: return random.deviate() * 1e-30;
               }
           }));
    encode("float16", Type::float16, {16, 256},
           draw<std::uint16_t>(16 * 256, [&] { return random.below(0x7C00); }));
    encode("token ids", Type::int64, {32, 128},
           draw<std::int64_t>(32 * 128, [&] { return random.below(30'522); }));
    encode("integers", Type::int64, {32, 128}, draw<std::int64_t>(32 * 128, [&] {
               return static_cast<std::int64_t>(random.bits()) >> random.below(60);
           }));
    encode("bytes", Type::uint8, {3, 32, 32},
           draw<std::uint8_t>(3 * 32 * 32, [&] { return random.below(256); }));
    encode("booleans", Type::boolean, {4096}, draw<std::uint8_t>(4096, [&] { return random.below(2); }));
}

}  // namespace

int main() {
    // The counts depend on the compiler.
    std::printf("g++ %d.%d.%d, %s\n", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__,
#if defined(__x86_64__)
                "x86-64"
#elif defined(__aarch64__)
                "aarch64"
#else
                "another processor"
#endif
    );
    decode_all();
    decode_short_rows();
    encode_all();
    return 0;
}
