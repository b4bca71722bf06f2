#include "binding.hpp"

#include <cstring>

#include "sink.hpp"

namespace gpux {

namespace slots = ort::slots;

namespace {

bool is_host(Place place) { return std::strcmp(place.device, "cpu") == 0; }

// ONNX Runtime's description of a place other than the host.
ort::MemoryInfo memory_info(Place place) {
    const char* const name = std::strcmp(place.device, "cuda") == 0 ? "Cuda" : place.device;
    return ort::make<ort::MemoryInfo>(slots::CreateMemoryInfo, name, ort::AllocatorKind::device, place.index,
                                      ort::MemoryKind::device);
}

ort::Value value_of(Place place, const BoundTensor& tensor) {
    // The caller's shapes are those of memory that it has, so that the product cannot overflow.
    std::size_t nbytes = element_bytes(static_cast<Type>(tensor.type));
    for (std::size_t axis = 0; axis < tensor.axes; ++axis) {
        nbytes *= static_cast<std::size_t>(tensor.dims[axis]);
    }
    const ort::MemoryInfo device = is_host(place) ? nullptr : memory_info(place);
    const ort::OrtMemoryInfo* const memory = device ? device.get() : ort::host_memory();
    return ort::make<ort::Value>(slots::CreateTensorWithDataAsOrtValue, memory, tensor.data, nbytes,
                                 tensor.dims, tensor.axes, tensor.type);
}

}  // namespace

RunOptions::RunOptions() : handle_(ort::make<ort::RunOptions>(slots::CreateRunOptions)) {
    // Otherwise ONNX Runtime also writes each failure to stderr, in addition to returning it.
    ort::check(ort::api[slots::RunOptionsSetRunLogSeverityLevel](handle_.get(), ort::kLogFatal));
}

void RunOptions::add_config_entry(const char* name, const char* value) {
    ort::check(ort::api[slots::AddRunConfigEntry](handle_.get(), name, value));
}

Binding::Binding(const Session& session)
    : session_(session.handle()),
      handle_(ort::make<ort::Binding>(slots::CreateIoBinding, session.handle())) {}

void Binding::bind_input(const char* name, Place place, const BoundTensor& tensor) {
    const ort::Value value = value_of(place, tensor);
    ort::check(ort::api[slots::BindInput](handle_.get(), name, value.get()));
}

void Binding::bind_output(const char* name, Place place, const BoundTensor& tensor) {
    const ort::Value value = value_of(place, tensor);
    ort::check(ort::api[slots::BindOutput](handle_.get(), name, value.get()));
}

void Binding::bind_output(const char* name, Place place) {
    const ort::MemoryInfo device = is_host(place) ? nullptr : memory_info(place);
    const ort::OrtMemoryInfo* const memory = device ? device.get() : ort::host_memory();
    ort::check(ort::api[slots::BindOutputToDevice](handle_.get(), name, memory));
}

void Binding::clear_inputs() noexcept { ort::api[slots::ClearBoundInputs](handle_.get()); }

void Binding::clear_outputs() noexcept { ort::api[slots::ClearBoundOutputs](handle_.get()); }

void Binding::run(const RunOptions& options) {
    ort::check(ort::api[slots::RunWithBinding](session_, options.handle(), handle_.get()));
}

std::vector<ort::Value> Binding::outputs() const {
    ort::OrtValue** values = nullptr;
    std::size_t count = 0;
    ort::check(ort::api[slots::GetBoundOutputValues](handle_.get(), ort::allocator(), &values, &count));
    const ort::Allocated<ort::OrtValue*> array(values);
    std::vector<ort::Value> result(count);
    for (std::size_t i = 0; i < count; ++i) {
        result[i].reset(values[i]);
    }
    return result;
}

TensorView view_of(ort::OrtValue* tensor) {
    const auto info = ort::make<ort::ShapeInfo>(slots::GetTensorTypeAndShape,
                                                static_cast<const ort::OrtValue*>(tensor));
    const auto* const shape = static_cast<const ort::OrtTensorTypeAndShapeInfo*>(info.get());
    TensorView view{ort::get<int>(slots::GetTensorElementType, shape), {}, nullptr};
    view.dims.resize(ort::get<std::size_t>(slots::GetDimensionsCount, shape));
    ort::check(ort::api[slots::GetDimensions](shape, view.dims.data(), view.dims.size()));
    if (static_cast<Type>(view.type) != Type::string) {
        view.data = ort::get<void*>(slots::GetTensorMutableData, tensor);
    }
    return view;
}

}  // namespace gpux
