// The receiving end of a pipeline: of one ring or, where replicas send into it, of one ring for each of them, a lane.
//
// Order. What a replica sends while it works on a block carries that block's position in the replicas' input ring: its
// origin. A receiver that restores the order takes, of the oldest blocks of all lanes, the one with the smallest origin,
// once no block before that origin is in a replica's hands. It looks at slot words only, and holds nothing back.
//
// Why that is the order of the input
// - A replica claims the oldest block that waits, so the origins of its lane grow. It sends before it finishes, so whoever
//   sees an input block finished sees everything that was made of it.
// - An origin that can be seen was written into the input ring, and so was everything before it. What is in no replica's
//   hands any more was answered, or dropped. That never changes back, so it is looked at once for each position.
// - A block that was given back by a reaper holds nobody up: its results come late, after those that overtook it. They
//   cannot come in order, since the replica that repeats it may have sent later ones into its lane before.
//
// Why nobody waits for ever
// - Let Y be the first position that is in a living replica's hands. That replica works, or waits for room in a lane whose
//   oldest block has an origin of at most Y: so that block is taken, and there is room. A lane that is full of later blocks
//   stops its own replica only.
// - A replica that finishes a block rings the receiver, with or without a result. Lanes that have all ended are taken as
//   they are.
//
// DISCONTINUITY. Each lane numbers its own blocks, so it is the next block of a lane that says what the lane dropped. Which
// blocks of other lanes came between cannot be known: an origin that is missing may be one of which nothing was made.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "ring_consumer.hpp"

namespace steadyflow {

// How far the replicas have come with their input. Only reads; wait-free.
template <class Memory>
class BasicInputProgress {
public:
    using Ring = BasicRing<Memory>;

    explicit BasicInputProgress(Ring input) : input_(std::move(input)) {
        if (input_.count() == 0) throw Corrupted("a fused pipeline has no slots whose order could be restored");
    }

    // Whether every position before this one is known to be answered.
    bool knows(std::uint64_t position) const noexcept { return position <= answered_; }

    // Looks again; true if it is so now. Only of positions up to one that was seen as an origin: those have been written.
    bool learns(std::uint64_t position) noexcept {
        if (position - answered_ > input_.count()) return knows_after_leap(position);
        for (; answered_ < position; ++answered_) {
            const SlotWord word = load(input_.slot(answered_));
            if (in_hand(word) && word.position() == answered_) return false;
        }
        return true;
    }

private:
    static bool in_hand(SlotWord word) noexcept {
        return (word.state() == SlotState::claimed || word.state() == SlotState::ready) && word.attempt() == 0;
    }

    // More positions than slots: most were used up, so the slots are asked instead.
    bool knows_after_leap(std::uint64_t position) noexcept {
        std::uint64_t first = position;
        for (std::uint32_t index = 0; index < input_.count(); ++index) {
            const SlotWord word = load(input_.slot(index));
            // What is answered is in nobody's hands any more, whatever a damaged slot says.
            if (in_hand(word) && word.position() >= answered_) first = std::min(first, word.position());
        }
        answered_ = first;
        return knows(position);
    }

    Ring input_;
    std::uint64_t answered_ = 0;  // no position before this one is in a replica's hands
};

template <class Memory>
class BasicLanes {
public:
    using Ring = BasicRing<Memory>;
    using RingConsumer = BasicRingConsumer<Memory>;
    using Claim = BasicClaim<Memory>;
    using Head = BasicHead<Memory>;

    struct Lane {
        RingConsumer consumer;
        std::shared_ptr<std::atomic<std::int64_t>> kept = std::make_shared<std::atomic<std::int64_t>>(0);  // views alive
    };

    explicit BasicLanes(RingConsumer only) { add(std::move(only)); }

    // Control plane, before the flow starts; the only calls that allocate.
    void add(RingConsumer another) { lanes_.push_back(Lane{std::move(another)}); }
    void restore_order_of(Ring input) { order_.emplace(std::move(input)); }

    Lane& first() noexcept { return lanes_.front(); }

    // When the block that comes next was sent, or -1 if none does yet. A hint where others compete. Wait-free.
    // Throws Corrupted, as the rest, where a slot of a ring holds what no slot can.
    Nanoseconds peek_sent_ns() {
        if (lanes_.size() == 1) [[likely]] return lanes_.front().consumer.peek_sent_ns();
        return next().head.sent_ns;
    }

    // Claims the block that comes next; returns its lane, or null if there is none. Wait-free but for losing against
    // competitors. Throws Corrupted as RingConsumer does.
    Lane* claim(Claim& claim) {
        if (lanes_.size() == 1) [[likely]] return lanes_.front().consumer.claim(claim) ? &lanes_.front() : nullptr;
        for (;;) {
            const Choice choice = next();
            if (choice.lane == nullptr || choice.lane->consumer.claim(choice.head, claim)) return choice.lane;
        }
    }

    // Whether all lanes have ended and nothing waits any more.
    bool at_end() {
        return std::all_of(lanes_.begin(), lanes_.end(), [](Lane& lane) { return lane.consumer.at_end(); });
    }

    // Whether a rule dropped blocks after the last one that was claimed. Once at_end() is true.
    bool misses_the_last() const noexcept {
        return std::any_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.consumer.misses_the_last(); });
    }

    // From where numbers go on in a ring that follows, so that none comes twice: lanes number their own. Once at_end() is true.
    std::uint64_t sequence_after() const noexcept {
        std::uint64_t latest = 0;
        for (const Lane& lane : lanes_) latest = std::max(latest, lane.consumer.sequence_after());
        return latest;
    }

    // For whoever waits in vain: the next look does not trust the shared positions. Throws Corrupted if a ring was
    // overwritten.
    void look_again() {
        for (Lane& lane : lanes_) lane.consumer.look_again();
    }

private:
    struct Choice {
        Lane* lane = nullptr;
        Head head = {};
    };

    Choice next() {
        // All or none, so that no later block goes past one in a lane that was paused a moment before the others.
        if (paused()) return {};
        if (!order_) return smallest([](const Head& head) { return head.sent_ns; });
        bool complete = false;
        for (;;) {
            // Looked at after what is known of the input, so nothing that comes before can be missing.
            const Choice choice = smallest([](const Head& head) { return head.origin; });
            if (choice.lane == nullptr || complete || order_->knows(choice.head.origin)) return choice;
            if (order_->learns(choice.head.origin)) continue;
            complete = all_ended();
            if (!complete) return {};
        }
    }

    template <class Key>
    Choice smallest(Key key) {
        Choice choice;
        for (Lane& lane : lanes_) {
            const Head head = lane.consumer.peek();
            if (head.slot != nullptr && (choice.lane == nullptr || key(head) < key(choice.head))) choice = {&lane, head};
        }
        return choice;
    }

    bool paused() const noexcept {
        return std::any_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.consumer.ring().paused(); });
    }

    bool all_ended() const {
        return std::all_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return lane.consumer.ring().ended(); });
    }

    std::vector<Lane> lanes_;
    std::optional<BasicInputProgress<Memory>> order_;
};

using Lanes = BasicLanes<SharedMemory>;

}  // namespace steadyflow
