// How the cycles of one consumer kept their deadlines: each is a block, from its sending to the end of the work on it.
//
// Invariants: the consumer is the only writer; readers of any process see whole values. The worst block is kept in two
// copies, of which one store says which is valid: a consumer that dies in the middle leaves the one before.
#pragma once

#include <cstdint>
#include <optional>

#include "platform.hpp"
#include "stats.hpp"

namespace steadyflow {

// Where the time of one block went.
struct Cycle {
    std::uint64_t sequence = 0;
    Nanoseconds sent_ns = 0;
    Nanoseconds due_from_ns = 0;  // sent, or the end of a pause in which it waited: what its deadline is counted from
    Nanoseconds awake_ns = 0;     // its consumer was awake
    Nanoseconds gil_ns = 0;       // and had the interpreter lock
    Nanoseconds started_ns = 0;
    Nanoseconds finished_ns = 0;
};

inline constexpr unsigned recent_cycles = 64;

struct CycleAccount {
    Counter cycles;
    Counter missed;     // finished after their deadlines
    Counter period_ns;  // how long the latest block lasts; 0: it is no audio
    Histogram load;     // ppm of the block's period, from awake to finished
    std::atomic<std::uint32_t> recent[recent_cycles];  // ppm of the deadline that cycle n took, at n modulo their number

    // The consumer, once for each block. `deadline_ns`: how long it may take; `period_ns` as above. Wait-free.
    void note(const Cycle& cycle, Nanoseconds deadline_ns, Nanoseconds period) noexcept;

    // Any process. Nothing before the first block, or where the consumer was quicker several times. Wait-free.
    std::optional<Cycle> worst_cycle() const noexcept;

    // The shares of the latest cycles, the oldest first, at most `recent_cycles`; and how many cycles there have been.
    struct Recent {
        std::uint64_t cycles = 0;
        unsigned count = 0;
        std::uint32_t shares_ppm[recent_cycles] = {};
    };
    Recent latest() const noexcept;

private:
    struct Copy {
        Counter sequence;
        std::atomic<Nanoseconds> stamps[6];
    };
    void keep(const Cycle& cycle) noexcept;

    Counter worst_ns_;       // from due_from_ns to finished_ns
    Counter worst_version_;  // 0: none yet
    Copy worst_[2];
};

}  // namespace steadyflow
