// The ring of one pipeline: who owns which block, and what became of it.
//
// One 64-bit word per slot is the truth:   position (48 bits) | attempt (8) | owner or reason (5) | state (3)
//
//   EMPTY --producer--> READY --consumer--> CLAIMED(owner) --owner--> DONE
//                         |                     |  \--owner--> EVICTED(reason)      (failed or late at the consumer)
//                         |                     \--reaper--> READY, attempt + 1     (the owner died)
//                         \--producer--> EVICTED(reason)                            (overflow rule, flush)
//   DONE, EVICTED --producer--> EMPTY, after tallying the fate and releasing the branch bit
//
// Invariants
// - Every hand-over is one compare-and-swap of that word; no other shared word decides anything. `tail` is a hint.
// - A position is used once, and positions grow in the order of sending. Slot index = position modulo slots. The producer
//   skips an index whose slot is still claimed or READY; so a block may wait for longer than one lap of the ring, while
//   positions behind it are skipped again and again. No READY slot lies before `oldest`, but for those given back.
// - READY slots never exceed buffer_size; slots = buffer_size + consumers + 1, so there is always one to write into.
// - A slot's other fields are written while it is EMPTY and read while it is CLAIMED.
// - sent = delivered + dropped + in flight. `sent` is stored after the slot is READY: a block counts from the
//   return of send(). Each final state is tallied once; the tally names the position it counted last, so a successor
//   of a dead producer knows whether that slot was counted before it became EMPTY.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <string>

#include "bell.hpp"
#include "buffers.hpp"
#include "stats.hpp"

namespace steadyflow {

enum class SlotState : std::uint64_t { empty = 0, ready = 1, claimed = 2, done = 3, evicted = 4 };

// Why a block was dropped. The names are part of the public metrics (pipeline.py).
enum class Reason : std::uint8_t { oldest = 0, newest = 1, superseded = 2, flushed = 3, failed = 4, stopped = 5, late = 6 };
inline constexpr unsigned reasons = 7;

// What a full pipeline does with the next block.
enum class RuleKind : std::uint8_t { wait = 0, drop_oldest = 1, drop_newest = 2, latest = 3, fail = 4 };
enum class AfterWait : std::uint8_t { fail = 0, drop_newest = 1, drop_oldest = 2 };

// The rule as one word, so that the control plane switches it with one store.
struct Rule {
    RuleKind kind = RuleKind::wait;
    AfterWait then = AfterWait::fail;
    std::uint64_t timeout_us = 0;  // 0: wait for ever; at most 2^40

    std::uint64_t pack() const noexcept {
        return timeout_us << 8 | static_cast<std::uint64_t>(then) << 4 | static_cast<std::uint64_t>(kind);
    }
    static Rule unpack(std::uint64_t word) noexcept {
        // Values that no rule has (a damaged segment) fall back to the first one.
        const auto kind = word & 15;
        const auto then = word >> 4 & 15;
        return {kind <= 4 ? static_cast<RuleKind>(kind) : RuleKind::wait,
                then <= 2 ? static_cast<AfterWait>(then) : AfterWait::fail, word >> 8};
    }
};

struct SlotWord {
    std::uint64_t bits;

    static constexpr SlotWord make(SlotState state, std::uint64_t position, std::uint64_t owner = 0,
                                   std::uint64_t attempt = 0) noexcept {
        return {position << 16 | (attempt & 255) << 8 | (owner & 31) << 3 | static_cast<std::uint64_t>(state)};
    }
    constexpr SlotState state() const noexcept { return static_cast<SlotState>(bits & 7); }
    constexpr unsigned owner() const noexcept { return static_cast<unsigned>(bits >> 3 & 31); }
    constexpr unsigned attempt() const noexcept { return static_cast<unsigned>(bits >> 8 & 255); }
    constexpr std::uint64_t position() const noexcept { return bits >> 16; }
    constexpr SlotWord with(SlotState state, std::uint64_t owner = 0) const noexcept {
        return make(state, position(), owner, attempt());
    }
};

// What travels with a block; one copy per pipeline.
struct BlockHeader {
    std::uint64_t sequence;
    std::int64_t timestamp_ns;
    std::uint64_t first_frame;
    std::uint32_t buffer;
    std::uint32_t payload_bytes;
    std::uint32_t frames;
    std::uint16_t flags;
    std::uint16_t metadata_bytes;
};

struct alignas(cache_line) Slot {
    std::atomic<std::uint64_t> word;
    std::atomic<std::int64_t> sent_ns;  // atomic: a worker peeks at it before it claims
    BlockHeader header;
};
static_assert(sizeof(Slot) == cache_line);

struct Tally {
    Counter delivered;
    Counter dropped[reasons];
    Counter repeated;
    Counter last_position;  // + 1; 0: none yet
};

inline constexpr std::uint32_t ring_magic = 0x676e6972;  // "ring"

struct alignas(cache_line) RingHeader {
    std::uint32_t magic;
    std::uint32_t slots;  // 0: a fused pipeline, statistics only
    std::uint32_t consumers;
    std::uint32_t branch;

    // Written by the producer.
    alignas(cache_line) std::atomic<std::uint64_t> tail;
    std::atomic<std::uint64_t> oldest;  // where consumers that were lapped go on
    Counter sent;
    Counter bytes;
    Counter full_events;
    Counter blocked_ns;
    Counter peak_fill;
    std::atomic<std::uint32_t> ended;  // also by the control plane, for a producer that is gone or shut out
    alignas(cache_line) Tally tallies[2];
    std::atomic<std::uint64_t> tally_version;

    // Written by the control plane.
    alignas(cache_line) std::atomic<std::uint64_t> rule;
    std::atomic<std::uint32_t> buffer_size;
    std::atomic<std::uint32_t> epoch;      // a reaper gave slots back: cursors start again
    std::atomic<std::uint32_t> abandoned;  // nobody will ever consume: send drops (failed)

    // 0, or the position whose claim wakes the waiting producer. Set by the producer, cleared by whoever wakes it: the one
    // word with two writers, and harmless, since a lost request only makes a wait last until the producer looks up.
    alignas(cache_line) std::atomic<std::uint64_t> wake_position;
};

// The mapped ring, with its constants copied out of shared memory and checked once.
class Ring {
public:
    static std::uint32_t slots_for(std::uint32_t buffer_size, std::uint32_t consumers) noexcept {
        return buffer_size + consumers + 1;
    }
    static std::size_t bytes(std::uint32_t slots, std::uint32_t consumers) noexcept {
        return sizeof(RingHeader) + consumers * sizeof(ConsumerStats) + slots * sizeof(Slot);
    }

    static void create(const Segment& segment, std::uint64_t offset, std::uint32_t buffer_size, std::uint32_t slots,
                       std::uint32_t consumers, std::uint32_t branch, Rule rule) {
        segment.at<std::byte>(offset, bytes(slots, consumers));
        auto* header = segment.at<RingHeader>(offset);
        header->slots = slots;
        header->consumers = consumers;
        header->branch = branch;
        header->rule.store(rule.pack(), std::memory_order_relaxed);
        header->buffer_size.store(buffer_size, std::memory_order_relaxed);
        auto* slot = segment.at<Slot>(offset + slots_offset(consumers), slots);
        for (std::uint32_t index = 0; index < slots; ++index) {
            slot[index].word.store(SlotWord::make(SlotState::empty, index).bits, std::memory_order_relaxed);
        }
        header->magic = ring_magic;
    }

    Ring() = default;
    Ring(std::shared_ptr<Segment> segment, std::uint64_t offset) : segment_(std::move(segment)) {
        header_ = segment_->at<RingHeader>(offset);
        if (header_->magic != ring_magic) throw Corrupted("no ring at offset " + std::to_string(offset));
        count_ = header_->slots;
        consumers_ = header_->consumers;
        branch_ = header_->branch;
        // No slots at all is a fused pipeline; else one READY, one to write into, and a claim for each consumer.
        if (consumers_ == 0 || consumers_ > max_processes || branch_ >= max_branches || count_ > segment_->bytes() ||
            (count_ != 0 && count_ < consumers_ + 2)) {
            throw Corrupted("impossible ring: " + std::to_string(count_) + " slots, " + std::to_string(consumers_) +
                            " consumers, branch " + std::to_string(branch_));
        }
        stats_ = segment_->at<ConsumerStats>(offset + sizeof(RingHeader), consumers_);
        slots_ = segment_->at<Slot>(offset + slots_offset(consumers_), count_);
    }

    explicit operator bool() const noexcept { return header_ != nullptr; }
    RingHeader& header() const noexcept { return *header_; }
    std::uint32_t count() const noexcept { return count_; }
    std::uint32_t consumers() const noexcept { return consumers_; }
    unsigned branch() const noexcept { return branch_; }
    Slot& slot(std::uint64_t position) const noexcept { return slots_[position % count_]; }
    ConsumerStats& stats(std::uint32_t consumer) const noexcept { return stats_[consumer]; }
    const std::shared_ptr<Segment>& segment() const noexcept { return segment_; }

    Rule rule() const noexcept { return Rule::unpack(header_->rule.load(std::memory_order_relaxed)); }
    // READY blocks that may wait; never more than the slots allow, whatever the shared word says.
    std::uint64_t buffer_size() const noexcept {
        const std::uint64_t wanted = header_->buffer_size.load(std::memory_order_relaxed);
        return std::clamp<std::uint64_t>(wanted, 1, count_ - consumers_ - 1);
    }

private:
    static std::size_t slots_offset(std::uint32_t consumers) noexcept {
        return sizeof(RingHeader) + consumers * sizeof(ConsumerStats);
    }

    std::shared_ptr<Segment> segment_;
    RingHeader* header_ = nullptr;
    ConsumerStats* stats_ = nullptr;
    Slot* slots_ = nullptr;
    std::uint32_t count_ = 0;
    std::uint32_t consumers_ = 0;
    unsigned branch_ = 0;
};

inline SlotWord load(const Slot& slot) noexcept {
    // acquire: whoever sees a state sees what was written before it.
    return {slot.word.load(std::memory_order_acquire)};
}

// The producing end. One thread at a time (the port serialises its callers).
class RingProducer {
public:
    RingProducer(Ring ring, BufferPool* pool) : ring_(std::move(ring)), pool_(pool) {
        if (ring_.count() < ring_.consumers() + 2) throw Corrupted("the ring has too few slots to send into");
        tail_ = ring_.header().tail.load(std::memory_order_acquire);
        take_over();
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

    // Evicts everything that waits; returns how many blocks.
    std::uint64_t flush(Reason reason) noexcept {
        forget_taken();
        std::uint64_t flushed = 0;
        for (std::uint64_t index = first_; index < last_; ++index) flushed += evict(waiting(index), reason) ? 1 : 0;
        return flushed;
    }

    // Makes one block READY. The caller has made room. Returns false if every slot is occupied, which only a damaged
    // segment can cause.
    bool publish(const BlockHeader& block, Nanoseconds sent_ns) noexcept {
        std::uint64_t position = tail_;
        for (std::uint32_t looked = 0;; ++looked, ++position) {
            if (looked > ring_.count()) return false;
            Slot& slot = ring_.slot(position);
            const SlotWord word = load(slot);
            if (word.state() == SlotState::done || word.state() == SlotState::evicted) recycle(slot, word, position);
            // Claimed, or waiting for longer than a lap: this position is skipped.
            else if (word.state() != SlotState::empty) continue;
            slot.header = block;
            slot.header.sequence = ring_.header().sent.load(std::memory_order_relaxed);
            slot.sent_ns.store(sent_ns, std::memory_order_relaxed);
            // release: the fields above belong to whoever claims the slot.
            slot.word.store(SlotWord::make(SlotState::ready, position).bits, std::memory_order_release);
            break;
        }
        tail_ = position + 1;
        // Only where nobody asked for room before is it full, of blocks that were taken.
        if (last_ - first_ > mask_) forget_taken();
        waiting_[last_++ & mask_] = position;
        RingHeader& header = ring_.header();
        // relaxed: whatever value a consumer sees, no READY slot lies before it, now or later.
        header.oldest.store(waiting(first_), std::memory_order_relaxed);
        // release: a consumer that meets an old word at its cursor learns from tail that the position was skipped.
        header.tail.store(tail_, std::memory_order_release);
        add(header.bytes, block.payload_bytes);
        // The acknowledgement; release: an observer that sees it sees the slot.
        header.sent.store(header.sent.load(std::memory_order_relaxed) + 1, std::memory_order_release);
        if (last_ - first_ > header.peak_fill.load(std::memory_order_relaxed)) {
            forget_taken();
            const std::uint64_t fill = std::min(last_ - first_, ring_.buffer_size());
            if (fill > header.peak_fill.load(std::memory_order_relaxed)) {
                header.peak_fill.store(fill, std::memory_order_relaxed);
            }
        }
        return true;
    }

    // Counts a block that never entered the ring. `sent` first: a snapshot never shows more fates than blocks.
    void drop(Reason reason, std::uint64_t payload_bytes) noexcept {
        RingHeader& header = ring_.header();
        add(header.bytes, payload_bytes);
        header.sent.store(header.sent.load(std::memory_order_relaxed) + 1, std::memory_order_release);
        switch_tally([reason](Tally& tally) { add(tally.dropped[static_cast<unsigned>(reason)]); });
    }

    // Asks to be woken when half of the buffer is claimed; then the caller looks once more and sleeps on its bell.
    void request_wake() noexcept {
        const std::uint64_t half = ring_.buffer_size() / 2;
        // seq_cst: pairs with RingConsumer::claim, which claims first and looks here afterwards.
        ring_.header().wake_position.store(std::max<std::uint64_t>(tail_ - half, 1), std::memory_order_seq_cst);
        std::atomic_thread_fence(std::memory_order_seq_cst);
    }
    void cancel_wake() noexcept { ring_.header().wake_position.store(0, std::memory_order_relaxed); }

    void note_full(bool full) noexcept {
        if (full && !was_full_) add(ring_.header().full_events);
        was_full_ = full;
    }
    void note_blocked(Nanoseconds duration) noexcept {
        add(ring_.header().blocked_ns, static_cast<std::uint64_t>(std::max<Nanoseconds>(duration, 0)));
    }

    // After the last block. release: a consumer that sees the end sees every block before it.
    void end() noexcept { ring_.header().ended.store(1, std::memory_order_release); }
    bool ended() const noexcept { return ring_.header().ended.load(std::memory_order_relaxed) != 0; }
    bool abandoned() const noexcept { return ring_.header().abandoned.load(std::memory_order_acquire) != 0; }

    // Where a reader finds the fates: the tally and, for slots not recycled yet, their words.
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
    std::uint64_t waiting(std::uint64_t index) const noexcept { return waiting_[index & mask_]; }

    bool waiting_below(std::uint64_t limit) noexcept {
        if (last_ - first_ < limit && !given_back()) return true;
        forget_taken();
        return last_ - first_ < limit;
    }

    // Whether a reaper gave slots back since the last look. acquire: pairs with its store after it did so.
    bool given_back() const noexcept { return ring_.header().epoch.load(std::memory_order_acquire) != epoch_; }

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
        // Before the look at the slots: what is given back after it is looked at again. acquire: see given_back().
        epoch_ = ring_.header().epoch.load(std::memory_order_acquire);
        first_ = 0;
        last_ = 0;
        for (std::uint32_t index = 0; index < ring_.count(); ++index) {
            const SlotWord word = load(ring_.slot(index));
            if (word.state() == SlotState::ready) waiting_[last_++] = word.position();
        }
        std::sort(waiting_.get(), waiting_.get() + last_);
    }

    // A predecessor may have died between READY and counting the block: positions and sequences go on behind it.
    void take_over() noexcept {
        std::uint64_t sent = ring_.header().sent.load(std::memory_order_relaxed);
        for (std::uint32_t index = 0; index < ring_.count(); ++index) {
            const Slot& slot = ring_.slot(index);
            const SlotWord word = load(slot);
            if (word.state() == SlotState::empty) continue;
            tail_ = std::max(tail_, word.position() + 1);
            sent = std::max(sent, slot.header.sequence + 1);
        }
        ring_.header().sent.store(sent, std::memory_order_release);
    }

    bool evict(std::uint64_t position, Reason reason) noexcept {
        Slot& slot = ring_.slot(position);
        SlotWord word = load(slot);
        if (word.state() != SlotState::ready || word.position() != position) return false;
        const SlotWord evicted = word.with(SlotState::evicted, static_cast<std::uint64_t>(reason));
        // acq_rel: the loser of the race against a claim sees the winner's word; fails if a consumer was quicker.
        return slot.word.compare_exchange_strong(word.bits, evicted.bits, std::memory_order_acq_rel,
                                                 std::memory_order_acquire);
    }

    void recycle(Slot& slot, SlotWord word, std::uint64_t next_position) noexcept {
        const bool delivered = word.state() == SlotState::done;
        const unsigned reason = std::min(word.owner(), reasons - 1);
        // A predecessor may have died after the tally and before EMPTY. relaxed: only producers write it.
        const RingHeader& header = ring_.header();
        const Tally& counted = header.tallies[header.tally_version.load(std::memory_order_relaxed) & 1];
        if (counted.last_position.load(std::memory_order_relaxed) != word.position() + 1) {
            switch_tally([&](Tally& tally) {
                if (delivered) add(tally.delivered);
                else add(tally.dropped[reason]);
                if (delivered && word.attempt() != 0) add(tally.repeated);
                tally.last_position.store(word.position() + 1, std::memory_order_relaxed);
            });
        }
        // Read once: checked and used must be the same number, whatever other processes write.
        const std::uint32_t buffer = std::atomic_ref(slot.header.buffer).load(std::memory_order_relaxed);
        if (pool_ != nullptr && pool_->contains(buffer)) pool_->clear_branch(buffer, ring_.branch());
        // release: a successor that sees EMPTY sees the tally that counted the block.
        slot.word.store(SlotWord::make(SlotState::empty, next_position).bits, std::memory_order_release);
    }

    template <class Change>
    void switch_tally(Change change) noexcept {
        RingHeader& header = ring_.header();
        const std::uint64_t version = header.tally_version.load(std::memory_order_relaxed);
        // release: a reader that meets one of the stores below in the record that it is reading also sees the version
        // that was stored before them, and reads again.
        std::atomic_thread_fence(std::memory_order_release);
        const Tally& now = header.tallies[version & 1];
        Tally& next = header.tallies[(version + 1) & 1];
        const auto copy = [](Counter& to, const Counter& from) {
            to.store(from.load(std::memory_order_relaxed), std::memory_order_relaxed);
        };
        copy(next.delivered, now.delivered);
        for (unsigned reason = 0; reason < reasons; ++reason) copy(next.dropped[reason], now.dropped[reason]);
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

// A claimed slot: the consumer's until it is finished.
struct Claim {
    Slot* slot = nullptr;
    SlotWord word{0};
    BlockHeader header{};
    Nanoseconds sent_ns = 0;
};

// A consuming end; one thread at a time. Several ends of one ring compete.
class RingConsumer {
public:
    RingConsumer(Ring ring, BufferPool pool, Bell producer_bell, std::uint32_t consumer, unsigned process)
        : ring_(std::move(ring)),
          pool_(std::move(pool)),
          producer_bell_(std::move(producer_bell)),
          consumer_(consumer),
          process_(process) {
        if (consumer_ >= ring_.consumers() || process_ >= max_processes) throw Corrupted("no such consumer of the ring");
        if (ring_.count() == 0) throw Corrupted("a fused pipeline has no ring to consume from");
        epoch_ = ring_.header().epoch.load(std::memory_order_acquire);
    }

    const Ring& ring() const noexcept { return ring_; }
    const BufferPool& pool() const noexcept { return pool_; }
    unsigned process() const noexcept { return process_; }
    ConsumerStats& stats() const noexcept { return ring_.stats(consumer_); }

    // When the oldest waiting block was sent, or -1 if none waits. A hint: another consumer may be quicker. Wait-free.
    Nanoseconds peek_sent_ns() noexcept {
        SlotWord word{0};
        Slot* slot = find(word);
        return slot == nullptr ? -1 : slot->sent_ns.load(std::memory_order_relaxed);
    }

    // Claims the oldest waiting block. Wait-free but for losing against competitors. Throws Corrupted if the slot
    // refers to memory outside its buffer.
    bool claim(Claim& claim) {
        for (;;) {
            SlotWord word{0};
            Slot* slot = find(word);
            if (slot == nullptr) return false;
            const SlotWord mine = word.with(SlotState::claimed, process_);
            // Compares the whole word, position included, so a producer that lapped the slot meanwhile wins.
            // seq_cst on success: acquires the slot's fields, and comes before the look at wake_position below.
            if (!slot->word.compare_exchange_strong(word.bits, mine.bits, std::memory_order_seq_cst,
                                                    std::memory_order_acquire)) {
                continue;
            }
            if (word.position() == cursor_) ++cursor_;
            claim = {slot, mine, slot->header, slot->sent_ns.load(std::memory_order_relaxed)};
            wake_producer(word.position());
            check(claim);
            return true;
        }
    }

    // Gives the slot back as delivered. release: reads of the payload come before the producer reuses it.
    void finish(const Claim& claim) { settle(claim, claim.word.with(SlotState::done)); }
    // Gives the slot back as dropped here (the module failed, the block is late).
    void discard(const Claim& claim, Reason reason) {
        settle(claim, claim.word.with(SlotState::evicted, static_cast<std::uint64_t>(reason)));
    }

    // Whether the producer ended the stream and nothing waits any more.
    bool at_end() noexcept {
        // acquire: seeing the end means seeing every block before it.
        SlotWord word{0};
        return ring_.header().ended.load(std::memory_order_acquire) != 0 && find(word) == nullptr;
    }

private:
    // The slot that is next in order and READY, with the word that says so; nullptr if nothing waits.
    Slot* find(SlotWord& found) noexcept {
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
        for (;;) {
            Slot& slot = ring_.slot(cursor_);
            const SlotWord word = load(slot);
            if (word.position() == cursor_) {
                if (word.state() == SlotState::ready) {
                    found = word;
                    return &slot;
                }
                if (word.state() == SlotState::empty) return nullptr;  // the next one to be written
                ++cursor_;
                continue;
            }
            const std::uint64_t tail = ring_.header().tail.load(std::memory_order_acquire);
            if (word.position() > cursor_) {
                // The producer lapped this cursor: nothing that waits lies before `oldest`.
                cursor_ = std::max(cursor_ + 1, ring_.header().oldest.load(std::memory_order_relaxed));
                continue;
            }
            if (tail <= cursor_) return nullptr;  // an older slot, not reused yet: nothing newer was written
            // tail is beyond: the position was written after the look above, or it was skipped, because the slot is still
            // claimed. Only a look after tail (acquire) can tell; the next round takes up what was written.
            if (load(slot).position() < cursor_) ++cursor_;
        }
    }

    void wake_producer(std::uint64_t position) noexcept {
        auto& wake = ring_.header().wake_position;
        // seq_cst: pairs with RingProducer::request_wake.
        const std::uint64_t wanted = wake.load(std::memory_order_seq_cst);
        if (wanted == 0 || position + 1 < wanted) return;
        if (wake.exchange(0, std::memory_order_acq_rel) != 0 && producer_bell_) producer_bell_.ring(room_bit);
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
        if (!claim.slot->word.compare_exchange_strong(expected, final_word.bits, std::memory_order_acq_rel,
                                                      std::memory_order_acquire)) {
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
    bool rescan_ = true;  // a predecessor's blocks may have been given back before this end existed
};

// Gives back what a dead process had claimed; READY again with one attempt more. Control plane only, after the
// process is known to be gone. Returns how many. The caller rings every bell afterwards.
inline std::uint64_t reap(const Ring& ring, unsigned process) noexcept {
    std::uint64_t given_back = 0;
    for (std::uint32_t index = 0; index < ring.count(); ++index) {
        Slot& slot = ring.slot(index);
        SlotWord word = load(slot);
        if (word.state() != SlotState::claimed || word.owner() != process) continue;
        const SlotWord again =
            SlotWord::make(SlotState::ready, word.position(), 0, std::min(word.attempt() + 1, 255U));
        if (slot.word.compare_exchange_strong(word.bits, again.bits, std::memory_order_acq_rel)) ++given_back;
    }
    // release: a consumer that sees the new epoch finds the slots.
    if (given_back != 0) ring.header().epoch.fetch_add(1, std::memory_order_release);
    return given_back;
}

// Marks everything that still waits or is claimed as dropped. Only when both ends are gone or stopped.
inline std::uint64_t abandon(const Ring& ring, Reason reason) noexcept {
    std::uint64_t dropped = 0;
    if (ring.count() == 0) {
        // Fused: what was sent and has no fate was in the hands of a worker that died.
        Tally& tally = ring.header().tallies[0];
        std::uint64_t fates = ring.stats(0).received.load(std::memory_order_relaxed);
        for (const Counter& counted : tally.dropped) fates += counted.load(std::memory_order_relaxed);
        const std::uint64_t sent = ring.header().sent.load(std::memory_order_relaxed);
        dropped = sent > fates ? sent - fates : 0;
        add(tally.dropped[static_cast<unsigned>(reason)], dropped);
        return dropped;
    }
    for (std::uint32_t index = 0; index < ring.count(); ++index) {
        Slot& slot = ring.slot(index);
        SlotWord word = load(slot);
        while (word.state() == SlotState::ready || word.state() == SlotState::claimed) {
            const SlotWord evicted = word.with(SlotState::evicted, static_cast<std::uint64_t>(reason));
            if (slot.word.compare_exchange_weak(word.bits, evicted.bits, std::memory_order_acq_rel)) {
                ++dropped;
                break;
            }
        }
    }
    return dropped;
}

// The derived accounting of a pipeline, as any process reads it.
struct Account {
    std::uint64_t sent = 0;
    std::uint64_t delivered = 0;
    std::uint64_t dropped[reasons] = {};
    std::uint64_t repeated = 0;
    std::uint64_t fill = 0;
    bool consistent = false;  // false: the producer recycled during every attempt to read
};

inline Account read_account(const Ring& ring) noexcept {
    const RingHeader& header = ring.header();
    Account account;
    for (int attempt = 0; attempt < 64 && !account.consistent; ++attempt) {
        account = {};
        const std::uint64_t version = header.tally_version.load(std::memory_order_acquire);
        const Tally& tally = header.tallies[version & 1];
        account.delivered = tally.delivered.load(std::memory_order_relaxed);
        for (unsigned reason = 0; reason < reasons; ++reason) {
            account.dropped[reason] = tally.dropped[reason].load(std::memory_order_relaxed);
        }
        account.repeated = tally.repeated.load(std::memory_order_relaxed);
        const std::uint64_t counted = tally.last_position.load(std::memory_order_relaxed);
        for (std::uint32_t index = 0; index < ring.count(); ++index) {
            const SlotWord word = load(ring.slot(index));
            if (word.state() == SlotState::ready) ++account.fill;
            if (word.state() != SlotState::done && word.state() != SlotState::evicted) continue;
            if (word.position() + 1 == counted) continue;  // tallied, not EMPTY yet
            if (word.state() == SlotState::done) ++account.delivered;
            else ++account.dropped[std::min(word.owner(), reasons - 1)];
            if (word.state() == SlotState::done && word.attempt() != 0) ++account.repeated;
        }
        if (ring.count() == 0) {
            for (std::uint32_t consumer = 0; consumer < ring.consumers(); ++consumer) {
                account.delivered += ring.stats(consumer).received.load(std::memory_order_relaxed);
            }
        }
        // Before the second look: as long as nothing is recycled, no more can have been sent than there are slots.
        account.sent = header.sent.load(std::memory_order_acquire);
        // The loads above must not move below the second look at the version.
        std::atomic_thread_fence(std::memory_order_acquire);
        account.consistent = header.tally_version.load(std::memory_order_relaxed) == version;
    }
    std::uint64_t fates = account.delivered;
    for (const std::uint64_t dropped : account.dropped) fates += dropped;
    // A block may be finished a moment before send() returns and counts it.
    account.sent = std::max(account.sent, fates);
    return account;
}

}  // namespace steadyflow
