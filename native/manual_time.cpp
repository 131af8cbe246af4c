#include "manual_time.hpp"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <memory>
#include <utility>

namespace steadyflow {
namespace {

constexpr std::chrono::milliseconds look_again{1};

}  // namespace

thread_local ManualTime::Seat* ManualTime::seat_of_this_thread = nullptr;

void ManualTime::expect(unsigned seats) {
    const std::lock_guard lock(mutex_);
    expected_ += seats;
}

void ManualTime::take_seat(unsigned order, bool follows) {
    auto seat = std::make_unique<Seat>();
    seat->order = order;
    seat->follows = follows;
    std::unique_lock lock(mutex_);
    const auto place = std::find_if(seats_.begin(), seats_.end(), [&](const Seat* other) { return other->order > order; });
    seats_.insert(place, seat.get());
    seat_of_this_thread = seat.release();
    if (expected_ != 0) --expected_;
    seat_of_this_thread->deadline_ns = now_ns();
    wait_for_turn(lock, *seat_of_this_thread);
}

void ManualTime::leave_seat() noexcept {
    const std::unique_ptr<Seat> seat(std::exchange(seat_of_this_thread, nullptr));
    if (!seat) return;
    const std::lock_guard lock(mutex_);
    std::erase(seats_, seat.get());
    if (at_work_ == seat.get()) at_work_ = nullptr;
    pass_on();
}

bool ManualTime::sleep(int descriptor, Nanoseconds deadline_ns) noexcept {
    Seat* const seat = seat_of_this_thread;
    if (seat == nullptr) return descriptor >= 0 && is_readable(descriptor);
    std::unique_lock lock(mutex_);
    if (disbanded_) {
        // Real time, in small steps: whoever is being waited for may never give a turn back.
        seat->turn.wait_for(lock, look_again);
        return descriptor >= 0 && is_readable(descriptor);
    }
    seat->descriptor = descriptor;
    seat->deadline_ns = deadline_ns < 0 ? no_limit : std::max(deadline_ns, now_ns());
    if (at_work_ == seat) at_work_ = nullptr;
    wait_for_turn(lock, *seat);
    return descriptor >= 0 && is_readable(descriptor);
}

void ManualTime::wait_for_turn(std::unique_lock<std::mutex>& lock, Seat& seat) {
    seat.asleep = true;
    pass_on();
    seat.turn.wait(lock, [&] { return at_work_ == &seat || disbanded_; });
    seat.asleep = false;
}

void ManualTime::give(Seat& seat) noexcept {
    at_work_ = &seat;
    seat.turn.notify_all();
}

bool ManualTime::only_followers() const noexcept {
    return std::all_of(seats_.begin(), seats_.end(), [](const Seat* seat) { return seat->follows; });
}

void ManualTime::pass_on() noexcept {
    if (at_work_ != nullptr || expected_ != 0 || disbanded_) return;
    stillness_.notify_all();
    if (seats_.empty()) return;
    if (only_followers()) {
        give(*seats_.front());
        return;
    }
    Seat* next = nullptr;
    for (Seat* seat : seats_) {
        if (!seat->asleep) continue;
        if (seat->descriptor >= 0 && is_readable(seat->descriptor)) {
            give(*seat);
            return;
        }
        if (next == nullptr || seat->deadline_ns < next->deadline_ns) next = seat;
    }
    if (next == nullptr) return;
    const Nanoseconds moment_ns = std::min(next->deadline_ns, limit_ns_);
    // relaxed: who reads it was given the turn under the lock, or only looks.
    if (moment_ns != no_limit) now_ns_.store(std::max(now_ns(), moment_ns), std::memory_order_relaxed);
    if (next->deadline_ns <= limit_ns_ && next->deadline_ns != no_limit) give(*next);
}

void ManualTime::set_limit(Nanoseconds limit_ns) {
    const std::lock_guard lock(mutex_);
    limit_ns_ = limit_ns;
    if (seats_.empty() && expected_ == 0 && limit_ns != no_limit) {
        now_ns_.store(std::max(now_ns(), limit_ns), std::memory_order_relaxed);
    }
    pass_on();
}

bool ManualTime::wait_until_still(Nanoseconds patience_ns) {
    std::unique_lock lock(mutex_);
    return stillness_.wait_for(lock, std::chrono::nanoseconds(patience_ns),
                               [&] { return disbanded_ || (at_work_ == nullptr && expected_ == 0); });
}

void ManualTime::disband() {
    const std::lock_guard lock(mutex_);
    disbanded_ = true;
    for (Seat* seat : seats_) seat->turn.notify_all();
    stillness_.notify_all();
}

}  // namespace steadyflow
