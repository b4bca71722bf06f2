#include "request.hpp"

#include <algorithm>
#include <cstring>

namespace gpux {
namespace {

std::int64_t product(const std::int64_t* sizes, int axes) noexcept {
    std::int64_t result = 1;
    for (int axis = 0; axis < axes; ++axis) {
        result *= sizes[axis];
    }
    return result;
}

// Calls `copy(position in the outer tensor, position in the inner one, bytes)` for each run of elements
// that is contiguous in both.
template <class Copy>
void for_each_run(const std::int64_t* outer, const std::int64_t* offset, const std::int64_t* shape, int axes,
                  std::size_t width, Copy copy) noexcept {
    if (product(shape, axes) == 0) {
        return;
    }
    // Trailing axes of equal sizes are one run, with the first axis that differs.
    int last = axes - 1;
    std::size_t run = width;
    std::size_t outer_run = width;
    while (last > 0 && shape[last] == outer[last]) {
        run *= static_cast<std::size_t>(shape[last]);
        outer_run *= static_cast<std::size_t>(outer[last]);
        --last;
    }
    if (last < 0) {
        copy(std::size_t{0}, std::size_t{0}, run);
        return;
    }
    std::size_t strides[kMaxAxes];  // of the outer tensor, in bytes
    std::size_t start = 0;
    for (int axis = last; axis >= 0; --axis) {
        strides[axis] = axis == last ? outer_run
                                     : strides[axis + 1] * static_cast<std::size_t>(outer[axis + 1]);
        start += strides[axis] * static_cast<std::size_t>(offset[axis]);
    }
    run *= static_cast<std::size_t>(shape[last]);
    std::int64_t index[kMaxAxes] = {};
    std::size_t inner = 0;
    for (;;) {
        copy(start, inner, run);
        inner += run;
        int axis = last - 1;
        for (; axis >= 0; --axis) {
            start += strides[axis];
            if (++index[axis] < shape[axis]) {
                break;
            }
            start -= strides[axis] * static_cast<std::size_t>(shape[axis]);
            index[axis] = 0;
        }
        if (axis < 0) {
            return;
        }
    }
}

void fill(unsigned char* data, std::size_t nbytes, const unsigned char* element, std::size_t width) noexcept {
    if (nbytes == 0) {
        return;
    }
    // Doubles what is filled.
    std::memcpy(data, element, width);
    for (std::size_t done = width; done < nbytes; done *= 2) {
        std::memcpy(data + done, data, std::min(done, nbytes - done));
    }
}

void concatenate_strings(const std::vector<const Request*>& requests, std::size_t input, Strings* whole) {
    for (const Request* request : requests) {
        const Strings& part = request->inputs[input].strings;
        const std::size_t start = whole->text.size();
        whole->text += part.text;
        for (const std::size_t end : part.ends) {
            whole->ends.push_back(start + end);
        }
    }
}

}  // namespace

std::int64_t InputTensor::elements() const noexcept { return product(shape, axes); }

std::int64_t Request::rows(const std::vector<InputRule>& rules) const noexcept {
    std::int64_t longest = -1;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        if (inputs[i].given && rules[i].is_fed && !rules[i].is_optional && inputs[i].axes > 0) {
            longest = std::max(longest, inputs[i].shape[0]);
        }
    }
    return longest < 0 ? 1 : longest;
}

bool is_unbatched(const Request& request, const std::vector<InputRule>& rules) noexcept {
    bool has_item = false;
    for (std::size_t i = 0; i < rules.size(); ++i) {
        if (rules[i].is_batched && request.inputs[i].given) {
            if (!request.inputs[i].as_one_item) {
                return false;
            }
            has_item = true;
        }
    }
    return has_item;
}

std::size_t first_missing(const Request& request, const std::vector<InputRule>& rules) noexcept {
    std::size_t i = 0;
    while (i < rules.size() && (request.inputs[i].given || rules[i].is_optional || !rules[i].is_fed)) {
        ++i;
    }
    return i;
}

bool agree(const Request& request, const std::vector<InputRule>& rules, Disagreement* disagreement) {
    // The sizes that were met, by name: those of the first input that has the name, and one of a second
    // input. All others equal the latter, so that the first conflict is found without comparing all pairs.
    struct Seen {
        std::size_t input;
        std::int64_t size;
    };
    std::vector<std::vector<Seen>> seen;
    const auto compare = [&](int name, std::size_t input, std::int64_t size) {
        const std::size_t slot = static_cast<std::size_t>(name) + 1;  // 0 for an unnamed axis, which is -1
        if (slot >= seen.size()) {
            seen.resize(slot + 1);
        }
        std::vector<Seen>& sizes = seen[slot];
        for (const Seen& other : sizes) {
            if (other.input != input && other.size != size) {
                *disagreement = {name, other.input, other.size, input, size};
                return false;
            }
        }
        if (sizes.empty() || sizes.front().input == sizes.back().input) {
            sizes.push_back({input, size});
        }
        return true;
    };
    bool compares_unnamed = false;
    for (std::size_t i = 0; i < rules.size(); ++i) {
        const InputTensor& tensor = request.inputs[i];
        if (!tensor.given) {
            continue;
        }
        compares_unnamed |= rules[i].is_batched && !rules[i].has_batch_name && tensor.as_items;
        for (const auto& [axis, name] : rules[i].axes) {
            if (!compare(name, i, tensor.shape[axis])) {
                return false;
            }
        }
    }
    for (std::size_t i = 0; compares_unnamed && i < rules.size(); ++i) {
        if (request.inputs[i].given && rules[i].is_batched && !rules[i].has_batch_name &&
            !compare(-1, i, request.inputs[i].shape[0])) {
            return false;
        }
    }
    return true;
}

bool gather(const std::vector<const Request*>& requests, const std::vector<InputRule>& rules,
            const std::vector<PaddedInput>& padded, bool is_left, Pool& pool, Request* batch) {
    for (std::size_t input = 0; input < rules.size(); ++input) {
        const InputTensor& like = requests.front()->inputs[input];
        if (!like.given || !rules[input].is_fed) {
            continue;
        }
        InputTensor& whole = batch->inputs[input];
        whole.given = true;
        whole.axes = like.axes;
        std::copy_n(like.shape, like.axes, whole.shape);
        const PaddedInput& padding = padded[input];
        std::copy(padding.shape.begin(), padding.shape.end(), whole.shape);
        whole.shape[0] = 0;
        for (const Request* request : requests) {
            whole.shape[0] += request->inputs[input].shape[0];
        }
        if (rules[input].type == Type::string) {
            concatenate_strings(requests, input, &whole.strings);
            continue;
        }
        const std::size_t width = element_bytes(rules[input].type);
        const std::size_t nbytes = static_cast<std::size_t>(whole.elements()) * width;
        whole.block = pool.take(nbytes);
        if (!whole.block) {
            return false;
        }
        whole.data = whole.block.data();
        if (!padding.shape.empty()) {
            fill(whole.block.data(), nbytes, padding.element, width);
        }
        std::int64_t offset[kMaxAxes] = {};
        for (const Request* request : requests) {
            const InputTensor& part = request->inputs[input];
            for (int axis = 1; is_left && axis < whole.axes; ++axis) {
                offset[axis] = whole.shape[axis] - part.shape[axis];
            }
            copy_into(whole.block.data(), whole.shape, offset, static_cast<const unsigned char*>(part.data),
                      part.shape, whole.axes, width);
            offset[0] += part.shape[0];
        }
    }
    return true;
}

void copy_into(unsigned char* outer_data, const std::int64_t* outer, const std::int64_t* offset,
               const unsigned char* data, const std::int64_t* shape, int axes, std::size_t width) noexcept {
    for_each_run(outer, offset, shape, axes, width,
                 [&](std::size_t at, std::size_t inner, std::size_t nbytes) {
                     std::memcpy(outer_data + at, data + inner, nbytes);
                 });
}

void copy_out_of(const unsigned char* outer_data, const std::int64_t* outer, const std::int64_t* offset,
                 unsigned char* data, const std::int64_t* shape, int axes, std::size_t width) noexcept {
    for_each_run(outer, offset, shape, axes, width,
                 [&](std::size_t at, std::size_t inner, std::size_t nbytes) {
                     std::memcpy(data + inner, outer_data + at, nbytes);
                 });
}

}  // namespace gpux
