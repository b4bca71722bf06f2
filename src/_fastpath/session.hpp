// A model as ONNX Runtime loaded it: the options of its session, the session, and what it declares.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ort.hpp"

namespace gpux {

// Names and their values: settings of ONNX Runtime, or the metadata of a model.
using Entries = std::vector<std::pair<std::string, std::string>>;

// The options of a session, for one or more sessions. All functions throw ort::Failure.
class SessionOptions {
public:
    // How much ONNX Runtime may rewrite the graph.
    enum class Optimization : int { off = 0, basic = 1, extended = 2, all = 99 };

    SessionOptions(int intra_op_threads, Optimization optimization);

    void add_config_entry(const char* name, const char* value);
    // Fixes the axes of this name to a size. ONNX Runtime ignores a name that no axis has.
    void override_dimension(const char* name, std::int64_t size);
    // Registers the operators of a shared library.
    void register_custom_ops(const char* path);
    // Prefers the CUDA provider. After a failure no session can be created from these options: it would
    // silently run on the CPU.
    void append_cuda(const Entries& provider_options);

    // Null after append_cuda() has failed.
    const ort::OrtSessionOptions* handle() const noexcept { return handle_.get(); }

private:
    ort::SessionOptions handle_;
};

// An input, an output, or an initializer that a caller may override.
struct Declared {
    std::string name;  // ONNX Runtime's bytes, which need not be UTF-8
    std::string onnx;  // the type, as ONNX writes it: "tensor(float)", "seq(map(int64,tensor(float)))"
    ort::ValueKind kind;
    int type;                          // of a tensor's elements: an ONNXTensorElementDataType; else 0
    std::vector<std::int64_t> dims;    // of a tensor; -1 where dynamic; empty if it declares no shape
    std::vector<std::string> symbols;  // for each of the dims, the name of the axis; empty if it has none
};

struct Metadata {
    std::string producer;
    std::string graph;
    std::string domain;
    std::string description;
    std::string graph_description;
    std::int64_t version;  // 2^63 - 1 if the model has none
    Entries custom;
};

// A node of the optimized graph, and the execution provider that runs it.
struct Assignment {
    std::string provider;
    std::string op_type;
    std::string domain;
    std::string node;  // its name, often empty
};

// A session. Immutable: any number of threads may run it at once.
class Session {
public:
    // Loads the model of a file, and with it the external data beside it. Throws ort::Failure.
    Session(const char* path, const SessionOptions& options);

    ort::OrtSession* handle() const noexcept { return handle_.get(); }
    const std::vector<Declared>& inputs() const noexcept { return inputs_; }
    const std::vector<Declared>& outputs() const noexcept { return outputs_; }
    // Initializers that a caller may override.
    const std::vector<Declared>& initializers() const noexcept { return initializers_; }

    // The functions below throw ort::Failure.

    Metadata metadata() const;
    // The nodes by provider; none if ONNX Runtime is too old to report them (before 1.24), or the options
    // lack session.record_ep_graph_assignment_info.
    std::optional<std::vector<Assignment>> assignments() const;
    // The memory from which the model reads each input, as "Cpu" or "Cuda"; none if ONNX Runtime is too old
    // to report it (before 1.23).
    std::optional<std::vector<std::string>> input_memory() const;

private:
    ort::SessionHandle handle_;
    std::vector<Declared> inputs_;
    std::vector<Declared> outputs_;
    std::vector<Declared> initializers_;
};

}  // namespace gpux
