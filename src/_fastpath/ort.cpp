#include "ort.hpp"

#include <dlfcn.h>

#include <cstdlib>

namespace gpux::ort {

Api api;

namespace {

struct ApiBase {
    void* const* (*GetApi)(std::uint32_t version);
    const char* (*GetVersionString)();
};

std::string runtime_version;
OrtEnv* the_environment = nullptr;
OrtAllocator* the_allocator = nullptr;
MemoryInfo the_host_memory;

// The length of the well-formed UTF-8 sequence at `at`, or 0. `*skip` is then the length of the longest
// prefix of one, at least 1: what one replacement character stands for.
// Source: The Unicode Standard 16.0, 3.9, table 3-7 and "maximal subpart".
std::size_t sequence_length(const unsigned char* at, const unsigned char* end, std::size_t* skip) {
    *skip = 1;
    const unsigned char first = *at;
    if (first < 0x80) {
        return 1;
    }
    const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4) {
        return 0;
    }
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    if (first == 0xE0) {
        low = 0xA0;
    } else if (first == 0xED) {
        high = 0x9F;
    } else if (first == 0xF0) {
        low = 0x90;
    } else if (first == 0xF4) {
        high = 0x8F;
    }
    for (std::size_t i = 1; i < length; ++i) {
        if (at + i == end || at[i] < low || at[i] > high) {
            *skip = i;
            return 0;
        }
        low = 0x80;
        high = 0xBF;
    }
    return length;
}

}  // namespace

std::string well_formed(const char* text, std::size_t size) {
    const unsigned char* at = reinterpret_cast<const unsigned char*>(text);
    const unsigned char* const end = at + size;
    std::string result;
    result.reserve(size);
    while (at < end) {
        std::size_t skip;
        const std::size_t length = sequence_length(at, end, &skip);
        if (length > 0) {
            result.append(reinterpret_cast<const char*>(at), length);
            at += length;
        } else {
            result += "\xEF\xBF\xBD";
            at += skip;
        }
    }
    return result;
}

std::string message_of(OrtStatus* status) {
    if (status == nullptr) {
        return {};
    }
    const char* const text = api[slots::GetErrorMessage](status);
    std::string message = well_formed(text, std::char_traits<char>::length(text));
    api[slots::ReleaseStatus](status);
    return message.empty() ? "ONNX Runtime gave no reason" : message;
}

void check(OrtStatus* status) {
    if (status != nullptr) {
        throw Failure(message_of(status));
    }
}

void load(const char* path) {
    if (api.table_ != nullptr) {
        return;
    }
    // Kept open: threads of ONNX Runtime may run until the process ends.
    void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        throw Failure(dlerror());
    }
    using GetBase = const ApiBase*();
    GetBase* const get_base = reinterpret_cast<GetBase*>(dlsym(library, "OrtGetApiBase"));
    if (get_base == nullptr) {
        throw Failure(std::string(path) + " is not ONNX Runtime: it has no OrtGetApiBase");
    }
    const ApiBase* const base = get_base();
    const std::string version = base->GetVersionString();
    // GetApi() prints to stderr if it is asked for a version above its own, which is the minor one.
    const unsigned long minor = std::strtoul(version.c_str() + version.find('.') + 1, nullptr, 10);
    if (version.compare(0, 2, "1.") != 0 || minor < kOldestApi) {
        throw Failure("ONNX Runtime " + version + " is installed, and GPUX needs 1." +
                      std::to_string(kOldestApi) + " or later, below 2.0");
    }
    api.table_ = base->GetApi(static_cast<std::uint32_t>(minor));
    if (api.table_ == nullptr) {
        throw Failure("ONNX Runtime " + version + " does not offer its own API version");
    }
    api.version_ = static_cast<std::uint32_t>(minor);
    try {
        Environment environment = make<Environment>(slots::CreateEnv, kLogErrors, "gpux");
        the_allocator = get<OrtAllocator*>(slots::GetAllocatorWithDefaultOptions);
        the_host_memory = make<MemoryInfo>(slots::CreateCpuMemoryInfo, AllocatorKind::arena,
                                           MemoryKind::device);
        runtime_version = version;
        the_environment = environment.release();
    } catch (...) {
        api = Api();
        throw;
    }
}

std::vector<std::string> available_providers() {
    char** names = nullptr;
    int count = 0;
    check(api[slots::GetAvailableProviders](&names, &count));
    std::vector<std::string> result;
    try {
        result.assign(names, names + count);
    } catch (...) {
        message_of(api[slots::ReleaseAvailableProviders](names, count));
        throw;
    }
    check(api[slots::ReleaseAvailableProviders](names, count));
    return result;
}

void Deallocator::operator()(void* memory) const noexcept {
    // The default allocator's function to free memory cannot fail.
    api[slots::ReleaseStatus](api[slots::AllocatorFree](the_allocator, memory));
}

const std::string& version() noexcept { return runtime_version; }
OrtEnv* environment() noexcept { return the_environment; }
OrtAllocator* allocator() noexcept { return the_allocator; }
const OrtMemoryInfo* host_memory() noexcept { return the_host_memory.get(); }

}  // namespace gpux::ort
