// Each function of ort.hpp by what it does in a real ONNX Runtime: a wrong slot calls another function.
// ort_slots LIBRARY MODEL OPTIONAL_MODEL, with the models of ort_slots.py.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "binding.hpp"
#include "checks.hpp"
#include "ort.hpp"
#include "session.hpp"

namespace {

using namespace gpux;
using gpux::tests::check;
namespace slots = ort::slots;
using Strings = std::vector<std::string>;

constexpr int kFloat = 1;
constexpr int kString = 8;

template <class Call>
std::string failure(Call call) {
    try {
        call();
    } catch (const ort::Failure& error) {
        return error.what();
    }
    return "no failure";
}

bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

std::size_t threads() {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return static_cast<std::size_t>(std::distance(begin(tasks), end(tasks)));
}

ort::Value float_tensor(std::vector<float>& numbers, const std::vector<std::int64_t>& dims) {
    return ort::make<ort::Value>(slots::CreateTensorWithDataAsOrtValue, ort::host_memory(),
                                 static_cast<void*>(numbers.data()), numbers.size() * sizeof(float),
                                 dims.data(), dims.size(), kFloat);
}

ort::Value string_tensor(const Strings& texts) {
    const std::int64_t size = static_cast<std::int64_t>(texts.size());
    ort::Value value = ort::make<ort::Value>(slots::CreateTensorAsOrtValue, ort::allocator(), &size,
                                             std::size_t{1}, kString);
    for (std::size_t i = 0; i < texts.size(); ++i) {
        char* const buffer = ort::get<char*>(slots::GetResizedStringTensorElementBuffer, value.get(), i,
                                             texts[i].size());
        std::copy(texts[i].begin(), texts[i].end(), buffer);
    }
    return value;
}

Strings texts_of(const ort::OrtValue* value) {
    const std::size_t size = ort::get<std::size_t>(slots::GetStringTensorDataLength, value);
    const auto info = ort::make<ort::ShapeInfo>(slots::GetTensorTypeAndShape, value);
    const std::size_t count = ort::get<std::size_t>(
        slots::GetTensorShapeElementCount, static_cast<const ort::OrtTensorTypeAndShapeInfo*>(info.get()));
    std::string content(size, '?');
    std::vector<std::size_t> offsets(count);
    ort::check(ort::api[slots::GetStringTensorContent](value, content.data(), size, offsets.data(), count));
    offsets.push_back(size);
    Strings texts;
    for (std::size_t i = 0; i < count; ++i) {
        texts.push_back(content.substr(offsets[i], offsets[i + 1] - offsets[i]));
    }
    return texts;
}

std::vector<float> floats_of(ort::OrtValue* value) {
    const TensorView view = view_of(value);
    std::size_t count = 1;
    for (const std::int64_t size : view.dims) {
        count *= static_cast<std::size_t>(size);
    }
    const float* const numbers = static_cast<const float*>(view.data);
    return std::vector<float>(numbers, numbers + count);
}

ort::ValueKind kind_of(const ort::OrtValue* value) {
    return ort::get<ort::ValueKind>(slots::GetValueType, value);
}

std::vector<ort::Value> run(const Session& session, const RunOptions& options,
                            const std::vector<const char*>& names,
                            const std::vector<const ort::OrtValue*>& inputs,
                            const std::vector<const char*>& outputs) {
    std::vector<ort::OrtValue*> values(outputs.size());
    ort::check(ort::api[slots::Run](session.handle(), options.handle(), names.data(), inputs.data(),
                                    names.size(), outputs.data(), outputs.size(), values.data()));
    std::vector<ort::Value> owned;
    for (ort::OrtValue* value : values) {
        owned.emplace_back(value);
    }
    return owned;
}

void check_library() {
    const std::string version = ort::version();
    check(version.compare(0, 2, "1.") == 0, "version " + version);
    check(std::stoul(version.substr(2)) == ort::api.version(), "API version of " + version);
    const Strings providers = ort::available_providers();
    check(std::count(providers.begin(), providers.end(), "CPUExecutionProvider") == 1, "available providers");
    const auto again = ort::make<ort::Environment>(slots::CreateEnv, ort::kLogErrors, "again");
    check(again.get() == ort::environment(), "one environment in the process");
    const auto memory = ort::make<ort::MemoryInfo>(slots::CreateMemoryInfo, "Cuda",
                                                   ort::AllocatorKind::device, 1, ort::MemoryKind::device);
    const auto name = [](const ort::OrtMemoryInfo* info) {
        return std::string(ort::get<const char*>(slots::MemoryInfoGetName, info));
    };
    check(name(memory.get()) == "Cuda", "memory of a device");
    check(name(ort::host_memory()) == "Cpu", "memory of the host");
}

void check_options(const char* model) {
    SessionOptions options(1, SessionOptions::Optimization::all);
    const auto session = [&](const char* path) { return Session(path, options); };
    ort::OrtStatus* const status = ort::api[slots::CreateSession](
        ort::environment(), "none.onnx", options.handle(), std::make_unique<ort::OrtSession*>().get());
    check(ort::api[slots::GetErrorCode](status) == 3, "code of an absent file");
    check(contains(ort::message_of(status), "none.onnx"), "message of an absent file");

    const std::size_t before = threads();
    const SessionOptions parallel(3, SessionOptions::Optimization::all);
    const Session with_threads(model, parallel);
    check(threads() == before + 2, "a session with three threads starts two");

    const auto unknown = [] { SessionOptions(1, static_cast<SessionOptions::Optimization>(77)); };
    check(contains(failure(unknown), "graph_optimization_level is not valid"),
          "an unknown level of optimization");
    check(contains(failure([&] { options.register_custom_ops("/none/ops.so"); }), "/none/ops.so"),
          "an absent library of operators");
    options.override_dimension("rows", 3);
    check(session(model).inputs()[0].dims == std::vector<std::int64_t>{3, 2}, "an overridden dimension");
    options.add_config_entry("session.load_model_format", "ORT");
    check(failure([&] { session(model); }) != "no failure", "a config entry of the session");

    const Strings providers = ort::available_providers();
    if (std::count(providers.begin(), providers.end(), "CUDAExecutionProvider") == 0) {
        std::vector<std::max_align_t> zeros(1000);  // where the functions below might look at their options
        ort::OrtCUDAProviderOptionsV2* cuda = reinterpret_cast<ort::OrtCUDAProviderOptionsV2*>(zeros.data());
        ort::OrtCUDAProviderOptionsV2* created = nullptr;
        const char* const none = "";
        check(contains(ort::message_of(ort::api[slots::CreateCUDAProviderOptions](&created)), "CUDA"),
              "CUDA: create");
        check(contains(ort::message_of(ort::api[slots::UpdateCUDAProviderOptions](cuda, &none, &none, 0)),
                       "CUDA"),
              "CUDA: update");
        ort::OrtSessionOptions* const handle = const_cast<ort::OrtSessionOptions*>(options.handle());
        const std::string appended = ort::message_of(
            ort::api[slots::SessionOptionsAppendExecutionProvider_CUDA_V2](handle, cuda));
        check(contains(appended, "Cuda") || contains(appended, "external_data_loader"), "CUDA: append");
        ort::CudaOptions(cuda).reset();  // does nothing in such a build
        check(contains(failure([&] { options.append_cuda({{"device_id", "0"}}); }), "CUDA"), "no CUDA");
        check(contains(failure([&] { session(model); }), "could not be appended"), "no session after that");
    }
}

void check_declared(const Session& session, const Session& with_optional) {
    const std::vector<Declared>& inputs = session.inputs();
    const std::vector<Declared>& outputs = session.outputs();
    check(inputs.size() == 2 && outputs.size() == 4 && session.initializers().size() == 1, "counts");
    check(inputs[0].name == "x" && inputs[0].onnx == "tensor(float)" && inputs[0].type == kFloat, "input x");
    check(inputs[0].kind == ort::ValueKind::tensor, "kind of x");
    check(inputs[0].dims == std::vector<std::int64_t>{-1, 2}, "sizes of x");
    check(inputs[0].symbols == Strings{"rows", ""}, "axes of x");
    check(inputs[1].name == "s" && inputs[1].onnx == "tensor(string)" && inputs[1].type == kString,
          "input s");
    const char* const types[] = {"tensor(float)", "tensor(string)", "seq(tensor(float))",
                                 "seq(map(string,tensor(float)))"};
    const char* const names[] = {"y", "t", "pair", "maps"};
    for (std::size_t i = 0; i < 4; ++i) {
        check(outputs[i].name == names[i] && outputs[i].onnx == types[i], std::string("output ") + names[i]);
    }
    check(session.initializers()[0].name == "k" &&
              session.initializers()[0].dims == std::vector<std::int64_t>{2},
          "initializer k");
    check(with_optional.inputs()[0].onnx == "optional(tensor(float))", "an optional input");

    const Metadata metadata = session.metadata();
    check(metadata.producer == "the producer", "producer");
    check(metadata.graph == "the graph", "graph");
    check(metadata.domain == "the domain", "domain");
    check(metadata.description == "the description", "description");
    check(metadata.graph_description == "the graph's description", "graph's description");
    check(metadata.version == 7, "version");
    Entries custom = metadata.custom;
    std::sort(custom.begin(), custom.end());
    check(custom == Entries{{"a", "1"}, {"b", "2"}}, "custom metadata");
    check(with_optional.metadata().custom.empty(), "no custom metadata");
    check(with_optional.metadata().version == std::numeric_limits<std::int64_t>::max(), "no version");
}

void check_nodes(const Session& session, const Session& unrecorded) {
    const auto assignments = session.assignments();
    check(assignments.has_value() == (ort::api.version() >= ort::kFirstApiWithAssignments), "assignments");
    check(!unrecorded.assignments().has_value(), "assignments that were not asked for");
    if (assignments.has_value()) {
        const bool found = std::any_of(assignments->begin(), assignments->end(), [](const Assignment& node) {
            return node.provider == "CPUExecutionProvider" && node.op_type == "ZipMap" &&
                   node.domain == "ai.onnx.ml" && node.node == "the node";
        });
        check(found, "the node's assignment");
    }
    const auto memory = session.input_memory();
    check(memory.has_value() == (ort::api.version() >= ort::kFirstApiWithInputMemory), "memory of inputs");
    check(!memory.has_value() || *memory == Strings{"Cpu", "Cpu"}, "all inputs are in host memory");
}

void check_run(const Session& session) {
    std::vector<float> numbers{1, 2, 3, 4, 5, 6};
    std::vector<float> offsets{0.5f, 0.25f};
    const Strings texts{std::string("a\0b", 3), "", "\xFF"};
    const ort::Value x = float_tensor(numbers, {3, 2});
    const ort::Value k = float_tensor(offsets, {2});
    const ort::Value s = string_tensor(texts);
    const RunOptions options;
    const auto outputs = run(session, options, {"x", "s", "k"}, {x.get(), s.get(), k.get()},
                             {"y", "t", "pair", "maps"});
    const std::vector<float> sums{1.5f, 2.25f, 3.5f, 4.25f, 5.5f, 6.25f};
    check(view_of(outputs[0].get()).dims == std::vector<std::int64_t>{3, 2}, "shape of y");
    check(view_of(outputs[0].get()).type == kFloat, "type of y");
    check(floats_of(outputs[0].get()) == sums, "y");
    check(floats_of(run(session, options, {"x", "s"}, {x.get(), s.get()}, {"y"})[0].get())[0] == 11,
          "k as it is");
    check(texts_of(outputs[1].get()) == texts, "t");
    check(view_of(outputs[1].get()).data == nullptr, "strings have no address");

    const ort::OrtValue* const pair = outputs[2].get();
    check(kind_of(x.get()) == ort::ValueKind::tensor && kind_of(pair) == ort::ValueKind::sequence, "kinds");
    check(ort::get<int>(slots::HasValue, pair) == 1, "a sequence has a value");
    check(ort::get<std::size_t>(slots::GetValueCount, pair) == 2, "a pair");
    check(floats_of(ort::make<ort::Value>(slots::GetValue, pair, 1, ort::allocator()).get()) == numbers,
          "a tensor");
    const ort::OrtValue* const maps = outputs[3].get();
    check(ort::get<std::size_t>(slots::GetValueCount, maps) == 3, "three maps");
    const auto map = ort::make<ort::Value>(slots::GetValue, maps, 2, ort::allocator());
    check(kind_of(map.get()) == ort::ValueKind::map, "a map");
    const auto keys = ort::make<ort::Value>(slots::GetValue, map.get(), 0, ort::allocator());
    const auto values = ort::make<ort::Value>(slots::GetValue, map.get(), 1, ort::allocator());
    check(texts_of(keys.get()) == Strings{"no", "yes"}, "keys");
    check(floats_of(values.get()) == std::vector<float>{5, 6}, "values");

    RunOptions shrinking;
    shrinking.add_config_entry("memory.enable_memory_arena_shrinkage", "nonsense");
    const auto again = [&](const RunOptions& with) {
        run(session, with, {"x", "s"}, {x.get(), s.get()}, {"y"});
    };
    check(failure([&] { again(shrinking); }) != "no failure", "a config entry of the run");
    RunOptions stopped;
    ort::check(ort::api[slots::RunOptionsSetTerminate](stopped.handle()));
    check(contains(failure([&] { again(stopped); }), "terminate"), "a terminated run");
}

void check_binding(const Session& session) {
    std::vector<float> numbers{1, 2, 3, 4, 5, 6};
    std::vector<float> offsets{10, 20};
    std::vector<float> sums(6);
    const std::int64_t dims[] = {3, 2};
    const Place host{"cpu", 0};
    Binding binding(session);
    binding.bind_input("x", host, {kFloat, dims, 2, numbers.data()});
    binding.bind_input("k", host, {kFloat, dims + 1, 1, offsets.data()});
    binding.bind_output("pair", host);
    binding.bind_output("y", host, {kFloat, dims, 2, sums.data()});
    const RunOptions options;
    check(contains(failure([&] { binding.run(options); }), "s"), "a missing input");
    binding.clear_outputs();
    check(binding.outputs().empty(), "no outputs");
    binding.clear_inputs();
    check(failure([&] { binding.run(options); }) != "no failure", "no inputs");
}

void check_bound_run(const Session& session) {
    std::vector<float> numbers{1, 2, 3, 4, 5, 6};
    std::vector<float> same(6);
    const std::int64_t dims[] = {3, 2};
    const Place host{"cpu", 0};
    Binding binding(session);
    binding.bind_input("x", host, {kFloat, dims, 2, numbers.data()});
    binding.bind_output("y", host, {kFloat, dims, 2, same.data()});
    binding.bind_output("z", host);
    const RunOptions options;
    binding.run(options);
    const std::vector<ort::Value> outputs = binding.outputs();
    check(outputs.size() == 2, "two outputs");
    check(same == std::vector<float>{2, 4, 6, 8, 10, 12}, "an output in bound memory");
    check(view_of(outputs[0].get()).data == same.data(), "the bound memory is that of the value");
    numbers.assign(6, 0);
    binding.clear_outputs();
    binding.bind_output("z", host);
    binding.run(options);
    check(floats_of(outputs[1].get()) == std::vector<float>{3, 6, 9, 12, 15, 18},
          "values outlive the next run");
}

}  // namespace

int main(int, char** arguments) {
    try {
        ort::load(arguments[1]);
        check_library();
        check_options(arguments[2]);
        SessionOptions options(1, SessionOptions::Optimization::basic);
        const Session with_optional(arguments[3], options);
        const Session unrecorded(arguments[2], options);
        options.add_config_entry("session.record_ep_graph_assignment_info", "1");
        const Session session(arguments[2], options);
        check_declared(session, with_optional);
        check_nodes(session, unrecorded);
        check_run(session);
        check_binding(session);
        check_bound_run(Session(arguments[4], options));
    } catch (const std::exception& error) {
        check(false, error.what());
    }
    std::printf("%lu cases, %lu wrong, ONNX Runtime %s\n", gpux::tests::count.cases, gpux::tests::count.wrong,
                ort::version().c_str());
    return gpux::tests::count.wrong == 0 ? 0 : 1;
}
