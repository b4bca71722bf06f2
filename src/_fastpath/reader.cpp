#include "reader.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base64.hpp"
#include "float32s.hpp"
#include "strided.hpp"

namespace gpux {
namespace {

// Elements to claim memory for at once.
constexpr std::size_t kMaxClaimed = 4096;

// read_float32s() costs as much as a few numbers by the other way, so after it found fewer it is skipped
// this often.
constexpr std::size_t kFew = 4;
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

// What is often sent for JSON and is none.
struct Refused {
    std::string_view text;
    const char* problem;
};
constexpr const char* kByteOrderMark = "a byte order mark is not JSON; send UTF-8 without one";
constexpr Refused kRefused[] = {
    {"NaN", "NaN is not JSON; null stands for it where gpux.yml has missing: nan"},
    {"Infinity", "Infinity is not JSON; numbers are finite"},
    {"'", "a single quote is not JSON; strings have double quotes"},
    {"\xEF\xBB\xBF", kByteOrderMark},
    {"\xFF\xFE", kByteOrderMark},
    {"\xFE\xFF", kByteOrderMark},
};

// The keys of a {"b64": …}, as they must be written.
constexpr std::string_view kData = "\"b64\"";
constexpr std::string_view kShape = "\"shape\"";
constexpr std::string_view kType = "\"dtype\"";

struct NamedType {
    std::string_view name;
    Type type;
};
constexpr NamedType kTypes[] = {
    {"float32", Type::float32},   {"float64", Type::float64}, {"float16", Type::float16},
    {"bfloat16", Type::bfloat16}, {"int8", Type::int8},       {"int16", Type::int16},
    {"int32", Type::int32},       {"int64", Type::int64},     {"uint8", Type::uint8},
    {"uint16", Type::uint16},     {"uint32", Type::uint32},   {"uint64", Type::uint64},
    {"bool", Type::boolean}};

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

// The number that follows after `]`, a comma, at most one space and `[`, where `count` numbers fill the list
// that this closes; or null.
const char* next_row(const char* at, std::size_t count, Rows* rows) {
    if (*at != ']' || at[1] != ',' || !rows->can_close(count)) {
        return nullptr;
    }
    const char* const list = at + (at[2] == ' ' ? 3 : 2);
    if (*list != '[' || !starts_number(list[1])) {
        return nullptr;
    }
    rows->close(1);
    return list + 1;
}

const char* next_in_rows(const char* at, std::size_t count, Rows* rows) {
    const char* const next = next_number(at);
    return next != nullptr ? next : next_row(at, count, rows);
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
        return is_value ? fail(ReadError::not_an_object) : fail_token("expected an object");
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
        text_.assign(name, size);
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
    if (!read_elements() || !sink_->finish()) {
        // An error of the sink came first, even if it was still counting.
        return sink_->error() != Error::none && fail_value();
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
            if (!read_number() && !count_element()) {
                return false;
            }
        } else if (first == '"') {
            if (!read_string_element() && !count_element()) {
                return false;
            }
        } else if (first == '{') {
            if (!read_base64() && !count_element()) {
                return false;
            }
        } else if (!read_literal() && !count_element()) {
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
        Rows rows;
        const std::size_t room = is_in_list ? std::min(left() / 2 + 1, kMaxClaimed) : 1;
        Element* const out = reinterpret_cast<Element*>(sink_->claim_rows(room, &rows));
        if (out == nullptr) {
            return fail_value();
        }
        std::size_t count = 0;
        bool is_followed = true;
        while (is_followed && count < rows.end) {
            if (is_in_list) {
                count = read_plain_numbers(out, count, &rows);
                is_followed = starts_number(*at_);
                if (!is_followed || count == rows.end) {
                    break;
                }
            }
            Decimal decimal;
            const char* stop;
            if (!scan_number(at_, end_, &decimal, &stop)) {
                at_ = stop;
                return fail_token("expected a digit");
            }
            const Outcome outcome = convert(decimal, out[count]);
            if (outcome != Outcome::stored) {
                sink_->commit_rows(count, rows);
                number_ = decimal.begin;
                number_size_ = static_cast<std::size_t>(decimal.end - decimal.begin);
                sink_->reject_number(outcome == Outcome::out_of_range);
                return fail_value();
            }
            ++count;
            const char* const next = is_in_list ? next_in_rows(decimal.end, count, &rows) : nullptr;
            is_followed = next != nullptr;
            at_ = is_followed ? next : decimal.end;
        }
        sink_->commit_rows(count, rows);
        if (!is_followed) {
            return true;
        }
    }
}

// The same by read_float32s(), for what it reads.
inline std::size_t Reader::read_float32s_in_bulk(float* out, std::size_t count, Rows* rows) {
#ifdef GPUX_HAS_FLOAT32S
    if (misses_ > 0) {
        --misses_;
    } else if (has_avx2_ && at_ - body_ >= kFloat32sLookback) {
        const char* end;
        const std::size_t found = rows->size - 1 < kMaxFloat32sRow
                                      ? read_float32_rows(at_, end_, out + count, rows->claimed - count,
                                                          rows->end - count, rows->size, &end)
                                      : read_float32s(at_, end_, out + count, rows->end - count, &end);
        misses_ = found < kFew ? kMisses : 0;
        if (found > 0) {
            count += found;
            if (count > rows->end) {
                rows->close((count - rows->end - 1) / rows->size + 1);
            }
            const char* const next = next_in_rows(end, count, rows);
            at_ = next != nullptr ? next : end;
        }
    }
#else
    static_cast<void>(out);
    static_cast<void>(rows);
#endif
    return count;
}

// Numbers of common forms, from at_ on, after `count` of the claimed ones: none near either end of the body.
// Returns the new count; at_ is then at a number for the general path, or after the last one if none follows
// directly.
template <class Element>
std::size_t Reader::read_plain_numbers(Element* out, std::size_t count, Rows* rows) {
    constexpr std::ptrdiff_t kBlock = 64;
    constexpr bool kInBulk = std::is_same_v<Element, float>;
    for (;;) {
        if constexpr (kInBulk) {
            count = read_float32s_in_bulk(out, count, rows);
            if (!starts_number(*at_)) {
                return count;
            }
        }
        const char* const block = at_;
        if (end_ - block < kBlock || block - body_ < kLookback) {
            return count;
        }
        const char* at = block;
        for (std::uint64_t ends = find_ends(block); ends != 0; ends &= ends - 1) {
            const char* const end = block + __builtin_ctzll(ends);
            Decimal decimal;
            if (count == rows->end || !scan_plain_number(at, end, &decimal) ||
                convert(decimal, out[count]) != Outcome::stored) {
                at_ = at;
                return count;
            }
            ++count;
            at = next_number(end);
            if (at == nullptr) {
                at = next_row(end, count, rows);
                if (at == nullptr) {
                    at_ = end;
                    return count;
                }
                if (kInBulk && rows->size > kMaxFloat32sRow) {
                    break;  // a list is worth a new start
                }
                ends &= ends - 1;  // the comma
            }
        }
        at_ = at;
        if (at == block || count == rows->end) {
            return count;  // a number longer than a block, or a list longer than its siblings
        }
    }
}

bool Reader::read_literal() {
    for (const Literal& literal : kLiterals) {
        if (is_literal(at_, left(), literal)) {
            const bool taken = literal.kind == JsonKind::boolean ? sink_->booleans(&literal.value, 1)
                                                                 : sink_->other(literal.kind);
            at_ += taken ? literal.size : 0;
            return taken || fail_value();
        }
    }
    return fail_token("expected a value");
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

// An element that the sink only counts, after another function has met it and the sink refused it. Returns
// false unless it counts.
bool Reader::count_element() {
    if (!sink_->is_counting()) {
        return false;
    }
    const std::size_t decoded = decoded_.size();
    if (starts_number(*at_)) {
        Decimal decimal;
        const char* stop;
        if (!scan_number(at_, end_, &decimal, &stop)) {
            return false;
        }
        at_ = decimal.end;
    } else if (*at_ == '"') {
        String string;
        std::size_t characters = 0;
        ++at_;
        if (!read_string(&string, &characters)) {
            return false;
        }
    } else if (*at_ == '{') {
        Base64 value;
        if (!read_base64_members(&value)) {
            return false;
        }
    } else {
        const auto literal = std::find_if(
            std::begin(kLiterals), std::end(kLiterals),
            [this](const Literal& one) { return is_literal(at_, left(), one); });
        if (literal == std::end(kLiterals)) {
            return false;
        }
        at_ += literal->size;
    }
    decoded_.resize(decoded);
    return sink_->count(sink_->depth(), 0, nullptr);
}

// A {"b64": …}: a tensor's bytes, or those of a string. Any other object is an error at its first byte.
bool Reader::read_base64() {
    const char* const start = at_;
    Base64 value;
    if (sink_->is_counting() || !read_base64_members(&value)) {
        return false;
    }
    if (!value.text) {
        return fail_base64("\"b64\" is missing");
    }
    const char* const after = at_;
    at_ = start;  // where an error is reported
    bool taken = false;
    if (spec_->type == Type::string) {
        taken = value.axes || value.type ? fail_base64("a string has neither \"shape\" nor \"dtype\"")
                                         : read_base64_string(*value.text);
    } else if (!value.axes) {
        return fail_base64("{\"b64\"} needs \"shape\"");
    } else if (sink_->depth() > 0) {
        return sink_->other(JsonKind::object) || fail_value();
    } else {
        taken = read_base64_tensor(value);
    }
    if (taken) {
        at_ = after;
    }
    return taken;
}

bool Reader::read_base64_string(const String& text) {
    if (!sink_->expect_string()) {
        return fail_value();
    }
    const auto start_of = [&] { return (text.decoded ? decoded_.data() : body_) + text.start; };
    const std::optional<std::size_t> bytes = base64_bytes(start_of(), text.size);
    String string;
    string.start = decoded_.size();
    string.decoded = true;
    string.size = bytes.value_or(0);
    decoded_.resize(string.start + string.size);
    char* const out = &decoded_[string.start];
    if (!bytes || !decode_base64(start_of(), text.size, reinterpret_cast<unsigned char*>(out))) {
        return fail_base64("\"b64\" is not base64 with padding");
    }
    // Of UTF-8; other bytes count alike.
    const auto characters = std::count_if(out, out + string.size,
                                          [](char byte) { return (byte & 0xC0) != 0x80; });
    if (!sink_->string(static_cast<std::size_t>(characters))) {
        return fail_value();
    }
    strings_.push_back(string);
    return true;
}

// The shape is judged first, as that of lists is; then the bytes, which are decoded in place if they are of
// the input's own type, and else fed as an array.
bool Reader::read_base64_tensor(const Base64& value) {
    const Type type = value.type.value_or(spec_->type);
    const int axes = *value.axes;
    if (!sink_->axes_below(axes, value.sizes) || !sink_->finish()) {
        return fail_value();
    }
    const char* const text = (value.text->decoded ? decoded_.data() : body_) + value.text->start;
    const std::optional<std::size_t> bytes = base64_bytes(text, value.text->size);
    if (!bytes) {
        return fail_base64("\"b64\" is not base64 with padding");
    }
    std::int64_t product = static_cast<std::int64_t>(element_bytes(type));
    bool is_empty = false;
    for (int axis = 0; axis < axes; ++axis) {
        is_empty = is_empty || value.sizes[axis] == 0;
        if (__builtin_mul_overflow(product, std::max<std::int64_t>(value.sizes[axis], 1), &product)) {
            return fail_base64("no tensor has so many elements");
        }
    }
    const std::size_t expected = is_empty ? 0 : static_cast<std::size_t>(product);
    if (*bytes != expected) {
        return fail_base64("expected " + std::to_string(expected) + " bytes, got " + std::to_string(*bytes));
    }
    std::string others;  // of another type than the input's
    unsigned char* out = nullptr;
    if (type == spec_->type) {
        out = sink_->claim_all(expected / element_bytes(type));
        if (out == nullptr && expected > 0) {
            return fail_value();
        }
    } else {
        others.resize(expected);
        out = reinterpret_cast<unsigned char*>(&others[0]);
    }
    if (!decode_base64(text, value.text->size, out)) {
        return fail_base64("\"b64\" is not base64 with padding");
    }
    if (type == Type::boolean &&
        std::any_of(out, out + expected, [](unsigned char byte) { return byte > 1; })) {
        return fail_base64("the bytes of bools are 0 or 1");
    }
    if (type == spec_->type || is_empty) {
        return true;
    }
    std::ptrdiff_t strides[kMaxAxes];
    std::ptrdiff_t stride = static_cast<std::ptrdiff_t>(element_bytes(type));
    for (int axis = axes - 1; axis >= 0; --axis) {
        strides[axis] = stride;
        stride *= value.sizes[axis];
    }
    return feed(*sink_, out, type, axes, value.sizes, strides) || fail_value();
}

// From the opening brace to after the closing one. The first key tells whether it is one at all.
bool Reader::read_base64_members(Base64* value) {
    const char* const start = at_;
    const auto is_key = [this](std::string_view key) {
        return left() >= key.size() && std::memcmp(at_, key.data(), key.size()) == 0;
    };
    do {
        ++at_;
        skip_space();
        const bool is_data = is_key(kData);
        const bool is_shape = is_key(kShape);
        if (!is_data && !is_shape && !is_key(kType)) {
            if (!value->text && !value->axes && !value->type) {
                at_ = start;
                return sink_->other(JsonKind::object) || fail_value();
            }
            return expect('"', "expected a key in quotes") &&
                   fail_base64("its keys are \"b64\", \"shape\" and \"dtype\"");
        }
        if (is_data    ? value->text.has_value()
            : is_shape ? value->axes.has_value()
                       : value->type.has_value()) {
            return fail_base64("a key stands there twice");
        }
        at_ += (is_data ? kData : is_shape ? kShape : kType).size();
        skip_space();
        if (!expect(':', "expected ':'")) {
            return false;
        }
        skip_space();
        if (is_data) {
            std::size_t characters = 0;
            if (at_ < end_ && *at_ != '"') {
                return fail_base64("\"b64\" must be a string");
            }
            if (!expect('"', "expected a string")) {
                return false;
            }
            value->text.emplace();
            if (!read_string(&*value->text, &characters)) {
                return false;
            }
        } else if (!(is_shape ? read_sizes(value) : read_type(value))) {
            return false;
        }
        skip_space();
    } while (*at_ == ',');
    return expect('}', "expected ',' or '}'");
}

// A list of sizes. More than kMaxAxes are counted only.
bool Reader::read_sizes(Base64* value) {
    constexpr const char* kProblem = "\"shape\" must be a list of sizes";
    if (at_ < end_ && *at_ != '[') {
        return fail_base64(kProblem);
    }
    if (!expect('[', "expected a list")) {
        return false;
    }
    skip_space();
    int axes = 0;
    for (; *at_ != ']'; ++axes) {
        Decimal decimal;
        const char* stop;
        std::int64_t size;
        if (at_ < end_ && *at_ != '-' && !is_digit(*at_)) {
            return fail_base64(kProblem);
        }
        if (!scan_number(at_, end_, &decimal, &stop)) {
            at_ = stop;
            return fail_token("expected a digit");
        }
        if (convert(decimal, size) != Outcome::stored || size < 0) {
            return fail_base64(kProblem);
        }
        if (axes == kMaxAxes) {
            --axes;
            value->axes = kMaxAxes + 1;
        }
        value->sizes[axes] = size;
        at_ = decimal.end;
        skip_space();
        if (*at_ == ',') {
            ++at_;
            skip_space();
            if (*at_ == ']') {
                return fail_token("expected a size");
            }
        } else if (*at_ != ']') {
            return fail_token("expected ',' or ']'");
        }
    }
    ++at_;
    value->axes = std::max(axes, value->axes.value_or(0));
    return true;
}

bool Reader::read_type(Base64* value) {
    for (const NamedType& one : kTypes) {
        const std::size_t size = one.name.size();
        if (left() > size + 1 && *at_ == '"' && at_[size + 1] == '"' &&
            one.name == std::string_view(at_ + 1, size)) {
            value->type = one.type;
            at_ += size + 2;
            return true;
        }
    }
    return at_ == end_ ? fail_token("expected a string")
                       : fail_base64("\"dtype\" must be the name of a type, such as \"float32\"");
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
        return fail_token(problem);
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

// Where a token is expected, outside of strings: what is often sent in its place is named.
bool Reader::fail_token(const char* problem) {
    for (const Refused& refused : kRefused) {
        const std::size_t size = refused.text.size();
        if (left() >= size && refused.text == std::string_view(at_, size)) {
            problem = refused.problem;
        }
    }
    if (*at_ == ']' || *at_ == '}') {
        const char* before = at_;
        while (before > body_ && is_space(before[-1])) {
            --before;
        }
        if (before > body_ && before[-1] == ',') {
            problem = "a trailing comma is not JSON; after a comma something follows";
        }
    }
    return fail_syntax(problem);
}

bool Reader::fail_base64(std::string problem) {
    text_ = std::move(problem);
    return fail(ReadError::base64);
}

}  // namespace gpux
