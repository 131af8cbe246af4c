// The producing end of a ring: makes room, publishes, evicts, recycles what is finished, and tallies its fate.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>

#include "buffers.hpp"
#include "ring.hpp"

namespace steadyflow {

// The producing end. One thread at a time (the port serialises its callers). The successor of a producer that died comes
// after take_over().
template <class Memory>
class BasicRingProducer {
public:
    using Ring = BasicRing<Memory>;
    using Slot = BasicSlot<Memory>;
    using Header = BasicRingHeader<Memory>;
    using Tally = BasicTally<Memory>;
    using BufferPool = BasicBufferPool<Memory>;

    BasicRingProducer(Ring ring, BufferPool* pool) : ring_(std::move(ring)), pool_(pool) {
        ring_.segment()->require_writable("send into a ring");
        if (pool_ != nullptr && *pool_) pool_->segment()->require_writable("send into a ring");
        if (ring_.count() < ring_.consumers() + 2) throw Corrupted("the ring has too few slots to send into");
        // relaxed: a predecessor is gone, which whoever says so has ordered before this.
        tail_ = ring_.header().tail.load(std::memory_order_relaxed);
        ring_.require_possible_slots();
        require_slots_before_tail();
        // Here and never again: sending allocates nothing.
        mask_ = std::bit_ceil(ring_.count()) - 1;
        waiting_ = std::make_unique<std::uint64_t[]>(mask_ + 1);
        find_waiting();
    }

    const Ring& ring() const noexcept { return ring_; }

    // Whether one more block may become READY. Wait-free; looks at each block once.
    bool has_room() noexcept { return waiting_below(ring_.buffer_size()); }

    // Turns the oldest READY blocks into EVICTED until fewer than `keep` wait. Wait-free.
    void evict_down_to(std::uint64_t keep, Reason reason) noexcept {
        // Fewer wait after each round: evicted here, or a consumer was quicker.
        while (!waiting_below(std::max<std::uint64_t>(keep, 1))) evict(waiting(first_), reason);
    }

    // Makes one block READY. The caller has made room. Returns false if every slot is occupied, which only a damaged
    // segment can cause.
    bool publish(const BlockHeader& block, Nanoseconds sent_ns, std::uint64_t origin = 0) noexcept {
        std::uint64_t position = tail_;
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
        waiting_[last_++ & mask_] = position;
        Header& header = ring_.header();
        // relaxed: whatever value a consumer sees, no READY slot lies before it, now or later.
        header.oldest.store(waiting(first_), std::memory_order_relaxed);
        // release: a consumer that meets an old word at its cursor learns from tail that the position was skipped.
        header.tail.store(tail_, std::memory_order_release);
        add(header.bytes, block.payload_bytes);
        // The acknowledgement; release: an observer that sees it sees the slot.
        header.published.store(header.published.load(std::memory_order_relaxed) + 1, std::memory_order_release);
        if (last_ - first_ > header.peak_fill.load(std::memory_order_relaxed)) {
            forget_taken();
            const std::uint64_t fill = std::min(last_ - first_, ring_.buffer_size());
            if (fill > header.peak_fill.load(std::memory_order_relaxed)) {
                header.peak_fill.store(fill, std::memory_order_relaxed);
            }
        }
        return true;
    }

    // Counts a block that never entered the ring: sent and dropped by the same store.
    void drop(Reason reason, std::uint64_t payload_bytes) noexcept {
        add(ring_.header().bytes, payload_bytes);
        switch_tally([reason](Tally& tally) {
            add(tally.dropped[static_cast<unsigned>(reason)]);
            add(tally.refused);
        });
    }

    // Asks to be woken when half of the buffer is claimed; then the caller looks once more and sleeps on its bell.
    void request_wake() noexcept {
        const std::uint64_t half = ring_.buffer_size() / 2;
        std::uint64_t position = tail_ > half ? tail_ - half : 1;
        // What was given back lies far behind the tail, and may be all that waits: the next claim, then. relaxed: who
        // claims changes the state alone.
        if (first_ < last_) {
            const SlotWord oldest{ring_.slot(waiting(first_)).word.load(std::memory_order_relaxed)};
            if (oldest.attempt() != 0) position = oldest.position() + 1;
        }
        // The fence pairs with RingConsumer::claim, which claims first and looks here afterwards: either the caller's next
        // look sees the claim, or the claim sees the request. relaxed: before the fence, that is enough.
        ring_.header().wake_position.store(position, std::memory_order_relaxed);
        Memory::fence(std::memory_order_seq_cst);
    }
    void cancel_wake() noexcept { ring_.header().wake_position.store(0, std::memory_order_relaxed); }

    void note_full(bool full) noexcept {
        if (full && !was_full_) add(ring_.header().full_events);
        was_full_ = full;
    }
    void note_blocked(Nanoseconds duration) noexcept {
        add(ring_.header().blocked_ns, static_cast<std::uint64_t>(std::max<Nanoseconds>(duration, 0)));
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

    std::uint64_t waiting(std::uint64_t index) const noexcept { return waiting_[index & mask_]; }

    bool waiting_below(std::uint64_t limit) noexcept {
        if (last_ - first_ < limit && !given_back()) return true;
        forget_taken();
        return last_ - first_ < limit;
    }

    // Whether a reaper gave slots back since the last look. relaxed: find_waiting() looks again before the slots.
    bool given_back() const noexcept { return ring_.header().epoch.load(std::memory_order_relaxed) != epoch_; }

    // Consumers take the oldest first, so what was taken is at the front.
    void forget_taken() noexcept {
        if (given_back()) find_waiting();
        while (first_ < last_) {
            const std::uint64_t position = waiting(first_);
            const SlotWord word = load(ring_.slot(position));
            if (word.state() == SlotState::ready && word.position() == position) break;
            ++first_;
        }
    }

    // After a reaper or a predecessor: what waits is in the slots.
    void find_waiting() noexcept {
        // Before the look at the slots: what is given back after it is looked at again. acquire: pairs with the reaper's
        // store, which comes after the slots.
        epoch_ = ring_.header().epoch.load(std::memory_order_acquire);
        first_ = 0;
        last_ = 0;
        for (std::uint32_t index = 0; index < ring_.count(); ++index) {
            const SlotWord word = load(ring_.slot(index));
            if (word.state() == SlotState::ready) waiting_[last_++] = word.position();
        }
        std::sort(waiting_.get(), waiting_.get() + last_);
    }

    // Blocks so far, which is the number of the next one. relaxed: only producers write these.
    std::uint64_t sent() const noexcept {
        const Header& header = ring_.header();
        const Tally& tally = header.tallies[header.tally_version.load(std::memory_order_relaxed) & 1];
        return header.published.load(std::memory_order_relaxed) + tally.refused.load(std::memory_order_relaxed);
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

    void recycle(Slot& slot, SlotWord word, std::uint64_t next_position) noexcept {
        const bool delivered = word.state() == SlotState::done;
        const unsigned reason = std::min(word.owner(), reasons - 1);
        // A predecessor may have died after the tally and before EMPTY. relaxed: only producers write it.
        const Header& header = ring_.header();
        const Tally& counted = header.tallies[header.tally_version.load(std::memory_order_relaxed) & 1];
        if (counted.last_position.load(std::memory_order_relaxed) != word.position() + 1) {
            switch_tally([&](Tally& tally) {
                if (delivered) add(tally.delivered);
                else add(tally.dropped[reason]);
                if (delivered && word.attempt() != 0) add(tally.repeated);
                tally.last_position.store(word.position() + 1, std::memory_order_relaxed);
            });
        }
        const std::uint32_t buffer = slot.header.read().buffer;
        if (pool_ != nullptr && pool_->contains(buffer)) pool_->clear_branch(buffer, ring_.branch());
        // release: a successor that sees EMPTY sees the tally that counted the block.
        slot.word.store(SlotWord::make(SlotState::empty, next_position).bits, std::memory_order_release);
    }

    template <class Change>
    void switch_tally(Change change) noexcept {
        Header& header = ring_.header();
        const std::uint64_t version = header.tally_version.load(std::memory_order_relaxed);
        // release: a reader that meets one of the stores below in the record that it is reading also sees the version
        // that was stored before them, and reads again.
        Memory::fence(std::memory_order_release);
        const Tally& now = header.tallies[version & 1];
        Tally& next = header.tallies[(version + 1) & 1];
        const auto copy = [](auto& to, const auto& from) {
            to.store(from.load(std::memory_order_relaxed), std::memory_order_relaxed);
        };
        copy(next.delivered, now.delivered);
        for (unsigned reason = 0; reason < reasons; ++reason) copy(next.dropped[reason], now.dropped[reason]);
        copy(next.refused, now.refused);
        copy(next.repeated, now.repeated);
        copy(next.last_position, now.last_position);
        change(next);
        // release: the one store that makes the new record the valid one.
        header.tally_version.store(version + 1, std::memory_order_release);
    }

    Ring ring_;
    BufferPool* pool_;
    std::uint64_t tail_;
    std::uint32_t epoch_ = 0;
    // Positions of the blocks that may still be READY, oldest first: entries first_ to last_, modulo its size.
    std::unique_ptr<std::uint64_t[]> waiting_;
    std::uint64_t mask_ = 0;
    std::uint64_t first_ = 0;
    std::uint64_t last_ = 0;
    bool was_full_ = false;
};

using RingProducer = BasicRingProducer<SharedMemory>;

}  // namespace steadyflow
