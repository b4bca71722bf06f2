// Memory for tensors: blocks, and the pools that reuse them.
//
// A block belongs to its holder and returns to its pool when it is destroyed. A pool hands out four sizes
// per power of two, so that at most a quarter of a block is unused. No Python.h; runs without the GIL,
// which an allocator that is written in Python acquires.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace gpux {

// Memory as an allocator made it. `data` is an address on the allocator's device.
struct RawBlock {
    unsigned char* data = nullptr;
    std::size_t nbytes = 0;
    void* handle = nullptr;  // the allocator's own
};

// Where a pool gets its memory. Both functions are called by any thread.
struct Allocator {
    void* owner;
    bool (*allocate)(void* owner, std::size_t nbytes, RawBlock* block);  // false: there is no room
    void (*release)(void* owner, const RawBlock& block);
};

// Host memory, aligned to kAlignment bytes.
constexpr std::size_t kAlignment = 64;  // a cache line and the widest vector register
Allocator host_allocator() noexcept;

class Pool;

// A block of a pool, or none. Owns it; movable.
class Block {
public:
    Block() noexcept = default;
    Block(std::shared_ptr<Pool> pool, const RawBlock& raw) noexcept : pool_(std::move(pool)), raw_(raw) {}
    Block(Block&& other) noexcept : pool_(std::move(other.pool_)), raw_(other.raw_) { other.raw_ = {}; }
    Block& operator=(Block&& other) noexcept;
    ~Block() { release(); }

    unsigned char* data() const noexcept { return raw_.data; }
    std::size_t nbytes() const noexcept { return raw_.nbytes; }
    void* handle() const noexcept { return raw_.handle; }
    explicit operator bool() const noexcept { return pool_ != nullptr; }

private:
    void release() noexcept;

    std::shared_ptr<Pool> pool_;
    RawBlock raw_;
};

// A pool of reusable blocks. Thread-safe. Its blocks keep it alive.
class Pool : public std::enable_shared_from_this<Pool> {
public:
    // Beyond `max_idle_bytes` in idle blocks, those of the least recently used size are released.
    Pool(const Allocator& allocator, std::size_t max_idle_bytes) noexcept
        : allocator_(allocator), max_idle_bytes_(max_idle_bytes) {}
    ~Pool() { free_idle(); }

    // A block of at least `nbytes` bytes with undefined contents; none if there is no room even after all
    // idle blocks were released.
    Block take(std::size_t nbytes) noexcept;
    void free_idle() noexcept;

    struct Usage {
        std::size_t used_bytes;   // in blocks that are held
        std::size_t idle_bytes;   // in blocks that wait for reuse
        std::size_t allocations;  // since the start
    };
    Usage usage() const noexcept;

private:
    friend class Block;
    void give(const RawBlock& block) noexcept;

    struct SizeClass {
        std::vector<RawBlock> idle;
        std::uint64_t last_use = 0;
    };

    const Allocator allocator_;
    const std::size_t max_idle_bytes_;
    mutable std::mutex mutex_;  // guards the fields below
    std::array<SizeClass, std::size_t{4} * 64> classes_;
    std::uint64_t uses_ = 0;
    std::size_t idle_bytes_ = 0;
    std::size_t used_bytes_ = 0;
    std::size_t allocations_ = 0;
};

// The size of the block that a pool provides for `nbytes`; 0 if no block can be that large.
std::size_t block_size(std::size_t nbytes) noexcept;

}  // namespace gpux
