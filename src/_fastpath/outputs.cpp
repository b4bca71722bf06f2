#include "outputs.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "writer.hpp"

namespace gpux {
namespace {

namespace slots = ort::slots;

std::int64_t product(const std::int64_t* sizes, int axes) noexcept {
    std::int64_t result = 1;
    for (int axis = 0; axis < axes; ++axis) {
        result *= sizes[axis];
    }
    return result;
}

Strings read_strings(const ort::OrtValue* value, std::size_t count) {
    Strings strings;
    if (count == 0) {
        return strings;
    }
    strings.text.resize(ort::get<std::size_t>(slots::GetStringTensorDataLength, value));
    strings.ends.resize(count + 1);
    ort::check(ort::api[slots::GetStringTensorContent](value, strings.text.data(), strings.text.size(),
                                                       strings.ends.data(), count));
    // ONNX Runtime returns where each element starts, of which the first is 0.
    strings.ends.erase(strings.ends.begin());
    strings.ends.back() = strings.text.size();
    return strings;
}

// A plain run of a string: no quote, backslash or control character. Bytes beyond ASCII are not plain.
bool is_plain(unsigned char byte) noexcept {
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

void write_escape(unsigned char byte, Text* text) {
    constexpr char kDigits[] = "0123456789abcdef";
    switch (byte) {
        case '"': return text->append("\\\"");
        case '\\': return text->append("\\\\");
        case '\n': return text->append("\\n");
        case '\r': return text->append("\\r");
        case '\t': return text->append("\\t");
        case '\b': return text->append("\\b");
        case '\f': return text->append("\\f");
        default: break;
    }
    const char escape[] = {'\\', 'u', '0', '0', kDigits[byte >> 4], kDigits[byte & 15]};
    text->append({escape, sizeof escape});
}

// Nested arrays of strings, from `*next` on.
void write_strings(const Strings& strings, const std::int64_t* shape, int axes, std::size_t* next,
                   Text* text) {
    if (axes == 0) {
        return write_string(strings[(*next)++], text);
    }
    text->append("[");
    for (std::int64_t i = 0; i < shape[0]; ++i) {
        if (i > 0) {
            text->append(",");
        }
        write_strings(strings, shape + 1, axes - 1, next, text);
    }
    text->append("]");
}

void write_numbers(Type type, int axes, const std::int64_t* shape, const void* data, Text* text) {
    const std::size_t bytes = max_bytes(type, axes, shape);
    if (bytes == 0) {
        throw std::bad_alloc();
    }
    char* const out = text->room(bytes);
    text->size += static_cast<std::size_t>(write_tensor(out, type, axes, shape, data) - out);
}

void write_value(const Output& output, int axes, const std::int64_t* shape, Text* text);

void write_map(const Output& map, Text* text) {
    const std::vector<Output> pair = elements_of(map);
    const Output& keys = pair[0];
    const Output& values = pair[1];
    const std::size_t count = static_cast<std::size_t>(product(keys.shape, keys.axes));
    text->append("{");
    for (std::size_t i = 0; i < count; ++i) {
        if (i > 0) {
            text->append(",");
        }
        if (keys.type == Type::string) {
            write_string(keys.strings[i], text);
        } else {
            text->append("\"");
            write_numbers(keys.type, 0, nullptr, keys.data + i * element_bytes(keys.type), text);
            text->append("\"");
        }
        text->append(":");
        if (values.type == Type::string) {
            write_string(values.strings[i], text);
        } else {
            write_numbers(values.type, 0, nullptr, values.data + i * element_bytes(values.type), text);
        }
    }
    text->append("}");
}

void write_sequence(const Output& sequence, Text* text) {
    bool is_first = true;
    text->append("[");
    for (const Output& element : elements_of(sequence)) {
        if (!is_first) {
            text->append(",");
        }
        is_first = false;
        write_value(element, element.axes, element.shape, text);
    }
    text->append("]");
}

// A tensor is written as one of `shape`.
void write_value(const Output& output, int axes, const std::int64_t* shape, Text* text) {
    switch (output.kind) {
        case ort::ValueKind::sequence: return write_sequence(output, text);
        case ort::ValueKind::map: return write_map(output, text);
        default: break;
    }
    if (output.type == Type::string) {
        std::size_t next = 0;
        return write_strings(output.strings, shape, axes, &next, text);
    }
    write_numbers(output.type, axes, shape, output.data, text);
}

void write_output(const Output& output, const OutputRule& rule, bool unbatched, Text* text) {
    if (output.kind == ort::ValueKind::sequence && unbatched) {
        const std::vector<Output> elements = elements_of(output);
        if (elements.size() == 1) {
            return write_value(elements[0], elements[0].axes, elements[0].shape, text);
        }
    }
    const bool may_unbatch = rule.unbatch == Unbatch::always ||
                             (rule.unbatch == Unbatch::with_request && unbatched);
    const int dropped = may_unbatch && output.axes > 0 && output.shape[0] == 1 ? 1 : 0;
    const int axes = output.axes - dropped;
    const std::int64_t* const shape = output.shape + dropped;
    if (!rule.activation) {
        return write_value(output, axes, shape, text);
    }
    const std::size_t elements = static_cast<std::size_t>(product(output.shape, output.axes));
    const std::size_t size = output.axes == 0 ? 1 : static_cast<std::size_t>(output.shape[output.axes - 1]);
    const std::unique_ptr<unsigned char[]> activated(
        new unsigned char[elements * element_bytes(output.type)]);
    activate(*rule.activation, output.type, size == 0 ? 0 : elements / size, size, output.data,
             activated.get());
    write_numbers(output.type, axes, shape, activated.get(), text);
}

double widen(double value) noexcept { return value; }
double widen(float value) noexcept { return value; }
double widen(Half value) noexcept { return to_double(value); }
double widen(BFloat value) noexcept { return to_double(value); }

// Whether `accept` holds for each pair of elements of two float tensors.
template <class Float, class Accept>
bool all_of(const Output& one, const Output& other, std::size_t count, Accept accept) noexcept {
    for (std::size_t i = 0; i < count; ++i) {
        Float a;
        Float b;
        std::memcpy(&a, one.data + i * sizeof a, sizeof a);
        std::memcpy(&b, other.data + i * sizeof b, sizeof b);
        if (!accept(widen(a), widen(b))) {
            return false;
        }
    }
    return true;
}

template <class Accept>
bool all_floats(const Output& one, const Output& other, std::size_t count, Accept accept) noexcept {
    switch (one.type) {
        case Type::float64: return all_of<double>(one, other, count, accept);
        case Type::float16: return all_of<Half>(one, other, count, accept);
        case Type::bfloat16: return all_of<BFloat>(one, other, count, accept);
        default: return all_of<float>(one, other, count, accept);
    }
}

}  // namespace

Output describe(ort::Value value) {
    Output output;
    output.kind = ort::get<ort::ValueKind>(slots::GetValueType, value.get());
    if (output.kind == ort::ValueKind::tensor) {
        const auto info = ort::make<ort::ShapeInfo>(slots::GetTensorTypeAndShape, value.get());
        output.type = static_cast<Type>(ort::get<int>(slots::GetTensorElementType, info.get()));
        const std::size_t axes = ort::get<std::size_t>(slots::GetDimensionsCount, info.get());
        if (axes > kMaxAxes) {
            throw ort::Failure("an output has more than " + std::to_string(kMaxAxes) + " axes");
        }
        output.axes = static_cast<int>(axes);
        ort::check(ort::api[slots::GetDimensions](info.get(), output.shape, axes));
        if (output.type == Type::string) {
            output.strings = read_strings(value.get(),
                                          static_cast<std::size_t>(product(output.shape, output.axes)));
        } else {
            void* data = nullptr;
            ort::check(ort::api[slots::GetTensorMutableData](value.get(), &data));
            output.data = static_cast<const unsigned char*>(data);
        }
    }
    if (output.kind != ort::ValueKind::tensor && output.kind != ort::ValueKind::sequence &&
        output.kind != ort::ValueKind::map) {
        throw ort::Failure("an output holds a value that is not a tensor, a sequence or a map");
    }
    output.value = std::move(value);
    return output;
}

std::vector<Output> elements_of(const Output& output) {
    const ort::OrtValue* const value = output.value.get();
    const std::size_t count = output.kind == ort::ValueKind::map
                                  ? 2
                                  : ort::get<std::size_t>(slots::GetValueCount, value);
    std::vector<Output> elements;
    elements.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
        elements.push_back(
            describe(ort::make<ort::Value>(slots::GetValue, value, static_cast<int>(i), ort::allocator())));
    }
    return elements;
}

std::shared_ptr<Outputs> part_of(std::shared_ptr<const Outputs> batch, std::int64_t first, std::int64_t rows,
                                 const std::vector<std::vector<std::int64_t>>& shapes, bool is_left) {
    auto part = std::make_shared<Outputs>();
    part->list.reserve(batch->list.size());
    for (std::size_t i = 0; i < batch->list.size(); ++i) {
        const Output& whole = batch->list[i];
        Output& output = part->list.emplace_back();
        output.type = whole.type;
        output.axes = whole.axes;
        std::copy_n(whole.shape, whole.axes, output.shape);
        output.shape[0] = rows;
        std::copy(shapes[i].begin(), shapes[i].end(), output.shape + 1);
        std::int64_t offset[kMaxAxes] = {first};
        bool is_contiguous = true;
        for (int axis = 1; axis < whole.axes; ++axis) {
            is_contiguous &= output.shape[axis] == whole.shape[axis];
            offset[axis] = is_left ? whole.shape[axis] - output.shape[axis] : 0;
        }
        const std::size_t row = static_cast<std::size_t>(product(whole.shape + 1, whole.axes - 1));
        const std::size_t elements = static_cast<std::size_t>(product(output.shape, output.axes));
        if (whole.type == Type::string) {
            // The indexes of the part's elements are cut out of those of all.
            std::vector<std::size_t> all(whole.strings.size());
            for (std::size_t element = 0; element < all.size(); ++element) {
                all[element] = element;
            }
            std::vector<std::size_t> kept(elements);
            copy_out_of(reinterpret_cast<const unsigned char*>(all.data()), whole.shape, offset,
                        reinterpret_cast<unsigned char*>(kept.data()), output.shape, output.axes,
                        sizeof(std::size_t));
            for (const std::size_t element : kept) {
                output.strings.append(whole.strings[element]);
            }
            continue;
        }
        const std::size_t width = element_bytes(whole.type);
        if (is_contiguous) {
            output.data = whole.data + static_cast<std::size_t>(first) * row * width;
            continue;
        }
        part->dense.emplace_back(new unsigned char[elements * width]);
        copy_out_of(whole.data, whole.shape, offset, part->dense.back().get(), output.shape, output.axes,
                    width);
        output.data = part->dense.back().get();
    }
    part->batch = std::move(batch);
    return part;
}

bool are_close(const Output& one, const Output& other, double relative, double absolute) noexcept {
    if (one.axes != other.axes || !std::equal(one.shape, one.shape + one.axes, other.shape)) {
        return false;
    }
    if (one.type == Type::string) {
        return one.strings.text == other.strings.text && one.strings.ends == other.strings.ends;
    }
    const std::size_t count = static_cast<std::size_t>(product(one.shape, one.axes));
    if (!is_float(one.type)) {
        return count == 0 || std::memcmp(one.data, other.data, count * element_bytes(one.type)) == 0;
    }
    return all_floats(one, other, count, [&](double a, double b) {
        return a == b || (std::isnan(a) && std::isnan(b)) ||
               std::fabs(a - b) <= absolute + relative * std::fabs(b);
    });
}

bool is_informative(const Output& output) noexcept {
    const std::size_t count = static_cast<std::size_t>(product(output.shape, output.axes));
    if (count == 0 || !is_float(output.type)) {
        return count > 0;
    }
    return !all_floats(output, output, count, [](double value, double) { return !std::isfinite(value); });
}

char* Text::room(std::size_t bytes) {
    std::size_t needed;
    if (__builtin_add_overflow(size, bytes, &needed) || needed > SIZE_MAX / 4 ||
        (needed > capacity && !grow(owner, this, needed))) {
        throw std::bad_alloc();
    }
    return data + size;
}

void Text::append(std::string_view more) {
    std::memcpy(room(more.size()), more.data(), more.size());
    size += more.size();
}

void write_response(const Outputs& outputs, const std::vector<OutputRule>& rules, bool unbatched,
                    Text* text) {
    // Tensors of numbers, most of a response, are given room once.
    std::size_t bytes = 2;
    for (const OutputRule& rule : rules) {
        const Output& output = outputs.list[rule.index];
        bytes += rule.key.size() + 2;
        if (output.kind == ort::ValueKind::tensor && output.type != Type::string) {
            const std::size_t most = max_bytes(output.type, output.axes, output.shape);
            if (most == 0 || most > SIZE_MAX / 8 - bytes) {
                throw std::bad_alloc();
            }
            bytes += most;
        }
    }
    text->room(bytes);
    text->append("{");
    for (const OutputRule& rule : rules) {
        if (&rule != rules.data()) {
            text->append(",");
        }
        text->append(rule.key);
        text->append(":");
        write_output(outputs.list[rule.index], rule, unbatched, text);
    }
    text->append("}");
}

void write_string(std::string_view string, Text* text) {
    text->append("\"");
    const char* at = string.data();
    const char* const end = at + string.size();
    while (at < end) {
        const char* run = at;
        while (run < end && is_plain(static_cast<unsigned char>(*run))) {
            ++run;
        }
        text->append({at, static_cast<std::size_t>(run - at)});
        if (run == end) {
            break;
        }
        if (static_cast<unsigned char>(*run) < 0x80) {
            write_escape(static_cast<unsigned char>(*run), text);
            at = run + 1;
            continue;
        }
        at = run;
        while (run < end && static_cast<unsigned char>(*run) >= 0x80) {
            ++run;
        }
        text->append(ort::well_formed(at, static_cast<std::size_t>(run - at)));
        at = run;
    }
    text->append("\"");
}

}  // namespace gpux
