// Pools, and what happens to requests and outputs in their blocks: agreement, gathering, parts, strings.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "checks.hpp"
#include "outputs.hpp"
#include "pool.hpp"
#include "request.hpp"

namespace gpux::tests {
namespace {

using Shape = std::vector<std::int64_t>;

// An allocator of exactly the requested sizes, so that AddressSanitizer detects every overrun.
struct Store {
    std::size_t room;
    std::size_t held = 0;
    unsigned allocations = 0;

    static bool allocate(void* owner, std::size_t nbytes, RawBlock* block) {
        Store& store = *static_cast<Store*>(owner);
        ++store.allocations;
        if (store.held + nbytes > store.room) {
            return false;
        }
        store.held += nbytes;
        *block = {new unsigned char[nbytes], nbytes, &store};
        return true;
    }
    static void release(void* owner, const RawBlock& block) {
        static_cast<Store*>(owner)->held -= block.nbytes;
        delete[] block.data;
    }
    Allocator allocator() { return {this, allocate, release}; }
};

void test_blocks() {
    for (std::size_t nbytes = 0; nbytes < 70'000; nbytes += 37) {
        const std::size_t size = block_size(nbytes);
        check(size >= nbytes && size <= std::max<std::size_t>(4096, nbytes + nbytes / 4), "hardly larger");
        check(block_size(size) == size, "a size of a block is one");
    }
    check(block_size(SIZE_MAX) == 0 && block_size(SIZE_MAX / 2) == 0, "no block is that large");

    Store store{20'000};
    {
        const auto pool = std::make_shared<Pool>(store.allocator(), 12'288);
        {
            const Block a = pool->take(1);
            Block b = pool->take(4096);
            check(a && b && a.data() != b.data() && a.handle() == &store, "two blocks");
            check(!pool->take(16'384), "there is no room");
            check(store.allocations == 4, "tried again after idle blocks were freed");
            Block c = std::move(b);
            check(!b && c, "a block is moved");  // NOLINT(bugprone-use-after-move)
            check(pool->usage().used_bytes == 8192 && pool->usage().idle_bytes == 0, "both are held");
        }
        check(pool->usage().used_bytes == 0 && pool->usage().idle_bytes == 8192, "both are idle");
        check(pool->take(16'384).nbytes() == 16'384, "idle blocks make room");
        check(pool->usage().idle_bytes == 0 && store.held == 0, "a block over the limit is released");
        check(!pool->take(SIZE_MAX), "none is that large");
    }
    const Block survivor = std::make_shared<Pool>(store.allocator(), 1 << 20)->take(100);
    check(store.held == 4096 && survivor, "a block keeps its pool");
}

void test_pool_threads() {
    const auto pool = std::make_shared<Pool>(host_allocator(), 10 * 4096);
    std::vector<std::thread> threads;
    std::vector<int> wrong(8);
    for (int thread = 0; thread < 8; ++thread) {
        threads.emplace_back([&pool, &wrong, thread] {
            for (int turn = 0; turn < 1000; ++turn) {
                std::vector<Block> blocks;
                for (const std::size_t size : {100, 4096, 5000}) {
                    blocks.push_back(pool->take(size));
                    std::memset(blocks.back().data(), thread, 100);
                }
                for (const Block& block : blocks) {
                    wrong[static_cast<std::size_t>(thread)] += block.data()[99] != thread;
                }
            }
        });
    }
    for (std::thread& thread : threads) {
        thread.join();
    }
    check(wrong == std::vector<int>(8), "no two threads have the same block");
    check(pool->usage().used_bytes == 0, "all blocks are back");
}

InputTensor tensor_of(const Shape& shape, bool as_items = false, bool as_one_item = false) {
    InputTensor tensor;
    tensor.given = true;
    tensor.as_items = as_items;
    tensor.as_one_item = as_one_item;
    tensor.axes = static_cast<int>(shape.size());
    std::copy(shape.begin(), shape.end(), tensor.shape);
    return tensor;
}

InputRule rule_of(bool is_batched, bool has_batch_name, std::vector<std::pair<int, int>> axes,
                  Type type = Type::int16) {
    return {type, is_batched, has_batch_name, false, true, std::move(axes)};
}

void test_agreement() {
    const std::vector<InputRule> rules = {rule_of(true, true, {{0, 0}, {1, 1}}),
                                          rule_of(true, true, {{0, 0}, {1, 1}}), rule_of(true, false, {}),
                                          rule_of(true, false, {})};
    const auto differ = [&](InputTensor a, InputTensor b, InputTensor c, InputTensor d) {
        Request request(4);
        request.inputs[0] = std::move(a);
        request.inputs[1] = std::move(b);
        request.inputs[2] = std::move(c);
        request.inputs[3] = std::move(d);
        Disagreement found{-2, 0, 0, 0, 0};
        return agree(request, rules, &found) ? Disagreement{-2, 0, 0, 0, 0} : found;
    };
    const auto is = [](const Disagreement& found, const Disagreement& wanted) {
        return found.name == wanted.name && found.first == wanted.first && found.second == wanted.second &&
               found.first_size == wanted.first_size && found.second_size == wanted.second_size;
    };
    const Disagreement none{-2, 0, 0, 0, 0};
    check(is(differ(tensor_of({2, 5}), tensor_of({2, 5}), tensor_of({7}), tensor_of({8})), none),
          "all agree");
    check(is(differ(tensor_of({2, 5}), {}, {}, {}), none), "one alone agrees");
    check(is(differ(tensor_of({2, 5}), tensor_of({3, 5}), {}, {}), {0, 0, 2, 1, 3}), "the batch");
    check(is(differ(tensor_of({2, 5}), tensor_of({2, 4}), {}, {}), {1, 0, 5, 1, 4}), "another axis");
    check(is(differ({}, {}, tensor_of({7}), tensor_of({8}, true)), {-1, 2, 7, 3, 8}), "items");
    check(is(differ({}, {}, tensor_of({8}, true), tensor_of({8})), none), "as many items");

    Request request(4);
    check(!is_unbatched(request, rules) && first_missing(request, rules) == 0, "nothing is given");
    request.inputs[0] = tensor_of({1, 5}, true, true);
    check(is_unbatched(request, rules) && first_missing(request, rules) == 1, "one item");
    request.inputs[1] = tensor_of({1, 5});
    check(!is_unbatched(request, rules), "not each is an item");
    request.inputs[2] = tensor_of({6});
    request.inputs[3] = tensor_of({});
    check(first_missing(request, rules) == 4, "all are given");
    check(request.rows(rules) == 6, "rows");
}

// All indexes of a shape, in C order.
std::vector<Shape> indexes_of(const Shape& shape) {
    std::vector<Shape> indexes = {{}};
    for (const std::int64_t size : shape) {
        std::vector<Shape> longer;
        for (const Shape& index : indexes) {
            for (std::int64_t i = 0; i < size; ++i) {
                longer.push_back(index);
                longer.back().push_back(i);
            }
        }
        indexes = std::move(longer);
    }
    return indexes;
}

std::size_t position(const Shape& shape, const Shape& index) {
    std::int64_t result = 0;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        result = result * shape[axis] + index[axis];
    }
    return static_cast<std::size_t>(result);
}

// Against an obvious loop over all indexes.
void test_copies() {
    std::mt19937 random(0);
    const auto below = [&](std::int64_t bound) {
        return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(bound));
    };
    for (int turn = 0; turn < 3000; ++turn) {
        const std::size_t axes = static_cast<std::size_t>(below(5));
        Shape outer;
        Shape shape;
        Shape offset;
        for (std::size_t axis = 0; axis < axes; ++axis) {
            outer.push_back(below(5));
            shape.push_back(below(2) == 0 ? outer.back() : below(outer.back() + 1));
            offset.push_back(below(outer.back() - shape.back() + 1));
        }
        const std::vector<Shape> inside = indexes_of(shape);
        std::vector<std::uint32_t> whole(indexes_of(outer).size());
        std::vector<std::uint32_t> part(inside.size());
        std::generate(whole.begin(), whole.end(), random);
        std::generate(part.begin(), part.end(), random);
        std::vector<std::uint32_t> wanted_whole = whole;
        std::vector<std::uint32_t> wanted_part(inside.size());
        for (const Shape& index : inside) {
            Shape moved = index;
            for (std::size_t axis = 0; axis < axes; ++axis) {
                moved[axis] += offset[axis];
            }
            wanted_whole[position(outer, moved)] = part[position(shape, index)];
            wanted_part[position(shape, index)] = part[position(shape, index)];
        }
        const int count = static_cast<int>(axes);
        copy_into(reinterpret_cast<unsigned char*>(whole.data()), outer.data(), offset.data(),
                  reinterpret_cast<const unsigned char*>(part.data()), shape.data(), count, sizeof part[0]);
        check(whole == wanted_whole, "copied into a larger tensor");
        std::fill(part.begin(), part.end(), 0);
        copy_out_of(reinterpret_cast<const unsigned char*>(whole.data()), outer.data(), offset.data(),
                    reinterpret_cast<unsigned char*>(part.data()), shape.data(), count, sizeof part[0]);
        check(part == wanted_part, "copied out of a larger tensor");
    }
}

// Requests of items [length, 2], gathered with padding, and cut out again.
void test_batches() {
    Store store{std::size_t{1} << 20};
    const auto pool = std::make_shared<Pool>(store.allocator(), 0);
    const std::vector<InputRule> rules = {rule_of(true, true, {}), rule_of(true, true, {}, Type::string)};
    const std::vector<std::pair<std::int64_t, std::int64_t>> sizes = {{1, 3}, {2, 0}, {3, 5}, {1, 1}};
    std::vector<Request> requests;
    std::int16_t number = 1;
    for (const auto& [rows, length] : sizes) {
        Request& request = requests.emplace_back(2);
        request.inputs[0] = tensor_of({rows, length, 2});
        const std::size_t elements = static_cast<std::size_t>(request.inputs[0].elements());
        request.inputs[0].block = pool->take(elements * sizeof number);
        request.inputs[0].data = request.inputs[0].block.data();
        for (std::size_t i = 0; i < elements; ++i, ++number) {
            std::memcpy(request.inputs[0].block.data() + i * sizeof number, &number, sizeof number);
        }
        request.inputs[1] = tensor_of({rows});
        for (std::int64_t row = 0; row < rows; ++row) {
            request.inputs[1].strings.append(std::string(static_cast<std::size_t>(row), 'x') + '\0');
        }
    }
    std::vector<const Request*> pointers;
    for (const Request& request : requests) {
        pointers.push_back(&request);
    }
    for (const bool is_left : {false, true}) {
        std::vector<PaddedInput> padded(2);
        padded[0].shape = {0, 8, 2};
        const std::int16_t filler = -7;
        std::memcpy(padded[0].element, &filler, sizeof filler);
        Request batch(2);
        check(gather(pointers, rules, padded, is_left, *pool, &batch), "there is room");
        check(batch.inputs[0].shape[0] == 7 && batch.inputs[0].shape[1] == 8, "the batch's shape");
        check(batch.inputs[1].strings.size() == 7, "all strings");
        auto outputs = std::make_shared<Outputs>();
        Output& numbers = outputs->list.emplace_back();
        numbers.type = Type::int16;
        numbers.axes = 3;
        std::copy_n(batch.inputs[0].shape, 3, numbers.shape);
        numbers.data = batch.inputs[0].block.data();
        Output& strings = outputs->list.emplace_back();
        strings.type = Type::string;
        strings.axes = 1;
        strings.shape[0] = 7;
        strings.strings = batch.inputs[1].strings;
        std::int64_t first = 0;
        std::size_t own = 0;
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            const auto [rows, length] = sizes[i];
            const auto part = part_of(outputs, first, rows, {{length, 2}, {}}, is_left);
            const std::size_t nbytes = static_cast<std::size_t>(rows * length * 2) * sizeof number;
            own += nbytes / sizeof number;
            check(nbytes == 0 || std::memcmp(part->list[0].data, requests[i].inputs[0].data, nbytes) == 0,
                  "its own elements");
            check(part->list[1].strings.text == requests[i].inputs[1].strings.text, "its own strings");
            first += rows;
        }
        std::size_t fillers = 0;
        for (std::size_t i = 0; i < 7 * 8 * 2; ++i) {
            std::int16_t element;
            std::memcpy(&element, batch.inputs[0].block.data() + i * sizeof element, sizeof element);
            fillers += element == filler;
        }
        check(fillers == 7 * 8 * 2 - own, "all else is padding");
    }
    store.room = store.held;
    Request batch(2);
    check(!gather(pointers, rules, std::vector<PaddedInput>(2), false, *pool, &batch), "there is no room");
}

// A response in memory that grows by as little as it may.
struct Response {
    std::vector<char> memory = std::vector<char>(1);
    gpux::Text text{memory.data(), 0, 1, this, grow};

    static bool grow(void* owner, gpux::Text* text, std::size_t needed) {
        Response& response = *static_cast<Response*>(owner);
        std::vector<char> larger(needed);
        std::copy_n(response.memory.data(), text->size, larger.data());
        response.memory = std::move(larger);
        text->data = response.memory.data();
        text->capacity = needed;
        return true;
    }
    std::string take() const { return {text.data, text.size}; }
};

void test_strings() {
    const auto written = [](std::string_view string) {
        Response response;
        write_string(string, &response.text);
        return response.take();
    };
    check(written("") == R"("")", "the empty string");
    check(written("plain") == R"("plain")", "plain text");
    check(written("a\"\\/\n\r\t\b\f") == R"("a\"\\/\n\r\t\b\f")", "short escapes");
    check(written(std::string_view("\0\x1F\x7F", 3)) == "\"\\u0000\\u001f\x7F\"", "control characters");
    check(written("é😀\u2028") == "\"é😀\u2028\"", "characters beyond ASCII stay");
    const std::string mark = "\xEF\xBF\xBD";
    for (const auto& [bytes, replaced] : std::vector<std::pair<std::string, std::string>>{
             {"\xFF", mark},
             {"\xC3", mark},
             {"\xC3(", mark + "("},
             {"\xED\xA0\x80", mark + mark + mark},
             {"\xF0\x9F\x98", mark},
             {"\xE2\x82\"", mark + "\\\""},
             {"\x80\xC3\xA9", mark + "é"},
         }) {
        check(written(bytes) == '"' + replaced + '"', "ill-formed UTF-8 is replaced");
    }
    for (std::size_t at = 0; at < 40; ++at) {
        for (const char byte : {'"', '\n', '\x01'}) {
            std::string string(40, 'x');
            string[at] = byte;
            const std::string text = written(string);
            check(text.substr(1, at) == std::string(at, 'x') && text[at + 1] == '\\' &&
                      text.substr(text.size() - (40 - at)) == std::string(39 - at, 'x') + '"',
                  "an escape anywhere");
        }
    }

    Outputs outputs;
    Output& strings = outputs.list.emplace_back();
    strings.type = Type::string;
    strings.axes = 3;
    const Shape shape = {1, 2, 2};
    std::copy_n(shape.data(), 3, strings.shape);
    for (const char* const element : {"a", "b", "", "\n"}) {
        strings.strings.append(element);
    }
    const auto responded = [&](Unbatch unbatch, bool unbatched) {
        Response response;
        write_response(outputs, {{"\"y\"", 0, {}, unbatch}}, unbatched, &response.text);
        return response.take();
    };
    const std::string item = R"([["a","b"],["","\n"]])";
    check(responded(Unbatch::never, true) == "{\"y\":[" + item + "]}", "never dropped");
    check(responded(Unbatch::with_request, false) == "{\"y\":[" + item + "]}", "not an item");
    check(responded(Unbatch::with_request, true) == "{\"y\":" + item + "}", "the item alone");
    check(responded(Unbatch::always, false) == "{\"y\":" + item + "}", "always dropped");
    strings.shape[1] = 0;
    strings.strings = {};
    check(responded(Unbatch::never, false) == "{\"y\":[[]]}", "no elements");
}

}  // namespace

void test_requests() {
    test_blocks();
    test_pool_threads();
    test_agreement();
    test_copies();
    test_batches();
    test_strings();
}

}  // namespace gpux::tests
