// What the control plane does to a ring whose ends are gone: gives back what the dead had in hand, drops what nobody takes.
#pragma once

#include <algorithm>
#include <cstdint>

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
        if (slot.word.compare_exchange_strong(word.bits, again.bits, std::memory_order_acq_rel)) ++given_back;
    }
    // release: a consumer that sees the new epoch finds the slots.
    if (given_back != 0) ring.header().epoch.fetch_add(1, std::memory_order_release);
    return given_back;
}

// Marks everything that still waits or is claimed as dropped. Only when both ends are gone or stopped.
template <class Memory>
std::uint64_t abandon(const BasicRing<Memory>& ring, Reason reason) noexcept {
    std::uint64_t dropped = 0;
    if (ring.count() == 0) {
        // Fused: what was sent and has no fate was in the hands of a worker that died.
        auto& tally = ring.header().tallies[0];
        std::uint64_t fates = ring.stats(0).received.load(std::memory_order_relaxed);
        for (const auto& counted : tally.dropped) fates += counted.load(std::memory_order_relaxed);
        const std::uint64_t sent = ring.header().sent.load(std::memory_order_relaxed);
        dropped = sent > fates ? sent - fates : 0;
        add(tally.dropped[static_cast<unsigned>(reason)], dropped);
        return dropped;
    }
    for (std::uint32_t index = 0; index < ring.count(); ++index) {
        auto& slot = ring.slot(index);
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

}  // namespace steadyflow
