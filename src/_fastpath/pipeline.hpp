// The way of a request through one model: decode, run, encode, in one call.
//
// No Python.h. A pipeline is immutable; any number of threads, Python's or native ones, may use it at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ort.hpp"
#include "outputs.hpp"
#include "pool.hpp"
#include "reader.hpp"
#include "request.hpp"
#include "watchdog.hpp"

namespace gpux {

enum class Result : int {
    done,
    invalid,     // the body: Call::reader says what is wrong
    incomplete,  // an input is missing
    disagrees,   // inputs disagree on an axis: Call::disagreement
    failed,      // ONNX Runtime failed: Call::message
    terminated,  // the run was stopped, or its deadline passed
    out_of_memory,
};

// The state of one call, and what its caller learns from it.
struct Call {
    std::optional<Reader> reader;  // of the body, while an error may be asked about
    Request request;
    std::shared_ptr<Outputs> outputs;
    Disagreement disagreement{};
    std::string message;   // ONNX Runtime's, of a failed run
    Stop* stop = nullptr;  // stops the run; may be null
    Nanoseconds decode_time = 0;
    Nanoseconds run_time = 0;
    Nanoseconds encode_time = 0;
};

class Pipeline {
public:
    // The session and the table must outlive the pipeline; the session may be null if run() is never called.
    // `names` are those of the model's inputs, one per rule, empty where it is not fed.
    Pipeline(ort::OrtSession* session, const std::vector<Input>* table, std::vector<InputRule> rules,
             std::vector<std::string> names, std::vector<std::string> output_names,
             std::vector<OutputRule> output_rules);

    // Reads a body; the byte after its last must be NUL. Its blocks come from the pool.
    Result decode(const char* body, std::size_t size, Pool& pool, Call* call) const noexcept;
    // Decides whether the request is one item; checks that no input is missing, and that all agree.
    Result complete(Call* call) const noexcept;
    // Runs the request on the host's memory. Its tensors must stay valid until the outputs are destroyed, as a
    // graph's output may be its input's own memory.
    Result run(const Request& request, Nanoseconds deadline, Call* call) const noexcept;
    // Writes the response.
    Result encode(const Outputs& outputs, bool unbatched, Text* text, Call* call) const noexcept;

    // All of it. Stops at `incomplete` if an input is missing, with the request as far as it was read.
    Result respond(const char* body, std::size_t size, Pool& pool, Nanoseconds deadline, Text* text,
                   Call* call) const noexcept;

    const std::vector<InputRule>& rules() const noexcept { return rules_; }
    const std::vector<OutputRule>& output_rules() const noexcept { return output_rules_; }

private:
    ort::Value feed(std::size_t input, const InputTensor& tensor) const;

    ort::OrtSession* const session_;
    const std::vector<Input>& table_;
    const std::vector<InputRule> rules_;
    const std::vector<std::string> names_;
    const std::vector<std::string> output_names_;
    const std::vector<OutputRule> output_rules_;
    std::vector<const char*> output_pointers_;  // into output_names_
    std::vector<std::size_t> first_bytes_;      // per input, what one row of its declared sizes takes
    const int forks_;  // of the process that made it: in a child there are no threads to run it
};

}  // namespace gpux
