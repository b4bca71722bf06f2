#include "watchdog.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace gpux {

Nanoseconds now() noexcept {
    // CLOCK_MONOTONIC, as Python's time.monotonic().
    return std::chrono::steady_clock::now().time_since_epoch().count();
}

class Watchdog {
public:
    void begin(WatchedRun* run) {
        const std::lock_guard lock(mutex_);
        if (run->stop_ != nullptr) {
            run->stop_->run_ = run;
            if (run->stop_->is_requested_) {
                terminate(run);
                return;
            }
        }
        if (run->deadline_ == kNever) {
            return;
        }
        if (run->deadline_ <= now()) {
            terminate(run);
            return;
        }
        if (!is_started_) {
            std::thread([this] { watch(); }).detach();
            is_started_ = true;
        }
        runs_.push_back(run);
        run->is_watched_ = true;
        if (run->deadline_ < wakes_at_) {
            changed_.notify_one();
        }
    }

    void end(WatchedRun* run) noexcept {
        const std::lock_guard lock(mutex_);
        if (run->stop_ != nullptr) {
            run->stop_->run_ = nullptr;
        }
        if (run->is_watched_) {
            remove(run);
        }
    }

    void stop(Stop* stop) noexcept {
        const std::lock_guard lock(mutex_);
        stop->is_requested_ = true;
        if (stop->run_ != nullptr) {
            terminate(stop->run_);
        }
    }

private:
    static void terminate(WatchedRun* run) noexcept {
        ort::message_of(ort::api[ort::slots::RunOptionsSetTerminate](run->options_));
        run->is_terminated_ = true;
    }

    void remove(WatchedRun* run) noexcept {
        *std::find(runs_.begin(), runs_.end(), run) = runs_.back();
        runs_.pop_back();
        run->is_watched_ = false;
    }

    void watch() {
        std::unique_lock lock(mutex_);
        for (;;) {
            wakes_at_ = kNever;
            const Nanoseconds time = now();
            for (std::size_t i = 0; i < runs_.size();) {
                WatchedRun* const run = runs_[i];
                if (run->deadline_ <= time) {
                    terminate(run);
                    remove(run);
                } else {
                    wakes_at_ = std::min(wakes_at_, run->deadline_);
                    ++i;
                }
            }
            if (wakes_at_ == kNever) {
                changed_.wait(lock);
            } else {
                changed_.wait_for(lock, std::chrono::nanoseconds(wakes_at_ - time));
            }
        }
    }

    std::mutex mutex_;  // guards the fields below, and those of the runs that are watched
    std::condition_variable changed_;
    std::vector<WatchedRun*> runs_;
    Nanoseconds wakes_at_ = kNever;  // when the thread wakes up by itself
    bool is_started_ = false;
};

namespace {

// Never destroyed: its thread runs until the process ends.
Watchdog& watchdog() {
    static Watchdog* const the_watchdog = new Watchdog;
    return *the_watchdog;
}

}  // namespace

void Stop::request() noexcept { watchdog().stop(this); }

WatchedRun::WatchedRun(ort::OrtRunOptions* options, Nanoseconds deadline, Stop* stop)
    : options_(options), deadline_(deadline), stop_(stop) {
    if (deadline != kNever || stop != nullptr) {
        watchdog().begin(this);
    }
}

bool WatchedRun::end() noexcept {
    if ((deadline_ != kNever || stop_ != nullptr) && !has_ended_) {
        watchdog().end(this);
        has_ended_ = true;
    }
    return is_terminated_;
}

}  // namespace gpux
