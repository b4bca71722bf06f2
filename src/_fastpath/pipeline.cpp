#include "pipeline.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <new>

namespace gpux {
namespace {

namespace slots = ort::slots;

// Of an input's first block: declared sizes and the lengths of bodies may be anything.
constexpr std::size_t kMaxFirstBytes = std::size_t{1} << 24;

// How often this process has been forked from one that has a pipeline.
std::atomic<int> forks{0};

int count_forks() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { ++forks; });
    return registered == 0 ? forks.load() : 0;
}

// What Memory::grow needs to find the block of the input that is being read.
struct Decoding {
    const std::vector<InputRule>& rules;
    const std::vector<std::size_t>& first_bytes;
    Pool& pool;
    Request& request;
    const Reader* reader = nullptr;
};

bool grow(void* owner, Memory* memory, std::size_t needed) {
    Decoding& decoding = *static_cast<Decoding*>(owner);
    const std::size_t input = decoding.reader->current();
    std::size_t wanted = 2 * memory->capacity;
    if (memory->capacity == 0) {
        // The rest of the body bounds the count: a number mostly takes six bytes or more.
        wanted = decoding.reader->left() / 6 * element_bytes(decoding.rules[input].type);
        wanted = std::max(decoding.first_bytes[input], std::min(wanted, kMaxFirstBytes));
    }
    Block larger = decoding.pool.take(std::max(needed, wanted));
    if (!larger) {
        return false;
    }
    if (memory->capacity > 0) {  // memcpy accepts no null pointer, even for 0 bytes
        std::memcpy(larger.data(), memory->data, memory->capacity);
    }
    memory->data = larger.data();
    memory->capacity = larger.nbytes();
    decoding.request.inputs[input].block = std::move(larger);
    return true;
}

std::size_t bytes_of_one_row(const Spec& spec) {
    std::size_t bytes = element_bytes(spec.type);
    for (int axis = 0; axis < spec.axes; ++axis) {
        const std::int64_t size = spec.sizes[axis];
        if (size > 0 && __builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes)) {
            return kMaxFirstBytes;
        }
    }
    return std::min(bytes, kMaxFirstBytes);
}

void take_value(const Reader& reader, const char* body, const Value& value, InputTensor* tensor) {
    tensor->given = true;
    tensor->as_items = value.as_items;
    tensor->as_one_item = value.as_one_item;
    tensor->axes = value.axes;
    std::copy_n(value.shape, value.axes, tensor->shape);
    tensor->data = tensor->block.data();  // null without elements
    tensor->strings.ends.reserve(value.strings);
    for (std::size_t i = value.first_string; i < value.first_string + value.strings; ++i) {
        const String& string = reader.strings()[i];
        const char* const text = string.decoded ? reader.decoded().data() : body;
        tensor->strings.append({text + string.start, string.size});
    }
}

}  // namespace

Pipeline::Pipeline(ort::OrtSession* session, const std::vector<Input>* table, std::vector<InputRule> rules,
                   std::vector<std::string> names, std::vector<std::string> output_names,
                   std::vector<OutputRule> output_rules)
    : session_(session),
      table_(*table),
      rules_(std::move(rules)),
      names_(std::move(names)),
      output_names_(std::move(output_names)),
      output_rules_(std::move(output_rules)),
      forks_(count_forks()) {
    for (const std::string& name : output_names_) {
        output_pointers_.push_back(name.c_str());
    }
    for (const Input& input : table_) {
        first_bytes_.push_back(bytes_of_one_row(*input.spec));
    }
}

Result Pipeline::decode(const char* body, std::size_t size, Pool& pool, Call* call) const noexcept {
    const Nanoseconds start = now();
    try {
        call->request.inputs = std::vector<InputTensor>(rules_.size());
        Decoding decoding{rules_, first_bytes_, pool, call->request};
        call->reader.emplace(body, size, table_, &decoding, grow);
        decoding.reader = &*call->reader;
        if (!call->reader->read()) {
            return Result::invalid;
        }
        for (const Value& value : call->reader->values()) {
            take_value(*call->reader, body, value, &call->request.inputs[value.input]);
        }
    } catch (const std::exception&) {  // std::bad_alloc or std::length_error
        return Result::out_of_memory;
    }
    call->decode_time = now() - start;
    return Result::done;
}

Result Pipeline::complete(Call* call) const noexcept {
    Request& request = call->request;
    request.unbatched = is_unbatched(request, rules_);
    if (first_missing(request, rules_) < rules_.size()) {
        return Result::incomplete;
    }
    try {
        return agree(request, rules_, &call->disagreement) ? Result::done : Result::disagrees;
    } catch (const std::bad_alloc&) {
        return Result::out_of_memory;
    }
}

ort::Value Pipeline::feed(std::size_t input, const InputTensor& tensor) const {
    const std::size_t axes = static_cast<std::size_t>(tensor.axes);
    const Type type = rules_[input].type;
    if (type != Type::string) {
        const std::size_t nbytes = static_cast<std::size_t>(tensor.elements()) * element_bytes(type);
        return ort::make<ort::Value>(slots::CreateTensorWithDataAsOrtValue, ort::host_memory(),
                                     const_cast<void*>(tensor.data), nbytes, tensor.shape, axes,
                                     static_cast<int>(type));
    }
    auto value = ort::make<ort::Value>(slots::CreateTensorAsOrtValue, ort::allocator(), tensor.shape, axes,
                                       static_cast<int>(type));
    for (std::size_t i = 0; i < tensor.strings.size(); ++i) {
        // FillStringTensor would stop at NUL.
        const std::string_view element = tensor.strings[i];
        char* buffer = nullptr;
        ort::check(
            ort::api[slots::GetResizedStringTensorElementBuffer](value.get(), i, element.size(), &buffer));
        element.copy(buffer, element.size());
    }
    return value;
}

Result Pipeline::run(const Request& request, Nanoseconds deadline, Call* call) const noexcept {
    const Nanoseconds start = now();
    try {
        if (forks != forks_) {
            // ONNX Runtime's threads, and the watchdog's, are not in a forked process.
            call->message = "the model was loaded before this process was forked; load it after the fork";
            return Result::failed;
        }
        std::vector<ort::Value> feeds;
        std::vector<const char*> names;
        std::vector<const ort::OrtValue*> values;
        feeds.reserve(rules_.size());
        names.reserve(rules_.size());
        values.reserve(rules_.size());
        for (std::size_t i = 0; i < rules_.size(); ++i) {
            if (request.inputs[i].given && rules_[i].is_fed) {
                feeds.push_back(feed(i, request.inputs[i]));
                names.push_back(names_[i].c_str());
                values.push_back(feeds.back().get());
            }
        }
        // Options are those of one run, as termination stays set.
        const auto options = ort::make<ort::RunOptions>(slots::CreateRunOptions);
        // Otherwise ONNX Runtime also writes each failure to stderr.
        ort::check(ort::api[slots::RunOptionsSetRunLogSeverityLevel](options.get(), ort::kLogFatal));
        std::vector<ort::OrtValue*> results(output_pointers_.size());
        std::string message;
        {
            WatchedRun watched(options.get(), deadline, call->stop);
            message = ort::message_of(
                ort::api[slots::Run](session_, options.get(), names.data(), values.data(), values.size(),
                                     output_pointers_.data(), output_pointers_.size(), results.data()));
            if (watched.end() && !message.empty()) {
                return Result::terminated;
            }
        }
        if (!message.empty()) {
            call->message = std::move(message);
            return Result::failed;
        }
        std::vector<ort::Value> owned;
        owned.reserve(results.size());
        for (ort::OrtValue* const result : results) {
            owned.emplace_back(result);
        }
        auto outputs = std::make_shared<Outputs>();
        outputs->list.reserve(owned.size());
        for (ort::Value& value : owned) {
            outputs->list.push_back(describe(std::move(value)));
        }
        call->outputs = std::move(outputs);
    } catch (const std::bad_alloc&) {
        return Result::out_of_memory;
    } catch (const std::exception& error) {  // ort::Failure, std::length_error or std::system_error
        call->message = error.what();
        return Result::failed;
    }
    call->run_time = now() - start;
    return Result::done;
}

Result Pipeline::encode(const Outputs& outputs, bool unbatched, Text* text, Call* call) const noexcept {
    const Nanoseconds start = now();
    try {
        write_response(outputs, output_rules_, unbatched, text);
    } catch (const ort::Failure& failure) {
        call->message = failure.what();
        return Result::failed;
    } catch (const std::exception&) {
        return Result::out_of_memory;
    }
    call->encode_time = now() - start;
    return Result::done;
}

Result Pipeline::respond(const char* body, std::size_t size, Pool& pool, Nanoseconds deadline, Text* text,
                         Call* call) const noexcept {
    Result outcome = decode(body, size, pool, call);
    if (outcome == Result::done) {
        outcome = complete(call);
    }
    if (outcome == Result::done) {
        outcome = run(call->request, deadline, call);
    }
    if (outcome == Result::done) {
        outcome = encode(*call->outputs, call->request.unbatched, text, call);
    }
    return outcome;
}

}  // namespace gpux
