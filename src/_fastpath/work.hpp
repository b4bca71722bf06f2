// Work for other threads than the caller's: a step of a request, and the pool of native threads that executes it.
//
// No Python.h. The threads tell of what they have completed through a descriptor that an event loop watches.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "outputs.hpp"
#include "pipeline.hpp"
#include "pool.hpp"
#include "request.hpp"
#include "watchdog.hpp"

namespace gpux {

// The text of a response, in memory that it allocates. Not copyable: `text` refers to it.
class OwnText {
public:
    OwnText() noexcept;
    ~OwnText();
    OwnText(const OwnText&) = delete;
    OwnText& operator=(const OwnText&) = delete;

    // Hands the memory over; its new owner calls std::free().
    char* release() noexcept;

    Text text;
};

enum class Step : int {
    respond,  // all of it: Pipeline::respond
    decode,   // Pipeline::decode and complete
    run,      // gather if there are several requests or padding, then Pipeline::run
    encode,   // Pipeline::encode
};

// One step: what it takes, and what comes of it. Belongs to its caller, who leaves it alone from
// ThreadPool::submit() until it is among the completed; only stop.request() may be called meanwhile.
struct Work {
    Step step = Step::respond;
    const Pipeline* pipeline = nullptr;
    Pool* pool = nullptr;
    Nanoseconds deadline = kNever;  // of a run

    const char* body = nullptr;  // respond, decode; NUL follows
    std::size_t size = 0;
    std::vector<const Request*> requests;  // run; of equal batch keys
    std::vector<PaddedInput> padded;
    bool is_left = false;
    std::shared_ptr<const Outputs> outputs;  // encode
    bool unbatched = false;

    Result result = Result::done;
    Nanoseconds cpu_time = 0;  // of the thread that executed it
    Call call;                 // of a run, `call.request` is the batch
    OwnText response;
    Stop stop;
    void* owner = nullptr;  // its caller's own

    void execute() noexcept;

private:
    void take_step() noexcept;
};

// A pool of native threads. submit() and completed() may be called by any thread.
class ThreadPool {
public:
    // Starts the threads. Each time that completed work is first available, 8 bytes are written to `descriptor`,
    // an eventfd. Throws std::system_error.
    ThreadPool(int threads, int descriptor);
    // Waits for the work that has begun; what has not is dropped.
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // Throws std::bad_alloc.
    void submit(Work* work);
    // What has been completed since the last call.
    std::vector<Work*> completed() noexcept;

private:
    void run(int number) noexcept;
    void close() noexcept;

    const int descriptor_;
    std::mutex mutex_;  // guards the fields below
    std::condition_variable changed_;
    std::deque<Work*> waiting_;
    std::vector<Work*> completed_;
    bool is_closing_ = false;
    std::vector<std::thread> threads_;  // of its owner alone
};

}  // namespace gpux
