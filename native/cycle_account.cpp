#include "cycle_account.hpp"

#include <algorithm>
#include <atomic>

namespace steadyflow {
namespace {

std::uint32_t share_ppm(Nanoseconds part, Nanoseconds whole) noexcept {
    if (part <= 0 || whole <= 0) return 0;
    const double share = static_cast<double>(part) / static_cast<double>(whole) * 1e6;
    return share < 4e9 ? static_cast<std::uint32_t>(share) : 4'000'000'000U;
}

}  // namespace

void CycleAccount::note(const Cycle& cycle, Nanoseconds deadline_ns, Nanoseconds period) noexcept {
    const Nanoseconds took = std::max<Nanoseconds>(cycle.finished_ns - cycle.due_from_ns, 0);
    if (period > 0) {
        period_ns.store(static_cast<std::uint64_t>(period), std::memory_order_relaxed);
        load.record(share_ppm(cycle.finished_ns - std::max(cycle.awake_ns, cycle.due_from_ns), period));
    }
    if (took > deadline_ns) add(missed);
    const std::uint64_t number = cycles.load(std::memory_order_relaxed);
    recent[number % recent_cycles].store(share_ppm(took, deadline_ns), std::memory_order_relaxed);
    // release: who sees the number sees the share.
    cycles.store(number + 1, std::memory_order_release);
    if (static_cast<std::uint64_t>(took) > worst_ns_.load(std::memory_order_relaxed) ||
        worst_version_.load(std::memory_order_relaxed) == 0) {
        keep(cycle);
        worst_ns_.store(static_cast<std::uint64_t>(took), std::memory_order_relaxed);
    }
}

void CycleAccount::keep(const Cycle& cycle) noexcept {
    const std::uint64_t version = worst_version_.load(std::memory_order_relaxed);
    // release: a reader that meets one of the stores below in the copy that it is reading also sees the version that was
    // stored before them, and reads again.
    std::atomic_thread_fence(std::memory_order_release);
    Copy& next = worst_[(version + 1) & 1];
    next.sequence.store(cycle.sequence, std::memory_order_relaxed);
    const Nanoseconds stamps[] = {cycle.sent_ns, cycle.due_from_ns, cycle.awake_ns,
                                  cycle.gil_ns,  cycle.started_ns,  cycle.finished_ns};
    for (unsigned stamp = 0; stamp < std::size(stamps); ++stamp) {
        next.stamps[stamp].store(stamps[stamp], std::memory_order_relaxed);
    }
    // release: the one store that makes the new copy the valid one.
    worst_version_.store(version + 1, std::memory_order_release);
}

std::optional<Cycle> CycleAccount::worst_cycle() const noexcept {
    for (int attempt = 0; attempt < 64; ++attempt) {
        // acquire: who sees the version sees its copy.
        const std::uint64_t version = worst_version_.load(std::memory_order_acquire);
        if (version == 0) return std::nullopt;
        const Copy& copy = worst_[version & 1];
        Cycle cycle;
        cycle.sequence = copy.sequence.load(std::memory_order_relaxed);
        Nanoseconds* const stamps[] = {&cycle.sent_ns, &cycle.due_from_ns, &cycle.awake_ns,
                                       &cycle.gil_ns,  &cycle.started_ns,  &cycle.finished_ns};
        for (unsigned stamp = 0; stamp < std::size(stamps); ++stamp) {
            *stamps[stamp] = copy.stamps[stamp].load(std::memory_order_relaxed);
        }
        // The loads above must not move below the second look at the version.
        std::atomic_thread_fence(std::memory_order_acquire);
        if (worst_version_.load(std::memory_order_relaxed) == version) return cycle;
    }
    return std::nullopt;
}

CycleAccount::Recent CycleAccount::latest() const noexcept {
    Recent latest;
    // acquire: see note(). Shares that are written meanwhile are later ones than their numbers say, which does no harm.
    latest.cycles = cycles.load(std::memory_order_acquire);
    latest.count = static_cast<unsigned>(std::min<std::uint64_t>(latest.cycles, recent_cycles));
    for (unsigned place = 0; place < latest.count; ++place) {
        const std::uint64_t number = latest.cycles - latest.count + place;
        latest.shares_ppm[place] = recent[number % recent_cycles].load(std::memory_order_relaxed);
    }
    return latest;
}

}  // namespace steadyflow
