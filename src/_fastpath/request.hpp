// The inputs of one run: what a reader or a Python caller provides, completed and checked together.
//
// No Python.h; runs without the GIL.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pool.hpp"
#include "sink.hpp"

namespace gpux {

// The elements of a string tensor in C order: any bytes.
struct Strings {
    std::string text;               // all elements, one after the other
    std::vector<std::size_t> ends;  // of each element in `text`

    std::size_t size() const noexcept { return ends.size(); }
    std::string_view operator[](std::size_t index) const noexcept {
        const std::size_t start = index == 0 ? 0 : ends[index - 1];
        return {text.data() + start, ends[index] - start};
    }
    void append(std::string_view element) {
        text.append(element);
        ends.push_back(text.size());
    }
};

// The tensor of one input, if the request gives it. Owns its elements, except for borrowed memory.
struct InputTensor {
    bool given = false;
    bool as_items = false;     // declared axes were missing, and have been added
    bool as_one_item = false;  // the value was a single item
    int axes = 0;
    std::int64_t shape[kMaxAxes];
    const void* data = nullptr;  // of numbers: in `block`, or borrowed
    Block block;
    Strings strings;

    std::int64_t elements() const noexcept;
};

// What the inputs of a model must agree on. Immutable once made; shared between threads.
struct InputRule {
    Type type;
    bool is_batched;                        // leads with the batch axis
    bool has_batch_name;                    // or that axis has a name or a size, which `axes` compares
    bool is_optional;                       // may be left out, and has no batch axis
    bool is_fed;                            // the model has this input; otherwise others are made from it
    std::vector<std::pair<int, int>> axes;  // its named dynamic axes, as (axis, number of the name)
};

// Two inputs that give an axis different sizes: indexes into the rules, and the sizes.
struct Disagreement {
    int name;  // number of the axis's name, -1 for an unnamed batch axis
    std::size_t first;
    std::int64_t first_size;
    std::size_t second;
    std::int64_t second_size;
};

struct Request {
    std::vector<InputTensor> inputs;  // one per rule
    bool unbatched = false;           // the request is one item, and so is its response

    explicit Request(std::size_t count = 0) : inputs(count) {}

    // The size of the leading axis of its longest input that is fed and not optional.
    std::int64_t rows(const std::vector<InputRule>& rules) const noexcept;
};

// Whether each batched input that is given came as one item, and there is at least one.
bool is_unbatched(const Request& request, const std::vector<InputRule>& rules) noexcept;

// The index of the first input that is missing, or the number of rules.
std::size_t first_missing(const Request& request, const std::vector<InputRule>& rules) noexcept;

// Whether the shapes of different inputs agree: axes of one name have one size. Unnamed leading axes of
// batched inputs are compared only if one of these was given as items: given with all their axes, they may
// mean different things (a recurrent model's state leads with its layers), and the model decides.
bool agree(const Request& request, const std::vector<InputRule>& rules, Disagreement* disagreement);

// A batch's shape of an input along which its requests differ, and the element that pads them.
struct PaddedInput {
    std::vector<std::int64_t> shape;  // empty: not padded
    unsigned char element[8];
};

// Concatenates requests along the batch axis, in their order, into blocks of the pool. The requests must
// give the same inputs, with shapes that only differ in the leading axis and those that are padded.
// `is_left`: padding precedes the elements. Returns false if the pool has no room. Throws std::bad_alloc.
bool gather(const std::vector<const Request*>& requests, const std::vector<InputRule>& rules,
            const std::vector<PaddedInput>& padded, bool is_left, Pool& pool, Request* batch);

// Copies a dense tensor of `shape` into a larger one of `outer`, at `offset` along each axis, or out of it.
// Elements have `width` bytes; all have `axes` axes.
void copy_into(unsigned char* outer_data, const std::int64_t* outer, const std::int64_t* offset,
               const unsigned char* data, const std::int64_t* shape, int axes, std::size_t width) noexcept;
void copy_out_of(const unsigned char* outer_data, const std::int64_t* outer, const std::int64_t* offset,
                 unsigned char* data, const std::int64_t* shape, int axes, std::size_t width) noexcept;

}  // namespace gpux
