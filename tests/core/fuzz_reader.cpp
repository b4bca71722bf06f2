// libFuzzer's entry point for the reader: any bytes as a body, for a few signatures.
//
// Reads every body three times: as it is; and followed by spaces, so that all of it is far from the end
// and takes the fast paths, by the best instruction set and by the baseline. All must give the same
// tensors or the same error.
//
// `make fuzz` builds it with clang, ASan and UBSan and starts from corpus/reader, where the first byte of
// a file selects the signature. `make core` replays these files.
#include "reading.hpp"

namespace {

using namespace gpux::tests;
using gpux::Spec;
using gpux::Type;

// All have an `x`, so that one body serves several.
const std::vector<Signature>& signatures() {
    static const std::vector<Signature>* const made = [] {
        auto* all = new std::vector<Signature>;
        for (Type type : {Type::float32, Type::float64, Type::float16, Type::bfloat16, Type::int8,
                          Type::int32, Type::int64, Type::uint8, Type::uint64, Type::boolean, Type::string}) {
            all->emplace_back();
            all->back().add("x", spec_of(type, {-1, -1}));
            all->back().add("y", spec_of(type, {}));
            all->back().add("z", spec_of(type, {2, 3}));
        }
        all->emplace_back();
        Spec missing = spec_of(Type::float16, {-1});
        missing.null_is_nan = true;
        all->back().add("x", missing);
        all->back().add("y", spec_of(Type::float32, {-1, 2, -1, 4}));
        all->back().add("z", spec_of(Type::boolean, {1, 3}));
        all->emplace_back();
        all->back().add("x", spec_of(Type::int64, {-1, 1}));
        all->back().add("mask", spec_of(Type::uint16, {1, 4}));
        Spec text = spec_of(Type::string, {-1});
        text.max_characters = 5;
        all->back().add("text", text, 1);
        all->back().add("\xC3\xA9", spec_of(Type::float32, {-1, 3, 2, 2}), 2);
        return all;
    }();
    return *made;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const Signature& signature = signatures()[data[0] % signatures().size()];
    const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
    const Reading as_it_is(signature, text);
    const Reading padded(signature, text + std::string(200, ' '));
    const Reading plain(signature, text + std::string(200, ' '), gpux::Instructions::baseline);
    require(plain.done() == padded.done(), "it can be read by all instructions");
    require(plain.is_equal(padded), "the same values by all instructions");
    require(plain.done() || plain.has_same_error(padded), "the same error by all instructions");
    require(as_it_is.done() <= padded.done(), "spaces change nothing");
    if (as_it_is.done()) {
        require(as_it_is.is_equal(padded), "the same values far from the end");
    } else if (as_it_is.reader().at() < text.size()) {
        require(as_it_is.is_equal(padded), "the same values before the error");
        require(as_it_is.has_same_error(padded), "the same error far from the end");
    }
    return 0;
}
