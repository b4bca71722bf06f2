// The reader: the bytes of a request in, the events of its values out.
//
// It reads one JSON object (RFC 8259, UTF-8, no byte order mark) that maps input names to values, once
// from front to back, and drives a sink for each value. It checks the names itself (unknown, duplicate
// and mutually exclusive ones), and the syntax: the first invalid byte is the error. The first error of
// any kind stops the reader; nothing after it is read. No recursion, and no allocation per number: the
// sink counts the open lists and bounds their depth, and an object inside a value is an error, unless it is
// a {"b64": …}.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "instructions.hpp"
#include "number.hpp"
#include "sink.hpp"

namespace gpux {

// An input that a body may have. Immutable once made; shared between threads.
struct Input {
    const char* name;  // UTF-8
    std::size_t name_size;
    const Spec* spec;
    int group;  // inputs of group 1 exclude those of group 2; group 0 goes with any
};

// A string of a value: in the body, or decoded if it had escapes. A body may have a string in each
// three of its bytes (`"",`), so the bit shares a word; no body has 2^63 bytes.
struct String {
    std::size_t start : 63;  // from the start of the body, or of Reader::decoded()
    bool decoded : 1;
    std::size_t size;
};
static_assert(sizeof(String) == 16);

// A value that was read to its end.
struct Value {
    std::size_t input;
    int axes;
    std::int64_t shape[kMaxAxes];
    bool as_items;
    bool as_one_item;
    std::size_t first_string;  // in Reader::strings()
    std::size_t strings;
};

enum class ReadError : int {
    none,
    syntax,  // at(), problem()
    not_an_object,
    unknown_input,    // text()
    duplicate_input,  // input()
    clashing_inputs,  // input() and other_input()
    value,            // of input(): sink(), and number() if one was rejected
    base64,           // a {"b64": …} of input() at sink()'s path: text()
    out_of_memory,
};

class Reader {
public:
    // The byte at `body + size` must be NUL, as in a bytes object. `inputs` must outlive the reader. `owner`
    // and `grow` are Memory's: the reader allocates with them for the input that current() names.
    Reader(const char* body, std::size_t size, const std::vector<Input>& inputs, void* owner,
           bool (*grow)(void* owner, Memory* memory, std::size_t needed),
           Instructions instructions = best_instructions());

    // Reads the whole body; returns false at the first error. May run without the GIL, which `grow`
    // acquires if it needs it; decode.pxi releases it for bodies of 4096 bytes or more.
    bool read() noexcept;

    // What was read before any error, in the order of the body.
    const std::vector<Value>& values() const noexcept { return values_; }
    const std::vector<String>& strings() const noexcept { return strings_; }
    const std::string& decoded() const noexcept { return decoded_; }
    std::size_t current() const noexcept { return input_; }
    // Unread bytes of the body: a bound for what it may still contain.
    std::size_t left() const noexcept { return static_cast<std::size_t>(end_ - at_); }

    ReadError error() const noexcept { return error_; }
    std::size_t at() const noexcept { return static_cast<std::size_t>(at_ - body_); }
    const char* problem() const noexcept { return problem_; }
    // The unknown name, or what is wrong with a {"b64": …}.
    const std::string& text() const noexcept { return text_; }
    std::size_t input() const noexcept { return input_; }
    std::size_t other_input() const noexcept { return other_input_; }
    const Sink& sink() const noexcept { return *sink_; }  // of the last value
    // The text of the rejected number, empty if there is none (in base64, numbers have none).
    const char* number() const noexcept { return number_; }
    std::size_t number_size() const noexcept { return number_size_; }

private:
    // The members of a {"b64": …}.
    struct Base64 {
        std::optional<String> text;
        std::optional<Type> type;
        std::optional<int> axes;
        std::int64_t sizes[kMaxAxes];
    };

    bool read_object();
    bool read_member();
    bool find_input(const char* name, std::size_t size);
    bool read_value();
    bool read_elements();
    template <class Element>
    bool read_numbers();
    template <class Element>
    std::size_t read_plain_numbers(Element* out, std::size_t count, Rows* rows);
    std::size_t read_float32s_in_bulk(float* out, std::size_t count, Rows* rows);
    bool read_number();
    bool read_literal();
    bool read_string_element();
    bool count_element();
    bool read_base64();
    bool read_base64_string(const String& text);
    bool read_base64_tensor(const Base64& value);
    bool read_base64_members(Base64* value);
    bool read_sizes(Base64* value);
    bool read_type(Base64* value);
    bool read_string(String* string, std::size_t* characters);
    bool read_escape();
    bool read_hex(unsigned* unit);
    bool read_beyond_ascii();
    bool expect(char character, const char* problem);
    void skip_space();
    bool fail(ReadError error);
    bool fail_syntax(const char* problem);
    bool fail_token(const char* problem);
    bool fail_base64(std::string problem);
    bool fail_value() { return fail(ReadError::value); }

    std::optional<Sink> sink_;  // at offset 0: 0.7 % fewer instructions for strings
    const char* const body_;
    const char* const end_;
    const char* at_;
    const std::vector<Input>& inputs_;
    void* const owner_;
    bool (*const grow_)(void*, Memory*, std::size_t);
    const bool has_avx2_;
    int misses_ = 0;  // how often to skip read_float32s()

    const Spec* spec_ = nullptr;
    std::vector<Value> values_;
    std::vector<String> strings_;
    std::string decoded_;
    std::vector<bool> seen_;
    std::size_t input_ = 0;

    ReadError error_ = ReadError::none;
    const char* problem_ = "";
    std::string text_;
    std::size_t other_input_ = 0;
    const char* number_ = nullptr;
    std::size_t number_size_ = 0;
};

}  // namespace gpux
