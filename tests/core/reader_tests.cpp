// The reader: valid objects, lists, numbers, strings and literals; each error in them and its position;
// and lists around the size of a claim.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include "checks.hpp"
#include "reading.hpp"

namespace gpux::tests {
namespace {

using namespace std::string_literals;

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
        all->add("half", spec_of(Type::float16, {-1}));
        all->add("row", spec_of(Type::string, {2}));
        return all;
    }();
    return *made;
}

const std::string kSpaces(100, ' ');

// Errors of syntax and of names.

// Bodies whose error is at the marked byte.
void check_errors(ReadError error, std::initializer_list<std::string> marked_bodies,
                  const char* problem = "") {
    for (const std::string& marked_body : marked_bodies) {
        const auto [at, text] = Marked(marked_body);
        // As it is, further back, and far from the end (except if the error is the end itself).
        for (const std::string& before : {""s, kSpaces}) {
            for (const std::string& after : {""s, kSpaces}) {
                if (!after.empty() && at == text.size()) {
                    continue;
                }
                const Reading reading(signature(), before + text + after);
                const Reader& reader = reading.reader();
                const std::string what = quoted(text);
                check(reader.error() == error, "the error of " + what);
                check(reader.at() == before.size() + at,
                      "the position of the error of " + what + ": " + std::to_string(reader.at()));
                if (error == ReadError::syntax) {
                    check(reader.problem() == std::string(problem),
                          "the problem of " + what + ": " + reader.problem());
                }
            }
        }
    }
}

void check_syntax_errors(const char* problem, std::initializer_list<std::string> marked_bodies) {
    check_errors(ReadError::syntax, marked_bodies, problem);
}

constexpr const char* kEnd = "the body ends here";
constexpr const char* kControl = "control characters must be escaped in strings";
constexpr const char* kUtf8 = "not UTF-8";

void test_errors() {
    check_syntax_errors(kEnd, {"^", " \n\r\t^", "{^", "{ ^", R"({"x^)", R"({"x"^)", R"({"x":^)", R"({"x":1^)",
                               R"({"x":1,^)"});
    check_syntax_errors(
        kEnd, {R"({"x":[^)", R"({"x":[1^)", R"({"x":[1,^)", R"({"x":[[1],[2]^)", R"({"x":1e^)", R"({"x":-^)",
               R"({"x":1.^)", R"({"b":[false^)", R"({"b":true^)", R"({"s":"^)", R"({"s":"abcdefghijk^)",
               R"({"s":"\"}^)", R"({"s":"\u12^)", R"({"s":"\ud800\u^)"});
    check_syntax_errors("expected an object", {"^x", "^nul", "^}", "^\v{}", "^\0{}"s});
    check_errors(ReadError::not_an_object, {"^[]", "^[", "^1", "^-", R"(^"{}")", "^true", "^false", "^null"});
    check_syntax_errors("expected an input's name in quotes",
                        {"{^,}", "{^x:1}", "{^1:1}", R"({"x":1,^,"i":2})"});
    check_syntax_errors(
        "a trailing comma is not JSON; after a comma something follows",
        {R"({"x":1,^})", R"({"x":[1,^]})", "{\"x\":[1 , \n^]}", R"({"x":[1,2,3,^]})", R"({"s":["a",^]})"});
    check_syntax_errors("a byte order mark is not JSON; send UTF-8 without one",
                        {"^\xEF\xBB\xBF{}", "^\xFF\xFE{", "^\xFE\xFF{"});
    check_syntax_errors("a single quote is not JSON; strings have double quotes",
                        {"^'{}'", "{^'x':1}", R"({"s":^'a'})", R"({"s":["a",^'a'])"});
    check_syntax_errors("Infinity is not JSON; numbers are finite",
                        {R"({"x":^Infinity})", R"({"x":-^Infinity})", R"({"x":[1,-^Infinity])"});
    check_syntax_errors("NaN is not JSON; null stands for it where gpux.yml has missing: nan",
                        {"^NaN", R"({"x":^NaN})", R"({"x":[1,^NaN])", R"({"x":[1 ^NaN])"});
    check_syntax_errors("expected ':'", {R"({"x" ^1})", R"({"x"^,1})"});
    check_syntax_errors("expected a value",
                        {R"({"x":^})", R"({"x":^:1})", R"({"x":[^})", R"({"x":[^,1]})", R"({"x":[1,^,2]})",
                         R"({"x":[1, ^x]})", R"({"x":^.5})", R"({"x":^+1})", R"({"x":^/1})", R"({"x":^Nan})",
                         R"({"b":^tru})", R"({"b":^tru)", R"({"b":^True})"});
    check_syntax_errors("expected ',' or '}'",
                        {R"({"x":1^])", R"({"x":1 ^2})", R"({"x":1 ^"i":2})", "{\"x\":1^\0}"s,
                         R"({"x":[1]^]})", R"({"x":0^1})", R"({"x":-0^1})", R"({"x":0^x10})",
                         R"({"x":1^_000})", R"({"b":true^x})", R"({"s":"a"^b})"});
    check_syntax_errors("nothing may follow the object", {"{} ^x", "{}^{}", "{}^\0"s, R"({"x":1}^})"});
    check_syntax_errors("expected ',' or ']'",
                        {R"({"x":[1 ^2]})", R"({"x":[1^;2]})", R"({"x":[1^})", R"({"x":[[1]^[2]]})",
                         "{\"x\":[1^\0]}"s, R"({"x":[0^1]})", R"({"x":[1.5^.5]})"});
    check_syntax_errors("expected a digit",
                        {R"({"x":-^})", R"({"x":[-^-1]})", R"({"x":1.^})", R"({"x":1.^e5})", R"({"x":1e^})",
                         R"({"x":1e+^})", R"({"x":-^Infinite})", R"({"x":[1,2,3,-^x]})"});
    check_syntax_errors(kControl,
                        {"{\"s\":\"^\n\"}", "{\"s\":\"a^\x1F\"}", "{\"s\":\"^\0\"}"s, "{\"^\n\":1}"});
    check_syntax_errors("no such escape", {R"({"s":"^\)", R"({"s":"a^\x"})", R"({"s":"^\U0041"})",
                                           R"({"s":"^\'"})", "{\"s\":\"^\\\0\"}"s});
    check_syntax_errors("expected four hexadecimal digits",
                        {R"({"s":"\u^"})", R"({"s":"\u12^g4"})", R"({"s":"\u^ 123"})", R"({"s":"\u^+123"})",
                         R"({"s":"\ud800\udc0^"})", R"({"s":"\u^NaN"})", R"({"s":"\u^'"})"});
    check_syntax_errors(
        "a lone surrogate is no character",
        {R"({"s":"^\ud800"})", R"({"s":"^\uDFFF"})", R"({"s":"ab^\udc00\ud800"})", R"({"s":"^\ud800\ud800"})",
         R"({"s":"^\ud800\u0041"})", R"({"s":"^\ud800\udbff"})", R"({"s":"^\ud800\ue000"})",
         R"({"s":"^\ud800\n"})", R"({"s":"^\ud800 \udc00"})", R"({"s":"^\ud800\)", R"({"^\ud800":1})"});
    check_errors(ReadError::unknown_input, {R"({^"":1})", R"({^"X":1})", R"({^"xx":1})",
                                            R"({"i":1,^"a name" nonsense)", R"({^"x\u0000":1})"});
    check_errors(ReadError::duplicate_input, {R"({"x":1,^"x":)", R"({"x":1,^"\u0078":)"});
    check_errors(ReadError::clashing_inputs, {R"({"one":1,^"other":)", R"({"other":1,"x":1,^"one":)"});
    check_syntax_errors(kUtf8, {"{\"^\xFF\":1}"});
    {
        const Reading reading(signature(), "{\"\\u00e9 \\\"\":1}");
        check(reading.reader().text() == "\xC3\xA9 \"", "an unknown name is decoded");
    }
    const Reading reading(signature(), "{\"other\":1,\"one\":1}");
    check(reading.reader().input() == 6 && reading.reader().other_input() == 7, "both names that clash");
}

// Errors of values.

struct ValueCase {
    std::string body;
    std::size_t input;
    Sizes path = {};
    std::string number = "";
};

void check_value_errors(Error error, std::initializer_list<ValueCase> cases) {
    for (const ValueCase& one : cases) {
        for (const std::string& after : {""s, kSpaces}) {
            const Reading reading(signature(), one.body + after);
            const Reader& reader = reading.reader();
            const std::string what = quoted(one.body);
            check(reader.error() == ReadError::value, "an error of a value: " + what);
            if (reader.error() != ReadError::value) {
                continue;
            }
            check(reader.input() == one.input, "whose value it is: " + what);
            check(reader.sink().error() == error, "the error of the value: " + what);
            check(error == Error::outgrown || path_of(reader.sink()) == one.path, "its path: " + what);
            check(std::string(reader.number(), reader.number_size()) == one.number, "its text: " + what);
        }
    }
}

void test_errors_of_values() {
    // clang-format off
    check_value_errors(Error::wrong_type_at_top, {
        {R"({"x":null})", 0}, {R"({"x":"1"})", 0}, {R"({"x":"1)", 0}, {R"({"x":{)", 0}, {R"({"s":1})", 2},
        {R"({"fixed":1})", 4}
    });
    check_value_errors(Error::wrong_type, {
        {R"({"x":[1,true]})", 0, {1}}, {R"({"x":[[1],[2,null]]})", 0, {1, 1}},
        {R"({"x":[1,2,3,[4]]})", 0, {3}}, {R"({"x":[[1],2]})", 0, {1}}, {R"({"s":["a",2]})", 2, {1}},
        {R"({"b":[true,"a"]})", 3, {1}}, {R"({"x":1,"i":[2],"s":[null]})", 2, {0}}
    });
    check_value_errors(Error::out_of_range, {
        {R"({"x":[1e999]})", 0, {0}, "1e999"}, {R"({"x":[1,2,-1e309,4]})", 0, {2}, "-1e309"},
        {R"({"i":9223372036854775808})", 1, {}, "9223372036854775808"}, {R"({"b":[1,0,2]})", 3, {2}, "2"},
        {R"({"fixed":[[1,2,3],[4,5,256]]})", 4, {1, 2}, "256"},
        {R"({"fixed":[[1,2,3],[4,-5,6]]})", 4, {1, 1}, "-5"}
    });
    check_value_errors(Error::not_an_integer, {
        {R"({"i":[0,1,1.5]})", 1, {2}, "1.5"}, {R"({"i":[0,1,1.5)", 1, {2}, "1.5"}
    });
    check_value_errors(Error::outgrown, {
        {R"({"fixed":[[1,2,3,4],)", 4}, {R"({"fixed":[[1,2,3],[1,2,3],[)", 4}, {R"({"fixed":[[1,2,3,4],5]})", 4},
        {R"({"fixed":[[1,2,3,4],[1,2,3,-]]})", 4}, {R"({"fixed":[[1,2,3,"\x"],[1,2,3,4]]})", 4},
        {R"({"fixed":[[1,2,3,4],[1,2,3]]})", 4}, {R"({"fixed":[[1,2,3,{}],[1,2,3,4]]})", 4},
        {R"({"fixed":[[1,2,3,4,NaN],[1,2,3,4,5]]})", 4}, {R"({"fixed":[[1,2,3,4,{"b64":"}],[1,2,3,4,5]]})", 4}
    });
    check_value_errors(Error::too_deep, {
        {R"({"fixed":[[[)", 4, {0, 0}}
    });
    check_value_errors(Error::wrong_shape, {
        {R"({"fixed":[[1,2],[3,4]]})", 4}, {R"({"fixed":[]})", 4},
        {R"({"fixed":[[1,2,3,4,"\u0041"],[1,2,3,null , true]] nonsense)", 4}, {R"({"row":["a","b","c"]x)", 10},
        {R"({"row":["a","b",5e3,{"b64":"x"}]})", 10}, {R"({"fixed":{"b64":"","shape":[2]}})", 4},
        {R"({"fixed":{"b64":"","shape":[]}})", 4}
    });
    check_value_errors(Error::empty_batch, {
        {R"({"batch":[]})", 5}, {R"({"half":{"b64":"","shape":[0]}})", 9}
    });
    check_value_errors(Error::too_deep, {
        {R"({"fixed":{"b64":"AA==","shape":[1,2,3]}})", 4},
        {R"({"x":{"b64":"","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}})", 0}
    });
    check_value_errors(Error::wrong_type, {
        {R"({"x":[1,{"b64":"","shape":[]}]})", 0, {1}}, {R"({"i":{"shape":[1],"dtype":"bool","b64":"AQ=="}})", 1, {0}}
    });
    check_value_errors(Error::not_finite, {
        {R"({"i":{"b64":"AAAAAAAA8H8=","shape":[1],"dtype":"float64"}})", 1, {0}}
    });
    check_value_errors(Error::ragged, {
        {R"({"batch":[[1,2],[3]]})", 5, {1}}, {R"({"x":[[1,2],[3]]})", 0, {1}},
        {R"({"x":[[[]],[[],[]]]})", 0, {1}}
    });
    check_value_errors(Error::too_long, {
        {"{\"\xC3\xA9\":[\"\xC3\xA9\",\"ab\"]}", 8, {1}}
    });
    // clang-format on
    // No nesting overflows the stack.
    check_value_errors(Error::too_deep, {{"{\"x\":" + std::string(100'000, '['), 0, Sizes(kMaxAxes, 0)}});
}

// Valid values.

// Reads a body near its end and far from it, and compares its last value.
template <class Compare>
void check_value(const std::string& body, const Sizes& shape, Compare compare) {
    for (const std::string& after : {""s, kSpaces}) {
        const Reading reading(signature(), body + after);
        check(reading.done(), "read: " + quoted(body));
        if (reading.done() && !reading.reader().values().empty()) {
            const Value& value = reading.reader().values().back();
            check(shape_of(value) == shape, "the shape of " + quoted(body));
            compare(reading, value);
        }
    }
}

template <class Element>
void check_elements(const std::string& body, const Sizes& shape, const std::vector<Element>& wanted) {
    check_value(body, shape, [&](const Reading& reading, const Value& value) {
        const std::string_view found = reading.elements_of(value);
        check(found.size() == bytes_of(wanted).size(), "how many elements: " + quoted(body));
        check(found == bytes_of(wanted), "the elements of " + quoted(body));
    });
}

void check_strings(const std::string& body, const Sizes& shape, const std::vector<std::string>& wanted) {
    check_value(body, shape, [&](const Reading& reading, const Value& value) {
        check(reading.strings_of(value) == wanted, "the strings of " + quoted(body));
    });
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
    check_elements<double>("{\"x\":" + std::string(32, '[') + "7" + std::string(32, ']') + "}", Sizes(32, 1),
                           {7});
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
            const std::string start = "{\"s\":\"" + front + "^";
            for (const char control : {'\x01', '\x1F', '\0'}) {
                check_syntax_errors(kControl, {start + control + back + "\"}"});
            }
            check_syntax_errors(kUtf8, {start + "\x80" + back + "\"}"});
            check_syntax_errors(kEnd, {start});
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
                    const Sizes path{static_cast<std::int64_t>(index)};
                    texts[index] = "1e999";
                    check_value_errors(Error::out_of_range, {{body_of(), 0, path, "1e999"}});
                    texts[index] = "null";
                    check_value_errors(Error::wrong_type, {{body_of(), 0, path}});
                    texts[index] = before;
                }
            }
        }
    }
}

// Short rows, whose brackets are read together with the numbers if the spacing is common, against the same
// rows in a spacing that is not: the same tensors, and the same errors at the same elements. Each has a fault
// in one of its rows.
void test_rows() {
    // Instead of an element, beside it, or beside the end of a row.
    const char* const faults[] = {"",     "1e0", "1e999", "256",   "-1", "1.5",     "9999999999", "true",
                                  "null", "[1]", "[]",    "\"a\"", "{",  "1],[2,3", "1,2",        "1],[]"};
    constexpr std::size_t kRows = 40;
    Signature rows;
    rows.add("float32", spec_of(Type::float32, {-1, -1, -1}));
    rows.add("float64", spec_of(Type::float64, {-1, -1}));
    rows.add("int64", spec_of(Type::int64, {-1, -1}));
    rows.add("uint8", spec_of(Type::uint8, {-1, -1}));
    rows.add("bool", spec_of(Type::boolean, {-1, -1}));
    rows.add("pairs", spec_of(Type::float32, {-1, 2}));
    rows.add("30", spec_of(Type::float32, {30, -1}));
    rows.add("30 triples", spec_of(Type::int32, {30, 3}));
    rows.add("open", spec_of(Type::float32, {}));
    const auto body_of = [&](const std::string& name, std::size_t size, std::size_t fault_at,
                             const char* fault, const char* comma, const char* between) {
        std::string body = "{\"" + name + "\": [[" + (name == "float32" ? "[" : "");
        for (std::size_t i = 0; i < kRows * size; ++i) {
            body += i == 0 ? "" : i % size == 0 ? between : comma;
            body += i == fault_at && *fault != '\0' ? fault : name == "bool" || i % 3 == 0 ? "1" : "17";
        }
        return body + (name == "float32" ? "]" : "") + "]]}";
    };
    for (const Input& input : rows.inputs) {
        for (std::size_t size : {1u, 2u, 3u, 4u, 8u, 65u}) {
            for (const char* const fault : faults) {
                for (std::size_t at : {std::size_t{0}, size - 1, size, 5 * size - 1, 20 * size, 21 * size - 1,
                                       30 * size, (kRows - 1) * size, kRows * size - 1}) {
                    const std::string name(input.name, input.name_size);
                    const Reading plain(rows, body_of(name, size, at, fault, ",", "]\t,["));
                    for (const char* const comma : {",", ", "}) {
                        for (const char* const between : {"],[", "], [", "] ,["}) {
                            const std::string body = body_of(name, size, at, fault, comma, between);
                            for (const Instructions set : {best_instructions(), Instructions::baseline}) {
                                const Reading reading(rows, body + kSpaces, set);
                                const std::string what = "rows of " + std::to_string(size) + " " + name +
                                                         ", " + fault + " at " + std::to_string(at);
                                check(reading.is_equal(plain), what);
                                check(reading.has_same_error_elsewhere(plain), what);
                            }
                        }
                    }
                }
            }
        }
    }
    // Cut at each byte, and with each byte replaced: that byte is the error.
    for (const std::string name : {"int64", "open"}) {
        const std::string body = "{\"" + name + "\":[[1,2,3],[4,5,6], [7, 8, 9],[10,11,12],[13,14,15]]}";
        for (std::size_t at = body.find('['); at < body.size(); ++at) {
            const Reading cut(rows, body.substr(0, at));
            check(cut.reader().error() == ReadError::syntax && cut.reader().at() == at, "rows that end");
            std::string changed = body + kSpaces;
            changed[at] = '?';
            const Reading wrong(rows, changed);
            check(wrong.reader().error() == ReadError::syntax && wrong.reader().at() == at, "rows with ?");
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

// Tensors and strings in base64.
void test_base64() {
    // Source: RFC 4648, 10.
    check_strings(R"({"s":[{"b64":""},{"b64":"Zg=="},{"b64":"Zm8="},{"b64":"Zm9v"},{"b64":"Zm9vYg=="},)"
                  R"({"b64":"Zm9vYmE="},{ "b64" : "Zm9vYmFy" },"plain"]})",
                  {8}, {"", "f", "fo", "foo", "foob", "fooba", "foobar", "plain"});
    check_strings(R"({"s":{"b64":"\u002f\/+A"}})", {}, {"\xFF\xFF\x80"});
    check_strings(R"({"s":["\n",{"b64":"AP8="},"\t"]})", {3}, {"\n", std::string("\0\xFF", 2), "\t"});
    check_elements<float>(R"({"batch":{"b64":"AACAPwAAAMA=","shape":[2]}})", {1, 2}, {1, -2});
    check_elements<float>(R"({"batch":{"shape":[1,2],"b64":"AACAPwAA\u0041MA=","dtype":"float32"}})", {1, 2},
                          {1, -2});
    check_elements<float>(R"({"batch":{"shape" : [ 1 , 2 ] , "b64":"AfA=","dtype":"int8"}})", {1, 2},
                          {1, -16});
    check_elements<std::uint16_t>(R"({"half":{"b64":"AH4A/AA8","shape":[3]}})", {3},
                                  {0x7E00, 0xFC00, 0x3C00});
    check_elements<double>(R"({"x":{"b64":"AAAAAAAA8H8=","shape":[]}})", {}, {std::strtod("inf", nullptr)});
    check_elements<double>(R"({"x":{"b64":"","shape":[2,0,3]}})", {2, 0, 3}, {});
    check_elements<double>(R"({"x":{"b64":"","shape":[2,0,3],"dtype":"int8"}})", {2, 0, 3}, {});
    check_elements<std::uint8_t>(R"({"b":{"b64":"AAEB","shape":[3]}})", {3}, {0, 1, 1});
    check_elements<std::uint8_t>(R"({"b":{"b64":"AAEB","shape":[3],"dtype":"uint8"}})", {3}, {0, 1, 1});
    const struct {
        const char* body;
        const char* problem;
    } cases[] = {
        {R"({"x":{"b64":""}})", "{\"b64\"} needs \"shape\""},
        {R"({"x":[1,{"b64":"","dtype":"int8"}]})", "{\"b64\"} needs \"shape\""},
        {R"({"x":{"shape":[1]}})", "\"b64\" is missing"},
        {R"({"x":{"b64":"AA==","shape":[1]}})", "expected 8 bytes, got 1"},
        {R"({"x":{"b64":"","shape":[]}})", "expected 8 bytes, got 0"},
        {R"({"x":{"b64":"AA==","shape":[0]}})", "expected 0 bytes, got 1"},
        {R"({"x":{"b64":"","shape":[4294967296,0,4294967296]}})", "no tensor has so many elements"},
        {R"({"x":{"b64":"AAAAAAAA8H8","shape":[1]}})", "\"b64\" is not base64 with padding"},
        {R"({"i":{"b64":"AAAAAAAA8H-=","shape":[1]}})", "\"b64\" is not base64 with padding"},
        {R"({"s":{"b64":"Zh=="}})", "\"b64\" is not base64 with padding"},
        {R"({"s":{"b64":"Zm9="}})", "\"b64\" is not base64 with padding"},
        {R"({"s":{"b64":"Z==="}})", "\"b64\" is not base64 with padding"},
        {R"({"s":{"b64":"Zg==Zg=="}})", "\"b64\" is not base64 with padding"},
        {R"({"s":{"b64":"Zm 9"}})", "\"b64\" is not base64 with padding"},
        {R"({"s":{"b64":"====","dtype":"int8"}})", "a string has neither \"shape\" nor \"dtype\""},
        {R"({"s":["a",{"shape":[],"b64":""}]})", "a string has neither \"shape\" nor \"dtype\""},
        {R"({"b":{"b64":"AAI=","shape":[2]}})", "the bytes of bools are 0 or 1"},
        {R"({"x":{"b64":"AAI=","shape":[2],"dtype":"bool"}})", "the bytes of bools are 0 or 1"},
        {R"({"x":{"b64":1}})", "\"b64\" must be a string"},
        {R"({"x":{"shape":1}})", "\"shape\" must be a list of sizes"},
        {R"({"x":{"shape":[-1]}})", "\"shape\" must be a list of sizes"},
        {R"({"x":{"shape":[1.5]}})", "\"shape\" must be a list of sizes"},
        {R"({"x":{"shape":[1,"2"]}})", "\"shape\" must be a list of sizes"},
        {R"({"x":{"dtype":"float"}})", "\"dtype\" must be the name of a type, such as \"float32\""},
        {R"({"x":{"dtype":8}})", "\"dtype\" must be the name of a type, such as \"float32\""},
        {R"({"x":{"b64":"","shape":[],"order":1}})", "its keys are \"b64\", \"shape\" and \"dtype\""},
        {R"({"x":{"b64":"","b64":""}})", "a key stands there twice"},
    };
    for (const auto& one : cases) {
        for (const std::string& after : {""s, kSpaces}) {
            const Reading reading(signature(), one.body + after);
            check(reading.reader().error() == ReadError::base64, std::string("refused: ") + one.body);
            check(reading.reader().text() == one.problem,
                  std::string("the problem of ") + one.body + ": " + reading.reader().text());
        }
    }
    check_syntax_errors(
        kEnd, {R"({"x":{"b64"^)", R"({"x":{"b64":^)", R"({"x":{"b64":"^)", R"({"x":{"b64":""^)",
               R"({"x":{"shape":^)", R"({"x":{"shape":[^)", R"({"x":{"shape":[1^)", R"({"x":{"shape":[1,^)",
               R"({"x":{"dtype":^)", R"({"x":{"b64":"",^)"});
    check_syntax_errors("a trailing comma is not JSON; after a comma something follows",
                        {R"({"x":{"b64":"",^}})", R"({"x":{"shape":[1,^]}})"});
    check_syntax_errors("expected ',' or '}'", {R"({"x":{"b64":"" ^"shape":[]}})"});
}

void test_reader() {
    test_base64();
    test_errors();
    test_errors_of_values();
    test_values();
    test_strings();
    test_utf8();
    test_claims();
    test_rows();
    test_truncations();
    test_no_memory();
}

}  // namespace gpux::tests
