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
    unwanted = 7,  // its input was held, and keeps newer ones
};
inline constexpr unsigned reasons = 8;

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
        const std::uint64_t longest = std::uint64_t{1} << 40;
        return {kind <= 4 ? static_cast<RuleKind>(kind) : RuleKind::wait,
                then <= 2 ? static_cast<AfterWait>(then) : AfterWait::fail, std::min(word >> 8, longest)};
    }
};

}  // namespace steadyflow
