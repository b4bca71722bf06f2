// The reader: valid objects, lists, numbers, strings and literals; each error in them and its position;
// and lists around the size of a claim.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "checks.hpp"
#include "reading.hpp"

namespace gpux::tests {
namespace {

// Inputs for each kind of value, most of them open (any shape).
const Signature& signature() {
    static const Signature* const made = [] {
        auto* all = new Signature;
        all->add("x", spec_of(Type::float64, {}));
        all->add("i", spec_of(Type::int64, {}));
        all->add("s", spec_of(Type::string, {}));
        all->add("b", spec_of(Type::boolean, {}));
        all->add("fixed", spec_of(Type::uint8, {2, 3}));
        all->add("batch", spec_of(Type::float32, {-1, 2}));
        all->add("one", spec_of(Type::int8, {}), 1);
        all->add("other", spec_of(Type::int8, {}), 2);
        Spec letter = spec_of(Type::string, {});
        letter.max_characters = 1;
        all->add("\xC3\xA9", letter);
        return all;
    }();
    return *made;
}

const std::string kSpaces(100, ' ');

// Errors of syntax and of names.

struct ErrorCase {
    std::string body;
    ReadError error;
    std::size_t at;
    const char* problem;
};

void check_error(const ErrorCase& one) {
    // As it is, further back, and far from the end (except if the error is the end itself).
    for (const bool is_after : {false, true}) {
        for (const bool is_in_front : {false, true}) {
            if (is_in_front && one.at >= one.body.size()) {
                continue;
            }
            const std::string body = (is_after ? kSpaces : "") + one.body + (is_in_front ? kSpaces : "");
            const Reading reading(signature(), body);
            const Reader& reader = reading.reader();
            const std::string what = quoted(one.body);
            check(reader.error() == one.error, "the error of " + what);
            check(reader.at() == one.at + (is_after ? kSpaces.size() : 0),
                  "the position of the error of " + what + ": " + std::to_string(reader.at()));
            if (one.error == ReadError::syntax) {
                check(std::strcmp(reader.problem(), one.problem) == 0,
                      "the problem of " + what + ": " + reader.problem());
            }
        }
    }
}

constexpr const char* kEnd = "the body ends here";
constexpr const char* kObject = "expected an object";
constexpr const char* kName = "expected an input's name in quotes";
constexpr const char* kColon = "expected ':'";
constexpr const char* kValue = "expected a value";
constexpr const char* kDigit = "expected a digit";
constexpr const char* kMember = "expected ',' or '}'";
constexpr const char* kItem = "expected ',' or ']'";
constexpr const char* kNothing = "nothing may follow the object";
constexpr const char* kControl = "control characters must be escaped in strings";
constexpr const char* kEscape = "no such escape";
constexpr const char* kHex = "expected four hexadecimal digits";
constexpr const char* kSurrogate = "a lone surrogate is no character";
constexpr const char* kUtf8 = "not UTF-8";

void test_errors() {
    constexpr ReadError kSyntax = ReadError::syntax;
    for (const ErrorCase& one : std::vector<ErrorCase>{
             // Not an object.
             {"", kSyntax, 0, kEnd},
             {" \n\r\t", kSyntax, 4, kEnd},
             {"x", kSyntax, 0, kObject},
             {"nul", kSyntax, 0, kObject},
             {"}", kSyntax, 0, kObject},
             {"\xEF\xBB\xBF{}", kSyntax, 0, kObject},
             {"\v{}", kSyntax, 0, kObject},
             {std::string("\0{}", 3), kSyntax, 0, kObject},
             {"[]", ReadError::not_an_object, 0, ""},
             {"[", ReadError::not_an_object, 0, ""},
             {"1", ReadError::not_an_object, 0, ""},
             {"-", ReadError::not_an_object, 0, ""},
             {"\"{}\"", ReadError::not_an_object, 0, ""},
             {"true", ReadError::not_an_object, 0, ""},
             {"false", ReadError::not_an_object, 0, ""},
             {"null", ReadError::not_an_object, 0, ""},
             // Objects.
             {"{", kSyntax, 1, kEnd},
             {"{ ", kSyntax, 2, kEnd},
             {"{,}", kSyntax, 1, kName},
             {"{x:1}", kSyntax, 1, kName},
             {"{1:1}", kSyntax, 1, kName},
             {"{\"x", kSyntax, 3, kEnd},
             {"{\"x\"", kSyntax, 4, kEnd},
             {"{\"x\" 1}", kSyntax, 5, kColon},
             {"{\"x\",1}", kSyntax, 4, kColon},
             {"{\"x\":", kSyntax, 5, kEnd},
             {"{\"x\":}", kSyntax, 5, kValue},
             {"{\"x\"::1}", kSyntax, 5, kValue},
             {"{\"x\":1", kSyntax, 6, kEnd},
             {"{\"x\":1]", kSyntax, 6, kMember},
             {"{\"x\":1 2}", kSyntax, 7, kMember},
             {"{\"x\":1 \"i\":2}", kSyntax, 7, kMember},
             {"{\"x\":1,", kSyntax, 7, kEnd},
             {"{\"x\":1,}", kSyntax, 7, kName},
             {"{\"x\":1,,\"i\":2}", kSyntax, 7, kName},
             {"{} x", kSyntax, 3, kNothing},
             {"{}{}", kSyntax, 2, kNothing},
             {std::string("{}\0", 3), kSyntax, 2, kNothing},
             {"{\"x\":1}}", kSyntax, 7, kNothing},
             {std::string("{\"x\":1\0}", 8), kSyntax, 6, kMember},
             // Lists.
             {"{\"x\":[", kSyntax, 6, kEnd},
             {"{\"x\":[}", kSyntax, 6, kValue},
             {"{\"x\":[,1]}", kSyntax, 6, kValue},
             {"{\"x\":[1,]}", kSyntax, 8, kValue},
             {"{\"x\":[1,,2]}", kSyntax, 8, kValue},
             {"{\"x\":[1 2]}", kSyntax, 8, kItem},
             {"{\"x\":[1, x]}", kSyntax, 9, kValue},
             {"{\"x\":[1;2]}", kSyntax, 7, kItem},
             {"{\"x\":[1}", kSyntax, 7, kItem},
             {"{\"x\":[1", kSyntax, 7, kEnd},
             {"{\"x\":[1,", kSyntax, 8, kEnd},
             {"{\"x\":[[1],[2]", kSyntax, 13, kEnd},
             {"{\"x\":[[1][2]]}", kSyntax, 9, kItem},
             {"{\"x\":[1]]}", kSyntax, 8, kMember},
             {std::string("{\"x\":[1\0]}", 10), kSyntax, 7, kItem},
             // Numbers.
             {"{\"x\":01}", kSyntax, 6, kMember},
             {"{\"x\":[01]}", kSyntax, 7, kItem},
             {"{\"x\":-01}", kSyntax, 7, kMember},
             {"{\"x\":-}", kSyntax, 6, kDigit},
             {"{\"x\":[--1]}", kSyntax, 7, kDigit},
             {"{\"x\":1.}", kSyntax, 7, kDigit},
             {"{\"x\":1.e5}", kSyntax, 7, kDigit},
             {"{\"x\":1e}", kSyntax, 7, kDigit},
             {"{\"x\":1e+}", kSyntax, 8, kDigit},
             {"{\"x\":1e", kSyntax, 7, kEnd},
             {"{\"x\":-", kSyntax, 6, kEnd},
             {"{\"x\":1.", kSyntax, 7, kEnd},
             {"{\"x\":.5}", kSyntax, 5, kValue},
             {"{\"x\":+1}", kSyntax, 5, kValue},
             {"{\"x\":/1}", kSyntax, 5, kValue},
             {"{\"x\":0x10}", kSyntax, 6, kMember},
             {"{\"x\":1_000}", kSyntax, 6, kMember},
             {"{\"x\":[1.5.5]}", kSyntax, 9, kItem},
             {"{\"x\":-Infinity}", kSyntax, 6, kDigit},
             {"{\"x\":[1,2,3,-x]}", kSyntax, 13, kDigit},
             // Literals.
             {"{\"x\":NaN}", kSyntax, 5, kValue},
             {"{\"b\":tru}", kSyntax, 5, kValue},
             {"{\"b\":tru", kSyntax, 5, kValue},
             {"{\"b\":True}", kSyntax, 5, kValue},
             {"{\"b\":truex}", kSyntax, 9, kMember},
             {"{\"b\":[false", kSyntax, 11, kEnd},
             {"{\"b\":true", kSyntax, 9, kEnd},
             // Strings.
             {"{\"s\":\"", kSyntax, 6, kEnd},
             {"{\"s\":\"abcdefghijk", kSyntax, 17, kEnd},
             {"{\"s\":'a'}", kSyntax, 5, kValue},
             {"{\"s\":\"a\"b}", kSyntax, 8, kMember},
             {"{\"s\":\"\n\"}", kSyntax, 6, kControl},
             {"{\"s\":\"a\x1F\"}", kSyntax, 7, kControl},
             {std::string("{\"s\":\"\0\"}", 9), kSyntax, 6, kControl},
             {"{\"s\":\"\\", kSyntax, 6, kEscape},
             {"{\"s\":\"\\\"}", kSyntax, 9, kEnd},
             {"{\"s\":\"a\\x\"}", kSyntax, 7, kEscape},
             {"{\"s\":\"\\U0041\"}", kSyntax, 6, kEscape},
             {"{\"s\":\"\\'\"}", kSyntax, 6, kEscape},
             {std::string("{\"s\":\"\\\0\"}", 10), kSyntax, 6, kEscape},
             {"{\"s\":\"\\u\"}", kSyntax, 8, kHex},
             {"{\"s\":\"\\u12g4\"}", kSyntax, 10, kHex},
             {"{\"s\":\"\\u 123\"}", kSyntax, 8, kHex},
             {"{\"s\":\"\\u+123\"}", kSyntax, 8, kHex},
             {"{\"s\":\"\\u12", kSyntax, 10, kEnd},
             {"{\"s\":\"\\ud800\"}", kSyntax, 6, kSurrogate},
             {"{\"s\":\"\\uDFFF\"}", kSyntax, 6, kSurrogate},
             {"{\"s\":\"ab\\udc00\\ud800\"}", kSyntax, 8, kSurrogate},
             {"{\"s\":\"\\ud800\\ud800\"}", kSyntax, 6, kSurrogate},
             {"{\"s\":\"\\ud800\\u0041\"}", kSyntax, 6, kSurrogate},
             {"{\"s\":\"\\ud800\\udbff\"}", kSyntax, 6, kSurrogate},
             {"{\"s\":\"\\ud800\\ue000\"}", kSyntax, 6, kSurrogate},
             {"{\"s\":\"\\ud800\\n\"}", kSyntax, 6, kSurrogate},
             {"{\"s\":\"\\ud800 \\udc00\"}", kSyntax, 6, kSurrogate},
             {"{\"s\":\"\\ud800\\udc0\"}", kSyntax, 17, kHex},
             {"{\"s\":\"\\ud800\\", kSyntax, 6, kSurrogate},
             {"{\"s\":\"\\ud800\\u", kSyntax, 14, kEnd},
             // Names.
             {"{\"\":1}", ReadError::unknown_input, 1, ""},
             {"{\"X\":1}", ReadError::unknown_input, 1, ""},
             {"{\"xx\":1}", ReadError::unknown_input, 1, ""},
             {"{\"i\":1,\"a name\" nonsense", ReadError::unknown_input, 7, ""},
             {"{\"x\\u0000\":1}", ReadError::unknown_input, 1, ""},
             {"{\"x\":1,\"x\":", ReadError::duplicate_input, 7, ""},
             {"{\"x\":1,\"\\u0078\":", ReadError::duplicate_input, 7, ""},
             {"{\"one\":1,\"other\":", ReadError::clashing_inputs, 9, ""},
             {"{\"other\":1,\"x\":1,\"one\":", ReadError::clashing_inputs, 17, ""},
             {"{\"\xFF\":1}", kSyntax, 2, kUtf8},
             {"{\"\n\":1}", kSyntax, 2, kControl},
             {"{\"\\ud800\":1}", kSyntax, 2, kSurrogate},
         }) {
        check_error(one);
    }
    {
        const Reading reading(signature(), "{\"\\u00e9 \\\"\":1}");
        check(reading.reader().name() == "\xC3\xA9 \"", "an unknown name is decoded");
    }
    const Reading reading(signature(), "{\"other\":1,\"one\":1}");
    check(reading.reader().input() == 6 && reading.reader().other_input() == 7, "both names that clash");
}

// Errors of values.

struct ValueCase {
    std::string body;
    std::size_t input;
    Error error;
    std::vector<std::int64_t> path;
    std::string number;
};

void check_value_error(const ValueCase& one) {
    for (const std::string& after : {std::string(), kSpaces}) {
        const Reading reading(signature(), one.body + after);
        const Reader& reader = reading.reader();
        const std::string what = quoted(one.body);
        check(reader.error() == ReadError::value, "an error of a value: " + what);
        if (reader.error() != ReadError::value) {
            continue;
        }
        check(reader.input() == one.input, "whose value it is: " + what);
        check(reader.sink().error() == one.error, "the error of the value: " + what);
        const std::vector<std::int64_t> path(reader.sink().path(),
                                             reader.sink().path() + reader.sink().path_size());
        check(path == one.path, "its path: " + what);
        check(std::string(reader.number(), reader.number_size()) == one.number, "its text: " + what);
    }
}

void test_errors_of_values() {
    for (const ValueCase& one : std::vector<ValueCase>{
             {"{\"x\":null}", 0, Error::wrong_type_at_top, {}, ""},
             {"{\"x\":\"1\"}", 0, Error::wrong_type_at_top, {}, ""},
             {"{\"x\":\"1", 0, Error::wrong_type_at_top, {}, ""},
             {"{\"x\":{", 0, Error::wrong_type_at_top, {}, ""},
             {"{\"s\":1}", 2, Error::wrong_type_at_top, {}, ""},
             {"{\"fixed\":1}", 4, Error::wrong_type_at_top, {}, ""},
             {"{\"x\":[1,true]}", 0, Error::wrong_type, {1}, ""},
             {"{\"x\":[[1],[2,null]]}", 0, Error::wrong_type, {1, 1}, ""},
             {"{\"x\":[1,2,3,[4]]}", 0, Error::wrong_type, {3}, ""},
             {"{\"x\":[[1],2]}", 0, Error::wrong_type, {1}, ""},
             {"{\"s\":[\"a\",2]}", 2, Error::wrong_type, {1}, ""},
             {"{\"b\":[true,\"a\"]}", 3, Error::wrong_type, {1}, ""},
             {"{\"x\":[1e999]}", 0, Error::out_of_range, {0}, "1e999"},
             {"{\"x\":[1,2,-1e309,4]}", 0, Error::out_of_range, {2}, "-1e309"},
             {"{\"i\":9223372036854775808}", 1, Error::out_of_range, {}, "9223372036854775808"},
             {"{\"i\":[0,1,1.5]}", 1, Error::not_an_integer, {2}, "1.5"},
             {"{\"i\":[0,1,1.5", 1, Error::not_an_integer, {2}, "1.5"},
             {"{\"b\":[1,0,2]}", 3, Error::out_of_range, {2}, "2"},
             {"{\"fixed\":[[1,2,3],[4,5,256]]}", 4, Error::out_of_range, {1, 2}, "256"},
             {"{\"fixed\":[[1,2,3],[4,-5,6]]}", 4, Error::out_of_range, {1, 1}, "-5"},
             {"{\"fixed\":[[1,2,3,4],", 4, Error::outgrown, {0, 3}, ""},
             {"{\"fixed\":[[1,2,3],[1,2,3],[", 4, Error::outgrown, {2}, ""},
             {"{\"fixed\":[[[", 4, Error::too_deep, {0, 0}, ""},
             {"{\"fixed\":[[1,2],[3,4]]}", 4, Error::wrong_shape, {}, ""},
             {"{\"fixed\":[]}", 4, Error::wrong_shape, {}, ""},
             {"{\"batch\":[]}", 5, Error::wrong_shape, {}, ""},
             {"{\"batch\":[[1,2],[3]]}", 5, Error::ragged, {1}, ""},
             {"{\"x\":[[1,2],[3]]}", 0, Error::ragged, {1}, ""},
             {"{\"x\":[[[]],[[],[]]]}", 0, Error::ragged, {1}, ""},
             {"{\"\xC3\xA9\":[\"\xC3\xA9\",\"ab\"]}", 8, Error::too_long, {1}, ""},
             {"{\"x\":1,\"i\":[2],\"s\":[null]}", 2, Error::wrong_type, {0}, ""},
             // No nesting overflows the stack.
             {"{\"x\":" + std::string(100'000, '['), 0, Error::too_deep,
              std::vector<std::int64_t>(kMaxAxes, 0), ""},
         }) {
        check_value_error(one);
    }
}

// Valid values.

const Value* value_of(const Reading& reading, const std::string& body) {
    check(reading.done(), "read: " + quoted(body));
    if (!reading.done() || reading.reader().values().empty()) {
        return nullptr;
    }
    return &reading.reader().values().back();
}

template <class Element>
void check_elements(const std::string& body, const std::vector<std::int64_t>& shape,
                    const std::vector<Element>& wanted) {
    for (const std::string& after : {std::string(), kSpaces}) {
        const Reading reading(signature(), body + after);
        const Value* const value = value_of(reading, body);
        if (value == nullptr) {
            continue;
        }
        check(std::vector<std::int64_t>(value->shape, value->shape + value->axes) == shape,
              "the shape of " + quoted(body));
        const std::size_t bytes = wanted.size() * sizeof(Element);
        check(reading.bytes_of(*value) == bytes, "how many elements: " + quoted(body));
        check(bytes == 0 || (reading.bytes_of(*value) == bytes &&
                             std::memcmp(reading.elements_of(*value), wanted.data(), bytes) == 0),
              "the elements of " + quoted(body));
    }
}

void check_strings(const std::string& body, const std::vector<std::int64_t>& shape,
                   const std::vector<std::string>& wanted) {
    for (const std::string& after : {std::string(), kSpaces}) {
        const Reading reading(signature(), body + after);
        const Value* const value = value_of(reading, body);
        if (value == nullptr) {
            continue;
        }
        check(std::vector<std::int64_t>(value->shape, value->shape + value->axes) == shape,
              "the shape of " + quoted(body));
        std::vector<std::string> found;
        for (std::size_t i = 0; i < value->strings; ++i) {
            found.push_back(reading.text_of(reading.reader().strings()[value->first_string + i]));
        }
        check(found == wanted, "the strings of " + quoted(body));
    }
}

void test_values() {
    {
        const Reading reading(signature(), " { } ");
        check(reading.done() && reading.reader().values().empty(), "no values");
    }
    check_elements<double>("{\"x\":1}", {}, {1});
    check_elements<double>("\t{\r\n\"x\" : -0.5e1 }\n", {}, {-5});
    check_elements<double>("{\"\\u0078\":[1]}", {1}, {1});
    check_elements<double>("{\"x\":[1,2.5,-3]}", {3}, {1, 2.5, -3});
    check_elements<double>("{\"x\":[ 1 , 2.5\n,\t-3 ]}", {3}, {1, 2.5, -3});
    check_elements<double>("{\"x\":[[1,2],[3,4],[5,6]]}", {3, 2}, {1, 2, 3, 4, 5, 6});
    check_elements<double>("{\"x\":[]}", {0}, {});
    check_elements<double>("{\"x\":[[ ],[]]}", {2, 0}, {});
    check_elements<double>("{\"x\":" + std::string(32, '[') + "7" + std::string(32, ']') + "}",
                           std::vector<std::int64_t>(32, 1), {7});
    check_elements<std::int64_t>(
        "{\"i\":[9223372036854775807,-9223372036854775808,1e3,12.0,0]}", {5},
        {std::numeric_limits<std::int64_t>::max(), std::numeric_limits<std::int64_t>::min(), 1000, 12, 0});
    check_elements<std::uint8_t>("{\"b\":[true,false,1,0,1.0,true,0]}", {7}, {1, 0, 1, 0, 1, 1, 0});
    check_elements<std::uint8_t>("{\"b\":true}", {}, {1});
    check_elements<std::uint8_t>("{\"fixed\":[[1,2,3],[4,5,255]]}", {2, 3}, {1, 2, 3, 4, 5, 255});
    check_elements<float>("{\"batch\":[1,2]}", {1, 2}, {1, 2});
    check_elements<float>("{\"x\":7,\"i\":[1],\"batch\":[[1,2],[3,4]]}", {2, 2}, {1, 2, 3, 4});
    // Numbers of each length, before each end of a block, next to one longer than a block.
    for (std::size_t size = 1; size <= 200; ++size) {
        for (const char* separator : {",", ", ", " ,", "\n,\n"}) {
            std::string body = "{\"x\":[0." + std::string(size, '0') + "5";
            std::vector<double> wanted{std::strtod(body.c_str() + 6, nullptr)};
            for (int i = 0; i < 20; ++i) {
                const std::string number = i % 5 == 4 ? "1e3" : std::to_string(i) + ".25";
                body += separator + number;
                wanted.push_back(std::strtod(number.c_str(), nullptr));
            }
            check_elements<double>(body + "]}", {21}, wanted);
        }
    }
}

void test_strings() {
    check_strings("{\"s\":\"\"}", {}, {""});
    check_strings("{\"s\":[]}", {0}, {});
    check_strings("{\"s\":[[\"a\",\"b\"],[\"c\",\"d\"]]}", {2, 2}, {"a", "b", "c", "d"});
    check_strings("{\"s\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}", {}, {"\"\\/\b\f\n\r\t"});
    check_strings("{\"s\":[\"\\u0041\\u00e9\\u00E9\\u20ac\\ud83d\\ude00\\uD83D\\uDE00\",\"\\u0000\"]}", {2},
                  {"A\xC3\xA9\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xF0\x9F\x98\x80", std::string(1, '\0')});
    check_strings(
        "{\"s\":[\"\\ud800\\udc00\",\"\\udbff\\udfff\",\"\\ud7ff\\ue000\\uffff\",\"\\u007f\\u0080"
        "\\u07ff\\u0800\"]}",
        {4},
        {"\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF",
         "\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80"});
    check_strings("{\"s\":\"\x7F\"}", {}, {"\x7F"});
    check_strings("{\"s\":[\"plain\",\"\\tdecoded\",\"plain\",\"de\\tcoded\",\"\"]}", {5},
                  {"plain", "\tdecoded", "plain", "de\tcoded", ""});
    {
        // Decoding a name keeps the decoded strings.
        const std::string body = "{\"s\":[\"\\t1\",\"\\n2\"],\"\\u00e9\":\"\\r\",\"\\u0078\":3}";
        const Reading reading(signature(), body);
        const std::vector<String>& strings = reading.reader().strings();
        check(reading.done() && strings.size() == 3, "read: " + body);
        check(strings.size() == 3 && reading.text_of(strings[0]) == "\t1" &&
                  reading.text_of(strings[1]) == "\n2" && reading.text_of(strings[2]) == "\r",
              "the strings of several inputs");
    }
    // The bytes that end a run, at each index of the eight that are tested together.
    for (std::size_t index = 0; index <= 20; ++index) {
        for (std::size_t after = 0; after <= 9; ++after) {
            const std::string front(index, 'a');
            const std::string back(after, '!');
            check_strings("{\"s\":\"" + front + "\"}", {}, {front});
            check_strings("{\"s\":\"" + front + "\\n" + back + "\"}", {}, {front + "\n" + back});
            check_strings("{\"s\":\"" + front + "\\\"" + back + "\"}", {}, {front + "\"" + back});
            check_strings("{\"s\":\"" + front + "\xC3\xA9" + back + "\"}", {}, {front + "\xC3\xA9" + back});
            for (const char control : {'\x01', '\x1F', '\0'}) {
                check_error(
                    {"{\"s\":\"" + front + control + back + "\"}", ReadError::syntax, 6 + index, kControl});
            }
            check_error({"{\"s\":\"" + front + "\x80" + back + "\"}", ReadError::syntax, 6 + index, kUtf8});
            check_error({"{\"s\":\"" + front, ReadError::syntax, 6 + index, kEnd});
        }
    }
}

// UTF-8.

std::string encoded(unsigned point) {
    std::string text;
    if (point < 0x80) {
        text += static_cast<char>(point);
        return text;
    }
    const int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    text += static_cast<char>((0xFF00u >> (more + 1) & 0xFF) | point >> (6 * more));
    for (int i = more - 1; i >= 0; --i) {
        text += static_cast<char>(0x80 | (point >> (6 * i) & 0x3F));
    }
    return text;
}

// The bytes of the first character of a text; 0 if it is invalid. By its code point, which must encode to
// the same bytes.
std::size_t character_bytes(const std::string& text) {
    const unsigned first = static_cast<unsigned char>(text[0]);
    if (first < 0x80) {
        return 1;
    }
    const std::size_t size = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 0;
    if (size == 0 || text.size() < size || first >= 0xF8) {
        return 0;
    }
    unsigned point = first & (0xFFu >> (size + 1));
    for (std::size_t i = 1; i < size; ++i) {
        point = point << 6 | (static_cast<unsigned char>(text[i]) & 0x3F);
    }
    const bool is_one = point <= 0x10FFFF && (point < 0xD800 || point >= 0xE000);
    return is_one && encoded(point) == text.substr(0, size) ? size : 0;
}

void test_utf8() {
    // Every character, plain and escaped; each counts as one.
    const std::string start = "{\"\xC3\xA9\":[";
    for (const bool is_escaped : {false, true}) {
        std::string body = start;
        std::vector<std::string> wanted;
        for (unsigned point = 0x20; point <= 0x10FFFF; point += point < 0x3000 ? 1 : 7) {
            if ((point >= 0xD800 && point < 0xE000) || point == '"' || point == '\\') {
                continue;
            }
            wanted.push_back(encoded(point));
            std::string text = wanted.back();
            if (is_escaped) {
                char escape[16];
                if (point < 0x10000) {
                    std::snprintf(escape, sizeof escape, "\\u%04x", point);
                } else {
                    std::snprintf(escape, sizeof escape, "\\u%04X\\u%04x", 0xD800 + ((point - 0x10000) >> 10),
                                  0xDC00 + (point & 0x3FF));
                }
                text = escape;
            }
            body += "\"" + text + "\",";
        }
        body.back() = ']';
        check_strings(body + "}", {static_cast<std::int64_t>(wanted.size())}, wanted);
    }
    // Any two bytes, before others that may continue them.
    for (unsigned first = 0x80; first < 0x100; ++first) {
        for (unsigned second = 0x20; second < 0x100; ++second) {
            if (second == '"' || second == '\\') {
                continue;
            }
            for (const std::string rest : {"\x80\xBF", "\x80", "a", "\xBF\xC0"}) {
                const std::string text{static_cast<char>(first), static_cast<char>(second)};
                const std::string all = text + rest;
                std::size_t at = 0;
                std::size_t size = 1;
                while (at < all.size() && size > 0) {
                    size = character_bytes(all.substr(at));
                    at += size;
                }
                const std::string body = "{\"s\":\"" + all;
                const Reading reading(signature(), body + "\"}");
                check(reading.done() == (at == all.size()), "UTF-8: " + body);
                check(reading.done() || reading.reader().at() == 6 + at, "not UTF-8: " + body);
                // The same at the end of the body, where no byte continues them.
                const Reading cut(signature(), body);
                check(cut.reader().at() == 6 + at, "UTF-8 at the end: " + body);
            }
        }
    }
}

// Lists around the length of a claim, with an invalid element at each critical index.
void test_claims() {
    for (const std::size_t size : {4094u, 4095u, 4096u, 4097u, 4098u, 8191u, 8192u, 8193u, 12289u}) {
        for (const char* separator : {",", ", "}) {
            for (const char* other : {"2", "1e0", "1.5"}) {
                std::vector<double> wanted;
                std::vector<std::string> texts;
                for (std::size_t i = 0; i < size; ++i) {
                    texts.push_back(i % 7 == 3 ? other : std::to_string(i % 10));
                    wanted.push_back(std::strtod(texts.back().c_str(), nullptr));
                }
                const auto body_of = [&] {
                    std::string body = "{\"x\":[" + texts[0];
                    for (std::size_t i = 1; i < size; ++i) {
                        body += separator + texts[i];
                    }
                    return body + "]}";
                };
                check_elements<double>(body_of(), {static_cast<std::int64_t>(size)}, wanted);
                for (const std::size_t index :
                     {std::size_t{4094}, std::size_t{4095}, std::size_t{4096}, size - 2, size - 1}) {
                    if (index >= size) {
                        continue;
                    }
                    const std::string before = texts[index];
                    texts[index] = "1e999";
                    check_value_error(
                        {body_of(), 0, Error::out_of_range, {static_cast<std::int64_t>(index)}, "1e999"});
                    texts[index] = "null";
                    check_value_error(
                        {body_of(), 0, Error::wrong_type, {static_cast<std::int64_t>(index)}, ""});
                    texts[index] = before;
                }
            }
        }
    }
}

// Valid bodies cut at each byte: always a syntax error.
void test_truncations() {
    for (const std::string body : {
             "{\"x\":[[0.25,-1e-3,100],[1.5, 2 ,\n3]],\"i\":[1,2],\"s\":[\"a\\u00e9\",\"\xC3\xA9\"]}",
             "{\"s\":\"\\ud83d\\ude00 and more than eight\",\"b\":[true,false,1],\"one\":12}",
             "{\"fixed\":[[1,2,3],[4,5,6]],\"batch\":[[12345678,0.12345678901234567],[1,2]]}",
             "{ \"\\u0078\" : [ ] , \"\xC3\xA9\":\"\xF0\x9F\x98\x80\" }",
         }) {
        check(Reading(signature(), body).done(), "read: " + body);
        for (std::size_t size = 0; size < body.size(); ++size) {
            const Reading reading(signature(), body.substr(0, size));
            check(reading.reader().error() == ReadError::syntax, "cut: " + body.substr(0, size));
        }
    }
}

// Out of memory.
void test_no_memory() {
    const std::string body = "{\"x\":[1,2,3]}";
    const Text text(body);
    const auto reject = [](void*, Memory*, std::size_t) { return false; };
    Reader reader(text.begin(), body.size(), signature().inputs, nullptr, reject);
    check(!reader.read(), "no memory, no value");
    check(reader.error() == ReadError::value && reader.sink().error() == Error::out_of_memory,
          "out of memory");
}

}  // namespace

void test_reader() {
    test_errors();
    test_errors_of_values();
    test_values();
    test_strings();
    test_utf8();
    test_claims();
    test_truncations();
    test_no_memory();
}

}  // namespace gpux::tests
