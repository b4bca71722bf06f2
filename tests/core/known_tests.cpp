// Known header sections: what is found, and that nothing else is.
#include <cstring>
#include <string>

#include "checks.hpp"
#include "known.hpp"

namespace gpux::tests {
namespace {

const std::string kBefore = "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: ";
const std::string kAfter = "\r\nA: 1\r\n\r\n";

// The body of the request that these bytes are, or a sign that it is not known.
std::string found(KnownSections* sections, const std::string& bytes) {
    const Text exact(bytes);
    std::size_t at = 0;
    const KnownSection* const section = sections->find(exact.begin(), bytes.size(), &at);
    return section == nullptr ? "unknown" : std::to_string(section->timeout) + ":" + bytes.substr(at);
}

KnownSections known(const std::string& before = kBefore, const std::string& after = kAfter) {
    KnownSections sections;
    sections.remember({before, after, 7});
    return sections;
}

void test_lengths() {
    KnownSections sections = known();
    for (const std::size_t size : {0, 1, 9, 10, 99, 100, 65535, 65536}) {
        const std::string body(size, '9');
        const std::string section = kBefore + std::to_string(size) + kAfter;
        check(found(&sections, section + body) == "7:" + body, "a body of " + std::to_string(size));
        check(found(&sections, section + body + "x") == "unknown", "more than the body");
        if (size > 0) {
            check(found(&sections, section + body.substr(1)) == "unknown", "less than the body");
        }
    }
    for (const char* const length :
         {"", "-1", "+1", "01", "00", " 1", "1 ", "x", "65537", "99999999999999999999999"}) {
        check(found(&sections, kBefore + length + kAfter + "1") == "unknown",
              std::string("length ") + length);
    }
}

void test_any_other_byte() {
    KnownSections sections = known();
    const std::string request = kBefore + "12" + kAfter + "123456789012";
    for (std::size_t at = 0; at < request.size(); ++at) {
        check(found(&sections, request.substr(0, at)) == "unknown", "a request that is cut");
        std::string other = request;
        for (int byte = 0; byte < 256; ++byte) {
            other[at] = static_cast<char>(byte);
            const bool is_known = other == request || at >= request.size() - 12;
            check((found(&sections, other) != "unknown") == is_known,
                  "another byte at " + std::to_string(at));
        }
    }
}

void test_several() {
    KnownSections sections = known();
    sections.remember({kBefore + "1", kAfter, 8});  // no digit is taken twice
    sections.remember({kBefore, kAfter, 9});        // its timeout has changed
    check(sections.size() == 2, "a section is remembered once");
    check(found(&sections, kBefore + "3" + kAfter + "abc") == "9:abc", "the first");
    check(found(&sections, kBefore + "13" + kAfter + "abc") == "8:abc",
          "the second, as the first has more to come");
    // Sections that come once do not replace one that is used.
    for (int i = 0; i < 1000; ++i) {
        sections.remember({kBefore, kAfter + std::to_string(i), i});
        check(sections.size() <= KnownSections::kMaxSections, "their number is limited");
    }
    check(found(&sections, kBefore + "3" + kAfter + "abc") == "9:abc", "one that was found stays");
    check(found(&sections, kBefore + "0" + kAfter + "999") == "999:", "the last is known, too");
}

}  // namespace

void test_known_sections() {
    test_lengths();
    test_any_other_byte();
    test_several();
}

}  // namespace gpux::tests
