// What is said of a block beside its samples; steadyflow.BlockFlag has the same numbers.
#pragma once

#include <cstdint>

namespace steadyflow {

enum BlockFlags : std::uint16_t {
    flag_discontinuity = 1,
    flag_gap = 2,
    flag_corrupted = 4,
    flag_repeated = 8,
    flag_end_of_stream = 16,
    flag_control = 32,
};
// What no rule drops.
inline constexpr std::uint16_t flags_of_control = flag_control | flag_end_of_stream;

}  // namespace steadyflow
