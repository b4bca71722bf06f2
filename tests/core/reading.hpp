// One reading of a body, as the fuzzer and the tests of the core do it.
//
// Each body has memory that ends with its NUL, and each tensor a block of exactly the requested size, so
// that AddressSanitizer detects every overrun. Aborts if the values read are inconsistent.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reader.hpp"

namespace gpux::tests {

inline void require(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "does not hold: %s\n", what);
        std::abort();
    }
}

// As gpux.tensors.signature.TensorSpec: -1 is a dynamic size.
inline Spec spec_of(Type type, std::initializer_list<std::int64_t> sizes) {
    Spec spec{};
    spec.type = type;
    spec.axes = static_cast<int>(sizes.size());
    std::copy(sizes.begin(), sizes.end(), spec.sizes);
    spec.open = spec.axes == 0;
    spec.batched = !spec.open && spec.sizes[0] < 0;
    spec.flat_items = spec.batched && spec.axes == 2 && spec.sizes[1] == 1;
    const bool has_items = spec.batched || (!spec.open && spec.sizes[0] == 1);
    spec.min_axes = spec.open || spec.flat_items ? 0 : spec.axes - (has_items ? 1 : 0);
    spec.max_axes = spec.open ? kMaxAxes : spec.axes;
    spec.max_characters = -1;
    return spec;
}

// The inputs that a body may have. Made once, as the reader's inputs point into it.
struct Signature {
    std::vector<std::string> names;
    std::vector<Spec> specs;
    std::vector<Input> inputs;

    void add(const char* name, Spec spec, int group = 0) {
        names.emplace_back(name);
        specs.push_back(spec);
        inputs.push_back({nullptr, 0, nullptr, group});
        // The vectors may have reallocated.
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            inputs[i].name = names[i].data();
            inputs[i].name_size = names[i].size();
            inputs[i].spec = &specs[i];
        }
    }
};

// A tensor's memory, of exactly the requested size.
struct Block {
    std::unique_ptr<unsigned char[]> bytes;
    std::size_t size = 0;

    void grow(Memory* memory, std::size_t needed) {
        require(needed > memory->capacity, "more is needed");
        require(memory->capacity == size, "it grows what it was given");
        std::unique_ptr<unsigned char[]> larger(new unsigned char[needed]);
        std::memset(larger.get(), 0xC3, needed);
        if (size > 0) {
            std::memcpy(larger.get(), bytes.get(), size);
        }
        bytes = std::move(larger);
        size = needed;
        memory->data = bytes.get();
        memory->capacity = needed;
    }
};

template <class Element>
std::string_view bytes_of(const std::vector<Element>& elements) {
    return {reinterpret_cast<const char*>(elements.data()), elements.size() * sizeof(Element)};
}

using Sizes = std::vector<std::int64_t>;

inline Sizes path_of(const Sink& sink) { return Sizes(sink.path(), sink.path() + sink.path_size()); }
inline Sizes shape_of(const Value& value) { return Sizes(value.shape, value.shape + value.axes); }

// One reading and its result.
class Reading {
public:
    Reading(const Signature& signature, const std::string& text,
            Instructions instructions = best_instructions())
        : signature_(signature), body_(new char[text.size() + 1]), blocks_(signature.inputs.size()) {
        std::memcpy(body_.get(), text.data(), text.size());
        body_[text.size()] = '\0';
        reader_ = std::make_unique<Reader>(body_.get(), text.size(), signature.inputs, this, grow,
                                           instructions);
        done_ = reader_->read();
        require(done_ == (reader_->error() == ReadError::none), "an error, or all is read");
        require(reader_->at() <= text.size(), "the position is in the body");
        require(reader_->error() != ReadError::out_of_memory, "there is memory");
        for (const Value& value : reader_->values()) {
            check(value);
        }
    }

    bool done() const { return done_; }
    const Reader& reader() const { return *reader_; }

    std::string text_of(const String& string) const {
        const char* const from = string.decoded ? reader_->decoded().data() : body_.get();
        return std::string(from + string.start, string.size);
    }

    std::string_view elements_of(const Value& value) const {
        std::size_t bytes = element_bytes(signature_.specs[value.input].type);
        for (const std::int64_t size : shape_of(value)) {
            bytes *= static_cast<std::size_t>(size);
        }
        return {reinterpret_cast<const char*>(blocks_[value.input].bytes.get()), bytes};
    }

    std::vector<std::string> strings_of(const Value& value) const {
        std::vector<std::string> strings;
        for (std::size_t i = 0; i < value.strings; ++i) {
            strings.push_back(text_of(reader_->strings()[value.first_string + i]));
        }
        return strings;
    }

    bool is_equal(const Reading& other) const {
        const auto is_same = [&](const Value& a, const Value& b) {
            return a.input == b.input && a.as_items == b.as_items && a.as_one_item == b.as_one_item &&
                   shape_of(a) == shape_of(b) && elements_of(a) == other.elements_of(b) &&
                   strings_of(a) == other.strings_of(b);
        };
        const std::vector<Value>& values = reader_->values();
        const std::vector<Value>& others = other.reader_->values();
        return std::equal(values.begin(), values.end(), others.begin(), others.end(), is_same);
    }

    bool has_same_error(const Reading& other) const {
        return reader_->at() == other.reader_->at() && has_same_error_elsewhere(other);
    }

    // The same error of the same element, if not at the same byte.
    bool has_same_error_elsewhere(const Reading& other) const {
        const Reader& a = *reader_;
        const Reader& b = *other.reader_;
        if (a.error() != b.error() || a.text() != b.text()) {
            return false;
        }
        if (a.error() == ReadError::syntax) {
            return std::strcmp(a.problem(), b.problem()) == 0;
        }
        if (a.error() != ReadError::value) {
            return true;
        }
        return a.input() == b.input() && a.sink().error() == b.sink().error() &&
               path_of(a.sink()) == path_of(b.sink()) &&
               std::string(a.number(), a.number_size()) == std::string(b.number(), b.number_size());
    }

private:
    static bool grow(void* owner, Memory* memory, std::size_t needed) {
        Reading& reading = *static_cast<Reading*>(owner);
        reading.blocks_[reading.reader_->current()].grow(memory, needed);
        return true;
    }

    void check(const Value& value) const {
        require(value.input < signature_.inputs.size(), "an input there is");
        const Spec& spec = signature_.specs[value.input];
        require(value.axes <= kMaxAxes, "axes are bounded");
        std::size_t elements = 1;
        for (int axis = 0; axis < value.axes; ++axis) {
            require(value.shape[axis] >= 0, "sizes are sizes");
            require(spec.open || spec.sizes[axis] < 0 || spec.sizes[axis] == value.shape[axis],
                    "fixed sizes are kept");
            elements *= static_cast<std::size_t>(value.shape[axis]);
        }
        require(elements_of(value).size() <= blocks_[value.input].size, "its elements are in its block");
        if (spec.type == Type::boolean) {
            for (const char element : elements_of(value)) {
                require(element == 0 || element == 1, "booleans are 0 or 1");
            }
        }
        if (spec.type != Type::string) {
            require(value.strings == 0, "no strings");
            return;
        }
        require(value.strings == elements, "as many strings as elements");
        require(value.first_string + value.strings <= reader_->strings().size(), "the strings are there");
        (void)strings_of(value);
    }

    const Signature& signature_;
    std::unique_ptr<char[]> body_;
    std::vector<Block> blocks_;
    std::unique_ptr<Reader> reader_;
    bool done_ = false;
};

}  // namespace gpux::tests
