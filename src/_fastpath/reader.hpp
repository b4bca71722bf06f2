// The reader: the bytes of a request in, the events of its values out.
//
// It reads one JSON object (RFC 8259, UTF-8, no byte order mark) of input names to values, once, from
// front to back, and drives a sink for each value. Names are judged here: an unknown name, one that
// stands twice, one that may not stand beside another. So is the text itself: the first byte that
// cannot be is the fault. Whatever is found first in the text ends the reading; nothing behind it is
// looked at. No recursion, and nothing is allocated for a number: lists are counted by the sink,
// which bounds their depth, and an object inside a value is a fault already.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "instructions.hpp"
#include "number.hpp"
#include "sink.hpp"

namespace gpux {

// What a body may have. Immutable once made; shared between threads.
struct Input {
    const char* name;  // UTF-8
    std::size_t name_size;
    const Spec* spec;
    // Inputs of group 1 and of group 2 may not stand in one body; group 0 stands with any.
    int group;
};

// A string of a value: in the body, or decoded, because it had escapes. A body may have a string in
// each three of its bytes (`"",`), so the bit shares a word; no body has 2^63 bytes.
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

enum class ReadFault : int {
    none,
    syntax,           // at(), problem()
    not_an_object,
    unknown_input,    // name()
    duplicate_input,  // input()
    clashing_inputs,  // input() and other_input()
    value,            // of input(): sink(), and number() where one was refused
    out_of_memory,
};

class Reader {
public:
    // The byte at `body + size` must be NUL, as in a bytes object. `owner` and `grow` are for Memory: the reader asks
    // for all memory by it, for the input that current() names.
    Reader(
        const char* body, std::size_t size, const std::vector<Input>& inputs, void* owner,
        bool (*grow)(void* owner, Memory* memory, std::size_t needed),
        Instructions instructions = best_instructions()
    );

    // Reads it all; false at the first fault. Throws nothing. May run without the GIL, which `grow` takes
    // where it needs it; fastpath.pyx lets go of it for bodies of 4096 bytes or more.
    bool read() noexcept;

    // What was read, in the order of the body, up to a fault.
    const std::vector<Value>& values() const { return values_; }
    const std::vector<String>& strings() const { return strings_; }
    const std::string& decoded() const { return decoded_; }
    std::size_t current() const { return input_; }
    // Bytes of the body that are still to be read: a bound for what is still to come.
    std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }

    ReadFault fault() const { return fault_; }
    std::size_t at() const { return static_cast<std::size_t>(at_ - body_); }
    const char* problem() const { return problem_; }
    const std::string& name() const { return name_; }
    std::size_t input() const { return input_; }
    std::size_t other_input() const { return other_input_; }
    const Sink& sink() const { return *sink_; }
    // The text of the number that was refused; empty if none was.
    const char* number() const { return number_; }
    std::size_t number_size() const { return number_size_; }

private:
    bool read_object();
    bool read_member();
    bool find_input(const char* name, std::size_t size);
    bool read_value();
    bool read_elements();
    template <class Element>
    bool read_numbers();
    template <class Element>
    std::size_t read_plain_numbers(Element* out, std::size_t room);
    bool read_number();
    bool read_literal();
    bool read_string_element();
    bool read_string(String* string, std::size_t* characters);
    bool read_escape();
    bool read_hex(unsigned* unit);
    bool read_beyond_ascii();
    bool expect(char character, const char* problem);
    void skip_space();
    bool fail(ReadFault fault);
    bool fail_syntax(const char* problem);
    bool fail_value() { return fail(ReadFault::value); }

    const char* const body_;
    const char* const end_;
    const char* at_;
    const std::vector<Input>& inputs_;
    void* const owner_;
    bool (*const grow_)(void*, Memory*, std::size_t);
    const bool has_avx2_;
    int misses_ = 0;  // of read_float32s(), that it is not tried for

    std::unique_ptr<Sink> sink_;
    const Spec* spec_ = nullptr;
    std::vector<Value> values_;
    std::vector<String> strings_;
    std::string decoded_;
    std::vector<bool> seen_;
    std::size_t input_ = 0;

    ReadFault fault_ = ReadFault::none;
    const char* problem_ = "";
    std::string name_;
    std::size_t other_input_ = 0;
    const char* number_ = nullptr;
    std::size_t number_size_ = 0;
};

}  // namespace gpux
