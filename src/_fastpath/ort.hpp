// ONNX Runtime's C API: the functions that the engine calls, and owners of the objects they create.
//
// No header of ONNX Runtime is used. OrtGetApiBase() returns a table of functions to which newer versions
// only append, so a function is declared here by its index (its slot) and its type. The library is loaded
// once per process, by load(), and stays loaded. Source: onnxruntime_c_api.h, API version 29.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace gpux::ort {

// ONNX Runtime's own types, opaque.
struct OrtAllocator;
struct OrtCUDAProviderOptionsV2;
struct OrtEnv;
struct OrtEpAssignedNode;
struct OrtEpAssignedSubgraph;
struct OrtIoBinding;
struct OrtMapTypeInfo;
struct OrtMemoryInfo;
struct OrtModelMetadata;
struct OrtOptionalTypeInfo;
struct OrtRunOptions;
struct OrtSequenceTypeInfo;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

// Enumerations keep ONNX Runtime's numbers. Of ONNXTensorElementDataType, the first 16 are gpux::Type.
enum class ValueKind : int { unknown, tensor, sequence, map, opaque, sparse_tensor, optional };
enum class AllocatorKind : int { device, arena };
enum class MemoryKind : int { cpu_input = -2, cpu_output = -1, device = 0 };
constexpr int kLogErrors = 3;
constexpr int kLogFatal = 4;

// The oldest API version that has every function the engine needs: ONNX Runtime 1.22.
constexpr std::uint32_t kOldestApi = 22;
// The first one that reports from which memory a session reads its inputs: ONNX Runtime 1.23.
constexpr std::uint32_t kFirstApiWithInputMemory = 23;
// The first one that reports the operators of a session's nodes: ONNX Runtime 1.24.
constexpr std::uint32_t kFirstApiWithAssignments = 24;

// A function of the table: its slot and its type.
template <class Function>
struct Slot {
    int index;
};

namespace slots {

template <class... Parameters>
using Fallible = Slot<OrtStatus*(Parameters...)>;  // returns null on success
template <class Object>
using Release = Slot<void(Object*)>;  // accepts null

// clang-format off
inline constexpr Slot<int(const OrtStatus*)> GetErrorCode{1};
inline constexpr Slot<const char*(const OrtStatus*)> GetErrorMessage{2};
inline constexpr Fallible<int, const char*, OrtEnv**> CreateEnv{3};
inline constexpr Fallible<const OrtEnv*, const char*, const OrtSessionOptions*, OrtSession**> CreateSession{7};
inline constexpr Fallible<OrtSession*, const OrtRunOptions*, const char* const*, const OrtValue* const*, std::size_t,
                          const char* const*, std::size_t, OrtValue**> Run{9};
inline constexpr Fallible<OrtSessionOptions**> CreateSessionOptions{10};
inline constexpr Fallible<OrtSessionOptions*, int> SetSessionLogSeverityLevel{22};
inline constexpr Fallible<OrtSessionOptions*, int> SetSessionGraphOptimizationLevel{23};
inline constexpr Fallible<OrtSessionOptions*, int> SetIntraOpNumThreads{24};
inline constexpr Fallible<const OrtSession*, std::size_t*> SessionGetInputCount{30};
inline constexpr Fallible<const OrtSession*, std::size_t*> SessionGetOutputCount{31};
inline constexpr Fallible<const OrtSession*, std::size_t*> SessionGetOverridableInitializerCount{32};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtTypeInfo**> SessionGetInputTypeInfo{33};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtTypeInfo**> SessionGetOutputTypeInfo{34};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtTypeInfo**> SessionGetOverridableInitializerTypeInfo{35};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtAllocator*, char**> SessionGetInputName{36};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtAllocator*, char**> SessionGetOutputName{37};
inline constexpr Fallible<const OrtSession*, std::size_t, OrtAllocator*, char**> SessionGetOverridableInitializerName{38};
inline constexpr Fallible<OrtRunOptions**> CreateRunOptions{39};
inline constexpr Fallible<OrtRunOptions*, int> RunOptionsSetRunLogSeverityLevel{41};
inline constexpr Fallible<OrtRunOptions*> RunOptionsSetTerminate{46};
inline constexpr Fallible<OrtAllocator*, const std::int64_t*, std::size_t, int, OrtValue**> CreateTensorAsOrtValue{48};
inline constexpr Fallible<const OrtMemoryInfo*, void*, std::size_t, const std::int64_t*, std::size_t, int,
                          OrtValue**> CreateTensorWithDataAsOrtValue{49};
inline constexpr Fallible<OrtValue*, void**> GetTensorMutableData{51};
inline constexpr Fallible<const OrtValue*, std::size_t*> GetStringTensorDataLength{53};
inline constexpr Fallible<const OrtValue*, void*, std::size_t, std::size_t*, std::size_t> GetStringTensorContent{54};
inline constexpr Fallible<const OrtTypeInfo*, const OrtTensorTypeAndShapeInfo**> CastTypeInfoToTensorInfo{55};
inline constexpr Fallible<const OrtTypeInfo*, ValueKind*> GetOnnxTypeFromTypeInfo{56};
inline constexpr Fallible<const OrtTensorTypeAndShapeInfo*, int*> GetTensorElementType{60};
inline constexpr Fallible<const OrtTensorTypeAndShapeInfo*, std::size_t*> GetDimensionsCount{61};
inline constexpr Fallible<const OrtTensorTypeAndShapeInfo*, std::int64_t*, std::size_t> GetDimensions{62};
inline constexpr Fallible<const OrtTensorTypeAndShapeInfo*, const char**, std::size_t> GetSymbolicDimensions{63};
inline constexpr Fallible<const OrtTensorTypeAndShapeInfo*, std::size_t*> GetTensorShapeElementCount{64};
inline constexpr Fallible<const OrtValue*, OrtTensorTypeAndShapeInfo**> GetTensorTypeAndShape{65};
inline constexpr Fallible<const OrtValue*, ValueKind*> GetValueType{67};
inline constexpr Fallible<const char*, AllocatorKind, int, MemoryKind, OrtMemoryInfo**> CreateMemoryInfo{68};
inline constexpr Fallible<AllocatorKind, MemoryKind, OrtMemoryInfo**> CreateCpuMemoryInfo{69};
inline constexpr Fallible<const OrtMemoryInfo*, const char**> MemoryInfoGetName{71};
inline constexpr Fallible<OrtAllocator*, void*> AllocatorFree{76};
inline constexpr Fallible<OrtAllocator**> GetAllocatorWithDefaultOptions{78};
inline constexpr Fallible<const OrtValue*, int, OrtAllocator*, OrtValue**> GetValue{80};
inline constexpr Fallible<const OrtValue*, std::size_t*> GetValueCount{81};
inline constexpr Release<OrtEnv> ReleaseEnv{92};
inline constexpr Release<OrtStatus> ReleaseStatus{93};
inline constexpr Release<OrtMemoryInfo> ReleaseMemoryInfo{94};
inline constexpr Release<OrtSession> ReleaseSession{95};
inline constexpr Release<OrtValue> ReleaseValue{96};
inline constexpr Release<OrtRunOptions> ReleaseRunOptions{97};
inline constexpr Release<OrtTypeInfo> ReleaseTypeInfo{98};
inline constexpr Release<OrtTensorTypeAndShapeInfo> ReleaseTensorTypeAndShapeInfo{99};
inline constexpr Release<OrtSessionOptions> ReleaseSessionOptions{100};
inline constexpr Fallible<const OrtTypeInfo*, const OrtMapTypeInfo**> CastTypeInfoToMapTypeInfo{103};
inline constexpr Fallible<const OrtTypeInfo*, const OrtSequenceTypeInfo**> CastTypeInfoToSequenceTypeInfo{104};
inline constexpr Fallible<const OrtMapTypeInfo*, int*> GetMapKeyType{105};
inline constexpr Fallible<const OrtMapTypeInfo*, OrtTypeInfo**> GetMapValueType{106};
inline constexpr Fallible<const OrtSequenceTypeInfo*, OrtTypeInfo**> GetSequenceElementType{107};
inline constexpr Fallible<const OrtSession*, OrtModelMetadata**> SessionGetModelMetadata{111};
inline constexpr Fallible<const OrtModelMetadata*, OrtAllocator*, char**> ModelMetadataGetProducerName{112};
inline constexpr Fallible<const OrtModelMetadata*, OrtAllocator*, char**> ModelMetadataGetGraphName{113};
inline constexpr Fallible<const OrtModelMetadata*, OrtAllocator*, char**> ModelMetadataGetDomain{114};
inline constexpr Fallible<const OrtModelMetadata*, OrtAllocator*, char**> ModelMetadataGetDescription{115};
inline constexpr Fallible<const OrtModelMetadata*, OrtAllocator*, const char*, char**>
    ModelMetadataLookupCustomMetadataMap{116};
inline constexpr Fallible<const OrtModelMetadata*, std::int64_t*> ModelMetadataGetVersion{117};
inline constexpr Release<OrtModelMetadata> ReleaseModelMetadata{118};
inline constexpr Fallible<const OrtModelMetadata*, OrtAllocator*, char***, std::int64_t*>
    ModelMetadataGetCustomMetadataMapKeys{123};
inline constexpr Fallible<OrtSessionOptions*, const char*, std::int64_t> AddFreeDimensionOverrideByName{124};
inline constexpr Fallible<char***, int*> GetAvailableProviders{125};
inline constexpr Fallible<char**, int> ReleaseAvailableProviders{126};
inline constexpr Fallible<OrtSessionOptions*, const char*, const char*> AddSessionConfigEntry{130};
inline constexpr Fallible<OrtSession*, const OrtRunOptions*, const OrtIoBinding*> RunWithBinding{133};
inline constexpr Fallible<OrtSession*, OrtIoBinding**> CreateIoBinding{134};
inline constexpr Release<OrtIoBinding> ReleaseIoBinding{135};
inline constexpr Fallible<OrtIoBinding*, const char*, const OrtValue*> BindInput{136};
inline constexpr Fallible<OrtIoBinding*, const char*, const OrtValue*> BindOutput{137};
inline constexpr Fallible<OrtIoBinding*, const char*, const OrtMemoryInfo*> BindOutputToDevice{138};
inline constexpr Fallible<const OrtIoBinding*, OrtAllocator*, OrtValue***, std::size_t*> GetBoundOutputValues{140};
inline constexpr Release<OrtIoBinding> ClearBoundInputs{141};
inline constexpr Release<OrtIoBinding> ClearBoundOutputs{142};
inline constexpr Fallible<const OrtModelMetadata*, OrtAllocator*, char**> ModelMetadataGetGraphDescription{158};
inline constexpr Fallible<OrtRunOptions*, const char*, const char*> AddRunConfigEntry{165};
inline constexpr Fallible<const OrtValue*, int*> HasValue{192};
inline constexpr Fallible<OrtSessionOptions*, const OrtCUDAProviderOptionsV2*>
    SessionOptionsAppendExecutionProvider_CUDA_V2{204};
inline constexpr Fallible<OrtCUDAProviderOptionsV2**> CreateCUDAProviderOptions{205};
inline constexpr Fallible<OrtCUDAProviderOptionsV2*, const char* const*, const char* const*, std::size_t>
    UpdateCUDAProviderOptions{206};
inline constexpr Release<OrtCUDAProviderOptionsV2> ReleaseCUDAProviderOptions{208};
inline constexpr Fallible<OrtSessionOptions*, const char*> RegisterCustomOpsLibrary_V2{228};
inline constexpr Fallible<const OrtTypeInfo*, const OrtOptionalTypeInfo**> CastTypeInfoToOptionalTypeInfo{250};
inline constexpr Fallible<const OrtOptionalTypeInfo*, OrtTypeInfo**> GetOptionalContainedTypeInfo{251};
inline constexpr Fallible<OrtValue*, std::size_t, std::size_t, char**> GetResizedStringTensorElementBuffer{252};
inline constexpr Fallible<const OrtSession*, const OrtMemoryInfo**, std::size_t> SessionGetMemoryInfoForInputs{380};
inline constexpr Fallible<const OrtSession*, const OrtEpAssignedSubgraph* const**, std::size_t*>
    Session_GetEpGraphAssignmentInfo{407};
inline constexpr Fallible<const OrtEpAssignedSubgraph*, const char**> EpAssignedSubgraph_GetEpName{408};
inline constexpr Fallible<const OrtEpAssignedSubgraph*, const OrtEpAssignedNode* const**, std::size_t*>
    EpAssignedSubgraph_GetNodes{409};
inline constexpr Fallible<const OrtEpAssignedNode*, const char**> EpAssignedNode_GetName{410};
inline constexpr Fallible<const OrtEpAssignedNode*, const char**> EpAssignedNode_GetDomain{411};
inline constexpr Fallible<const OrtEpAssignedNode*, const char**> EpAssignedNode_GetOperatorType{412};
// clang-format on

}  // namespace slots

// The table of functions, once load() has returned. Written once, before any thread reads it.
class Api {
public:
    template <class Function>
    Function* operator[](Slot<Function> slot) const noexcept {
        return reinterpret_cast<Function*>(table_[slot.index]);
    }
    // The version of the table: a function whose slot came later must not be called.
    std::uint32_t version() const noexcept { return version_; }

private:
    friend void load(const char* path);
    void* const* table_ = nullptr;
    std::uint32_t version_ = 0;
};
extern Api api;

// What went wrong, in ONNX Runtime's own words, as valid UTF-8.
class Failure : public std::runtime_error {
public:
    explicit Failure(const std::string& message) : std::runtime_error(message) {}
};

// Loads the library at `path` (libonnxruntime.so.VERSION); does nothing if one is loaded. Not thread-safe.
// Throws Failure if it cannot be loaded, is no ONNX Runtime, or is older than kOldestApi; another call may
// then load another library.
void load(const char* path);

// The library's version, as "1.30.0"; empty before load().
const std::string& version() noexcept;

// The execution providers that the library was built with, by ONNX Runtime's names.
std::vector<std::string> available_providers();

// Throws Failure if a call failed; releases its status.
void check(OrtStatus* status);

// The message of a failed call; empty after a successful one. Releases the status. Does not throw.
std::string message_of(OrtStatus* status);

// The text with each ill-formed UTF-8 sequence replaced by U+FFFD, as Python's errors="replace" does.
std::string well_formed(const char* text, std::size_t size);

// An owner of an object of ONNX Runtime: releases it by the function of the slot.
template <auto kSlot>
struct Releaser {
    template <class Object>
    void operator()(Object* object) const noexcept {
        api[*kSlot](object);
    }
};
template <class Object, auto kSlot>
using Owner = std::unique_ptr<Object, Releaser<kSlot>>;

// An owner of memory that ONNX Runtime's default allocator made: strings, and arrays of pointers.
struct Deallocator {
    void operator()(void* memory) const noexcept;
};
template <class Object>
using Allocated = std::unique_ptr<Object, Deallocator>;

using Binding = Owner<OrtIoBinding, &slots::ReleaseIoBinding>;
using CudaOptions = Owner<OrtCUDAProviderOptionsV2, &slots::ReleaseCUDAProviderOptions>;
using Environment = Owner<OrtEnv, &slots::ReleaseEnv>;
using MemoryInfo = Owner<OrtMemoryInfo, &slots::ReleaseMemoryInfo>;
using Metadata = Owner<OrtModelMetadata, &slots::ReleaseModelMetadata>;
using RunOptions = Owner<OrtRunOptions, &slots::ReleaseRunOptions>;
using SessionHandle = Owner<OrtSession, &slots::ReleaseSession>;
using SessionOptions = Owner<OrtSessionOptions, &slots::ReleaseSessionOptions>;
using ShapeInfo = Owner<OrtTensorTypeAndShapeInfo, &slots::ReleaseTensorTypeAndShapeInfo>;
using TypeInfo = Owner<OrtTypeInfo, &slots::ReleaseTypeInfo>;
using Value = Owner<OrtValue, &slots::ReleaseValue>;

// Calls a function whose last parameter returns a new object, and owns that object.
// make<Value>(slots::GetValue, value, index, allocator())
template <class Owned, class Function, class... Arguments>
Owned make(Slot<Function> slot, Arguments... arguments) {
    typename Owned::pointer object = nullptr;
    check(api[slot](arguments..., &object));
    return Owned(object);
}

// Calls a function whose last parameter returns a plain value.
// get<std::size_t>(slots::GetValueCount, value)
template <class Result, class Function, class... Arguments>
Result get(Slot<Function> slot, Arguments... arguments) {
    Result result{};
    check(api[slot](arguments..., &result));
    return result;
}

// The process's environment, created by load(). Never released: sessions may live until the process ends.
OrtEnv* environment() noexcept;
// The default allocator, for strings that ONNX Runtime returns. Not owned.
OrtAllocator* allocator() noexcept;
// Host memory, as ONNX Runtime names it. Not owned.
const OrtMemoryInfo* host_memory() noexcept;

}  // namespace gpux::ort
