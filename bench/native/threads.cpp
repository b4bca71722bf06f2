// The engine in native threads: a whole call for a body, from its bytes to those of the response.
//
//     threads LIBRARY MODEL BODY
//
// The model's inputs lead with a batch axis. For each line "CALLS THREADS" of stdin, answers the body that
// often, shared out among the threads, and prints the CPU time and the duration in seconds. Before that it
// prints the response.
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <exception>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "pipeline.hpp"
#include "session.hpp"

namespace {

using namespace gpux;

double seconds(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

Spec spec_of(const Declared& declared) {
    Spec spec{};
    spec.type = static_cast<Type>(declared.type);
    spec.axes = spec.max_axes = static_cast<int>(declared.dims.size());
    spec.min_axes = spec.axes - 1;
    spec.batched = true;
    spec.max_characters = -1;
    std::copy(declared.dims.begin(), declared.dims.end(), spec.sizes);
    return spec;
}

class Model {
public:
    Model(const char* path, const SessionOptions& options)
        : session_(path, options), pool_(std::make_shared<Pool>(host_allocator(), std::size_t{1} << 28)) {
        std::vector<InputRule> rules;
        std::vector<std::string> names;
        specs_.reserve(session_.inputs().size());
        for (const Declared& declared : session_.inputs()) {
            specs_.push_back(spec_of(declared));
            table_.push_back({declared.name.data(), declared.name.size(), &specs_.back(), 0});
            rules.push_back({specs_.back().type, true, true, false, true, {{0, 0}}});
            names.push_back(declared.name);
        }
        std::vector<std::string> outputs;
        std::vector<OutputRule> responses;
        for (const Declared& declared : session_.outputs()) {
            responses.push_back(
                {'"' + declared.name + '"', outputs.size(), std::nullopt, Unbatch::with_request});
            outputs.push_back(declared.name);
        }
        pipeline_.emplace(session_.handle(), &table_, rules, names, outputs, responses);
    }

    // The response's size; the response stays in `memory`.
    std::size_t respond(const std::string& body, std::vector<char>* memory) const {
        Text text{memory->data(), 0, memory->size(), memory, grow};
        Call call;
        if (pipeline_->respond(body.data(), body.size(), *pool_, kNever, &text, &call) != Result::done) {
            throw std::runtime_error("the request was refused: " + call.message);
        }
        return text.size;
    }

private:
    static bool grow(void* owner, Text* text, std::size_t needed) {
        std::vector<char>* const memory = static_cast<std::vector<char>*>(owner);
        memory->resize(2 * needed);
        text->data = memory->data();
        text->capacity = memory->size();
        return true;
    }

    const Session session_;
    const std::shared_ptr<Pool> pool_;
    std::vector<Spec> specs_;
    std::vector<Input> table_;
    std::optional<Pipeline> pipeline_;
};

int measure(char** argv) {
    ort::load(argv[1]);
    SessionOptions options(1, SessionOptions::Optimization::all);
    const Model model(argv[2], options);
    std::ifstream file(argv[3], std::ios::binary);
    const std::string body{std::istreambuf_iterator<char>(file), {}};
    std::vector<char> memory(1 << 14);
    const std::size_t size = model.respond(body, &memory);
    std::printf("%.*s\n", static_cast<int>(size), memory.data());
    std::fflush(stdout);
    long calls = 0;
    int threads = 0;
    while (std::scanf("%ld %d", &calls, &threads) == 2) {
        const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
        const double start = seconds(CLOCK_MONOTONIC);
        std::vector<std::thread> workers;
        for (int i = 0; i < threads; ++i) {
            workers.emplace_back([&] {
                std::vector<char> own(1 << 14);
                for (long call = 0; call < calls / threads; ++call) {
                    model.respond(body, &own);
                }
            });
        }
        for (std::thread& worker : workers) {
            worker.join();
        }
        std::printf("%.9f %.9f\n", seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu, seconds(CLOCK_MONOTONIC) - start);
        std::fflush(stdout);
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: threads LIBRARY MODEL BODY\n");
        return 2;
    }
    try {
        return measure(argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
