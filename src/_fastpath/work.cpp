#include "work.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <string>
#include <utility>

namespace gpux {
namespace {

constexpr std::size_t kFirstBytes = 4096;
constexpr std::size_t kLargeBytes = std::size_t{1} << 17;  // glibc's initial mmap threshold

Nanoseconds thread_time() noexcept {
    timespec time{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * Nanoseconds{1'000'000'000} + time.tv_nsec;
}

bool grow(void*, Text* text, std::size_t needed) {
    const std::size_t capacity = std::max({needed, 2 * text->capacity, kFirstBytes});
    // glibc maps each large block anew and unmaps it when freed, so that every page of every response would
    // fault. It raises its threshold to the largest block freed: hence one of full size, freed untouched.
    if (capacity >= kLargeBytes) {
        std::free(std::malloc(capacity));
    }
    void* const larger = std::realloc(text->data, capacity);
    if (larger == nullptr) {
        return false;
    }
    text->data = static_cast<char*>(larger);
    text->capacity = capacity;
    return true;
}

}  // namespace

OwnText::OwnText() noexcept : text{nullptr, 0, 0, nullptr, grow} {}

OwnText::~OwnText() { std::free(text.data); }

char* OwnText::release() noexcept {
    text.size = text.capacity = 0;
    return std::exchange(text.data, nullptr);
}

void Work::execute() noexcept {
    const Nanoseconds start = thread_time();
    call.stop = &stop;
    take_step();
    cpu_time = thread_time() - start;
}

void Work::take_step() noexcept {
    switch (step) {
        case Step::respond:
            result = pipeline->respond(body, size, *pool, deadline, &response.text, &call);
            return;
        case Step::decode:
            result = pipeline->decode(body, size, *pool, &call);
            if (result == Result::done) {
                result = pipeline->complete(&call);
            }
            return;
        case Step::run: {
            const bool is_batch = requests.size() > 1 || !padded.empty();
            try {
                if (is_batch) {
                    call.request = Request(pipeline->rules().size());
                    padded.resize(pipeline->rules().size());
                    if (!gather(requests, pipeline->rules(), padded, is_left, *pool, &call.request)) {
                        result = Result::out_of_memory;
                        return;
                    }
                }
            } catch (const std::bad_alloc&) {
                result = Result::out_of_memory;
                return;
            }
            result = pipeline->run(is_batch ? call.request : *requests[0], deadline, &call);
            return;
        }
        case Step::encode: result = pipeline->encode(*outputs, unbatched, &response.text, &call); return;
    }
}

ThreadPool::ThreadPool(int threads, int descriptor) : descriptor_(descriptor) {
    try {
        threads_.reserve(static_cast<std::size_t>(threads));
        for (int number = 0; number < threads; ++number) {
            threads_.emplace_back([this, number] { run(number); });
        }
    } catch (...) {
        close();
        throw;
    }
}

ThreadPool::~ThreadPool() { close(); }

void ThreadPool::close() noexcept {
    {
        const std::lock_guard lock(mutex_);
        is_closing_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) {
        thread.join();
    }
    threads_.clear();
}

void ThreadPool::submit(Work* work) {
    {
        const std::lock_guard lock(mutex_);
        waiting_.push_back(work);
        // So that no thread has to allocate in order to report it.
        completed_.reserve(completed_.size() + waiting_.size() + threads_.size());
    }
    changed_.notify_one();
}

std::vector<Work*> ThreadPool::completed() noexcept {
    std::vector<Work*> taken;
    const std::lock_guard lock(mutex_);
    taken.swap(completed_);
    return taken;
}

void ThreadPool::run(int number) noexcept {
    pthread_setname_np(pthread_self(), ("gpux-run-" + std::to_string(number)).c_str());
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return is_closing_ || !waiting_.empty(); });
        if (is_closing_) {
            return;
        }
        Work* const work = waiting_.front();
        waiting_.pop_front();
        lock.unlock();
        work->execute();
        lock.lock();
        completed_.push_back(work);
        if (completed_.size() == 1) {
            // Not in the lock's way: an eventfd takes the write at once.
            const std::uint64_t one = 1;
            [[maybe_unused]] const auto written = ::write(descriptor_, &one, sizeof one);
        }
    }
}

}  // namespace gpux
