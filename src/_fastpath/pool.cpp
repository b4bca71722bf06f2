#include "pool.hpp"

#include <cstdlib>
#include <new>
#include <utility>

namespace gpux {
namespace {

constexpr std::size_t kMinBytes = 4096;
constexpr std::size_t kSizesPerOctave = 4;

bool allocate_on_host(void*, std::size_t nbytes, RawBlock* block) {
    block->data = static_cast<unsigned char*>(std::aligned_alloc(kAlignment, nbytes));
    block->nbytes = nbytes;
    return block->data != nullptr;
}

void release_on_host(void*, const RawBlock& block) { std::free(block.data); }

// The index of a size that block_size() returned.
std::size_t class_of(std::size_t nbytes) noexcept {
    const std::size_t octave = 63u - static_cast<unsigned>(__builtin_clzll(nbytes));
    return octave * kSizesPerOctave + ((nbytes >> (octave - 2)) & (kSizesPerOctave - 1));
}

}  // namespace

Allocator host_allocator() noexcept { return {nullptr, allocate_on_host, release_on_host}; }

std::size_t block_size(std::size_t nbytes) noexcept {
    if (nbytes <= kMinBytes) {
        return kMinBytes;
    }
    if (nbytes > SIZE_MAX / 4) {
        return 0;
    }
    const std::size_t step = (std::size_t{1} << (63 - __builtin_clzll(nbytes - 1))) / kSizesPerOctave;
    return (nbytes + step - 1) / step * step;
}

Block& Block::operator=(Block&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(raw_, other.raw_);
    return *this;
}

void Block::release() noexcept {
    if (pool_ != nullptr) {
        pool_->give(raw_);
    }
}

Block Pool::take(std::size_t nbytes) noexcept {
    const std::size_t size = block_size(nbytes);
    if (size == 0) {
        return {};
    }
    {
        const std::lock_guard lock(mutex_);
        SizeClass& sizes = classes_[class_of(size)];
        if (!sizes.idle.empty()) {
            const RawBlock raw = sizes.idle.back();
            sizes.idle.pop_back();
            sizes.last_use = ++uses_;
            idle_bytes_ -= size;
            used_bytes_ += size;
            return Block(shared_from_this(), raw);
        }
    }
    RawBlock raw;
    if (!allocator_.allocate(allocator_.owner, size, &raw)) {
        free_idle();  // idle blocks of other sizes may hold the memory
        if (!allocator_.allocate(allocator_.owner, size, &raw)) {
            return {};
        }
    }
    const std::lock_guard lock(mutex_);
    ++allocations_;
    used_bytes_ += size;
    return Block(shared_from_this(), raw);
}

void Pool::give(const RawBlock& block) noexcept {
    std::unique_lock lock(mutex_);
    used_bytes_ -= block.nbytes;
    SizeClass& sizes = classes_[class_of(block.nbytes)];
    bool is_kept = block.nbytes <= max_idle_bytes_;
    if (is_kept) {
        try {
            sizes.idle.push_back(block);
        } catch (const std::bad_alloc&) {
            is_kept = false;
        }
    }
    if (!is_kept) {
        lock.unlock();
        allocator_.release(allocator_.owner, block);
        return;
    }
    sizes.last_use = ++uses_;
    idle_bytes_ += block.nbytes;
    while (idle_bytes_ > max_idle_bytes_) {
        SizeClass* oldest = nullptr;
        for (SizeClass& candidate : classes_) {
            if (!candidate.idle.empty() && (oldest == nullptr || candidate.last_use < oldest->last_use)) {
                oldest = &candidate;
            }
        }
        const RawBlock freed = oldest->idle.back();
        oldest->idle.pop_back();
        idle_bytes_ -= freed.nbytes;
        // Releasing may take long, and may call Python, which must not wait for this lock.
        lock.unlock();
        allocator_.release(allocator_.owner, freed);
        lock.lock();
    }
}

void Pool::free_idle() noexcept {
    for (SizeClass& sizes : classes_) {
        std::vector<RawBlock> idle;
        {
            const std::lock_guard lock(mutex_);
            idle.swap(sizes.idle);
            for (const RawBlock& block : idle) {
                idle_bytes_ -= block.nbytes;
            }
        }
        for (const RawBlock& block : idle) {
            allocator_.release(allocator_.owner, block);
        }
    }
}

Pool::Usage Pool::usage() const noexcept {
    const std::lock_guard lock(mutex_);
    return {used_bytes_, idle_bytes_, allocations_};
}

}  // namespace gpux
