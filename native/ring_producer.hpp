// The producing end of a ring: makes room, publishes, evicts, recycles what is finished, and tallies its fate.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>

#include "block_flags.hpp"
#include "buffers.hpp"
#include "ring.hpp"

namespace steadyflow {

// How many blocks behind its pace a sender may catch up.
inline constexpr Nanoseconds most_caught_up = 4;
// Or more, where they come faster than a sleep is exact.
inline constexpr Nanoseconds most_caught_up_ns = 2'000'000;

// The producing end. One thread at a time (the port serialises its callers). The successor of a producer that died comes
// after take_over().
template <class Memory>
class BasicRingProducer {
public:
    using Ring = BasicRing<Memory>;
    using Slot = BasicSlot<Memory>;
    using Header = BasicRingHeader<Memory>;
    using Deliveries = BasicDeliveries<Memory>;
    using Drops = BasicDrops<Memory>;
    using BufferPool = BasicBufferPool<Memory>;

    BasicRingProducer(Ring ring, BufferPool* pool) : ring_(std::move(ring)), pool_(pool) {
        ring_.segment()->require_writable("send into a ring");
        if (pool_ != nullptr && *pool_) pool_->segment()->require_writable("send into a ring");
        if (ring_.count() < ring_.consumers() + 2) throw Corrupted("the ring has too few slots to send into");
        // relaxed: a predecessor is gone, which whoever says so has ordered before this.
        tail_ = ring_.header().tail.load(std::memory_order_relaxed);
        behind_ = tail_ > ring_.count() ? tail_ - ring_.count() : 0;
        ring_.require_possible_slots();
        require_slots_before_tail();
        // A predecessor may have died while it waited.
        ring_.header().blocked_since_ns.store(0, std::memory_order_relaxed);
        // Here and never again: sending allocates nothing.
        mask_ = std::bit_ceil(ring_.count()) - 1;
        waiting_ = std::make_unique<Waiting[]>(mask_ + 1);
        find_waiting();
    }

    const Ring& ring() const noexcept { return ring_; }

    // Whether a block of this size may become READY: whether none of the three limits would be exceeded. A block that is larger
    // than a limit by itself waits alone. Wait-free; looks at each block once.
    bool has_room(BlockSize size = {}) noexcept {
        if (fits(size) && !given_back()) return true;
        forget_taken();
        return fits(size);
    }

    // Whether a block of this size would exceed the limits in bytes and frames. Wait-free; looks at each block once.
    bool has_bytes_and_frames(BlockSize size) noexcept {
        forget_taken();
        return fits_beside(0, bytes_, frames_, size);
    }

    // Whether evict_for() would make room: not where so many control blocks wait. Wait-free.
    bool can_make_room(BlockSize size) noexcept {
        if (kept_ == 0) return true;
        if (has_room(size)) return true;
        std::uint64_t count = 0;
        BlockSize sum;
        for (std::uint64_t index = first_; index < last_; ++index) {
            const Waiting& each = waiting(index);
            if (!each.is_control) continue;
            ++count;
            sum = {sum.bytes + each.size.bytes, sum.frames + each.size.frames};
        }
        return fits_beside(count, sum.bytes, sum.frames, size);
    }

    // Turns the oldest READY blocks into EVICTED, but for control blocks, until there is room. Wait-free.
    void evict_for(BlockSize size, Reason reason) noexcept {
        evict_until(reason, [&] { return has_room(size); });
    }
    // The same, until fewer than `keep` wait. Wait-free.
    void evict_down_to(std::uint64_t keep, Reason reason) noexcept {
        evict_until(reason, [&] {
            forget_taken();
            return last_ - first_ < std::max<std::uint64_t>(keep, 1);
        });
    }

    // Turns the oldest READY blocks into EVICTED, but for control blocks, one after the other until it is enough. Wait-free: fewer wait
    // after each round, because one was evicted here, or a consumer was quicker.
    template <class Enough>
    void evict_until(Reason reason, Enough enough) noexcept {
        while (!enough()) {
            // After that look, which may have found all of them anew.
            std::uint64_t index = first_;
            while (index < last_ && waiting(index).is_control) ++index;
            if (index == last_) return;
            evict(waiting(index).position, reason);
            forget(waiting(index));
            // What stays moves up into its place.
            for (std::uint64_t place = index; place > first_; --place) waiting(place) = waiting(place - 1);
            ++first_;
        }
    }

    // How many blocks wait. Wait-free; looks at each block once.
    std::uint64_t waiting_blocks() noexcept {
        forget_taken();
        return last_ - first_;
    }

    // When the next block may be sent by the pace that the control plane has set; 0: at once.
    Nanoseconds due_ns() const noexcept {
        const Nanoseconds pace_ns = ring_.pace_ns();
        return pace_ns == 0 || paced_from_ns_ == 0 ? 0 : paced_from_ns_ + pace_ns;
    }

    // Makes one block READY. The caller has made room. Returns false if every slot is occupied, which only a damaged
    // segment can cause.
    bool publish(const BlockHeader& block, Nanoseconds sent_ns, std::uint64_t origin = 0) noexcept {
        std::uint64_t position = tail_;
        const BlockSize size = size_of(block);
        for (std::uint32_t looked = 0;; ++looked, ++position) {
            if (looked > ring_.count()) return false;
            Slot& slot = ring_.slot(position);
            const SlotWord word = load(slot);
            if (word.state() == SlotState::done || word.state() == SlotState::evicted) recycle(slot, word, position);
            // Claimed, or waiting for longer than a lap: this position is skipped.
            else if (word.state() != SlotState::empty) continue;
            BlockHeader numbered = block;
            numbered.sequence = sent();
            slot.header.write(numbered);
            ring_.set_size(position, SlotSize::make(size, is_control(block)));
            slot.sent_ns.store(sent_ns, std::memory_order_relaxed);
            // release: whoever peeks at it too late also sees that the slot is no longer the one it was.
            slot.origin.store(Origin::make(origin, position).bits, std::memory_order_release);
            // release: the fields above belong to whoever claims the slot.
            slot.word.store(SlotWord::make(SlotState::ready, position).bits, std::memory_order_release);
            break;
        }
        tail_ = position + 1;
        // Only where nobody asked for room before is it full, of blocks that were taken.
        if (last_ - first_ > mask_) forget_taken();
        note_waiting({position, size, is_control(block)});
        if (const Nanoseconds pace_ns = ring_.pace_ns()) [[unlikely]] {
            // Who slept for too long may catch up by a few blocks, so that the rate is kept.
            paced_from_ns_ = std::max(due_ns(), sent_ns - std::max(most_caught_up * pace_ns, most_caught_up_ns));
        }
        // Where there are more slots than buffers for them, none may keep one for a whole lap.
        if (ring_.most_waiting() > ring_.buffer_size()) [[unlikely]] recycle_behind();
        Header& header = ring_.header();
        // relaxed: whatever value a consumer sees, no READY slot lies before it, now or later.
        header.oldest.store(waiting(first_).position, std::memory_order_relaxed);
        // release: a consumer that meets an old word at its cursor learns from tail that the position was skipped.
        header.tail.store(tail_, std::memory_order_release);
        add(header.bytes, block.payload_bytes);
        // The acknowledgement; release: an observer that sees it sees the slot.
        header.published.store(header.published.load(std::memory_order_relaxed) + 1, std::memory_order_release);
        if (last_ - first_ > header.peak_fill.load(std::memory_order_relaxed)) {
            forget_taken();
            const std::uint64_t fill = std::min(last_ - first_, ring_.most_waiting());
            if (fill > header.peak_fill.load(std::memory_order_relaxed)) {
                header.peak_fill.store(fill, std::memory_order_relaxed);
            }
        }
        return true;
    }

    // Counts a block that never entered the ring: sent and dropped by the same store.
    void drop(Reason reason, BlockSize size) noexcept {
        add(ring_.header().bytes, size.bytes);
        switch_drops([&](Drops& drops) {
            add(drops.dropped[static_cast<unsigned>(reason)]);
            add(drops.frames[static_cast<unsigned>(reason)], size.frames);
            add(drops.refused);
        });
    }
    static BlockSize size_of(const BlockHeader& block) noexcept { return {block.payload_bytes, block.frames}; }
    static bool is_control(const BlockHeader& block) noexcept { return (block.flags & flags_of_control) != 0; }

    // Blocks so far, which is the number of the next one. relaxed: only producers write these.
    std::uint64_t sent() const noexcept {
        const Header& header = ring_.header();
        return header.published.load(std::memory_order_relaxed) +
               header.drops.now().refused.load(std::memory_order_relaxed);
    }

    // Asks to be woken when half of the buffer is claimed; then the caller looks once more and sleeps on its bell.
    void request_wake() noexcept {
        const std::uint64_t half = ring_.buffer_size() / 2;
        std::uint64_t position = tail_ > half ? tail_ - half : 1;
        // What was given back lies far behind the tail, and may be all that waits: the next claim, then. relaxed: who
        // claims changes the state alone.
        if (first_ < last_) {
            const SlotWord oldest{ring_.slot(waiting(first_).position).word.load(std::memory_order_relaxed)};
            if (oldest.attempt() != 0) position = oldest.position() + 1;
        }
        // The fence pairs with RingConsumer::claim, which claims first and looks here afterwards: either the caller's next
        // look sees the claim, or the claim sees the request. relaxed: before the fence, that is enough.
        ring_.header().wake_position.store(position, std::memory_order_relaxed);
        Memory::fence(std::memory_order_seq_cst);
    }
    void cancel_wake() noexcept { ring_.header().wake_position.store(0, std::memory_order_relaxed); }

    // Returns whether it became full.
    bool note_full(bool full) noexcept {
        const bool became_full = full && !was_full_;
        if (became_full) add(ring_.header().full_events);
        was_full_ = full;
        return became_full;
    }
    void begin_blocked(Nanoseconds now_ns) noexcept {
        ring_.header().blocked_since_ns.store(static_cast<std::uint64_t>(now_ns), std::memory_order_relaxed);
    }
    void note_blocked(Nanoseconds duration) noexcept {
        ring_.header().blocked_since_ns.store(0, std::memory_order_relaxed);
        add(ring_.header().blocked_ns, static_cast<std::uint64_t>(std::max<Nanoseconds>(duration, 0)));
    }
    void note_paced(Nanoseconds duration) noexcept {
        add(ring_.header().paced_ns, static_cast<std::uint64_t>(std::max<Nanoseconds>(duration, 0)));
    }

    // After the last block.
    void end() noexcept { ring_.end(); }
    bool ended() const { return ring_.ended(); }
    bool abandoned() const noexcept { return ring_.abandoned(); }

    // Tallies what is finished without sending anything. Accounts need it not, since they are derived; audits do: afterwards no
    // buffer has a branch bit of a block that is finished.
    void settle_tally() noexcept {
        for (std::uint32_t index = 0; index < ring_.count(); ++index) {
            Slot& slot = ring_.slot(index);
            const SlotWord word = load(slot);
            if (word.state() == SlotState::done || word.state() == SlotState::evicted) {
                recycle(slot, word, word.position());
            }
        }
    }

private:
    // Nothing that was sent lies beyond `tail`, which this end goes on from; nor do slots that are EMPTY, by more than a lap.
    void require_slots_before_tail() const {
        for (std::uint32_t index = 0; index < ring_.count(); ++index) {
            const SlotWord word = load(ring_.slot(index));
            const std::uint64_t limit = word.state() == SlotState::empty ? tail_ + ring_.count() + 1 : tail_;
            if (word.position() >= limit) {
                throw Corrupted("slot " + std::to_string(index) + " holds position " + std::to_string(word.position()) +
                                ", but the next one to be sent is " + std::to_string(tail_));
            }
        }
        if (tail_ != 0 && load(ring_.slot(tail_ - 1)).position() < tail_ - 1) {
            throw Corrupted("the next position to be sent is " + std::to_string(tail_) + ", but the one before it is not there");
        }
    }

    // A block that may still be READY.
    struct Waiting {
        std::uint64_t position;
        BlockSize size;
        bool is_control;  // no rule drops it
    };

    Waiting& waiting(std::uint64_t index) const noexcept { return waiting_[index & mask_]; }

    void note_waiting(const Waiting& block) noexcept {
        waiting(last_++) = block;
        bytes_ += block.size.bytes;
        frames_ += block.size.frames;
        kept_ += block.is_control ? 1 : 0;
    }
    void forget(const Waiting& block) noexcept {
        bytes_ -= block.size.bytes;
        frames_ -= block.size.frames;
        kept_ -= block.is_control ? 1 : 0;
    }

    bool fits(BlockSize size) const noexcept { return fits_beside(last_ - first_, bytes_, frames_, size); }
    bool fits_beside(std::uint64_t count, std::uint64_t bytes, std::uint64_t frames, BlockSize size) const noexcept {
        if (count >= ring_.buffer_size()) return false;
        if (bytes + frames == 0) return true;
        const std::uint64_t byte_limit = ring_.byte_limit();
        const std::uint64_t frame_limit = ring_.frame_limit();
        return (byte_limit == 0 || bytes + size.bytes <= byte_limit) &&
               (frame_limit == 0 || frames + size.frames <= frame_limit);
    }

    // Whether a reaper gave slots back since the last look. relaxed: find_waiting() looks again before the slots.
    bool given_back() const noexcept { return ring_.header().epoch.load(std::memory_order_relaxed) != epoch_; }

    // Consumers take the oldest first, so what was taken is at the front.
    void forget_taken() noexcept {
        if (given_back()) find_waiting();
        while (first_ < last_) {
            const std::uint64_t position = waiting(first_).position;
            const SlotWord word = load(ring_.slot(position));
            if (word.state() == SlotState::ready && word.position() == position) break;
            forget(waiting(first_++));
        }
    }

    // After a reaper or a predecessor: what waits is in the slots.
    void find_waiting() noexcept {
        // Before the look at the slots: what is given back after it is looked at again. acquire: pairs with the reaper's
        // store, which comes after the slots.
        epoch_ = ring_.header().epoch.load(std::memory_order_acquire);
        first_ = last_ = bytes_ = frames_ = kept_ = 0;
        for (std::uint32_t index = 0; index < ring_.count(); ++index) {
            const Slot& slot = ring_.slot(index);
            const SlotWord word = load(slot);
            if (word.state() != SlotState::ready) continue;
            // Producers alone write these, this one or the one before.
            const BlockHeader header = slot.header.read();
            note_waiting({word.position(), size_of(header), is_control(header)});
        }
        std::sort(waiting_.get(), waiting_.get() + last_,
                  [](const Waiting& one, const Waiting& other) { return one.position < other.position; });
    }

    bool evict(std::uint64_t position, Reason reason) noexcept {
        Slot& slot = ring_.slot(position);
        SlotWord word = load(slot);
        if (word.state() != SlotState::ready || word.position() != position) return false;
        const SlotWord evicted = word.with(SlotState::evicted, static_cast<std::uint64_t>(reason));
        // Fails if a consumer was quicker. relaxed: the look above acquired what came with the word, and what is evicted is
        // for the producer alone.
        return slot.word.compare_exchange_strong(word.bits, evicted.bits, std::memory_order_relaxed,
                                                 std::memory_order_relaxed);
    }

    // Recycles a few of the slots that are finished, the oldest first, up to the first that is not.
    void recycle_behind() noexcept {
        for (unsigned left = 4; left != 0 && behind_ < tail_; --left, ++behind_) {
            Slot& slot = ring_.slot(behind_);
            const SlotWord word = load(slot);
            if (word.position() != behind_ || word.state() == SlotState::empty) continue;  // it was skipped, or written anew
            if (word.state() != SlotState::done && word.state() != SlotState::evicted) return;
            recycle(slot, word, behind_);
        }
    }

    void recycle(Slot& slot, SlotWord word, std::uint64_t next_position) noexcept {
        // A predecessor may have died after the tally and before EMPTY. relaxed: only producers write it.
        const std::uint64_t counted = word.position() + 1;
        if (word.state() == SlotState::done) {
            if (ring_.header().deliveries.now().last_position.load(std::memory_order_relaxed) != counted) {
                switch_deliveries([&](Deliveries& deliveries) {
                    add(deliveries.delivered);
                    if (word.attempt() != 0) add(deliveries.repeated);
                    deliveries.last_position.store(counted, std::memory_order_relaxed);
                });
            }
        } else if (ring_.header().drops.now().last_position.load(std::memory_order_relaxed) != counted) {
            switch_drops([&](Drops& drops) {
                const unsigned reason = std::min(word.owner(), reasons - 1);
                add(drops.dropped[reason]);
                add(drops.frames[reason], ring_.size(word.position()).frames());
                drops.last_position.store(counted, std::memory_order_relaxed);
            });
        }
        const std::uint32_t buffer = slot.header.read().buffer;
        if (pool_ != nullptr && pool_->contains(buffer)) pool_->clear_branch(buffer, ring_.branch());
        // release: a successor that sees EMPTY sees the tally that counted the block.
        slot.word.store(SlotWord::make(SlotState::empty, next_position).bits, std::memory_order_release);
    }

    template <class Change>
    void switch_deliveries(Change change) noexcept {
        switch_tally(ring_.header().deliveries, change, [](Deliveries& next, const Deliveries& now) {
            copy(next.delivered, now.delivered);
            copy(next.repeated, now.repeated);
            copy(next.last_position, now.last_position);
        });
    }

    template <class Change>
    void switch_drops(Change change) noexcept {
        switch_tally(ring_.header().drops, change, [](Drops& next, const Drops& now) {
            for (unsigned reason = 0; reason < reasons; ++reason) {
                copy(next.dropped[reason], now.dropped[reason]);
                copy(next.frames[reason], now.frames[reason]);
            }
            copy(next.refused, now.refused);
            copy(next.last_position, now.last_position);
        });
    }

    template <class Atomic>
    static void copy(Atomic& to, const Atomic& from) noexcept {
        to.store(from.load(std::memory_order_relaxed), std::memory_order_relaxed);
    }

    template <class Record, class Change, class Copy>
    static void switch_tally(BasicTally<Record, Memory>& tally, Change change, Copy copy_record) noexcept {
        const std::uint64_t version = tally.version.load(std::memory_order_relaxed);
        // release: a reader that meets one of the stores below in the record that it is reading also sees the version
        // that was stored before them, and reads again.
        Memory::fence(std::memory_order_release);
        Record& next = tally.records[(version + 1) & 1];
        copy_record(next, tally.records[version & 1]);
        change(next);
        // release: the one store that makes the new record the valid one.
        tally.version.store(version + 1, std::memory_order_release);
    }

    Ring ring_;
    BufferPool* pool_;
    std::uint64_t tail_;
    std::uint64_t behind_ = 0;  // up to here, slots have been recycled before they are needed
    std::uint32_t epoch_ = 0;
    // The blocks that may still be READY, oldest first: entries first_ to last_, modulo its size.
    std::unique_ptr<Waiting[]> waiting_;
    std::uint64_t mask_ = 0;
    std::uint64_t first_ = 0;
    std::uint64_t last_ = 0;
    std::uint64_t bytes_ = 0;   // of those
    std::uint64_t frames_ = 0;  // likewise
    std::uint64_t kept_ = 0;    // control blocks among them
    Nanoseconds paced_from_ns_ = 0;  // the next block is due one pace later, whatever that is by then; 0: none was paced
    bool was_full_ = false;
};

using RingProducer = BasicRingProducer<SharedMemory>;

}  // namespace steadyflow
