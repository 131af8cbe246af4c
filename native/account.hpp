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
    std::uint64_t repeated = 0;
    std::uint64_t fill = 0;
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
    const auto blocks = [](const auto& counter) {
        return std::min<std::uint64_t>(counter.load(std::memory_order_relaxed), most_blocks);
    };
    for (int attempt = 0; attempt < 64 && !account.consistent; ++attempt) {
        account = {};
        const std::uint64_t version = header.tally_version.load(std::memory_order_acquire);
        const auto& tally = header.tallies[version & 1];
        account.delivered = blocks(tally.delivered);
        for (unsigned reason = 0; reason < reasons; ++reason) account.dropped[reason] = blocks(tally.dropped[reason]);
        account.repeated = blocks(tally.repeated);
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
                account.delivered += blocks(ring.stats(consumer).received);
            }
        }
        // Before the second look: as long as nothing is recycled, no more can have been published than there are slots.
        account.sent = std::min(header.published.load(std::memory_order_relaxed), most_blocks) + blocks(tally.refused);
        // The loads above must not move below the second look at the version.
        Memory::fence(std::memory_order_acquire);
        account.consistent = header.tally_version.load(std::memory_order_relaxed) == version;
    }
    std::uint64_t fates = account.delivered;
    for (const std::uint64_t dropped : account.dropped) fates += dropped;
    // A block may be finished a moment before send() returns and counts it.
    account.sent = std::max(account.sent, fates);
    return account;
}

}  // namespace steadyflow
