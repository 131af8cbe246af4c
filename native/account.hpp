// The accounting of a pipeline, derived from tally and slots.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ring.hpp"

namespace steadyflow {

// The derived accounting of a pipeline, as any process reads it.
struct Account {
    std::uint64_t sent = 0;
    std::uint64_t delivered = 0;
    std::uint64_t dropped[reasons] = {};
    std::uint64_t dropped_frames[reasons] = {};
    std::uint64_t repeated = 0;
    std::uint64_t fill = 0;
    std::uint64_t fill_bytes = 0;
    std::uint64_t fill_frames = 0;
    // Of what was sent, what has no fate yet.
    std::uint64_t in_flight() const noexcept {
        std::uint64_t left = sent - delivered;
        for (const std::uint64_t count : dropped) left -= count;
        return left;
    }

    bool consistent = false;  // false: the producer recycled during every attempt to read
};

// Positions have 48 bits, so there never are more blocks. What a damaged counter says is cut to that: no sum wraps around.
inline constexpr std::uint64_t most_blocks = (std::uint64_t{1} << 48) - 1;

template <class Memory>
Account read_account(const BasicRing<Memory>& ring) noexcept {
    const auto& header = ring.header();
    Account account;
    std::uint64_t claimed = 0;
    const auto blocks = [](const auto& counter) {
        return std::min<std::uint64_t>(counter.load(std::memory_order_relaxed), most_blocks);
    };
    for (int attempt = 0; attempt < 64 && !account.consistent; ++attempt) {
        account = {};
        claimed = 0;
        const std::uint64_t deliveries_version = header.deliveries.version.load(std::memory_order_acquire);
        const std::uint64_t drops_version = header.drops.version.load(std::memory_order_acquire);
        const auto& deliveries = header.deliveries.records[deliveries_version & 1];
        const auto& drops = header.drops.records[drops_version & 1];
        account.delivered = blocks(deliveries.delivered);
        for (unsigned reason = 0; reason < reasons; ++reason) {
            account.dropped[reason] = blocks(drops.dropped[reason]);
            account.dropped_frames[reason] = drops.frames[reason].load(std::memory_order_relaxed);
        }
        account.repeated = blocks(deliveries.repeated);
        const std::uint64_t last_delivered = deliveries.last_position.load(std::memory_order_relaxed);
        const std::uint64_t last_dropped = drops.last_position.load(std::memory_order_relaxed);
        for (std::uint32_t index = 0; index < ring.count(); ++index) {
            const SlotWord word = load(ring.slot(index));
            const SlotSize size = ring.size(index);
            if (word.state() == SlotState::ready) {
                ++account.fill;
                account.fill_bytes += size.bytes();
                account.fill_frames += size.frames();
            } else if (word.state() == SlotState::claimed) {
                ++claimed;
            } else if (word.state() == SlotState::done) {
                if (word.position() + 1 == last_delivered) continue;  // tallied, not EMPTY yet
                ++account.delivered;
                if (word.attempt() != 0) ++account.repeated;
            } else if (word.state() == SlotState::evicted) {
                if (word.position() + 1 == last_dropped) continue;
                const unsigned reason = std::min(word.owner(), reasons - 1);
                ++account.dropped[reason];
                account.dropped_frames[reason] += size.frames();
            }
        }
        if (ring.count() == 0) {
            for (std::uint32_t consumer = 0; consumer < ring.consumers(); ++consumer) {
                account.delivered += blocks(ring.stats(consumer).received);
            }
        }
        // Before the second look: as long as nothing is recycled, no more can have been published than there are slots.
        account.sent = std::min(header.published.load(std::memory_order_relaxed), most_blocks) + blocks(drops.refused);
        // The loads above must not move below the second look at the versions.
        Memory::fence(std::memory_order_acquire);
        account.consistent = header.deliveries.version.load(std::memory_order_relaxed) == deliveries_version &&
                             header.drops.version.load(std::memory_order_relaxed) == drops_version;
    }
    // A block may wait, be claimed or be finished a moment before send() returns and counts it. Where slots were recycled meanwhile, one
    // that has no fate yet may have been seen twice.
    std::uint64_t seen = account.delivered + (account.consistent ? account.fill + claimed : 0);
    for (const std::uint64_t dropped : account.dropped) seen += dropped;
    account.sent = std::max(account.sent, seen);
    return account;
}

// When the oldest block that waits was sent, as any process reads it; 0: none waits.
template <class Memory>
Nanoseconds oldest_sent_ns(const BasicRing<Memory>& ring) noexcept {
    Nanoseconds oldest = 0;
    std::uint64_t first = ~std::uint64_t{0};
    for (std::uint32_t index = 0; index < ring.count(); ++index) {
        const auto& slot = ring.slot(index);
        const SlotWord word = load(slot);
        if (word.state() != SlotState::ready || word.position() > first) continue;
        // relaxed: a slot that was taken and written again meanwhile may show the time of a later block, for one look.
        const Nanoseconds sent = slot.sent_ns.load(std::memory_order_relaxed);
        if (slot.word.load(std::memory_order_relaxed) != word.bits) continue;
        first = word.position();
        oldest = std::max<Nanoseconds>(sent, 0);
    }
    return oldest;
}

}  // namespace steadyflow
