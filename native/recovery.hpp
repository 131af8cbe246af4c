// What the control plane does from outside: for ends that are gone, it gives back what a consumer had in hand, completes
// what a producer left half done, drops what nobody will take; beside ends that work, it flushes. Each may be repeated:
// whoever dies in the middle is followed by another.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "buffers.hpp"
#include "ring.hpp"

namespace steadyflow {

// Gives back what a dead process had claimed; READY again with one attempt more. Control plane only, after the
// process is known to be gone. Returns how many. The caller rings every bell afterwards.
template <class Memory>
std::uint64_t reap(const BasicRing<Memory>& ring, unsigned process) noexcept {
    std::uint64_t given_back = 0;
    for (std::uint32_t index = 0; index < ring.count(); ++index) {
        auto& slot = ring.slot(index);
        SlotWord word = load(slot);
        if (word.state() != SlotState::claimed || word.owner() != process) continue;
        const SlotWord again =
            SlotWord::make(SlotState::ready, word.position(), 0, std::min(word.attempt() + 1, 255U));
        // release: what the dead process did with the block comes before whatever becomes of it now.
        if (slot.word.compare_exchange_strong(word.bits, again.bits, std::memory_order_release,
                                              std::memory_order_relaxed)) {
            ++given_back;
        }
    }
    // release: a consumer that sees the new epoch finds the slots.
    if (given_back != 0) ring.header().epoch.fetch_add(1, std::memory_order_release);
    return given_back;
}

// Completes a port whose producer died, perhaps in the middle of a send: for a successor, or in its place. Control plane
// only, after the process is known to be gone, with all rings of the port. A block that became READY counts, also where the
// death came before `published`; a buffer that no slot refers to is free again.
template <class Memory>
void take_over(BasicBufferPool<Memory>& pool, std::span<const BasicRing<Memory>> rings) {
    std::vector<std::uint32_t> branches(pool.count());
    for (const BasicRing<Memory>& ring : rings) {
        auto& header = ring.header();
        // relaxed: the producer that wrote these is gone, which whoever says so has ordered before this.
        const auto& deliveries = header.deliveries.now();
        const auto& drops = header.drops.now();
        std::uint64_t published = 0;
        for (const auto& dropped : drops.dropped) published += dropped.load(std::memory_order_relaxed);
        published += deliveries.delivered.load(std::memory_order_relaxed) - drops.refused.load(std::memory_order_relaxed);
        const std::uint64_t last_delivered = deliveries.last_position.load(std::memory_order_relaxed);
        const std::uint64_t last_dropped = drops.last_position.load(std::memory_order_relaxed);
        std::uint64_t tail = header.tail.load(std::memory_order_relaxed);
        for (std::uint32_t index = 0; index < ring.count(); ++index) {
            auto& slot = ring.slot(index);
            const SlotWord word = load(slot);
            // Consumers may go on meanwhile, but none of them makes a slot EMPTY, or fills one.
            if (word.state() == SlotState::empty) continue;
            tail = std::max(tail, word.position() + 1);
            const bool tallied = (word.state() == SlotState::done && word.position() + 1 == last_delivered) ||
                                 (word.state() == SlotState::evicted && word.position() + 1 == last_dropped);
            if (tallied) {
                // Tallied, and not EMPTY yet: a successor that tallies another slot first would count it again.
                // relaxed: for the successor alone, who attaches after this.
                slot.word.store(SlotWord::make(SlotState::empty, word.position()).bits, std::memory_order_relaxed);
                continue;
            }
            ++published;
            // Also of a slot that is finished: its branch bit goes when it is recycled.
            const std::uint32_t buffer = slot.header.read().buffer;
            if (pool.contains(buffer)) branches[buffer] |= std::uint32_t{1} << ring.branch();
        }
        // Larger only where the death came before the count; never smaller, whatever a damaged segment says.
        if (published > header.published.load(std::memory_order_relaxed)) {
            header.published.store(published, std::memory_order_release);
        }
        // release: as in publish().
        header.tail.store(tail, std::memory_order_release);
    }
    for (std::uint32_t buffer = 0; buffer < pool.count(); ++buffer) pool.set_branches(buffer, branches[buffer]);
}

// Drops what waits at this moment (flushed), the oldest first; returns how many blocks. Control plane only, beside a
// producer and consumers that go on. The caller rings the producer's bell afterwards, because it may wait for room.
//
// A third party may do this because a hand-over is nothing but the compare-and-swap of one word, whoever makes it:
// - Against a claim: one of the two swaps succeeds, and the block is delivered or flushed, never both. A consumer that loses
//   looks for the next one, as it does when the producer evicts.
// - Against the producer: it never writes a READY slot but by evict(), which is the same swap. Recycling an EVICTED slot,
//   with tally and branch bit, remains its own, whoever made it EVICTED.
// - The word holds the position, so a slot that was recycled and is READY again meanwhile is another word: that block came
//   later, and stays.
// - The producer's list of what waits is corrected when it looks (forget_taken), as after a claim. Until then it counts too
//   many blocks, never too few; oldest first keeps what is still in the list at its end.
template <class Memory>
std::uint64_t flush(const BasicRing<Memory>& ring) {
    std::vector<std::pair<std::uint64_t, SlotWord>> waiting;
    for (std::uint32_t index = 0; index < ring.count(); ++index) {
        const SlotWord word = load(ring.slot(index));
        if (word.state() == SlotState::ready) waiting.emplace_back(word.position(), word);
    }
    std::sort(waiting.begin(), waiting.end(), [](const auto& one, const auto& other) { return one.first < other.first; });
    std::uint64_t flushed = 0;
    for (auto& [position, word] : waiting) {
        const SlotWord evicted = word.with(SlotState::evicted, static_cast<std::uint64_t>(Reason::flushed));
        // relaxed: nothing of the block is read or written here. As a read-modify-write it passes on what the producer
        // released with READY, and the bell that the caller rings publishes it.
        if (ring.slot(position).word.compare_exchange_strong(word.bits, evicted.bits, std::memory_order_relaxed)) {
            ++flushed;
        }
    }
    return flushed;
}

// Drops the oldest block that waits at this moment and is no control block; false if there is none, or a consumer was quicker.
// Beside ends that go on, as flush(). Wait-free.
inline bool evict_oldest(const Ring& ring, Reason reason) noexcept {
    Slot* oldest = nullptr;
    SlotWord found{0};
    for (std::uint32_t index = 0; index < ring.count(); ++index) {
        const SlotWord word = load(ring.slot(index));
        if (word.state() != SlotState::ready || ring.size(index).is_control() || (oldest != nullptr && word.position() > found.position())) continue;
        oldest = &ring.slot(index);
        found = word;
    }
    if (oldest == nullptr) return false;
    const SlotWord evicted = found.with(SlotState::evicted, static_cast<std::uint64_t>(reason));
    // relaxed: as in flush().
    return oldest->word.compare_exchange_strong(found.bits, evicted.bits, std::memory_order_relaxed);
}

// Marks everything that still waits or is claimed as dropped. Only when both ends are gone or stopped.
template <class Memory>
std::uint64_t abandon(const BasicRing<Memory>& ring, Reason reason) noexcept {
    std::uint64_t dropped = 0;
    if (ring.count() == 0) {
        // Fused: what was sent and has no fate was in the hands of a worker that died.
        auto& drops = ring.header().drops.records[0];
        std::uint64_t fates = ring.stats(0).received.load(std::memory_order_relaxed);
        for (const auto& counted : drops.dropped) fates += counted.load(std::memory_order_relaxed);
        const std::uint64_t sent = ring.header().published.load(std::memory_order_relaxed);
        dropped = sent > fates ? sent - fates : 0;
        add(drops.dropped[static_cast<unsigned>(reason)], dropped);
        return dropped;
    }
    for (std::uint32_t index = 0; index < ring.count(); ++index) {
        auto& slot = ring.slot(index);
        SlotWord word = load(slot);
        while (word.state() == SlotState::ready || word.state() == SlotState::claimed) {
            const SlotWord evicted = word.with(SlotState::evicted, static_cast<std::uint64_t>(reason));
            // relaxed: nobody is left to hand anything to.
            if (slot.word.compare_exchange_weak(word.bits, evicted.bits, std::memory_order_relaxed)) {
                ++dropped;
                break;
            }
        }
    }
    return dropped;
}

}  // namespace steadyflow
