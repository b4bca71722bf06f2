// A run on memory that is bound by address: ONNX Runtime's IOBinding, and the values that it returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ort.hpp"
#include "session.hpp"

namespace gpux {

// The options of one run.
class RunOptions {
public:
    // Throws ort::Failure, as does the function.
    RunOptions();

    void add_config_entry(const char* name, const char* value);
    ort::OrtRunOptions* handle() const noexcept { return handle_.get(); }

private:
    ort::RunOptions handle_;
};

// Where memory is: "cpu" or "cuda", and the index of the device.
struct Place {
    const char* device;
    int index;
};

// A numeric tensor in memory that the caller owns.
struct BoundTensor {
    int type;  // an ONNXTensorElementDataType
    const std::int64_t* dims;
    std::size_t axes;
    void* data;
};

// What is bound to a session for its next run. Not thread-safe. Does not own the bound memory, which must
// stay valid until the run has returned, nor the session, which must outlive it. The functions throw
// ort::Failure.
class Binding {
public:
    explicit Binding(const Session& session);

    void bind_input(const char* name, Place place, const BoundTensor& tensor);
    void bind_output(const char* name, Place place, const BoundTensor& tensor);
    // Leaves the allocation of an output to ONNX Runtime.
    void bind_output(const char* name, Place place);
    void clear_inputs() noexcept;
    void clear_outputs() noexcept;
    // Runs the model on what is bound.
    void run(const RunOptions& options);
    // The outputs of the last run, in the order in which they were bound. The values own their memory, but
    // for outputs that were bound to an address.
    std::vector<ort::Value> outputs() const;

private:
    ort::OrtSession* session_;
    ort::Binding handle_;
};

// The type, shape and memory of a tensor.
struct TensorView {
    int type;  // an ONNXTensorElementDataType
    std::vector<std::int64_t> dims;
    void* data;  // null for a tensor of strings
};

// Throws ort::Failure if the value is no tensor.
TensorView view_of(ort::OrtValue* tensor);

}  // namespace gpux
