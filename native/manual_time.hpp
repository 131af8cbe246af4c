// A clock that stands still while threads work, and jumps to the next moment at which one of them has something to do.
//
// The threads that go by it take turns, one at a time, so that what they do together is the same each time: whoever sleeps passes
// the turn on to the first, in the order of their seats, that was woken, or else to the one whose time comes first.
//
// Invariants
// - At most one seated thread is between two sleeps, until the taking of turns ends.
// - Time moves only while all of them sleep, and never back, nor beyond the limit.
// - A turn is passed on by who gives it up. Only where nobody has anything to do at any time is there real time to wait for:
//   something from outside.
#pragma once

#include <atomic>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <vector>

#include "fork.hpp"
#include "platform.hpp"

namespace steadyflow {

// The time of one run. Any number of threads. What blocks is said there.
class ManualTime final : public Timekeeper, Inherited {
    struct Seat {
        const ManualTime* of;
        unsigned order;
        bool follows;
        bool asleep = false;
        int descriptor = -1;
        Nanoseconds deadline_ns = 0;
        std::condition_variable turn;
    };

public:
    static constexpr Nanoseconds no_limit = std::numeric_limits<Nanoseconds>::max();

    explicit ManualTime(Nanoseconds now_ns) noexcept : now_ns_(now_ns), limit_ns_(now_ns) {}

    Nanoseconds now_ns() noexcept override { return now_ns_.load(std::memory_order_relaxed); }

    // --- Threads that go by it. ---

    // Blocks until so many threads have taken a seat and it is this one's turn. `order`: the seats', which decides between threads
    // that could both go on. `follows`: time does not go on for it alone; see sleep().
    void take_seat(unsigned order, bool follows);
    void leave_seat() noexcept;
    bool is_seated() const noexcept { return seat_of_this_thread != nullptr && seat_of_this_thread->of == this; }
    // Passes the turn on, until it is due again. `descriptor` may be -1. A thread that only follows returns when no other is left.
    // In a thread without a seat, and after the end of turns: sleeps for real; after that end, time goes on by it.
    bool sleep(int descriptor, Nanoseconds deadline_ns) noexcept override;

    // --- Threads that do not. ---

    // How many seats have to be taken before the first turn.
    void expect(unsigned seats);
    // Time may go on by itself as far as that, or as it may already. What has been told to threads that sleep, from outside, they
    // see from here on.
    void go_on_until(Nanoseconds limit_ns);
    // Time goes no further than it is.
    void stand_still();
    // Whether all wait for the limit to move, or have left; or whether that moment is over. Waits for it for some real time.
    bool wait_until(Nanoseconds moment_ns, Nanoseconds patience_ns);
    // Ends the taking of turns: whoever waits for one returns.
    void disband();

    // In the child only the thread that forked is left, and the flow is not its own: it goes by the system's clock.
    void after_fork_in_child() noexcept override;

private:
    static thread_local Seat* seat_of_this_thread;

    void wait_for_turn(std::unique_lock<std::mutex>& lock, Seat& seat);
    bool sleep_for_real(int descriptor, Nanoseconds deadline_ns, bool moves_time) noexcept;
    void pass_on() noexcept;
    bool only_followers() const noexcept;
    bool still() const noexcept { return at_work_ == nullptr && expected_ == 0; }
    void give(Seat& seat) noexcept;
    void move_to(Nanoseconds moment_ns) noexcept;

    std::mutex mutex_;
    std::condition_variable stillness_;
    std::atomic<Nanoseconds> now_ns_;
    Nanoseconds limit_ns_;
    unsigned expected_ = 0;      // seats that are still to be taken
    std::vector<Seat*> seats_;   // by their order
    Seat* at_work_ = nullptr;
    bool disbanded_ = false;
    bool forked_ = false;        // this is a child's copy: its lock may be held by a thread that is not there
    ForkWatch watch_{*this};
};

}  // namespace steadyflow
