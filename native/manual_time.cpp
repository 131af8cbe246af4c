#include "manual_time.hpp"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

namespace steadyflow {
namespace {

// Between two looks at what nobody of these threads can tell.
constexpr std::chrono::milliseconds look_again{1};
constexpr Nanoseconds longest_nap_ns = 20'000'000;

}  // namespace

thread_local ManualTime::Seat* ManualTime::seat_of_this_thread = nullptr;

void ManualTime::expect(unsigned seats) {
    const std::lock_guard lock(mutex_);
    expected_ += seats;
}

void ManualTime::take_seat(unsigned order, bool follows) {
    auto seat = std::make_unique<Seat>();
    seat->of = this;
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
    if (!seat || forked_) return;
    const std::lock_guard lock(mutex_);
    std::erase(seats_, seat.get());
    if (at_work_ == seat.get()) at_work_ = nullptr;
    pass_on();
}

bool ManualTime::sleep(int descriptor, Nanoseconds deadline_ns) noexcept {
    Seat* const seat = seat_of_this_thread;
    if (!is_seated()) return sleep_for_real(descriptor, deadline_ns, false);
    std::unique_lock lock(mutex_);
    if (disbanded_) {
        lock.unlock();
        return sleep_for_real(descriptor, deadline_ns, true);
    }
    seat->descriptor = descriptor;
    seat->deadline_ns = deadline_ns < 0 ? no_limit : std::max(deadline_ns, now_ns());
    if (at_work_ == seat) at_work_ = nullptr;
    wait_for_turn(lock, *seat);
    return descriptor >= 0 && is_readable(descriptor);
}

// For a short while at most; who called looks again.
bool ManualTime::sleep_for_real(int descriptor, Nanoseconds deadline_ns, bool moves_time) noexcept {
    const Nanoseconds left_ns = deadline_ns < 0 ? longest_nap_ns : deadline_ns - now_ns();
    const Nanoseconds nap_ns = std::clamp<Nanoseconds>(left_ns, 0, longest_nap_ns);
    const bool readable = wait_until_readable(descriptor, nap_ns);
    if (moves_time && !readable) {
        const std::lock_guard lock(mutex_);
        move_to(now_ns() + nap_ns);
    }
    return readable;
}

void ManualTime::wait_for_turn(std::unique_lock<std::mutex>& lock, Seat& seat) {
    seat.asleep = true;
    pass_on();
    while (at_work_ != &seat && !disbanded_) {
        if (still() && limit_ns_ == no_limit) {
            seat.turn.wait_for(lock, look_again);
            pass_on();
        } else {
            seat.turn.wait(lock);
        }
    }
    seat.asleep = false;
}

void ManualTime::give(Seat& seat) noexcept {
    at_work_ = &seat;
    seat.turn.notify_all();
}

void ManualTime::move_to(Nanoseconds moment_ns) noexcept {
    // relaxed: who reads it was given the turn under the lock, or only looks.
    now_ns_.store(std::max(now_ns(), moment_ns), std::memory_order_relaxed);
}

bool ManualTime::only_followers() const noexcept {
    return std::all_of(seats_.begin(), seats_.end(), [](const Seat* seat) { return seat->follows; });
}

void ManualTime::pass_on() noexcept {
    if (!still() || disbanded_) return;
    stillness_.notify_all();
    if (seats_.empty()) return;
    if (only_followers()) {
        give(*seats_.front());
        return;
    }
    Seat* next = nullptr;
    Nanoseconds led_ns = no_limit;  // how far time goes for those who do not only follow
    for (Seat* seat : seats_) {
        if (!seat->asleep) continue;
        if (seat->descriptor >= 0 && is_readable(seat->descriptor)) {
            give(*seat);
            return;
        }
        if (next == nullptr || seat->deadline_ns < next->deadline_ns) next = seat;
        if (!seat->follows) led_ns = std::min(led_ns, seat->deadline_ns);
    }
    const Nanoseconds horizon_ns = std::min(led_ns, limit_ns_);
    if (next == nullptr || horizon_ns == no_limit) return;
    if (next->deadline_ns > horizon_ns) {
        move_to(horizon_ns);
        return;
    }
    move_to(next->deadline_ns);
    give(*next);
}

void ManualTime::go_on_until(Nanoseconds limit_ns) {
    if (forked_) return;
    const std::lock_guard lock(mutex_);
    limit_ns_ = std::max(limit_ns_, limit_ns);
    if (seats_.empty() && expected_ == 0 && limit_ns != no_limit) move_to(limit_ns);
    pass_on();
}

void ManualTime::stand_still() {
    if (forked_) return;
    const std::lock_guard lock(mutex_);
    limit_ns_ = now_ns();
}

bool ManualTime::wait_until(Nanoseconds moment_ns, Nanoseconds patience_ns) {
    if (forked_) return true;
    std::unique_lock lock(mutex_);
    return stillness_.wait_for(lock, std::chrono::nanoseconds(patience_ns), [&] {
        if (disbanded_ || seats_.empty()) return disbanded_ || expected_ == 0;
        // Where others let it go further, stillness may not come; where they do not, it comes when all is done that is due.
        return limit_ns_ > moment_ns ? now_ns() >= moment_ns : still();
    });
}

void ManualTime::disband() {
    if (forked_) return;
    const std::lock_guard lock(mutex_);
    disbanded_ = true;
    for (Seat* seat : seats_) seat->turn.notify_all();
    stillness_.notify_all();
}

void ManualTime::after_fork_in_child() noexcept {
    forked_ = true;
    seat_of_this_thread = nullptr;
    keep_time_by(nullptr);
}

}  // namespace steadyflow
