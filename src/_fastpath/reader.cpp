#include "reader.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <type_traits>

#include "float32s.hpp"

namespace gpux {
namespace {

// Elements to claim memory for at once.
constexpr std::size_t kMaxClaimed = 4096;

// read_float32s() costs as much as a few numbers by the other way, so after it found none it is skipped
// this often.
constexpr int kMisses = 8;

bool is_space(char character) {
    return character == ' ' || character == '\n' || character == '\r' || character == '\t';
}

struct Literal {
    const char* text;
    std::size_t size;
    JsonKind kind;
    std::uint8_t value;
};
constexpr Literal kLiterals[] = {
    {"true", 4, JsonKind::boolean, 1}, {"false", 5, JsonKind::boolean, 0}, {"null", 4, JsonKind::null, 0}};

bool is_literal(const char* at, std::size_t left, const Literal& literal) {
    return left >= literal.size && std::memcmp(at, literal.text, literal.size) == 0;
}

bool starts_number(char character) {
    // No branch, as signs are unpredictable: a bit for each of "-./0123456789".
    const unsigned index = static_cast<unsigned char>(character - '-');
    return (0x1FF9ull >> std::min(index, 63u)) & 1;
}

// The number that follows the end of another one after a comma and at most one space; or null.
const char* next_number(const char* at) {
    if (*at != ',') {
        return nullptr;
    }
    const char* const next = at + (at[1] == ' ' ? 2 : 1);
    return starts_number(*next) ? next : nullptr;
}

// Whether none of eight bytes ends a plain run of a string: a quote, a backslash, a control character or
// a byte beyond ASCII. Each test sets the highest bit of a byte that matches, and exactly so for the
// lowest one: a borrow can only mark bytes above a marked one.
bool are_8_plain(const char* at) {
    constexpr std::uint64_t kOnes = 0x0101010101010101;
    constexpr std::uint64_t kHighs = 0x8080808080808080;
    std::uint64_t bytes;
    std::memcpy(&bytes, at, sizeof bytes);
    const std::uint64_t quotes = bytes ^ (kOnes * '"');
    const std::uint64_t backslashes = bytes ^ (kOnes * '\\');
    const std::uint64_t marked = bytes | (quotes - kOnes) | (backslashes - kOnes) | (bytes - kOnes * 0x20);
    return (marked & kHighs) == 0;
}

void append_utf8(std::string* text, unsigned point) {
    if (point < 0x80) {
        *text += static_cast<char>(point);
    } else if (point < 0x800) {
        *text += static_cast<char>(0xC0 | (point >> 6));
        *text += static_cast<char>(0x80 | (point & 0x3F));
    } else if (point < 0x10000) {
        *text += static_cast<char>(0xE0 | (point >> 12));
        *text += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
        *text += static_cast<char>(0x80 | (point & 0x3F));
    } else {
        *text += static_cast<char>(0xF0 | (point >> 18));
        *text += static_cast<char>(0x80 | ((point >> 12) & 0x3F));
        *text += static_cast<char>(0x80 | ((point >> 6) & 0x3F));
        *text += static_cast<char>(0x80 | (point & 0x3F));
    }
}

}  // namespace

Reader::Reader(const char* body, std::size_t size, const std::vector<Input>& inputs, void* owner,
               bool (*grow)(void* owner, Memory* memory, std::size_t needed), Instructions instructions)
    : body_(body),
      end_(body + size),
      at_(body),
      inputs_(inputs),
      owner_(owner),
      grow_(grow),
      has_avx2_(instructions >= Instructions::avx2) {}

bool Reader::read() noexcept {
    try {
        seen_.assign(inputs_.size(), false);
        return read_object();
    } catch (const std::bad_alloc&) {
        return fail(ReadError::out_of_memory);
    } catch (const std::length_error&) {
        return fail(ReadError::out_of_memory);
    }
}

bool Reader::read_object() {
    skip_space();
    if (*at_ != '{') {
        bool is_value = *at_ == '[' || *at_ == '"' || starts_number(*at_);
        for (const Literal& literal : kLiterals) {
            is_value = is_value || is_literal(at_, left(), literal);
        }
        return is_value ? fail(ReadError::not_an_object) : fail_syntax("expected an object");
    }
    ++at_;
    skip_space();
    if (*at_ == '}' && at_ < end_) {
        ++at_;
    } else {
        for (;;) {
            if (!read_member()) {
                return false;
            }
            skip_space();
            if (*at_ != ',') {
                break;
            }
            ++at_;
        }
        if (!expect('}', "expected ',' or '}'")) {
            return false;
        }
    }
    skip_space();
    return at_ == end_ || fail_syntax("nothing may follow the object");
}

bool Reader::read_member() {
    skip_space();
    const char* const start = at_;
    if (!expect('"', "expected an input's name in quotes")) {
        return false;
    }
    String name;
    std::size_t characters = 0;
    const std::size_t decoded = decoded_.size();
    if (!read_string(&name, &characters)) {
        return false;
    }
    const char* const text = (name.decoded ? decoded_.data() : body_) + name.start;
    const char* const after = at_;
    at_ = start;  // where an error in the name is reported
    if (!find_input(text, name.size)) {
        return false;
    }
    at_ = after;
    decoded_.resize(decoded);
    skip_space();
    if (!expect(':', "expected ':'")) {
        return false;
    }
    skip_space();
    return read_value();
}

// Bodies mostly have the inputs in the model's order, so tries the one after the last first.
bool Reader::find_input(const char* name, std::size_t size) {
    std::size_t tried = 0;
    std::size_t index = values_.empty() ? 0 : values_.back().input + 1;
    for (; tried < inputs_.size(); ++tried, ++index) {
        index = index < inputs_.size() ? index : 0;
        const Input& input = inputs_[index];
        if (input.name_size == size && std::memcmp(input.name, name, size) == 0) {
            break;
        }
    }
    if (tried == inputs_.size()) {
        name_.assign(name, size);
        return fail(ReadError::unknown_input);
    }
    input_ = index;
    if (seen_[index]) {
        return fail(ReadError::duplicate_input);
    }
    const int group = inputs_[index].group;
    if (group != 0) {
        for (const Value& value : values_) {
            if (inputs_[value.input].group == 3 - group) {
                other_input_ = value.input;
                return fail(ReadError::clashing_inputs);
            }
        }
    }
    seen_[index] = true;
    return true;
}

bool Reader::read_value() {
    spec_ = inputs_[input_].spec;
    sink_.emplace(*spec_, Memory{nullptr, 0, owner_, grow_});
    const std::size_t first_string = strings_.size();
    if (!read_elements()) {
        return false;
    }
    if (!sink_->finish()) {
        return fail_value();
    }
    Value value;
    value.input = input_;
    value.axes = sink_->axes();
    std::copy_n(sink_->shape(), value.axes, value.shape);
    value.as_items = sink_->as_items();
    value.as_one_item = sink_->as_one_item();
    value.first_string = first_string;
    value.strings = strings_.size() - first_string;
    values_.push_back(value);
    return true;
}

// A value with its nested values. `depth` is the number of open lists.
bool Reader::read_elements() {
    int depth = 0;
    for (;;) {
        // A value starts here.
        const char first = *at_;
        if (first == '[') {
            if (!sink_->open()) {
                return fail_value();
            }
            ++depth;
            ++at_;
            skip_space();
            if (*at_ != ']') {
                continue;
            }
        } else if (starts_number(first)) {
            if (!read_number()) {
                return false;
            }
        } else if (first == '"') {
            if (!read_string_element()) {
                return false;
            }
        } else if (first == '{') {
            return sink_->other(JsonKind::object) || fail_value();
        } else if (!read_literal()) {
            return false;
        }
        // A value, or an empty list's content, ends here.
        for (;;) {
            if (depth == 0) {
                return true;
            }
            skip_space();
            if (*at_ == ',') {
                ++at_;
                skip_space();
                break;
            }
            if (!expect(']', "expected ',' or ']'")) {
                return false;
            }
            if (!sink_->close()) {
                return fail_value();
            }
            --depth;
        }
    }
}

bool Reader::read_number() {
    switch (spec_->type) {
        case Type::float32: return read_numbers<float>();
        case Type::float64: return read_numbers<double>();
        case Type::float16: return read_numbers<Half>();
        case Type::bfloat16: return read_numbers<BFloat>();
        case Type::int8: return read_numbers<std::int8_t>();
        case Type::int16: return read_numbers<std::int16_t>();
        case Type::int32: return read_numbers<std::int32_t>();
        case Type::int64: return read_numbers<std::int64_t>();
        case Type::uint8: return read_numbers<std::uint8_t>();
        case Type::uint16: return read_numbers<std::uint16_t>();
        case Type::uint32: return read_numbers<std::uint32_t>();
        case Type::uint64: return read_numbers<std::uint64_t>();
        case Type::boolean: return read_numbers<Boolean>();
        case Type::string: break;
    }
    return sink_->other(JsonKind::number) || fail_value();
}

// A number and the siblings that follow it directly; leaves at_ after the last one.
template <class Element>
bool Reader::read_numbers() {
    const bool is_in_list = sink_->depth() > 0;
    for (;;) {
        // A number takes at least two bytes, comma included.
        std::size_t room = is_in_list ? std::min(left() / 2 + 1, kMaxClaimed) : 1;
        Element* const out = reinterpret_cast<Element*>(sink_->claim(&room));
        if (out == nullptr) {
            return fail_value();
        }
        std::size_t count = 0;
        bool is_followed = true;
        while (is_followed && count < room) {
            if (is_in_list) {
                count += read_plain_numbers(out + count, room - count);
                is_followed = starts_number(*at_);
                if (!is_followed || count == room) {
                    break;
                }
            }
            Decimal decimal;
            const char* stop;
            if (!scan_number(at_, end_, &decimal, &stop)) {
                at_ = stop;
                return fail_syntax("expected a digit");
            }
            const Outcome outcome = convert(decimal, out[count]);
            if (outcome != Outcome::stored) {
                sink_->commit(count);
                number_ = decimal.begin;
                number_size_ = static_cast<std::size_t>(decimal.end - decimal.begin);
                sink_->reject_number(outcome == Outcome::out_of_range);
                return fail_value();
            }
            ++count;
            const char* const next = is_in_list ? next_number(decimal.end) : nullptr;
            is_followed = next != nullptr;
            at_ = is_followed ? next : decimal.end;
        }
        sink_->commit(count);
        if (!is_followed) {
            return true;
        }
    }
}

// Numbers of common forms, from at_ on: at most `room`, and none near either end of the body. Returns the
// count; at_ is then at a number for the general path, or after the last one if none follows directly.
template <class Element>
std::size_t Reader::read_plain_numbers(Element* out, std::size_t room) {
    constexpr std::ptrdiff_t kBlock = 64;
    const char* at = at_;
    std::size_t count = 0;
#ifdef GPUX_HAS_FLOAT32S
    if constexpr (std::is_same_v<Element, float>) {
        if (misses_ > 0) {
            --misses_;
        } else if (has_avx2_ && at - body_ >= kFloat32sLookback) {
            const char* after;
            count = read_float32s(at, end_, out, room, &after);
            misses_ = count == 0 ? kMisses : 0;
            if (count > 0) {
                at = next_number(after - 1);
                if (at == nullptr) {
                    at_ = after - 1;
                    return count;
                }
            }
        }
    }
#endif
    while (end_ - at >= kBlock && at - body_ >= kLookback) {
        const char* const block = at;
        for (std::uint64_t ends = find_ends(block); ends != 0; ends &= ends - 1) {
            const char* const end = block + __builtin_ctzll(ends);
            Decimal decimal;
            if (count == room || !scan_plain_number(at, end, &decimal) ||
                convert(decimal, out[count]) != Outcome::stored) {
                at_ = at;
                return count;
            }
            ++count;
            at = next_number(end);
            if (at == nullptr) {
                at_ = end;
                return count;
            }
        }
        if (at == block) {
            break;  // a number longer than a block
        }
    }
    at_ = at;
    return count;
}

bool Reader::read_literal() {
    for (const Literal& literal : kLiterals) {
        if (is_literal(at_, left(), literal)) {
            const bool taken = literal.kind == JsonKind::boolean ? sink_->booleans(&literal.value, 1)
                                                                 : sink_->other(literal.kind);
            at_ += literal.size;
            return taken || fail_value();
        }
    }
    return fail_syntax("expected a value");
}

bool Reader::read_string_element() {
    if (!sink_->expect_string()) {
        return fail_value();
    }
    String string;
    std::size_t characters = 0;
    ++at_;
    if (!read_string(&string, &characters)) {
        return false;
    }
    if (!sink_->string(characters)) {
        return fail_value();
    }
    strings_.push_back(string);
    return true;
}

// A string, from after its opening quote to after its closing one.
bool Reader::read_string(String* string, std::size_t* characters) {
    const char* run = at_;  // of unescaped bytes
    string->start = static_cast<std::size_t>(at_ - body_);
    string->decoded = false;
    std::size_t continued = 0;  // bytes that continue a character
    std::size_t bytes = 0;
    for (;;) {
        while (left() >= 8 && are_8_plain(at_)) {
            at_ += 8;
        }
        const unsigned char byte = static_cast<unsigned char>(*at_);
        if (byte == '"') {
            break;
        }
        if (byte >= 0x80) {
            const char* const start = at_;
            if (!read_beyond_ascii()) {
                return false;
            }
            continued += static_cast<std::size_t>(at_ - start) - 1;
        } else if (byte == '\\') {
            if (!string->decoded) {
                string->decoded = true;
                string->start = decoded_.size();
            }
            decoded_.append(run, at_);
            const std::size_t before = decoded_.size();
            if (!read_escape()) {
                return false;
            }
            continued += decoded_.size() - before - 1;
            run = at_;
        } else if (byte < 0x20) {
            return fail_syntax("control characters must be escaped in strings");
        } else {
            ++at_;
        }
    }
    if (string->decoded) {
        decoded_.append(run, at_);
        bytes = decoded_.size() - string->start;
    } else {
        bytes = static_cast<std::size_t>(at_ - run);
    }
    ++at_;
    string->size = bytes;
    *characters = bytes - continued;
    return true;
}

// An escape sequence, appended to decoded_.
bool Reader::read_escape() {
    const char* const start = at_;
    ++at_;
    const char kind = *at_;
    ++at_;
    switch (kind) {
        case '"':
        case '\\':
        case '/': decoded_ += kind; return true;
        case 'b': decoded_ += '\b'; return true;
        case 'f': decoded_ += '\f'; return true;
        case 'n': decoded_ += '\n'; return true;
        case 'r': decoded_ += '\r'; return true;
        case 't': decoded_ += '\t'; return true;
        case 'u': break;
        default: at_ = start; return fail_syntax("no such escape");
    }
    unsigned unit = 0;
    if (!read_hex(&unit)) {
        return false;
    }
    if (unit >= 0xD800 && unit < 0xE000) {
        unsigned second = 0;
        const bool is_first = unit < 0xDC00;
        if (is_first && left() >= 2 && at_[0] == '\\' && at_[1] == 'u') {
            at_ += 2;
            if (!read_hex(&second)) {
                return false;
            }
        }
        if (second < 0xDC00 || second >= 0xE000) {
            at_ = start;
            return fail_syntax("a lone surrogate is no character");
        }
        unit = 0x10000 + ((unit - 0xD800) << 10) + (second - 0xDC00);
    }
    append_utf8(&decoded_, unit);
    return true;
}

bool Reader::read_hex(unsigned* unit) {
    *unit = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
        const char digit = *at_;
        unsigned value;
        if (digit >= '0' && digit <= '9') {
            value = static_cast<unsigned>(digit - '0');
        } else if (digit >= 'a' && digit <= 'f') {
            value = static_cast<unsigned>(digit - 'a' + 10);
        } else if (digit >= 'A' && digit <= 'F') {
            value = static_cast<unsigned>(digit - 'A' + 10);
        } else {
            return fail_syntax("expected four hexadecimal digits");
        }
        *unit = *unit * 16 + value;
    }
    return true;
}

// One character of two to four bytes. Source: RFC 3629, 4, whose grammar excludes surrogates, overlong
// forms and code points beyond U+10FFFF.
bool Reader::read_beyond_ascii() {
    const unsigned char* const bytes = reinterpret_cast<const unsigned char*>(at_);
    const unsigned char first = bytes[0];
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    std::size_t size = 0;
    if (first >= 0xC2 && first <= 0xDF) {
        size = 2;
    } else if (first >= 0xE0 && first <= 0xEF) {
        size = 3;
        low = first == 0xE0 ? 0xA0 : low;
        high = first == 0xED ? 0x9F : high;
    } else if (first >= 0xF0 && first <= 0xF4) {
        size = 4;
        low = first == 0xF0 ? 0x90 : low;
        high = first == 0xF4 ? 0x8F : high;
    }
    // The byte after the body continues nothing, whatever it is.
    bool is_valid = size != 0 && left() >= size && bytes[1] >= low && bytes[1] <= high;
    for (std::size_t i = 2; is_valid && i < size; ++i) {
        is_valid = (bytes[i] & 0xC0) == 0x80;
    }
    if (!is_valid) {
        return fail_syntax("not UTF-8");
    }
    at_ += size;
    return true;
}

bool Reader::expect(char character, const char* problem) {
    if (at_ == end_ || *at_ != character) {
        return fail_syntax(problem);
    }
    ++at_;
    return true;
}

void Reader::skip_space() {
    while (is_space(*at_) && at_ < end_) {
        ++at_;
    }
}

bool Reader::fail(ReadError error) {
    error_ = error;
    return false;
}

bool Reader::fail_syntax(const char* problem) {
    problem_ = at_ >= end_ ? "the body ends here" : problem;
    return fail(ReadError::syntax);
}

}  // namespace gpux
