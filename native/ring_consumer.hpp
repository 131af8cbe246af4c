// A consuming end of a ring: claims the oldest block that waits, and gives its slot back with its fate.
//
// Blocks are numbered when they are sent, the dropped ones too. So where the only consumer of a ring meets a number that does
// not follow the one before it, blocks in between were dropped, by whatever rule, and the block says DISCONTINUITY.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "bell.hpp"
#include "block_flags.hpp"
#include "buffers.hpp"
#include "ring.hpp"

namespace steadyflow {

// A claimed slot: the consumer's until it is finished.
template <class Memory>
struct BasicClaim {
    BasicSlot<Memory>* slot = nullptr;
    SlotWord word{0};
    BlockHeader header{};
    Nanoseconds sent_ns = 0;
};

// The oldest block that waits in a ring, looked at and not claimed.
template <class Memory>
struct BasicHead {
    BasicSlot<Memory>* slot = nullptr;  // null: none waits
    SlotWord word{0};
    std::uint64_t origin = 0;
    Nanoseconds sent_ns = -1;
};

// A consuming end; one thread at a time. Several ends of one ring compete.
template <class Memory>
class BasicRingConsumer {
public:
    using Ring = BasicRing<Memory>;
    using Slot = BasicSlot<Memory>;
    using BufferPool = BasicBufferPool<Memory>;
    using Bell = BasicBell<Memory>;
    using Claim = BasicClaim<Memory>;
    using Head = BasicHead<Memory>;

    BasicRingConsumer(Ring ring, BufferPool pool, Bell producer_bell, std::uint32_t consumer, unsigned process)
        : ring_(std::move(ring)),
          pool_(std::move(pool)),
          producer_bell_(std::move(producer_bell)),
          consumer_(consumer),
          process_(process) {
        ring_.segment()->require_writable("consume from a ring");
        if (pool_) pool_.segment()->require_writable("consume from a ring");
        if (consumer_ >= ring_.consumers() || process_ >= max_processes) throw Corrupted("no such consumer of the ring");
        if (ring_.count() == 0) throw Corrupted("a fused pipeline has no ring to consume from");
        // relaxed: find() looks again before it scans.
        epoch_ = ring_.header().epoch.load(std::memory_order_relaxed);
        // Nobody had a block of this ring before, so what is missing before the first one was dropped. relaxed: a predecessor is
        // gone, which whoever made this end has ordered before; and it settles a flag only.
        if (stats().received.load(std::memory_order_relaxed) == 0) next_sequence_ = 0;
    }

    const Ring& ring() const noexcept { return ring_; }
    const BufferPool& pool() const noexcept { return pool_; }
    unsigned process() const noexcept { return process_; }
    ConsumerStats& stats() const noexcept { return ring_.stats(consumer_); }

    // When the oldest waiting block was sent, or -1 if none waits. A hint: another consumer may be quicker. Wait-free.
    // Throws Corrupted if a slot holds what no slot can.
    Nanoseconds peek_sent_ns() {
        if (ring_.paused()) return -1;
        SlotWord word{0};
        Slot* slot = find(word);
        return slot == nullptr ? -1 : sent_ns_of(*slot);
    }

    // The oldest waiting block, also while paused, with what is known of it before it is claimed. Wait-free but for losing
    // against a producer that evicts what is being looked at. Throws Corrupted as above.
    Head peek() {
        for (;;) {
            Head head;
            head.slot = find(head.word);
            if (head.slot == nullptr) return head;
            head.sent_ns = sent_ns_of(*head.slot);
            // acquire: pairs with publish(). If this is the origin of a later block, the look below sees another word.
            const Origin origin{head.slot->origin.load(std::memory_order_acquire)};
            if (head.slot->word.load(std::memory_order_relaxed) != head.word.bits) continue;
            if (!origin.fits(head.word.position())) refuse_origin(head.word);
            head.origin = origin.position();
            return head;
        }
    }

    // Claims the oldest waiting block. Wait-free but for losing against competitors. Throws Corrupted if the slot
    // refers to memory outside its buffer, or if a slot holds what no slot can. The only consumer of a ring adds DISCONTINUITY
    // to the flags in `claim.header` where blocks were dropped before it; sent_flags() has those that it was sent with.
    bool claim(Claim& claim) {
        if (ring_.paused()) return false;
        for (;;) {
            SlotWord word{0};
            Slot* slot = find(word);
            if (slot == nullptr) return false;
            if (claim_exactly(slot, word, claim)) return true;
        }
    }

    // Claims the block that peek() showed; false if it is not there any more. Wait-free. Throws Corrupted as above.
    bool claim(const Head& head, Claim& claim) { return claim_exactly(head.slot, head.word, claim); }

    // Gives the slot back as delivered. release: reads of the payload come before the producer reuses it.
    void finish(const Claim& claim) { settle(claim, claim.word.with(SlotState::done)); }
    // Gives the slot back as dropped here (the module failed, the block is late).
    void discard(const Claim& claim, Reason reason) {
        settle(claim, claim.word.with(SlotState::evicted, static_cast<std::uint64_t>(reason)));
    }

    // The flags that the sender gave to a block in hand.
    static std::uint16_t sent_flags(const Claim& claim) noexcept { return claim.slot->header.read().flags; }

    // Whether blocks were dropped after the last one that was claimed here. Once at_end() is true. relaxed: seeing the end means
    // seeing all that its producer counted, and it counts nothing after it.
    bool misses_the_last() const noexcept {
        const auto& header = ring_.header();
        const std::uint64_t sent = header.published.load(std::memory_order_relaxed) +
                                   header.drops.now().refused.load(std::memory_order_relaxed);
        if (ring_.consumers() != 1 || next_sequence_ == unknown_sequence) return false;
        return next_sequence_ == no_sequence || next_sequence_ < sent;
    }
    // How many blocks the pipeline has had when this ring has ended. Once at_end() is true.
    std::uint64_t sequence_after() const noexcept {
        const auto& header = ring_.header();
        return header.first_sequence.load(std::memory_order_relaxed) + header.published.load(std::memory_order_relaxed) +
               header.drops.now().refused.load(std::memory_order_relaxed);
    }
    // The ring follows one after which so many had come. Before a block of it is claimed here. relaxed: each consumer says so
    // itself, and all say the same; who attaches later does so after that.
    void continues(std::uint64_t sequence) noexcept {
        ring_.header().first_sequence.store(sequence, std::memory_order_relaxed);
    }
    // The next block is said to come after dropped ones, whatever its number.
    void expect_a_gap() noexcept { next_sequence_ = no_sequence; }

    // Whether the producer ended the stream and nothing waits any more. While paused, what waits is hidden, so that the
    // end is not known. Throws Corrupted as above.
    bool at_end() {
        if (ring_.paused()) return false;
        SlotWord word{0};
        // Seeing the end means seeing every block before it. The scan, because there is no later look.
        return ring_.ended() && find(word) == nullptr && scan(word) == nullptr;
    }

    // For whoever waits in vain: the next look does not trust the shared positions. Throws Corrupted if the ring was
    // overwritten.
    void look_again() {
        ring_.verify();
        astray_ = true;
    }

private:
    static constexpr std::uint64_t unknown_sequence = ~std::uint64_t{0};
    static constexpr std::uint64_t no_sequence = unknown_sequence - 1;  // of no block

    [[noreturn, gnu::noinline, gnu::cold]] static void refuse_origin(SlotWord word) {
        throw Corrupted("the block at position " + std::to_string(word.position()) + " does not say what it was made from");
    }

    bool claim_exactly(Slot* slot, SlotWord word, Claim& claim) {
        const SlotWord mine = word.with(SlotState::claimed, process_);
        // Compares the whole word, position included, so a producer that lapped the slot meanwhile wins.
        // seq_cst on success: comes before the look at wake_position below. relaxed on failure: who goes on looks again.
        if (!slot->word.compare_exchange_strong(word.bits, mine.bits, std::memory_order_seq_cst,
                                                std::memory_order_relaxed)) {
            return false;
        }
        if (mine.position() == cursor_) ++cursor_;
        claim = {slot, mine, slot->header.read(), sent_ns_of(*slot)};
        wake_producer(mine.position());
        check(claim);  // before the number is noted: the block behind one that is refused here comes after a dropped one
        if (claim.header.sequence == next_sequence_) [[likely]] ++next_sequence_;
        else claim.header.flags |= flags_after_jump(claim.header.sequence, mine.attempt() != 0);
        // relaxed: see continues().
        claim.header.sequence += ring_.header().first_sequence.load(std::memory_order_relaxed);
        return true;
    }

    // For a block whose number does not follow: others were dropped before it, if this is the only consumer. Not so where the
    // end does not know what a predecessor had, nor for what that one gave back. Never inlined, and given no claim, which would
    // have to lie in memory for it: it is out of the way of the hot path.
    [[gnu::noinline]] std::uint16_t flags_after_jump(std::uint64_t sequence, bool given_back) noexcept {
        const bool known = next_sequence_ != unknown_sequence;
        if (given_back && known && sequence < next_sequence_) return 0;  // it comes late, and says nothing of what follows
        next_sequence_ = sequence + 1;
        return known && !given_back && ring_.consumers() == 1 ? flag_discontinuity : 0;
    }

    // The slot that is next in order and READY, with the word that says so; nullptr if nothing waits.
    Slot* find(SlotWord& found) {
        const std::uint32_t epoch = ring_.header().epoch.load(std::memory_order_acquire);
        if (epoch != epoch_) {
            epoch_ = epoch;
            rescan_ = true;
        }
        if (rescan_) {
            // A reaper gave slots back, perhaps from long before the window: look at all of them.
            Slot* oldest = nullptr;
            std::uint64_t oldest_position = 0;
            for (std::uint32_t index = 0; index < ring_.count(); ++index) {
                Slot& slot = ring_.slot(index);
                const SlotWord word = load(slot);
                if (word.state() != SlotState::ready || word.attempt() == 0) continue;
                if (oldest == nullptr || word.position() < oldest_position) {
                    oldest = &slot;
                    oldest_position = word.position();
                    found = word;
                }
            }
            if (oldest != nullptr) return oldest;
            rescan_ = false;
        }
        if (!astray_) {
            // Each step passes a position that was written or skipped, or goes to `oldest`: rarely more than a few. Where
            // that takes two laps, a look at every slot is shorter.
            for (std::uint64_t steps = 2 * std::uint64_t{ring_.count()}; steps != 0; --steps) {
                Slot& slot = ring_.slot(cursor_);
                const SlotWord word = load(slot);
                if (word.position() == cursor_ && word.state() == SlotState::ready) {
                    found = word;
                    return &slot;
                }
                if (word.position() == cursor_ && word.state() != SlotState::empty) {
                    ++cursor_;
                    continue;
                }
                if (word.position() > cursor_) {
                    // The producer lapped this cursor: nothing that waits lies before `oldest`.
                    cursor_ = std::max(cursor_ + 1, ring_.header().oldest.load(std::memory_order_relaxed));
                    continue;
                }
                // The next one to be written, EMPTY or not recycled yet. Or it was skipped, because the slot is still
                // claimed, or it has been tallied.
                const std::uint64_t tail = ring_.header().tail.load(std::memory_order_acquire);
                if (tail <= cursor_) return nullptr;  // nothing newer was written
                // tail is beyond: the position was written after the look above, or it will not be. Only a look after
                // tail (acquire) can tell; the next round takes up what was written.
                if (load(slot).bits == word.bits) ++cursor_;
            }
        }
        return find_astray(found);
    }

    // Positions lead nowhere (damage), or far (a block that was given back many laps later): goes on from what is there.
    // Never inlined: it would push what is hot out of the way.
    [[gnu::noinline]] Slot* find_astray(SlotWord& found) {
        astray_ = false;
        Slot* slot = scan(found);
        if (slot != nullptr && found.attempt() == 0) cursor_ = found.position();
        return slot;
    }

    // The oldest slot that is READY, found by looking at all of them, whatever the shared positions say.
    // Throws Corrupted if a slot holds what no slot can.
    Slot* scan(SlotWord& found) const {
        for (;;) {
            if (oldest_ready(~std::uint64_t{0}, found) == nullptr) return nullptr;
            // Once more: older blocks may have been sent behind the back of the first look. They were sent before the one
            // that it found (acquire), so this look sees them. None at all: a competitor was quicker.
            if (Slot* slot = oldest_ready(found.position(), found)) return slot;
        }
    }

    Slot* oldest_ready(std::uint64_t limit, SlotWord& found) const {
        Slot* oldest = nullptr;
        for (std::uint32_t index = 0; index < ring_.count(); ++index) {
            Slot& slot = ring_.slot(index);
            const SlotWord word = load(slot);
            ring_.require_possible(word, index);
            if (word.state() != SlotState::ready || word.position() > limit) continue;
            limit = word.position();
            oldest = &slot;
            found = word;
        }
        return oldest;
    }

    // Never negative, so that no difference of two stamps overflows.
    static Nanoseconds sent_ns_of(const Slot& slot) noexcept {
        return std::max<Nanoseconds>(slot.sent_ns.load(std::memory_order_relaxed), 0);
    }

    void wake_producer(std::uint64_t position) noexcept {
        auto& wake = ring_.header().wake_position;
        // seq_cst: pairs with RingProducer::request_wake.
        const std::uint64_t wanted = wake.load(std::memory_order_seq_cst);
        if (wanted == 0 || position + 1 < wanted) return;
        // relaxed: it only settles who rings; the claim is published by the bell.
        if (wake.exchange(0, std::memory_order_relaxed) != 0 && producer_bell_) producer_bell_.ring(room_bit);
    }

    void check(const Claim& claim) {
        const BlockHeader& header = claim.header;
        if (!pool_) return;
        if (!pool_.contains(header.buffer) ||
            std::uint64_t{header.payload_bytes} + header.metadata_bytes > pool_.capacity()) {
            discard(claim, Reason::failed);
            throw Corrupted("block " + std::to_string(header.sequence) + " refers to buffer " +
                            std::to_string(header.buffer) + " with " + std::to_string(header.payload_bytes) +
                            " bytes, outside its pool");
        }
    }

    void settle(const Claim& claim, SlotWord final_word) {
        std::uint64_t expected = claim.word.bits;
        // release: see finish(). relaxed on failure: nothing is read through what was found.
        if (!claim.slot->word.compare_exchange_strong(expected, final_word.bits, std::memory_order_release,
                                                      std::memory_order_relaxed)) {
            throw Corrupted("a claimed slot changed hands: this consumer was taken for dead");
        }
    }

    Ring ring_;
    BufferPool pool_;
    Bell producer_bell_;
    std::uint32_t consumer_;
    unsigned process_;
    std::uint64_t cursor_ = 0;
    std::uint32_t epoch_ = 0;
    bool astray_ = false;  // positions are not to be trusted: scan
    bool rescan_ = true;  // a predecessor's blocks may have been given back before this end existed
    std::uint64_t next_sequence_ = unknown_sequence;  // of the block that follows the last one, if none is dropped
};

using Claim = BasicClaim<SharedMemory>;
using RingConsumer = BasicRingConsumer<SharedMemory>;

}  // namespace steadyflow
