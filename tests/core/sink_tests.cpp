// The sink, by the events of valid and invalid values; and strided arrays fed to it, against the same
// elements as lists.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "checks.hpp"
#include "reading.hpp"
#include "sink.hpp"
#include "strided.hpp"

namespace gpux::tests {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A sink, and the block that it fills, of exactly the requested size.
class Filling {
public:
    explicit Filling(const Spec& spec, std::size_t max_bytes = std::size_t{1} << 30)
        : spec_(spec), max_bytes_(max_bytes), sink_(spec_, Memory{nullptr, 0, this, grow}) {}
    Filling(const Spec& spec, const std::string& events) : Filling(spec) { feed(events); }
    Filling(const Filling&) = delete;

    Sink& sink() { return sink_; }
    const Sink& sink() const { return sink_; }

    // Feeds events, a character each: `[` and `]`, a digit for a number, t and f for booleans, s for a
    // string of one character, S for one of nine, n for null, o for an object, h for an integer beyond
    // all types. Elements are counted where the sink only counts. Returns whether all were accepted, finish()
    // included.
    bool feed(const std::string& events) {
        for (const char event : events) {
            const bool is_list = event == '[' || event == ']';
            if (!feed_one(event) &&
                !(sink_.is_counting() && !is_list && sink_.count(sink_.depth(), 0, nullptr))) {
                return false;
            }
        }
        return sink_.finish();
    }

    Sizes path() const { return path_of(sink_); }
    Sizes shape() const { return Sizes(sink_.shape(), sink_.shape() + sink_.axes()); }
    Sizes got() const { return Sizes(sink_.got_sizes(), sink_.got_sizes() + sink_.got_axes()); }

    template <class Element>
    std::vector<Element> elements() const {
        std::vector<Element> elements(sink_.elements());
        if (!elements.empty()) {
            std::memcpy(elements.data(), block_.bytes.get(), elements.size() * sizeof(Element));
        }
        return elements;
    }

private:
    bool feed_one(char event) {
        const std::uint8_t truth = event == 't';
        const double number = event - '0';
        switch (event) {
            case '[': return sink_.open();
            case ']': return sink_.close();
            case 't':
            case 'f': return sink_.booleans(&truth, 1);
            case 's': return sink_.expect_string() && sink_.string(1);
            case 'S': return sink_.expect_string() && sink_.string(9);
            case 'n': return sink_.other(JsonKind::null);
            case 'o': return sink_.other(JsonKind::object);
            case 'h': return sink_.huge_integer();
            default: return sink_.doubles(&number, 1);
        }
    }

    static bool grow(void* owner, Memory* memory, std::size_t needed) {
        Filling& filling = *static_cast<Filling*>(owner);
        if (needed > filling.max_bytes_) {
            return false;
        }
        filling.block_.grow(memory, needed);
        return true;
    }

    const Spec spec_;
    std::size_t max_bytes_;
    Block block_;
    Sink sink_;
};

// Accepted values, their shape, and whether axes were added.

struct AcceptedCase {
    Spec spec;
    std::string events;
    Sizes shape;
    bool as_items;
    bool as_one_item;
};

void test_accepted() {
    constexpr Type kFloat = Type::float32;
    const Spec open = spec_of(kFloat, {});
    const Spec batch = spec_of(kFloat, {-1, -1});
    const Spec column = spec_of(kFloat, {-1, 1});
    const Spec row = spec_of(kFloat, {-1});
    const Spec image = spec_of(kFloat, {1, 2, 3});
    const Spec fixed = spec_of(kFloat, {2, 3});
    const Spec past = spec_of(kFloat, {-1, 2, -1, 4});
    for (const AcceptedCase& one : std::vector<AcceptedCase>{
             {open, "1", {}, false, false},
             {open, "[]", {0}, false, false},
             {open, "[[][]]", {2, 0}, false, false},
             {open, "[[[1][2]]]", {1, 2, 1}, false, false},
             {open, std::string(32, '[') + "1" + std::string(32, ']'), Sizes(32, 1), false, false},
             {batch, "[[123][456]]", {2, 3}, false, false},
             {batch, "[123]", {1, 3}, true, true},
             {batch, "[]", {1, 0}, true, true},
             {batch, "[[]]", {1, 0}, false, false},
             {past, "[[[][]]]", {1, 2, 0, 4}, false, false},
             {past, "[[][]]", {1, 2, 0, 4}, true, true},
             {spec_of(kFloat, {-1, -1, 3}), "[[][]]", {2, 0, 3}, false, false},
             {spec_of(kFloat, {-1, -1, 3}), "[]", {1, 0, 3}, true, true},
             {spec_of(kFloat, {1, -1, 3}), "[]", {1, 0, 3}, true, true},
             {spec_of(kFloat, {3, -1, 2}), "[[][][]]", {3, 0, 2}, false, false},
             {column, "1", {1, 1}, true, true},
             {column, "[123]", {3, 1}, true, false},
             {column, "[[1][2]]", {2, 1}, false, false},
             {row, "1", {1}, true, true},
             {row, "[12]", {2}, false, false},
             {image, "[[[123][456]]]", {1, 2, 3}, false, false},
             {image, "[[123][456]]", {1, 2, 3}, true, true},
             {fixed, "[[123][456]]", {2, 3}, false, false},
             {spec_of(Type::boolean, {-1}), "[tf10t]", {5}, false, false},
             {spec_of(Type::string, {-1}), "[sSs]", {3}, false, false},
             {spec_of(Type::string, {-1}), "s", {1}, true, true},
         }) {
        Filling filling(one.spec);
        check(filling.feed(one.events), "taken: " + one.events);
        check(filling.sink().error() == Error::none, "no error: " + one.events);
        check(filling.shape() == one.shape, "the shape of " + one.events);
        check(filling.sink().as_items() == one.as_items, "as items: " + one.events);
        check(filling.sink().as_one_item() == one.as_one_item, "as one item: " + one.events);
        const auto elements = std::accumulate(one.shape.begin(), one.shape.end(), std::size_t{1},
                                              std::multiplies<>());
        check(filling.sink().elements() == elements, "the elements of " + one.events);
        if (one.spec.type == kFloat) {
            std::vector<float> wanted;
            for (const char event : one.events) {
                if (event >= '0' && event <= '9') {
                    wanted.push_back(static_cast<float>(event - '0'));
                }
            }
            check(filling.elements<float>() == wanted, "the numbers of " + one.events);
        }
    }
}

// Rejected values: the error and its path.

struct RejectedCase {
    Spec spec;
    std::string events;
    Sizes path = {};
};

void check_rejected(Error error, std::initializer_list<RejectedCase> cases) {
    for (const RejectedCase& one : cases) {
        Filling filling(one.spec);
        check(!filling.feed(one.events), "rejected: " + one.events);
        check(filling.sink().error() == error, "the error of " + one.events);
        check(error == Error::outgrown || filling.path() == one.path, "the path of " + one.events);
    }
}

void test_rejected() {
    constexpr Type kFloat = Type::float32;
    const Spec open = spec_of(kFloat, {});
    const Spec batch = spec_of(kFloat, {-1, -1});
    const Spec column = spec_of(kFloat, {-1, 1});
    const Spec image = spec_of(kFloat, {1, 2, 3});
    const Spec fixed = spec_of(kFloat, {2, 3});
    const Spec words = spec_of(Type::string, {-1});
    Spec short_words = words;
    short_words.max_characters = 8;
    // clang-format off
    check_rejected(Error::wrong_type_at_top, {
        {open, "n"}, {open, "s"}, {open, "t"}, {open, "o"}, {batch, "1"}, {batch, "h"}, {words, "1"},
        {words, "h"},
    });
    check_rejected(Error::wrong_type, {
        {open, "[1n", {1}}, {open, "[1[", {1}}, {open, "[[1]2", {1}}, {open, "[[1][[", {1, 0}},
        {open, "[[][[", {1, 0}}, {batch, "[[1][2s", {1, 1}}, {batch, "[12[", {2}}, {words, "[s1", {1}},
        {words, "[sh", {1}}, {spec_of(Type::boolean, {-1}), "[ts", {1}}, {fixed, "[[12n", {0, 2}},
        {batch, "[[1][[", {1, 0}},
    });
    check_rejected(Error::out_of_range, {
        {open, "[12h", {2}}, {open, "h"}, {spec_of(Type::boolean, {-1}), "[t12", {2}},
    });
    check_rejected(Error::too_long, {
        {short_words, "[sS", {1}}, {short_words, "S"},
    });
    check_rejected(Error::ragged, {
        {open, "[[12][3]", {1}}, {open, "[[12][345]", {1}}, {open, "[[[1][2]][[3]]", {1}},
        {open, "[[][1]", {1}},
    });
    // Fixed sizes: a list outgrows them and the value turns out irregular, or has another shape.
    check_rejected(Error::outgrown, {
        {fixed, "[[1234["}, {fixed, "[[1234]n"}, {fixed, "[[123h][123]"}, {fixed, "[[123][123]1"},
        {fixed, "[[123][123][12]"}, {fixed, "[[123][123][]"}, {image, "[[123][123][[["},
        {image, "[[[123][123]][[123]]"}, {column, "[[12][1]"},
    });
    check_rejected(Error::wrong_shape, {
        {fixed, "[[123]]"}, {fixed, "[[12][12]]"}, {fixed, "[]"}, {fixed, "[[][]]"}, {image, "[123]"},
        {column, "[[][]]"}, {spec_of(kFloat, {-1, 2, -1}), "[]"}, {fixed, "[[1234][1234]]"},
        {fixed, "[[123][123][ntS]]"}, {spec_of(Type::string, {1}), "[s1S]"}, {fixed, "[[][][][]]"},
    });
    check_rejected(Error::too_deep, {
        {fixed, "[[[", {0, 0}}, {open, std::string(33, '['), Sizes(32, 0)},
    });
    check_rejected(Error::empty_batch, {
        {column, "[]"}, {spec_of(kFloat, {-1}), "[]"}, {spec_of(kFloat, {-1, 2}), "[]"},
    });
    // clang-format on
    // The details for messages.
    const Filling ragged(open, "[[12][345]");
    check(ragged.sink().expected_values() == 2 && ragged.sink().got_values() == 3, "2 and 3 values");
    const Filling too_long(short_words, "S");
    check(too_long.sink().expected_values() == 8 && too_long.sink().got_values() == 9, "8 and 9 characters");
    check(Filling(fixed, "[[12][12]]").got() == Sizes{2, 2}, "the axes as they came");
    check(Filling(fixed, "[[123][123][h1n]]").got() == Sizes{3, 3}, "the axes, those too long included");
    check(Filling(fixed, "[[123n][123t]]").got() == Sizes{2, 4}, "the axes, those too long included");
    check(Filling(spec_of(Type::string, {2}), "[ss5SS]").got() == Sizes{5}, "strings are counted");
    check(Filling(fixed, "[[12][12][12]]").sink().is_reordered(), "3 and 2 for 2 and 3");
    check(!Filling(fixed, "[[12][12]]").sink().is_reordered(), "2 and 2 for 2 and 3");
    check(Filling(image, "[[12][12][12]]").sink().is_reordered(), "an item");
    check(Filling(image, "[[[123]][[123]]]").sink().is_reordered(), "a leading 1 is a size, too");
    check(!Filling(spec_of(kFloat, {-1, 1}), "[[12]]").sink().is_reordered(), "rows stay rows");
    struct Expectation {
        Spec spec;
        const char* events;
        JsonKind got;
        bool expected_array;
    };
    for (const Expectation& one : std::vector<Expectation>{
             {open, "n", JsonKind::null, false},
             {batch, "1", JsonKind::number, true},
             {batch, "o", JsonKind::object, true},
             {batch, "[n", JsonKind::null, false},
             {fixed, "[n", JsonKind::null, true},
             {open, "[[1]2", JsonKind::number, true},
             {open, "[1[", JsonKind::array, false},
             {words, "[1", JsonKind::number, false},
         }) {
        const Filling filling(one.spec, one.events);
        check(filling.sink().got() == one.got, std::string("got: ") + one.events);
        check(filling.sink().expected_array() == one.expected_array,
              std::string("whether a list is expected: ") + one.events);
    }
}

// Numbers of each kind in each type.

template <class Element, class Native>
void check_number(Type type, bool (Sink::*event)(const Native*, std::size_t) noexcept, Native number,
                  const char* what) {
    Filling filling(spec_of(type, {}));
    const std::string text = std::to_string(number) + " from " + what + " as type " +
                             std::to_string(static_cast<int>(type));
    const Native run[3] = {0, 1, number};
    filling.sink().open();
    const bool taken = (filling.sink().*event)(run, 3);
    // Exact: long double holds every value of both.
    const long double wide = static_cast<long double>(number);
    bool fits = true;
    bool is_integer = true;
    if constexpr (std::is_integral_v<Element>) {
        is_integer = std::floor(wide) == wide;
        fits = is_integer && wide >= static_cast<long double>(std::numeric_limits<Element>::min()) &&
               wide <= static_cast<long double>(std::numeric_limits<Element>::max());
    } else {
        fits = std::isfinite(static_cast<Element>(number)) || !std::isfinite(wide);
    }
    check(taken == fits, text);
    if (taken != fits) {
        return;
    }
    const std::vector<Element> elements = filling.elements<Element>();
    if (taken) {
        const bool is_same = elements.size() == 3 && elements[2] == static_cast<Element>(number);
        check(is_same || (elements.size() == 3 && std::isnan(wide) && elements[2] != elements[2]), text);
        return;
    }
    const Error error = !std::isfinite(wide) ? Error::not_finite
                        : is_integer         ? Error::out_of_range
                                             : Error::not_an_integer;
    check(filling.sink().error() == error, "the error of " + text);
    check(filling.path() == Sizes{2} && elements.size() == 2, "the path of " + text);
    const Number rejected = filling.sink().number();
    const bool is_same = rejected.kind == Number::float64 ? std::isnan(wide) ? std::isnan(rejected.as_float64)
                                                                             : rejected.as_float64 == wide
                         : rejected.kind == Number::int64
                             ? static_cast<long double>(rejected.as_int64) == wide
                             : static_cast<long double>(rejected.as_uint64) == wide;
    check(is_same, "the number of " + text);
}

template <class Element>
void test_numbers_as(Type type) {
    std::vector<double> reals{0.0,    -0.0,      0.5,        -0.5,         1.5,    1e300, -1e300,
                              5e-324, kInfinity, -kInfinity, std::nan(""), 3.5e38, 1e39};
    for (int bits = 0; bits <= 65; ++bits) {
        for (const double step : {-1.0, -0.5, 0.0, 0.5, 1.0}) {
            reals.push_back(std::ldexp(1.0, bits) + step);
            reals.push_back(-std::ldexp(1.0, bits) + step);
        }
        reals.push_back(std::nextafter(std::ldexp(1.0, bits), 0.0));
        reals.push_back(std::nextafter(-std::ldexp(1.0, bits), -kInfinity));
    }
    for (const double real : reals) {
        check_number<Element>(type, &Sink::doubles, real, "a real");
    }
    for (int bits = 0; bits < 64; ++bits) {
        for (std::uint64_t near = 0; near < 5; ++near) {
            const std::uint64_t natural = (std::uint64_t{1} << bits) - 2 + near;
            check_number<Element>(type, &Sink::uint64s, natural, "a natural");
            const auto integer = static_cast<std::int64_t>(natural);
            check_number<Element>(type, &Sink::int64s, integer, "an integer");
            if (integer != std::numeric_limits<std::int64_t>::min()) {
                check_number<Element>(type, &Sink::int64s, -integer, "an integer");
            }
        }
    }
}

void test_numbers_of_all_kinds() {
    for_each_integer_type([](Type type, auto element) { test_numbers_as<decltype(element)>(type); });
    test_numbers_as<float>(Type::float32);
    test_numbers_as<double>(Type::float64);
    // A few values for the types that C++ lacks.
    for (const Type type : {Type::float16, Type::bfloat16, Type::boolean}) {
        Filling filling(spec_of(type, {}));
        const double reals[] = {1.0, 0.0, type == Type::boolean ? 0.5 : 1e40};
        filling.sink().open();
        check(!filling.sink().doubles(reals, 3), "rejected");
        check(filling.sink().error() == Error::out_of_range, "out of range");
        check(filling.path() == Sizes{2}, "the third");
    }
}

// claim() and commit().
void test_claims() {
    {
        Filling filling(spec_of(Type::int16, {2, 5}));
        Sink& sink = filling.sink();
        sink.open();
        sink.open();
        std::size_t room = 3;
        auto* out = reinterpret_cast<std::int16_t*>(sink.claim(&room));
        check(out != nullptr && room == 3, "as many as asked for");
        std::fill_n(out, 3, static_cast<std::int16_t>(7));
        sink.commit(2);  // fewer than claimed
        room = 100;
        out = reinterpret_cast<std::int16_t*>(sink.claim(&room));
        check(out != nullptr && room == 3, "as many as the fixed size leaves");
        std::fill_n(out, 3, static_cast<std::int16_t>(8));
        sink.commit(3);
        check(filling.elements<std::int16_t>() == std::vector<std::int16_t>{7, 7, 8, 8, 8}, "claimed");
        room = 1;
        check(sink.claim(&room) == nullptr && sink.is_counting(), "none is left");
        check(sink.error() == Error::outgrown && filling.path() == Sizes{0, 5}, "outgrown");
        check(sink.count(2, 0, nullptr) && sink.close(), "the sixth is counted");
        const std::ptrdiff_t six[] = {6};
        check(sink.count(1, 1, six) && sink.close() && !sink.finish(), "an array is counted as a whole");
        check(sink.error() == Error::wrong_shape && filling.got() == Sizes{2, 6}, "its whole shape");
    }
    {
        Filling filling(spec_of(Type::int16, {1}));
        Sink& sink = filling.sink();
        const std::int64_t numbers[] = {1, 2, 3};
        check(sink.open() && !sink.int64s(numbers, 3) && sink.is_counting(), "one of three has room");
        check(filling.path() == Sizes{1} && filling.elements<std::int16_t>().size() == 1, "it is stored");
        const std::ptrdiff_t two[] = {2};
        check(!sink.count(1, 1, two) && !sink.is_counting(), "an array among elements");
        check(sink.error() == Error::outgrown, "the first error stands");
    }
    {
        Spec spec = spec_of(Type::float32, {-1});
        spec.null_is_nan = true;
        Filling filling(spec);
        check(filling.feed("[1n2]"), "null stands for NaN");
        const std::vector<float> elements = filling.elements<float>();
        check(elements.size() == 3 && std::isnan(elements[1]) && elements[2] == 2, "NaN");
        check(Filling(spec, "n").shape() == Sizes{1}, "an item");
        Spec row = spec_of(Type::float32, {-1, -1});
        row.null_is_nan = true;
        const Filling whole(row, "n");
        check(whole.sink().error() == Error::wrong_type_at_top && whole.sink().expected_array(), "no item");
        check(Filling(row, "[[1][n").sink().error() == Error::none, "in a list");
    }
    {
        Filling filling(spec_of(Type::int16, {}));
        std::size_t room = 1;
        filling.sink().open();
        check(filling.sink().claim(&room) != nullptr, "claimed");
        check(!filling.sink().reject_number(true), "rejected");
        check(filling.sink().error() == Error::out_of_range, "out of range");
        check(filling.path() == Sizes{0}, "the first");
    }
    {
        Filling filling(spec_of(Type::int16, {}));
        check(!filling.sink().reject_number(false), "rejected");
        check(filling.sink().error() == Error::not_an_integer, "not an integer");
    }
    {
        Filling filling(spec_of(Type::string, {}));
        std::size_t room = 1;
        check(filling.sink().claim(&room) == nullptr, "strings are not claimed");
        check(filling.sink().error() == Error::wrong_type_at_top, "a number for a string");
    }
    // Too many elements: their bytes overflow size_t, or memory ends.
    for (const std::size_t count :
         {std::numeric_limits<std::size_t>::max(), std::numeric_limits<std::size_t>::max() / 8 + 1,
          std::numeric_limits<std::size_t>::max() / 8, std::size_t{1} << 40}) {
        Filling filling(spec_of(Type::float64, {}));
        std::size_t room = 1;
        filling.sink().open();
        filling.sink().claim(&room);
        filling.sink().commit(1);
        room = count;
        check(filling.sink().claim(&room) == nullptr, "no memory");
        check(filling.sink().error() == Error::out_of_memory, "out of memory");
    }
    {
        Filling filling(spec_of(Type::float64, {}), 40);
        check(!filling.feed("[123456"), "no memory for six");
        check(filling.sink().error() == Error::out_of_memory, "out of memory");
        check(filling.path() == Sizes{5}, "the sixth");
        check(filling.elements<double>() == std::vector<double>{1, 2, 3, 4, 5}, "what was there is");
    }
}

void test_axes_below() {
    const std::ptrdiff_t sizes[] = {0, 4};
    {
        Filling filling(spec_of(Type::float32, {}));
        Sink& sink = filling.sink();
        check(sink.open() && sink.axes_below(2, sizes), "axes that no list shows");
        check(sink.open() && sink.close() && sink.close() && sink.finish(), "a list without elements");
        check(filling.shape() == Sizes{1, 0, 4}, "its shape");
    }
    {
        Filling filling(spec_of(Type::float32, {-1, -1}));
        check(filling.sink().open() && !filling.sink().axes_below(2, sizes), "too many axes");
        check(filling.sink().error() == Error::too_deep, "too deep");
    }
}

// Arrays.

// One array, in memory of exactly the extent of its elements.
template <class Element>
void check_array(Type type, const std::vector<std::ptrdiff_t>& sizes,
                 const std::vector<std::ptrdiff_t>& strides) {
    const std::string what = "an array of type " + std::to_string(static_cast<int>(type)) + " with " +
                             std::to_string(sizes.size()) + " axes";
    // The extent from the lowest to the highest byte.
    std::ptrdiff_t low = 0;
    std::ptrdiff_t high = sizeof(Element);
    std::size_t count = 1;
    for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
        const std::ptrdiff_t reach = (sizes[axis] - 1) * strides[axis];
        (reach < 0 ? low : high) += reach;
        count *= static_cast<std::size_t>(sizes[axis]);
    }
    if (count == 0) {
        low = high = 0;
    }
    const std::size_t bytes = static_cast<std::size_t>(high - low);
    const std::unique_ptr<unsigned char[]> memory(new unsigned char[bytes]);
    for (std::size_t i = 0; i < bytes; ++i) {
        // Arbitrary integers, booleans, and floats that are finite in each type.
        memory[i] = static_cast<unsigned char>(type == Type::boolean ? i % 3 == 0
                                               : is_float(type)      ? i * 37 % 64
                                                                     : i * 37);
    }
    const unsigned char* const start = memory.get() - low;
    // The elements in C order.
    std::vector<unsigned char> wanted;
    std::vector<std::ptrdiff_t> index(sizes.size(), 0);
    for (std::size_t i = 0; i < count; ++i) {
        std::ptrdiff_t offset = 0;
        for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
            offset += index[axis] * strides[axis];
        }
        wanted.insert(wanted.end(), start + offset, start + offset + sizeof(Element));
        for (std::size_t axis = sizes.size(); axis-- > 0;) {
            if (++index[axis] < sizes[axis]) {
                break;
            }
            index[axis] = 0;
        }
    }
    Filling filling(spec_of(type, {}));
    const bool taken = feed(filling.sink(), start, type, static_cast<int>(sizes.size()), sizes.data(),
                            strides.data());
    check(taken && filling.sink().finish(), what);
    check(bytes_of(filling.elements<Element>()) == bytes_of(wanted), "the elements of " + what);
    Sizes shape(sizes.begin(), sizes.end());
    const auto empty = std::find(shape.begin(), shape.end(), 0);
    if (empty != shape.end()) {
        shape.erase(empty + 1, shape.end());  // an empty list has no axes below it
    }
    check(filling.shape() == shape, "the shape of " + what);
}

template <class Element>
void test_arrays_of(Type type) {
    constexpr std::ptrdiff_t kWidth = sizeof(Element);
    check_array<Element>(type, {}, {});
    check_array<Element>(type, {1}, {kWidth});
    check_array<Element>(type, {0}, {kWidth});
    check_array<Element>(type, {3, 0, 2}, {kWidth, kWidth, kWidth});
    // A run is 256 elements.
    for (const std::ptrdiff_t size : {255, 256, 257, 1000}) {
        for (const std::ptrdiff_t stride :
             {kWidth, -kWidth, 3 * kWidth, -2 * kWidth, std::ptrdiff_t{0}, kWidth + 1, -kWidth - 3}) {
            check_array<Element>(type, {size}, {stride});
        }
    }
    // Every order and sign of three axes, dense and with gaps that are not multiples of an element.
    for (const std::ptrdiff_t gap : {0, 1, 5}) {
        for (int signs = 0; signs < 8; ++signs) {
            for (int order = 0; order < 3; ++order) {
                const std::vector<std::ptrdiff_t> sizes{4, 3, 5};
                std::vector<std::ptrdiff_t> strides(3);
                std::ptrdiff_t stride = kWidth;
                for (int i = 0; i < 3; ++i) {
                    const std::size_t axis = static_cast<std::size_t>((i + order) % 3);
                    strides[axis] = signs >> axis & 1 ? -stride : stride;
                    stride = stride * sizes[axis] + gap;
                }
                check_array<Element>(type, sizes, strides);
            }
        }
    }
    check_array<Element>(type, std::vector<std::ptrdiff_t>(32, 1), std::vector<std::ptrdiff_t>(32, -7));
}

// Feeds a one-dimensional array.
template <class Element>
bool feed_row(Filling& filling, Type type, const Element* start, std::size_t count,
              std::ptrdiff_t stride = sizeof(Element)) {
    const auto size = static_cast<std::ptrdiff_t>(count);
    return feed(filling.sink(), reinterpret_cast<const unsigned char*>(start), type, 1, &size, &stride);
}

// A row of the input's own type is copied, whatever its floats are; with gaps as well.
template <class Element>
void test_not_finite(Type type, Element one, const std::vector<Element>& others) {
    for (const Element other : others) {
        for (const std::size_t index : {0, 1, 15, 16, 17, 299, 599}) {
            std::vector<Element> row(600, one);
            row[index] = other;
            for (const std::size_t step : {1, 2}) {
                Filling filling(spec_of(type, {}));
                const auto stride = static_cast<std::ptrdiff_t>(step * sizeof(Element));
                check(feed_row(filling, type, row.data(), row.size() / step, stride), "taken");
                const std::vector<Element> found = filling.elements<Element>();
                check(std::memcmp(&found[index / step], &row[index / step * step], sizeof(Element)) == 0,
                      "what is not finite");
            }
        }
    }
}

template <class Element, std::size_t kCount>
void check_rejected_array(const Spec& spec, Type type, const Element (&elements)[kCount], Error error,
                          const Sizes& path, bool backwards = false) {
    Filling filling(spec);
    const std::ptrdiff_t width = sizeof(Element);
    const bool taken = backwards ? feed_row(filling, type, elements + kCount - 1, kCount, -width)
                                 : feed_row(filling, type, elements, kCount);
    check(!taken && filling.sink().error() == error, "an array that is rejected");
    check(filling.path() == path, "the path of what is rejected in an array");
}

}  // namespace

void test_sink() {
    test_accepted();
    test_rejected();
    test_numbers_of_all_kinds();
    test_claims();
    test_axes_below();
}

void test_strided() {
    const auto test = [](Type type, auto element) { test_arrays_of<decltype(element)>(type); };
    for_each_float_type(test);
    for_each_integer_type(test);
    test_arrays_of<Boolean>(Type::boolean);

    // Other types than the input's, and values that it cannot hold.
    double reals[600] = {};
    reals[300] = 0.5;
    check_rejected_array(spec_of(Type::int8, {}), Type::float64, reals, Error::not_an_integer, {300});
    check_rejected_array(spec_of(Type::int8, {}), Type::float64, reals, Error::not_an_integer, {299}, true);
    reals[300] = kInfinity;
    check_rejected_array(spec_of(Type::int8, {}), Type::float64, reals, Error::not_finite, {300});
    {
        Filling other(spec_of(Type::float32, {}));
        check(feed_row(other, Type::float64, reals, 600), "infinity in another type");
        check(std::isinf(other.elements<float>()[300]), "infinity");
    }
    const std::int64_t integers[] = {0, 255, 256, -1};
    check_rejected_array(spec_of(Type::uint8, {}), Type::int64, integers, Error::out_of_range, {2});
    check_rejected_array(spec_of(Type::uint8, {}), Type::int64, integers, Error::out_of_range, {0}, true);
    check_rejected_array(spec_of(Type::uint8, {3}), Type::int64, integers, Error::out_of_range, {2});
    check_rejected_array(spec_of(Type::int64, {3}), Type::int64, integers, Error::outgrown, {3});
    check_rejected_array(spec_of(Type::string, {}), Type::int64, integers, Error::wrong_type, {0});
    check_rejected_array(spec_of(Type::float32, {3}), Type::int64, integers, Error::outgrown, {3});
    constexpr float kInfinite = std::numeric_limits<float>::infinity();
    constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
    test_not_finite<float>(Type::float32, std::numeric_limits<float>::max(), {kInfinite, -kInfinite, kNone});
    test_not_finite<double>(Type::float64, -std::numeric_limits<double>::max(),
                            {kInfinity, -kInfinity, std::nan("")});
    test_not_finite<Half>(Type::float16, {0xFBFF}, {{0x7C00}, {0xFC00}, {0x7E00}});
    test_not_finite<BFloat>(Type::bfloat16, {0xFF7F}, {{0x7F80}, {0xFF80}, {0xFFC0}});
    {
        // Nonzero is true.
        Filling filling(spec_of(Type::boolean, {}));
        const unsigned char truths[] = {1, 0, 7, 128, 0};
        check(feed_row(filling, Type::boolean, truths, 5), "booleans");
        check(filling.elements<std::uint8_t>() == std::vector<std::uint8_t>{1, 0, 1, 1, 0}, "0 or 1");
    }
    const Boolean booleans[] = {{1}, {0}};
    check_rejected_array(spec_of(Type::boolean, {1}), Type::boolean, booleans, Error::outgrown, {1});
    check_rejected_array(spec_of(Type::int8, {}), Type::boolean, booleans, Error::wrong_type, {0});
    // Integers fit a float type.
    Filling filling(spec_of(Type::float32, {}));
    const std::uint16_t naturals[] = {0, 1, 65535};
    check(feed_row(filling, Type::uint16, naturals + 2, 3, -2), "integers for floats");
    check(filling.elements<float>() == std::vector<float>{65535, 1, 0}, "backwards");
}

}  // namespace gpux::tests
