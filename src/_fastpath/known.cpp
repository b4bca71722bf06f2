#include "known.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace gpux {
namespace {

// Whether the data begins with a text.
bool begins_with(const char* data, std::size_t size, const std::string& text) noexcept {
    return size >= text.size() && std::memcmp(data, text.data(), text.size()) == 0;
}

// Reads digits without a leading zero, up to a value of kMaxBodyBytes; returns how many, 0 if there are none.
std::size_t read_length(const char* data, std::size_t size, std::size_t* length) noexcept {
    std::size_t digits = 0;
    std::size_t value = 0;
    while (digits < size && data[digits] >= '0' && data[digits] <= '9') {
        value = 10 * value + static_cast<std::size_t>(data[digits] - '0');
        if (value > KnownSections::kMaxBodyBytes || (digits > 0 && data[0] == '0')) {
            return 0;
        }
        ++digits;
    }
    *length = value;
    return digits;
}

}  // namespace

void KnownSections::remember(KnownSection section) {
    for (KnownSection& known : sections_) {
        if (known.before == section.before && known.after == section.after) {
            known.timeout = section.timeout;
            return;
        }
    }
    if (sections_.size() == kMaxSections) {
        sections_.pop_back();
    }
    sections_.push_back(std::move(section));
}

const KnownSection* KnownSections::find(const char* data, std::size_t size, std::size_t* body_at) noexcept {
    for (auto known = sections_.begin(); known != sections_.end(); ++known) {
        if (!begins_with(data, size, known->before)) {
            continue;
        }
        std::size_t at = known->before.size();
        std::size_t length = 0;
        const std::size_t digits = read_length(data + at, size - at, &length);
        at += digits;
        if (digits == 0 || !begins_with(data + at, size - at, known->after)) {
            continue;
        }
        at += known->after.size();
        if (size - at != length) {
            continue;
        }
        std::rotate(sections_.begin(), known, known + 1);
        *body_at = at;
        return &sections_.front();
    }
    return nullptr;
}

}  // namespace gpux
