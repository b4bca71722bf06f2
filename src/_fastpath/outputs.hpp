// The outputs of a run, and the response that is written from them.
//
// Tensors of numbers are written from ONNX Runtime's own memory. No Python.h; runs without the GIL.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "activation.hpp"
#include "element.hpp"
#include "ort.hpp"
#include "request.hpp"

namespace gpux {

// One output. A tensor of numbers is in ONNX Runtime's memory, or in that of the batch it is a part of.
struct Output {
    ort::ValueKind kind = ort::ValueKind::tensor;
    Type type = Type::float32;  // of a tensor
    int axes = 0;
    std::int64_t shape[kMaxAxes];
    const unsigned char* data = nullptr;  // of numbers
    Strings strings;
    ort::Value value;  // owns `data`, or is a sequence or a map
};

// The outputs of one request. They own their memory, or share that of a whole batch.
struct Outputs {
    std::vector<Output> list;                             // in the order in which the run asked for them
    std::vector<std::unique_ptr<unsigned char[]>> dense;  // parts that are not contiguous in the batch
    std::shared_ptr<const Outputs> batch;
};

// Describes a value of ONNX Runtime as an output, which owns it. Throws ort::Failure.
Output describe(ort::Value value);

// The elements of a sequence; the keys and the values of a map, each a tensor. Throws ort::Failure.
std::vector<Output> elements_of(const Output& output);

// The part of a batch's outputs that belongs to one of its requests.
//
// `first` and `rows` are its rows. `shapes` has the sizes of each output's axes after the first where
// padding is cut off, and is empty for the others; `is_left`: the padding precedes the elements.
std::shared_ptr<Outputs> part_of(std::shared_ptr<const Outputs> batch, std::int64_t first, std::int64_t rows,
                                 const std::vector<std::vector<std::int64_t>>& shapes, bool is_left);

// Whether two tensors of one type agree: equal shapes, and equal elements; floats that differ by at most
// `absolute` plus `relative` times the second one's magnitude, or are both NaN, count as equal.
bool are_close(const Output& one, const Output& other, double relative, double absolute) noexcept;

// Whether a tensor has a value that tells anything: a finite one, or any that is not a float.
bool is_informative(const Output& output) noexcept;

// When an output loses its leading axis, of size 1, in the response.
enum class Unbatch : int { never, with_request, always };

// How an output is answered. Immutable once made; shared between threads.
struct OutputRule {
    std::string key;  // its name as JSON text
    std::size_t index;
    std::optional<Activation> activation;
    Unbatch unbatch;
};

// The text of a response while it is written. `grow` sets `data` to at least `needed` bytes that start with
// the `size` bytes written so far, or returns false (out of memory).
struct Text {
    char* data;
    std::size_t size;
    std::size_t capacity;
    void* owner;
    bool (*grow)(void* owner, Text* text, std::size_t needed);

    // Makes room for `bytes` more. Throws std::bad_alloc.
    char* room(std::size_t bytes);
    void append(std::string_view more);
};

// Writes the response, one JSON object. Throws std::bad_alloc, or ort::Failure for a value that ONNX Runtime
// does not hand out.
void write_response(const Outputs& outputs, const std::vector<OutputRule>& rules, bool unbatched, Text* text);

// Writes a string as JSON text: only what must be escaped is; ill-formed UTF-8 is replaced by U+FFFD.
void write_string(std::string_view string, Text* text);

}  // namespace gpux
