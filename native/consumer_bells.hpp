// The bells of those who consume one ring: one consumer, or several that compete.
//
// Invariants
// - After a block was published every one of them is told, so nobody who is at work goes to sleep past it. One that is
//   idle is woken as well; one is enough, since it takes this block or an older one of the same worker.
// - So no block waits while a consumer is idle: whoever is awake looks once more before it sleeps, and each block wakes
//   another one. A consumer that waits for room in the middle of its work takes no block, and is passed by.
// - A consumer that was called and died before it looked leaves its block to the one who reaps it: that retires its bell,
//   so that it is not taken for idle again, and rings all others.
#pragma once

#include <utility>
#include <vector>

#include "bell.hpp"

namespace steadyflow {

template <class Memory>
class BasicConsumerBells {
public:
    using Bell = BasicBell<Memory>;

    // Control plane, before the flow starts; the only calls that allocate.
    void add(Bell bell, unsigned bit) { ends_.push_back({std::move(bell), bit}); }
    void clear() noexcept { ends_.clear(); }

    // For a block that was published. Wait-free; at most one system call.
    void ring_one() const noexcept {
        if (ends_.size() == 1) [[likely]] {
            ends_.front().bell.ring(ends_.front().bit);
            return;
        }
        for (const End& end : ends_) end.bell.announce(end.bit);
        for (const End& end : ends_) {
            if (end.bell.wake_if_idle()) return;
        }
        for (const End& end : ends_) end.bell.wake_if_called();
    }

    // For what all of them have to know.
    void ring_all() const noexcept {
        for (const End& end : ends_) end.bell.ring(end.bit);
    }

private:
    struct End {
        Bell bell;
        unsigned bit;
    };

    std::vector<End> ends_;
};

using ConsumerBells = BasicConsumerBells<SharedMemory>;

}  // namespace steadyflow
