// The least that a request costs: ONNX Runtime's C API on a model of one float32 input [1, n].
//
//     bare LIBRARY MODEL NUMBER...
//
// The numbers are the input's. For each line "CALLS THREADS" of stdin (THREADS is 1), runs the model that
// often, each time with a value of its own, the output's shape and its release, and prints the CPU time and
// the duration in seconds. Before that it prints the output's numbers.
#include "ort.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

namespace {

namespace ort = gpux::ort;
namespace slots = gpux::ort::slots;

constexpr int kFloat32 = 1;  // ONNXTensorElementDataType

double seconds(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

class Model {
public:
    Model(const char* path, std::vector<float> row) : row_(std::move(row)) {
        auto options = ort::make<ort::SessionOptions>(slots::CreateSessionOptions);
        ort::check(ort::api[slots::SetIntraOpNumThreads](options.get(), 1));
        session_ = ort::make<ort::SessionHandle>(slots::CreateSession, ort::environment(), path,
                                                 static_cast<const ort::OrtSessionOptions*>(options.get()));
        options_ = ort::make<ort::RunOptions>(slots::CreateRunOptions);
        input_ = name_of(slots::SessionGetInputName);
        output_ = name_of(slots::SessionGetOutputName);
    }

    ort::Value run() {
        const std::int64_t shape[] = {1, static_cast<std::int64_t>(row_.size())};
        const auto input = ort::make<ort::Value>(
            slots::CreateTensorWithDataAsOrtValue, ort::host_memory(), static_cast<void*>(row_.data()),
            row_.size() * sizeof(float), static_cast<const std::int64_t*>(shape), std::size_t{2}, kFloat32);
        const ort::OrtValue* inputs[] = {input.get()};
        const char* input_names[] = {input_.c_str()};
        const char* output_names[] = {output_.c_str()};
        ort::OrtValue* output = nullptr;
        ort::check(ort::api[slots::Run](session_.get(), options_.get(), input_names, inputs, 1, output_names,
                                        1, &output));
        return ort::Value(output);
    }

private:
    template <class Function>
    std::string name_of(ort::Slot<Function> slot) {
        char* name = ort::get<char*>(slot, static_cast<const ort::OrtSession*>(session_.get()),
                                     std::size_t{0}, ort::allocator());
        std::string copy(name);
        ort::check(ort::api[slots::AllocatorFree](ort::allocator(), name));
        return copy;
    }

    std::vector<float> row_;
    ort::SessionHandle session_;
    ort::RunOptions options_;
    std::string input_;
    std::string output_;
};

// The number of elements: what a caller has to ask before it may read them.
std::size_t count(const ort::Value& value) {
    const auto info = ort::make<ort::ShapeInfo>(slots::GetTensorTypeAndShape,
                                                static_cast<const ort::OrtValue*>(value.get()));
    const auto axes = ort::get<std::size_t>(slots::GetDimensionsCount,
                                            static_cast<const ort::OrtTensorTypeAndShapeInfo*>(info.get()));
    std::vector<std::int64_t> shape(axes);
    ort::check(ort::api[slots::GetDimensions](info.get(), shape.data(), axes));
    return std::accumulate(shape.begin(), shape.end(), std::size_t{1}, std::multiplies<>());
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<float> row;
    for (int index = 3; index < argc; ++index) {
        row.push_back(std::strtof(argv[index], nullptr));
    }
    ort::load(argv[1]);
    Model model(argv[2], std::move(row));
    const ort::Value first = model.run();
    const auto* numbers = static_cast<const float*>(
        ort::get<void*>(slots::GetTensorMutableData, first.get()));
    for (std::size_t index = 0; index < count(first); ++index) {
        std::printf("%.9g ", static_cast<double>(numbers[index]));
    }
    std::printf("\n");
    std::fflush(stdout);
    long calls = 0;
    int threads = 0;
    while (std::scanf("%ld %d", &calls, &threads) == 2) {
        const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
        const double start = seconds(CLOCK_MONOTONIC);
        for (long call = 0; call < calls; ++call) {
            static_cast<void>(count(model.run()));
        }
        std::printf("%.9f %.9f\n", seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu, seconds(CLOCK_MONOTONIC) - start);
        std::fflush(stdout);
    }
    return 0;
}
