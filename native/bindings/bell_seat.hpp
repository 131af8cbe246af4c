// The right to sleep on a bell. A worker's bell has one sleeper by construction; at an open end, several threads and event
// loops of the process may meet: one sleeps, the others look every millisecond.
#pragma once

#include <chrono>
#include <thread>

#include "bell.hpp"
#include "python.hpp"

namespace steadyflow {

// Takes the seat for as long as it lives; false if somebody else has it, or if there is no bell.
class BellSeat {
public:
    explicit BellSeat(Bell bell) noexcept : bell_(std::move(bell)), taken_(bell_ && take_seat(bell_)) {}
    ~BellSeat() {
        if (taken_) leave_seat(bell_);
    }
    BellSeat(const BellSeat&) = delete;
    BellSeat& operator=(const BellSeat&) = delete;

    explicit operator bool() const noexcept { return taken_; }
    const Bell& bell() const noexcept { return bell_; }

    // acquire and release: what the last sleeper did to the waker comes before what this one does.
    static bool take_seat(const Bell& bell) noexcept { return !bell.waker().taken.exchange(true, std::memory_order_acquire); }
    static void leave_seat(const Bell& bell) noexcept { bell.waker().taken.store(false, std::memory_order_release); }

private:
    const Bell bell_;
    const bool taken_;
};

inline void sleep_a_millisecond() {
    const WaitWithoutGil waiting;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

}  // namespace steadyflow
