// Memory as C++20 lets threads see it: per location all messages that were written, per thread a view of them.
//
// The semantics of views of Kang et al., "A promising semantics for relaxed-memory concurrency" (POPL 2017), without
// promises, with release sequences as C++20 has them, and sequential consistency by SequentialOrder:
// - A message lies somewhere in the modification order of its location, and carries what its writer released with it.
// - A thread may read any message that is not older than the newest one it knows of.
// - A store may go anywhere behind what its thread knows, but not between a read-modify-write and what that read.
// - Every execution is a sequence of steps, so no cycle of reads-from and program order: loads are not delayed behind
//   later stores of their own thread (load buffering). That is the one thing that C++20 allows and this does not.
//
// Plain fields have one value, and a data race is reported whenever two accesses of which one is a write are not ordered.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "sequential_order.hpp"
#include "view.hpp"

namespace steadyflow::model {

constexpr bool acquires(std::memory_order order) noexcept {
    return order == std::memory_order_acquire || order == std::memory_order_acq_rel || order == std::memory_order_seq_cst;
}
constexpr bool releases(std::memory_order order) noexcept {
    return order == std::memory_order_release || order == std::memory_order_acq_rel || order == std::memory_order_seq_cst;
}

struct Message {
    std::uint64_t value = 0;
    View released = {};
    bool updates = false;       // written by a read-modify-write that read the message before it
    std::uint8_t explored = 0;  // bit per thread: what follows from its reading this was explored before (Explorer)
};

class WeakMemory {
public:
    // `fences`: whether any thread uses sequentially consistent fences; if none does, fewer accesses need to be recorded.
    void clear(bool fences) noexcept {
        fences_ = fences;
        for (std::vector<Message>& order : messages_) order.clear();
        for (Knowledge& knowledge : threads_) knowledge = {};
        sequential_.clear();
    }

    // Messages of a location in modification order; the first one was there before the threads.
    std::vector<Message>& messages(unsigned location) noexcept { return messages_[location]; }
    unsigned oldest_readable(unsigned thread, unsigned location) const noexcept {
        return threads_[thread].current.position[location];
    }
    // Whether a write can go directly behind this message.
    bool open_behind(unsigned location, unsigned at) const noexcept {
        return at + 1 == messages_[location].size() || !messages_[location][at + 1].updates;
    }

    // Whether a thread that reads `at` can do all that it could do had it read `other`, a newer message of the same value:
    // what it knows afterwards is no more.
    bool as_free(unsigned thread, unsigned location, unsigned at, unsigned other, std::memory_order order) const {
        if (order == std::memory_order_seq_cst) return false;
        const Knowledge& knowledge = threads_[thread];
        View mine = acquires(order) ? knowledge.current : knowledge.acquirable;
        View others = mine;
        mine.join(messages_[location][at].released);
        others.join(messages_[location][other].released);
        // Behind a sequentially consistent fence an older read restricts the order of all such operations more.
        return mine.within(others) && !sequential_.fence_within(acquires(order) ? mine : knowledge.current);
    }

    std::uint64_t read(unsigned thread, std::uint16_t step, unsigned location, unsigned at, std::memory_order order) {
        record(thread, step, location, at, false, order, [&] { acquire(thread, location, at, order); });
        return messages_[location][at].value;
    }

    // `at`: its place in the modification order.
    void write(unsigned thread, std::uint16_t step, unsigned location, unsigned at, std::uint64_t value,
               std::memory_order order) {
        record(thread, step, location, at, true, order, [&] { insert(thread, step, location, at, value, order); });
    }

    // A read-modify-write that reads the message `at` and writes directly behind it.
    void update(unsigned thread, std::uint16_t step, unsigned location, unsigned at, std::uint64_t value,
                std::memory_order order) {
        record(thread, step, location, at + 1, true, order, [&] {
            acquire(thread, location, at, order);
            insert(thread, step, location, at + 1, value, order);
            Message& message = messages_[location][at + 1];
            message.updates = true;
            // It continues the release sequence that it found.
            message.released.join(messages_[location][at].released);
        });
    }

    void fence(unsigned thread, std::uint16_t step, std::memory_order order) {
        Knowledge& knowledge = threads_[thread];
        const View before = knowledge.current;
        if (acquires(order)) knowledge.current = knowledge.acquirable;
        if (releases(order)) {
            knowledge.releasable = knowledge.current;
            knowledge.releasable.clock[thread] = step;
        }
        if (order == std::memory_order_seq_cst) {
            sequential_.add_fence(thread, step, before, knowledge.current);
            knowledge.current.clock[thread] = step;  // the thread's own fence lies within what it knows, too
            knowledge.acquirable.clock[thread] = step;
        }
    }

    // All that `other` did happened before what `thread` does from now on.
    void join(unsigned thread, unsigned other, std::uint16_t steps_of_other) {
        View all = threads_[other].current;
        all.clock[other] = steps_of_other;
        threads_[thread].current.join(all);
        threads_[thread].acquirable.join(all);
    }

    bool happened_before(unsigned earlier, std::uint16_t step, unsigned thread) const noexcept {
        return earlier == thread || threads_[thread].current.clock[earlier] >= step;
    }
    // Whether the sequentially consistent operations so far can be put in one order. What has no such order cannot happen.
    bool consistent() const { return sequential_.exists(); }

private:
    struct Knowledge {
        View current = {};     // happened before the thread's next step
        View acquirable = {};  // would have, had each read been an acquire; an acquire fence makes it current
        View releasable = {};  // what relaxed stores release: the current view at the last release fence
    };

    template <class Access>
    void record(unsigned thread, std::uint16_t step, unsigned location, unsigned at, bool writes, std::memory_order order,
                Access access) {
        const bool sequential = order == std::memory_order_seq_cst;
        if (!sequential && !fences_) return access();
        const View before = threads_[thread].current;
        access();
        sequential_.add_access(thread, step, location, at, writes, sequential, before, threads_[thread].current);
    }

    void acquire(unsigned thread, unsigned location, unsigned at, std::memory_order order) {
        Knowledge& knowledge = threads_[thread];
        const View& released = messages_[location][at].released;
        if (acquires(order)) knowledge.current.join(released);
        knowledge.acquirable.join(released);
        knowledge.current.see(location, at);
        knowledge.acquirable.see(location, at);
    }

    void insert(unsigned thread, std::uint16_t step, unsigned location, unsigned at, std::uint64_t value,
                std::memory_order order) {
        std::vector<Message>& messages = messages_[location];
        if (at != messages.size()) shift(location, at);
        Knowledge& knowledge = threads_[thread];
        knowledge.current.see(location, at);
        knowledge.acquirable.see(location, at);
        Message message;
        message.value = value;
        message.released = knowledge.releasable;
        if (releases(order)) {
            message.released = knowledge.current;
            message.released.clock[thread] = step;
        }
        message.released.see(location, at);
        messages.insert(messages.begin() + at, message);
    }

    void shift(unsigned location, unsigned at) noexcept {
        for (std::vector<Message>& messages : messages_) {
            for (Message& message : messages) message.released.shift(location, at);
        }
        for (Knowledge& knowledge : threads_) {
            knowledge.current.shift(location, at);
            knowledge.acquirable.shift(location, at);
            knowledge.releasable.shift(location, at);
        }
        sequential_.shift(location, at);
    }

    std::vector<Message> messages_[max_shared];
    Knowledge threads_[max_threads] = {};
    SequentialOrder sequential_ = {};
    bool fences_ = false;
};

}  // namespace steadyflow::model
