// Tests of the core without Python: tables for each part, and the fuzzer's corpus.
//
//     core_tests CORPUS
//
// CORPUS is a folder of bodies for fuzz_reader.cpp. Each goes through the fuzzer's entry point whole, cut
// at each byte, and without each byte. `make core` builds this with ASan and UBSan. Exits with 1 on any
// failure.
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "checks.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace gpux::tests {
namespace {

void replay_one(const std::string& text) {
    // A vector, which allocates exactly this size.
    const std::vector<std::uint8_t> bytes(text.begin(), text.end());
    check(LLVMFuzzerTestOneInput(bytes.data(), bytes.size()) == 0, "the fuzzer's entry answers 0");
}

bool replay(const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const auto& file : files) {
        std::ifstream stream(file, std::ios::binary);
        const std::string text{std::istreambuf_iterator<char>(stream), {}};
        replay_one(text);
        // Not every byte of long ones, which would take minutes; odd steps, so as to meet both digits
        // and commas.
        const std::size_t step = text.size() > 2000 ? text.size() / 500 | 1 : 1;
        for (std::size_t at = 1; at < text.size(); at += step) {
            replay_one(text.substr(0, at));
            replay_one(text.substr(0, at) + text.substr(at + 1));
        }
    }
    return !files.empty();
}

}  // namespace
}  // namespace gpux::tests

int main(int argc, char** argv) {
    using namespace gpux::tests;
    if (argc != 2) {
        std::fprintf(stderr, "usage: core_tests CORPUS\n");
        return 2;
    }
    const auto run = [](const char* name, auto test) {
        const unsigned long before = count.cases;
        test();
        std::printf("%s: %lu cases\n", name, count.cases - before);
    };
    run("numbers", test_numbers);
    run("float32s", test_float32s);
    run("reader", test_reader);
    run("sink", test_sink);
    run("strided", test_strided);
    run("activations", test_activations);
    run("requests", test_requests);
    run("chunks", test_chunks);
    run("known sections", test_known_sections);
    run("corpus", [&] { check(replay(argv[1]), "there is a corpus"); });
    if (count.wrong != 0) {
        std::fprintf(stderr, "%lu of %lu cases are wrong\n", count.wrong, count.cases);
        return 1;
    }
    return 0;
}
