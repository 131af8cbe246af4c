// The room that inputs of one consumer share: the least important one gives way first.
//
// Each may hold its own buffer_size; what others have left of theirs is lent to whoever needs it. Where all of it is taken, the
// oldest block of the least important one goes that has any, and is less important than who needs room.
//
// Invariants
// - What is lent is derived: a ring holds more than its buffer_size only where together they hold no more than all of theirs.
// - Nobody counts for others: each looks at the slots of all when its own room does not do. Between two looks others may send, so
//   together they may hold a few blocks more, one of each that sends at the same time.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "recovery.hpp"
#include "ring_producer.hpp"

namespace steadyflow {

// Of one ring's producer. One thread at a time, as that.
class SharedRoom {
public:
    // `rank`: 0 is the most important.
    explicit SharedRoom(unsigned rank) noexcept : rank_(rank) {}

    // Another input of the same consumer. Allocates.
    void add(Ring ring, unsigned rank) {
        if (ring.count() == 0) throw Corrupted("a fused pipeline has no room to share");
        ring.segment()->require_writable("share room");
        auto place = others_.begin();
        while (place != others_.end() && place->rank >= rank) ++place;
        others_.insert(place, Other{std::move(ring), rank});
    }

    // Whether a block may become READY, because some of the room is not taken. Wait-free.
    bool has_room(RingProducer& own, BlockSize size) const noexcept {
        if (!may_hold_more(own) || !own.has_bytes_and_frames(size)) return false;
        std::uint64_t room = own.ring().buffer_size();
        std::uint64_t taken = own.waiting_blocks();
        for (const Other& other : others_) {
            if (!shares(other)) continue;
            room += other.ring.buffer_size();
            taken += waiting_in(other.ring);
        }
        return taken < room;
    }

    // Drops the oldest blocks of the least important inputs, and where no less important one has any, of this one, until there is
    // room. Wait-free.
    void make_room(RingProducer& own, BlockSize size) const noexcept {
        if (may_hold_more(own) && own.has_bytes_and_frames(size)) {
            while (!has_room(own, size) && take()) continue;
        }
        own.evict_until(Reason::oldest, [&] { return own.has_room(size) || has_room(own, size); });
    }

private:
    struct Other {
        Ring ring;
        unsigned rank;
    };

    // By the slots that it has.
    static bool may_hold_more(RingProducer& own) noexcept { return own.waiting_blocks() < own.ring().most_waiting(); }

    // Drops the oldest block of the least important input that has any; false if none is less important than this one.
    bool take() const noexcept {
        for (const Other& other : others_) {  // the least important come first
            if (other.rank <= rank_) return false;
            if (shares(other) && evict_oldest(other.ring, Reason::outranked)) return true;
        }
        return false;
    }

    // Not where it has been switched to another rule, or has ended, because another ring has taken its place.
    static bool shares(const Other& other) noexcept {
        return other.ring.rule().kind == RuleKind::drop_by_priority && other.ring.header().ended.load(std::memory_order_relaxed) == 0;
    }

    static std::uint64_t waiting_in(const Ring& ring) noexcept {
        std::uint64_t waiting = 0;
        for (std::uint32_t index = 0; index < ring.count(); ++index) {
            if (load(ring.slot(index)).state() == SlotState::ready) ++waiting;
        }
        return waiting;
    }

    unsigned rank_;
    std::vector<Other> others_;  // the least important first
};

}  // namespace steadyflow
