// Header sections of requests that the server has judged before: clients send the same ones again and again.
//
// A section is known byte for byte, but for the digits of its Content-Length. Nothing is parsed here, and
// nothing judged: who remembers a section vouches for all that differ from it in that number alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace gpux {

struct KnownSection {
    std::string before;  // up to the first digit of the length
    std::string after;   // from behind the last digit to the empty line; begins with a byte that is no digit
    std::int64_t timeout = 0;  // its caller's own
};

// Not thread-safe.
class KnownSections {
public:
    // Remembers a section. One that is new is the first to be forgotten, until it is found.
    // Throws std::bad_alloc.
    void remember(KnownSection section);

    // The section of the one request that these bytes are, from its first to its last; null if it is not known,
    // more or less follows it than its length says, or the body is longer than kMaxBodyBytes. Valid until the
    // next call.
    const KnownSection* find(const char* data, std::size_t size, std::size_t* body_at) noexcept;

    std::size_t size() const noexcept { return sections_.size(); }

    static constexpr std::size_t kMaxSections = 32;
    static constexpr std::size_t kMaxBodyBytes = std::size_t{1} << 16;

private:
    std::vector<KnownSection> sections_;  // the one that was found last is the first
};

}  // namespace gpux
