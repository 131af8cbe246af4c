// A clock that stands still while threads work, and jumps to the next moment at which one of them has something to do.
//
// The threads that go by it take turns, one at a time, so that what they do together is the same each time: whoever sleeps passes
// the turn on to the first, in the order of their seats, that was woken, or else to the one whose time comes first.
//
// Invariants
// - At most one seated thread is between two sleeps.
// - Time moves only while all of them sleep, and never back, nor beyond the limit.
// - A turn is passed on by who gives it up; nobody waits for real time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <vector>

#include "platform.hpp"

namespace steadyflow {

// Any number of threads. What blocks is said there.
class ManualTime final : public Timekeeper {
public:
    static constexpr Nanoseconds no_limit = std::numeric_limits<Nanoseconds>::max();

    explicit ManualTime(Nanoseconds now_ns) noexcept : now_ns_(now_ns), limit_ns_(now_ns) {}
    ManualTime(const ManualTime&) = delete;
    ManualTime& operator=(const ManualTime&) = delete;

    Nanoseconds now_ns() noexcept override { return now_ns_.load(std::memory_order_relaxed); }

    // --- Threads that go by it. ---

    // Blocks until so many threads have taken a seat and it is this one's turn. `order`: the seats', which decides between threads
    // that could both go on. `follows`: time does not go on for it alone; see sleep().
    void take_seat(unsigned order, bool follows);
    void leave_seat() noexcept;
    bool is_seated() const noexcept { return seat_of_this_thread != nullptr; }
    // Passes the turn on, until it is due again. In a thread without a seat: returns at once. `descriptor` may be -1. A thread that
    // only follows returns when no other is left.
    bool sleep(int descriptor, Nanoseconds deadline_ns) noexcept override;

    // --- Threads that do not. ---

    // How many seats have to be taken before the first turn.
    void expect(unsigned seats);
    // How far time may go on by itself. What has been told to threads that sleep, from outside, they see from here on.
    void set_limit(Nanoseconds limit_ns);
    // Whether all wait for the limit to move, or have left; waits for that for some real time.
    bool wait_until_still(Nanoseconds patience_ns);
    // Ends the taking of turns: whoever sleeps returns, and goes by the system's sleep from now on, though not by its clock.
    void disband();

private:
    struct Seat {
        unsigned order;
        bool follows;
        bool asleep = false;
        int descriptor = -1;
        Nanoseconds deadline_ns = 0;
        std::condition_variable turn;
    };

    static thread_local Seat* seat_of_this_thread;

    void wait_for_turn(std::unique_lock<std::mutex>& lock, Seat& seat);
    void pass_on() noexcept;
    bool only_followers() const noexcept;
    void give(Seat& seat) noexcept;

    std::mutex mutex_;
    std::condition_variable stillness_;
    std::atomic<Nanoseconds> now_ns_;
    Nanoseconds limit_ns_;
    unsigned expected_ = 0;      // seats that are still to be taken
    std::vector<Seat*> seats_;   // by their order
    Seat* at_work_ = nullptr;
    bool disbanded_ = false;
};

}  // namespace steadyflow
