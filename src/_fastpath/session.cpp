#include "session.hpp"

namespace gpux {

using ort::ValueKind;
namespace slots = ort::slots;

namespace {

// Indexed by ONNXTensorElementDataType.
constexpr const char* kElementNames[] = {
    "undefined", "float",      "uint8",      "int8",         "uint16",         "int16",      "int32",
    "int64",     "string",     "bool",       "float16",      "double",         "uint32",     "uint64",
    "complex64", "complex128", "bfloat16",   "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz",
    "uint4",     "int4",       "float4e2m1", "uint2",        "int2",           "float8e8m0",
};

std::string element_name(int type) {
    constexpr int count = sizeof kElementNames / sizeof *kElementNames;
    return type >= 0 && type < count ? kElementNames[type] : "type " + std::to_string(type);
}

using Text = ort::Allocated<char>;

template <class Function, class... Arguments>
std::string text_of(ort::Slot<Function> slot, Arguments... arguments) {
    const Text text = ort::make<Text>(slot, arguments...);
    return text ? text.get() : "";
}

const ort::OrtTensorTypeAndShapeInfo* tensor_info(const ort::OrtTypeInfo* type) {
    return ort::get<const ort::OrtTensorTypeAndShapeInfo*>(slots::CastTypeInfoToTensorInfo, type);
}

// The type, as ONNX writes it.
std::string onnx_text(const ort::OrtTypeInfo* type) {
    switch (ort::get<ValueKind>(slots::GetOnnxTypeFromTypeInfo, type)) {
        case ValueKind::tensor:
            return "tensor(" + element_name(ort::get<int>(slots::GetTensorElementType, tensor_info(type))) +
                   ")";
        case ValueKind::sparse_tensor:
            return "sparse_tensor(" +
                   element_name(ort::get<int>(slots::GetTensorElementType, tensor_info(type))) + ")";
        case ValueKind::sequence: {
            const auto* const sequence = ort::get<const ort::OrtSequenceTypeInfo*>(
                slots::CastTypeInfoToSequenceTypeInfo, type);
            const auto element = ort::make<ort::TypeInfo>(slots::GetSequenceElementType, sequence);
            return "seq(" + onnx_text(element.get()) + ")";
        }
        case ValueKind::map: {
            const auto* const map = ort::get<const ort::OrtMapTypeInfo*>(slots::CastTypeInfoToMapTypeInfo,
                                                                         type);
            const auto value = ort::make<ort::TypeInfo>(slots::GetMapValueType, map);
            return "map(" + element_name(ort::get<int>(slots::GetMapKeyType, map)) + "," +
                   onnx_text(value.get()) + ")";
        }
        case ValueKind::optional: {
            const auto* const optional = ort::get<const ort::OrtOptionalTypeInfo*>(
                slots::CastTypeInfoToOptionalTypeInfo, type);
            const auto contained = ort::make<ort::TypeInfo>(slots::GetOptionalContainedTypeInfo, optional);
            return "optional(" + onnx_text(contained.get()) + ")";
        }
        case ValueKind::opaque: return "opaque";
        default: return "unknown";
    }
}

Declared declared(std::string name, const ort::OrtTypeInfo* type) {
    const ValueKind kind = ort::get<ValueKind>(slots::GetOnnxTypeFromTypeInfo, type);
    Declared result{std::move(name), onnx_text(type), kind, 0, {}, {}};
    if (kind != ValueKind::tensor && kind != ValueKind::sparse_tensor) {
        return result;
    }
    const ort::OrtTensorTypeAndShapeInfo* const info = tensor_info(type);
    result.type = ort::get<int>(slots::GetTensorElementType, info);
    const std::size_t axes = ort::get<std::size_t>(slots::GetDimensionsCount, info);
    std::vector<const char*> symbols(axes);
    result.dims.resize(axes);
    ort::check(ort::api[slots::GetDimensions](info, result.dims.data(), axes));
    ort::check(ort::api[slots::GetSymbolicDimensions](info, symbols.data(), axes));
    result.symbols.assign(symbols.begin(), symbols.end());
    return result;
}

// Reads all inputs, all outputs or all overridable initializers.
template <class Count, class Name, class Type>
std::vector<Declared> read_declared(const ort::OrtSession* session, Count count_slot, Name name_slot,
                                    Type type_slot) {
    const std::size_t count = ort::get<std::size_t>(count_slot, session);
    std::vector<Declared> result;
    result.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
        const auto type = ort::make<ort::TypeInfo>(type_slot, session, i);
        result.push_back(declared(text_of(name_slot, session, i, ort::allocator()), type.get()));
    }
    return result;
}

// The keys of a model's custom metadata.
std::vector<std::string> custom_keys(const ort::OrtModelMetadata* metadata) {
    char** keys = nullptr;
    std::int64_t count = 0;
    ort::check(
        ort::api[slots::ModelMetadataGetCustomMetadataMapKeys](metadata, ort::allocator(), &keys, &count));
    const ort::Allocated<char*> array(keys);
    std::vector<Text> owned(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < owned.size(); ++i) {
        owned[i].reset(keys[i]);
    }
    std::vector<std::string> result;
    result.reserve(owned.size());
    for (const Text& key : owned) {
        result.emplace_back(key.get());
    }
    return result;
}

}  // namespace

SessionOptions::SessionOptions(int intra_op_threads, Optimization optimization)
    : handle_(ort::make<ort::SessionOptions>(slots::CreateSessionOptions)) {
    // Otherwise ONNX Runtime also writes some failures to stderr, in addition to returning them.
    ort::check(ort::api[slots::SetSessionLogSeverityLevel](handle_.get(), ort::kLogFatal));
    ort::check(ort::api[slots::SetIntraOpNumThreads](handle_.get(), intra_op_threads));
    ort::check(
        ort::api[slots::SetSessionGraphOptimizationLevel](handle_.get(), static_cast<int>(optimization)));
}

void SessionOptions::add_config_entry(const char* name, const char* value) {
    ort::check(ort::api[slots::AddSessionConfigEntry](handle_.get(), name, value));
}

void SessionOptions::override_dimension(const char* name, std::int64_t size) {
    ort::check(ort::api[slots::AddFreeDimensionOverrideByName](handle_.get(), name, size));
}

void SessionOptions::register_custom_ops(const char* path) {
    ort::check(ort::api[slots::RegisterCustomOpsLibrary_V2](handle_.get(), path));
}

void SessionOptions::append_cuda(const Entries& provider_options) {
    ort::SessionOptions options = std::move(handle_);
    std::vector<const char*> names;
    std::vector<const char*> values;
    for (const auto& [name, value] : provider_options) {
        names.push_back(name.c_str());
        values.push_back(value.c_str());
    }
    const auto cuda = ort::make<ort::CudaOptions>(slots::CreateCUDAProviderOptions);
    ort::check(
        ort::api[slots::UpdateCUDAProviderOptions](cuda.get(), names.data(), values.data(), names.size()));
    ort::check(ort::api[slots::SessionOptionsAppendExecutionProvider_CUDA_V2](options.get(), cuda.get()));
    handle_ = std::move(options);
}

Session::Session(const char* path, const SessionOptions& options) {
    if (options.handle() == nullptr) {
        throw ort::Failure("the CUDA provider could not be appended to these options");
    }
    handle_ = ort::make<ort::SessionHandle>(slots::CreateSession, ort::environment(), path, options.handle());
    inputs_ = read_declared(handle(), slots::SessionGetInputCount, slots::SessionGetInputName,
                            slots::SessionGetInputTypeInfo);
    outputs_ = read_declared(handle(), slots::SessionGetOutputCount, slots::SessionGetOutputName,
                             slots::SessionGetOutputTypeInfo);
    initializers_ = read_declared(handle(), slots::SessionGetOverridableInitializerCount,
                                  slots::SessionGetOverridableInitializerName,
                                  slots::SessionGetOverridableInitializerTypeInfo);
}

Metadata Session::metadata() const {
    const auto owned = ort::make<ort::Metadata>(slots::SessionGetModelMetadata, handle());
    const ort::OrtModelMetadata* const metadata = owned.get();
    ort::OrtAllocator* const allocator = ort::allocator();
    Metadata result{
        text_of(slots::ModelMetadataGetProducerName, metadata, allocator),
        text_of(slots::ModelMetadataGetGraphName, metadata, allocator),
        text_of(slots::ModelMetadataGetDomain, metadata, allocator),
        text_of(slots::ModelMetadataGetDescription, metadata, allocator),
        text_of(slots::ModelMetadataGetGraphDescription, metadata, allocator),
        ort::get<std::int64_t>(slots::ModelMetadataGetVersion, metadata),
        {},
    };
    for (std::string& key : custom_keys(metadata)) {
        std::string value = text_of(slots::ModelMetadataLookupCustomMetadataMap, metadata, allocator,
                                    key.c_str());
        result.custom.emplace_back(std::move(key), std::move(value));
    }
    return result;
}

std::optional<std::vector<Assignment>> Session::assignments() const {
    if (ort::api.version() < ort::kFirstApiWithAssignments) {
        return std::nullopt;
    }
    const ort::OrtEpAssignedSubgraph* const* subgraphs = nullptr;
    std::size_t subgraph_count = 0;
    // Fails if the options did not ask for the record.
    if (!ort::message_of(
             ort::api[slots::Session_GetEpGraphAssignmentInfo](handle(), &subgraphs, &subgraph_count))
             .empty()) {
        return std::nullopt;
    }
    std::vector<Assignment> result;
    for (std::size_t i = 0; i < subgraph_count; ++i) {
        const char* const provider = ort::get<const char*>(slots::EpAssignedSubgraph_GetEpName, subgraphs[i]);
        const ort::OrtEpAssignedNode* const* nodes = nullptr;
        std::size_t node_count = 0;
        ort::check(ort::api[slots::EpAssignedSubgraph_GetNodes](subgraphs[i], &nodes, &node_count));
        for (std::size_t j = 0; j < node_count; ++j) {
            result.push_back({provider,
                              ort::get<const char*>(slots::EpAssignedNode_GetOperatorType, nodes[j]),
                              ort::get<const char*>(slots::EpAssignedNode_GetDomain, nodes[j]),
                              ort::get<const char*>(slots::EpAssignedNode_GetName, nodes[j])});
        }
    }
    return result;
}

std::optional<std::vector<std::string>> Session::input_memory() const {
    if (ort::api.version() < ort::kFirstApiWithInputMemory) {
        return std::nullopt;
    }
    std::vector<const ort::OrtMemoryInfo*> infos(inputs_.size());
    ort::check(ort::api[slots::SessionGetMemoryInfoForInputs](handle(), infos.data(), infos.size()));
    std::vector<std::string> result;
    result.reserve(infos.size());
    for (const ort::OrtMemoryInfo* info : infos) {
        result.emplace_back(ort::get<const char*>(slots::MemoryInfoGetName, info));
    }
    return result;
}

}  // namespace gpux
