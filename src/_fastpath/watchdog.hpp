// The watchdog: one native thread that terminates runs at their deadlines, or when they are to stop.
//
// Termination takes effect between two nodes of the graph: a single long node runs to its end.
#pragma once

#include <cstdint>
#include <vector>

#include "ort.hpp"

namespace gpux {

// A time on the monotonic clock, in nanoseconds.
using Nanoseconds = std::int64_t;
constexpr Nanoseconds kNever = INT64_MAX;
Nanoseconds now() noexcept;

class WatchedRun;

// A request to stop a run, made by any thread before the run begins or while it goes on.
class Stop {
public:
    void request() noexcept;

private:
    friend class Watchdog;
    WatchedRun* run_ = nullptr;  // guarded by the watchdog, as is the next one
    bool is_requested_ = false;
};

// Watches one run from its construction to its end. Not copyable; the options and `stop` must outlive it.
class WatchedRun {
public:
    // `options` are those of this run alone, as termination belongs to them and stays set. `stop` may be null.
    // Throws std::system_error if the watchdog's thread cannot be started.
    WatchedRun(ort::OrtRunOptions* options, Nanoseconds deadline, Stop* stop = nullptr);
    ~WatchedRun() { end(); }
    WatchedRun(const WatchedRun&) = delete;
    WatchedRun& operator=(const WatchedRun&) = delete;

    // Stops watching; returns whether the run was terminated.
    bool end() noexcept;

private:
    friend class Watchdog;
    ort::OrtRunOptions* const options_;
    const Nanoseconds deadline_;
    Stop* const stop_;
    bool has_ended_ = false;  // of its own thread; the others are guarded by the watchdog
    bool is_watched_ = false;
    bool is_terminated_ = false;
};

}  // namespace gpux
