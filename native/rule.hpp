// What a full pipeline does with the next block, and why blocks are dropped.
#pragma once

#include <algorithm>
#include <cstdint>

namespace steadyflow {

// Why a block was dropped. The names are part of the public metrics (pipeline.py).
enum class Reason : std::uint8_t {
    oldest = 0,
    newest = 1,
    superseded = 2,
    flushed = 3,
    failed = 4,
    stopped = 5,
    late = 6,
    unwanted = 7,   // its input was held, and keeps newer ones
    sampled = 8,    // it was not the one of n that is kept
    outranked = 9,  // a more important input of the same consumer took its room
};
inline constexpr unsigned reasons = 10;

// What a full pipeline does with the next block; `sample`: what every pipeline does with each.
enum class RuleKind : std::uint8_t {
    wait = 0,
    drop_oldest = 1,
    drop_newest = 2,
    latest = 3,
    fail = 4,
    sample = 5,
    drop_by_priority = 6,
};
inline constexpr unsigned rule_kinds = 7;
enum class AfterWait : std::uint8_t { fail = 0, drop_newest = 1, drop_oldest = 2 };

inline constexpr std::uint64_t most_rule_value = std::uint64_t{1} << 40;

// The rule as one word, so that the control plane switches it with one store.
struct Rule {
    RuleKind kind = RuleKind::wait;
    AfterWait then = AfterWait::fail;
    std::uint64_t value = 0;  // wait: for how many us, 0: for ever; sample: 1 of how many is kept. At most 2^40

    std::uint64_t pack() const noexcept {
        return value << 8 | static_cast<std::uint64_t>(then) << 4 | static_cast<std::uint64_t>(kind);
    }
    static Rule unpack(std::uint64_t word) noexcept {
        // Values that no rule has (a damaged segment) fall back to the first one.
        const auto kind = word & 15;
        const auto then = word >> 4 & 15;
        return {kind < rule_kinds ? static_cast<RuleKind>(kind) : RuleKind::wait,
                then <= 2 ? static_cast<AfterWait>(then) : AfterWait::fail, std::min(word >> 8, most_rule_value)};
    }
};

}  // namespace steadyflow
